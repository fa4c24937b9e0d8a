//! One head of attention, over slices `[queries or keys][d_head]`.
//!
//! Scores are kept transposed, `[keys][queries]`: the softmax over the keys of one query is then a plain
//! loop over vectors of neighbouring queries, and every product has the form of [`convolve`] or
//! [`correlate`].

use pulp::{Simd, WithSimd};

use crate::flex::conv::tile::{Factors, TILE, convolve, correlate, next_vectors};
use crate::flex::math::exp;

/// Queries taken at a time: three of the widest vectors.
const QUERIES: usize = 48;

/// Rows of queries and gradients are filled with zeros up to a multiple of the widest vector.
const LANES: usize = 16;

#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) n_queries: usize,
    pub(super) n_keys: usize,
    pub(super) d_head: usize,
}

impl Size {
    pub(super) fn query_len(self) -> usize {
        self.n_queries * self.d_head
    }

    pub(super) fn key_len(self) -> usize {
        self.n_keys * self.d_head
    }

    fn keys(self) -> usize {
        self.n_keys.next_multiple_of(TILE)
    }

    fn dims(self) -> usize {
        self.d_head.next_multiple_of(TILE)
    }

    fn lanes(self) -> usize {
        self.d_head.next_multiple_of(LANES)
    }

    /// Values that [`ForwardHead`] needs for its work.
    pub(super) fn forward_scratch(self) -> usize {
        self.keys() * self.d_head + self.dims() * self.n_keys + (self.keys() + 2 * self.dims()) * QUERIES
    }

    /// Values that [`BackwardHead`] needs for its work.
    pub(super) fn backward_scratch(self) -> usize {
        2 * self.keys() * self.d_head
            + self.dims() * self.n_keys
            + (2 * self.keys() + 3 * self.dims() + 2 * self.lanes()) * QUERIES
            + 2 * self.keys() * self.lanes()
    }

    /// The scale of the scores.
    fn scale(self) -> f32 {
        1.0 / (self.d_head as f32).sqrt()
    }
}

/// Takes the first `len` values off.
fn take<'a>(scratch: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (taken, rest) = std::mem::take(scratch).split_at_mut(len);
    *scratch = rest;
    taken
}

/// `[rows][dims]` to `[rows / TILE][dims][TILE]`, filled up with zeros: factors of products over dims.
#[inline(always)]
fn pack_rows(matrix: &[f32], n_dims: usize, packed: &mut [f32]) {
    packed.fill(0.0);
    for (row, values) in matrix.chunks_exact(n_dims).enumerate() {
        let start = row / TILE * TILE * n_dims + row % TILE;
        for (dim, value) in values.iter().enumerate() {
            packed[start + dim * TILE] = *value;
        }
    }
}

/// `[rows][dims]` to `[dims / TILE][rows][TILE]`, filled up with zeros: factors of products over rows.
#[inline(always)]
fn pack_dims(matrix: &[f32], n_dims: usize, packed: &mut [f32]) {
    packed.fill(0.0);
    let n_rows = matrix.len() / n_dims;
    for (row, values) in matrix.chunks_exact(n_dims).enumerate() {
        for (dim, value) in values.iter().enumerate() {
            packed[(dim / TILE * n_rows + row) * TILE + dim % TILE] = *value;
        }
    }
}

/// `[queries][dims]` to `[dims][QUERIES]` times `scale`, filled up with zeros.
#[inline(always)]
fn transpose(matrix: &[f32], n_dims: usize, scale: f32, transposed: &mut [f32]) {
    transposed.fill(0.0);
    for (query, values) in matrix.chunks_exact(n_dims).enumerate() {
        for (dim, value) in values.iter().enumerate() {
            transposed[dim * QUERIES + query] = value * scale;
        }
    }
}

/// `[dims][QUERIES]` times `factors`, per query, to `[queries][dims]`.
#[inline(always)]
fn transpose_back(transposed: &[f32], n_dims: usize, factors: &[f32; QUERIES], matrix: &mut [f32]) {
    for (query, values) in matrix.chunks_exact_mut(n_dims).enumerate() {
        for (dim, value) in values.iter_mut().enumerate() {
            *value = transposed[dim * QUERIES + query] * factors[query];
        }
    }
}

/// `[queries][dims]` to `[QUERIES][lanes]`, filled up with zeros.
#[inline(always)]
fn widen(matrix: &[f32], n_dims: usize, lanes: usize, widened: &mut [f32]) {
    widened.fill(0.0);
    for (values, widened) in matrix.chunks_exact(n_dims).zip(widened.chunks_exact_mut(lanes)) {
        widened[..n_dims].copy_from_slice(values);
    }
}

