//! Arguments of `eval`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use pyrograph_data::{HintKind, HintMaker};
use pyrograph_pipeline::SamplerKind;

use super::choice::choice;
use super::generate::finite;
use super::hub::HubArgs;
use super::small::PickleArgs;

const AFTER_HELP: &str = "\
Of outlines it tells the intersection over union of the drawn figure with the outlined one and how far its colours are
from those of the target picture; of Canny's edges precision, recall and F1. Give samples that were not trained on.

Example:
  pyrograph eval --base tiny-sd --controlnet out --data unseen-circles --grid grid.png";

/// Measure how well what a ControlNet draws keeps to its hints.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP, allow_negative_numbers = true)]
pub(crate) struct EvalArgs {
    /// A Stable Diffusion folder in diffusers' layout, one file with the original names, or a name on the Hub.
    #[arg(long, value_name = "DIR|FILE|NAME")]
    pub(crate) base: PathBuf,
    /// Another UNet's folder, as a run with --sd_locked=false writes it, or its name on the Hub [default: that of the base].
    #[arg(long, value_name = "DIR|NAME")]
    pub(crate) unet: Option<PathBuf>,
    /// The ControlNet's folder, file or name on the Hub.
    #[arg(long, value_name = "DIR|FILE|NAME")]
    pub(crate) controlnet: PathBuf,
    #[command(flatten)]
    pub(crate) pickles: PickleArgs,
    /// The data set's folder, file or name on the Hub, with hints, captions and target pictures.
    #[arg(long, value_name = "DIR|FILE|NAME")]
    pub(crate) data: PathBuf,
    /// What the hints show: the outline of one figure, or Canny's edges.
    #[arg(long, default_value = "outline", value_parser = choice::<HintKind>(HintKind::ALL.map(HintKind::name)))]
    pub(crate) kind: HintKind,
    /// Make the hints of the target pictures, as in `train`, instead of reading them.
    #[arg(long, value_name = "HINT")]
    pub(crate) hint: Option<HintMaker>,
    /// Pictures to draw: for the first samples, or for all if there are fewer.
    #[arg(long, value_name = "N", default_value = "200")]
    pub(crate) num_samples: NonZeroUsize,
    /// Pictures to draw together.
    #[arg(long, value_name = "N", default_value = "8")]
    pub(crate) batch_size: NonZeroUsize,
    /// Width and height of the pictures in pixels, a multiple of 8 [default: what the base model was trained for].
    #[arg(long, value_name = "PIXELS")]
    pub(crate) resolution: Option<usize>,
    /// Denoising steps.
    #[arg(long, value_name = "N", default_value = "20")]
    pub(crate) num_inference_steps: NonZeroUsize,
    /// Classifier-free guidance; 1 or less turns it off.
    #[arg(long, value_name = "G", default_value_t = 3.0, value_parser = finite)]
    pub(crate) guidance_scale: f64,
    /// The sampler.
    #[arg(long, default_value = "unipc", value_parser = choice::<SamplerKind>(SamplerKind::ALL.map(SamplerKind::name)))]
    pub(crate) scheduler: SamplerKind,
    /// Draws the first latents.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Draw without the ControlNet: the numbers to compare with.
    #[arg(long)]
    pub(crate) without_control: bool,
    /// Write the first few samples as a picture: hint, target and drawn picture in each row.
    #[arg(long, value_name = "FILE.png")]
    pub(crate) grid: Option<PathBuf>,
    /// Tell the numbers as one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) hub: HubArgs,
}
