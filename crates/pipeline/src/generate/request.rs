//! What is to be drawn.

use std::ops::Range;

use burn::prelude::*;
use pyrograph_diffusion::{SamplerKind, Steps};
use pyrograph_unet::{ControlMode, ControlNet, MicroConditioning};

use crate::bundle::Bundle;
use crate::error::PipelineError;
use crate::prompts::{EncodeOptions, Prompt, PromptEmbeddings};

/// Pictures to draw together, in one batch.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// What to draw, a prompt for each picture.
    pub prompts: Vec<Prompt>,
    /// What each of them stays away from; used if `guidance_scale` is above 1. If there are none, the model has its own
    /// stand-in, see [`Bundle::no_negative`].
    pub negative_prompts: Option<Vec<Prompt>>,
    /// How prompts are read.
    pub encoding: EncodeOptions,
    /// What the text encoders make of these prompts, if that is known: they are not asked then.
    pub embeddings: Option<GivenEmbeddings>,
    /// Height and width of the pictures in pixels, multiples of the VAE's factor.
    pub size: [usize; 2],
    /// Pictures to change; without any, all begins as noise.
    pub originals: Option<Originals>,
    /// The ControlNets; what they add is summed.
    pub controls: Vec<Control<'a>>,
    /// How the ControlNets act over the depths. If the first one pools, all guess.
    pub mode: ControlMode,
    /// Denoising steps.
    pub steps: Steps,
    /// The part of the way from noise to picture that is made, 0 to 1 the whole; another model may make the rest. If it does not begin with 0,
    /// `latents` are those that the part before ended with.
    pub denoising: Range<f64>,
    /// Classifier-free guidance; 1 or less turns it off.
    pub guidance_scale: f64,
    /// The sampler.
    pub sampler: SamplerKind,
    /// A seed for each picture, for its first latents if none are given, for what the VAE draws, and for the fresh noise of samplers
    /// that add some: so a picture does not depend on the others of its batch.
    pub seeds: Vec<u64>,
    /// The first noise, `[pictures, channels, height / factor, width / factor]`, standard normal.
    pub latents: Option<Tensor<4>>,
    /// What SDXL is told about the size of the pictures; by default that they were made as they are.
    pub sizes: Option<MicroConditioning>,
    /// The same for the negative prompts; by default what `sizes` says.
    pub negative_sizes: Option<MicroConditioning>,
}

/// Embeddings that were computed before, for as many pictures as there are prompts.
#[derive(Debug, Clone)]
pub struct GivenEmbeddings {
    /// Of the prompts.
    pub positive: PromptEmbeddings,
    /// Of the negative prompts, used if there is guidance; if there are none, zeros.
    pub negative: Option<PromptEmbeddings>,
}

/// Pictures to change: image-to-image or, with masks, inpainting.
#[derive(Debug, Clone)]
pub struct Originals {
    /// `[pictures, 3, height, width]` in [0, 1].
    pub images: Tensor<4>,
    /// `[pictures, 1, height, width]`: 1 where a picture is drawn anew, 0 where it is kept.
    pub masks: Option<Tensor<4>>,
    /// How much is drawn anew, above 0 to 1: this part of the steps is made. With masks and 1, nothing shines through where it is drawn.
    pub strength: f64,
}

/// A ControlNet, its hints and when it acts.
#[derive(Debug, Clone)]
pub struct Control<'a> {
    /// The network.
    pub controlnet: &'a ControlNet,
    /// The hints, `[pictures, 3, height, width]` in [0, 1]. ControlNets for inpainting are given -1 where the picture is drawn anew.
    pub hints: Tensor<4>,
    /// Factor on what it adds.
    pub scale: f64,
    /// From which part of the steps on it acts, in [0, 1).
    pub start: f64,
    /// Up to which part of the steps it acts, in (0, 1].
    pub end: f64,
}

