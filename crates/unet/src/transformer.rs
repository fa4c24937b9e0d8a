//! The spatial transformer: self-attention, attention to the prompt, and a gated feed-forward layer.

use burn::nn::conv::Conv2d;
use burn::nn::{GroupNorm, GroupNormConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::prelude::*;
use pyrograph_kernels::{attention, conv2d, geglu, group_norm, layer_norm, linear, merge_heads, split_heads};

use crate::resnet::conv1x1;
use crate::{Projection, UnetConfig};

/// Epsilon of every layer norm, which no config changes.
const LAYER_NORM_EPS: f64 = 1e-5;

/// Multi-head attention. Query, key and value have no bias, the output has.
///
/// # Shapes
/// - tokens: `[batch, n_queries, d_model]`
/// - context: `[batch, n_keys, context_dim]`
/// - output: `[batch, n_queries, d_model]`
///
/// Source: diffusers `Attention` (0.42).
#[derive(Module, Debug)]
struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    n_heads: usize,
}

impl Attention {
    fn new(d_model: usize, context_dim: usize, n_heads: usize, device: &Device) -> Self {
        let without_bias = |d_input| LinearConfig::new(d_input, d_model).with_bias(false).init(device);
        Self {
            to_q: without_bias(d_model),
            to_k: without_bias(context_dim),
            to_v: without_bias(context_dim),
            to_out: LinearConfig::new(d_model, d_model).init(device),
            n_heads,
        }
    }

    fn forward(&self, tokens: Tensor<3>, context: Tensor<3>) -> Tensor<3> {
        let query = split_heads(linear(&self.to_q, tokens), self.n_heads);
        let key = split_heads(linear(&self.to_k, context.clone()), self.n_heads);
        let value = split_heads(linear(&self.to_v, context), self.n_heads);
        linear(&self.to_out, merge_heads(attention(query, key, value)))
    }
}

/// The gated feed-forward layer, four times as wide inside.
///
/// Source: diffusers `FeedForward` (0.42), `activation_fn="geglu"`.
#[derive(Module, Debug)]
struct FeedForward {
    proj_in: Linear,
    proj_out: Linear,
}

impl FeedForward {
    fn new(d_model: usize, device: &Device) -> Self {
        let d_inner = 4 * d_model;
        Self {
            proj_in: LinearConfig::new(d_model, 2 * d_inner).init(device),
            proj_out: LinearConfig::new(d_inner, d_model).init(device),
        }
    }

    fn forward(&self, tokens: Tensor<3>) -> Tensor<3> {
        linear(&self.proj_out, geglu(linear(&self.proj_in, tokens)))
    }
}

/// Self-attention, cross-attention and feed-forward, each normalised before and added after.
///
/// Source: diffusers `BasicTransformerBlock` (0.42).
#[derive(Module, Debug)]
struct TransformerBlock {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff: FeedForward,
}

impl TransformerBlock {
    fn new(d_model: usize, context_dim: usize, n_heads: usize, device: &Device) -> Self {
        let norm = || LayerNormConfig::new(d_model).with_epsilon(LAYER_NORM_EPS).init(device);
        Self {
            norm1: norm(),
            attn1: Attention::new(d_model, d_model, n_heads, device),
            norm2: norm(),
            attn2: Attention::new(d_model, context_dim, n_heads, device),
            norm3: norm(),
            ff: FeedForward::new(d_model, device),
        }
    }

    fn forward(&self, tokens: Tensor<3>, context: Tensor<3>) -> Tensor<3> {
        let normed = layer_norm(&self.norm1, LAYER_NORM_EPS, tokens.clone());
        let tokens = tokens + self.attn1.forward(normed.clone(), normed);
        let normed = layer_norm(&self.norm2, LAYER_NORM_EPS, tokens.clone());
        let tokens = tokens + self.attn2.forward(normed, context);
        let normed = layer_norm(&self.norm3, LAYER_NORM_EPS, tokens.clone());
        tokens + self.ff.forward(normed)
    }
}

/// A 1x1 convolution or a linear layer: the same map over channels, stored in two shapes.
#[derive(Module, Debug)]
struct ChannelProjection {
    conv: Option<Conv2d>,
    linear: Option<Linear>,
}

impl ChannelProjection {
    fn new(projection: Projection, channels: usize, device: &Device) -> Self {
        Self {
            conv: (projection == Projection::Convolution).then(|| conv1x1(channels, channels, device)),
            linear: (projection == Projection::Linear)
                .then(|| LinearConfig::new(channels, channels).init(device)),
        }
    }

    /// `[batch, channels, height, width]` to `[batch, height * width, channels]`.
    fn to_tokens(&self, features: Tensor<4>) -> Tensor<3> {
        let features = match &self.conv {
            Some(conv) => conv2d(conv, features),
            None => features,
        };
        let tokens = features.flatten::<3>(2, 3).swap_dims(1, 2);
        match &self.linear {
            Some(projection) => linear(projection, tokens),
            None => tokens,
        }
    }

    /// `[batch, height * width, channels]` to `[batch, channels, height, width]`.
    fn to_features(&self, tokens: Tensor<3>, [height, width]: [usize; 2]) -> Tensor<4> {
        let tokens = match &self.linear {
            Some(projection) => linear(projection, tokens),
            None => tokens,
        };
        let [batch, _, channels] = tokens.dims();
        let features = tokens.swap_dims(1, 2).reshape([batch, channels, height, width]);
        match &self.conv {
            Some(conv) => conv2d(conv, features),
            None => features,
        }
    }
}

/// Transformer blocks over the pixels of a feature map, with a shortcut around them.
///
/// # Shapes
/// - features and output: `[batch, channels, height, width]`
/// - context: `[batch, prompt tokens, context_dim]`
///
/// Source: diffusers `Transformer2DModel` (0.42), continuous input.
#[derive(Module, Debug)]
pub(crate) struct SpatialTransformer {
    norm: GroupNorm,
    proj_in: ChannelProjection,
    transformer_blocks: Vec<TransformerBlock>,
    proj_out: ChannelProjection,
}

impl SpatialTransformer {
    pub(crate) fn new(
        config: &UnetConfig,
        channels: usize,
        n_blocks: usize,
        n_heads: usize,
        device: &Device,
    ) -> Self {
        let block = || TransformerBlock::new(channels, config.context_dim, n_heads, device);
        Self {
            // This epsilon is fixed, whatever the residual blocks' is.
            norm: GroupNormConfig::new(config.norm_groups, channels).with_epsilon(1e-6).init(device),
            proj_in: ChannelProjection::new(config.projection, channels, device),
            transformer_blocks: (0..n_blocks).map(|_| block()).collect(),
            proj_out: ChannelProjection::new(config.projection, channels, device),
        }
    }

    pub(crate) fn forward(&self, features: Tensor<4>, context: &Tensor<3>) -> Tensor<4> {
        let [_, _, height, width] = features.dims();
        let mut tokens = self.proj_in.to_tokens(group_norm(&self.norm, features.clone()));
        for block in &self.transformer_blocks {
            tokens = block.forward(tokens, context.clone());
        }
        features + self.proj_out.to_features(tokens, [height, width])
    }
}
