//! Frozen weights in half precision, widened to f32 where they are used.

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::prelude::*;
use burn::tensor::{DType, bf16, f16};
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::is_on_cpu;
use super::memory::{contiguous, tensor};

/// Elements per task.
const CHUNK: usize = 64 * 1024;

/// Whether a tensor is a weight that [`widened`] takes and that no gradient is computed for.
pub(super) fn is_frozen_half<const D: usize>(weight: &Tensor<D>) -> bool {
    matches!(weight.dtype(), DType::BF16 | DType::F16) && is_on_cpu(weight) && !weight.device().is_autodiff()
}

/// A contiguous tensor in f32; one in half precision is widened, without loss.
pub(super) fn widened(weight: FlexTensor) -> FlexTensor {
    let weight = contiguous(weight);
    let shape = weight.shape();
    match weight.dtype() {
        DType::BF16 => tensor(widen::<bf16>(weight.as_slice().expect("a contiguous bf16 tensor")), shape),
        DType::F16 => tensor(widen::<f16>(weight.as_slice().expect("a contiguous f16 tensor")), shape),
        _ => weight,
    }
}

fn widen<E: Copy + Sync>(values: &[E]) -> Vec<f32>
where
    [E]: HalfFloatSliceExt,
{
    let mut wide = vec![0.0; values.len()];
    let chunks = wide.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK));
    chunks.for_each(|(wide, values)| values.convert_to_f32_slice(wide));
    wide
}
