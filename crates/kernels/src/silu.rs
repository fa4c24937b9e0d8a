//! The sigmoid linear unit.

use burn::prelude::*;

/// `input * sigmoid(input)`, value by value.
///
/// # Shapes
/// - input and output: any
///
/// Source: Hendrycks and Gimpel 2016, section 2.
#[must_use]
pub fn silu<const D: usize>(input: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if let Some(output) = crate::flex::silu::silu(&input) {
        return output;
    }
    burn::tensor::activation::silu(input)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;

    use super::*;
    use crate::draw::draw;

    #[test]
    fn output_and_gradient_are_those_of_burn() {
        let device = Device::flex().autodiff();
        let input = draw::<3>([3, 7, 11_000], Distribution::Normal(0.0, 3.0), &device).swap_dims(0, 1);
        let run = |silu: fn(Tensor<3>) -> Tensor<3>| {
            let input = input.clone().detach().require_grad();
            let output = silu(input.clone());
            let gradients = output.clone().powi_scalar(2).sum().backward();
            (output.inner(), input.grad(&gradients).expect("tracked"))
        };
        let (ours, burns) = (run(silu), run(burn::tensor::activation::silu));
        assert!((ours.0 - burns.0).abs().max().into_scalar::<f32>() < 1e-5);
        assert!((ours.1 - burns.1).abs().max().into_scalar::<f32>() < 1e-4);
    }
}
