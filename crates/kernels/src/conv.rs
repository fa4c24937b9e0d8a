//! Convolution in two dimensions.

use burn::nn::PaddingConfig2d;
use burn::nn::conv::Conv2d;
use burn::prelude::*;
#[cfg(feature = "flex")]
use burn::tensor::DType;
use burn::tensor::module;
use burn::tensor::ops::ConvOptions;

use crate::cast::as_type_of;
#[cfg(feature = "flex")]
use crate::cast::in_f32;

/// `conv.forward(input)`, by a special kernel where there is one, in the input's element type whatever the weights'
/// is (see [`crate::linear()`]).
///
/// On the CPU backend in f32, forward and backward of a 3x3 convolution take a fraction of the time of
/// Burn's own; gradients are computed only towards what is tracked.
///
/// # Shapes
/// - input: `[batch, channels_in, height, width]`
/// - output: `[batch, channels_out, height_out, width_out]`
///
/// # Panics
/// If weights and input differ in type and the padding is `Same`.
#[must_use]
pub fn conv2d(conv: &Conv2d, input: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    {
        if let Some(output) = crate::flex::conv::conv2d(conv, &input) {
            return output;
        }
        // Burn 0.22's convolution in half precision on the CPU panics in its own conversion.
        if crate::flex::is_on_cpu(&input) && matches!(input.dtype(), DType::BF16 | DType::F16) {
            return in_f32(input, |input| conv2d(conv, input));
        }
    }
    if conv.weight.val().dtype() == input.dtype() {
        return conv.forward(input);
    }
    let padding = padding(conv).expect("not `Same` where element types differ");
    let options = ConvOptions::new_with_padding(conv.stride, padding, conv.dilation, conv.groups);
    let weight = as_type_of(conv.weight.val(), &input);
    let bias = conv.bias.as_ref().map(|bias| as_type_of(bias.val(), &input));
    module::conv2d(input, weight, bias, options)
}

