//! Resampling as Pillow does it, bit for bit.
//!
//! Written here after crate `fast_image_resize` was tried and measured: its 8-bit path (16-bit weights, height
//! first) was off by up to 50/255 where a filter overshoots, and its f32 path by 2/255 where a sum falls on a half.
//! Whole numbers also give the same pixels on every processor, which a resumed run relies on.

use std::f64::consts::PI;
use std::fmt;
use std::str::FromStr;

use image::RgbImage;
use pulp::Arch;
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
    let lost_width = i64::from(image.width()) - i64::from(width);
    let lost_height = i64::from(image.height()) - i64::from(height);
    if lost_height > 0 && lost_height > 2 * lost_width {
        resize_width(&resize_height(image, height, interpolation), width, interpolation)
    } else {
        resize_height(&resize_width(image, width, interpolation), height, interpolation)
    }
}

fn resize_width(image: &RgbImage, width: u32, interpolation: Interpolation) -> RgbImage {
    if width == image.width() {
        return image.clone();
    }
    let columns = taps(image.width(), width, interpolation);
    let mut bytes = vec![0; 3 * width as usize * image.height() as usize];
    let mut pixels = vec![[0; 4]; image.width() as usize];
    let rows = image.as_raw().chunks_exact(3 * image.width() as usize);
    for (row, resized) in rows.zip(bytes.chunks_exact_mut(3 * width as usize)) {
        Arch::new().dispatch(|| resize_row(row, &columns, &mut pixels, resized));
    }
    RgbImage::from_raw(width, image.height(), bytes).expect("three bytes per pixel")
}

/// Resizes one row; a pixel is four numbers in `pixels`, so that one instruction multiplies all of it.
#[inline(always)]
fn resize_row(row: &[u8], columns: &[Taps], pixels: &mut [[i32; 4]], resized: &mut [u8]) {
    for (pixel, rgb) in pixels.iter_mut().zip(row.chunks_exact(3)) {
        *pixel = [rgb[0].into(), rgb[1].into(), rgb[2].into(), 0];
    }
    for (Taps { first, weights }, resized) in columns.iter().zip(resized.chunks_exact_mut(3)) {
        let mut sums = [HALF; 4];
        for (pixel, weight) in pixels[*first..].iter().zip(weights) {
            for (sum, value) in sums.iter_mut().zip(pixel) {
                *sum += value * weight;
            }
        }
        for (byte, sum) in resized.iter_mut().zip(sums) {
            *byte = to_byte(sum);
        }
    }
}

fn resize_height(image: &RgbImage, height: u32, interpolation: Interpolation) -> RgbImage {
    if height == image.height() {
        return image.clone();
    }
    let row_bytes = 3 * image.width() as usize;
    let mut bytes = vec![0; row_bytes * height as usize];
    let mut sums = vec![HALF; row_bytes];
    let rows = taps(image.height(), height, interpolation);
    for (Taps { first, weights }, resized) in rows.iter().zip(bytes.chunks_exact_mut(row_bytes)) {
        let source = &image.as_raw()[row_bytes * first..];
        Arch::new().dispatch(|| blend_rows(source, weights, &mut sums, resized));
    }
    RgbImage::from_raw(image.width(), height, bytes).expect("three bytes per pixel")
}

/// The weighted sum of the first rows of `source`.
#[inline(always)]
fn blend_rows(source: &[u8], weights: &[i32], sums: &mut [i32], blended: &mut [u8]) {
    sums.fill(HALF);
    for (row, weight) in source.chunks_exact(blended.len()).zip(weights) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += i32::from(*value) * weight;
        }
    }
    for (byte, sum) in blended.iter_mut().zip(sums) {
        *byte = to_byte(*sum);
    }
}

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

/// The taps of every pixel of a row or column of `length` pixels that becomes one of `resized` pixels.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "lengths of an image, clamped to it"
)]
fn taps(length: u32, resized: u32, interpolation: Interpolation) -> Vec<Taps> {
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
}
