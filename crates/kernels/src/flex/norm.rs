//! Group normalisation with or without SiLU: each group comes from memory once, forward and backward.

use std::mem::MaybeUninit;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::nn::GroupNorm;
use burn::prelude::*;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::applies;
use super::math::{silu, silu_derivative, sum, sums};
use super::memory::{contiguous, filled, tensor, values};

/// Group normalisation and an activation as an operation of a backend.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait GroupNormalisation: Backend {
    /// Input and output `[batch, channels, height, width]`, gamma and beta `[channels]`.
    fn group_normalisation(
        input: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        options: Options,
    ) -> FloatTensor<Self>;
}

/// What follows the normalisation in the same pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    None,
    Silu,
}

/// What a group normalisation is told beside its tensors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    n_groups: usize,
    epsilon: f32,
    activation: Activation,
}

/// Mean and reciprocal standard deviation of every group of every image.
type Statistics = Vec<(f32, f32)>;

/// How an input is divided into groups.
#[derive(Clone, Copy, Debug)]
struct Groups {
    options: Options,
    n_channels: usize,
    /// Values of one channel of one image.
    plane: usize,
}

impl Groups {
    fn of(input: &FlexTensor, options: Options) -> Self {
        let [_, n_channels, height, width] = input.shape().dims();
        Self { options, n_channels, plane: height * width }
    }

    fn channels_per_group(&self) -> usize {
        self.n_channels / self.options.n_groups
    }

    fn group_len(&self) -> usize {
        self.channels_per_group() * self.plane
    }

    /// The first channel of a group, counted over all images.
    fn first_channel(&self, group: usize) -> usize {
        group % self.options.n_groups * self.channels_per_group()
    }

    fn forward(&self, input: &[f32], gamma: &[f32], beta: &[f32]) -> (Vec<f32>, Statistics) {
        let fill = |output: &mut [MaybeUninit<f32>]| {
            let groups = output.par_chunks_mut(self.group_len()).zip(input.par_chunks(self.group_len()));
            let forward = |(group, (output, input))| {
                let first = self.first_channel(group);
                let (gamma, beta) = (&gamma[first..], &beta[first..]);
                Arch::new().dispatch(ForwardGroup { groups: self, input, gamma, beta, output })
            };
            groups.enumerate().map(forward).collect()
        };
        // SAFETY: the input consists of whole groups, and of each every value is written.
        unsafe { filled(input.len(), fill) }
    }

    /// The gradients towards input, gamma and beta.
    fn backward(&self, input: &[f32], saved: &Saved, gradient: &[f32]) -> [Vec<f32>; 3] {
        let channels = self.channels_per_group();
        // Per image and channel, the sums of the gradient times the normalised value, and of the gradient.
        let mut sums = vec![[0.0; 2]; input.len() / self.plane];
        let fill = |towards_input: &mut [MaybeUninit<f32>]| {
            towards_input
                .par_chunks_mut(self.group_len())
                .zip(sums.par_chunks_mut(channels))
                .zip(input.par_chunks(self.group_len()).zip(gradient.par_chunks(self.group_len())))
                .enumerate()
                .for_each(|(group, ((towards_input, sums), (input, gradient)))| {
                    let first = self.first_channel(group);
                    Arch::new().dispatch(BackwardGroup {
                        groups: self,
                        input,
                        gamma: &saved.gamma[first..first + channels],
                        beta: &saved.beta[first..first + channels],
                        statistics: saved.statistics[group],
                        gradient,
                        towards_input,
                        sums,
                    });
                });
        };
        // SAFETY: the input consists of whole groups, and of each every value is written.
        let (towards_input, ()) = unsafe { filled(input.len(), fill) };
        let total = |part: usize| {
            let per_channel =
                |channel: usize| sums[channel..].iter().step_by(self.n_channels).map(|sums| sums[part]).sum();
            (0..self.n_channels).map(per_channel).collect()
        };
        [towards_input, total(0), total(1)]
    }
}

