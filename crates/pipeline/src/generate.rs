//! From prompts and hints to pictures.

use burn::prelude::*;
use burn::tensor::DType;
use pyrograph_diffusion::{Sampler, SamplerKind};
use pyrograph_unet::{Conditioning, ControlMode, ControlNet, MicroConditioning, Residuals};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::bundle::{Bundle, NoNegative};
use crate::error::PipelineError;
use crate::noise::standard_normal;
use crate::prompts::PromptEmbeddings;

/// Pictures to draw together.
#[derive(Debug, Clone)]
pub struct Request {
    /// What to draw, a prompt for each picture.
    pub prompts: Vec<String>,
    /// What all of them stay away from; used if `guidance_scale` is above 1. If there is none, the model has its own
    /// stand-in, see [`Bundle::no_negative`].
    pub negative_prompt: Option<String>,
    /// The hints, `[pictures, 3, height, width]` in [0, 1]; a picture gets its hint's size, which divides by the
    /// VAE's factor.
    pub hints: Tensor<4>,
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
    /// Draws the first latents if none are given, and the fresh noise of samplers that add some.
    pub seed: u64,
    /// The first latents, `[pictures, channels, height / factor, width / factor]`, standard normal.
    pub latents: Option<Tensor<4>>,
}

/// Draws pictures, all in one batch.
///
/// # Shapes
/// - output: `[pictures, 3, height, width]`, values in [0, 1]
///
/// # Errors
/// [`PipelineError`] if there is not one prompt for each hint, if latents of a wrong shape are given or if the
/// scheduler cannot make so many steps.
///
/// Source: diffusers `StableDiffusionControlNetPipeline` and `StableDiffusionXLControlNetPipeline` (0.42).
pub fn generate(
    bundle: &Bundle,
    controlnet: &ControlNet,
    request: &Request,
) -> Result<Tensor<4>, PipelineError> {
    let pictures = generate_while(bundle, controlnet, request, &|| true)?;
    Ok(pictures.expect("it is drawn to the end"))
}

/// As [`generate`], as long as `keep_going` says so, which is asked before each denoising step; `None` if it did not.
///
/// # Errors
/// As [`generate`].
pub fn generate_while(
    bundle: &Bundle,
    controlnet: &ControlNet,
    request: &Request,
    keep_going: &dyn Fn() -> bool,
) -> Result<Option<Tensor<4>>, PipelineError> {
    let (device, [n_hints, ..]) = (request.hints.device(), request.hints.dims());
    if request.prompts.len() != n_hints {
        return Err(PipelineError::PromptCount { n_prompts: request.prompts.len(), n_hints });
    }
    let mut sampler = Sampler::from_config(request.sampler, &bundle.scheduler, request.n_steps)
        .map_err(PipelineError::Scheduler)?;
    let mut rng = ChaCha8Rng::seed_from_u64(request.seed);
    let mut latents = first_latents(bundle, request, &mut rng, &device)? * sampler.init_noise_sigma();
    let shape = latents.dims();
    let denoiser = Denoiser::new(bundle, controlnet, request, &device);
    for (call, timestep) in sampler.timesteps().to_vec().into_iter().enumerate() {
        if !keep_going() {
            return Ok(None);
        }
        let input = sampler.scale_input(latents.clone(), call);
        #[expect(clippy::cast_possible_truncation, reason = "it is an f32 or a whole number")]
        let prediction = denoiser.predict(input, timestep as f32);
        latents = sampler.step(prediction, call, latents, &mut || standard_normal(shape, &mut rng, &device));
    }
    let pictures = bundle.vae.decode(bundle.vae.unscale(latents));
    Ok(Some((pictures / 2.0 + 0.5).clamp(0.0, 1.0)))
}

fn first_latents(
    bundle: &Bundle,
    request: &Request,
    rng: &mut ChaCha8Rng,
    device: &Device,
) -> Result<Tensor<4>, PipelineError> {
    let [n_pictures, _, height, width] = request.hints.dims();
    let factor = bundle.vae_config.pixels_per_latent();
    let expected = [n_pictures, bundle.unet_config.in_channels, height / factor, width / factor];
    match &request.latents {
        Some(latents) if latents.dims() == expected => Ok(latents.clone()),
        Some(latents) => {
            Err(PipelineError::LatentsShape { expected: expected.to_vec(), found: latents.dims().to_vec() })
        }
        None => Ok(standard_normal(expected, rng, device)),
    }
}

