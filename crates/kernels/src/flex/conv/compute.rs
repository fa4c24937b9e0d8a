//! Convolution and its three gradients over slices.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::gather::{Band, Gather, Layout};
use super::tile::{Factors, TILE, convolve, correlate, next_vectors};
use super::unfolded;
use crate::flex::math::sum;
use crate::flex::memory::{Shared, with_scratch};

/// The weights that one gather combines its channels and taps with, where they are: that of output channel `o`,
/// channel `c` and tap `t` is `values[o * strides[0] + c * strides[1] + taps[t]]`.
struct Weights<'a> {
    values: &'a [f32],
    n_out: usize,
    strides: [usize; 2],
    taps: Vec<usize>,
}

impl Weights<'_> {
    /// The factors of a tile of output channels from a channel on. Rows past the last repeat it; nobody reads their
    /// sums.
    #[inline(always)]
    fn factors(&self, tile: usize, channel: usize) -> Factors<'_> {
        let rows = std::array::from_fn(|row| {
            let out = (tile * TILE + row).min(self.n_out - 1);
            self.values[out * self.strides[0] + channel * self.strides[1]..].as_ptr()
        });
        Factors { rows, channel_stride: self.strides[1], taps: &self.taps }
    }
}

/// Where the results of one gather go: every `step`-th row and column of the output, from `start` on.
struct Target<'a> {
    output: Shared,
    /// Height and width of a whole output image.
    size: [usize; 2],
    step: [usize; 2],
    start: [usize; 2],
    bias: Option<&'a [f32]>,
}

/// Some output channels of one band of a gather, computed and stored.
struct BandConvolution<'a> {
    gather: &'a Gather<'a>,
    band: &'a Band,
    layout: &'a Layout,
    weights: &'a Weights<'a>,
    target: &'a Target<'a>,
    tiles: Range<usize>,
    channels_at_once: usize,
    copy: &'a mut [f32],
    /// `[tiles][TILE][a row of sums]`.
    sums: &'a mut [f32],
    row_len: usize,
}

impl WithSimd for BandConvolution<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { gather, band, layout, weights, target, tiles, channels_at_once, copy, sums, row_len } =
            self;
        let span = layout.span();
        for start in (0..gather.n_channels).step_by(channels_at_once) {
            let channels = start..(start + channels_at_once).min(gather.n_channels);
            gather.fill(band, layout, channels.clone(), copy);
            let mut position = 0;
            while position < span {
                let n_vectors = next_vectors::<S>((span - position).div_ceil(S::F32_LANES));
                assert!(position + n_vectors * S::F32_LANES <= row_len);
                let taps = layout.taps.as_slice();
                let source = (copy[position..].as_ptr(), channels.len(), layout.channel_stride, taps);
                // What these positions read of the copy stays in the innermost cache for all tiles.
                for (tile, sums) in tiles.clone().zip(sums.chunks_exact_mut(TILE * row_len)) {
                    let factors = weights.factors(tile, start);
                    let row = (sums[position..].as_mut_ptr(), row_len);
                    // SAFETY: the copy has slack past its last position, the factors are within the weights, and the
                    // assertion holds the sums within their rows.
                    unsafe {
                        match n_vectors {
                            1 => convolve::<S, 1>(simd, source, factors, row, start > 0),
                            2 => convolve::<S, 2>(simd, source, factors, row, start > 0),
                            _ => convolve::<S, 3>(simd, source, factors, row, start > 0),
                        }
                    }
                }
                position += n_vectors * S::F32_LANES;
            }
        }
        let first = tiles.start * TILE;
        let n_rows = (tiles.end * TILE).min(weights.n_out) - first;
        for (row, sums) in sums.chunks_exact(row_len).take(n_rows).enumerate() {
            store(gather, band, layout, target, [weights.n_out, first + row], sums);
        }
    }
}

