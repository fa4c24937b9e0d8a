//! The residual block.

use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, GroupNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::prelude::*;
use pyrograph_kernels::{conv2d, group_norm_silu, linear, silu};

use crate::UnetConfig;

/// A 3x3 convolution that keeps width and height.
pub(crate) fn conv3x3(channels_in: usize, channels_out: usize, device: &Device) -> Conv2d {
    Conv2dConfig::new([channels_in, channels_out], [3, 3])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        .init(device)
}

/// A 1x1 convolution.
pub(crate) fn conv1x1(channels_in: usize, channels_out: usize, device: &Device) -> Conv2d {
    Conv2dConfig::new([channels_in, channels_out], [1, 1]).init(device)
}

/// Two convolutions with the timestep's embedding added between them, and a shortcut around them.
///
/// # Shapes
/// - features: `[batch, channels_in, height, width]`
/// - time: `[batch, time_dim]`
/// - output: `[batch, channels_out, height, width]`
///
/// Source: diffusers `ResnetBlock2D` (0.42), `time_embedding_norm="default"`.
#[derive(Module, Debug)]
pub(crate) struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl ResnetBlock {
    pub(crate) fn new(config: &UnetConfig, channels_in: usize, channels_out: usize, device: &Device) -> Self {
        let norm = |channels| {
            GroupNormConfig::new(config.norm_groups, channels).with_epsilon(config.norm_eps).init(device)
        };
        Self {
            norm1: norm(channels_in),
            conv1: conv3x3(channels_in, channels_out, device),
            time_emb_proj: LinearConfig::new(config.time_dim(), channels_out).init(device),
            norm2: norm(channels_out),
            conv2: conv3x3(channels_out, channels_out, device),
            conv_shortcut: (channels_in != channels_out).then(|| conv1x1(channels_in, channels_out, device)),
        }
    }

    pub(crate) fn forward(&self, features: Tensor<4>, time: Tensor<2>) -> Tensor<4> {
        let shortcut = match &self.conv_shortcut {
            Some(conv) => conv2d(conv, features.clone()),
            None => features.clone(),
        };
        let hidden = conv2d(&self.conv1, group_norm_silu(&self.norm1, features));
        let time: Tensor<4> = linear(&self.time_emb_proj, silu(time)).unsqueeze_dims(&[2, 3]); // [batch, channels, 1, 1]
        let hidden = conv2d(&self.conv2, group_norm_silu(&self.norm2, hidden + time));
        shortcut + hidden
    }
}
