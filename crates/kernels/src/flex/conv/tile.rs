//! The innermost loops: tiles of sums that stay in registers.

use pulp::Simd;

/// Rows of a tile: output channels of a convolution, taps of a weight gradient.
///
/// Eight rows by three vectors fill 24 of AVX-512's 32 registers; with 16 registers it is eight by one.
pub(in crate::flex) const TILE: usize = 8;

/// Width of the widest tile in vectors.
pub(in crate::flex) const fn max_vectors<S: Simd>() -> usize {
    if S::REGISTER_COUNT >= 32 { 3 } else { 1 }
}

/// How many vectors to take next of `n_vectors`; four make two pairs.
#[inline(always)]
pub(in crate::flex) fn next_vectors<S: Simd>(n_vectors: usize) -> usize {
    if n_vectors == 4 && max_vectors::<S>() == 3 { 2 } else { n_vectors.min(max_vectors::<S>()) }
}

#[inline(always)]
unsafe fn load<S: Simd, const V: usize>(simd: S, values: *const f32) -> [S::f32s; V] {
    let mut loaded = [simd.splat_f32s(0.0); V];
    for (v, loaded) in loaded.iter_mut().enumerate() {
        // SAFETY: the caller gives `V` vectors of values.
        *loaded = unsafe { values.cast::<S::f32s>().add(v).read_unaligned() };
    }
    loaded
}

#[inline(always)]
fn add_products<S: Simd, const V: usize>(
    simd: S,
    sums: &mut [[S::f32s; V]; TILE],
    row: usize,
    factor: f32,
    values: [S::f32s; V],
) {
    let factor = simd.splat_f32s(factor);
    for v in 0..V {
        sums[row][v] = simd.mul_add_e_f32s(factor, values[v], sums[row][v]);
    }
}

/// Where a tile's factors are: that of row `r`, channel `c` and tap `t` is `taps[t]` values after
/// `rows[r] + c * channel_stride`.
#[derive(Clone, Copy)]
pub(in crate::flex) struct Factors<'a> {
    pub(in crate::flex) rows: [*const f32; TILE],
    pub(in crate::flex) channel_stride: usize,
    pub(in crate::flex) taps: &'a [usize],
}

/// For [`TILE`] output channels and `V` vectors of neighbouring positions, the sum over channels and taps
/// of factor times source.
///
/// The value that tap `t` of channel `c` finds is `taps[t]` values after `source + c * channel_stride`. Each row of
/// sums goes to `sums`, `sums_stride` apart, and is added to what is there if `add` says so.
///
/// # Safety
/// `source` is valid for `V` vectors at every channel and tap, `factors` for all of its values, and
/// `sums` for `V` vectors in each row.
#[inline(always)]
pub(in crate::flex) unsafe fn convolve<S: Simd, const V: usize>(
    simd: S,
    (source, n_channels, channel_stride, taps): (*const f32, usize, usize, &[usize]),
    factors: Factors<'_>,
    (sums_to, sums_stride): (*mut f32, usize),
    add: bool,
) {
    let mut sums = [[simd.splat_f32s(0.0); V]; TILE];
    for channel in 0..n_channels {
        for (tap, factor_tap) in taps.iter().zip(factors.taps) {
            let at = channel * factors.channel_stride + factor_tap;
            // SAFETY: what the caller promises.
            unsafe {
                let values = load::<S, V>(simd, source.add(channel * channel_stride + tap));
                for row in 0..TILE {
                    add_products(simd, &mut sums, row, *factors.rows[row].add(at), values);
                }
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        for (v, sum) in sums.iter().enumerate() {
            // SAFETY: what the caller promises.
            unsafe {
                let target = sums_to.add(row * sums_stride).cast::<S::f32s>().add(v);
                let sum = if add { simd.add_f32s(target.read_unaligned(), *sum) } else { *sum };
                target.write_unaligned(sum);
            }
        }
    }
}

/// Adds to [`TILE`] rows of `V` vectors the sum over positions of source times gradient.
///
/// Row `i` sums over the source shifted by `shifts[i]`; the vectors are output channels. Positions are
/// `rows` rows of `row_len`, `pitch` apart in the source, and `gradient_stride` apart in the gradient.
///
/// # Safety
/// `source` is valid at every shifted position, `gradient` for `V` vectors at every position, and `sums`
/// for `V` vectors in each of its rows, `sums_stride` apart.
#[inline(always)]
pub(in crate::flex) unsafe fn correlate<S: Simd, const V: usize>(
    simd: S,
    (source, shifts): (*const f32, [usize; TILE]),
    (rows, row_len, pitch): (usize, usize, usize),
    (mut gradient, gradient_stride): (*const f32, usize),
    (sums_to, sums_stride): (*mut f32, usize),
) {
    let mut sums = [[simd.splat_f32s(0.0); V]; TILE];
    for row in 0..rows {
        // SAFETY: what the caller promises.
        unsafe {
            let source = source.add(row * pitch);
            for position in 0..row_len {
                let values = load::<S, V>(simd, gradient);
                for (tile_row, shift) in shifts.into_iter().enumerate() {
                    add_products(simd, &mut sums, tile_row, *source.add(shift + position), values);
                }
                gradient = gradient.add(gradient_stride);
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        // SAFETY: what the caller promises.
        unsafe {
            let target = sums_to.add(row * sums_stride).cast::<S::f32s>();
            for (v, sum) in sums.iter().enumerate() {
                target.add(v).write_unaligned(simd.add_f32s(target.add(v).read_unaligned(), *sum));
            }
        }
    }
}
