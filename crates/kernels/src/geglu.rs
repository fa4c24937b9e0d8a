//! The gated activation of the transformer's feed-forward layer.

use burn::prelude::*;
use burn::tensor::activation::gelu;

/// GEGLU: the first half of the channels times the exact (erf) GELU of the second half.
///
/// # Shapes
/// - input: `[batch, tokens, 2 * d_inner]`
/// - output: `[batch, tokens, d_inner]`
///
/// # Panics
/// If the last dimension is odd.
///
/// Source: Shazeer 2020; the order of the halves is that of diffusers `GEGLU` (0.42).
#[must_use]
pub fn geglu(projected: Tensor<3>) -> Tensor<3> {
    let [_, _, d_projected] = projected.dims();
    assert!(d_projected % 2 == 0, "GEGLU needs an even number of channels, got {d_projected}");
    let d_inner = d_projected / 2;
    #[cfg(feature = "flex")]
    if let Some(gated) = crate::flex::geglu::geglu(&projected) {
        return gated;
    }
    let value = projected.clone().narrow(2, 0, d_inner);
    let gate = projected.narrow(2, d_inner, d_inner);
    value * gelu(gate)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;

    use super::*;
    use crate::draw::draw;

    #[test]
    fn output_and_gradient_are_those_of_burn() {
        let device = Device::flex().autodiff();
        let projected = draw::<3>([2, 38, 75], Distribution::Normal(0.0, 3.0), &device).swap_dims(1, 2);
        let composed =
            |projected: Tensor<3>| projected.clone().narrow(2, 0, 19) * gelu(projected.narrow(2, 19, 19));
        let weight = draw::<3>([2, 75, 19], Distribution::Default, &device);
        let run = |geglu: &dyn Fn(Tensor<3>) -> Tensor<3>| {
            let projected = projected.clone().detach().require_grad();
            let output = geglu(projected.clone());
            let gradients = (output.clone() * weight.clone()).sum().backward();
            [output.inner(), projected.grad(&gradients).expect("tracked")]
        };
        for (ours, burns) in run(&geglu).into_iter().zip(run(&composed)) {
            let scale = burns.clone().abs().max().into_scalar::<f32>();
            let error = (ours - burns).abs().max().into_scalar::<f32>() / scale;
            assert!(error < 5e-7, "relative error {error}");
        }
    }

    #[test]
    fn the_second_half_is_the_gate() {
        let projected = Tensor::<3>::from_floats([[[2.0, 3.0, 0.0, 1.0]]], &Device::flex());
        let gated = geglu(projected).try_into_vec_as::<f32>().expect("f32");
        // gelu(0) = 0 and gelu(1) = 0.841345 (the normal distribution function at 1).
        assert!(gated[0].abs() < 1e-7 && (gated[1] - 3.0 * 0.841_345).abs() < 1e-5, "{gated:?}");
    }
}
