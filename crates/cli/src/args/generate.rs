//! Arguments of `generate`.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use burn::tensor::DType;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use pyrograph_data::{DataError, Side};
use pyrograph_pipeline::{EncodeOptions, Precision, PromptSyntax, SamplerKind, Steps};

use pyrograph_train::Choice;

use super::choice::{choice, named};
use super::hub::HubArgs;
use super::small::PickleArgs;
use crate::backend;

/// Draw pictures from prompts, hints and other pictures.
#[derive(Debug, Clone, Args)]
#[command(allow_negative_numbers = true)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub(crate) models: ModelArgs,
    #[command(flatten)]
    pub(crate) controls: ControlArgs,
    #[command(flatten)]
    pub(crate) prompts: PromptArgs,
    #[command(flatten)]
    pub(crate) canvas: CanvasArgs,
    #[command(flatten)]
    pub(crate) steps: StepArgs,
    #[command(flatten)]
    pub(crate) memory: MemoryArgs,
    #[command(flatten)]
    pub(crate) files: FileArgs,
    #[command(flatten)]
    pub(crate) hub: HubArgs,
    /// Flags that were typed, not left to their defaults.
    #[arg(skip)]
    given: BTreeSet<String>,
}

impl GenerateArgs {
    /// Whether a flag was typed; its name with underscores.
    pub(crate) fn is_given(&self, flag: &str) -> bool {
        self.given.contains(flag)
    }

    /// Learns from clap what was typed.
    pub(super) fn note_given(&mut self, matches: &ArgMatches) {
        let ids = matches.ids().map(clap::Id::as_str);
        let typed = ids.filter(|id| {
            // Groups of flattened arguments have no source.
            matches.try_contains_id(id).is_ok() && matches.value_source(id) == Some(ValueSource::CommandLine)
        });
        self.given = typed.map(str::to_owned).collect();
    }
}

/// What draws.
#[derive(Debug, Clone, Args)]
pub(crate) struct ModelArgs {
    /// A Stable Diffusion folder in diffusers' layout, one file with the original names, or a name on the Hub.
    #[arg(long, value_name = "DIR|FILE|NAME")]
    pub(crate) base: PathBuf,
    /// Another UNet's folder, as a run with --sd_locked=false writes it, or its name on the Hub [default: that of the base].
    #[arg(long, value_name = "DIR|NAME")]
    pub(crate) unet: Option<PathBuf>,
    /// Another VAE: its folder, file or name on the Hub, or that of a model with one [default: that of the base].
    #[arg(long, value_name = "DIR|FILE|NAME")]
    pub(crate) vae: Option<PathBuf>,
    /// A ControlNet's folder, file or name on the Hub; again for each further one. Without any, the prompt alone decides.
    #[arg(long, value_name = "DIR|FILE|NAME")]
    pub(crate) controlnet: Vec<PathBuf>,
    /// Read the base and the other VAE from weight files of this variant, such as fp16.
    #[arg(long, value_name = "NAME")]
    pub(crate) variant: Option<String>,
    #[command(flatten)]
    pub(crate) pickles: PickleArgs,
}

/// What is traded for less memory.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Memory")]
pub(crate) struct MemoryArgs {
    /// What weights are kept in. With 16 bits GPUs compute in them, too; CPUs go on in f32, so that memory is saved but no
    /// time. The VAE of SDXL stays in f32, unless its config says that it need not.
    #[arg(long, value_parser = named::<WeightFormat>(), value_name = "FORMAT", default_value = "f32")]
    pub(crate) precision: WeightFormat,
    /// Let the VAE make one picture of a batch after another.
    #[arg(long)]
    pub(crate) vae_slicing: bool,
    /// Let the VAE make large pictures in tiles that are blended into each other.
    #[arg(long)]
    pub(crate) vae_tiling: bool,
}

/// A number format of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WeightFormat {
    F32,
    Bf16,
    F16,
}

impl Choice for WeightFormat {
    const NAMES: &'static [(&'static str, Self)] =
        &[("f32", Self::F32), ("bf16", Self::Bf16), ("f16", Self::F16)];
}

