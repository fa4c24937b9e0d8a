//! ControlNet: a trainable copy of the UNet's encoder whose residuals steer the frozen UNet.

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::nn::conv::Conv2d;
use burn::prelude::*;
use burn::tensor::TensorData;
use pyrograph_kernels::conv2d;
use rand::{Rng, RngExt};

use crate::hint::HintEmbedding;
use crate::resnet::{conv1x1, conv3x3};
use crate::stage::{DownBlock, MidBlock};
use crate::time::{TimeFeatures, TimeProjection, TimestepEmbedding};
use crate::{ChannelOrder, Conditioning, ControlNetConfig, Pooling, Unet};

/// What a ControlNet adds to a UNet.
#[derive(Debug, Clone)]
pub struct Residuals {
    /// One for each skip connection, in the encoder's order, each `[batch, channels, height, width]`, or
    /// `[batch, channels, 1, 1]` if the ControlNet pools.
    pub down: Vec<Tensor<4>>,
    /// For the middle block's output.
    pub mid: Tensor<4>,
}

/// How strongly the residuals act at the different depths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlMode {
    /// All alike.
    Balanced,
    /// From 0.1 at the finest to 1.0 at the coarsest: with no prompt, the hint alone decides.
    Guess,
}

/// ControlNet. It computes in the element type of its input, as the UNet.
///
/// Source: Zhang et al. 2023, figure 3; diffusers `ControlNetModel` (0.42).
#[derive(Module, Debug)]
pub struct ControlNet {
    conv_in: Conv2d,
    time_embedding: TimestepEmbedding,
    add_embedding: Option<TimestepEmbedding>,
    controlnet_cond_embedding: HintEmbedding,
    pub(crate) down_blocks: Vec<DownBlock>,
    pub(crate) mid_block: MidBlock,
    controlnet_down_blocks: Vec<Conv2d>,
    controlnet_mid_block: Conv2d,
    #[module(skip)]
    pub(crate) time_proj: TimeProjection,
    #[module(skip)]
    channel_order: ChannelOrder,
    #[module(skip)]
    pooling: Pooling,
}

/// Makes a convolution the zero map, before its weights are ever allocated.
///
/// Zero convolutions (section 3.1 of the paper) make the controlled UNet equal the frozen one at step 0.
pub(crate) fn zeroed(conv: Conv2d) -> Conv2d {
    fn zeros<const D: usize>(param: &Param<Tensor<D>>) -> Param<Tensor<D>> {
        let shape = param.lazy_shape();
        let init_shape = shape.clone();
        Param::uninitialized(
            param.id,
            move |device, require_grad| Tensor::zeros(init_shape, device).set_require_grad(require_grad),
            param.lazy_device(),
            true,
            shape,
        )
    }
    Conv2d { weight: zeros(&conv.weight), bias: conv.bias.as_ref().map(zeros), ..conv }
}

impl ControlNet {
    pub(crate) fn new(config: &ControlNetConfig, device: &Device) -> Self {
        let unet = &config.unet;
        let channels = unet.stages[0].channels;
        let last = unet.stages.len() - 1;
        // One zero convolution for conv_in, each residual block and each downsampler.
        let skip_channels = unet.stages.iter().enumerate().flat_map(|(stage_idx, stage)| {
            std::iter::repeat_n(stage.channels, stage.n_resnets + usize::from(stage_idx != last))
        });
        let zero_conv = |channels| zeroed(conv1x1(channels, channels, device));
        Self {
            conv_in: conv3x3(unet.in_channels, channels, device),
            time_embedding: TimestepEmbedding::new(channels, unet.time_dim(), device),
            add_embedding: TimestepEmbedding::added(unet, device),
            controlnet_cond_embedding: HintEmbedding::new(&config.hint, channels, device),
            down_blocks: DownBlock::all(unet, device),
            mid_block: MidBlock::new(unet, device),
            controlnet_down_blocks: std::iter::once(channels).chain(skip_channels).map(zero_conv).collect(),
            controlnet_mid_block: zero_conv(unet.stages[last].channels),
            time_proj: TimeProjection::new(unet),
            channel_order: config.channel_order,
            pooling: config.pooling,
        }
    }

