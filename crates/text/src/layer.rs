//! One layer of the transformer.

use burn::nn::{Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::prelude::*;
use burn::tensor::activation::{gelu, sigmoid};
use pyrograph_kernels::{causal_attention, layer_norm, linear, merge_heads, split_heads};

use crate::{Activation, ClipTextConfig};

pub(crate) fn new_layer_norm(config: &ClipTextConfig, device: &Device) -> LayerNorm {
    LayerNormConfig::new(config.d_model).with_epsilon(config.layer_norm_eps).init(device)
}

/// A linear layer with normal weights and a zero bias.
fn new_linear(d_input: usize, d_output: usize, std: f64, device: &Device) -> Linear {
    let mut layer = LinearConfig::new(d_input, d_output)
        .with_initializer(Initializer::Normal { mean: 0.0, std })
        .init(device);
    layer.bias = Some(Initializer::Zeros.init([d_output], device));
    layer
}

/// The standard deviation of layers that feed the residual sum, and of the attention's inputs: smaller the deeper
/// the model.
///
/// Source: transformers `CLIPPreTrainedModel._init_weights` (5.23), `in_proj_std`.
#[expect(clippy::cast_precision_loss, reason = "widths and depths are far below 2^52")]
fn deep_std(config: &ClipTextConfig) -> f64 {
    (config.d_model as f64 * 2.0 * config.n_layers as f64).powf(-0.5)
}

/// The projection of the pooled state, without a bias.
///
/// Source: transformers `CLIPPreTrainedModel._init_weights` (5.23).
#[expect(clippy::cast_precision_loss, reason = "widths are far below 2^52")]
pub(crate) fn new_projection(d_model: usize, width: usize, device: &Device) -> Linear {
    let std = (d_model as f64).powf(-0.5);
    LinearConfig::new(d_model, width)
        .with_bias(false)
        .with_initializer(Initializer::Normal { mean: 0.0, std })
        .init(device)
}

/// Attention of every token to itself and those before it.
///
/// # Shapes
/// - input and output: `[batch, tokens, d_model]`
///
/// Source: transformers `CLIPAttention` (5.23).
#[derive(Module, Debug)]
struct ClipAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    n_heads: usize,
}

impl ClipAttention {
    #[expect(clippy::cast_precision_loss, reason = "widths are far below 2^52")]
    fn new(config: &ClipTextConfig, device: &Device) -> Self {
        let d_model = config.d_model;
        let projection = |std| new_linear(d_model, d_model, std, device);
        Self {
            q_proj: projection(deep_std(config)),
            k_proj: projection(deep_std(config)),
            v_proj: projection(deep_std(config)),
            out_proj: projection((d_model as f64).powf(-0.5)),
            n_heads: config.n_heads,
        }
    }

    fn forward(&self, tokens: Tensor<3>) -> Tensor<3> {
        let heads = |projection: &Linear, tokens| split_heads(linear(projection, tokens), self.n_heads);
        let query = heads(&self.q_proj, tokens.clone());
        let key = heads(&self.k_proj, tokens.clone());
        let value = heads(&self.v_proj, tokens);
        linear(&self.out_proj, merge_heads(causal_attention(query, key, value)))
    }
}

/// The feed-forward layers.
///
/// # Shapes
/// - input and output: `[batch, tokens, d_model]`
///
/// Source: transformers `CLIPMLP` (5.23).
#[derive(Module, Debug)]
struct ClipMlp {
    fc1: Linear,
    fc2: Linear,
    #[module(skip)]
    activation: Activation,
}

impl ClipMlp {
    #[expect(clippy::cast_precision_loss, reason = "widths are far below 2^52")]
    fn new(config: &ClipTextConfig, device: &Device) -> Self {
        let (d_model, d_ff) = (config.d_model, config.d_ff);
        Self {
            fc1: new_linear(d_model, d_ff, (2.0 * d_model as f64).powf(-0.5), device),
            fc2: new_linear(d_ff, d_model, deep_std(config), device),
            activation: config.activation,
        }
    }

    fn forward(&self, tokens: Tensor<3>) -> Tensor<3> {
        let hidden = linear(&self.fc1, tokens);
        let hidden = match self.activation {
            Activation::QuickGelu => quick_gelu(hidden),
            Activation::Gelu => gelu(hidden),
        };
        linear(&self.fc2, hidden)
    }
}

/// `x * sigmoid(1.702 x)`, CLIP's approximation of the GELU.
fn quick_gelu(hidden: Tensor<3>) -> Tensor<3> {
    hidden.clone() * sigmoid(hidden * 1.702)
}

/// Attention and feed-forward, each on normalised input and added to the residual sum.
///
/// # Shapes
/// - input and output: `[batch, tokens, d_model]`
///
/// Source: transformers `CLIPEncoderLayer` (5.23).
#[derive(Module, Debug)]
pub(crate) struct ClipLayer {
    self_attn: ClipAttention,
    layer_norm1: LayerNorm,
    mlp: ClipMlp,
    layer_norm2: LayerNorm,
    layer_norm_eps: f64,
}

impl ClipLayer {
    pub(crate) fn new(config: &ClipTextConfig, device: &Device) -> Self {
        Self {
            self_attn: ClipAttention::new(config, device),
            layer_norm1: new_layer_norm(config, device),
            mlp: ClipMlp::new(config, device),
            layer_norm2: new_layer_norm(config, device),
            layer_norm_eps: config.layer_norm_eps,
        }
    }

    pub(crate) fn forward(&self, tokens: Tensor<3>) -> Tensor<3> {
        let normed = layer_norm(&self.layer_norm1, self.layer_norm_eps, tokens.clone());
        let tokens = tokens + self.self_attn.forward(normed);
        let normed = layer_norm(&self.layer_norm2, self.layer_norm_eps, tokens.clone());
        tokens + self.mlp.forward(normed)
    }
}
