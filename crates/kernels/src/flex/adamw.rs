//! AdamW in one pass over memory.

use burn::backend::Flex;
use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::prelude::*;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::memory::{contiguous, values};
use crate::{AdamWState, AdamWStep};

/// Elements per task.
const CHUNK: usize = 64 * 1024;

/// Lanes of a sum in f64. With 32 the compiler converts one value at a time, at a third of the speed.
const LANES: usize = 16;

pub(super) fn primitive(tensor: Tensor<1>) -> FlexTensor {
    let primitive = tensor.try_into_primitive::<Flex>().expect("the caller has seen that the kernel applies");
    contiguous(primitive)
}

/// A tensor whose storage holds nothing but its values, so that they can be changed in place.
pub(super) fn own(tensor: Tensor<1>) -> FlexTensor {
    let tensor = primitive(tensor);
    if tensor.bytes().len() == size_of_val(values(&tensor)) {
        return tensor;
    }
    super::memory::tensor(values(&tensor).to_vec(), tensor.shape())
}

/// The numbers of a step in the tensors' precision.
pub(super) struct Constants {
    beta: [f32; 2],
    /// `1 - beta`, rounded once.
    rest: [f32; 2],
    epsilon: f32,
    kept: f32,
    step_size: f32,
    root_correction: f32,
    scale: f32,
}

impl Constants {
    #[expect(clippy::cast_possible_truncation, reason = "f32 is the tensors' precision")]
    pub(super) fn new(step: &AdamWStep, scale: f32) -> Self {
        Self {
            beta: [step.beta1 as f32, step.beta2 as f32],
            rest: [(1.0 - step.beta1) as f32, (1.0 - step.beta2) as f32],
            epsilon: step.epsilon as f32,
            kept: step.kept as f32,
            step_size: step.step_size as f32,
            root_correction: step.root_correction as f32,
            scale,
        }
    }

    #[inline(always)]
    pub(super) fn update(&self, value: &mut [f32], first: &mut [f32], second: &mut [f32], gradient: &[f32]) {
        let elements = value.iter_mut().zip(first).zip(second).zip(gradient);
        for (((value, first), second), gradient) in elements {
            let gradient = gradient * self.scale;
            *first = *first * self.beta[0] + gradient * self.rest[0];
            *second = *second * self.beta[1] + gradient * gradient * self.rest[1];
            let denominator = second.sqrt() / self.root_correction + self.epsilon;
            *value = *value * self.kept - *first / denominator * self.step_size;
        }
    }
}

/// [`crate::adamw`] on tensors that the special kernels apply to.
pub(crate) fn adamw(
    state: AdamWState,
    gradient: Tensor<1>,
    scale: &Tensor<1>,
    step: &AdamWStep,
) -> AdamWState {
    let constants = Constants::new(step, values(&primitive(scale.clone()))[0]);
    let mut value = own(state.value);
    let (mut first, mut second) = (own(state.first_moment), own(state.second_moment));
    let gradient = primitive(gradient);
    // Where somebody else holds a storage it is copied here.
    value
        .storage_mut::<f32>()
        .par_chunks_mut(CHUNK)
        .zip(first.storage_mut::<f32>().par_chunks_mut(CHUNK))
        .zip(second.storage_mut::<f32>().par_chunks_mut(CHUNK))
        .zip(values(&gradient).par_chunks(CHUNK))
        .for_each(|(((value, first), second), gradient)| {
            Arch::new().dispatch(|| constants.update(value, first, second, gradient));
        });
    let [value, first_moment, second_moment] = [value, first, second].map(Tensor::from_primitive::<Flex>);
    AdamWState { value, first_moment, second_moment }
}

/// [`crate::sum_of_squares`] of a tensor that the special kernels apply to, rounded once.
#[expect(clippy::cast_possible_truncation, reason = "f32 is the tensors' precision")]
pub(crate) fn sum_of_squares(tensor: Tensor<1>) -> Tensor<1> {
    let device = tensor.device();
    let tensor = primitive(tensor);
    let task = |values: &[f32]| Arch::new().dispatch(SumOfSquares(values));
    let sums: Vec<f64> = values(&tensor).par_chunks(CHUNK).map(task).collect();
    let total: f64 = sums.into_iter().sum();
    Tensor::from_floats([total as f32], &device)
}

/// A type and not a closure: one that is not inlined would be compiled without the processor's vectors.
struct SumOfSquares<'a>(&'a [f32]);

impl WithSimd for SumOfSquares<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> f64 {
        let mut lanes = [0.0; LANES];
        let (whole, rest) = self.0.as_chunks::<LANES>();
        for values in whole {
            for (lane, value) in lanes.iter_mut().zip(values) {
                *lane += f64::from(*value) * f64::from(*value);
            }
        }
        for (lane, value) in lanes.iter_mut().zip(rest) {
            *lane += f64::from(*value) * f64::from(*value);
        }
        lanes.iter().sum()
    }
}
