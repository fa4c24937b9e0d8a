//! The linear map with frozen weights in half precision.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::ops::ModuleOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::nn::Linear;
use burn::prelude::*;

use super::applies;
use super::half::{is_frozen_half, widened};

/// `input weight` with a weight in half precision, as an operation of a backend.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait HalfLinear: Backend {
    /// Shapes as `ModuleOps::linear`, without bias.
    fn half_linear(input: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl HalfLinear for Flex {
    fn half_linear(input: FlexTensor, weight: FlexTensor) -> FlexTensor {
        Flex::linear(input, widened(weight), None)
    }
}

/// The backward pass of [`HalfLinear`] towards the input; the weight is kept as it is, in half precision.
#[derive(Debug)]
struct HalfLinearBackward;

impl Backward<Flex, 2> for HalfLinearBackward {
    type State = NodeId;

    fn backward(self, ops: Ops<NodeId, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let gradient = grads.consume::<Flex>(&ops.node);
        let weight = checkpointer.retrieve_node_output::<FlexTensor>(ops.state);
        if let [Some(input), _] = ops.parents {
            grads.register::<Flex>(input.id, Flex::linear_x_backward(widened(weight), gradient));
        }
    }
}

impl<C: CheckpointStrategy> HalfLinear for Autodiff<Flex, C> {
    fn half_linear(input: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        match HalfLinearBackward.prepare::<C>([input.node(), weight.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let saved = prep.checkpoint(&weight);
                prep.finish(saved, Flex::half_linear(input.into_primitive(), weight.into_primitive()))
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(Flex::half_linear(input.into_primitive(), weight.into_primitive()))
            }
        }
    }
}

/// [`crate::linear()`] where the special kernel covers it.
pub(crate) fn linear<const D: usize>(linear: &Linear, input: &Tensor<D>) -> Option<Tensor<D>> {
    let weight = linear.weight.val();
    if !applies(input) || !is_frozen_half(&weight) {
        return None;
    }
    let output = Dispatch::half_linear(input.clone().into_dispatch(), weight.into_dispatch());
    let output = Tensor::from_dispatch(output);
    Some(match &linear.bias {
        Some(bias) => output + bias.val().unsqueeze(),
        None => output,
    })
}