impl WeightFormat {
    /// With what is computed in on this build's backend.
    pub(crate) fn precision(self) -> Precision {
        let weights = match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
        };
        let compute = if backend::IS_FAST_IN_HALF_PRECISION { weights } else { DType::F32 };
        Precision { weights, compute }
    }
}

/// What steers. Where there are several ControlNets, a flag is given once for all or once for each.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Hints")]
pub(crate) struct ControlArgs {
    /// The hint of each ControlNet, stretched to the picture's size.
    #[arg(long, value_name = "FILE")]
    pub(crate) control_image: Vec<PathBuf>,
    /// Factor on what a ControlNet adds [default: 1].
    #[arg(long, value_name = "S", value_parser = finite)]
    pub(crate) controlnet_conditioning_scale: Vec<f64>,
    /// From which part of the steps on a ControlNet acts [default: 0].
    #[arg(long, value_name = "PART", value_parser = finite)]
    pub(crate) control_guidance_start: Vec<f64>,
    /// Up to which part of the steps a ControlNet acts [default: 1].
    #[arg(long, value_name = "PART", value_parser = finite)]
    pub(crate) control_guidance_end: Vec<f64>,
    /// Let the hints alone decide: the ControlNets act on the prompt's half only, weaker at fine detail.
    #[arg(long)]
    pub(crate) guess_mode: bool,
}

/// What to draw, and how often.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Prompts")]
pub(crate) struct PromptArgs {
    /// What to draw; again for each further prompt.
    #[arg(long, required_unless_present = "from_png")]
    pub(crate) prompt: Vec<String>,
    /// What to stay away from, once for all prompts or once for each; used if the guidance scale is above 1.
    #[arg(long, value_name = "PROMPT")]
    pub(crate) negative_prompt: Vec<String>,
    /// What SDXL's second text encoder reads, once for all prompts or once for each [default: the prompt].
    #[arg(long, value_name = "PROMPT")]
    pub(crate) prompt_2: Vec<String>,
    /// The same for negative prompts.
    #[arg(long, value_name = "PROMPT", requires = "negative_prompt")]
    pub(crate) negative_prompt_2: Vec<String>,
    /// Take brackets as text and cut prompts at 77 tokens, as diffusers does; else (word:1.3), [word] and BREAK are read as in A1111.
    #[arg(long)]
    pub(crate) plain_prompts: bool,
    /// Leave out so many of the text encoder's last layers; A1111 counts one more.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) clip_skip: usize,
    /// Pictures of each prompt.
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) num_images_per_prompt: NonZeroUsize,
    /// Draws a picture's first latents and fresh noise: of the first picture, which the next ones count on from, or one for each.
    #[arg(long, default_value = "0")]
    pub(crate) seed: Vec<u64>,
    /// Pictures drawn at once: it changes time and memory, not the pictures.
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) batch_size: NonZeroUsize,
}

/// What is under the picture.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Size, image-to-image and inpainting")]
pub(crate) struct CanvasArgs {
    /// Width in pixels, a multiple of 8 [default: that of the picture to change, of the first hint, or what the base was trained for].
    #[arg(long, value_name = "PIXELS", value_parser = side)]
    pub(crate) width: Option<Side>,
    /// Height in pixels, a multiple of 8.
    #[arg(long, value_name = "PIXELS", value_parser = side)]
    pub(crate) height: Option<Side>,
    /// A picture to change: image-to-image.
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Option<PathBuf>,
    /// White where the picture is drawn anew, black where it is kept: inpainting.
    #[arg(long, value_name = "FILE", requires = "image")]
    pub(crate) mask_image: Option<PathBuf>,
    /// How much of the picture is drawn anew, above 0 to 1 [default: 0.8; with a mask 1].
    #[arg(long, value_name = "PART", requires = "image", value_parser = finite)]
    pub(crate) strength: Option<f64>,
    /// The first noise: a safetensors file with a tensor named `latents`.
    #[arg(long, value_name = "FILE")]
    pub(crate) latents: Option<PathBuf>,
}

