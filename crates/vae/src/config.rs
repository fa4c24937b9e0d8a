//! The typed config: what the autoencoder needs, free of diffusers' spelling.

use burn::prelude::*;

use crate::AutoencoderKl;

/// An autoencoder.
#[derive(Debug, Clone, PartialEq)]
pub struct VaeConfig {
    /// Channels of the image that goes in.
    pub in_channels: usize,
    /// Channels of the image that comes out.
    pub out_channels: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels of the levels, finest first; each after the first halves width and height. Never empty.
    pub channels: Vec<usize>,
    /// Residual blocks of each level of the encoder; the decoder has one more (`layers_per_block`).
    pub n_resnets: usize,
    /// Groups of every group norm; divides every entry of `channels`.
    pub norm_groups: usize,
    /// Whether the middle of encoder and decoder has an attention layer (`mid_block_add_attention`).
    pub mid_attention: bool,
    /// Whether a 1x1 convolution follows the encoder (`use_quant_conv`).
    pub quant_conv: bool,
    /// Whether a 1x1 convolution precedes the decoder (`use_post_quant_conv`).
    pub post_quant_conv: bool,
    /// What samples are multiplied with to have about unit variance.
    pub scaling_factor: f64,
    /// Width and height of the images it was trained on, in pixels.
    pub sample_size: usize,
    /// Whether half precision overflows in it, so that it must run in f32.
    pub force_upcast: bool,
}

impl VaeConfig {
    /// The autoencoder of Stable Diffusion 1.x and 2.x: 83,653,863 parameters in 248 tensors.
    #[must_use]
    pub fn sd15() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            latent_channels: 4,
            channels: vec![128, 256, 512, 512],
            n_resnets: 2,
            norm_groups: 32,
            mid_attention: true,
            quant_conv: true,
            post_quant_conv: true,
            scaling_factor: 0.18215,
            sample_size: 512,
            force_upcast: true,
        }
    }

    /// The autoencoder of Stable Diffusion XL: the same networks with other weights.
    #[must_use]
    pub fn sdxl() -> Self {
        Self { scaling_factor: 0.13025, sample_size: 1024, ..Self::sd15() }
    }

    /// Width and height of the image square behind one latent, in pixels: 8 for Stable Diffusion.
    #[must_use]
    pub fn pixels_per_latent(&self) -> usize {
        1 << (self.channels.len() - 1)
    }

    /// Makes the module. Weights are allocated when first used, so that loading never initialises them.
    ///
    /// # Panics
    /// If `channels` is empty or `norm_groups` does not divide one of them; a config made by `TryFrom` is neither.
    #[must_use]
    pub fn init(&self, device: &Device) -> AutoencoderKl {
        AutoencoderKl::new(self, device)
    }
}
