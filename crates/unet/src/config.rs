//! Typed configs: what the modules need, with no way to write down a model that cannot exist.

use burn::prelude::*;

use crate::{ControlNet, MicroConditioning, Unet};

/// Whether the blocks of a resolution level, or the middle block, have attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StageKind {
    /// Residual blocks only: `DownBlock2D`, `UpBlock2D`, and `UNetMidBlock2D`, which has just one.
    Plain,
    /// A transformer after each residual block: `CrossAttnDownBlock2D` and `CrossAttnUpBlock2D`; in
    /// `UNetMidBlock2DCrossAttn` between two of them.
    CrossAttention,
}

/// Transformer blocks in each transformer of a resolution level. Without any, a transformer is its normalisation and its
/// two projections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransformerDepth {
    /// As many in all.
    Same(usize),
    /// A number for each transformer.
    Each {
        /// On the way down, one for each residual block. The middle block takes the first of the last level's.
        down: Vec<usize>,
        /// On the way up, one more.
        up: Vec<usize>,
    },
}

impl TransformerDepth {
    /// Blocks of a transformer on the way down, counted from the first.
    #[must_use]
    pub fn down(&self, transformer_idx: usize) -> usize {
        match self {
            Self::Same(n_blocks) => *n_blocks,
            Self::Each { down, .. } => down[transformer_idx],
        }
    }

    /// Blocks of a transformer on the way up.
    #[must_use]
    pub fn up(&self, transformer_idx: usize) -> usize {
        match self {
            Self::Same(n_blocks) => *n_blocks,
            Self::Each { up, .. } => up[transformer_idx],
        }
    }
}

/// One resolution level of the UNet; each is half as wide and high as the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Attention or not.
    pub kind: StageKind,
    /// Channels of the level's features.
    pub channels: usize,
    /// Residual blocks on the way down; the way up has one more.
    pub n_resnets: usize,
    /// Transformer blocks in each transformer.
    pub depth: TransformerDepth,
    /// Attention heads. Diffusers spells this `attention_head_dim`, which it is not.
    pub n_heads: usize,
}

/// How a transformer maps features to tokens and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Projection {
    /// A 1x1 convolution before flattening (Stable Diffusion 1).
    Convolution,
    /// A linear layer after flattening (Stable Diffusion 2 and XL).
    Linear,
}

/// The sinusoidal embedding of the timestep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimeConfig {
    /// `[cos, sin]` instead of `[sin, cos]`.
    pub flip_sin_to_cos: bool,
    /// Subtracted from the number of frequencies in the exponent's denominator.
    pub freq_shift: f64,
}

/// What SDXL is told beside the prompt, see [`AddedConditioning`](crate::AddedConditioning).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextTimeConfig {
    /// Width of the pooled prompt embeddings.
    pub pooled_dim: usize,
    /// Width of the sinusoidal embedding of each of the six numbers of a
    /// [`MicroConditioning`](crate::MicroConditioning).
    pub size_dim: usize,
}

impl TextTimeConfig {
    /// Width of both together, which diffusers calls `projection_class_embeddings_input_dim`.
    #[must_use]
    pub fn input_dim(&self) -> usize {
        self.pooled_dim + MicroConditioning::LEN * self.size_dim
    }
}

/// A UNet2DCondition model.
#[derive(Debug, Clone, PartialEq)]
pub struct UnetConfig {
    /// Channels of the noisy latents.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Width and height of the latents the model was trained on, if known; nothing depends on it.
    pub sample_size: Option<usize>,
    /// Resolution levels from the finest to the coarsest; the middle block takes its channels, heads and
    /// transformer blocks from the last. Never empty.
    pub stages: Vec<Stage>,
    /// Whether the middle block has attention.
    pub mid: StageKind,
    /// Width of the prompt embeddings.
    pub context_dim: usize,
    /// Groups of every group norm.
    pub norm_groups: usize,
    /// Epsilon of the residual blocks' group norms.
    pub norm_eps: f64,
    /// Feature-to-token projection of the transformers.
    pub projection: Projection,
    /// Timestep embedding.
    pub time: TimeConfig,
    /// What is added to the timestep embedding; `None` before SDXL.
    pub added: Option<TextTimeConfig>,
    /// Width of the embedding of the guidance scale, which models distilled for few steps are told; `None` for all others.
    pub guidance_dim: Option<usize>,
    /// Recorded and written back; attention here always accumulates in f32.
    pub upcast_attention: bool,
}

/// The order of the hint's colour channels that a ControlNet was trained with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelOrder {
    /// As given.
    Rgb,
    /// Reversed before the first convolution.
    Bgr,
}

/// What happens to the residuals before they are returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// They keep their width and height.
    None,
    /// Each is averaged over width and height (`global_pool_conditions`, the shuffle ControlNet).
    Global,
}

/// The small network that brings the hint to the latents' resolution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HintConfig {
    /// Channels of the hint image.
    pub in_channels: usize,
    /// Channels of the levels; each after the first halves width and height. Never empty.
    pub channels: Vec<usize>,
}