/// `product[row][query] = sum over depth of packed[row][depth] * source[depth][query]`.
#[inline(always)]
fn multiply<S: Simd>(simd: S, packed: &[f32], source: &[f32], product: &mut [f32]) {
    let depth = source.len() / QUERIES;
    assert!(packed.len() * QUERIES == product.len() * depth && source.len() == depth * QUERIES);
    for (packed, product) in packed.chunks_exact(TILE * depth).zip(product.chunks_exact_mut(TILE * QUERIES)) {
        let mut query = 0;
        while query < QUERIES {
            let n_vectors = next_vectors::<S>((QUERIES - query) / S::F32_LANES);
            let source = (source[query..].as_ptr(), depth, QUERIES, [0].as_slice());
            let product = (product[query..].as_mut_ptr(), QUERIES);
            let rows = std::array::from_fn(|row| packed[row..].as_ptr());
            let factors = Factors { rows, channel_stride: TILE, taps: &[0] };
            // SAFETY: the vectors end within the rows of `QUERIES` values, and `packed` is a whole tile.
            unsafe {
                match n_vectors {
                    1 => convolve::<S, 1>(simd, source, factors, product, false),
                    2 => convolve::<S, 2>(simd, source, factors, product, false),
                    _ => convolve::<S, 3>(simd, source, factors, product, false),
                }
            }
            query += n_vectors * S::F32_LANES;
        }
    }
}

/// `sums[key][lane] += sum over queries of transposed[key][query] * values[query][lane]`.
#[inline(always)]
fn accumulate<S: Simd>(simd: S, transposed: &[f32], values: &[f32], sums: &mut [f32]) {
    let lanes = values.len() / QUERIES;
    assert!(lanes.is_multiple_of(LANES) && transposed.len() * lanes == sums.len() * QUERIES);
    for (transposed, sums) in transposed.chunks_exact(TILE * QUERIES).zip(sums.chunks_exact_mut(TILE * lanes))
    {
        let mut shifts = [0; TILE];
        for (row, shift) in shifts.iter_mut().enumerate() {
            *shift = row * QUERIES;
        }
        let mut lane = 0;
        while lane < lanes {
            let n_vectors = next_vectors::<S>((lanes - lane) / S::F32_LANES);
            let source = (transposed.as_ptr(), shifts);
            let positions = (1, QUERIES, QUERIES);
            let values = (values[lane..].as_ptr(), lanes);
            let sums = (sums[lane..].as_mut_ptr(), lanes);
            // SAFETY: a tile of scores is `TILE` rows of `QUERIES`; the vectors end within `lanes`.
            unsafe {
                match n_vectors {
                    1 => correlate::<S, 1>(simd, source, positions, values, sums),
                    2 => correlate::<S, 2>(simd, source, positions, values, sums),
                    _ => correlate::<S, 3>(simd, source, positions, values, sums),
                }
            }
            lane += n_vectors * S::F32_LANES;
        }
    }
}

/// Output and log-sums of one head.
pub(super) struct ForwardHead<'a> {
    pub(super) size: Size,
    pub(super) query: &'a [f32],
    pub(super) key: &'a [f32],
    pub(super) value: &'a [f32],
    pub(super) output: &'a mut [f32],
    pub(super) log_sums: &'a mut [f32],
    pub(super) scratch: &'a mut [f32],
}

impl WithSimd for ForwardHead<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { size, query, key, value, output, log_sums, mut scratch } = self;
        let d_head = size.d_head;
        let keys = take(&mut scratch, size.keys() * d_head);
        let values = take(&mut scratch, size.dims() * size.n_keys);
        let scores = take(&mut scratch, size.keys() * QUERIES);
        let queries = take(&mut scratch, d_head * QUERIES);
        let attended = take(&mut scratch, size.dims() * QUERIES);
        pack_rows(key, d_head, keys);
        pack_dims(value, d_head, values);
        let blocks = query.chunks(QUERIES * d_head).zip(output.chunks_mut(QUERIES * d_head));
        for ((query, output), log_sums) in blocks.zip(log_sums.chunks_mut(QUERIES)) {
            transpose(query, d_head, size.scale(), queries);
            multiply(simd, keys, queries, scores);
            // The rows past the last key are not scores.
            let scores = &mut scores[..size.n_keys * QUERIES];
            let mut largest = [f32::NEG_INFINITY; QUERIES];
            for scores in scores.chunks_exact(QUERIES) {
                for (largest, score) in largest.iter_mut().zip(scores) {
                    *largest = if *score > *largest { *score } else { *largest };
                }
            }
            let mut sums = [0.0; QUERIES];
            for scores in scores.chunks_exact_mut(QUERIES) {
                for ((score, largest), sum) in scores.iter_mut().zip(&largest).zip(&mut sums) {
                    *score = exp(*score - largest);
                    *sum += *score;
                }
            }
            multiply(simd, values, scores, attended);
            transpose_back(attended, d_head, &sums.map(f32::recip), output);
            for ((log_sum, largest), sum) in log_sums.iter_mut().zip(largest).zip(sums) {
                *log_sum = largest + sum.ln();
            }
        }
    }
}