/// The way from noise to picture.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Steps")]
pub(crate) struct StepArgs {
    /// Denoising steps.
    #[arg(long, value_name = "N", default_value = "50")]
    pub(crate) num_inference_steps: NonZeroUsize,
    /// The training timesteps to sample at instead, falling: for ddpm, dpmpp-2m, dpmpp-2m-sde, euler, heun and lcm.
    #[arg(long, value_name = "T,T,..", value_delimiter = ',', conflicts_with = "num_inference_steps")]
    pub(crate) timesteps: Vec<usize>,
    /// Begin at this part of the way, with the latents that another model ended with (--latents).
    #[arg(long, value_name = "PART", default_value_t = 0.0, requires = "latents", value_parser = finite)]
    pub(crate) denoising_start: f64,
    /// End at this part of the way, for another model to go on with (--output_latents).
    #[arg(long, value_name = "PART", default_value_t = 1.0, value_parser = finite)]
    pub(crate) denoising_end: f64,
    /// Classifier-free guidance; 1 or less turns it off [default: 7.5; of SDXL 5].
    #[arg(long, value_name = "G", value_parser = finite)]
    pub(crate) guidance_scale: Option<f64>,
    /// The sampler.
    #[arg(long, default_value = "unipc", value_parser = choice::<SamplerKind>(SamplerKind::ALL.map(SamplerKind::name)))]
    pub(crate) scheduler: SamplerKind,
    /// Space the noise levels after Karras et al. 2022; for dpmpp-2m, dpmpp-2m-sde, dpmpp-sde, euler, heun, lms and unipc.
    #[arg(long)]
    pub(crate) karras_sigmas: bool,
}

impl PromptArgs {
    pub(crate) fn encoding(&self) -> EncodeOptions {
        let syntax = if self.plain_prompts { PromptSyntax::Plain } else { PromptSyntax::Weighted };
        EncodeOptions { syntax, clip_skip: self.clip_skip }
    }
}

impl StepArgs {
    pub(crate) fn steps(&self) -> Steps {
        match &self.timesteps[..] {
            [] => Steps::Count(self.num_inference_steps.get()),
            timesteps => Steps::At(timesteps.to_vec()),
        }
    }
}

/// What is written.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Files")]
pub(crate) struct FileArgs {
    /// The picture to write; of several, `-1`, `-2` and so on go before the dot.
    #[arg(long, value_name = "FILE.png")]
    pub(crate) output: PathBuf,
    /// Draw this picture again: whatever no flag says is as its own text has it, A1111's or ours. Models and pictures are not in it: give their flags
    /// again.
    #[arg(long, value_name = "FILE.png")]
    pub(crate) from_png: Option<PathBuf>,
    /// Also write all pictures as one, a row for each prompt.
    #[arg(long, value_name = "FILE.png")]
    pub(crate) grid: Option<PathBuf>,
    /// Also write the latents: a safetensors file with the tensor `latents`.
    #[arg(long, value_name = "FILE")]
    pub(crate) output_latents: Option<PathBuf>,
    /// Rewrite this picture while drawing, to see how far it is.
    #[arg(long, value_name = "FILE.png")]
    pub(crate) preview: Option<PathBuf>,
    /// How many calls of the UNet from preview to preview.
    #[arg(long, value_name = "N", default_value = "5", requires = "preview")]
    pub(crate) preview_every: NonZeroUsize,
}

pub(super) fn finite(text: &str) -> Result<f64, Box<dyn std::error::Error + Send + Sync>> {
    let number: f64 = text.parse()?;
    if number.is_finite() { Ok(number) } else { Err("the number must be finite".into()) }
}

fn side(text: &str) -> Result<Side, Box<dyn std::error::Error + Send + Sync>> {
    Side::try_from(text.parse::<usize>()?).map_err(|error: DataError| match error.hint() {
        Some(hint) => format!("{error}; {hint}").into(),
        None => error.into(),
    })
}
