//! Group normalisation followed by SiLU.

use burn::nn::GroupNorm;
use burn::prelude::*;
use burn::tensor::activation::silu;

/// `silu(norm(features))`, the pair in front of every convolution of a residual block.
///
/// # Shapes
/// - input and output: `[batch, channels, height, width]`
#[must_use]
pub fn group_norm_silu(norm: &GroupNorm, features: Tensor<4>) -> Tensor<4> {
    silu(norm.forward(features))
}

#[cfg(test)]
mod tests {
    use burn::nn::GroupNormConfig;

    use super::*;

    #[test]
    fn constant_features_become_zero() {
        let device = Device::flex();
        let norm = GroupNormConfig::new(2, 4).init(&device);
        let normed = group_norm_silu(&norm, Tensor::full([1, 4, 3, 3], 7.0, &device));
        assert!(normed.abs().max().into_scalar::<f32>() < 1e-3);
    }
}
