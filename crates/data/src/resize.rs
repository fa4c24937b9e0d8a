//! Resampling as Pillow does it, bit for bit.
//!
//! Written here after crate `fast_image_resize` was tried and measured: its 8-bit path (16-bit weights, height
//! first) was off by up to 50/255 where a filter overshoots, and its f32 path by 2/255 where a sum falls on a half.
//! Whole numbers also give the same pixels on every processor, which a resumed run relies on.

use std::f64::consts::PI;
use std::fmt;
use std::str::FromStr;

use image::RgbImage;
use pulp::{Arch, Simd, WithSimd};
use serde::{Deserialize, Serialize};

use crate::error::DataError;

/// The filter of a resize, under torchvision's names. Filters widen when they shrink an image, so all but
/// `Nearest` are free of aliasing.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// The pixel at the place.
    Nearest,
    /// The mean of the pixels covered.
    Box,
    /// A triangle: the default of diffusers' `train_controlnet.py`.
    #[default]
    Bilinear,
    /// A raised cosine.
    Hamming,
    /// Catmull-Rom, `a = -0.5`.
    Bicubic,
    /// A windowed sinc of three lobes: the default of diffusers' `train_controlnet_sdxl.py`.
    Lanczos,
}

impl Interpolation {
    /// Every filter.
    pub const ALL: [Self; 6] =
        [Self::Nearest, Self::Box, Self::Bilinear, Self::Hamming, Self::Bicubic, Self::Lanczos];

    /// The name in files and flags.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nearest => "nearest",
            Self::Box => "box",
            Self::Bilinear => "bilinear",
            Self::Hamming => "hamming",
            Self::Bicubic => "bicubic",
            Self::Lanczos => "lanczos",
        }
    }

    /// Half the width of the filter in source pixels, when it enlarges.
    fn support(self) -> f64 {
        match self {
            Self::Nearest => 0.0,
            Self::Box => 0.5,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    /// The weight of a pixel at `distance` from the centre, within the support.
    fn weight(self, distance: f64) -> f64 {
        let near = distance.abs();
        match self {
            Self::Nearest => 1.0,
            Self::Box if distance > -0.5 && distance <= 0.5 => 1.0,
            Self::Bilinear if near < 1.0 => 1.0 - near,
            // Pillow writes these two constants in single precision.
            Self::Hamming if near < 1.0 => {
                sinc(near) * (f64::from(0.54_f32) + f64::from(0.46_f32) * (near * PI).cos())
            }
            Self::Bicubic if near < 1.0 => (1.5 * near - 2.5) * near * near + 1.0,
            Self::Bicubic if near < 2.0 => -0.5 * (((near - 5.0) * near + 8.0) * near - 4.0),
            Self::Lanczos if (-3.0..3.0).contains(&distance) => sinc(distance) * sinc(distance / 3.0),
            _ => 0.0,
        }
    }
}

fn sinc(distance: f64) -> f64 {
    if distance == 0.0 { 1.0 } else { (distance * PI).sin() / (distance * PI) }
}

impl fmt::Display for Interpolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Interpolation {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|interpolation| interpolation.name() == name);
        known.ok_or_else(|| DataError::UnknownInterpolation { name: name.to_owned() })
    }
}

/// Stretches an image to a size exactly as `PIL.Image.resize` does.
///
/// Two passes with rounding and clipping to 8 bits between them. The height comes first if it shrinks by more than
/// twice as many pixels as the width.
///
/// Source: Pillow 13.0, `Resample.c`; before that version the width always came first.
#[must_use]
pub fn resize(image: &RgbImage, width: u32, height: u32, interpolation: Interpolation) -> RgbImage {
    resize_and_crop(image, (width, height), Window { left: 0, top: 0, width, height }, interpolation)
}

/// A part of an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) left: u32,
    pub(crate) top: u32,
    pub(crate) width: u32,
    pub(crate) height: u32,
}

/// A window of what [`resize`] makes; nothing else of it is computed.
pub(crate) fn resize_and_crop(
    image: &RgbImage,
    size: (u32, u32),
    window: Window,
    interpolation: Interpolation,
) -> RgbImage {
    let columns = Axis::new(image.width(), size.0, window.left, window.width, interpolation);
    let rows = Axis::new(image.height(), size.1, window.top, window.height, interpolation);
    let image = Area { rows: image.as_raw(), stride: 3 * image.width() as usize };
    let source = image.from(rows.start, columns.start);
    let lost_width = i64::from(columns.length) - i64::from(size.0);
    let lost_height = i64::from(rows.length) - i64::from(size.1);
    let bytes = if lost_height > 0 && lost_height > 2 * lost_width {
        let blended = resize_height(source, columns.len, &rows);
        resize_width(Area { rows: &blended, stride: 3 * columns.len }, rows.taps.len(), &columns)
    } else {
        let narrowed = resize_width(source, rows.len, &columns);
        resize_height(Area { rows: &narrowed, stride: 3 * columns.taps.len() }, columns.taps.len(), &rows)
    };
    RgbImage::from_raw(window.width, window.height, bytes).expect("three bytes per pixel")
}

