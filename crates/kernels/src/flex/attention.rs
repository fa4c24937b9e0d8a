//! Attention with a backward pass that recomputes the scores instead of keeping them.
//!
//! Burn's own attention under autodiff keeps about ten tensors of the size of the scores. Here a head works
//! on a few queries at a time: their scores stay in the cache.

mod head;

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

use self::head::{BackwardHead, ForwardHead, Size};
use super::applies;
use super::memory::{contiguous, tensor, values, with_scratch};

/// Attention as an operation of a backend.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait Attention: Backend {
    /// Shapes as [`crate::attention`].
    fn multi_head_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

impl Attention for Flex {
    fn multi_head_attention(query: FlexTensor, key: FlexTensor, value: FlexTensor) -> FlexTensor {
        attend([query, key, value].map(contiguous).each_ref()).0
    }
}

fn size([query, key, _]: [&FlexTensor; 3]) -> Size {
    let [_, _, n_queries, d_head] = query.shape().dims();
    let [_, _, n_keys, _] = key.shape().dims();
    Size { n_queries, n_keys, d_head }
}

/// The output, and the logarithm of the sum of the exponentials of every query's scores.
fn attend(inputs: [&FlexTensor; 3]) -> (FlexTensor, Vec<f32>) {
    let size = size(inputs);
    let [query, key, value] = inputs.map(values);
    let mut output = vec![0.0; query.len()];
    let mut log_sums = vec![0.0; query.len() / size.d_head];
    output
        .par_chunks_mut(size.query_len())
        .zip(log_sums.par_chunks_mut(size.n_queries))
        .zip(query.par_chunks(size.query_len()))
        .zip(key.par_chunks(size.key_len()).zip(value.par_chunks(size.key_len())))
        .for_each(|(((output, log_sums), query), (key, value))| {
            with_scratch(size.forward_scratch(), |scratch| {
                Arch::new().dispatch(ForwardHead { size, query, key, value, output, log_sums, scratch });
            });
        });
    (tensor(output, inputs[0].shape()), log_sums)
}

#[derive(Debug)]
struct AttentionBackward;

#[derive(Clone, Debug)]
struct Saved {
    inputs: [NodeId; 3],
    output: FlexTensor,
    log_sums: Vec<f32>,
}

impl Backward<Flex, 3> for AttentionBackward {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let Saved { inputs, output, log_sums } = ops.state;
        let gradient = contiguous(grads.consume::<Flex>(&ops.node));
        let inputs = inputs.map(|input| contiguous(checkpointer.retrieve_node_output::<FlexTensor>(input)));
        let size = size(inputs.each_ref());
        let [query, key, value] = inputs.each_ref().map(values);
        let [mut towards_query, mut towards_key, mut towards_value] =
            [query, key, value].map(|input| vec![0.0; input.len()]);
        let towards = towards_query.par_chunks_mut(size.query_len()).zip(
            towards_key.par_chunks_mut(size.key_len()).zip(towards_value.par_chunks_mut(size.key_len())),
        );
        let given = query
            .par_chunks(size.query_len())
            .zip(key.par_chunks(size.key_len()).zip(value.par_chunks(size.key_len())));
        let results = values(&output)
            .par_chunks(size.query_len())
            .zip(values(&gradient).par_chunks(size.query_len()))
            .zip(log_sums.par_chunks(size.n_queries));
        towards.zip(given).zip(results).for_each(
            |(((towards_query, (towards_key, towards_value)), (query, (key, value))), results)| {
                let ((output, gradient), log_sums) = results;
                with_scratch(size.backward_scratch(), |scratch| {
                    Arch::new().dispatch(BackwardHead {
                        size,
                        query,
                        key,
                        value,
                        output,
                        gradient,
                        log_sums,
                        towards_query,
                        towards_key,
                        towards_value,
                        scratch,
                    });
                });
            },
        );
        let gradients = [towards_query, towards_key, towards_value];
        for ((node, gradient), input) in ops.parents.into_iter().zip(gradients).zip(&inputs) {
            if let Some(node) = node {
                grads.register::<Flex>(node.id, tensor(gradient, input.shape()));
            }
        }
    }
}

impl<C: CheckpointStrategy> Attention for Autodiff<Flex, C> {
    fn multi_head_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let inputs = [query, key, value];
        let prepared =
            AttentionBackward.prepare::<C>(inputs.each_ref().map(|input| input.node())).compute_bound();
        match prepared.stateful() {
            OpsKind::Tracked(mut prep) => {
                let saved = inputs.each_ref().map(|input| prep.checkpoint(input));
                let inputs = inputs.map(|input| contiguous(input.into_primitive()));
                let (output, log_sums) = attend(inputs.each_ref());
                prep.finish(Saved { inputs: saved, output: output.clone(), log_sums }, output)
            }
            OpsKind::UnTracked(prep) => {
                let inputs = inputs.map(|input| contiguous(input.into_primitive()));
                prep.finish(attend(inputs.each_ref()).0)
            }
        }
    }
}

/// Attention where the special kernel covers it: values as wide as queries.
pub(crate) fn attention(query: &Tensor<4>, key: &Tensor<4>, value: &Tensor<4>) -> Option<Tensor<4>> {
    let inputs = [query, key, value];
    let covered = inputs.iter().all(|input| applies(input) && input.shape().num_elements() > 0)
        && key.dims() == value.dims();
    covered.then(|| {
        let [query, key, value] = inputs.map(|input| input.clone().into_dispatch());
        Tensor::from_dispatch(Dispatch::multi_head_attention(query, key, value))
    })
}
