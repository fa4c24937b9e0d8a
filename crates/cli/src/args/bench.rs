//! Arguments of `bench`.

use std::convert::Infallible;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use pyrograph_data::Side;
use pyrograph_train::TrainConfig;

use super::data::side;
use super::hub::HubArgs;
use super::memory::MemoryArgs;
use super::optimizer::OptimizerArgs;

const AFTER_HELP: &str = "\
It trains on drawn circles, in a folder that is deleted afterwards. The first step, which also encodes and compiles, is told
by itself; the others wait for the device after each phase, which training does not.

Examples:
  pyrograph bench --batch-size 1 4 16 --html bench.html
  pyrograph bench --preset sd15 --resolution 256 --batch-size 1 --steps 3 --json
  pyrograph bench --preset sdxl --resolution 512 --mixed_precision bf16 --gradient-checkpointing --use_8bit_adam --steps 1";

/// Measure how fast training is, where the time of a step goes, and how much memory it takes.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct BenchArgs {
    /// The base model: `tiny`, the one inside this program; `sd15` or `sdxl`, Stable Diffusion 1.5 or XL with random
    /// weights; or a Stable Diffusion folder in diffusers' layout, one file with the original names, or a name on the Hub.
    #[arg(long, default_value = "tiny", value_name = "tiny|sd15|sdxl|DIR|FILE|NAME")]
    pub(crate) preset: BenchModel,
    /// Width and height of the pictures in pixels, a multiple of 8 [default: what the base model was trained for].
    #[arg(long, value_name = "PIXELS", value_parser = side)]
    pub(crate) resolution: Option<Side>,
    /// Pictures in a batch; several sizes are measured one after another, the smallest first.
    #[arg(long, num_args = 1.., value_name = "N", default_value = "1")]
    pub(crate) batch_size: Vec<NonZeroUsize>,
    #[command(flatten)]
    optimizer: OptimizerArgs,
    #[command(flatten)]
    memory: MemoryArgs,
    /// Steps to measure.
    #[arg(long, value_name = "N", default_value = "5")]
    pub(crate) steps: NonZeroUsize,
    /// Tell the numbers as one line of JSON for each batch size.
    #[arg(long)]
    pub(crate) json: bool,
    /// Draw speed and memory over the batch sizes on a page.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) hub: HubArgs,
}

impl BenchArgs {
    /// The defaults of `train` with the flags over them.
    pub(crate) fn config(&self) -> TrainConfig {
        let mut config = TrainConfig::default();
        self.optimizer.apply(&mut config.optimizer);
        self.memory.apply(&mut config.precision, &mut config.memory);
        config
    }
}

/// A base model to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BenchModel {
    Tiny,
    Sd15,
    Sdxl,
    Path(PathBuf),
}

impl fmt::Display for BenchModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tiny => f.write_str("tiny"),
            Self::Sd15 => f.write_str("sd15"),
            Self::Sdxl => f.write_str("sdxl"),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

impl FromStr for BenchModel {
    type Err = Infallible;

    fn from_str(name: &str) -> Result<Self, Infallible> {
        Ok(match name {
            "tiny" => Self::Tiny,
            "sd15" => Self::Sd15,
            "sdxl" => Self::Sdxl,
            path => Self::Path(path.into()),
        })
    }
}
