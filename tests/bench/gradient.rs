//! Where a backward pass begins.
//!
//! The gradient of a sum is filled and multiplied by Burn and copied by PyTorch's kernels; that is more work than some
//! of the operations to measure. So both are handed a gradient that is there.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::prelude::*;

#[backend_extension(Flex, Autodiff)]
trait Start: Backend {
    /// One value, whose gradient towards `output` is `gradient`.
    fn start(output: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl Start for Flex {
    fn start(output: FlexTensor, _gradient: FlexTensor) -> FlexTensor {
        FlexTensor::zeros([1].into(), output.dtype())
    }
}

#[derive(Debug)]
struct StartBackward;

impl Backward<Flex, 1> for StartBackward {
    type State = FlexTensor;

    fn backward(self, ops: Ops<FlexTensor, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [Some(node)] = ops.parents else { return };
        grads.register::<Flex>(node.id, ops.state);
    }
}

impl<C: CheckpointStrategy> Start for Autodiff<Flex, C> {
    fn start(output: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        let gradient = gradient.into_primitive();
        match StartBackward.prepare::<C>([output.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let value = Flex::start(output.into_primitive(), gradient.clone());
                prep.finish(gradient, value)
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::start(output.into_primitive(), gradient)),
        }
    }
}

/// A value to call `backward` of, which hands `gradient` to `output`.
pub(super) fn begin<const D: usize>(output: Tensor<D>, gradient: Tensor<D>) -> Tensor<1> {
    Tensor::from_dispatch(Dispatch::start(output.into_dispatch(), gradient.into_dispatch()))
}