    /// A ControlNet that starts as a copy of the UNet's encoder.
    ///
    /// The copied weights are fresh leaves on `device` with their own ids, so that training them leaves the
    /// UNet alone. The hint embedding is drawn from `rng`: uniform within `1 / sqrt(fan_in)`, its last
    /// convolution zero.
    ///
    /// # Panics
    /// If `unet` was not made from `config.unet`.
    ///
    /// Source: diffusers `ControlNetModel.from_unet` (0.42).
    #[must_use]
    pub fn from_unet(unet: &Unet, config: &ControlNetConfig, rng: &mut impl Rng, device: &Device) -> Self {
        let mut controlnet = config.init(device);
        assert_eq!(unet.down_blocks.len(), controlnet.down_blocks.len(), "the UNet of this config");
        let mut fresh = FreshLeaves { device: device.clone() };
        controlnet.conv_in = unet.conv_in.clone().map(&mut fresh);
        controlnet.time_embedding = unet.time_embedding.clone().without_guidance().map(&mut fresh);
        controlnet.add_embedding = unet.add_embedding.clone().map(|embedding| embedding.map(&mut fresh));
        controlnet.down_blocks = unet.down_blocks.clone().map(&mut fresh);
        controlnet.mid_block = unet.mid_block.clone().map(&mut fresh);
        let hint = &mut controlnet.controlnet_cond_embedding;
        for conv in std::iter::once(&mut hint.conv_in).chain(&mut hint.blocks) {
            draw_uniform(conv, rng, device);
        }
        controlnet
    }

    /// The residuals for noisy latents and a hint.
    ///
    /// # Shapes
    /// - noisy_latents: `[batch, in_channels, height, width]`
    /// - timesteps: one per sample
    /// - hint: `[batch, hint channels, scale * height, scale * width]`, values in [0, 1]
    ///
    /// # Panics
    /// If the conditioning is of another model, see [`UnetConfig::check_conditioning`](crate::UnetConfig).
    #[must_use]
    pub fn forward(
        &self,
        noisy_latents: Tensor<4>,
        timesteps: &[f32],
        conditioning: &Conditioning,
        hint: Tensor<4>,
    ) -> Residuals {
        self.forward_embedded(noisy_latents, timesteps, conditioning, self.embed_hint(hint))
    }

    /// The hint as features of the latents' size; it does not depend on the timestep, so that a sampler needs it once.
    ///
    /// # Shapes
    /// - hint: `[batch, hint channels, scale * height, scale * width]`, values in [0, 1]
    /// - output: `[batch, channels of the first stage, height, width]`
    #[must_use]
    pub fn embed_hint(&self, hint: Tensor<4>) -> Tensor<4> {
        let hint = match self.channel_order {
            ChannelOrder::Rgb => hint,
            ChannelOrder::Bgr => hint.flip([1]),
        };
        self.controlnet_cond_embedding.forward(hint)
    }

    /// [`ControlNet::forward`] with the output of [`ControlNet::embed_hint`] in the hint's place.
    ///
    /// # Panics
    /// As [`ControlNet::forward`].
    #[must_use]
    pub fn forward_embedded(
        &self,
        noisy_latents: Tensor<4>,
        timesteps: &[f32],
        conditioning: &Conditioning,
        hint_embedding: Tensor<4>,
    ) -> Residuals {
        let time = self.embed_time(self.time_proj.forward(timesteps, conditioning));
        let (time, context) = (time.cast(noisy_latents.dtype()), &conditioning.context);
        let mut features = self.input(noisy_latents, hint_embedding);
        let mut down = vec![self.residual(0, features.clone())];
        for (block_idx, step_idx) in self.down_steps() {
            features = self.down_blocks[block_idx].step(step_idx, features, &time, context);
            down.push(self.residual(down.len(), features.clone()));
        }
        Residuals { down, mid: self.mid_residual(self.mid_block.forward(features, &time, context)) }
    }

    /// What every residual block is given, in f32.
    pub(crate) fn embed_time(&self, features: TimeFeatures) -> Tensor<2> {
        features.embed(&self.time_embedding, self.add_embedding.as_ref())
    }

    /// What the first block is given.
    pub(crate) fn input(&self, noisy_latents: Tensor<4>, hint_embedding: Tensor<4>) -> Tensor<4> {
        conv2d(&self.conv_in, noisy_latents) + hint_embedding
    }

    /// The steps of all down blocks in order: block and step in it.
    pub(crate) fn down_steps(&self) -> Vec<(usize, usize)> {
        let steps = |(block_idx, block): (usize, &DownBlock)| {
            (0..block.n_steps()).map(move |step_idx| (block_idx, step_idx))
        };
        self.down_blocks.iter().enumerate().flat_map(steps).collect()
    }

    /// The residual of a skip connection, counted from the input's.
    pub(crate) fn residual(&self, skip_idx: usize, features: Tensor<4>) -> Tensor<4> {
        self.pool(conv2d(&self.controlnet_down_blocks[skip_idx], features))
    }