/// Before and after, of rows and columns; `None` if it depends on the input's size.
pub(crate) fn padding(conv: &Conv2d) -> Option<[(usize, usize); 2]> {
    match conv.padding {
        PaddingConfig2d::Valid => Some([(0, 0); 2]),
        PaddingConfig2d::Explicit(top, left, bottom, right) => Some([(top, bottom), (left, right)]),
        PaddingConfig2d::Same => None,
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::nn::conv::Conv2dConfig;
    use burn::tensor::{DType, Distribution};

    use super::*;
    use crate::draw::draw;

    /// A convolution and its input.
    struct Case {
        /// Batch, channels in, height, width.
        input: [usize; 4],
        channels_out: usize,
        kernel: [usize; 2],
        stride: [usize; 2],
        /// Top, left, bottom, right.
        padding: [usize; 4],
        dilation: [usize; 2],
    }

    /// Output and gradients (input, weight, bias) of a convolution under a loss that weighs every output.
    fn run(
        conv: &Conv2d,
        input: &Tensor<4>,
        forward: impl Fn(&Conv2d, Tensor<4>) -> Tensor<4>,
    ) -> Vec<(&'static str, Tensor<1>)> {
        let input = input.clone().detach().require_grad();
        let output = forward(conv, input.clone());
        let [batch, channels, height, width] = output.dims();
        let n_outputs = i64::try_from(batch * channels * height * width).expect("small");
        let loss_weight =
            (Tensor::<1, Int>::arange(0..n_outputs, &output.device()).float() * 0.37).sin() + 1.5;
        let gradients = (output.clone() * loss_weight.reshape(output.dims())).sum().backward();
        let inner = |tensor: Tensor<4>| tensor.flatten::<1>(0, 3).inner();
        let towards = |tensor: Tensor<4>| tensor.grad(&gradients).expect("tracked").flatten::<1>(0, 3);
        let mut results = vec![
            ("output", inner(output)),
            ("input", towards(input)),
            ("weight", towards(conv.weight.val())),
        ];
        if let Some(bias) = &conv.bias {
            results.push(("bias", bias.val().grad(&gradients).expect("tracked")));
        }
        results
    }

    fn check(case: &Case, bias: bool) {
        let device = Device::flex().autodiff();
        let [_, channels_in, ..] = case.input;
        let [top, left, bottom, right] = case.padding;
        let conv = Conv2dConfig::new([channels_in, case.channels_out], case.kernel)
            .with_stride(case.stride)
            .with_padding(PaddingConfig2d::Explicit(top, left, bottom, right))
            .with_dilation(case.dilation)
            .with_bias(bias)
            .init(&device);
        let [batch, _, height, width] = case.input;
        // Not contiguous: channels and height are swapped in memory.
        let input =
            draw::<4>([batch, height, channels_in, width], Distribution::Default, &device).swap_dims(1, 2);
        let (ours, burns) = (run(&conv, &input, conv2d), run(&conv, &input, Conv2d::forward));
        for ((what, ours), (_, burns)) in ours.into_iter().zip(burns) {
            let scale = burns.clone().abs().max().into_scalar::<f32>().max(0.1);
            let error = (ours - burns).abs().max().into_scalar::<f32>() / scale;
            let Case { input, channels_out, kernel, stride, padding, dilation } = case;
            assert!(
                error < 1e-5,
                "{what} of {input:?} to {channels_out}, kernel {kernel:?}, stride {stride:?}, padding \
                 {padding:?}, dilation {dilation:?}: relative error {error}"
            );
        }
    }

    fn case(
        input: [usize; 4],
        channels_out: usize,
        kernel: usize,
        stride: usize,
        padding: [usize; 4],
    ) -> Case {
        Case { input, channels_out, kernel: [kernel; 2], stride: [stride; 2], padding, dilation: [1; 2] }
    }

    #[test]
    fn half_precision_weights_give_what_the_same_weights_in_f32_give() {
        for dtype in [DType::BF16, DType::F16] {
            let mut half = Conv2dConfig::new([5, 7], [3, 3])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(&Device::flex());
            half.weight = Param::from_tensor(half.weight.val().cast(dtype));
            let mut whole = half.clone();
            whole.weight = Param::from_tensor(half.weight.val().cast(DType::F32));
            let input = draw::<4>([2, 5, 9, 6], Distribution::Default, &Device::flex());
            let run = |conv: &Conv2d| {
                let input = input.clone().autodiff().require_grad();
                let output = conv2d(conv, input.clone());
                let gradients = output.clone().square().sum().backward();
                [output.inner(), input.grad(&gradients).expect("tracked")].map(Tensor::into_data)
            };
            assert_eq!(run(&half), run(&whole), "{dtype:?}");
        }
    }

    #[test]
    fn trainable_weights_are_in_f32_where_activations_are_not() {
        let conv = Conv2dConfig::new([2, 3], [1, 1]).init(&Device::flex().autodiff());
        let input = Tensor::<4>::ones([1, 2, 4, 4], &Device::flex()).cast(DType::BF16).autodiff();
        let output = conv2d(&conv, input);
        assert_eq!(output.dtype(), DType::BF16);
        let gradients = output.cast(DType::F32).sum().backward();
        assert_eq!(conv.weight.val().grad(&gradients).expect("tracked").dtype(), DType::F32);
    }

    #[test]
    fn outputs_and_gradients_are_those_of_burn() {
        for size in [[1, 1], [2, 3], [5, 4], [8, 8], [11, 12], [17, 13], [16, 33], [40, 70]] {
            for (batch, channels_in, channels_out) in
                [(1, 3, 16), (3, 16, 4), (2, 9, 7), (1, 1, 1), (5, 20, 70)]
            {
                let input = [batch, channels_in, size[0], size[1]];
                check(&case(input, channels_out, 3, 1, [1; 4]), true);
                check(&case(input, channels_out, 1, 1, [0; 4]), true);
                check(&case(input, channels_out, 3, 2, [1; 4]), true);
                if size[0] > 1 {
                    check(&case(input, channels_out, 3, 2, [0, 0, 1, 1]), false);
                }
            }
        }
    }

    #[test]
    fn unusual_options_are_those_of_burn() {
        let plain = || case([2, 5, 19, 23], 6, 3, 1, [1; 4]);
        check(&Case { stride: [3, 1], ..plain() }, true);
        check(&Case { stride: [1, 4], padding: [2, 0, 1, 3], ..plain() }, true);
        check(&Case { dilation: [2, 3], ..plain() }, true);
        check(&Case { dilation: [2, 1], stride: [2, 3], ..plain() }, false);
        check(&Case { kernel: [5, 2], padding: [4, 1, 4, 0], ..plain() }, true);
        check(&Case { kernel: [1, 1], stride: [2, 2], padding: [0; 4], ..plain() }, true);
        check(&Case { kernel: [1, 1], padding: [1; 4], ..plain() }, true);
    }

    #[test]
    fn many_channels_on_few_positions_are_those_of_burn() {
        check(&case([1, 300, 4, 4], 130, 3, 1, [1; 4]), true);
        check(&case([2, 300, 9, 13], 130, 1, 1, [0; 4]), true);
        check(&case([7, 64, 4, 4], 128, 3, 1, [1; 4]), true);
        check(&case([2, 96, 16, 16], 160, 3, 2, [1; 4]), true);
    }

    #[test]
    fn frozen_weights_get_no_gradient_and_pass_one_on() {
        let device = Device::flex();
        let conv = Conv2dConfig::new([3, 5], [3, 3]).init(&device);
        let input = draw::<4>([2, 3, 14, 15], Distribution::Default, &device);
        let tracked = |forward: fn(&Conv2d, Tensor<4>) -> Tensor<4>| {
            let input = input.clone().autodiff().require_grad();
            let gradients = forward(&conv, input.clone()).powi_scalar(2).sum().backward();
            input.grad(&gradients).expect("tracked")
        };
        let (ours, burns) = (tracked(conv2d), tracked(Conv2d::forward));
        assert!((ours - burns).abs().max().into_scalar::<f32>() < 1e-5);
    }

    #[test]
    fn repetitions_give_the_same_bits() {
        let device = Device::flex().autodiff();
        let conv = Conv2dConfig::new([16, 24], [3, 3]).init(&device);
        let input = draw::<4>([8, 16, 32, 32], Distribution::Default, &device);
        let bits = || {
            run(&conv, &input, conv2d).into_iter().map(|(_, values)| values.into_data()).collect::<Vec<_>>()
        };
        let first = bits();
        for _ in 0..5 {
            assert!(bits() == first);
        }
    }
}