impl Default for HintConfig {
    /// The published ControlNets': an RGB hint, eight times as wide and high as the latents.
    ///
    /// Source: diffusers `ControlNetModel` (0.42), `conditioning_embedding_out_channels`.
    fn default() -> Self {
        Self { in_channels: 3, channels: vec![16, 32, 96, 256] }
    }
}

impl HintConfig {
    /// The published channels for a VAE of another factor: cut to as many levels as it needs, or the last repeated.
    ///
    /// # Panics
    /// If `scale_factor` is not a power of two; a VAE's is.
    #[must_use]
    pub fn with_scale_factor(scale_factor: usize) -> Self {
        assert!(scale_factor.is_power_of_two(), "a scale factor is a power of two, got {scale_factor}");
        let published = Self::default();
        let n_levels = scale_factor.ilog2() as usize + 1;
        let last = published.channels[published.channels.len() - 1];
        let channels = published.channels.into_iter().chain(std::iter::repeat(last)).take(n_levels).collect();
        Self { channels, ..published }
    }

    /// How many times wider and higher the hint is than the latents.
    #[must_use]
    pub fn scale_factor(&self) -> usize {
        1 << (self.channels.len() - 1)
    }
}

/// A ControlNet for a UNet.
#[derive(Debug, Clone, PartialEq)]
pub struct ControlNetConfig {
    /// The encoder half that is copied; `out_channels`, `sample_size` and what concerns the way up play no part.
    pub unet: UnetConfig,
    /// Hint embedding.
    pub hint: HintConfig,
    /// Colour order of the hint.
    pub channel_order: ChannelOrder,
    /// Pooling of the residuals.
    pub pooling: Pooling,
}

fn attention_stage(channels: usize, n_blocks: usize, n_heads: usize) -> Stage {
    let depth = TransformerDepth::Same(n_blocks);
    Stage { kind: StageKind::CrossAttention, channels, n_resnets: 2, depth, n_heads }
}

impl UnetConfig {
    /// The Stable Diffusion 1.5 UNet: 859,520,964 parameters in 686 tensors.
    #[must_use]
    pub fn sd15() -> Self {
        Self {
            in_channels: 4,
            out_channels: 4,
            sample_size: Some(64),
            stages: vec![
                attention_stage(320, 1, 8),
                attention_stage(640, 1, 8),
                attention_stage(1280, 1, 8),
                Stage { kind: StageKind::Plain, ..attention_stage(1280, 1, 8) },
            ],
            mid: StageKind::CrossAttention,
            context_dim: 768,
            norm_groups: 32,
            norm_eps: 1e-5,
            projection: Projection::Convolution,
            time: TimeConfig { flip_sin_to_cos: true, freq_shift: 0.0 },
            added: None,
            guidance_dim: None,
            upcast_attention: false,
        }
    }

    /// The Stable Diffusion 2.1 UNet for 768 px: 865,910,724 parameters in 686 tensors.
    #[must_use]
    pub fn sd21() -> Self {
        Self {
            sample_size: Some(96),
            stages: vec![
                attention_stage(320, 1, 5),
                attention_stage(640, 1, 10),
                attention_stage(1280, 1, 20),
                Stage { kind: StageKind::Plain, ..attention_stage(1280, 1, 20) },
            ],
            context_dim: 1024,
            projection: Projection::Linear,
            upcast_attention: true,
            ..Self::sd15()
        }
    }

    /// The Stable Diffusion XL UNet: 2,567,463,684 parameters in 1680 tensors.
    #[must_use]
    pub fn sdxl() -> Self {
        Self {
            sample_size: Some(128),
            stages: vec![
                Stage { kind: StageKind::Plain, ..attention_stage(320, 1, 5) },
                attention_stage(640, 2, 10),
                attention_stage(1280, 10, 20),
            ],
            context_dim: 2048,
            projection: Projection::Linear,
            added: Some(TextTimeConfig { pooled_dim: 1280, size_dim: 256 }),
            ..Self::sd15()
        }
    }

    /// Width of the timestep embedding.
    #[must_use]
    pub fn time_dim(&self) -> usize {
        4 * self.stages[0].channels
    }

    /// Makes the module. Weights are allocated when first used, so that loading never initialises them.
    ///
    /// # Panics
    /// If `stages` is empty; a config made by `TryFrom` never is.
    #[must_use]
    pub fn init(&self, device: &Device) -> Unet {
        Unet::new(self, device)
    }
}

impl ControlNetConfig {
    /// A ControlNet for this UNet with the default hint embedding.
    #[must_use]
    pub fn for_unet(unet: &UnetConfig) -> Self {
        Self {
            unet: unet.clone(),
            hint: HintConfig::default(),
            channel_order: ChannelOrder::Rgb,
            pooling: Pooling::None,
        }
    }

    /// Makes the module, its zero convolutions zero. Weights are allocated when first used.
    ///
    /// # Panics
    /// If `unet.stages` or `hint.channels` is empty; a config made by `TryFrom` never has that.
    #[must_use]
    pub fn init(&self, device: &Device) -> ControlNet {
        ControlNet::new(self, device)
    }
}
