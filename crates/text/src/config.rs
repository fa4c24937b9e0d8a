//! The typed config: what the text encoder needs, free of transformers' spelling.

use burn::prelude::*;

use crate::ClipTextModel;

/// The nonlinearity of the feed-forward layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(1.702 x)`, as in OpenAI's CLIP.
    QuickGelu,
    /// The exact GELU, as in OpenCLIP.
    Gelu,
}

/// The linear layer on top of the model, which maps the pooled state to the space that text and pictures share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextProjection {
    /// There is none (`CLIPTextModel`). The width that it would have is recorded and written back.
    Absent(Option<usize>),
    /// To this width (`CLIPTextModelWithProjection`).
    To(usize),
}

/// A CLIP text encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipTextConfig {
    /// Number of tokens it knows.
    pub vocab_size: usize,
    /// Longest sequence of tokens (`max_position_embeddings`).
    pub max_tokens: usize,
    /// Width of the model (`hidden_size`).
    pub d_model: usize,
    /// Width inside the feed-forward layers (`intermediate_size`).
    pub d_ff: usize,
    /// Number of layers.
    pub n_layers: usize,
    /// Heads of each attention; divides `d_model`.
    pub n_heads: usize,
    /// Nonlinearity of the feed-forward layers (`hidden_act`).
    pub activation: Activation,
    /// Epsilon of every layer norm.
    pub layer_norm_eps: f64,
    /// What is on top of the model.
    pub projection: TextProjection,
    /// The token that begins a prompt.
    pub bos_token_id: Option<u32>,
    /// The token that ends a prompt.
    pub eos_token_id: Option<u32>,
    /// The token that fills a prompt up, as far as the model cares (the tokenizer may use another).
    pub pad_token_id: Option<u32>,
}

impl ClipTextConfig {
    /// The text encoder of Stable Diffusion 1.x and the first one of XL, CLIP ViT-L/14: 123,060,480 parameters in 196 tensors.
    #[must_use]
    pub fn clip_l() -> Self {
        Self {
            vocab_size: 49408,
            max_tokens: 77,
            d_model: 768,
            d_ff: 3072,
            n_layers: 12,
            n_heads: 12,
            activation: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            projection: TextProjection::Absent(Some(768)),
            bos_token_id: Some(0),
            eos_token_id: Some(2),
            pad_token_id: Some(1),
        }
    }

    /// The text encoder of Stable Diffusion 2.x, OpenCLIP ViT-H/14 without its last layer: 340,387,840 parameters in 372
    /// tensors.
    #[must_use]
    pub fn open_clip_h() -> Self {
        Self {
            d_model: 1024,
            d_ff: 4096,
            n_layers: 23,
            n_heads: 16,
            activation: Activation::Gelu,
            projection: TextProjection::Absent(Some(512)),
            ..Self::clip_l()
        }
    }

    /// The second text encoder of Stable Diffusion XL, OpenCLIP ViT-bigG/14: 694,659,840 parameters in 517 tensors.
    #[must_use]
    pub fn open_clip_big_g() -> Self {
        Self {
            d_model: 1280,
            d_ff: 5120,
            n_layers: 32,
            n_heads: 20,
            activation: Activation::Gelu,
            projection: TextProjection::To(1280),
            ..Self::clip_l()
        }
    }

    /// Width of [`ClipTextOutput::pooled`](crate::ClipTextOutput::pooled).
    #[must_use]
    pub fn pooled_dim(&self) -> usize {
        match self.projection {
            TextProjection::Absent(_) => self.d_model,
            TextProjection::To(dim) => dim,
        }
    }

    /// Makes the module. Weights are allocated when first used, so that loading never initialises them.
    #[must_use]
    pub fn init(&self, device: &Device) -> ClipTextModel {
        ClipTextModel::new(self, device)
    }
}