/// One group of one image, normalised. A type and not a closure, as is the next: a closure that is not inlined would
/// be compiled without the processor's vectors.
struct ForwardGroup<'a> {
    groups: &'a Groups,
    input: &'a [f32],
    /// From the group's first channel on.
    gamma: &'a [f32],
    beta: &'a [f32],
    output: &'a mut [MaybeUninit<f32>],
}

impl WithSimd for ForwardGroup<'_> {
    /// Mean and reciprocal standard deviation.
    type Output = (f32, f32);

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> (f32, f32) {
        let Self { groups: Groups { options, plane, .. }, input, gamma, beta, output } = self;
        let len = input.len() as f32;
        let mean = sum(input) / len;
        let [squares] = sums([input], |[value]| [(value - mean) * (value - mean)]);
        let deviation = 1.0 / (squares / len + options.epsilon).sqrt();
        let planes = output.chunks_exact_mut(*plane).zip(input.chunks_exact(*plane));
        for ((output, input), (gamma, beta)) in planes.zip(gamma.iter().zip(beta)) {
            let (scale, shift) = (gamma * deviation, beta - mean * gamma * deviation);
            match options.activation {
                Activation::None => {
                    for (output, input) in output.iter_mut().zip(input) {
                        output.write(input * scale + shift);
                    }
                }
                Activation::Silu => {
                    for (output, input) in output.iter_mut().zip(input) {
                        output.write(silu(input * scale + shift));
                    }
                }
            }
        }
        (mean, deviation)
    }
}

/// The gradients of one group of one image. Input and gradient come from memory once; what the second pass reads is
/// still in the cache.
struct BackwardGroup<'a> {
    groups: &'a Groups,
    input: &'a [f32],
    /// Of the group's channels.
    gamma: &'a [f32],
    beta: &'a [f32],
    statistics: (f32, f32),
    gradient: &'a [f32],
    towards_input: &'a mut [MaybeUninit<f32>],
    /// Per channel, towards gamma and beta.
    sums: &'a mut [[f32; 2]],
}

impl WithSimd for BackwardGroup<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self { groups, input, gamma, beta, statistics, gradient, towards_input, sums: channel_sums } =
            self;
        let (mean, deviation) = statistics;
        let plane = groups.plane;
        let (mut towards_deviation, mut towards_mean) = (0.0, 0.0);
        let planes = towards_input.chunks_exact_mut(plane).zip(input.chunks_exact(plane));
        let channels = gamma.iter().zip(beta).zip(channel_sums);
        for (((towards, input), gradient), ((gamma, beta), channel_sums)) in
            planes.zip(gradient.chunks_exact(plane)).zip(channels)
        {
            let (scale, shift) = (gamma * deviation, beta - mean * gamma * deviation);
            let towards = match groups.options.activation {
                Activation::None => &*towards.write_copy_of_slice(gradient),
                Activation::Silu => {
                    for ((towards, input), gradient) in towards.iter_mut().zip(input).zip(gradient) {
                        towards.write(gradient * silu_derivative(input * scale + shift));
                    }
                    // SAFETY: input and gradient are planes, too, so that each value has been written.
                    unsafe { towards.assume_init_ref() }
                }
            };
            let [by_distance, total] =
                sums([towards, input], |[towards, input]| [towards * (input - mean), towards]);
            *channel_sums = [by_distance * deviation, total];
            towards_deviation += gamma * channel_sums[0];
            towards_mean += gamma * channel_sums[1];
        }
        // SAFETY: the loop has written every plane.
        let towards_input = unsafe { towards_input.assume_init_mut() };
        // d input = deviation * (gamma * d - mean(gamma * d) - normalised * mean(gamma * d * normalised)).
        let len = input.len() as f32;
        let per_input = -deviation * deviation * towards_deviation / len;
        let constant = -deviation * towards_mean / len - per_input * mean;
        let planes = towards_input.chunks_exact_mut(plane).zip(input.chunks_exact(plane));
        for ((towards, input), gamma) in planes.zip(gamma) {
            let scale = gamma * deviation;
            for (towards, input) in towards.iter_mut().zip(input) {
                *towards = *towards * scale + (input * per_input + constant);
            }
        }
    }
}

