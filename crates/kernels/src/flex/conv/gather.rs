//! What a convolution reads: the source, copied so that every tap is a plain shift.

use std::ops::Range;

/// The reading side of a convolution:
/// position `[u, v]` of the output combines, per channel and tap, the source at `[u, v] * step + tap`.
///
/// A forward convolution is one such gather of its input, and its weight gradient reads the same. The
/// gradient towards the input is `stride^2` gathers of the output's gradient, one for every remainder that
/// a position of the input leaves.
pub(super) struct Gather<'a> {
    pub(super) source: &'a [f32],
    pub(super) n_images: usize,
    pub(super) n_channels: usize,
    /// Height and width of the source.
    pub(super) size: [usize; 2],
    pub(super) step: [usize; 2],
    /// Offsets in height and width; what they point to outside the source is zero.
    pub(super) taps: Vec<[isize; 2]>,
    /// Height and width of the output.
    pub(super) out_size: [usize; 2],
}

/// A part of the output: some rows of one image, or several whole images.
pub(super) struct Band {
    pub(super) images: Range<usize>,
    pub(super) rows: Range<usize>,
}

/// How a band's copy of the source is laid out.
///
/// Position `[u, v]` of the band is the index `u * pitch + v`; the value that tap `t` of channel `c` finds
/// there is at `c * channel_stride + taps[t]` plus that index. So a kernel reads vectors of neighbouring
/// positions, and the copy is hardly larger than the source.
pub(super) struct Layout {
    pub(super) channel_stride: usize,
    pub(super) taps: Vec<usize>,
    pub(super) pitch: usize,
    /// Rows of positions and their length.
    pub(super) rows: usize,
    pub(super) row_len: usize,
}

impl Layout {
    /// Number of indices from the first position to the last.
    pub(super) fn span(&self) -> usize {
        (self.rows - 1) * self.pitch + self.row_len
    }

    pub(super) fn n_positions(&self) -> usize {
        self.rows * self.row_len
    }

    /// Values of a copy of so many channels.
    pub(super) fn copy_len(&self, n_channels: usize) -> usize {
        n_channels * self.channel_stride + SLACK
    }
}

/// What a vector may read past the last position.
const SLACK: usize = 64;

/// Below this width the columns between two rows of a shifted copy would cost more than a copy per tap.
const NARROW: usize = 12;

/// Positions of a band: enough to use each weight often, few enough that their sums stay in the cache.
const BAND_LEN: usize = 512;

/// Positions of a band of several images.
const NARROW_BAND_LEN: usize = 128;

