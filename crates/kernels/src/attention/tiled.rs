//! Attention that never holds more than a bounded part of the scores, on any of Burn's backends.
//!
//! The forward pass keeps, besides its output, one number for each query: the logarithm of the sum of the exponentials
//! of its scores. From it the backward pass computes the probabilities anew, a tile at a time. A tile is a few heads or,
//! where one head's scores are too many, a few queries of one; it always has all keys, so that a row of scores is whole.
//!
//! All of it is written in a backend's own operations, which a GPU backend joins into few kernels.
//!
//! Source: Rabe and Staats 2021, "Self-attention does not need O(n^2) memory"; the backward pass is algorithm 4 of
//! Dao et al. 2022, "FlashAttention".

use std::ops::Range;

#[cfg(feature = "cube")]
use burn::backend::Cube;
#[cfg(feature = "flex")]
use burn::backend::Flex;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, DispatchDevice, TensorMetadata, backend_extension};
use burn::prelude::*;
use burn::tensor::{DType, FloatDType, Shape, Slice};

/// How many bytes a tile of scores may have in f32. While a tile is computed about four tensors of its size exist.
///
/// One head's scores at 512 px, 4096 queries and as many keys, are just this.
const TILE_BYTES: usize = 64 << 20;

/// Attention as an operation of a backend.
#[backend_extension(Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"), Autodiff)]
trait TiledAttention: Backend {
    /// Shapes as [`crate::attention`]; a tile has at most so many bytes, but at least one query.
    fn tiled_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        tile_bytes: usize,
    ) -> FloatTensor<Self>;
}

#[cfg(feature = "flex")]
impl TiledAttention for Flex {
    fn tiled_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        tile_bytes: usize,
    ) -> FloatTensor<Self> {
        Heads::<Self>::new(query, key, value, tile_bytes).attend().0
    }
}

#[cfg(feature = "cube")]
impl TiledAttention for Cube {
    fn tiled_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        tile_bytes: usize,
    ) -> FloatTensor<Self> {
        Heads::<Self>::new(query, key, value, tile_bytes).attend().0
    }
}

/// The inputs, with batch and heads as one dimension.
struct Heads<B: Backend> {
    /// `[heads, queries, d_head]`
    query: FloatTensor<B>,
    /// `[heads, keys, d_head]`
    key: FloatTensor<B>,
    /// `[heads, keys, d_value]`
    value: FloatTensor<B>,
    shape: [usize; 2],
    tile: Tile,
    scale: f64,
}

impl<B: Backend> Heads<B> {
    fn new(query: FloatTensor<B>, key: FloatTensor<B>, value: FloatTensor<B>, tile_bytes: usize) -> Self {
        let [batch, n_heads, n_queries, d_head] = query.shape().dims();
        let [_, _, n_keys, _] = key.shape().dims();
        let tile = Tile::new(batch * n_heads, n_queries, n_keys, tile_bytes);
        let [query, key, value] = [query, key, value].map(flatten::<B>);
        #[expect(clippy::cast_precision_loss, reason = "a head is far smaller than 2^52")]
        let scale = 1.0 / (d_head as f64).sqrt();
        Self { query, key, value, shape: [batch, n_heads], tile, scale }
    }

    /// The output in the shape of [`crate::attention`], and the logarithm of every query's sum, `[heads, queries, 1]`.
    fn attend(self) -> (FloatTensor<B>, FloatTensor<B>) {
        let mut outputs = Vec::new();
        let mut log_sums = Vec::new();
        for heads in self.tile.heads() {
            let [key, value] = [&self.key, &self.value].map(|tensor| rows::<B>(tensor, &heads, None));
            let mut head_outputs = Vec::new();
            let mut head_log_sums = Vec::new();
            for queries in self.tile.queries() {
                let query = rows::<B>(&self.query, &heads, Some(&queries));
                let scores = self.scores(query, key.clone());
                let tile_log_sums = log_sum_exp::<B>(scores.clone());
                let probabilities = B::float_exp(B::float_sub(scores, tile_log_sums.clone()));
                let probabilities = narrowed::<B>(probabilities, value.dtype());
                head_outputs.push(B::float_matmul(probabilities, value.clone()));
                head_log_sums.push(tile_log_sums);
            }
            outputs.push(joined::<B>(head_outputs, 1));
            log_sums.push(joined::<B>(head_log_sums, 1));
        }
        (self.unflatten(joined::<B>(outputs, 0)), joined::<B>(log_sums, 0))
    }

