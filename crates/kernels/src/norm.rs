//! Group normalisation, alone and followed by SiLU.

use burn::nn::GroupNorm;
use burn::prelude::*;
use burn::tensor::activation::silu;

use crate::cast::in_f32;

/// `norm.forward(features)`, by a special kernel where there is one.
///
/// Features in half precision are normalised in f32 and come back in their own type.
///
/// # Shapes
/// - input and output: `[batch, channels, height, width]`
///
/// Source: Wu and He 2018.
#[must_use]
pub fn group_norm(norm: &GroupNorm, features: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if let Some(output) = crate::flex::norm::group_norm(norm, &features) {
        return output;
    }
    in_f32(features, |features| norm.forward(features))
}

/// `silu(norm(features))`, the pair in front of every convolution of a residual block, as [`group_norm`].
///
/// # Shapes
/// - input and output: `[batch, channels, height, width]`
#[must_use]
pub fn group_norm_silu(norm: &GroupNorm, features: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if let Some(output) = crate::flex::norm::group_norm_silu(norm, &features) {
        return output;
    }
    in_f32(features, |features| silu(norm.forward(features)))
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::nn::GroupNormConfig;
    use burn::tensor::Distribution;

    use super::*;
    use crate::draw::draw;

    #[test]
    fn constant_features_become_zero() {
        let device = Device::flex();
        let norm = GroupNormConfig::new(2, 4).init(&device);
        let normed = group_norm_silu(&norm, Tensor::full([1, 4, 3, 3], 7.0, &device));
        assert!(normed.abs().max().into_scalar::<f32>() < 1e-3);
    }

    type Norm = fn(&GroupNorm, Tensor<4>) -> Tensor<4>;

    fn check(n_groups: usize, shape: [usize; 4], ours: Norm, burns: Norm) {
        let device = Device::flex().autodiff();
        let random = |mean| draw::<1>([shape[1]], Distribution::Normal(mean, 0.5), &device);
        let mut norm = GroupNormConfig::new(n_groups, shape[1]).with_epsilon(1e-6).init(&device);
        norm.gamma = Some(Param::from_tensor(random(1.0)));
        norm.beta = Some(Param::from_tensor(random(0.0)));
        let [batch, channels, height, width] = shape;
        let distribution = Distribution::Normal(0.5, 2.0);
        let features = draw::<4>([batch, height, width, channels], distribution, &device);
        let weight = draw::<4>(shape, Distribution::Normal(0.0, 1.0), &device);
        let run = |forward: Norm| {
            let features = features.clone().permute([0, 3, 1, 2]).detach().require_grad();
            let output = forward(&norm, features.clone());
            let gradients = (output.clone() * weight.clone()).sum().backward();
            let affine = [&norm.gamma, &norm.beta].map(|affine| affine.as_ref().expect("affine").val());
            let [gamma, beta] = affine.map(|affine| affine.grad(&gradients).expect("tracked"));
            let features = features.grad(&gradients).expect("tracked").flatten::<1>(0, 3);
            [output.inner().flatten::<1>(0, 3), features, gamma, beta]
        };
        let names = ["output", "features", "gamma", "beta"];
        for ((what, ours), burns) in names.into_iter().zip(run(ours)).zip(run(burns)) {
            let scale = burns.clone().abs().max().into_scalar::<f32>().max(1.0);
            let error = (ours - burns).abs().max().into_scalar::<f32>() / scale;
            assert!(error < 2e-5, "{what} of {shape:?} in {n_groups} groups: relative error {error}");
        }
    }

    #[test]
    fn outputs_and_gradients_are_those_of_burn() {
        let plain = |norm: &GroupNorm, features| norm.forward(features);
        let with_silu = |norm: &GroupNorm, features| silu(norm.forward(features));
        for (n_groups, shape) in [
            (1, [1, 2, 2, 2]),
            (2, [3, 6, 5, 7]),
            (4, [8, 16, 32, 32]),
            (8, [2, 24, 1, 3]),
            (3, [1, 3, 65, 33]),
        ] {
            check(n_groups, shape, group_norm, plain);
            check(n_groups, shape, group_norm_silu, with_silu);
        }
    }
}