/// Stores a band's sums of one output channel, `[n_out, channel]`.
#[inline(always)]
fn store(
    gather: &Gather<'_>,
    band: &Band,
    layout: &Layout,
    target: &Target<'_>,
    [n_out, channel]: [usize; 2],
    sums: &[f32],
) {
    let [height, width] = target.size;
    let row_len = gather.out_size[1];
    let bias = target.bias.map_or(0.0, |bias| bias[channel]);
    // Rows of positions lie a pitch apart, or without a gap where a row of the layout is a whole band.
    let pitch = if layout.rows == 1 { row_len } else { layout.pitch };
    let rows = band.images.clone().flat_map(|image| band.rows.clone().map(move |row| (image, row)));
    for ((image, row), sums) in rows.zip(sums.chunks(pitch)) {
        let row = row * target.step[0] + target.start[0];
        let start = ((image * n_out + channel) * height + row) * width + target.start[1];
        let len = (row_len - 1) * target.step[1] + 1;
        // SAFETY: the row is within the output, and no other band or channel has it.
        let output = unsafe { target.output.row(start, len) };
        if target.step[1] == 1 {
            for (output, sum) in output.iter_mut().zip(sums) {
                *output = sum + bias;
            }
        } else {
            for (output, sum) in output.iter_mut().step_by(target.step[1]).zip(sums) {
                *output = sum + bias;
            }
        }
    }
}

/// Parts that a convolution is cut into if it can be: some for each core, so that none waits long for the last.
const MIN_PARTS: usize = 16;

/// Output channels below which a part would copy its source for too little work.
const MIN_CHANNELS: usize = 64;

/// Bands times groups of output channels, each on one thread. Every output is summed in the same order whatever the cut.
fn convolve_bands(gather: &Gather<'_>, weights: &Weights<'_>, target: &Target<'_>) {
    let bands = gather.bands();
    let n_tiles = weights.n_out.div_ceil(TILE);
    let group_len = n_tiles.div_ceil(MIN_PARTS.div_ceil(bands.len().max(1))).max(MIN_CHANNELS / TILE);
    let n_groups = n_tiles.div_ceil(group_len);
    (0..n_groups * bands.len()).into_par_iter().for_each(|part| {
        // Neighbouring parts share their weights.
        let (group, band) = (part / bands.len(), &bands[part % bands.len()]);
        let tiles = group * group_len..((group + 1) * group_len).min(n_tiles);
        let layout = gather.layout(band);
        let channels_at_once = gather.channels_at_once();
        let copy_len = layout.copy_len(channels_at_once);
        let row_len = layout.span().next_multiple_of(16) + 64;
        with_scratch(copy_len + tiles.len() * TILE * row_len, |scratch| {
            let (copy, sums) = scratch.split_at_mut(copy_len);
            Arch::new().dispatch(BandConvolution {
                gather,
                band,
                layout: &layout,
                weights,
                target,
                tiles,
                channels_at_once,
                copy,
                sums,
                row_len,
            });
        });
    });
}

/// A convolution's numbers, for its forward and backward passes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub(super) n_images: usize,
    pub(super) channels_in: usize,
    pub(super) channels_out: usize,
    /// Height and width of the input, the kernel and the output.
    pub(super) size: [usize; 2],
    pub(super) kernel: [usize; 2],
    pub(super) out_size: [usize; 2],
    pub(super) stride: [usize; 2],
    pub(super) dilation: [usize; 2],
    /// Zeros above and to the left of the input.
    pub(super) padding: [usize; 2],
}

impl Geometry {
    fn n_taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Rows and columns of the kernel with the input's position that each reads for output `[0, 0]`.
    fn offsets(&self, dim: usize) -> impl Iterator<Item = isize> + Clone {
        let (dilation, padding) = (self.dilation[dim], self.padding[dim].cast_signed());
        (0..self.kernel[dim]).map(move |index| (index * dilation).cast_signed() - padding)
    }

