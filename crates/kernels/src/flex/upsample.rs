//! Nearest-neighbour interpolation, whose gradient sums what every value was copied to.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::prelude::*;
use rayon::prelude::*;

use super::applies;
use super::memory::{contiguous, tensor, values};

/// Nearest-neighbour interpolation as an operation of a backend.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait NearestUpsampling: Backend {
    /// Shapes as [`crate::upsample_nearest`].
    fn nearest_upsampling(features: FloatTensor<Self>, size: [usize; 2]) -> FloatTensor<Self>;
}

impl NearestUpsampling for Flex {
    fn nearest_upsampling(features: FlexTensor, size: [usize; 2]) -> FlexTensor {
        let features = contiguous(features);
        let [batch, channels, height, width] = features.shape().dims();
        let mut output = vec![0.0; batch * channels * size[0] * size[1]];
        output.par_chunks_mut(size[0] * size[1]).zip(values(&features).par_chunks(height * width)).for_each(
            |(output, plane)| {
                for (row, output) in output.chunks_exact_mut(size[1]).enumerate() {
                    let source = &plane[row * height / size[0] * width..][..width];
                    if size[1] == 2 * width {
                        for (output, value) in output.chunks_exact_mut(2).zip(source) {
                            output.fill(*value);
                        }
                    } else {
                        for (col, output) in output.iter_mut().enumerate() {
                            *output = source[col * width / size[1]];
                        }
                    }
                }
            },
        );
        tensor(output, [batch, channels, size[0], size[1]])
    }
}

#[derive(Debug)]
struct NearestUpsamplingBackward;

impl Backward<Flex, 1> for NearestUpsamplingBackward {
    /// Height and width before.
    type State = [usize; 2];

    fn backward(self, ops: Ops<[usize; 2], 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = contiguous(grads.consume::<Flex>(&ops.node));
        let [Some(node)] = ops.parents else { return };
        let [batch, channels, height_out, width_out] = gradient.shape().dims();
        let [height, width] = ops.state;
        let mut towards = vec![0.0; batch * channels * height * width];
        towards
            .par_chunks_mut(height * width)
            .zip(values(&gradient).par_chunks(height_out * width_out))
            .for_each(|(towards, gradient)| {
                for (row, gradient) in gradient.chunks_exact(width_out).enumerate() {
                    let towards = &mut towards[row * height / height_out * width..][..width];
                    if width_out == 2 * width {
                        for (towards, pair) in towards.iter_mut().zip(gradient.chunks_exact(2)) {
                            *towards += pair[0] + pair[1];
                        }
                    } else {
                        for (col, gradient) in gradient.iter().enumerate() {
                            towards[col * width / width_out] += gradient;
                        }
                    }
                }
            });
        grads.register::<Flex>(node.id, tensor(towards, [batch, channels, height, width]));
    }
}

impl<C: CheckpointStrategy> NearestUpsampling for Autodiff<Flex, C> {
    fn nearest_upsampling(features: FloatTensor<Self>, size: [usize; 2]) -> FloatTensor<Self> {
        let [_, _, height, width] = features.shape().dims();
        match NearestUpsamplingBackward.prepare::<C>([features.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                prep.finish([height, width], Flex::nearest_upsampling(features.into_primitive(), size))
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(Flex::nearest_upsampling(features.into_primitive(), size))
            }
        }
    }
}

/// Nearest-neighbour interpolation where the special kernel covers it.
pub(crate) fn upsample_nearest(features: &Tensor<4>, size: [usize; 2]) -> Option<Tensor<4>> {
    let covered = applies(features) && features.shape().num_elements() > 0 && !size.contains(&0);
    covered
        .then(|| Tensor::from_dispatch(Dispatch::nearest_upsampling(features.clone().into_dispatch(), size)))
}
