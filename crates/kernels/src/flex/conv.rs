//! Convolution in two dimensions.
//!
//! Burn's CPU backend turns a convolution into a matrix product of an unfolded copy of its input, nine
//! times the size of the input for a 3x3 kernel. Here the copy is hardly larger than the input
//! ([`gather`]) and the product runs on it directly ([`tile`]).

mod compute;
mod gather;
pub(super) mod tile;
mod unfolded;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::nn::conv::Conv2d;
use burn::prelude::*;
use burn::tensor::ops::ConvOptions;

use self::compute::Geometry;
use super::applies;
use super::half::{is_frozen_half, widened};
use super::memory::{contiguous, tensor, values};
use crate::conv::padding;

/// Convolution as an operation of a backend, like `ModuleOps::conv2d` but for one group only.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait Convolution: Backend {
    /// Shapes as `ModuleOps::conv2d`. A weight in half precision is kept so, and widened at each use.
    fn convolution(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self>;
}

impl Convolution for Flex {
    fn convolution(
        input: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        options: ConvOptions<2>,
    ) -> FlexTensor {
        let geometry = geometry(&input, &weight, &options);
        let (input, weight, bias) = (contiguous(input), widened(weight), contiguous(bias));
        let output = geometry.forward(values(&input), values(&weight), values(&bias));
        let [height, width] = geometry.out_size;
        tensor(output, [geometry.n_images, geometry.channels_out, height, width])
    }
}

fn geometry(input: &FlexTensor, weight: &FlexTensor, options: &ConvOptions<2>) -> Geometry {
    let [n_images, channels_in, height, width] = input.shape().dims();
    let [channels_out, _, kernel_height, kernel_width] = weight.shape().dims();
    let (size, kernel) = ([height, width], [kernel_height, kernel_width]);
    let out_size = [0, 1].map(|dim| {
        let (before, after) = options.padding[dim];
        let reach = options.dilation[dim] * (kernel[dim] - 1) + 1;
        (size[dim] + before + after - reach) / options.stride[dim] + 1
    });
    Geometry {
        n_images,
        channels_in,
        channels_out,
        size,
        kernel,
        out_size,
        stride: options.stride,
        dilation: options.dilation,
        padding: options.padding.map(|(before, _)| before),
    }
}

/// The backward pass of [`Convolution`] towards input, weight and bias, each only if it is tracked.
#[derive(Debug)]
struct ConvolutionBackward;

/// The input is kept only for the weight's gradient, the weight only for the input's.
#[derive(Clone, Debug)]
struct Saved {
    geometry: Geometry,
    input: Option<NodeId>,
    weight: Option<NodeId>,
}

impl Backward<Flex, 3> for ConvolutionBackward {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [input_node, weight_node, bias_node] = ops.parents;
        let Saved { geometry, input, weight } = ops.state;
        let gradient = contiguous(grads.consume::<Flex>(&ops.node));
        let mut retrieve = |saved: Option<NodeId>| {
            let saved = saved.expect("saved in the forward pass for a tracked counterpart");
            checkpointer.retrieve_node_output::<FlexTensor>(saved)
        };
        if let Some(node) = input_node {
            let weight = widened(retrieve(weight));
            let towards_input = geometry.input_gradient(values(&gradient), values(&weight));
            let [height, width] = geometry.size;
            let shape = [geometry.n_images, geometry.channels_in, height, width];
            grads.register::<Flex>(node.id, tensor(towards_input, shape));
        }
        if let Some(node) = weight_node {
            let input = contiguous(retrieve(input));
            let towards_weight = geometry.weight_gradient(values(&input), values(&gradient));
            let [height, width] = geometry.kernel;
            let shape = [geometry.channels_out, geometry.channels_in, height, width];
            grads.register::<Flex>(node.id, tensor(towards_weight, shape));
        }
        if let Some(node) = bias_node {
            let towards_bias = geometry.bias_gradient(values(&gradient));
            grads.register::<Flex>(node.id, tensor(towards_bias, [geometry.channels_out]));
        }
    }
}

impl<C: CheckpointStrategy> Convolution for Autodiff<Flex, C> {
    fn convolution(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        let geometry = geometry(input.primitive(), weight.primitive(), &options);
        let nodes = [input.node(), weight.node(), bias.node()];
        let forward = |input: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>| {
            Flex::convolution(input.into_primitive(), weight.into_primitive(), bias.into_primitive(), options)
        };
        match ConvolutionBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let saved = Saved {
                    geometry,
                    input: weight.is_tracked().then(|| prep.checkpoint(&input)),
                    weight: input.is_tracked().then(|| prep.checkpoint(&weight)),
                };
                prep.finish(saved, forward(input, weight, bias))
            }
            OpsKind::UnTracked(prep) => prep.finish(forward(input, weight, bias)),
        }
    }
}

/// [`crate::conv2d`] where the special kernel covers it.
pub(crate) fn conv2d(conv: &Conv2d, input: &Tensor<4>) -> Option<Tensor<4>> {
    let padding = padding(conv)?;
    let weight = conv.weight.val();
    if conv.groups != 1 || !applies(input) || !(applies(&weight) || is_frozen_half(&weight)) {
        return None;
    }
    let bias = match &conv.bias {
        Some(bias) => bias.val(),
        None => Tensor::zeros([weight.dims()[0]], &input.device().inner()),
    };
    let options = ConvOptions::new_with_padding(conv.stride, padding, conv.dilation, conv.groups);
    let output = Dispatch::convolution(
        input.clone().into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        options,
    );
    Some(Tensor::from_dispatch(output))
}