    /// The gradients towards query, key and value, in the shapes of [`crate::attention`].
    fn backward(
        self,
        output: FloatTensor<B>,
        log_sums: &FloatTensor<B>,
        upstream: FloatTensor<B>,
    ) -> [FloatTensor<B>; 3] {
        let dtype = self.query.dtype();
        let [output, upstream] = [output, upstream].map(flatten::<B>);
        // What a score's gradient has less than its probability's: the same number for all keys of a query.
        let shared = B::float_mul(widened::<B>(output), widened::<B>(upstream.clone()));
        let shared = B::float_sum_dim(shared, 2); // [heads, queries, 1]
        let [mut towards_query, mut towards_key, mut towards_value] = [const { Vec::new() }; 3];
        for heads in self.tile.heads() {
            let [key, value] = [&self.key, &self.value].map(|tensor| rows::<B>(tensor, &heads, None));
            let mut head_queries = Vec::new();
            let mut sums: Option<[FloatTensor<B>; 2]> = None;
            for queries in self.tile.queries() {
                let part = |tensor| rows::<B>(tensor, &heads, Some(&queries));
                let [query, upstream] = [&self.query, &upstream].map(part);
                let scores = self.scores(query.clone(), key.clone());
                let probabilities = B::float_exp(B::float_sub(scores, part(log_sums)));
                let towards_value = B::float_matmul(
                    B::float_swap_dims(narrowed::<B>(probabilities.clone(), dtype), 1, 2),
                    upstream.clone(),
                );
                let towards_probabilities =
                    widened::<B>(B::float_matmul(upstream, B::float_swap_dims(value.clone(), 1, 2)));
                let towards_scores =
                    B::float_mul(probabilities, B::float_sub(towards_probabilities, part(&shared)));
                let towards_scores = B::float_mul_scalar(towards_scores, self.scale.into());
                let towards_scores = narrowed::<B>(towards_scores, dtype);
                let towards_key = B::float_matmul(B::float_swap_dims(towards_scores.clone(), 1, 2), query);
                head_queries.push(B::float_matmul(towards_scores, key.clone()));
                let towards = [towards_key, towards_value].map(widened::<B>);
                sums = Some(match sums.take() {
                    None => towards,
                    Some([keys, values]) => {
                        let [towards_key, towards_value] = towards;
                        [B::float_add(keys, towards_key), B::float_add(values, towards_value)]
                    }
                });
            }
            let [keys, values] = sums.expect("at least one tile for each head");
            towards_query.push(joined::<B>(head_queries, 1));
            towards_key.push(narrowed::<B>(keys, dtype));
            towards_value.push(narrowed::<B>(values, dtype));
        }
        [towards_query, towards_key, towards_value].map(|towards| self.unflatten(joined::<B>(towards, 0)))
    }

    /// `query key^T / sqrt(d_head)`, `[heads, queries, keys]`, in f32 at least.
    fn scores(&self, query: FloatTensor<B>, key: FloatTensor<B>) -> FloatTensor<B> {
        let scores = widened::<B>(B::float_matmul(query, B::float_swap_dims(key, 1, 2)));
        B::float_mul_scalar(scores, self.scale.into())
    }

    fn unflatten(&self, heads: FloatTensor<B>) -> FloatTensor<B> {
        let [batch, n_heads] = self.shape;
        let [_, n_tokens, width] = heads.shape().dims();
        B::float_reshape(heads, Shape::new([batch, n_heads, n_tokens, width]))
    }
}

/// How the scores of all heads are divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tile {
    n_heads: usize,
    n_queries: usize,
    heads_at_once: usize,
    queries_at_once: usize,
}

impl Tile {
    fn new(n_heads: usize, n_queries: usize, n_keys: usize, bytes: usize) -> Self {
        let n_rows = (bytes / (n_keys * size_of::<f32>())).max(1);
        Self {
            n_heads,
            n_queries,
            heads_at_once: even_part(n_heads, n_rows / n_queries),
            queries_at_once: even_part(n_queries, n_rows),
        }
    }

    fn heads(self) -> impl Iterator<Item = Range<usize>> {
        parts(self.n_heads, self.heads_at_once)
    }

    fn queries(self) -> impl Iterator<Item = Range<usize>> {
        parts(self.n_queries, self.queries_at_once)
    }
}

/// The length of equal parts of which as few as possible make up `total`, none above `most` but at least 1.
fn even_part(total: usize, most: usize) -> usize {
    total.div_ceil(total.div_ceil(most.max(1)))
}