impl GroupNormalisation for Flex {
    fn group_normalisation(
        input: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        options: Options,
    ) -> FlexTensor {
        normalise(input, &contiguous(gamma), &contiguous(beta), options).0
    }
}

fn normalise(
    input: FlexTensor,
    gamma: &FlexTensor,
    beta: &FlexTensor,
    options: Options,
) -> (FlexTensor, Statistics) {
    let input = contiguous(input);
    let (output, statistics) =
        Groups::of(&input, options).forward(values(&input), values(gamma), values(beta));
    (tensor(output, input.shape()), statistics)
}

#[derive(Debug)]
struct GroupNormalisationBackward;

#[derive(Clone, Debug)]
struct Saved {
    options: Options,
    input: NodeId,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    statistics: Statistics,
}

impl Backward<Flex, 3> for GroupNormalisationBackward {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let saved = ops.state;
        let gradient = contiguous(grads.consume::<Flex>(&ops.node));
        let input = contiguous(checkpointer.retrieve_node_output::<FlexTensor>(saved.input));
        let groups = Groups::of(&input, saved.options);
        let gradients = groups.backward(values(&input), &saved, values(&gradient));
        let shapes = [input.shape(), [groups.n_channels].into(), [groups.n_channels].into()];
        for ((node, gradient), shape) in ops.parents.into_iter().zip(gradients).zip(shapes) {
            if let Some(node) = node {
                grads.register::<Flex>(node.id, tensor(gradient, shape));
            }
        }
    }
}

impl<C: CheckpointStrategy> GroupNormalisation for Autodiff<Flex, C> {
    fn group_normalisation(
        input: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        options: Options,
    ) -> FloatTensor<Self> {
        let nodes = [input.node(), gamma.node(), beta.node()];
        let prepared = GroupNormalisationBackward.prepare::<C>(nodes).compute_bound().stateful();
        let [gamma, beta] = [gamma, beta].map(|affine| contiguous(affine.into_primitive()));
        match prepared {
            OpsKind::Tracked(mut prep) => {
                let saved_input = prep.checkpoint(&input);
                let (output, statistics) = normalise(input.into_primitive(), &gamma, &beta, options);
                let [gamma, beta] = [gamma, beta].map(|affine| values(&affine).to_vec());
                prep.finish(Saved { options, input: saved_input, gamma, beta, statistics }, output)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(normalise(input.into_primitive(), &gamma, &beta, options).0)
            }
        }
    }
}

/// Group norm where the special kernel covers it.
pub(crate) fn group_norm(norm: &GroupNorm, input: &Tensor<4>) -> Option<Tensor<4>> {
    normalised(norm, Activation::None, input)
}

/// Group norm and SiLU where the special kernel covers them.
pub(crate) fn group_norm_silu(norm: &GroupNorm, input: &Tensor<4>) -> Option<Tensor<4>> {
    normalised(norm, Activation::Silu, input)
}

#[expect(clippy::cast_possible_truncation, reason = "f32 is the tensors' precision")]
fn normalised(norm: &GroupNorm, activation: Activation, input: &Tensor<4>) -> Option<Tensor<4>> {
    let (gamma, beta) = (norm.gamma.as_ref()?.val(), norm.beta.as_ref()?.val());
    if !applies(input) || !applies(&gamma) || input.shape().num_elements() == 0 {
        return None;
    }
    let options = Options { n_groups: norm.num_groups, epsilon: norm.epsilon as f32, activation };
    let output = Dispatch::group_normalisation(
        input.clone().into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        options,
    );
    Some(Tensor::from_dispatch(output))
}