/// Rows of pixels within an image: the bytes from the first pixel on, and from one row to the next.
#[derive(Clone, Copy)]
struct Area<'a> {
    rows: &'a [u8],
    stride: usize,
}

impl<'a> Area<'a> {
    fn from(self, row: usize, column: usize) -> Self {
        Self { rows: &self.rows[row * self.stride + 3 * column..], ..self }
    }

    fn row(self, index: usize, width: usize) -> &'a [u8] {
        &self.rows[index * self.stride..][..3 * width]
    }
}

/// The bytes of the first rows with other columns.
fn resize_width(source: Area<'_>, n_rows: usize, columns: &Axis) -> Vec<u8> {
    let n_groups = columns.taps.iter().map(|taps| taps.weights.len().div_ceil(GROUP)).max().unwrap_or(0);
    let firsts: Vec<usize> = columns.taps.iter().map(|taps| taps.first).collect();
    let mut groups = vec![[0; GROUP]; n_groups * firsts.len()];
    for (groups, taps) in groups.chunks_exact_mut(n_groups).zip(&columns.taps) {
        groups.as_flattened_mut()[..taps.weights.len()].copy_from_slice(&taps.weights);
    }
    // What a weight of zero is given: one group, and the fourth byte of a pixel.
    let mut row = vec![0; 3 * (columns.len + n_groups * GROUP) + 1];
    let row_bytes = 3 * firsts.len();
    let mut bytes = vec![0; row_bytes * n_rows + 1];
    for index in 0..n_rows {
        row[..3 * columns.len].copy_from_slice(source.row(index, columns.len));
        let resized = &mut bytes[row_bytes * index..][..=row_bytes];
        Arch::new().dispatch(ResizeRow { row: &row, firsts: &firsts, groups: &groups, resized });
    }
    bytes.pop();
    bytes
}

/// A row and what becomes of it, both longer than their pixels. A pixel is read and written as four bytes, of which the last is
/// its neighbour's.
struct ResizeRow<'a> {
    row: &'a [u8],
    /// For each column, the first pixel that it is made of.
    firsts: &'a [usize],
    /// For each column, the same number of groups of weights.
    groups: &'a [[i32; GROUP]],
    resized: &'a mut [u8],
}

impl WithSimd for ResizeRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let n_groups = self.groups.len() / self.firsts.len();
        for (column, first) in self.firsts.iter().enumerate() {
            let mut sums = [HALF; 4];
            for group in 0..n_groups {
                // Read before the pixels: after them, the compiler makes vectors of groups, and it takes twice as long.
                let weights = self.groups[column * n_groups + group];
                let pixels = &self.row[3 * (first + group * GROUP)..][..3 * GROUP + 1];
                for tap in 0..GROUP {
                    for channel in 0..4 {
                        sums[channel] += i32::from(pixels[3 * tap + channel]) * weights[tap];
                    }
                }
            }
            self.resized[3 * column..][..4].copy_from_slice(&sums.map(to_byte));
        }
    }
}

/// The bytes of the first columns with other rows.
fn resize_height(source: Area<'_>, n_columns: usize, rows: &Axis) -> Vec<u8> {
    let row_bytes = 3 * n_columns;
    let mut bytes = vec![0; row_bytes * rows.taps.len()];
    for (Taps { first, weights }, blended) in rows.taps.iter().zip(bytes.chunks_exact_mut(row_bytes)) {
        let sources: Vec<&[u8]> = (0..weights.len()).map(|tap| source.row(first + tap, n_columns)).collect();
        Arch::new().dispatch(BlendRows { sources: &sources, weights, blended });
    }
    bytes
}

/// Rows and their weighted sum.
struct BlendRows<'a> {
    sources: &'a [&'a [u8]],
    weights: &'a [i32],
    blended: &'a mut [u8],
}

impl WithSimd for BlendRows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let (chunks, rest) = self.blended.as_chunks_mut::<CHUNK>();
        for (index, chunk) in chunks.iter_mut().enumerate() {
            let mut sums = [HALF; CHUNK];
            for (source, weight) in self.sources.iter().zip(self.weights) {
                let values = &source[CHUNK * index..][..CHUNK];
                for lane in 0..CHUNK {
                    sums[lane] += i32::from(values[lane]) * weight;
                }
            }
            *chunk = sums.map(to_byte);
        }
        let first = chunks.len() * CHUNK;
        for (offset, byte) in rest.iter_mut().enumerate() {
            let mut sum = HALF;
            for (source, weight) in self.sources.iter().zip(self.weights) {
                sum += i32::from(source[first + offset]) * weight;
            }
            *byte = to_byte(sum);
        }
    }
}