/// The gradients of one head towards query, key and value.
pub(super) struct BackwardHead<'a> {
    pub(super) size: Size,
    pub(super) query: &'a [f32],
    pub(super) key: &'a [f32],
    pub(super) value: &'a [f32],
    pub(super) output: &'a [f32],
    /// Of the output.
    pub(super) gradient: &'a [f32],
    pub(super) log_sums: &'a [f32],
    pub(super) towards_query: &'a mut [f32],
    pub(super) towards_key: &'a mut [f32],
    pub(super) towards_value: &'a mut [f32],
    pub(super) scratch: &'a mut [f32],
}

impl WithSimd for BackwardHead<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { size, query, key, value, output, gradient, log_sums, mut scratch, .. } = self;
        let (d_head, lanes) = (size.d_head, size.lanes());
        let keys = take(&mut scratch, size.keys() * d_head);
        let values = take(&mut scratch, size.keys() * d_head);
        let keys_by_dim = take(&mut scratch, size.dims() * size.n_keys);
        let weights = take(&mut scratch, size.keys() * QUERIES);
        let towards_scores = take(&mut scratch, size.keys() * QUERIES);
        let queries = take(&mut scratch, d_head * QUERIES);
        let gradients = take(&mut scratch, d_head * QUERIES);
        let towards_queries = take(&mut scratch, size.dims() * QUERIES);
        let wide_queries = take(&mut scratch, lanes * QUERIES);
        let wide_gradients = take(&mut scratch, lanes * QUERIES);
        let key_sums = take(&mut scratch, size.keys() * lanes);
        let value_sums = take(&mut scratch, size.keys() * lanes);
        key_sums.fill(0.0);
        value_sums.fill(0.0);
        pack_rows(key, d_head, keys);
        pack_rows(value, d_head, values);
        pack_dims(key, d_head, keys_by_dim);
        let block = QUERIES * d_head;
        let given = query.chunks(block).zip(output.chunks(block)).zip(gradient.chunks(block));
        let blocks = given.zip(log_sums.chunks(QUERIES)).zip(self.towards_query.chunks_mut(block));
        for ((((query, output), gradient), log_sums), towards_query) in blocks {
            let (mut offsets, mut log_sums_filled) = ([0.0; QUERIES], [0.0; QUERIES]);
            log_sums_filled[..log_sums.len()].copy_from_slice(log_sums);
            let rows = output.chunks_exact(d_head).zip(gradient.chunks_exact(d_head));
            for (offset, (output, gradient)) in offsets.iter_mut().zip(rows) {
                *offset = output.iter().zip(gradient).map(|(output, gradient)| output * gradient).sum();
            }
            transpose(query, d_head, size.scale(), queries);
            transpose(gradient, d_head, 1.0, gradients);
            widen(query, d_head, lanes, wide_queries);
            widen(gradient, d_head, lanes, wide_gradients);
            multiply(simd, keys, queries, weights);
            multiply(simd, values, gradients, towards_scores);
            let rows = weights.chunks_exact_mut(QUERIES).zip(towards_scores.chunks_exact_mut(QUERIES));
            for (weights, towards_scores) in rows {
                for query in 0..QUERIES {
                    weights[query] = exp(weights[query] - log_sums_filled[query]);
                    towards_scores[query] = weights[query] * (towards_scores[query] - offsets[query]);
                }
            }
            multiply(simd, keys_by_dim, &towards_scores[..size.n_keys * QUERIES], towards_queries);
            transpose_back(towards_queries, d_head, &[size.scale(); QUERIES], towards_query);
            accumulate(simd, towards_scores, wide_queries, key_sums);
            accumulate(simd, weights, wide_gradients, value_sums);
        }
        let sums = key_sums.chunks_exact(lanes).zip(value_sums.chunks_exact(lanes));
        let towards =
            self.towards_key.chunks_exact_mut(d_head).zip(self.towards_value.chunks_exact_mut(d_head));
        for ((key_sums, value_sums), (towards_key, towards_value)) in sums.zip(towards) {
            for (towards_key, sum) in towards_key.iter_mut().zip(key_sums) {
                *towards_key = sum * size.scale();
            }
            towards_value.copy_from_slice(&value_sums[..d_head]);
        }
    }
}
