//! From prompts, hints and pictures to pictures.

mod canvas;
mod denoiser;
mod request;

use std::ops::ControlFlow;

use burn::prelude::*;
use pyrograph_diffusion::{DiffusionError, Sampler};

pub use self::request::{Control, GivenEmbeddings, Originals, Request};

use self::canvas::Canvas;
use self::denoiser::{Denoiser, Moment};
use crate::bundle::Bundle;
use crate::error::PipelineError;
use crate::noise::PictureNoise;

/// What is known and can be changed after a call of the network.
#[derive(Debug)]
pub struct StepEnd<'a> {
    /// Which call it was, counted from 0. Most samplers call the network once for each step.
    pub call: usize,
    /// How many there will be.
    pub n_calls: usize,
    /// At which timestep.
    pub timestep: f64,
    /// The latents for the next call, or the clean ones after the last: see [`Bundle::decode`].
    pub latents: &'a mut Tensor<4>,
    /// The guidance of the calls to come; it cannot be turned on later.
    pub guidance_scale: &'a mut f64,
}

/// Draws pictures, all in one batch.
///
/// # Shapes
/// - output: `[pictures, 3, height, width]`, values in [0, 1]
///
/// # Errors
/// [`PipelineError`] if something is not there once for each picture or in another size, if the model needs a mask, or if
/// the scheduler cannot make so many steps.
///
/// Source: diffusers `StableDiffusion{,XL}ControlNet{,Img2Img,Inpaint}Pipeline` (0.42).
pub fn generate(bundle: &Bundle, request: &Request<'_>) -> Result<Tensor<4>, PipelineError> {
    let pictures = generate_with(bundle, request, &mut |_| ControlFlow::Continue(()))?;
    Ok(pictures.expect("nobody stops it"))
}

/// As [`generate`], telling after each call of the network how far it is; `None` if it was told to stop.
///
/// # Errors
/// As [`generate`].
pub fn generate_with(
    bundle: &Bundle,
    request: &Request<'_>,
    on_step: &mut dyn FnMut(StepEnd<'_>) -> ControlFlow<()>,
) -> Result<Option<Tensor<4>>, PipelineError> {
    Ok(denoise(bundle, request, on_step)?.map(|latents| bundle.decode(latents)))
}

/// As [`generate_with`], but gives the latents and leaves the VAE's decoder out.
///
/// # Shapes
/// - output: `[pictures, channels, height / factor, width / factor]`
///
/// # Errors
/// As [`generate`].
pub fn denoise(
    bundle: &Bundle,
    request: &Request<'_>,
    on_step: &mut dyn FnMut(StepEnd<'_>) -> ControlFlow<()>,
) -> Result<Option<Tensor<4>>, PipelineError> {
    request.check(bundle)?;
    let device = bundle.device();
    let (mut sampler, n_whole_calls) = sampler(bundle, request).map_err(PipelineError::Scheduler)?;
    let mut noise = PictureNoise::new(&request.seeds);
    let (canvas, mut latents) = Canvas::new(bundle, request, &sampler, &mut noise, &device);
    let denoiser = Denoiser::new(bundle, request, canvas.extra_input.clone(), &device)?;
    let shape = latents.dims();
    let mut guidance_scale = request.guidance_scale;
    let timesteps = sampler.timesteps().to_vec();
    let n_calls = timesteps.len();
    for (call, timestep) in timesteps.into_iter().enumerate() {
        let input = sampler.scale_input(latents.clone(), call);
        #[expect(clippy::cast_possible_truncation, reason = "it is an f32 or a whole number")]
        let moment = Moment { call, n_calls: n_whole_calls, timestep: timestep as f32 };
        let prediction = denoiser.predict(input, moment, guidance_scale);
        latents = sampler.step(prediction, call, latents, &mut || noise.draw(shape, &device));
        latents = canvas.keep_unmasked(latents, &sampler, call);
        let end =
            StepEnd { call, n_calls, timestep, latents: &mut latents, guidance_scale: &mut guidance_scale };
        if on_step(end).is_break() {
            return Ok(None);
        }
    }
    Ok(Some(latents))
}

/// The sampler, and how many calls it would make without an early end, of which a ControlNet acts in a part.
fn sampler(bundle: &Bundle, request: &Request<'_>) -> Result<(Sampler, usize), DiffusionError> {
    let sampler = Sampler::from_config(request.sampler, &bundle.scheduler, request.steps.clone())?;
    let sampler = match &request.originals {
        Some(originals) => sampler.with_strength(originals.strength)?,
        None => sampler,
    };
    let sampler = sampler.with_denoising_start(request.denoising.start)?;
    let n_whole_calls = sampler.timesteps().len();
    Ok((sampler.with_denoising_end(request.denoising.end)?, n_whole_calls))
}
