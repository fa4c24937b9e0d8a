//! GEGLU in one pass, forward and backward.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::prelude::*;
use pulp::Arch;
use rayon::prelude::*;

use super::applies;
use super::math::{normal_density, normal_distribution};
use super::memory::{contiguous, tensor, values};

/// GEGLU as an operation of a backend.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait GatedGelu: Backend {
    /// `[batch, tokens, 2 * d_inner]` to `[batch, tokens, d_inner]`.
    fn gated_gelu(projected: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// Tokens per task.
const TOKENS: usize = 64;

impl GatedGelu for Flex {
    fn gated_gelu(projected: FlexTensor) -> FlexTensor {
        let projected = contiguous(projected);
        let [batch, n_tokens, d_projected] = projected.shape().dims();
        let d_inner = d_projected / 2;
        let mut output = vec![0.0; batch * n_tokens * d_inner];
        output
            .par_chunks_mut(TOKENS * d_inner)
            .zip(values(&projected).par_chunks(TOKENS * d_projected))
            .for_each(|(output, projected)| {
                Arch::new().dispatch(|| {
                    let tokens = output.chunks_exact_mut(d_inner).zip(projected.chunks_exact(d_projected));
                    for (output, projected) in tokens {
                        let (value, gate) = projected.split_at(d_inner);
                        for ((output, value), gate) in output.iter_mut().zip(value).zip(gate) {
                            *output = value * gate * normal_distribution(*gate);
                        }
                    }
                });
            });
        tensor(output, [batch, n_tokens, d_inner])
    }
}

#[derive(Debug)]
struct GatedGeluBackward;

impl Backward<Flex, 1> for GatedGeluBackward {
    type State = NodeId;

    fn backward(self, ops: Ops<NodeId, 1>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let gradient = contiguous(grads.consume::<Flex>(&ops.node));
        let projected = contiguous(checkpointer.retrieve_node_output::<FlexTensor>(ops.state));
        let [Some(node)] = ops.parents else { return };
        let [_, _, d_inner] = gradient.shape().dims();
        let mut towards = vec![0.0; values(&projected).len()];
        towards
            .par_chunks_mut(TOKENS * 2 * d_inner)
            .zip(values(&projected).par_chunks(TOKENS * 2 * d_inner))
            .zip(values(&gradient).par_chunks(TOKENS * d_inner))
            .for_each(|((towards, projected), gradient)| {
                Arch::new().dispatch(|| {
                    let inputs = projected.chunks_exact(2 * d_inner).zip(gradient.chunks_exact(d_inner));
                    for (towards, (projected, gradient)) in towards.chunks_exact_mut(2 * d_inner).zip(inputs)
                    {
                        let (value, gate) = projected.split_at(d_inner);
                        let (towards_value, towards_gate) = towards.split_at_mut(d_inner);
                        for index in 0..d_inner {
                            let (gate, gradient) = (gate[index], gradient[index]);
                            let below = normal_distribution(gate);
                            towards_value[index] = gradient * gate * below;
                            towards_gate[index] =
                                gradient * value[index] * (below + gate * normal_density(gate));
                        }
                    }
                });
            });
        grads.register::<Flex>(node.id, tensor(towards, projected.shape()));
    }
}

impl<C: CheckpointStrategy> GatedGelu for Autodiff<Flex, C> {
    fn gated_gelu(projected: FloatTensor<Self>) -> FloatTensor<Self> {
        match GatedGeluBackward.prepare::<C>([projected.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let saved = prep.checkpoint(&projected);
                prep.finish(saved, Flex::gated_gelu(projected.into_primitive()))
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::gated_gelu(projected.into_primitive())),
        }
    }
}

/// GEGLU where the special kernel covers it.
pub(crate) fn geglu(projected: &Tensor<3>) -> Option<Tensor<3>> {
    let covered = applies(projected) && projected.shape().num_elements() > 0;
    covered.then(|| Tensor::from_dispatch(Dispatch::gated_gelu(projected.clone().into_dispatch())))
}
