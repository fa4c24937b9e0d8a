//! Arguments of `plan`.

use clap::Args;

use super::TrainArgs;

const AFTER_HELP: &str = "\
Nothing is loaded or written: the numbers come from configs. docs/memory.md says how good they are.

Examples:
  pyrograph plan configs/quickstart.toml
  pyrograph plan --pretrained_model_name_or_path=sd15 --train_data_dir=circles --fit=12GiB";

/// Tell how much memory `train` with these flags will take, and for what.
///
/// What would be refused as too large ends with exit code 2 here, too.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP, allow_negative_numbers = true)]
pub(crate) struct PlanArgs {
    /// Tell the plan as one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) train: TrainArgs,
}