    fn reading_input<'a>(&self, input: &'a [f32]) -> Gather<'a> {
        let taps = self.offsets(0).flat_map(|row| self.offsets(1).map(move |col| [row, col])).collect();
        Gather {
            source: input,
            n_images: self.n_images,
            n_channels: self.channels_in,
            size: self.size,
            step: self.stride,
            taps,
            out_size: self.out_size,
        }
    }

    /// The convolution of `input`.
    pub(super) fn forward(&self, input: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
        let gather = self.reading_input(input);
        let weights = Weights {
            values: weight,
            n_out: self.channels_out,
            strides: [self.channels_in * self.n_taps(), self.n_taps()],
            taps: (0..self.n_taps()).collect(),
        };
        let mut output = vec![0.0; self.n_images * self.channels_out * self.out_size[0] * self.out_size[1]];
        let target = Target {
            output: Shared::new(&mut output),
            size: self.out_size,
            step: [1, 1],
            start: [0, 0],
            bias: Some(bias),
        };
        convolve_bands(&gather, &weights, &target);
        output
    }

    /// The gradient towards the input, from the gradient of the output.
    ///
    /// Positions of the input that leave the same remainder by the stride see the same taps: each remainder
    /// is a convolution of the output's gradient.
    pub(super) fn input_gradient(&self, gradient: &[f32], weight: &[f32]) -> Vec<f32> {
        let mut output = vec![0.0; self.n_images * self.channels_in * self.size[0] * self.size[1]];
        let shared = Shared::new(&mut output);
        for start in (0..self.stride[0]).flat_map(|row| (0..self.stride[1]).map(move |col| [row, col])) {
            // Index within the kernel, and the offset in the output's gradient.
            let seen = |dim: usize| {
                let stride = self.stride[dim].cast_signed();
                self.offsets(dim)
                    .map(move |offset| start[dim].cast_signed() - offset)
                    .enumerate()
                    .filter(move |(_, distance)| distance.rem_euclid(stride) == 0)
                    .map(move |(index, distance)| (index, distance.div_euclid(stride)))
            };
            let (kernel_taps, taps): (Vec<usize>, Vec<[isize; 2]>) = seen(0)
                .flat_map(|(row, down)| {
                    seen(1).map(move |(col, right)| (row * self.kernel[1] + col, [down, right]))
                })
                .unzip();
            let out_size =
                [0, 1].map(|dim| self.size[dim].saturating_sub(start[dim]).div_ceil(self.stride[dim]));
            if taps.is_empty() || out_size.contains(&0) {
                continue;
            }
            let gather = Gather {
                source: gradient,
                n_images: self.n_images,
                n_channels: self.channels_out,
                size: self.out_size,
                step: [1, 1],
                taps,
                out_size,
            };
            let weights = Weights {
                values: weight,
                n_out: self.channels_in,
                strides: [self.n_taps(), self.channels_in * self.n_taps()],
                taps: kernel_taps,
            };
            let target = Target { output: shared, size: self.size, step: self.stride, start, bias: None };
            convolve_bands(&gather, &weights, &target);
        }
        output
    }

    /// The gradient towards the weight.
    ///
    /// Groups of bands are summed side by side and then together, in an order that only the shapes decide.
    pub(super) fn weight_gradient(&self, input: &[f32], gradient: &[f32]) -> Vec<f32> {
        let gather = self.reading_input(input);
        let bands = gather.bands();
        // The copies below are per position; those of the other way are per weight.
        if self.n_images * self.out_size[0] * self.out_size[1] < 2 * self.channels_out {
            return unfolded::weight_gradient(&gather, &bands, self.channels_out, gradient);
        }
        let n_rows = self.channels_in * self.n_taps();
        let parts = Parts::new(n_rows, self.channels_out, bands.len());
        let sums: Vec<Vec<f32>> = (0..parts.n_groups * parts.n_blocks)
            .into_par_iter()
            .map(|part| {
                let (group, block) = (part / parts.n_blocks, part % parts.n_blocks);
                let channels = block * parts.block..((block + 1) * parts.block).min(self.channels_out);
                let width = channels.len().next_multiple_of(BLOCK);
                let mut sums = vec![0.0; n_rows.next_multiple_of(TILE) * width];
                let group_len = bands.len().div_ceil(parts.n_groups);
                for band in bands.iter().skip(group * group_len).take(group_len) {
                    let layout = gather.layout(band);
                    let n_positions = layout.rows * layout.row_len;
                    let copy_len = layout.copy_len(self.channels_in);
                    with_scratch(copy_len + n_positions * width, |scratch| {
                        let (copy, transposed) = scratch.split_at_mut(copy_len);
                        gather.fill(band, &layout, 0..self.channels_in, copy);
                        self.transpose_gradient(gradient, band, channels.clone(), width, transposed);
                        Arch::new().dispatch(BandCorrelation {
                            layout: &layout,
                            n_channels: self.channels_in,
                            copy,
                            gradient: transposed,
                            width,
                            sums: &mut sums,
                        });
                    });
                }
                sums
            })
            .collect();
        parts.sum(&sums, n_rows, self.channels_out)
    }

    /// Copies a band of the output's gradient with its channels, filled up to `width`, side by side.
    fn transpose_gradient(
        &self,
        gradient: &[f32],
        band: &Band,
        channels: Range<usize>,
        width: usize,
        transposed: &mut [f32],
    ) {
        let [height, row_len] = self.out_size;
        let len = band.rows.len() * row_len;
        for (image, transposed) in band.images.clone().zip(transposed.chunks_mut(len * width)) {
            // Sixteen positions at a time, so that the lines being written stay in the cache.
            for (positions, lines) in transposed.chunks_mut(16 * width).enumerate() {
                for (lane, channel) in channels.clone().enumerate() {
                    let start = (image * self.channels_out + channel) * height * row_len
                        + band.rows.start * row_len
                        + positions * 16;
                    let n_positions = lines.len() / width;
                    for (position, value) in gradient[start..start + n_positions].iter().enumerate() {
                        lines[position * width + lane] = *value;
                    }
                }
                for line in lines.chunks_exact_mut(width) {
                    line[channels.len()..].fill(0.0);
                }
            }
        }
    }

    /// The gradient towards the bias: the sum of the output's gradient per channel.
    pub(super) fn bias_gradient(&self, gradient: &[f32]) -> Vec<f32> {
        let plane = self.out_size[0] * self.out_size[1];
        let channel_sum = |channel: usize| {
            let images = (0..self.n_images).map(|image| (image * self.channels_out + channel) * plane);
            images.map(|start| Arch::new().dispatch(Sum(&gradient[start..start + plane]))).sum()
        };
        (0..self.channels_out).into_par_iter().map(channel_sum).collect()
    }
}