/// Weights that are taken at a time: enough for a triangle that shrinks to a half.
const GROUP: usize = 4;

/// Sums that are kept in registers.
const CHUNK: usize = 16;

/// Weights are counted in `2^-22`: 8 bits of the value and 2 for overshooting fill an i32.
const WEIGHT_BITS: u32 = 22;
/// Added to a sum of weighted values so that [`to_byte`] rounds halves up.
const HALF: i32 = 1 << (WEIGHT_BITS - 1);

#[inline(always)]
#[expect(clippy::cast_sign_loss, reason = "clamped to a byte")]
fn to_byte(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

/// The source pixels that make up one resized pixel: the first one's place, and the weight of each.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// How a window of an image's rows or columns comes from its source.
struct Axis {
    /// Of the whole source, in pixels.
    length: u32,
    /// The first of the source's pixels that matter, and their number.
    start: usize,
    len: usize,
    /// Of each pixel, counted from `start`.
    taps: Vec<Taps>,
}

impl Axis {
    /// `n_pixels` from `first` on of a row or column of `length` pixels that becomes one of `resized` pixels.
    fn new(length: u32, resized: u32, first: u32, n_pixels: u32, interpolation: Interpolation) -> Self {
        let taps = taps(length, resized, interpolation).into_iter();
        let mut taps: Vec<Taps> = taps.skip(first as usize).take(n_pixels as usize).collect();
        let start = taps.iter().map(|taps| taps.first).min().unwrap_or(0);
        let end = taps.iter().map(|taps| taps.first + taps.weights.len()).max().unwrap_or(0);
        taps.iter_mut().for_each(|taps| taps.first -= start);
        Self { length, start, len: end - start, taps }
    }
}

/// The taps of every pixel of a row or column of `length` pixels that becomes one of `resized` pixels.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "lengths of an image, clamped to it"
)]
fn taps(length: u32, resized: u32, interpolation: Interpolation) -> Vec<Taps> {
    if length == resized {
        // Pillow leaves out a pass that changes nothing.
        return (0..length as usize).map(|first| Taps { first, weights: vec![1 << WEIGHT_BITS] }).collect();
    }
    let scale = f64::from(length) / f64::from(resized);
    let mut center = 0.5 * scale;
    if interpolation == Interpolation::Nearest {
        let place = |_| {
            let first = (center as usize).min(length as usize - 1);
            // Pillow adds up the centres, and their rounding errors with them.
            center += scale;
            Taps { first, weights: vec![1 << WEIGHT_BITS] }
        };
        return (0..resized).map(place).collect();
    }
    let stretch = scale.max(1.0);
    let support = interpolation.support() * stretch;
    let place = |index: u32| {
        let center = (f64::from(index) + 0.5) * scale;
        // The pixels whose centres lie within the support, which are never none.
        let first = (center - support + 0.5).max(0.0) as u32;
        let end = ((center + support + 0.5) as u32).min(length);
        let weight = |pixel: u32| interpolation.weight((f64::from(pixel) - center + 0.5) * stretch.recip());
        let weights: Vec<f64> = (first..end).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        let to_fixed = |weight: &f64| (weight / sum * f64::from(1 << WEIGHT_BITS)).round() as i32;
        Taps { first: first as usize, weights: weights.iter().map(to_fixed).collect() }
    };
    (0..resized).map(place).collect()
}

#[cfg(test)]
mod tests {
    use image::imageops::crop_imm;

    use super::*;

    #[test]
    fn names_round_trip_through_text_and_serde() {
        for interpolation in Interpolation::ALL {
            assert_eq!(interpolation.name().parse::<Interpolation>().unwrap(), interpolation);
            assert_eq!(serde_json::to_value(interpolation).unwrap(), interpolation.name());
        }
        assert!("cubic".parse::<Interpolation>().is_err());
    }

    #[test]
    fn same_size_is_the_same_image() {
        let image = RgbImage::from_fn(5, 4, |x, y| image::Rgb([x, y, x + y].map(|v| v.to_le_bytes()[0])));
        for interpolation in Interpolation::ALL {
            assert_eq!(resize(&image, 5, 4, interpolation), image);
        }
    }

    #[test]
    fn window_is_what_would_be_cut_out_of_the_whole() {
        let image =
            RgbImage::from_fn(61, 47, |x, y| image::Rgb([x * 4, y * 5, x * y].map(|v| v.to_le_bytes()[0])));
        let window = Window { left: 3, top: 5, width: 24, height: 16 };
        for interpolation in Interpolation::ALL {
            for size in [(30, 23), (61, 23), (120, 90), (61, 47), (58, 22)] {
                let whole = resize(&image, size.0, size.1, interpolation);
                let cut = crop_imm(&whole, window.left, window.top, window.width, window.height).to_image();
                assert_eq!(
                    resize_and_crop(&image, size, window, interpolation),
                    cut,
                    "{interpolation}, {size:?}"
                );
            }
        }
    }
}
