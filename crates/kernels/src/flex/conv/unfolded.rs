//! The weight gradient of a convolution with more channels than positions.
//!
//! Weights are so many then that each is written only once, where it belongs: the vectors are neighbouring weights of
//! one output channel, and the source is unfolded for them, `[positions][channels * taps]`.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::gather::{Band, Gather, Layout};
use super::tile::{Factors, TILE, convolve, next_vectors};
use crate::flex::memory::{Shared, with_scratch};

/// Values of an unfolded source: a few lie in the innermost cache while all output channels take them.
const UNFOLDED_LEN: usize = 32 * 1024;

/// Output channels that one part takes.
const PART_CHANNELS: usize = 160;

/// The gradient `[channels_out][channels][taps]`, from the gradient of the output.
pub(super) fn weight_gradient(
    gather: &Gather<'_>,
    bands: &[Band],
    channels_out: usize,
    gradient: &[f32],
) -> Vec<f32> {
    let n_taps = gather.taps.len();
    let n_weights = gather.n_channels * n_taps;
    let mut output = vec![0.0; channels_out * n_weights];
    let shared = Shared::new(&mut output);
    let most_positions = bands.iter().map(|band| gather.layout(band).n_positions()).max().unwrap_or(1);
    let block = (UNFOLDED_LEN / (most_positions * n_taps)).clamp(1, gather.n_channels);
    let n_blocks = gather.n_channels.div_ceil(block);
    let row_len = (block * n_taps).next_multiple_of(16) + 48;
    let n_groups = channels_out.div_ceil(PART_CHANNELS);
    (0..n_blocks * n_groups).into_par_iter().for_each(|part| {
        let start = part / n_groups * block;
        let channels = start..(start + block).min(gather.n_channels);
        let start = part % n_groups * PART_CHANNELS;
        let outputs = start..(start + PART_CHANNELS).min(channels_out);
        let n_rows = outputs.len().next_multiple_of(TILE);
        let copy_len = bands.iter().map(|band| gather.layout(band).copy_len(block)).max().unwrap_or(0);
        with_scratch(copy_len + (most_positions + n_rows) * row_len, |scratch| {
            let (copy, rest) = scratch.split_at_mut(copy_len);
            let (unfolded, sums) = rest.split_at_mut(most_positions * row_len);
            for (band_idx, band) in bands.iter().enumerate() {
                let layout = gather.layout(band);
                gather.fill(band, &layout, channels.clone(), copy);
                unfold(&layout, copy, channels.len(), row_len, unfolded);
                let plane = gather.out_size[0] * gather.out_size[1];
                Arch::new().dispatch(BandSums {
                    unfolded,
                    row_len,
                    n_weights: channels.len() * n_taps,
                    gradient,
                    outputs: outputs.clone(),
                    channels_out,
                    plane,
                    band,
                    width: gather.out_size[1],
                    sums,
                    add: band_idx > 0,
                });
            }
            for (output, sums) in outputs.zip(sums.chunks_exact(row_len)) {
                let len = channels.len() * n_taps;
                // SAFETY: no other part has these channels of this output channel.
                let row = unsafe { shared.row(output * n_weights + channels.start * n_taps, len) };
                row.copy_from_slice(&sums[..len]);
            }
        });
    });
    output
}

/// `copy`, laid out as `layout` says, to `[positions][channels * taps]`, rows `row_len` apart.
fn unfold(layout: &Layout, copy: &[f32], n_channels: usize, row_len: usize, unfolded: &mut [f32]) {
    let mut rows = unfolded.chunks_exact_mut(row_len);
    for row in 0..layout.rows {
        for (position, unfolded) in (row * layout.pitch..).zip(rows.by_ref().take(layout.row_len)) {
            let channels = copy[position..].chunks(layout.channel_stride).take(n_channels);
            for (channel, unfolded) in channels.zip(unfolded.chunks_exact_mut(layout.taps.len())) {
                for (tap, unfolded) in layout.taps.iter().zip(unfolded) {
                    *unfolded = channel[*tap];
                }
            }
        }
    }
}

/// What the positions of one band add to the weights of some channels.
struct BandSums<'a> {
    unfolded: &'a [f32],
    row_len: usize,
    n_weights: usize,
    gradient: &'a [f32],
    outputs: Range<usize>,
    channels_out: usize,
    /// Positions of a whole image.
    plane: usize,
    band: &'a Band,
    width: usize,
    /// `[output channels, a multiple of TILE][row_len]`.
    sums: &'a mut [f32],
    add: bool,
}

impl WithSimd for BandSums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { unfolded, row_len, n_weights, gradient, outputs, band, sums, .. } = self;
        let n_positions = band.rows.len() * self.width;
        let images = band.images.clone().zip(unfolded.chunks_exact(n_positions * row_len));
        for (image_idx, (image, unfolded)) in images.enumerate() {
            let mut weight = 0;
            while weight < n_weights {
                let n_vectors = next_vectors::<S>((n_weights - weight).div_ceil(S::F32_LANES));
                assert!(weight + n_vectors * S::F32_LANES <= row_len);
                for (tile, sums) in sums.chunks_exact_mut(TILE * row_len).enumerate() {
                    // Rows past the last repeat it; nobody reads their sums.
                    let rows = std::array::from_fn(|row| {
                        let output = (outputs.start + tile * TILE + row).min(outputs.end - 1);
                        let start = (image * self.channels_out + output) * self.plane;
                        gradient[start + band.rows.start * self.width..][..n_positions].as_ptr()
                    });
                    let factors = Factors { rows, channel_stride: 1, taps: &[0] };
                    let source = (unfolded[weight..].as_ptr(), n_positions, row_len, [0].as_slice());
                    let row = (sums[weight..].as_mut_ptr(), row_len);
                    let add = self.add || image_idx > 0;
                    // SAFETY: the unfolded rows and those of the sums hold the vectors, by the assertion; the factors
                    // are a row of the gradient for each position.
                    unsafe {
                        match n_vectors {
                            1 => convolve::<S, 1>(simd, source, factors, row, add),
                            2 => convolve::<S, 2>(simd, source, factors, row, add),
                            _ => convolve::<S, 3>(simd, source, factors, row, add),
                        }
                    }
                }
                weight += n_vectors * S::F32_LANES;
            }
        }
    }
}
