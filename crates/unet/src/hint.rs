//! The small network that brings the hint image to the latents' resolution.

use burn::nn::PaddingConfig2d;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::prelude::*;
use pyrograph_kernels::{conv2d, silu};

use crate::HintConfig;
use crate::control::zeroed;
use crate::resnet::conv3x3;

/// Convolutions with SiLU between them; every second one after the first halves width and height.
///
/// # Shapes
/// - hint: `[batch, in_channels, height, width]`
/// - output: `[batch, channels_out, height / scale, width / scale]` with `scale = 2^(levels - 1)`
///
/// Source: diffusers `ControlNetConditioningEmbedding` (0.42).
#[derive(Module, Debug)]
pub(crate) struct HintEmbedding {
    pub(crate) conv_in: Conv2d,
    pub(crate) blocks: Vec<Conv2d>,
    pub(crate) conv_out: Conv2d,
}

impl HintEmbedding {
    pub(crate) fn new(config: &HintConfig, channels_out: usize, device: &Device) -> Self {
        let halving = |channels: [usize; 2]| {
            Conv2dConfig::new(channels, [3, 3])
                .with_stride([2, 2])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(device)
        };
        let blocks = config
            .channels
            .windows(2)
            .flat_map(|pair| [conv3x3(pair[0], pair[0], device), halving([pair[0], pair[1]])])
            .collect();
        let last = config.channels[config.channels.len() - 1];
        Self {
            conv_in: conv3x3(config.in_channels, config.channels[0], device),
            blocks,
            conv_out: zeroed(conv3x3(last, channels_out, device)),
        }
    }

    pub(crate) fn forward(&self, hint: Tensor<4>) -> Tensor<4> {
        let mut features = silu(conv2d(&self.conv_in, hint));
        for block in &self.blocks {
            features = silu(conv2d(block, features));
        }
        conv2d(&self.conv_out, features)
    }
}
