//! AdamW in one pass over memory.

use burn::backend::Flex;
use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::prelude::*;
use pulp::Arch;
use rayon::prelude::*;

use super::math::sum;
use super::memory::{contiguous, values};
use crate::AdamWStep;

/// Elements per task.
const CHUNK: usize = 64 * 1024;

/// Squares that are summed in f32.
const SQUARES: usize = 2048;

fn primitive(tensor: Tensor<1>) -> FlexTensor {
    let primitive = tensor.try_into_primitive::<Flex>().expect("the caller has seen that the kernel applies");
    contiguous(primitive)
}

/// A tensor whose storage holds nothing but its values, so that they can be changed in place.
fn own(tensor: Tensor<1>) -> FlexTensor {
    let tensor = primitive(tensor);
    if tensor.bytes().len() == size_of_val(values(&tensor)) {
        return tensor;
    }
    super::memory::tensor(values(&tensor).to_vec(), tensor.shape())
}

/// [`crate::adamw`] on tensors that the special kernels apply to.
#[expect(clippy::cast_possible_truncation, reason = "f32 is the tensors' precision")]
pub(crate) fn adamw(
    value: Tensor<1>,
    moments: [Tensor<1>; 2],
    gradient: Tensor<1>,
    scale: &Tensor<1>,
    step: &AdamWStep,
) -> (Tensor<1>, [Tensor<1>; 2]) {
    let mut value = own(value);
    let [mut first, mut second] = moments.map(own);
    let gradient = primitive(gradient);
    let scale = values(&primitive(scale.clone()))[0];
    let (beta1, beta2) = (step.beta1 as f32, step.beta2 as f32);
    let (rest1, rest2) = ((1.0 - step.beta1) as f32, (1.0 - step.beta2) as f32);
    let (epsilon, kept, step_size) = (step.epsilon as f32, step.kept as f32, step.step_size as f32);
    let root_correction = step.root_correction as f32;
    let update = |value: &mut [f32], first: &mut [f32], second: &mut [f32], gradient: &[f32]| {
        let elements = value.iter_mut().zip(first).zip(second).zip(gradient);
        for (((value, first), second), gradient) in elements {
            let gradient = gradient * scale;
            *first = *first * beta1 + gradient * rest1;
            *second = *second * beta2 + gradient * gradient * rest2;
            let denominator = second.sqrt() / root_correction + epsilon;
            *value = *value * kept - *first / denominator * step_size;
        }
    };
    // Where somebody else holds a storage it is copied here.
    let (value_slice, first_slice, second_slice) =
        (value.storage_mut::<f32>(), first.storage_mut::<f32>(), second.storage_mut::<f32>());
    value_slice
        .par_chunks_mut(CHUNK)
        .zip(first_slice.par_chunks_mut(CHUNK).zip(second_slice.par_chunks_mut(CHUNK)))
        .zip(values(&gradient).par_chunks(CHUNK))
        .for_each(|((value, (first, second)), gradient)| {
            Arch::new().dispatch(|| update(value, first, second, gradient));
        });
    (Tensor::from_primitive::<Flex>(value), [first, second].map(Tensor::from_primitive::<Flex>))
}

/// [`crate::sum_of_squares`] of a tensor that the special kernels apply to.
///
/// Sums of few squares are made in f32, and added in order in f64.
#[expect(clippy::cast_possible_truncation, reason = "f32 is the tensors' precision")]
pub(crate) fn sum_of_squares(tensor: Tensor<1>) -> Tensor<1> {
    let device = tensor.device();
    let tensor = primitive(tensor);
    let few = |values: &[f32]| f64::from(sum(values.len(), |i| values[i] * values[i]));
    let task = |values: &[f32]| Arch::new().dispatch(|| values.chunks(SQUARES).map(few).sum());
    let sums: Vec<f64> = values(&tensor).par_chunks(CHUNK).map(task).collect();
    let total: f64 = sums.into_iter().sum();
    Tensor::from_floats([total as f32], &device)
}
