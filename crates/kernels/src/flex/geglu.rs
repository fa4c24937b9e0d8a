//! GEGLU in one pass, forward and backward.

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
use super::math::normal;
use super::memory::{contiguous, filled, tensor, values};

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
        let fill = |output: &mut [MaybeUninit<f32>]| {
            output
                .par_chunks_mut(TOKENS * d_inner)
                .zip(values(&projected).par_chunks(TOKENS * d_projected))
                .for_each(|(output, projected)| {
                    Arch::new().dispatch(ForwardTokens { d_inner, projected, output });
                });
        };
        // SAFETY: as many tokens as are projected, and of each every value is written.
        let (output, ()) = unsafe { filled(batch * n_tokens * d_inner, fill) };
        tensor(output, [batch, n_tokens, d_inner])
    }
}

/// Some tokens. A type and not a closure, as is the next: a closure that is not inlined would be compiled without the
/// processor's vectors.
struct ForwardTokens<'a> {
    d_inner: usize,
    projected: &'a [f32],
    output: &'a mut [MaybeUninit<f32>],
}

impl WithSimd for ForwardTokens<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self { d_inner, projected, output } = self;
        let tokens = output.chunks_exact_mut(d_inner).zip(projected.chunks_exact(2 * d_inner));
        for (output, projected) in tokens {
            let (value, gate) = projected.split_at(d_inner);
            for ((output, value), gate) in output.iter_mut().zip(value).zip(gate) {
                output.write(value * gate * normal(*gate).0);
            }
        }
    }
}

/// The gradients of some tokens.
struct BackwardTokens<'a> {
    d_inner: usize,
    projected: &'a [f32],
    gradient: &'a [f32],
    towards: &'a mut [MaybeUninit<f32>],
}

impl WithSimd for BackwardTokens<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self { d_inner, projected, gradient, towards } = self;
        let inputs = projected.chunks_exact(2 * d_inner).zip(gradient.chunks_exact(d_inner));
        for (towards, (projected, gradient)) in towards.chunks_exact_mut(2 * d_inner).zip(inputs) {
            let (value, gate) = projected.split_at(d_inner);
            let (towards_value, towards_gate) = towards.split_at_mut(d_inner);
            let towards = towards_value.iter_mut().zip(towards_gate);
            for (((value, gate), gradient), (towards_value, towards_gate)) in
                value.iter().zip(gate).zip(gradient).zip(towards)
            {
                let (below, density) = normal(*gate);
                towards_value.write(gradient * gate * below);
                towards_gate.write(gradient * value * (below + gate * density));
            }
        }
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
        let fill = |towards: &mut [MaybeUninit<f32>]| {
            towards
                .par_chunks_mut(TOKENS * 2 * d_inner)
                .zip(values(&projected).par_chunks(TOKENS * 2 * d_inner))
                .zip(values(&gradient).par_chunks(TOKENS * d_inner))
                .for_each(|((towards, projected), gradient)| {
                    Arch::new().dispatch(BackwardTokens { d_inner, projected, gradient, towards });
                });
        };
        // SAFETY: as many tokens as are projected, and of each every value is written.
        let (towards, ()) = unsafe { filled(values(&projected).len(), fill) };
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
