//! Layer normalisation.

use burn::nn::LayerNorm;
use burn::prelude::*;

use crate::cast::in_f32;

/// `norm.forward(tokens)`, by a special kernel where there is one.
///
/// `epsilon` is the one that `norm` was made with; it does not tell. Tokens in half precision are normalised in f32 and
/// come back in their own type.
///
/// # Shapes
/// - input and output: `[batch, tokens, width]`
///
/// Source: Ba et al. 2016.
#[must_use]
#[cfg_attr(not(feature = "flex"), expect(unused_variables, reason = "only the special kernel is told"))]
pub fn layer_norm(norm: &LayerNorm, epsilon: f64, tokens: Tensor<3>) -> Tensor<3> {
    #[cfg(feature = "flex")]
    if let Some(output) = crate::flex::layer_norm::layer_norm(norm, epsilon, &tokens) {
        return output;
    }
    in_f32(tokens, |tokens| norm.forward(tokens))
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::nn::LayerNormConfig;
    use burn::tensor::Distribution;

    use super::*;
    use crate::draw::draw;

    const EPSILON: f64 = 1e-5;

    #[test]
    fn outputs_and_gradients_are_those_of_burn() {
        let device = Device::flex().autodiff();
        for [batch, n_tokens, width] in [[1, 1, 1], [2, 3, 5], [1, 64, 64], [3, 77, 320], [1, 130, 33]] {
            let random = |mean| draw::<1>([width], Distribution::Normal(mean, 0.5), &device);
            let mut norm = LayerNormConfig::new(width).with_epsilon(EPSILON).init(&device);
            norm.gamma = Param::from_tensor(random(1.0));
            norm.beta = Some(Param::from_tensor(random(0.0)));
            let distribution = Distribution::Normal(0.5, 2.0);
            let tokens = draw::<3>([n_tokens, batch, width], distribution, &device).swap_dims(0, 1);
            let weight = draw(tokens.dims(), Distribution::Normal(0.0, 1.0), &device);
            let run = |forward: &dyn Fn(Tensor<3>) -> Tensor<3>| {
                let tokens = tokens.clone().detach().require_grad();
                let output = forward(tokens.clone());
                let gradients = (output.clone() * weight.clone()).sum().backward();
                let beta = norm.beta.as_ref().expect("affine").val();
                let affine = [norm.gamma.val(), beta].map(|affine| affine.grad(&gradients).expect("tracked"));
                let [gamma, beta] = affine;
                let towards = tokens.grad(&gradients).expect("tracked").flatten::<1>(0, 2);
                [output.inner().flatten::<1>(0, 2), towards, gamma, beta]
            };
            let ours = run(&|tokens| layer_norm(&norm, EPSILON, tokens));
            let burns = run(&|tokens| norm.forward(tokens));
            for ((what, ours), burns) in ["output", "tokens", "gamma", "beta"].iter().zip(ours).zip(burns) {
                let scale = burns.clone().abs().max().into_scalar::<f32>().max(1.0);
                let error = (ours - burns).abs().max().into_scalar::<f32>() / scale;
                assert!(error < 2e-5, "{what} of {n_tokens} tokens, width {width}: relative error {error}");
            }
        }
    }

    #[test]
    fn a_frozen_norm_passes_its_gradient_on() {
        let device = Device::flex();
        let config = LayerNormConfig::new(8).with_epsilon(EPSILON);
        let tokens = draw::<3>([1, 5, 8], Distribution::Default, &device);
        let towards = |forward: &dyn Fn(Tensor<3>) -> Tensor<3>| {
            let tokens = tokens.clone().autodiff().require_grad();
            let gradients = forward(tokens.clone()).powi_scalar(3).sum().backward();
            tokens.grad(&gradients).expect("tracked")
        };
        // Frozen as plain tensors, and as untracked ones.
        for norm in [config.init(&device), config.init(&device.clone().autodiff()).no_grad()] {
            let ours = towards(&|tokens| layer_norm(&norm, EPSILON, tokens));
            let burns = towards(&|tokens| norm.forward(tokens));
            assert!((ours - burns).abs().max().into_scalar::<f32>() < 1e-4);
        }
    }
}