/// Output channels of a weight gradient are taken in multiples of this, the lanes of the widest vectors.
const BLOCK: usize = 16;

/// How a weight gradient is divided: groups of bands, each into blocks of output channels.
struct Parts {
    n_groups: usize,
    n_blocks: usize,
    /// Output channels per block.
    block: usize,
}

impl Parts {
    /// At most 16 parts; fewer groups of bands where their sums would take more memory than is worth it.
    fn new(n_rows: usize, n_channels: usize, n_bands: usize) -> Self {
        const SUMS_LEN: usize = 4 << 20;
        let n_groups = (SUMS_LEN / (n_rows * n_channels).max(1)).clamp(1, 16).min(n_bands.max(1));
        let block = n_channels.div_ceil(16 / n_groups).max(MIN_CHANNELS).next_multiple_of(BLOCK);
        Self { n_groups, n_blocks: n_channels.div_ceil(block), block }
    }

    /// Adds the groups in order and turns `[row][channel]` into `[channel][row]`.
    fn sum(&self, sums: &[Vec<f32>], n_rows: usize, n_channels: usize) -> Vec<f32> {
        let mut total = vec![0.0; n_rows * n_channels];
        total.par_chunks_mut(BLOCK * n_rows).enumerate().for_each(|(lanes, total)| {
            let (block, start) = (lanes * BLOCK / self.block, lanes * BLOCK % self.block);
            let width = (n_channels - block * self.block).min(self.block).next_multiple_of(BLOCK);
            let groups = sums[block..].iter().step_by(self.n_blocks).map(|sums| &sums[start..]);
            Arch::new().dispatch(TransposedSum { groups, width, n_rows, total });
        });
        total
    }
}

