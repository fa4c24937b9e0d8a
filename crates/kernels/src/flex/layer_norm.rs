//! Layer normalisation: three passes over a token forward, two backward, all but the first in the innermost cache.

use std::mem::MaybeUninit;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::nn::LayerNorm;
use burn::prelude::*;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::applies;
use super::math::{sum, sums};
use super::memory::{contiguous, filled, tensor, values};

/// Tokens per task. Sums over tokens are made per task first, so that they depend on the shape only.
const TOKENS: usize = 64;

/// Layer normalisation as an operation of a backend.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait LayerNormalisation: Backend {
    /// Input and output `[batch, tokens, width]`, gamma and beta `[width]`.
    fn layer_normalisation(
        input: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self>;
}

/// Mean and reciprocal standard deviation of every token.
type Statistics = Vec<(f32, f32)>;

fn normalise(input: &[f32], gamma: &[f32], beta: &[f32], epsilon: f32) -> (Vec<f32>, Statistics) {
    let width = gamma.len();
    let mut statistics = vec![(0.0, 0.0); input.len() / width];
    let fill = |output: &mut [MaybeUninit<f32>]| {
        output
            .par_chunks_mut(TOKENS * width)
            .zip(input.par_chunks(TOKENS * width))
            .zip(statistics.par_chunks_mut(TOKENS))
            .for_each(|((output, input), statistics)| {
                Arch::new().dispatch(ForwardTokens { input, gamma, beta, epsilon, output, statistics });
            });
    };
    // SAFETY: the input consists of whole tokens, and of each every value is written.
    let (output, ()) = unsafe { filled(input.len(), fill) };
    (output, statistics)
}

/// Some tokens, normalised. A type and not a closure, as is the next: a closure that is not inlined would be compiled
/// without the processor's vectors.
struct ForwardTokens<'a> {
    input: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    epsilon: f32,
    output: &'a mut [MaybeUninit<f32>],
    statistics: &'a mut [(f32, f32)],
}

impl WithSimd for ForwardTokens<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self { input, gamma, beta, epsilon, output, statistics } = self;
        let width = gamma.len();
        let tokens = output.chunks_exact_mut(width).zip(input.chunks_exact(width));
        for ((output, input), statistics) in tokens.zip(statistics) {
            let mean = sum(input) / width as f32;
            let [squares] = sums([input], |[value]| [(value - mean) * (value - mean)]);
            let deviation = 1.0 / (squares / width as f32 + epsilon).sqrt();
            *statistics = (mean, deviation);
            for (((output, input), gamma), beta) in output.iter_mut().zip(input).zip(gamma).zip(beta) {
                output.write((input - mean) * deviation * gamma + beta);
            }
        }
    }
}

/// The gradients towards input, gamma and beta.
fn gradients(input: &[f32], saved: &Saved, gradient: &[f32]) -> [Vec<f32>; 3] {
    let gamma = saved.gamma.as_slice();
    let width = gamma.len();
    let n_tasks = saved.statistics.len().div_ceil(TOKENS);
    // Per task the sums towards gamma, then those towards beta.
    let mut sums = vec![0.0; n_tasks * 2 * width];
    let fill = |towards_input: &mut [MaybeUninit<f32>]| {
        towards_input
            .par_chunks_mut(TOKENS * width)
            .zip(sums.par_chunks_exact_mut(2 * width))
            .zip(input.par_chunks(TOKENS * width).zip(gradient.par_chunks(TOKENS * width)))
            .zip(saved.statistics.par_chunks(TOKENS))
            .for_each(|(((towards_input, sums), (input, gradient)), statistics)| {
                let (towards_gamma, towards_beta) = sums.split_at_mut(width);
                Arch::new().dispatch(BackwardTokens {
                    input,
                    gamma,
                    statistics,
                    gradient,
                    towards_input,
                    towards_gamma,
                    towards_beta,
                });
            });
    };
    // SAFETY: the input consists of whole tokens, and of each every value is written.
    let (towards_input, ()) = unsafe { filled(input.len(), fill) };
    let mut totals = sums[..2 * width].to_vec();
    for sums in sums.chunks_exact(2 * width).skip(1) {
        for (total, sum) in totals.iter_mut().zip(sums) {
            *total += sum;
        }
    }
    let towards_beta = totals.split_off(width);
    [towards_input, totals, towards_beta]
}

