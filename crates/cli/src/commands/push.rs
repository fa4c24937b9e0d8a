//! `pyrograph push`.

use crate::args::UsageError;
use crate::args::{OutputArgs, PushVerbArgs};
use crate::model_card::Upload;

pub(crate) fn push(args: &PushVerbArgs, output: &OutputArgs) -> anyhow::Result<()> {
    let dir = &args.dir;
    if !dir.join("config.json").is_file() {
        return Err(UsageError::NothingToPush { dir: dir.clone() }.into());
    }
    Ok(Upload::prepare(dir, &args.push, &args.hub, output)?.push(dir, output)?)
}
