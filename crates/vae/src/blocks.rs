//! The blocks that encoder and decoder share.

use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, GroupNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::prelude::*;
use pyrograph_kernels::{
    attention, conv2d, group_norm_silu, linear, merge_heads, split_heads, upsample_nearest,
};

use crate::VaeConfig;

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

/// A group norm with the autoencoder's epsilon.
pub(crate) fn group_norm(config: &VaeConfig, channels: usize, device: &Device) -> GroupNorm {
    GroupNormConfig::new(config.norm_groups, channels).with_epsilon(1e-6).init(device)
}

/// Two convolutions with a shortcut around them.
///
/// # Shapes
/// - input: `[batch, channels_in, height, width]`
/// - output: `[batch, channels_out, height, width]`
///
/// Source: diffusers `ResnetBlock2D` (0.42) with `temb_channels=None`.
#[derive(Module, Debug)]
pub(crate) struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl ResnetBlock {
    pub(crate) fn new(config: &VaeConfig, channels_in: usize, channels_out: usize, device: &Device) -> Self {
        Self {
            norm1: group_norm(config, channels_in, device),
            conv1: conv3x3(channels_in, channels_out, device),
            norm2: group_norm(config, channels_out, device),
            conv2: conv3x3(channels_out, channels_out, device),
            conv_shortcut: (channels_in != channels_out).then(|| conv1x1(channels_in, channels_out, device)),
        }
    }

    pub(crate) fn forward(&self, features: Tensor<4>) -> Tensor<4> {
        let shortcut = match &self.conv_shortcut {
            Some(conv) => conv2d(conv, features.clone()),
            None => features.clone(),
        };
        let hidden = conv2d(&self.conv1, group_norm_silu(&self.norm1, features));
        let hidden = conv2d(&self.conv2, group_norm_silu(&self.norm2, hidden));
        shortcut + hidden
    }
}

/// `n_resnets` residual blocks, the first of which changes the number of channels.
pub(crate) fn resnets(
    config: &VaeConfig,
    n_resnets: usize,
    [channels_in, channels_out]: [usize; 2],
    device: &Device,
) -> Vec<ResnetBlock> {
    (0..n_resnets)
        .map(|idx| {
            ResnetBlock::new(config, if idx == 0 { channels_in } else { channels_out }, channels_out, device)
        })
        .collect()
}

/// Self-attention of every position to every other, with one head as wide as the features.
///
/// # Shapes
/// - input and output: `[batch, channels, height, width]`
///
/// Source: diffusers `Attention` (0.42) as `UNetMidBlock2D` makes it.
#[derive(Module, Debug)]
pub(crate) struct MidAttention {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl MidAttention {
    fn new(config: &VaeConfig, channels: usize, device: &Device) -> Self {
        let linear = || LinearConfig::new(channels, channels).init(device);
        Self {
            group_norm: group_norm(config, channels, device),
            to_q: linear(),
            to_k: linear(),
            to_v: linear(),
            to_out: linear(),
        }
    }

    fn forward(&self, features: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = features.dims();
        let normed = pyrograph_kernels::group_norm(&self.group_norm, features.clone());
        let tokens = normed.reshape([batch, channels, height * width]).swap_dims(1, 2); // [batch, h*w, channels]
        let one_head = |projection: &Linear| split_heads(linear(projection, tokens.clone()), 1);
        let attended =
            merge_heads(attention(one_head(&self.to_q), one_head(&self.to_k), one_head(&self.to_v)));
        let attended = linear(&self.to_out, attended).swap_dims(1, 2); // [batch, channels, h*w]
        features + attended.reshape([batch, channels, height, width])
    }
}

/// The middle of encoder and decoder, on the coarsest level: residual block, attention, residual block.
///
/// # Shapes
/// - input and output: `[batch, channels, height, width]`
///
/// Source: diffusers `UNetMidBlock2D` (0.42).
#[derive(Module, Debug)]
pub(crate) struct MidBlock {
    resnets: Vec<ResnetBlock>,
    attentions: Option<Vec<MidAttention>>,
}

impl MidBlock {
    pub(crate) fn new(config: &VaeConfig, channels: usize, device: &Device) -> Self {
        Self {
            resnets: resnets(config, 2, [channels, channels], device),
            attentions: config.mid_attention.then(|| vec![MidAttention::new(config, channels, device)]),
        }
    }

    pub(crate) fn forward(&self, features: Tensor<4>) -> Tensor<4> {
        let mut attentions = self.attentions.iter().flatten();
        let mut features = features;
        for resnet in &self.resnets {
            features = resnet.forward(features);
            // One attention layer fewer than residual blocks: nothing follows the last.
            if let Some(attention) = attentions.next() {
                features = attention.forward(features);
            }
        }
        features
    }
}

/// A strided convolution, padded on the right and at the bottom only; odd sizes are rounded down.
///
/// # Shapes
/// - input: `[batch, channels, height, width]`
/// - output: `[batch, channels, height / 2, width / 2]`
///
/// Source: diffusers `Downsample2D` (0.42) with `padding=0`.
#[derive(Module, Debug)]
pub(crate) struct Downsample {
    conv: Conv2d,
}

impl Downsample {
    pub(crate) fn new(channels: usize, device: &Device) -> Self {
        let conv = Conv2dConfig::new([channels, channels], [3, 3])
            .with_stride([2, 2])
            .with_padding(PaddingConfig2d::Explicit(0, 0, 1, 1))
            .init(device);
        Self { conv }
    }

    pub(crate) fn forward(&self, features: Tensor<4>) -> Tensor<4> {
        conv2d(&self.conv, features)
    }
}

/// Nearest-neighbour doubling, then a convolution.
///
/// # Shapes
/// - input: `[batch, channels, height, width]`
/// - output: `[batch, channels, 2 * height, 2 * width]`
///
/// Source: diffusers `Upsample2D` (0.42).
#[derive(Module, Debug)]
pub(crate) struct Upsample {
    conv: Conv2d,
}

impl Upsample {
    pub(crate) fn new(channels: usize, device: &Device) -> Self {
        Self { conv: conv3x3(channels, channels, device) }
    }

    pub(crate) fn forward(&self, features: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = features.dims();
        conv2d(&self.conv, upsample_nearest(features, [2 * height, 2 * width]))
    }
}
