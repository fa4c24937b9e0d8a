//! Halving and doubling width and height.

use burn::nn::PaddingConfig2d;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::prelude::*;
use pyrograph_kernels::{conv2d, upsample_nearest};

use crate::resnet::conv3x3;

/// A strided convolution; odd sizes are rounded up.
///
/// # Shapes
/// - input: `[batch, channels, height, width]`
/// - output: `[batch, channels, ceil(height / 2), ceil(width / 2)]`
///
/// Source: diffusers `Downsample2D` (0.42).
#[derive(Module, Debug)]
pub(crate) struct Downsample {
    conv: Conv2d,
}

impl Downsample {
    pub(crate) fn new(channels: usize, device: &Device) -> Self {
        let conv = Conv2dConfig::new([channels, channels], [3, 3])
            .with_stride([2, 2])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .init(device);
        Self { conv }
    }

    pub(crate) fn forward(&self, features: Tensor<4>) -> Tensor<4> {
        conv2d(&self.conv, features)
    }
}

/// Nearest-neighbour interpolation to a given size, then a convolution.
///
/// The size is given, not doubled, so that a level whose size was odd gets it back.
///
/// # Shapes
/// - input: `[batch, channels, height, width]`
/// - output: `[batch, channels, size[0], size[1]]`
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

    pub(crate) fn forward(&self, features: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
        conv2d(&self.conv, upsample_nearest(features, size))
    }
}
