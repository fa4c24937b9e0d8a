//! Arguments of the verbs that have few.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use pyrograph_data::Side;

/// Say what a model file or folder is.
///
/// Only headers and configs are read, never the weights.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A safetensors file, a component's folder, or a folder with `model_index.json`.
    #[arg(value_name = "FILE|DIR")]
    pub(crate) path: PathBuf,
}

/// Write a small Stable Diffusion folder with random weights.
///
/// It is in diffusers' layout and complete, so that everything runs with nothing downloaded.
#[derive(Debug, Args)]
pub(crate) struct InitBaseArgs {
    /// How large the networks are.
    #[arg(long, value_enum, default_value_t = Preset::Tiny)]
    pub(crate) preset: Preset,
    /// Draws the weights; equal seeds give equal files.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// The folder to write; it must not exist yet or be empty.
    pub(crate) out: PathBuf,
}

/// The size of a base made by `init-base`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Preset {
    /// For pictures of 128 px and the captions of `data circles`.
    Tiny,
}

/// Train a ControlNet from nothing, to see everything work.
///
/// Draws circles, makes a tiny base model with random weights, trains a ControlNet for it and writes validation
/// grids: minutes on two processor cores, with nothing downloaded. The run is that of configs/circles-tiny.toml.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// The folder for everything; it must not exist yet or be empty.
    #[arg(default_value = "demo")]
    pub(crate) out: PathBuf,
    /// Pairs of circles to draw.
    #[arg(long, default_value = "500", value_name = "N")]
    pub(crate) count: NonZeroUsize,
    /// Optimizer steps [default: those of the preset].
    #[arg(long, value_name = "N")]
    pub(crate) steps: Option<NonZeroU64>,
}

/// Make data sets.
#[derive(Debug, Args)]
pub(crate) struct DataArgs {
    #[command(subcommand)]
    pub(crate) command: DataCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    Circles(CirclesArgs),
}

/// Draw the fill50k task: from the outline of a circle to a filled circle on a coloured background.
///
/// Captions name the colours, as in "pale golden rod circle with old lace background".
#[derive(Debug, Args)]
pub(crate) struct CirclesArgs {
    /// The number of samples.
    #[arg(long, default_value = "1000", value_name = "N")]
    pub(crate) count: NonZeroUsize,
    /// Width and height of the pictures in pixels, a multiple of 8.
    #[arg(long, default_value = "512", value_name = "PIXELS", value_parser = side)]
    pub(crate) size: Side,
    /// Draws the circles; equal seeds give equal files.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// The folder to write; it must not exist yet or be empty.
    pub(crate) out: PathBuf,
}

fn side(text: &str) -> Result<Side, Box<dyn std::error::Error + Send + Sync>> {
    Ok(Side::try_from(text.parse::<usize>()?)?)
}
