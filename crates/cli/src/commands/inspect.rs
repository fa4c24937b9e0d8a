//! `pyrograph inspect`.

use std::io::Write;

use crate::args::{InspectArgs, LogFormat, OutputArgs};
use crate::hub::Folders;

pub(crate) fn inspect(args: &InspectArgs, output: &OutputArgs) -> anyhow::Result<()> {
    let pickles = args.pickles.policy();
    let path = Folders::new(&args.hub, pickles, output).model(&args.path)?;
    let report = pyrograph_weights::inspect(&path, pickles)?;
    let mut stdout = std::io::stdout().lock();
    match output.log_format {
        LogFormat::Text => writeln!(stdout, "{report}")?,
        LogFormat::Json => writeln!(stdout, "{}", serde_json::to_string(&report)?)?,
    }
    Ok(())
}
