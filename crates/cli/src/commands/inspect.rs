//! `pyrograph inspect`.

use std::io::Write;

use crate::args::{InspectArgs, LogFormat, OutputArgs};

pub(crate) fn inspect(args: &InspectArgs, output: &OutputArgs) -> anyhow::Result<()> {
    let report = pyrograph_weights::inspect(&args.path, args.pickles.policy())?;
    let mut stdout = std::io::stdout().lock();
    match output.log_format {
        LogFormat::Text => writeln!(stdout, "{report}")?,
        LogFormat::Json => writeln!(stdout, "{}", serde_json::to_string(&report)?)?,
    }
    Ok(())
}
