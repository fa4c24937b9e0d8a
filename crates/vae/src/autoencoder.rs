//! The autoencoder: encoder, decoder and the scale between them and the diffusion model.

use burn::nn::conv::Conv2d;
use burn::prelude::*;
use pyrograph_kernels::conv2d;

use crate::blocks::conv1x1;
use crate::{Decoder, DiagonalGaussian, Encoder, VaeConfig};

/// A variational autoencoder with a KL-regularised latent space (Rombach et al. 2022, section 3.1).
///
/// Encoder and decoder work on *samples*. The diffusion model works on *latents*, which are samples times
/// [`Self::scaling_factor`], so that their variance is about 1: see [`Self::scale`] and [`Self::unscale`].
///
/// Source: diffusers `AutoencoderKL` (0.42).
#[derive(Module, Debug)]
pub struct AutoencoderKl {
    /// None after [`Self::without_encoder`].
    encoder: Option<Encoder>,
    decoder: Decoder,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
    scaling_factor: f64,
}

impl AutoencoderKl {
    pub(crate) fn new(config: &VaeConfig, device: &Device) -> Self {
        let conv = |channels| conv1x1(channels, channels, device);
        Self {
            encoder: Some(Encoder::new(config, device)),
            decoder: Decoder::new(config, device),
            quant_conv: config.quant_conv.then(|| conv(2 * config.latent_channels)),
            post_quant_conv: config.post_quant_conv.then(|| conv(config.latent_channels)),
            scaling_factor: config.scaling_factor,
        }
    }

    /// The posterior of an image in [-1, 1].
    ///
    /// # Shapes
    /// - image: `[batch, in_channels, height, width]`
    /// - moments: `[batch, 2 * latent_channels, height / p, width / p]`, rounded down, with
    ///   `p` = [`VaeConfig::pixels_per_latent`]
    ///
    /// # Panics
    /// After [`Self::without_encoder`].
    #[must_use]
    pub fn encode(&self, image_signed: Tensor<4>) -> DiagonalGaussian {
        DiagonalGaussian::from_moments(self.moments(image_signed))
    }

    /// The posterior's moments as the networks give them.
    pub(crate) fn moments(&self, image_signed: Tensor<4>) -> Tensor<4> {
        let moments = self.encoder().forward(image_signed);
        match &self.quant_conv {
            Some(conv) => conv2d(conv, moments),
            None => moments,
        }
    }

    /// The image of a sample (of unscaled latents), approximately in [-1, 1].
    ///
    /// # Shapes
    /// - sample: `[batch, latent_channels, height, width]`
    /// - output: `[batch, out_channels, p * height, p * width]`, with `p` = [`VaeConfig::pixels_per_latent`]
    #[must_use]
    pub fn decode(&self, sample: Tensor<4>) -> Tensor<4> {
        self.decoder.forward(match &self.post_quant_conv {
            Some(conv) => conv2d(conv, sample),
            None => sample,
        })
    }

    /// From a sample of the posterior to the latents of the diffusion model.
    #[must_use]
    pub fn scale(&self, sample: Tensor<4>) -> Tensor<4> {
        sample * self.scaling_factor
    }

    /// From the latents of the diffusion model to the sample that [`Self::decode`] takes.
    #[must_use]
    pub fn unscale(&self, latents: Tensor<4>) -> Tensor<4> {
        latents / self.scaling_factor
    }

    /// What a sample is multiplied with to give latents.
    #[must_use]
    pub fn scaling_factor(&self) -> f64 {
        self.scaling_factor
    }

    /// The encoder alone.
    ///
    /// # Panics
    /// After [`Self::without_encoder`].
    #[must_use]
    pub fn encoder(&self) -> &Encoder {
        self.encoder.as_ref().expect("nothing is encoded after the encoder was given up")
    }

    /// What can decode only, and holds no weights to encode with.
    #[must_use]
    pub fn without_encoder(self) -> Self {
        Self { encoder: None, ..self }
    }

    /// The decoder alone.
    #[must_use]
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> VaeConfig {
        VaeConfig { channels: vec![4, 8, 8], n_resnets: 1, norm_groups: 2, ..VaeConfig::sd15() }
    }

    #[test]
    fn odd_sizes_round_down_and_latents_are_a_quarter_as_wide() {
        let device = Device::flex();
        let config = small();
        let vae = config.init(&device);
        assert_eq!(config.pixels_per_latent(), 4);
        let posterior = vae.encode(Tensor::zeros([2, 3, 14, 20], &device));
        assert_eq!(posterior.moments().dims(), [2, 8, 3, 5]);
        assert_eq!(vae.decode(posterior.mode()).dims(), [2, 3, 12, 20]);
    }

    #[test]
    fn unscaling_undoes_scaling() {
        let device = Device::flex();
        let vae = small().init(&device);
        let sample = Tensor::<4>::from_floats([[[[1.0, -3.0]]]], &device);
        let error = vae.unscale(vae.scale(sample.clone())) - sample;
        assert!(error.abs().max().into_scalar::<f32>() < 1e-6);
    }
}
