//! What pictures begin as, and what of it is kept.

use burn::prelude::*;
use pyrograph_diffusion::Sampler;

use super::request::{Originals, Request};
use crate::bundle::Bundle;
use crate::noise::PictureNoise;

/// What is under the latents while they are denoised.
#[derive(Default)]
pub(super) struct Canvas {
    kept: Option<Kept>,
    /// Masks and latents of what is kept, which a UNet for inpainting is told,
    /// `[pictures, 1 + channels, height / factor, width / factor]`.
    pub(super) extra_input: Option<Tensor<4>>,
}

/// Latents that are put back where nothing is to be drawn.
struct Kept {
    clean: Tensor<4>,
    /// 1 where it is drawn anew, `[pictures, 1, height / factor, width / factor]`.
    masks: Tensor<4>,
    /// What the latents were at first.
    noise: Tensor<4>,
}

impl Canvas {
    /// The canvas and the first latents.
    pub(super) fn new(
        bundle: &Bundle,
        request: &Request<'_>,
        sampler: &Sampler,
        noise: &mut PictureNoise,
        device: &Device,
    ) -> (Self, Tensor<4>) {
        let [height, width] = request.size;
        let factor = bundle.vae_config.pixels_per_latent();
        let shape =
            [request.n_pictures(), bundle.vae_config.latent_channels, height / factor, width / factor];
        let first = request.latents.clone().unwrap_or_else(|| noise.draw(shape, device));
        let Some(Originals { images, masks, strength }) = &request.originals else {
            let is_on_the_way = request.denoising.start > 0.0;
            let sigma = if is_on_the_way { 1.0 } else { sampler.init_noise_sigma() };
            return (Self::default(), first * sigma);
        };
        let mut encode = |images: Tensor<4>| {
            let latents = bundle.vae.encode_in(bundle.vae_passes, images).sample(noise.draw(shape, device));
            bundle.vae.scale(latents)
        };
        let images = images.clone() * 2.0 - 1.0;
        let clean = encode(images.clone());
        let Some(masks) = masks else {
            return (Self::default(), sampler.add_noise(clean, first, 0));
        };
        let latents = if *strength < 1.0 {
            sampler.add_noise(clean.clone(), first.clone(), 0)
        } else {
            first.clone() * sampler.init_noise_sigma()
        };
        let masks = masks.clone().greater_equal_elem(0.5).float();
        let latent_masks = subsampled(masks.clone(), factor);
        let canvas = if bundle.is_for_inpainting() {
            // Zeros are the grey that an inpainting model saw in the holes.
            let kept = encode(images * (1.0 - masks));
            Self { kept: None, extra_input: Some(Tensor::cat(vec![latent_masks, kept], 1)) }
        } else {
            Self { kept: Some(Kept { clean, masks: latent_masks, noise: first }), extra_input: None }
        };
        (canvas, latents)
    }

    /// The latents after a call, with what is kept as noisy as they are.
    pub(super) fn keep_unmasked(&self, latents: Tensor<4>, sampler: &Sampler, call: usize) -> Tensor<4> {
        let Some(Kept { clean, masks, noise }) = &self.kept else { return latents };
        let is_last = call + 1 == sampler.timesteps().len();
        let kept =
            if is_last { clean.clone() } else { sampler.add_noise(clean.clone(), noise.clone(), call + 1) };
        kept * (1.0 - masks.clone()) + latents * masks.clone()
    }
}

/// Every `factor`-th pixel: PyTorch's `interpolate(mode="nearest")`.
fn subsampled(masks: Tensor<4>, factor: usize) -> Tensor<4> {
    let [n_masks, n_channels, height, width] = masks.dims();
    let (rows, columns) = (height / factor, width / factor);
    masks
        .reshape([n_masks * n_channels * rows, factor, columns, factor])
        .slice([0..n_masks * n_channels * rows, 0..1, 0..columns, 0..1])
        .reshape([n_masks, n_channels, rows, columns])
}
