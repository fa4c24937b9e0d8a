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
    let value = projected.clone().narrow(2, 0, d_inner);
    let gate = projected.narrow(2, d_inner, d_inner);
    value * gelu(gate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_half_is_the_gate() {
        let projected = Tensor::<3>::from_floats([[[2.0, 3.0, 0.0, 1.0]]], &Device::flex());
        let gated = geglu(projected).try_into_vec_as::<f32>().expect("f32");
        // gelu(0) = 0 and gelu(1) = 0.841345 (the normal distribution function at 1).
        assert!(gated[0].abs() < 1e-7 && (gated[1] - 3.0 * 0.841_345).abs() < 1e-5, "{gated:?}");
    }
}