/// The gradients of some tokens.
struct BackwardTokens<'a> {
    input: &'a [f32],
    gamma: &'a [f32],
    statistics: &'a [(f32, f32)],
    gradient: &'a [f32],
    towards_input: &'a mut [MaybeUninit<f32>],
    /// To add to.
    towards_gamma: &'a mut [f32],
    towards_beta: &'a mut [f32],
}

impl WithSimd for BackwardTokens<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self { input, gamma, statistics, gradient, towards_input, towards_gamma, towards_beta } = self;
        let width = gamma.len();
        let tokens = towards_input.chunks_exact_mut(width).zip(input.chunks_exact(width));
        for (((towards, input), gradient), (mean, deviation)) in
            tokens.zip(gradient.chunks_exact(width)).zip(statistics)
        {
            // d input = deviation * (gamma * d - mean(gamma * d) - normalised * mean(gamma * d * normalised)).
            let [total, by_distance] = sums([input, gradient, gamma], |[input, gradient, gamma]| {
                [gamma * gradient, gamma * gradient * (input - mean)]
            });
            let constant = total / width as f32;
            let slope = by_distance * deviation / width as f32;
            let affine = gamma.iter().zip(towards_gamma.iter_mut()).zip(towards_beta.iter_mut());
            for (((towards, input), gradient), ((gamma, towards_gamma), towards_beta)) in
                towards.iter_mut().zip(input).zip(gradient).zip(affine)
            {
                let normalised = (input - mean) * deviation;
                *towards_gamma += gradient * normalised;
                *towards_beta += gradient;
                towards.write(deviation * (gamma * gradient - constant - normalised * slope));
            }
        }
    }
}

impl LayerNormalisation for Flex {
    fn layer_normalisation(
        input: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        epsilon: f32,
    ) -> FlexTensor {
        let [input, gamma, beta] = [input, gamma, beta].map(contiguous);
        let output = normalise(values(&input), values(&gamma), values(&beta), epsilon).0;
        tensor(output, input.shape())
    }
}

#[derive(Debug)]
struct LayerNormalisationBackward;

#[derive(Clone, Debug)]
struct Saved {
    input: NodeId,
    gamma: Vec<f32>,
    statistics: Statistics,
}

impl Backward<Flex, 3> for LayerNormalisationBackward {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let saved = ops.state;
        let gradient = contiguous(grads.consume::<Flex>(&ops.node));
        let input = contiguous(checkpointer.retrieve_node_output::<FlexTensor>(saved.input));
        let width = saved.gamma.len();
        let shapes = [input.shape(), [width].into(), [width].into()];
        let gradients = gradients(values(&input), &saved, values(&gradient));
        for ((node, gradient), shape) in ops.parents.into_iter().zip(gradients).zip(shapes) {
            if let Some(node) = node {
                grads.register::<Flex>(node.id, tensor(gradient, shape));
            }
        }
    }
}

impl<C: CheckpointStrategy> LayerNormalisation for Autodiff<Flex, C> {
    fn layer_normalisation(
        input: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self> {
        let nodes = [input.node(), gamma.node(), beta.node()];
        let prepared = LayerNormalisationBackward.prepare::<C>(nodes).compute_bound().stateful();
        let [gamma, beta] = [gamma, beta].map(|affine| contiguous(affine.into_primitive()));
        match prepared {
            OpsKind::Tracked(mut prep) => {
                let saved_input = prep.checkpoint(&input);
                let input = contiguous(input.into_primitive());
                let (output, statistics) = normalise(values(&input), values(&gamma), values(&beta), epsilon);
                let saved = Saved { input: saved_input, gamma: values(&gamma).to_vec(), statistics };
                prep.finish(saved, tensor(output, input.shape()))
            }
            OpsKind::UnTracked(prep) => {
                let output = Flex::layer_normalisation(input.into_primitive(), gamma, beta, epsilon);
                prep.finish(output)
            }
        }
    }
}

/// [`crate::layer_norm`] where the special kernel covers it.
#[expect(clippy::cast_possible_truncation, reason = "f32 is the tensors' precision")]
pub(crate) fn layer_norm(norm: &LayerNorm, epsilon: f64, input: &Tensor<3>) -> Option<Tensor<3>> {
    let (gamma, beta) = (norm.gamma.val(), norm.beta.as_ref()?.val());
    if !applies(input) || !applies(&gamma) || input.shape().num_elements() == 0 {
        return None;
    }
    let output = Dispatch::layer_normalisation(
        input.clone().into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        epsilon as f32,
    );
    Some(Tensor::from_dispatch(output))
}