fn parts(total: usize, length: usize) -> impl Iterator<Item = Range<usize>> {
    (0..total).step_by(length).map(move |start| start..(start + length).min(total))
}

/// `[batch, heads, tokens, width]` becomes `[batch * heads, tokens, width]`.
fn flatten<B: Backend>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    let [batch, n_heads, n_tokens, width] = tensor.shape().dims();
    B::float_reshape(tensor, Shape::new([batch * n_heads, n_tokens, width]))
}

/// Some heads of `[heads, tokens, width]`, and some or all of their tokens.
fn rows<B: Backend>(
    tensor: &FloatTensor<B>,
    heads: &Range<usize>,
    tokens: Option<&Range<usize>>,
) -> FloatTensor<B> {
    let [n_heads, n_tokens, width] = tensor.shape().dims();
    let tokens = tokens.cloned().unwrap_or(0..n_tokens);
    if heads.len() == n_heads && tokens.len() == n_tokens {
        return tensor.clone();
    }
    B::float_slice(tensor.clone(), &[heads.clone(), tokens, 0..width].map(Slice::from))
}

fn joined<B: Backend>(mut tensors: Vec<FloatTensor<B>>, dim: usize) -> FloatTensor<B> {
    if tensors.len() == 1 { tensors.remove(0) } else { B::float_cat(tensors, dim) }
}

/// The logarithm of the sum of the exponentials of every row, `[heads, queries, 1]`.
fn log_sum_exp<B: Backend>(scores: FloatTensor<B>) -> FloatTensor<B> {
    let largest = B::float_max_dim(scores.clone(), 2);
    let sums = B::float_sum_dim(B::float_exp(B::float_sub(scores, largest.clone())), 2);
    B::float_add(B::float_log(sums), largest)
}

fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

/// In f32, where it was a half.
fn widened<B: Backend>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    if is_half(tensor.dtype()) { B::float_cast(tensor, FloatDType::F32) } else { tensor }
}

/// Undoes [`widened`].
fn narrowed<B: Backend>(tensor: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    if is_half(dtype) { B::float_cast(tensor, dtype.into()) } else { tensor }
}

#[derive(Debug)]
struct AttentionBackward;

#[derive(Clone, Debug)]
struct Saved<B: Backend> {
    inputs: [NodeId; 3],
    output: FloatTensor<B>,
    log_sums: FloatTensor<B>,
    tile_bytes: usize,
}

impl<B: Backend> Backward<B, 3> for AttentionBackward {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Saved<B>, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let Saved { inputs, output, log_sums, tile_bytes } = ops.state;
        let upstream = grads.consume::<B>(&ops.node);
        let [query, key, value] =
            inputs.map(|input| checkpointer.retrieve_node_output::<FloatTensor<B>>(input));
        let gradients = Heads::<B>::new(query, key, value, tile_bytes).backward(output, &log_sums, upstream);
        for (node, gradient) in ops.parents.into_iter().zip(gradients) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: TiledAttention, C: CheckpointStrategy> TiledAttention for Autodiff<B, C> {
    fn tiled_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        tile_bytes: usize,
    ) -> FloatTensor<Self> {
        let inputs = [query, key, value];
        let nodes = inputs.each_ref().map(|input| input.node());
        match AttentionBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let saved = inputs.each_ref().map(|input| prep.checkpoint(input));
                let [query, key, value] = inputs.map(|input| input.into_primitive());
                let (output, log_sums) = Heads::<B>::new(query, key, value, tile_bytes).attend();
                let state = Saved { inputs: saved, output: output.clone(), log_sums, tile_bytes };
                prep.finish(state, output)
            }
            OpsKind::UnTracked(prep) => {
                let [query, key, value] = inputs.map(|input| input.into_primitive());
                prep.finish(B::tiled_attention(query, key, value, tile_bytes))
            }
        }
    }
}

/// Attention by tiles, where the backend's own would keep all scores or compute them in less than the inputs' precision.
pub(super) fn attention(query: &Tensor<4>, key: &Tensor<4>, value: &Tensor<4>) -> Option<Tensor<4>> {
    let inputs = [query, key, value];
    let is_empty = inputs.iter().any(|input| input.shape().num_elements() == 0);
    (!is_empty && applies(query)).then(|| attention_in_tiles(inputs, TILE_BYTES))
}