impl<'a> Control<'a> {
    /// One that acts at full strength from the first step to the last.
    #[must_use]
    pub fn new(controlnet: &'a ControlNet, hints: Tensor<4>) -> Self {
        Self { controlnet, hints, scale: 1.0, start: 0.0, end: 1.0 }
    }

    /// Whether it acts at a call of the network.
    ///
    /// Source: diffusers `StableDiffusionControlNetPipeline` (0.42), `controlnet_keep`.
    pub(super) fn acts_at(&self, call: usize, n_calls: usize) -> bool {
        let n_calls = n_calls as f64;
        call as f64 / n_calls >= self.start && (call + 1) as f64 / n_calls <= self.end
    }
}

impl Request<'_> {
    /// Text-to-image with diffusers' defaults, the seeds counting from 0, and without a ControlNet.
    #[must_use]
    pub fn new<P: Into<Prompt>>(prompts: impl IntoIterator<Item = P>, size: [usize; 2]) -> Self {
        let prompts: Vec<Prompt> = prompts.into_iter().map(Into::into).collect();
        Self {
            seeds: (0..).take(prompts.len()).collect(),
            prompts,
            negative_prompts: None,
            encoding: EncodeOptions::default(),
            embeddings: None,
            size,
            originals: None,
            controls: Vec::new(),
            mode: ControlMode::Balanced,
            steps: Steps::Count(50),
            denoising: 0.0..1.0,
            guidance_scale: 7.5,
            sampler: SamplerKind::UniPc,
            latents: None,
            sizes: None,
            negative_sizes: None,
        }
    }

    /// How many pictures.
    #[must_use]
    pub fn n_pictures(&self) -> usize {
        self.prompts.len()
    }

    /// Whether everything is there once for each picture, in its size, and fits the model.
    pub(super) fn check(&self, bundle: &Bundle) -> Result<(), PipelineError> {
        let n_pictures = self.n_pictures();
        let count = |what: &'static str, found: usize| {
            if found == n_pictures { Ok(()) } else { Err(PipelineError::Count { what, found, n_pictures }) }
        };
        if n_pictures == 0 {
            return Err(PipelineError::NoPrompt);
        }
        count("negative prompts", self.negative_prompts.as_ref().map_or(n_pictures, Vec::len))?;
        count("seeds", self.seeds.len())?;

        let [height, width] = self.size;
        let factor = bundle.vae_config.pixels_per_latent();
        if height == 0 || width == 0 || height % factor != 0 || width % factor != 0 {
            return Err(PipelineError::Size { height, width, factor });
        }
        let fits = |what: &'static str, tensor: &Tensor<4>, n_channels: usize| {
            let (expected, found) = ([n_pictures, n_channels, height, width], tensor.dims());
            if found == expected { Ok(()) } else { Err(PipelineError::Shape { what, expected, found }) }
        };
        let masks = self.originals.as_ref().and_then(|originals| originals.masks.as_ref());
        if let Some(Originals { images, .. }) = &self.originals {
            fits("images", images, 3)?;
        }
        if let Some(masks) = masks {
            fits("masks", masks, 1)?;
        }
        if bundle.is_for_inpainting() && masks.is_none() {
            return Err(PipelineError::NeedsMask);
        }
        for Control { hints, start, end, .. } in &self.controls {
            let [_, n_channels, ..] = hints.dims();
            fits("hints", hints, n_channels)?;
            if !(0.0 <= *start && start < end && *end <= 1.0) {
                return Err(PipelineError::ControlWindow { start: *start, end: *end });
            }
        }
        if self.denoising.start > 0.0 && self.latents.is_none() {
            return Err(PipelineError::NoLatents { start: self.denoising.start });
        }
        if let Some(latents) = &self.latents {
            let expected = [n_pictures, bundle.vae_config.latent_channels, height / factor, width / factor];
            if latents.dims() != expected {
                return Err(PipelineError::Shape { what: "latents", expected, found: latents.dims() });
            }
        }
        Ok(())
    }
}