/// The sum of values. A type and not a closure, as is the next: a closure that is not inlined would be compiled
/// without the processor's vectors.
struct Sum<'a>(&'a [f32]);

impl WithSimd for Sum<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> f32 {
        sum(self.0)
    }
}

/// Adds `BLOCK` lanes of rows that lie `width` apart, group by group, and writes each lane's rows side by side.
struct TransposedSum<'a, G> {
    groups: G,
    width: usize,
    n_rows: usize,
    /// `[BLOCK or fewer][n_rows]`.
    total: &'a mut [f32],
}

impl<'a, G: Iterator<Item = &'a [f32]> + Clone> WithSimd for TransposedSum<'a, G> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self { groups, width, n_rows, total } = self;
        for first in (0..n_rows).step_by(BLOCK) {
            // Rows past the last are added and not written.
            let mut tile = [[0.0; BLOCK]; BLOCK];
            for sums in groups.clone() {
                for (tile, sums) in tile.iter_mut().zip(sums[first * width..].chunks(width)) {
                    for (tile, sum) in tile.iter_mut().zip(&sums[..BLOCK]) {
                        *tile += sum;
                    }
                }
            }
            for (lane, channel) in total.chunks_exact_mut(n_rows).enumerate() {
                for (value, row) in channel[first..].iter_mut().zip(&tile) {
                    *value = row[lane];
                }
            }
        }
    }
}

/// One band's part of a weight gradient.
struct BandCorrelation<'a> {
    layout: &'a Layout,
    n_channels: usize,
    copy: &'a [f32],
    /// `[positions][width]`.
    gradient: &'a [f32],
    width: usize,
    /// `[channels * taps, a multiple of TILE][width]`.
    sums: &'a mut [f32],
}

impl WithSimd for BandCorrelation<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { layout, n_channels, copy, gradient, width, sums } = self;
        let n_taps = layout.taps.len();
        let shift = |row: usize| row / n_taps * layout.channel_stride + layout.taps[row % n_taps];
        let positions = (layout.rows, layout.row_len, layout.pitch);
        let n_rows = n_channels * n_taps;
        assert!(width.is_multiple_of(S::F32_LANES) && gradient.len() >= layout.rows * layout.row_len * width);
        let mut lane = 0;
        while lane < width {
            let n_vectors = next_vectors::<S>((width - lane) / S::F32_LANES);
            for (tile, sums) in sums.chunks_exact_mut(TILE * width).enumerate() {
                // Rows past the last repeat it; nobody reads their sums.
                let mut shifts = [0; TILE];
                for (row, to) in shifts.iter_mut().enumerate() {
                    *to = shift((tile * TILE + row).min(n_rows - 1));
                }
                let source = (copy.as_ptr(), shifts);
                let values = (gradient[lane..].as_ptr(), width);
                let row = (sums[lane..].as_mut_ptr(), width);
                // SAFETY: the layout holds the shifted positions within the copy; the vectors taken end
                // within `width`, the length of the gradient's and the sums' rows.
                unsafe {
                    match n_vectors {
                        1 => correlate::<S, 1>(simd, source, positions, values, row),
                        2 => correlate::<S, 2>(simd, source, positions, values, row),
                        _ => correlate::<S, 3>(simd, source, positions, values, row),
                    }
                }
            }
            lane += n_vectors * S::F32_LANES;
        }
    }
}