/// With autodiff Burn composes attention from operations that each keep their results.
///
/// Without it, its CPU backend has a kernel that keeps no scores. So have GPU backends, but of halves: it multiplies in
/// them whatever the inputs are, and where its blocks of 16 do not divide a head, all scores are stored instead.
fn applies(query: &Tensor<4>) -> bool {
    let device = query.device();
    match device.as_dispatch() {
        #[cfg(feature = "cube")]
        DispatchDevice::Cube(_) => !is_half(query.dtype()) || query.dims()[3] % 16 != 0,
        DispatchDevice::Autodiff(device) => match &**device {
            #[cfg(feature = "cube")]
            DispatchDevice::Cube(_) => true,
            #[cfg(feature = "flex")]
            DispatchDevice::Flex(_) => true,
            #[allow(unreachable_patterns, reason = "Burn may have been built with more backends")]
            _ => false,
        },
        #[allow(unreachable_patterns, reason = "Burn may have been built with more backends")]
        _ => false,
    }
}

fn attention_in_tiles(inputs: [&Tensor<4>; 3], tile_bytes: usize) -> Tensor<4> {
    let [query, key, value] = inputs.map(|input| input.clone().into_dispatch());
    Tensor::from_dispatch(Dispatch::tiled_attention(query, key, value, tile_bytes))
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Distribution, module};

    use super::*;
    use crate::draw::draw;

    /// Output, and gradients towards query, key and value, for a loss that weights the output.
    fn run(
        inputs: &[Tensor<4>; 3],
        weight: &Tensor<4>,
        attend: impl Fn([&Tensor<4>; 3]) -> Tensor<4>,
    ) -> [Tensor<4>; 4] {
        let inputs = inputs.clone().map(|input| input.detach().require_grad());
        let output = attend(inputs.each_ref());
        let gradients = (output.clone() * weight.clone()).sum().backward();
        let [query, key, value] = inputs.map(|input| input.grad(&gradients).expect("tracked"));
        [output.inner(), query, key, value]
    }

    fn burns([query, key, value]: [&Tensor<4>; 3]) -> Tensor<4> {
        module::attention(query.clone(), key.clone(), value.clone(), None, None, Default::default())
    }

    fn assert_close(what: &str, ours: [Tensor<4>; 4], expected: [Tensor<4>; 4], tolerance: f32) {
        for ((part, ours), expected) in ["output", "query", "key", "value"].iter().zip(ours).zip(expected) {
            let scale = expected.clone().abs().max().into_scalar::<f32>().max(1.0);
            let error = (ours - expected).abs().max().into_scalar::<f32>() / scale;
            assert!(error < tolerance, "{what}: {part} is off by {error:e}");
        }
    }

    /// Inputs as `split_heads` leaves them, heads and tokens swapped in memory, and the weight of a loss.
    fn random(
        [batch, n_heads, n_queries, n_keys, d_head]: [usize; 5],
        d_value: usize,
        device: &Device,
    ) -> ([Tensor<4>; 3], Tensor<4>) {
        let random = |tokens, width| {
            let distribution = Distribution::Normal(0.0, 2.0);
            draw::<4>([batch, tokens, n_heads, width], distribution, device).swap_dims(1, 2)
        };
        let inputs = [random(n_queries, d_head), random(n_keys, d_head), random(n_keys, d_value)];
        (inputs, random(n_queries, d_value))
    }

    const SHAPES: [[usize; 5]; 8] = [
        [1, 1, 1, 1, 1],
        [2, 3, 5, 9, 8],
        [2, 2, 64, 77, 40],
        [1, 3, 33, 33, 64],
        [3, 1, 20, 77, 80],
        [2, 2, 16, 16, 160],
        [1, 1, 130, 3, 70],
        [1, 2, 97, 101, 40],
    ];

    #[test]
    fn outputs_and_gradients_are_those_of_burn_whatever_the_tile() {
        let device = Device::flex().autodiff();
        for shape in SHAPES {
            let [batch, n_heads, n_queries, n_keys, d_head] = shape;
            for d_value in [d_head, d_head + 3] {
                let (inputs, weight) = random(shape, d_value, &device);
                let expected = run(&inputs, &weight, burns);
                let row = n_keys * size_of::<f32>();
                // One query; a third of a head; two heads; all of them.
                for rows in [0, 1 + n_queries / 3, 2 * n_queries, batch * n_heads * n_queries] {
                    let ours = run(&inputs, &weight, |inputs| attention_in_tiles(inputs, rows * row));
                    assert_close(&format!("{shape:?} by {rows} rows"), ours, expected.clone(), 2e-5);
                }
            }
        }
    }

    #[test]
    fn without_autodiff_the_output_is_the_same() {
        let device = Device::flex();
        let (inputs, _) = random([2, 3, 21, 77, 40], 40, &device);
        let expected = burns(inputs.each_ref());
        for tile_bytes in [1, 1 << 12, 1 << 30] {
            let ours = attention_in_tiles(inputs.each_ref(), tile_bytes);
            let error = (ours - expected.clone()).abs().max().into_scalar::<f32>();
            assert!(error < 1e-5, "{tile_bytes} bytes: {error:e}");
        }
    }

    #[test]
    fn a_gradient_reaches_only_what_is_tracked() {
        let device = Device::flex();
        let (inputs, weight) = random([1, 2, 6, 7, 8], 8, &device);
        let all = run(&inputs.clone().map(Tensor::autodiff), &weight.clone().autodiff(), burns);
        for tracked in 0..3 {
            let mut inputs = inputs.clone();
            inputs[tracked] = inputs[tracked].clone().autodiff().require_grad();
            let output = attention_in_tiles(inputs.each_ref(), 64);
            let gradients = (output * weight.clone().autodiff()).sum().backward();
            let ours = inputs[tracked].grad(&gradients).expect("tracked");
            let expected = all[1 + tracked].clone();
            let scale = expected.clone().abs().max().into_scalar::<f32>();
            let error = (ours - expected).abs().max().into_scalar::<f32>() / scale;
            assert!(error < 1e-5, "{tracked}: {error:e}");
        }
    }

    #[test]
    fn scores_of_any_size_give_finite_probabilities() {
        let device = Device::flex().autodiff();
        let (inputs, weight) = random([1, 1, 4, 6, 8], 8, &device);
        let [query, key, value] = inputs;
        let inputs = [query * 1e3, key * 10.0, value];
        let expected = run(&inputs, &weight, burns);
        let ours = run(&inputs, &weight, |inputs| attention_in_tiles(inputs, 1));
        assert!(ours[0].clone().abs().max().into_scalar::<f32>().is_finite());
        // Of scores near 1e5 f32 has two decimals left.
        assert_close("large scores", ours, expected, 5e-2);
    }

    #[test]
    fn halves_stay_halves_and_are_close_to_f32() {
        let device = Device::flex().autodiff();
        let (inputs, weight) = random([2, 2, 16, 77, 40], 40, &device);
        let halved = inputs.map(|input| input.cast(FloatDType::BF16));
        // What the halves hold, in f32.
        let widened = halved.clone().map(|input| input.cast(FloatDType::F32));
        let expected = run(&widened, &weight, burns);
        let ours = run(&halved, &weight.cast(FloatDType::BF16), |inputs| {
            attention(inputs[0], inputs[1], inputs[2]).expect("it covers halves with autodiff")
        });
        for part in &ours {
            assert_eq!(part.dtype(), DType::BF16);
        }
        assert_close("bf16", ours.map(|part| part.cast(FloatDType::F32)), expected, 5e-2);
    }

    #[test]
    fn tiles_cover_every_query_once_and_keep_their_size() {
        for (n_heads, n_queries, n_keys, bytes) in [
            (1, 1, 1, 0),
            (6, 64, 77, 100_000),
            (128, 4096, 4096, TILE_BYTES),
            (5, 10, 3, 1 << 40),
            (3, 7, 7, 60),
        ] {
            let tile = Tile::new(n_heads, n_queries, n_keys, bytes);
            let mut rows = Vec::new();
            for heads in tile.heads() {
                for queries in tile.queries() {
                    let n_rows = heads.len() * queries.len();
                    assert!(n_rows == 1 || n_rows * n_keys * 4 <= bytes, "{tile:?} within {bytes} bytes");
                    rows.extend(
                        heads.clone().flat_map(|head| queries.clone().map(move |query| (head, query))),
                    );
                }
            }
            rows.sort_unstable();
            let all = (0..n_heads).flat_map(|head| (0..n_queries).map(move |query| (head, query)));
            assert!(rows.into_iter().eq(all), "{tile:?}");
        }
    }

    #[test]
    fn one_head_at_512_pixels_is_one_tile() {
        let tile = Tile::new(8, 4096, 4096, TILE_BYTES);
        assert_eq!((tile.heads_at_once, tile.queries_at_once), (1, 4096));
    }
}