    /// The residual of the middle block.
    pub(crate) fn mid_residual(&self, features: Tensor<4>) -> Tensor<4> {
        self.pool(conv2d(&self.controlnet_mid_block, features))
    }

    /// The mode in which this ControlNet runs when asked for `mode`: one that pools its residuals always guesses.
    ///
    /// Source: diffusers `StableDiffusionControlNetPipeline` (0.42), `guess_mode or global_pool_conditions`.
    #[must_use]
    pub fn effective_mode(&self, mode: ControlMode) -> ControlMode {
        if self.pooling == Pooling::Global { ControlMode::Guess } else { mode }
    }

    /// The factors by which [`Residuals::scaled`] multiplies, the middle block's last.
    ///
    /// # Shapes
    /// - one for each down residual and one for the middle
    ///
    /// Source: diffusers `ControlNetModel.forward` (0.42), `logspace(-1, 0, n)`; pooled residuals are not graded.
    #[must_use]
    pub fn residual_scales(&self, mode: ControlMode, conditioning_scale: f64) -> Vec<f64> {
        let n_down = self.controlnet_down_blocks.len();
        let graded = mode == ControlMode::Guess && self.pooling == Pooling::None;
        (0..=n_down)
            .map(|idx| if graded { 10.0_f64.powf(idx as f64 / n_down as f64 - 1.0) } else { 1.0 })
            .map(|grade| grade * conditioning_scale)
            .collect()
    }

    /// The zero convolutions: one for each down residual, from the finest to the coarsest, then the middle's.
    pub fn zero_convs(&self) -> impl Iterator<Item = &Conv2d> {
        self.controlnet_down_blocks.iter().chain([&self.controlnet_mid_block])
    }

    fn pool(&self, residual: Tensor<4>) -> Tensor<4> {
        match self.pooling {
            Pooling::None => residual,
            Pooling::Global => residual.mean_dim(2).mean_dim(3),
        }
    }
}

impl Residuals {
    /// The middle block's residual alone; those of the skips are zero, and nothing flows back through them.
    ///
    /// Source: `only_mid_control` of the original ControlNet code.
    #[must_use]
    pub fn only_mid(self) -> Self {
        Self { down: self.down.iter().map(Tensor::zeros_like).collect(), mid: self.mid }
    }

    /// What two ControlNets add together. One of them may pool, see [`Pooling`].
    ///
    /// # Panics
    /// If they are for different UNets.
    ///
    /// Source: diffusers `MultiControlNetModel` (0.42).
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        assert_eq!(self.down.len(), other.down.len(), "ControlNets for one UNet");
        let down = self.down.into_iter().zip(other.down).map(|(left, right)| left + right);
        Self { down: down.collect(), mid: self.mid + other.mid }
    }

    /// Multiplies each residual by its scale, see [`ControlNet::residual_scales`].
    ///
    /// # Panics
    /// If `scales` does not hold one factor for each residual.
    #[must_use]
    pub fn scaled(self, scales: &[f64]) -> Self {
        let (mid_scale, down_scales) = scales.split_last().expect("at least the middle's scale");
        assert_eq!(down_scales.len(), self.down.len(), "one scale for each residual");
        Self {
            down: self.down.into_iter().zip(down_scales).map(|(residual, scale)| residual * *scale).collect(),
            mid: self.mid * *mid_scale,
        }
    }
}

/// Copies parameters to new trainable leaves with new ids.
struct FreshLeaves {
    device: Device,
}

impl ModuleMapper for FreshLeaves {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let value = param.val().inner();
        let value = if self.device.is_autodiff() { value.autodiff() } else { value };
        let mut leaf = Param::from_tensor(value.to_device(&self.device));
        leaf.id = ParamId::new();
        leaf
    }
}

/// PyTorch's default initialisation of a convolution, from our own random numbers.
#[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
fn draw_uniform(conv: &mut Conv2d, rng: &mut impl Rng, device: &Device) {
    let [channels_out, channels_in, height, width] = conv.weight.lazy_shape().dims();
    let fan_in = channels_in * height * width;
    let bound = 1.0 / (fan_in as f64).sqrt();
    let mut draw =
        |count: usize| -> Vec<f32> { (0..count).map(|_| rng.random_range(-bound..bound) as f32).collect() };
    let weight = TensorData::new(draw(channels_out * fan_in), [channels_out, channels_in, height, width]);
    let bias = TensorData::new(draw(channels_out), [channels_out]);
    conv.weight = Param::from_data(weight, device);
    conv.bias = Some(Param::from_data(bias, device));
}
