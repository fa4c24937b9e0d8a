//! `pyrograph checkpoint`.

use std::io::Write;
use std::path::Path;

use pyrograph_train::{CheckpointInfo, Condition, Thoroughness, TrainError, list_checkpoints};

use crate::args::{CheckpointArgs, CheckpointCommand, LogFormat, OutputArgs};
use crate::report::Outcome;

pub(crate) fn checkpoint(args: &CheckpointArgs, output: &OutputArgs) -> anyhow::Result<Outcome> {
    let infos = match &args.command {
        CheckpointCommand::List { dir } => list_checkpoints(dir, Thoroughness::Lengths)?,
        CheckpointCommand::Verify { dir } if dir.join("manifest.json").is_file() => {
            vec![CheckpointInfo::of(dir, Thoroughness::Hashes)]
        }
        CheckpointCommand::Verify { dir } => list_checkpoints(dir, Thoroughness::Hashes)?,
    };
    if infos.is_empty() {
        let (CheckpointCommand::List { dir } | CheckpointCommand::Verify { dir }) = &args.command;
        return Err(TrainError::NoCheckpoint { output_dir: dir.clone() }.into());
    }
    let mut text = String::new();
    for info in &infos {
        text += &match output.log_format {
            LogFormat::Json => serde_json::to_string(info)? + "\n",
            LogFormat::Text => line(info),
        };
    }
    let stdout = Path::new("standard output");
    std::io::stdout().lock().write_all(text.as_bytes()).map_err(TrainError::io(stdout))?;
    let is_damaged = |info: &CheckpointInfo| matches!(info.condition, Condition::Damaged(_));
    Ok(if infos.iter().any(is_damaged) { Outcome::BadInput } else { Outcome::Done })
}

fn line(CheckpointInfo { path, bytes, condition, .. }: &CheckpointInfo) -> String {
    let condition = match condition {
        Condition::Complete => "complete",
        Condition::Verified => "verified",
        Condition::Damaged(problem) => return format!("{}: damaged, {problem}\n", path.display()),
    };
    format!("{}: {condition}, {} MB\n", path.display(), bytes.div_ceil(1_000_000))
}
