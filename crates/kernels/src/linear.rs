//! The linear map over the last dimension.

use burn::nn::Linear;
use burn::prelude::*;
use burn::tensor::module;

use crate::cast::as_type_of;

/// `linear.forward(input)`, computed in the input's element type whatever the weights' is.
///
/// Trainable weights stay in f32 where activations are in half precision, and frozen weights in half precision
/// need half the memory where activations are in f32. On the CPU backend the latter are widened at each
/// use, forward and backward, and never kept in f32.
///
/// # Shapes
/// - input: `[batch, tokens, d_input]` or `[batch, d_input]`
/// - output: `[batch, tokens, d_output]` or `[batch, d_output]`
#[must_use]
pub fn linear<const D: usize>(linear: &Linear, input: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if let Some(output) = crate::flex::linear::linear(linear, &input) {
        return output;
    }
    let weight = as_type_of(linear.weight.val(), &input);
    let bias = linear.bias.as_ref().map(|bias| as_type_of(bias.val(), &input));
    module::linear(input, weight, bias)
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::nn::LinearConfig;
    use burn::tensor::{DType, Distribution};

    use super::*;
    use crate::draw::draw;

    fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
        draw(shape, Distribution::Normal(0.0, 1.0), &Device::flex())
    }

    /// Output and the gradient towards the input, under a loss that weighs every output.
    fn run(map: &Linear, input: &Tensor<3>) -> [Tensor<3>; 2] {
        let input = input.clone().autodiff().require_grad();
        let output = linear(map, input.clone());
        let [batch, tokens, width] = output.dims();
        let n_outputs = i64::try_from(batch * tokens * width).expect("small");
        let weight = (Tensor::<1, Int>::arange(0..n_outputs, &output.device()).float() * 0.37).sin();
        let gradients = (output.clone() * weight.reshape(output.dims())).sum().backward();
        [output.inner(), input.grad(&gradients).expect("tracked")]
    }

    #[test]
    fn half_precision_weights_give_what_the_same_weights_in_f32_give() {
        for dtype in [DType::BF16, DType::F16] {
            for (bias, [batch, tokens, d_input, d_output]) in
                [(true, [2, 5, 7, 33]), (false, [1, 77, 64, 40]), (true, [1, 1, 1, 1])]
            {
                let mut half = LinearConfig::new(d_input, d_output).with_bias(bias).init(&Device::flex());
                half.weight = Param::from_tensor(half.weight.val().cast(dtype));
                let mut whole = half.clone();
                whole.weight = Param::from_tensor(half.weight.val().cast(DType::F32));
                let input = random([batch, tokens, d_input]);
                for (half, whole) in run(&half, &input).into_iter().zip(run(&whole, &input)) {
                    assert_eq!(half.dtype(), DType::F32);
                    let error = (half - whole).abs().max().into_scalar::<f32>();
                    assert!(error < 1e-5, "{dtype:?} {d_input} to {d_output}: error {error}");
                }
            }
        }
    }

    #[test]
    fn trainable_weights_are_in_f32_where_activations_are_not() {
        let device = Device::flex().autodiff();
        let map = LinearConfig::new(8, 3).init(&device);
        let input = random([2, 4, 8]).cast(DType::BF16).autodiff();
        let output = linear(&map, input);
        assert_eq!(output.dtype(), DType::BF16);
        let gradients = output.cast(DType::F32).sum().backward();
        let gradient = map.weight.val().grad(&gradients).expect("tracked");
        assert_eq!(gradient.dtype(), DType::F32);
    }
}
