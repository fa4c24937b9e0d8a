//! The blocks of one resolution level, on the way down, in the middle and on the way up.

use burn::prelude::*;

use crate::resample::{Downsample, Upsample};
use crate::resnet::ResnetBlock;
use crate::transformer::SpatialTransformer;
use crate::{Stage, StageKind, UnetConfig};

/// A transformer for each number of blocks, if the kind has attention.
fn attentions(
    config: &UnetConfig,
    stage: &Stage,
    depths: impl Iterator<Item = usize>,
    device: &Device,
) -> Option<Vec<SpatialTransformer>> {
    let transformer =
        |n_blocks| SpatialTransformer::new(config, stage.channels, n_blocks, stage.n_heads, device);
    (stage.kind == StageKind::CrossAttention).then(|| depths.map(transformer).collect())
}

/// Residual blocks, each with its transformer if the level has attention, then a downsampler.
///
/// Source: diffusers `CrossAttnDownBlock2D` and `DownBlock2D` (0.42).
#[derive(Module, Debug)]
pub(crate) struct DownBlock {
    resnets: Vec<ResnetBlock>,
    attentions: Option<Vec<SpatialTransformer>>,
    downsamplers: Option<Vec<Downsample>>,
}

impl DownBlock {
    /// The down blocks of all levels, finest first.
    pub(crate) fn all(config: &UnetConfig, device: &Device) -> Vec<Self> {
        let last = config.stages.len() - 1;
        let mut channels_in = config.stages[0].channels;
        let block = |(stage_idx, stage): (usize, &Stage)| {
            let resnets = (0..stage.n_resnets)
                .map(|_| {
                    let resnet = ResnetBlock::new(config, channels_in, stage.channels, device);
                    channels_in = stage.channels;
                    resnet
                })
                .collect();
            Self {
                resnets,
                attentions: attentions(
                    config,
                    stage,
                    (0..stage.n_resnets).map(|idx| stage.depth.down(idx)),
                    device,
                ),
                downsamplers: (stage_idx != last).then(|| vec![Downsample::new(stage.channels, device)]),
            }
        };
        config.stages.iter().enumerate().map(block).collect()
    }

    /// Number of steps, each of which makes one skip.
    pub(crate) fn n_steps(&self) -> usize {
        self.resnets.len() + self.downsamplers.as_ref().map_or(0, Vec::len)
    }

    /// A residual block with its transformer or, after those, the downsampler.
    pub(crate) fn step(
        &self,
        step_idx: usize,
        features: Tensor<4>,
        time: &Tensor<2>,
        context: &Tensor<3>,
    ) -> Tensor<4> {
        let Some(resnet) = self.resnets.get(step_idx) else {
            let downsamplers = self.downsamplers.as_ref().expect("a step after the residual blocks'");
            return downsamplers[step_idx - self.resnets.len()].forward(features);
        };
        let features = resnet.forward(features, time.clone());
        match &self.attentions {
            Some(attentions) => attentions[step_idx].forward(features, context),
            None => features,
        }
    }
}

/// A residual block at the coarsest resolution, and, with attention, a transformer and another one.
///
/// Source: diffusers `UNetMidBlock2DCrossAttn` and `UNetMidBlock2D` (0.42).
#[derive(Module, Debug)]
pub(crate) struct MidBlock {
    resnets: Vec<ResnetBlock>,
    attentions: Option<Vec<SpatialTransformer>>,
}

impl MidBlock {
    pub(crate) fn new(config: &UnetConfig, device: &Device) -> Self {
        let last = config.stages.last().expect("a config has at least one stage");
        let stage = Stage { kind: config.mid, ..last.clone() };
        let attentions = attentions(config, &stage, std::iter::once(stage.depth.down(0)), device);
        let n_resnets = 1 + attentions.as_ref().map_or(0, Vec::len);
        let resnet = || ResnetBlock::new(config, stage.channels, stage.channels, device);
        Self { resnets: (0..n_resnets).map(|_| resnet()).collect(), attentions }
    }

    pub(crate) fn forward(&self, features: Tensor<4>, time: &Tensor<2>, context: &Tensor<3>) -> Tensor<4> {
        let features = self.resnets[0].forward(features, time.clone());
        let attentions = self.attentions.iter().flatten();
        attentions.zip(&self.resnets[1..]).fold(features, |features, (attention, resnet)| {
            resnet.forward(attention.forward(features, context), time.clone())
        })
    }
}

/// Residual blocks that each take one skip connection, their transformers, then an upsampler.
///
/// Source: diffusers `CrossAttnUpBlock2D` and `UpBlock2D` (0.42).
#[derive(Module, Debug)]
pub(crate) struct UpBlock {
    resnets: Vec<ResnetBlock>,
    attentions: Option<Vec<SpatialTransformer>>,
    upsamplers: Option<Vec<Upsample>>,
}

impl UpBlock {
    /// The up blocks of all levels, coarsest first.
    pub(crate) fn all(config: &UnetConfig, device: &Device) -> Vec<Self> {
        let stages = &config.stages;
        let mut channels_in = stages.last().expect("a config has at least one stage").channels;
        let block = |(stage_idx, stage): (usize, &Stage)| {
            // The last skip of a level is what the next finer level handed down to it.
            let finer = &stages[stage_idx.saturating_sub(1)];
            let resnets = (0..=stage.n_resnets)
                .map(|idx| {
                    let skip_channels = if idx == stage.n_resnets { finer.channels } else { stage.channels };
                    let resnet =
                        ResnetBlock::new(config, channels_in + skip_channels, stage.channels, device);
                    channels_in = stage.channels;
                    resnet
                })
                .collect();
            Self {
                resnets,
                attentions: attentions(
                    config,
                    stage,
                    (0..=stage.n_resnets).map(|idx| stage.depth.up(idx)),
                    device,
                ),
                upsamplers: (stage_idx != 0).then(|| vec![Upsample::new(stage.channels, device)]),
            }
        };
        stages.iter().enumerate().rev().map(block).collect()
    }

    /// Number of steps, each of which takes one skip.
    pub(crate) fn n_steps(&self) -> usize {
        self.resnets.len()
    }

    /// A residual block over the features and a skip, with its transformer.
    pub(crate) fn step(
        &self,
        step_idx: usize,
        features: Tensor<4>,
        skip: Tensor<4>,
        time: &Tensor<2>,
        context: &Tensor<3>,
    ) -> Tensor<4> {
        let features = self.resnets[step_idx].forward(Tensor::cat(vec![features, skip], 1), time.clone());
        match &self.attentions {
            Some(attentions) => attentions[step_idx].forward(features, context),
            None => features,
        }
    }

    /// Whether a finer level follows.
    pub(crate) fn upsamples(&self) -> bool {
        self.upsamplers.as_ref().is_some_and(|upsamplers| !upsamplers.is_empty())
    }

    /// Brings the features to the size of the finer level, if one follows.
    pub(crate) fn upsample(&self, features: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
        let upsamplers = self.upsamplers.iter().flatten();
        upsamplers.fold(features, |features, upsampler| upsampler.forward(features, size))
    }
}