/// The controlled UNet with classifier-free guidance: the negative prompt's half of the batch comes first.
struct Denoiser<'a> {
    bundle: &'a Bundle,
    controlnet: &'a ControlNet,
    hint_embedding: Tensor<4>,
    /// That of the prompts, after that of as many negative ones if there is guidance.
    conditioning: Conditioning,
    guidance_scale: Option<f64>,
    residual_scales: Vec<f64>,
    mode: ControlMode,
}

impl<'a> Denoiser<'a> {
    fn new(bundle: &'a Bundle, controlnet: &'a ControlNet, request: &Request, device: &Device) -> Self {
        let guidance_scale = (request.guidance_scale > 1.0).then_some(request.guidance_scale);
        let mut embeddings = bundle.text.encode(&strs(&request.prompts), device);
        if guidance_scale.is_some() {
            embeddings = negative(bundle, request, &embeddings, device).followed_by(embeddings);
        }
        let ([n_samples, ..], [.., height, width]) = (embeddings.context.dims(), request.hints.dims());
        let sizes = vec![MicroConditioning::uncropped(height, width); n_samples];
        let mode = controlnet.effective_mode(request.mode);
        let compute = bundle.precision.compute;
        Self {
            bundle,
            controlnet,
            hint_embedding: controlnet.embed_hint(request.hints.clone().cast(compute)),
            conditioning: embeddings.with_sizes(sizes).cast(compute),
            guidance_scale,
            residual_scales: controlnet.residual_scales(mode, request.conditioning_scale),
            mode,
        }
    }

    /// The prediction in f32.
    fn predict(&self, latents: Tensor<4>, timestep: f32) -> Tensor<4> {
        let [n_pictures, ..] = latents.dims();
        let latents = latents.cast(self.bundle.precision.compute);
        let Some(guidance_scale) = self.guidance_scale else {
            let residuals = self.residuals(latents.clone(), timestep, &self.conditioning);
            return self.controlled(latents, timestep, residuals);
        };
        let both = latents.clone().repeat_dim(0, 2);
        let residuals = match self.mode {
            ControlMode::Balanced => self.residuals(both.clone(), timestep, &self.conditioning),
            // The hint alone decides: only the prompt's half is controlled.
            ControlMode::Guess => {
                let prompted = self.conditioning.narrow(n_pictures, n_pictures);
                after_zeros(self.residuals(latents, timestep, &prompted))
            }
        };
        let prediction = self.controlled(both, timestep, residuals);
        let negative = prediction.clone().narrow(0, 0, n_pictures);
        let positive = prediction.narrow(0, n_pictures, n_pictures);
        negative.clone() + (positive - negative) * guidance_scale
    }

    fn controlled(&self, latents: Tensor<4>, timestep: f32, residuals: Residuals) -> Tensor<4> {
        let [n_samples, ..] = latents.dims();
        let unet = &self.bundle.unet;
        unet.forward(latents, &vec![timestep; n_samples], &self.conditioning, Some(residuals))
            .cast(DType::F32)
    }

    /// The residuals of latents that are the pictures' once, or twice in a row.
    fn residuals(&self, latents: Tensor<4>, timestep: f32, conditioning: &Conditioning) -> Residuals {
        let ([n_samples, ..], [n_pictures, ..]) = (latents.dims(), self.hint_embedding.dims());
        let hint_embedding = self.hint_embedding.clone().repeat_dim(0, n_samples / n_pictures);
        self.controlnet
            .forward_embedded(latents, &vec![timestep; n_samples], conditioning, hint_embedding)
            .scaled(&self.residual_scales)
    }
}

fn strs(prompts: &[String]) -> Vec<&str> {
    prompts.iter().map(String::as_str).collect()
}

/// The embeddings of as many negative prompts.
fn negative(
    bundle: &Bundle,
    request: &Request,
    positive: &PromptEmbeddings,
    device: &Device,
) -> PromptEmbeddings {
    let n_prompts = request.prompts.len();
    match (&request.negative_prompt, bundle.no_negative) {
        (Some(prompt), _) => bundle.text.encode(&vec![prompt.as_str(); n_prompts], device),
        (None, NoNegative::EmptyPrompt) => bundle.text.encode(&vec![""; n_prompts], device),
        (None, NoNegative::Zeros) => positive.zeros_like(),
    }
}

/// Residuals that are zero for the first half of a batch of twice the size.
fn after_zeros(residuals: Residuals) -> Residuals {
    let pad = |residual: Tensor<4>| Tensor::cat(vec![residual.zeros_like(), residual], 0);
    Residuals { down: residuals.down.into_iter().map(pad).collect(), mid: pad(residuals.mid) }
}