impl Gather<'_> {
    fn n_taps(&self) -> usize {
        self.taps.len()
    }

    fn is_narrow(&self) -> bool {
        self.out_size[1] < NARROW
    }

    /// The remainder and the quotient of a tap by the step, in one dimension.
    fn split(&self, dim: usize, tap: isize) -> (usize, isize) {
        let step = self.step[dim].cast_signed();
        (tap.rem_euclid(step).cast_unsigned(), tap.div_euclid(step))
    }

    /// Smallest and largest quotient of the taps, in one dimension.
    fn reach(&self, dim: usize) -> (isize, isize) {
        let quotients = || self.taps.iter().map(|tap| self.split(dim, tap[dim]).1);
        (quotients().min().unwrap_or(0), quotients().max().unwrap_or(0))
    }

    /// The distinct pairs of remainders: one plane each in a shifted copy.
    fn planes(&self) -> Vec<[usize; 2]> {
        let mut planes: Vec<_> =
            self.taps.iter().map(|tap| [self.split(0, tap[0]).0, self.split(1, tap[1]).0]).collect();
        planes.sort_unstable();
        planes.dedup();
        planes
    }

    /// Cuts the output into bands. The cut depends on shapes only.
    pub(super) fn bands(&self) -> Vec<Band> {
        let [height, width] = self.out_size;
        let rows = (BAND_LEN / width.max(1)).max(1);
        if self.is_narrow() && rows >= height {
            let n_images = (NARROW_BAND_LEN / (height * width)).max(1);
            return (0..self.n_images)
                .step_by(n_images)
                .map(|start| Band { images: start..(start + n_images).min(self.n_images), rows: 0..height })
                .collect();
        }
        // Bands of equal height, the last of which is not a remainder of one row.
        let rows = height.div_ceil(height.div_ceil(rows));
        (0..self.n_images)
            .flat_map(|image| {
                (0..height).step_by(rows).map(move |start| Band {
                    images: image..image + 1,
                    rows: start..(start + rows).min(height),
                })
            })
            .collect()
    }

    /// How many channels to copy at a time.
    ///
    /// What three vectors of positions read of them takes half of the innermost cache.
    pub(super) fn channels_at_once(&self) -> usize {
        let most = if self.n_taps() == 1 { 128 } else { 32 };
        self.n_channels.div_ceil(self.n_channels.div_ceil(most))
    }

    pub(super) fn layout(&self, band: &Band) -> Layout {
        let width = self.out_size[1];
        if self.is_narrow() {
            let row_len = band.images.len() * band.rows.len() * width;
            let tap_stride = row_len.next_multiple_of(16);
            return Layout {
                channel_stride: self.n_taps() * tap_stride,
                taps: (0..self.n_taps()).map(|tap| tap * tap_stride).collect(),
                pitch: row_len,
                rows: 1,
                row_len,
            };
        }
        let ((top, bottom), (left, right)) = (self.reach(0), self.reach(1));
        let pitch = width + left.abs_diff(right);
        let plane_len = (band.rows.len() + top.abs_diff(bottom)) * pitch;
        let planes = self.planes();
        let taps = self.taps.iter().map(|tap| {
            let ((row_rest, row), (col_rest, col)) = (self.split(0, tap[0]), self.split(1, tap[1]));
            let plane = planes.iter().position(|plane| *plane == [row_rest, col_rest]).unwrap_or(0);
            plane * plane_len + row.abs_diff(top) * pitch + col.abs_diff(left)
        });
        // An odd number of cache lines: channels a power of two apart would share a few sets of the cache.
        let channel_stride = (planes.len() * plane_len).div_ceil(16) | 1;
        Layout {
            channel_stride: 16 * channel_stride,
            taps: taps.collect(),
            pitch,
            rows: band.rows.len(),
            row_len: width,
        }
    }

    /// Copies what a band reads of some channels into `copy`, laid out as `layout` says.
    pub(super) fn fill(&self, band: &Band, layout: &Layout, channels: Range<usize>, copy: &mut [f32]) {
        if self.is_narrow() {
            self.fill_by_tap(band, layout, channels, copy);
        } else {
            self.fill_shifted(band, layout, channels, copy);
        }
    }

    fn fill_by_tap(&self, band: &Band, layout: &Layout, channels: Range<usize>, copy: &mut [f32]) {
        let width = self.out_size[1];
        for (channel_idx, channel) in channels.enumerate() {
            for (tap, start) in self.taps.iter().zip(&layout.taps) {
                let mut index = channel_idx * layout.channel_stride + start;
                for image in band.images.clone() {
                    for row in band.rows.clone() {
                        let row = (row * self.step[0]).cast_signed() + tap[0];
                        self.copy_row([image, channel], row, tap[1], &mut copy[index..index + width]);
                        index += width;
                    }
                }
            }
        }
    }

    fn fill_shifted(&self, band: &Band, layout: &Layout, channels: Range<usize>, copy: &mut [f32]) {
        let ((top, bottom), left) = (self.reach(0), self.reach(1).0);
        let planes = self.planes();
        let [row_step, col_step] = self.step.map(usize::cast_signed);
        let first_row = band.rows.start.cast_signed() + top;
        let n_rows = band.rows.len() + top.abs_diff(bottom);
        for (channel_idx, channel) in channels.enumerate() {
            let channel_copy = &mut copy[channel_idx * layout.channel_stride..][..layout.channel_stride];
            let mut rows = channel_copy.chunks_exact_mut(layout.pitch);
            for [row_rest, col_rest] in planes.iter().map(|plane| plane.map(usize::cast_signed)) {
                for (row, copy) in (first_row..).zip(rows.by_ref().take(n_rows)) {
                    let image = band.images.start;
                    self.copy_row(
                        [image, channel],
                        row * row_step + row_rest,
                        left * col_step + col_rest,
                        copy,
                    );
                }
            }
        }
    }

    /// Copies the source's row `row` from column `col` on, a step apart, with zeros outside the source.
    #[inline(always)]
    fn copy_row(&self, [image, channel]: [usize; 2], row: isize, col: isize, copy: &mut [f32]) {
        let [height, width] = self.size;
        if row < 0 || row.cast_unsigned() >= height {
            return copy.fill(0.0);
        }
        let start = ((image * self.n_channels + channel) * height + row.cast_unsigned()) * width;
        let source = &self.source[start..start + width];
        let step = self.step[1];
        // The positions whose column lies within the source.
        let first = if col < 0 { col.unsigned_abs().div_ceil(step) } else { 0 }.min(copy.len());
        let source_col = (col + (first * step).cast_signed()).cast_unsigned();
        let n_inside = width.saturating_sub(source_col).div_ceil(step).min(copy.len() - first);
        copy[..first].fill(0.0);
        copy[first + n_inside..].fill(0.0);
        let copy = &mut copy[first..first + n_inside];
        if n_inside == 0 {
        } else if step == 1 {
            copy.copy_from_slice(&source[source_col..source_col + n_inside]);
        } else {
            for (copy, value) in copy.iter_mut().zip(source[source_col..].iter().step_by(step)) {
                *copy = *value;
            }
        }
    }
}
