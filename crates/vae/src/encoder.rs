//! The encoder: from an image to the moments of its latents.

use burn::nn::GroupNorm;
use burn::nn::conv::Conv2d;
use burn::prelude::*;
use pyrograph_kernels::{conv2d, group_norm_silu};

use crate::VaeConfig;
use crate::blocks::{Downsample, MidBlock, ResnetBlock, conv3x3, group_norm, resnets};

/// One level of the encoder; all but the coarsest end by halving width and height.
///
/// Source: diffusers `DownEncoderBlock2D` (0.42).
#[derive(Module, Debug)]
struct DownBlock {
    resnets: Vec<ResnetBlock>,
    downsamplers: Option<Vec<Downsample>>,
}

impl DownBlock {
    fn forward(&self, features: Tensor<4>) -> Tensor<4> {
        let features = self.resnets.iter().fold(features, |features, resnet| resnet.forward(features));
        let downsamplers = self.downsamplers.iter().flatten();
        downsamplers.fold(features, |features, downsampler| downsampler.forward(features))
    }
}

/// The encoder, without the convolution that may follow it.
///
/// Source: diffusers `Encoder` (0.42).
#[derive(Module, Debug)]
pub struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    pub(crate) fn new(config: &VaeConfig, device: &Device) -> Self {
        let channels = &config.channels;
        let (finest, coarsest) = (channels[0], channels[channels.len() - 1]);
        let down_blocks = (0..channels.len())
            .map(|level| {
                let widths = [channels[level.saturating_sub(1)], channels[level]];
                DownBlock {
                    resnets: resnets(config, config.n_resnets, widths, device),
                    downsamplers: (level + 1 < channels.len())
                        .then(|| vec![Downsample::new(channels[level], device)]),
                }
            })
            .collect();
        Self {
            conv_in: conv3x3(config.in_channels, finest, device),
            down_blocks,
            mid_block: MidBlock::new(config, coarsest, device),
            conv_norm_out: group_norm(config, coarsest, device),
            conv_out: conv3x3(coarsest, 2 * config.latent_channels, device),
        }
    }

    /// Encodes an image in [-1, 1].
    ///
    /// # Shapes
    /// - input: `[batch, in_channels, height, width]`
    /// - output: `[batch, 2 * latent_channels, height / p, width / p]`, with
    ///   `p` = [`VaeConfig::pixels_per_latent`]
    #[must_use]
    pub fn forward(&self, image_signed: Tensor<4>) -> Tensor<4> {
        let features = conv2d(&self.conv_in, image_signed);
        let features = self.down_blocks.iter().fold(features, |features, block| block.forward(features));
        let features = self.mid_block.forward(features);
        conv2d(&self.conv_out, group_norm_silu(&self.conv_norm_out, features))
    }
}
