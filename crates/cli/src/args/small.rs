//! Arguments of the verbs that have few.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use pyrograph_weights::Pickles;

use super::hub::HubArgs;

/// Say what a model file or folder is.
///
/// Only headers and configs are read, never the weights.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A safetensors file, a component's folder, a folder with `model_index.json`, or a model's name on the Hub.
    #[arg(value_name = "FILE|DIR|NAME")]
    pub(crate) path: PathBuf,
    #[command(flatten)]
    pub(crate) pickles: PickleArgs,
    #[command(flatten)]
    pub(crate) hub: HubArgs,
}

/// Whether files that can run programs in Python are read.
#[derive(Debug, Clone, Args)]
pub(crate) struct PickleArgs {
    /// Read pickled weight files (.bin, .ckpt, .pth) where there are no others; nothing in them is run.
    #[arg(long)]
    allow_pickle: bool,
}

impl PickleArgs {
    pub(crate) fn policy(&self) -> Pickles {
        self.allow_pickle.into()
    }
}

/// Write a model under other names: a base folder as one file with the original names or the other way round, a ControlNet as
/// a file with either names.
///
/// Every tensor is read back and compared before it is called done. A1111 and ComfyUI read the files.
#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    /// A base model's or ControlNet's folder, file or name on the Hub.
    #[arg(value_name = "DIR|FILE|NAME")]
    pub(crate) input: PathBuf,
    /// A file that ends in `.safetensors`; or a folder in diffusers' layout.
    #[arg(value_name = "FILE|DIR")]
    pub(crate) output: PathBuf,
    /// The names of the output [default: those that the input does not have].
    #[arg(long, value_enum, value_name = "NAMES")]
    pub(crate) to: Option<Names>,
    /// The element type of the output [default: that of each tensor].
    #[arg(long, value_enum, value_name = "TYPE")]
    pub(crate) dtype: Option<FileType>,
    /// The title in the file's metadata [default: the file's name].
    #[arg(long, value_name = "TEXT")]
    pub(crate) title: Option<String>,
    /// Read a folder's weight files of this variant, such as fp16.
    #[arg(long, value_name = "NAME")]
    pub(crate) variant: Option<String>,
    /// Write over a file that is there, or into a folder that is not empty.
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) pickles: PickleArgs,
    #[command(flatten)]
    pub(crate) hub: HubArgs,
}

/// How tensors are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Names {
    /// As diffusers calls them.
    Diffusers,
    /// As the models' authors call them.
    Original,
}

/// An element type of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FileType {
    /// 32 bits.
    F32,
    /// 16 bits with 10 of fraction.
    F16,
    /// 16 bits with the range of f32.
    Bf16,
}

/// Make a step of a run again, with the same samples, timesteps and noise, and tell what happened in it.
///
/// Run it where the run was started: its paths are meant from there. Nothing of the run is changed.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The run's output folder.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// The step to make.
    #[arg(long, value_name = "N")]
    pub(crate) step: NonZeroU64,
    /// The checkpoint to continue from [default: the newest before that step].
    #[arg(long, value_name = "DIR")]
    pub(crate) checkpoint: Option<PathBuf>,
    /// Write what the networks are given, one safetensors file for each micro-batch.
    #[arg(long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
}

/// Look after checkpoints.
#[derive(Debug, Args)]
pub(crate) struct CheckpointArgs {
    #[command(subcommand)]
    pub(crate) command: CheckpointCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CheckpointCommand {
    /// List the checkpoints of a run by their files' lengths: at once.
    List {
        /// The run's output folder.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Read every file and compare it with the hash that was taken when it was written.
    Verify {
        /// A run's output folder, for all of its checkpoints, or one checkpoint.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

/// Write a small Stable Diffusion folder.
///
/// It is in diffusers' layout and complete, so that everything runs with nothing downloaded.
#[derive(Debug, Args)]
pub(crate) struct InitBaseArgs {
    /// Which model.
    #[arg(long, value_enum, default_value_t = Preset::Tiny)]
    pub(crate) preset: Preset,
    /// Draws random weights; equal seeds give equal files.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// The folder to write; it must not exist yet or be empty.
    pub(crate) out: PathBuf,
}

/// The models of `init-base`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Preset {
    /// Draws coloured circles, squares, triangles and stars of 128 px, as in "red star with striped blue background".
    Tiny,
    /// The same networks with random weights; they draw noise.
    TinyRandom,
}

/// Train a ControlNet from nothing, to see it come to life.
///
/// Draws circles, writes the tiny base model that is inside this program, trains a ControlNet for it and measures
/// on new hints where circles are drawn before and after: minutes on two processor cores, with nothing downloaded. The
/// run is that of configs/quickstart.toml.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// The folder for everything; it must not exist yet or be empty.
    #[arg(default_value = "demo")]
    pub(crate) out: PathBuf,
    /// Pairs of circles to train on.
    #[arg(long, default_value = "2000", value_name = "N")]
    pub(crate) count: NonZeroUsize,
    /// Optimizer steps [default: those of the preset].
    #[arg(long, value_name = "N")]
    pub(crate) steps: Option<NonZeroU64>,
    /// New hints to measure on, before and after.
    #[arg(long, default_value = "200", value_name = "N")]
    pub(crate) num_samples: NonZeroUsize,
    /// Continue a demo in its folder that was stopped.
    #[arg(long)]
    pub(crate) resume: bool,
    /// Print what was learned as one line of JSON, the last on standard output.
    #[arg(long)]
    pub(crate) json: bool,
    /// Train on black hints, to see that the hint is what teaches.
    #[arg(long, hide_short_help = true)]
    pub(crate) withhold_hint: bool,
}
