//! The decoder: from latents to an image.

use burn::nn::GroupNorm;
use burn::nn::conv::Conv2d;
use burn::prelude::*;
use pyrograph_kernels::{conv2d, group_norm_silu};

use crate::VaeConfig;
use crate::blocks::{MidBlock, ResnetBlock, Upsample, conv3x3, group_norm, resnets};

/// One level of the decoder; all but the finest end by doubling width and height.
///
/// Source: diffusers `UpDecoderBlock2D` (0.42).
#[derive(Module, Debug)]
struct UpBlock {
    resnets: Vec<ResnetBlock>,
    upsamplers: Option<Vec<Upsample>>,
}

impl UpBlock {
    fn forward(&self, features: Tensor<4>) -> Tensor<4> {
        let features = self.resnets.iter().fold(features, |features, resnet| resnet.forward(features));
        let upsamplers = self.upsamplers.iter().flatten();
        upsamplers.fold(features, |features, upsampler| upsampler.forward(features))
    }
}

/// The decoder, without the convolution that may precede it.
///
/// Source: diffusers `Decoder` (0.42).
#[derive(Module, Debug)]
pub struct Decoder {
    conv_in: Conv2d,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    pub(crate) fn new(config: &VaeConfig, device: &Device) -> Self {
        let coarse_first: Vec<usize> = config.channels.iter().rev().copied().collect();
        let (coarsest, finest) = (coarse_first[0], config.channels[0]);
        let up_blocks = (0..coarse_first.len())
            .map(|level| {
                let widths = [coarse_first[level.saturating_sub(1)], coarse_first[level]];
                UpBlock {
                    resnets: resnets(config, config.n_resnets + 1, widths, device),
                    upsamplers: (level + 1 < coarse_first.len())
                        .then(|| vec![Upsample::new(coarse_first[level], device)]),
                }
            })
            .collect();
        Self {
            conv_in: conv3x3(config.latent_channels, coarsest, device),
            mid_block: MidBlock::new(config, coarsest, device),
            up_blocks,
            conv_norm_out: group_norm(config, finest, device),
            conv_out: conv3x3(finest, config.out_channels, device),
        }
    }

    /// Decodes to an image, approximately in [-1, 1].
    ///
    /// # Shapes
    /// - input: `[batch, latent_channels, height, width]`
    /// - output: `[batch, out_channels, p * height, p * width]`, with `p` = [`VaeConfig::pixels_per_latent`]
    #[must_use]
    pub fn forward(&self, sample: Tensor<4>) -> Tensor<4> {
        let features = conv2d(&self.conv_in, sample);
        let features = self.mid_block.forward(features);
        let features = self.up_blocks.iter().fold(features, |features, block| block.forward(features));
        conv2d(&self.conv_out, group_norm_silu(&self.conv_norm_out, features))
    }
}
