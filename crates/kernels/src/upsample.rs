//! Nearest-neighbour interpolation.

use burn::prelude::*;
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};

/// Gives every position the value of the nearest one at or before it.
///
/// # Shapes
/// - features: `[batch, channels, height, width]`
/// - output: `[batch, channels, size[0], size[1]]`
///
/// Source: `torch.nn.functional.interpolate` with `mode="nearest"`.
#[must_use]
pub fn upsample_nearest(features: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if let Some(output) = crate::flex::upsample::upsample_nearest(&features, size) {
        return output;
    }
    let options =
        InterpolateOptions::new(InterpolateMode::Nearest).with_output_size(size).with_align_corners(false);
    interpolate(features, options)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;

    use super::*;
    use crate::draw::draw;

    #[test]
    fn output_and_gradient_are_those_of_burn() {
        let device = Device::flex().autodiff();
        for (size, to) in [([1, 1], [2, 2]), ([3, 4], [6, 8]), ([4, 5], [7, 9]), ([16, 33], [32, 66])] {
            let features =
                draw::<4>([2, size[0], size[1], 3], Distribution::Default, &device).permute([0, 3, 1, 2]);
            let weight = draw::<4>([2, 3, to[0], to[1]], Distribution::Default, &device);
            let run = |upsample: &dyn Fn(Tensor<4>) -> Tensor<4>| {
                let features = features.clone().detach().require_grad();
                let output = upsample(features.clone());
                let gradients = (output.clone() * weight.clone()).sum().backward();
                [output.inner(), features.grad(&gradients).expect("tracked")]
            };
            let options = InterpolateOptions::new(InterpolateMode::Nearest)
                .with_output_size(to)
                .with_align_corners(false);
            let ours = run(&|features| upsample_nearest(features, to));
            let burns = run(&|features| interpolate(features, options.clone()));
            for (ours, burns) in ours.into_iter().zip(burns) {
                assert!((ours - burns).abs().max().into_scalar::<f32>() < 1e-6, "{size:?} to {to:?}");
            }
        }
    }
}
