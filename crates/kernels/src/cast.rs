//! Weights and activations of different element types.

use burn::prelude::*;
use burn::tensor::DType;

/// The weight in the input's element type; gradients come back in the weight's.
pub(crate) fn as_type_of<const D: usize, const E: usize>(weight: Tensor<D>, input: &Tensor<E>) -> Tensor<D> {
    if weight.dtype() == input.dtype() { weight } else { weight.cast(input.dtype()) }
}

/// A step of a network that half precision is too coarse for: computed in f32, its output in the input's type.
pub(crate) fn in_f32<const D: usize>(
    input: Tensor<D>,
    step: impl FnOnce(Tensor<D>) -> Tensor<D>,
) -> Tensor<D> {
    match input.dtype() {
        DType::F32 => step(input),
        dtype => step(input.cast(DType::F32)).cast(dtype),
    }
}
