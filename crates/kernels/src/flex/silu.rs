//! SiLU alone, with a backward pass that keeps only its input.

use std::mem::MaybeUninit;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::prelude::*;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::applies;
use super::math;
use super::memory::{contiguous, filled, tensor, values};

/// SiLU as an operation of a backend.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait SigmoidLinearUnit: Backend {
    /// Input and output have one shape.
    fn sigmoid_linear_unit(input: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// Values per task.
const CHUNK: usize = 16 * 1024;

impl SigmoidLinearUnit for Flex {
    fn sigmoid_linear_unit(input: FlexTensor) -> FlexTensor {
        let input = contiguous(input);
        let fill = |output: &mut [MaybeUninit<f32>]| {
            let chunks = output.par_chunks_mut(CHUNK).zip(values(&input).par_chunks(CHUNK));
            chunks.for_each(|(output, input)| Arch::new().dispatch(Forward { input, output }));
        };
        // SAFETY: the output is as long as the input, and every value of it is written.
        let (output, ()) = unsafe { filled(values(&input).len(), fill) };
        tensor(output, input.shape())
    }
}

/// Some values. A type and not a closure, as is the next: a closure that is not inlined would be compiled without the
/// processor's vectors.
struct Forward<'a> {
    input: &'a [f32],
    output: &'a mut [MaybeUninit<f32>],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        for (output, input) in self.output.iter_mut().zip(self.input) {
            output.write(math::silu(*input));
        }
    }
}

/// Turns the gradient of some values in place.
struct BackwardInPlace<'a> {
    input: &'a [f32],
    gradient: &'a mut [f32],
}

impl WithSimd for BackwardInPlace<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        for (gradient, input) in self.gradient.iter_mut().zip(self.input) {
            *gradient *= math::silu_derivative(*input);
        }
    }
}

#[derive(Debug)]
struct SigmoidLinearUnitBackward;

impl Backward<Flex, 1> for SigmoidLinearUnitBackward {
    type State = NodeId;

    fn backward(self, ops: Ops<NodeId, 1>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let mut gradient = contiguous(grads.consume::<Flex>(&ops.node));
        let input = contiguous(checkpointer.retrieve_node_output::<FlexTensor>(ops.state));
        let [Some(node)] = ops.parents else { return };
        // In place where nobody else holds the gradient; a view of larger storage is copied.
        if !gradient.is_unique() || gradient.bytes().len() != size_of_val(values(&gradient)) {
            gradient = tensor(values(&gradient).to_vec(), gradient.shape());
        }
        let towards = gradient.storage_mut::<f32>();
        towards.par_chunks_mut(CHUNK).zip(values(&input).par_chunks(CHUNK)).for_each(|(gradient, input)| {
            Arch::new().dispatch(BackwardInPlace { input, gradient });
        });
        grads.register::<Flex>(node.id, gradient);
    }
}

impl<C: CheckpointStrategy> SigmoidLinearUnit for Autodiff<Flex, C> {
    fn sigmoid_linear_unit(input: FloatTensor<Self>) -> FloatTensor<Self> {
        match SigmoidLinearUnitBackward.prepare::<C>([input.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let saved = prep.checkpoint(&input);
                prep.finish(saved, Flex::sigmoid_linear_unit(input.into_primitive()))
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::sigmoid_linear_unit(input.into_primitive())),
        }
    }
}

/// SiLU where the special kernel covers it.
pub(crate) fn silu<const D: usize>(input: &Tensor<D>) -> Option<Tensor<D>> {
    applies(input)
        .then(|| Tensor::from_dispatch(Dispatch::sigmoid_linear_unit(input.clone().into_dispatch())))
}
