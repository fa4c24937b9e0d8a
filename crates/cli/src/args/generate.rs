//! Arguments of `generate`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use super::choice::choice;
use pyrograph_pipeline::SamplerKind;

/// Draw a picture from a prompt and a hint.
#[derive(Debug, Args)]
#[command(allow_negative_numbers = true)]
pub(crate) struct GenerateArgs {
    /// A Stable Diffusion folder in diffusers' layout.
    #[arg(long, value_name = "DIR")]
    pub(crate) base: PathBuf,
    /// Another UNet's folder, as a run with --sd_locked=false writes it [default: that of the base].
    #[arg(long, value_name = "DIR")]
    pub(crate) unet: Option<PathBuf>,
    /// The ControlNet's folder in diffusers' layout.
    #[arg(long, value_name = "DIR")]
    pub(crate) controlnet: PathBuf,
    /// The hint: the picture gets its size, rounded down to a multiple of 8.
    #[arg(long, value_name = "FILE")]
    pub(crate) control_image: PathBuf,
    /// What to draw.
    #[arg(long)]
    pub(crate) prompt: String,
    /// What to stay away from; used if the guidance scale is above 1.
    #[arg(long, value_name = "PROMPT")]
    pub(crate) negative_prompt: Option<String>,
    /// Denoising steps.
    #[arg(long, value_name = "N", default_value = "50")]
    pub(crate) num_inference_steps: NonZeroUsize,
    /// Classifier-free guidance; 1 or less turns it off.
    #[arg(long, value_name = "G", default_value_t = 7.5, value_parser = finite)]
    pub(crate) guidance_scale: f64,
    /// Factor on what the ControlNet adds.
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = finite)]
    pub(crate) controlnet_conditioning_scale: f64,
    /// Let the hint alone decide: the ControlNet acts on the prompt's half only, weaker at fine detail.
    #[arg(long)]
    pub(crate) guess_mode: bool,
    /// The sampler.
    #[arg(long, default_value = "unipc", value_parser = choice::<SamplerKind>(SamplerKind::ALL.map(SamplerKind::name)))]
    pub(crate) scheduler: SamplerKind,
    /// Space the noise levels after Karras et al. 2022; for dpmpp-2m, dpmpp-2m-sde, dpmpp-sde, euler, heun, lms and unipc.
    #[arg(long)]
    pub(crate) karras_sigmas: bool,
    /// Draws the first latents if `--latents` gives none, and fresh noise.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// The first latents: a safetensors file with a tensor named `latents`.
    #[arg(long, value_name = "FILE")]
    pub(crate) latents: Option<PathBuf>,
    /// The picture to write.
    #[arg(long, value_name = "FILE.png")]
    pub(crate) output: PathBuf,
}

pub(super) fn finite(text: &str) -> Result<f64, Box<dyn std::error::Error + Send + Sync>> {
    let number: f64 = text.parse()?;
    if number.is_finite() { Ok(number) } else { Err("the number must be finite".into()) }
}
