//! The UNet that predicts the noise (or the velocity) in latents, given the timestep and the prompt.

use burn::module::{ModuleMapper, Param};
use burn::nn::conv::Conv2d;
use burn::nn::{GroupNorm, GroupNormConfig};
use burn::prelude::*;
use pyrograph_kernels::{conv2d, group_norm_silu};

use crate::resnet::conv3x3;
use crate::stage::{DownBlock, MidBlock, UpBlock};
use crate::time::{TimeProjection, TimestepEmbedding};
use crate::{Conditioning, Residuals, UnetConfig};

/// UNet2DCondition.
///
/// It computes in the element type of its input, whatever that of its weights is; the context must have the same.
/// It runs in two halves. A ControlNet's residuals join after the encoder, so in training only the decoder
/// needs gradients: [`Unet::encode`] runs on plain tensors, [`Unet::decode`] is where autodiff begins.
///
/// Source: diffusers `UNet2DConditionModel` (0.42).
#[derive(Module, Debug)]
pub struct Unet {
    pub(crate) conv_in: Conv2d,
    pub(crate) time_embedding: TimestepEmbedding,
    pub(crate) add_embedding: Option<TimestepEmbedding>,
    pub(crate) down_blocks: Vec<DownBlock>,
    pub(crate) mid_block: MidBlock,
    pub(crate) up_blocks: Vec<UpBlock>,
    pub(crate) conv_norm_out: GroupNorm,
    pub(crate) conv_out: Conv2d,
    #[module(skip)]
    time_proj: TimeProjection,
}

/// What the encoder hands to the decoder.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// Feature maps of the skip connections, from `conv_in` on, each `[batch, channels, height, width]`.
    pub skips: Vec<Tensor<4>>,
    /// The middle block's output, `[batch, channels, height, width]`.
    pub mid: Tensor<4>,
    pub(crate) time: Tensor<2>,
}

impl Unet {
    pub(crate) fn new(config: &UnetConfig, device: &Device) -> Self {
        let channels = config.stages[0].channels;
        Self {
            conv_in: conv3x3(config.in_channels, channels, device),
            time_embedding: TimestepEmbedding::new(channels, config.time_dim(), device)
                .with_guidance(config, device),
            add_embedding: TimestepEmbedding::added(config, device),
            down_blocks: DownBlock::all(config, device),
            mid_block: MidBlock::new(config, device),
            up_blocks: UpBlock::all(config, device),
            conv_norm_out: GroupNormConfig::new(config.norm_groups, channels)
                .with_epsilon(config.norm_eps)
                .init(device),
            conv_out: conv3x3(channels, config.out_channels, device),
            time_proj: TimeProjection::new(config),
        }
    }

    /// The same UNet with a decoder to train: its parameters become leaves of an autodiff graph, all others stay plain.
    ///
    /// Source: the original ControlNet code, `cldm/cldm.py`, `sd_locked = False`.
    #[must_use]
    pub fn with_trainable_decoder(self) -> Self {
        Self {
            up_blocks: self.up_blocks.map(&mut Trainable),
            conv_norm_out: self.conv_norm_out.map(&mut Trainable),
            conv_out: self.conv_out.map(&mut Trainable),
            ..self
        }
    }

    /// The number of the decoder's parameters.
    #[must_use]
    pub fn n_decoder_params(&self) -> usize {
        self.up_blocks.num_params() + self.conv_norm_out.num_params() + self.conv_out.num_params()
    }

    /// `conv_in`, down blocks and middle block.
    ///
    /// # Shapes
    /// - noisy_latents: `[batch, in_channels, height, width]`
    /// - timesteps: one per sample
    ///
    /// # Panics
    /// If the conditioning is of another model, see [`UnetConfig::check_conditioning`].
    #[must_use]
    pub fn encode(
        &self,
        noisy_latents: Tensor<4>,
        timesteps: &[f32],
        conditioning: &Conditioning,
    ) -> Encoded {
        let time = self.time_proj.forward(timesteps, conditioning);
        let time = time.embed(&self.time_embedding, self.add_embedding.as_ref()).cast(noisy_latents.dtype());
        let context = &conditioning.context;
        let mut features = conv2d(&self.conv_in, noisy_latents);
        let mut skips = vec![features.clone()];
        for block in &self.down_blocks {
            for step_idx in 0..block.n_steps() {
                features = block.step(step_idx, features, &time, context);
                skips.push(features.clone());
            }
        }
        let mid = self.mid_block.forward(features, &time, context);
        Encoded { skips, mid, time }
    }

    /// Up blocks and `conv_out`, after adding a ControlNet's residuals to the skips and the middle.
    ///
    /// # Shapes
    /// - context: `[batch, prompt tokens, context_dim]`
    /// - output: `[batch, out_channels, height, width]`
    ///
    /// # Panics
    /// If the residuals come from a ControlNet for another UNet.
    #[must_use]
    pub fn decode(&self, encoded: Encoded, context: &Tensor<3>, residuals: Option<Residuals>) -> Tensor<4> {
        let Encoded { mut skips, mid: mut features, time } = encoded;
        if let Some(residuals) = residuals {
            assert_eq!(skips.len(), residuals.down.len(), "one residual for each skip");
            skips = skips.into_iter().zip(residuals.down).map(|(skip, residual)| skip + residual).collect();
            features = features + residuals.mid;
        }
        for block in &self.up_blocks {
            for step_idx in 0..block.n_steps() {
                let skip = skips.pop().expect("one skip per residual block, by construction of both halves");
                features = block.step(step_idx, features, skip, &time, context);
            }
            if let Some(skip) = skips.last() {
                features = block.upsample(features, size(skip));
            }
        }
        conv2d(&self.conv_out, group_norm_silu(&self.conv_norm_out, features))
    }

    /// Both halves: the prediction for noisy latents.
    ///
    /// # Shapes
    /// - noisy_latents: `[batch, in_channels, height, width]`
    /// - timesteps: one per sample
    /// - output: `[batch, out_channels, height, width]`
    ///
    /// # Panics
    /// If the conditioning or the residuals are of another model.
    #[must_use]
    pub fn forward(
        &self,
        noisy_latents: Tensor<4>,
        timesteps: &[f32],
        conditioning: &Conditioning,
        residuals: Option<Residuals>,
    ) -> Tensor<4> {
        let encoded = self.encode(noisy_latents, timesteps, conditioning);
        self.decode(encoded, &conditioning.context, residuals)
    }
}

struct Trainable;

impl ModuleMapper for Trainable {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|value| value.inner().autodiff().require_grad())
    }
}

/// Height and width.
pub(crate) fn size(features: &Tensor<4>) -> [usize; 2] {
    let [_, _, height, width] = features.dims();
    [height, width]
}
