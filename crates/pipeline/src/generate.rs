//! From a prompt and a hint to a picture.

use burn::prelude::*;
use pyrograph_diffusion::{Sampler, SamplerKind};
use pyrograph_unet::{ControlMode, ControlNet, Residuals};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::bundle::Bundle;
use crate::error::PipelineError;
use crate::noise::standard_normal;

/// One picture to draw.
#[derive(Debug, Clone)]
pub struct Request {
    /// What to draw.
    pub prompt: String,
    /// What to stay away from; used if `guidance_scale` is above 1.
    pub negative_prompt: String,
    /// The hint, `[1, 3, height, width]` in [0, 1]; the picture gets its size, which divides by the VAE's factor.
    pub hint: Tensor<4>,
    /// Denoising steps.
    pub n_steps: usize,
    /// Classifier-free guidance; 1 or less turns it off.
    pub guidance_scale: f64,
    /// Factor on the ControlNet's residuals.
    pub conditioning_scale: f64,
    /// How the ControlNet acts over the depths.
    pub mode: ControlMode,
    /// The sampler.
    pub sampler: SamplerKind,
    /// Draws the first latents if none are given.
    pub seed: u64,
    /// The first latents, `[1, channels, height / factor, width / factor]`, standard normal.
    pub latents: Option<Tensor<4>>,
}

/// Draws a picture.
///
/// # Shapes
/// - output: `[1, 3, height, width]`, values in [0, 1]
///
/// # Errors
/// [`PipelineError`] if latents of a wrong shape are given or the scheduler cannot make so many steps.
///
/// Source: diffusers `StableDiffusionControlNetPipeline` (0.42).
pub fn generate(
    bundle: &Bundle,
    controlnet: &ControlNet,
    request: &Request,
) -> Result<Tensor<4>, PipelineError> {
    let device = request.hint.device();
    let mut sampler = Sampler::from_config(request.sampler, &bundle.scheduler, request.n_steps)
        .map_err(PipelineError::Scheduler)?;
    let mut latents = first_latents(bundle, request, &device)? * sampler.init_noise_sigma();
    let denoiser = Denoiser::new(bundle, controlnet, request, &device);
    for (step_idx, timestep) in sampler.timesteps().to_vec().into_iter().enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "timesteps are below 2^24")]
        let prediction = denoiser.predict(latents.clone(), timestep as f32);
        latents = sampler.step(prediction, step_idx, latents);
    }
    let picture = bundle.vae.decode(bundle.vae.unscale(latents));
    Ok((picture / 2.0 + 0.5).clamp(0.0, 1.0))
}

fn first_latents(bundle: &Bundle, request: &Request, device: &Device) -> Result<Tensor<4>, PipelineError> {
    let [_, _, height, width] = request.hint.dims();
    let factor = bundle.vae_config.pixels_per_latent();
    let expected = [1, bundle.unet_config.in_channels, height / factor, width / factor];
    match &request.latents {
        Some(latents) if latents.dims() == expected => Ok(latents.clone()),
        Some(latents) => {
            Err(PipelineError::LatentsShape { expected: expected.to_vec(), found: latents.dims().to_vec() })
        }
        None => Ok(standard_normal(expected, &mut ChaCha8Rng::seed_from_u64(request.seed), device)),
    }
}

/// The controlled UNet with classifier-free guidance: the negative prompt's half of the batch comes first.
struct Denoiser<'a> {
    bundle: &'a Bundle,
    controlnet: &'a ControlNet,
    hint: Tensor<4>,
    context: Tensor<3>,
    guidance_scale: f64,
    residual_scales: Vec<f64>,
    mode: ControlMode,
}

impl<'a> Denoiser<'a> {
    fn new(bundle: &'a Bundle, controlnet: &'a ControlNet, request: &Request, device: &Device) -> Self {
        let prompts: &[&str] = if request.guidance_scale > 1.0 {
            &[&request.negative_prompt, &request.prompt]
        } else {
            &[&request.prompt]
        };
        let mode = controlnet.effective_mode(request.mode);
        Self {
            bundle,
            controlnet,
            hint: request.hint.clone(),
            context: bundle.encode_prompts(prompts, device),
            guidance_scale: request.guidance_scale,
            residual_scales: controlnet.residual_scales(mode, request.conditioning_scale),
            mode,
        }
    }

    fn predict(&self, latents: Tensor<4>, timestep: f32) -> Tensor<4> {
        let [n_prompts, _, _] = self.context.dims();
        let batch = latents.clone().repeat_dim(0, n_prompts);
        let residuals = match self.mode {
            ControlMode::Balanced => self.residuals(batch.clone(), timestep, &self.context),
            // The hint alone decides: only the prompt's half is controlled.
            ControlMode::Guess => {
                let context = self.context.clone().narrow(0, n_prompts - 1, 1);
                only_last(self.residuals(latents, timestep, &context), n_prompts)
            }
        };
        let prediction =
            self.bundle.unet.forward(batch, &vec![timestep; n_prompts], &self.context, Some(residuals));
        if n_prompts == 1 {
            return prediction;
        }
        let negative = prediction.clone().narrow(0, 0, 1);
        let positive = prediction.narrow(0, 1, 1);
        negative.clone() + (positive - negative) * self.guidance_scale
    }

    fn residuals(&self, batch: Tensor<4>, timestep: f32, context: &Tensor<3>) -> Residuals {
        let [n_samples, _, _, _] = batch.dims();
        let hint = self.hint.clone().repeat_dim(0, n_samples);
        self.controlnet
            .forward(batch, &vec![timestep; n_samples], context, hint)
            .scaled(&self.residual_scales)
    }
}

/// Residuals that are zero for all but the last sample of the batch.
fn only_last(residuals: Residuals, n_samples: usize) -> Residuals {
    let pad = |residual: Tensor<4>| {
        let zeros = residual.zeros_like().repeat_dim(0, n_samples - 1);
        if n_samples == 1 { residual } else { Tensor::cat(vec![zeros, residual], 0) }
    };
    Residuals { down: residuals.down.into_iter().map(pad).collect(), mid: pad(residuals.mid) }
}
