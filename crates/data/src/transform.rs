//! One geometry for a target image and its hint, and their pixels as numbers.

use std::path::Path;

use image::RgbImage;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::decode::{MAX_IMAGE_SIDE, decode_rgb8};
use crate::error::DataError;
use crate::hints::HintMaker;
use crate::picture::{luma, rgb_to_signed, rgb_to_unit};
use crate::random::{self, Purpose};
use crate::resize::{Interpolation, Window, resize, resize_and_crop};
use crate::source::Sample;

/// The largest [`Side`].
const MAX_SIDE: usize = 16_384;

/// A hint may differ from its image by this much in aspect ratio: the rounding of a resize, no more.
const MAX_ASPECT_DIFFERENCE: f64 = 0.01;

/// The side of a training image in pixels: a positive multiple of 8, because the VAE and the hint embedding
/// halve it three times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "usize", into = "usize")]
pub struct Side(u16);

impl Side {
    /// In pixels.
    #[must_use]
    pub fn get(self) -> usize {
        usize::from(self.0)
    }

    /// In pixels, in the type that images use.
    #[must_use]
    pub fn pixels(self) -> u32 {
        u32::from(self.0)
    }
}

impl TryFrom<usize> for Side {
    type Error = DataError;

    fn try_from(value: usize) -> Result<Self, DataError> {
        match u16::try_from(value) {
            Ok(side) if side > 0 && side.is_multiple_of(8) && value <= MAX_SIDE => Ok(Self(side)),
            _ => Err(DataError::InvalidSide { value, max: MAX_SIDE }),
        }
    }
}

impl From<Side> for usize {
    fn from(side: Side) -> Self {
        side.get()
    }
}

/// Resize of the shorter side, then a centre crop: what is done to a target image and, equally, to its hint.
///
/// Source: torchvision `Resize(side)` and `CenterCrop(side)`, as in diffusers' `train_controlnet.py`. There the
/// two images are cut independently; here the geometry comes from the target image alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Width and height before.
    pub original: (u32, u32),
    /// Width and height after the resize.
    pub resized: (u32, u32),
    /// Left and top of the crop in the resized image.
    pub offset: (u32, u32),
    /// Width and height of the crop.
    pub side: Side,
}

impl Geometry {
    /// The geometry of an image of `width` x `height` px.
    ///
    /// # Errors
    /// [`DataError::TooElongated`] if the longer side would exceed 32,768 px.
    pub fn new(width: u32, height: u32, side: Side) -> Result<Self, DataError> {
        let longer = |long: u32, short: u32| {
            // Rounded down, as torchvision does.
            let scaled = u64::from(side.pixels()) * u64::from(long) / u64::from(short.max(1));
            u32::try_from(scaled)
                .ok()
                .filter(|longer| *longer <= MAX_IMAGE_SIDE)
                .ok_or(DataError::TooElongated { width, height, side: side.get() })
        };
        let resized = if width <= height {
            (side.pixels(), longer(height, width)?)
        } else {
            (longer(width, height)?, side.pixels())
        };
        let offset = |length: u32| half_to_even(length - side.pixels());
        Ok(Self { original: (width, height), resized, offset: (offset(resized.0), offset(resized.1)), side })
    }

    /// Resizes and crops; the image may have any size of about the same shape.
    #[must_use]
    pub fn apply(&self, image: &RgbImage, interpolation: Interpolation) -> RgbImage {
        let (left, top) = self.offset;
        let side = self.side.pixels();
        resize_and_crop(image, self.resized, Window { left, top, width: side, height: side }, interpolation)
    }
}

/// `length / 2`, halves rounded to even: Python's `round`.
fn half_to_even(length: u32) -> u32 {
    let half = length / 2;
    if length % 2 == 1 && half % 2 == 1 { half + 1 } else { half }
}

/// From a pair of files, or from a file alone, to the numbers that the networks take.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Transform {
    /// Width and height of the result (`resolution`).
    pub side: Side,
    /// The filter of the resize.
    pub interpolation: Interpolation,
    /// How the hint is made of the image, once that has its size; else it is read.
    pub hint: Option<HintMaker>,
}

/// The time at which a sample is seen: with its id it decides what a [`Transform`] draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// The run's seed.
    pub seed: u64,
    /// Passes over the data set before.
    pub epoch: u64,
}

impl Turn {
    fn rng(self, id: &str, purpose: Purpose) -> ChaCha8Rng {
        random::rng(self.seed, self.epoch, id, purpose)
    }
}

/// The pixels of a sample, each `[3, side, side]`.
#[derive(Debug, Clone, PartialEq)]
pub struct PixelSample {
    /// The target image in [-1, 1].
    pub image_signed: Vec<f32>,
    /// The conditioning image in [0, 1]; -1 where it is to be painted.
    pub hint_unit: Vec<f32>,
    /// Width and height of both.
    pub side: Side,
}

impl Transform {
    /// Reads the hint, and resizes both to `side`.
    #[must_use]
    pub fn new(side: Side, interpolation: Interpolation) -> Self {
        Self { side, interpolation, hint: None }
    }

    /// Decodes and transforms both images of a sample.
    ///
    /// # Errors
    /// [`DataError::Row`], with what [`decode_rgb8`] and [`Self::apply`] fail with as its source.
    pub fn load(&self, sample: &Sample, turn: Turn) -> Result<PixelSample, DataError> {
        self.pixels(sample, turn)
            .map_err(|error| DataError::Row { at: sample.origin.clone(), source: Box::new(error) })
    }

    fn pixels(&self, sample: &Sample, turn: Turn) -> Result<PixelSample, DataError> {
        let image = sample.image.decode_rgb8()?;
        let Some(maker) = self.hint else { return self.apply(&image, &sample.hint.decode_rgb8()?) };
        let image = self.framed(self.geometry_of(image.dimensions())?, &image);
        let hint_unit = made_hint(maker, &image, sample, turn);
        Ok(PixelSample { image_signed: rgb_to_signed(&image), hint_unit, side: self.side })
    }

    /// Gives both images the geometry of the first. A hint of another size is resized straight to where its
    /// image goes.
    ///
    /// # Errors
    /// [`DataError::AspectMismatch`] if the two have different shapes, [`DataError::TooElongated`].
    pub fn apply(&self, image: &RgbImage, hint: &RgbImage) -> Result<PixelSample, DataError> {
        let geometry = self.geometry(image.dimensions(), hint.dimensions())?;
        Ok(PixelSample {
            image_signed: rgb_to_signed(&self.framed(geometry, image)),
            hint_unit: rgb_to_unit(&self.framed(geometry, hint)),
            side: self.side,
        })
    }

    /// The geometry of an image and its hint, from their widths and heights.
    pub(crate) fn geometry(&self, image: (u32, u32), hint: (u32, u32)) -> Result<Geometry, DataError> {
        let aspect = |(width, height): (u32, u32)| f64::from(width) / f64::from(height);
        if (aspect(image) / aspect(hint) - 1.0).abs() > MAX_ASPECT_DIFFERENCE {
            return Err(DataError::AspectMismatch { image, hint });
        }
        self.geometry_of(image)
    }

    /// The geometry of an image alone.
    pub(crate) fn geometry_of(&self, image: (u32, u32)) -> Result<Geometry, DataError> {
        Geometry::new(image.0, image.1, self.side)
    }

    pub(crate) fn framed(&self, geometry: Geometry, image: &RgbImage) -> RgbImage {
        geometry.apply(image, self.interpolation)
    }
}

/// The hint of an image that has its size.
pub(crate) fn made_hint(maker: HintMaker, image: &RgbImage, sample: &Sample, turn: Turn) -> Vec<f32> {
    maker.make(image, &mut turn.rng(&sample.id, Purpose::Hint)).to_unit()
}

/// A conditioning image for inference.
#[derive(Debug, Clone, PartialEq)]
pub struct HintPixels {
    /// `[3, height, width]` in [0, 1].
    pub hint_unit: Vec<f32>,
    /// In pixels, a multiple of 8.
    pub width: u32,
    /// In pixels, a multiple of 8.
    pub height: u32,
}

impl HintPixels {
    /// Stretches an image with Lanczos to `size` (width, height), or to its own size cut to multiples of 8.
    ///
    /// `None` if the image's own size is below 8 px.
    ///
    /// Source: diffusers 0.42.1, `VaeImageProcessor(do_normalize=False)`, for images that have no alpha.
    fn from_rgb(image: &RgbImage, size: Option<(Side, Side)>) -> Option<Self> {
        let (width, height) = match size {
            Some((width, height)) => (width.pixels(), height.pixels()),
            None => (image.width() / 8 * 8, image.height() / 8 * 8),
        };
        if width == 0 || height == 0 {
            return None;
        }
        let hint_unit = rgb_to_unit(&resize(image, width, height, Interpolation::Lanczos));
        Some(Self { hint_unit, width, height })
    }
}

/// Loads a conditioning image for inference, stretched with Lanczos to `size` (width, height), or without one to
/// its own size cut to multiples of 8. Training crops, inference stretches: that is what the reference does.
///
/// # Errors
/// What [`decode_rgb8`] fails with, and [`DataError::HintTooSmall`].
pub fn load_hint_for_inference(path: &Path, size: Option<(Side, Side)>) -> Result<HintPixels, DataError> {
    let image = decode_rgb8(path)?;
    HintPixels::from_rgb(&image, size).ok_or_else(|| DataError::HintTooSmall {
        path: path.to_owned(),
        width: image.width(),
        height: image.height(),
    })
}

/// Loads an inpainting mask, stretched with Lanczos to `size` (width, height): `[height, width]` grey levels in [0, 1].
///
/// # Errors
/// What [`decode_rgb8`] fails with.
///
/// Source: diffusers 0.42.1, `VaeImageProcessor(do_convert_grayscale=True)` before it binarises; Pillow's luma.
pub fn load_mask_for_inference(path: &Path, size: (Side, Side)) -> Result<Vec<f32>, DataError> {
    let (width, height) = (size.0.pixels(), size.1.pixels());
    let image = resize(&decode_rgb8(path)?, width, height, Interpolation::Lanczos);
    Ok(image.pixels().map(|pixel| f32::from(luma(pixel.0)) / 255.0).collect())
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    fn side(value: usize) -> Side {
        Side::try_from(value).unwrap()
    }

    #[test]
    fn geometry_follows_torchvision() {
        #[track_caller]
        fn check(size: (u32, u32), value: usize, resized: (u32, u32), offset: (u32, u32)) {
            let geometry = Geometry::new(size.0, size.1, side(value)).unwrap();
            assert_eq!((geometry.resized, geometry.offset), (resized, offset));
        }
        check((512, 512), 512, (512, 512), (0, 0));
        check((640, 480), 512, (682, 512), (85, 0)); // int(682.67), (682 - 512) / 2
        check((480, 640), 512, (512, 682), (0, 85));
        check((100, 67), 64, (95, 64), (16, 0)); // round(15.5) = 16
        check((97, 64), 64, (97, 64), (16, 0)); // round(16.5) = 16
        check((99, 64), 64, (99, 64), (18, 0)); // round(17.5) = 18
        check((3, 2), 256, (384, 256), (64, 0));
    }

    #[test]
    fn thread_of_an_image_is_refused_instead_of_filling_the_memory() {
        let error = Geometry::new(1, 30_000, side(512)).unwrap_err();
        assert!(matches!(error, DataError::TooElongated { .. }));
    }

    #[test]
    fn side_is_a_positive_multiple_of_eight() {
        #[track_caller]
        fn check(value: usize, hint: &str) {
            assert_eq!(Side::try_from(value).unwrap_err().hint().as_deref(), Some(hint));
        }
        check(0, "use 8");
        check(500, "use 496 or 504");
        check(16_392, "use 16384");
        check(usize::MAX, "use 16384");
        assert_eq!(side(16_384).get(), 16_384);
        assert!(serde_json::from_str::<Side>("12").is_err());
    }

    #[test]
    fn image_is_signed_and_hint_is_unit() {
        let image = RgbImage::from_pixel(8, 8, Rgb([0, 255, 51]));
        let transform = Transform::new(side(8), Interpolation::Bilinear);
        let pixels = transform.apply(&image, &image).unwrap();
        assert_eq!(pixels.image_signed.len(), 3 * 64);
        assert_eq!([0, 64, 128].map(|at| pixels.image_signed[at]), [-1.0, 1.0, -0.6]);
        assert_eq!([0, 64, 128].map(|at| pixels.hint_unit[at]), [0.0, 1.0, 0.2]);
    }

    #[test]
    fn hint_of_another_size_keeps_its_place() {
        // A white square on black, once at full and once at half size: both must cover the same pixels.
        let square = |scale: u32| {
            RgbImage::from_fn(96 / scale, 64 / scale, |x, y| {
                let is_inside = (32..64).contains(&(x * scale)) && (16..48).contains(&(y * scale));
                Rgb([if is_inside { 255 } else { 0 }; 3])
            })
        };
        let transform = Transform::new(side(32), Interpolation::Box);
        let pixels = transform.apply(&square(1), &square(2)).unwrap();
        for (signed, unit) in pixels.image_signed.iter().zip(&pixels.hint_unit) {
            assert!((signed - (unit * 2.0 - 1.0)).abs() < 1e-6);
        }
    }

    #[test]
    fn hint_of_another_shape_is_refused_with_both_sizes() {
        let transform = Transform::new(side(8), Interpolation::Bilinear);
        let error = transform.apply(&RgbImage::new(100, 80), &RgbImage::new(80, 100)).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("100x80") && message.contains("80x100"), "{message}");
        assert!(transform.apply(&RgbImage::new(1000, 800), &RgbImage::new(500, 401)).is_ok());
    }

    #[test]
    fn hint_for_inference_is_cut_to_multiples_of_eight_or_stretched() {
        let image = RgbImage::new(37, 21);
        let own = HintPixels::from_rgb(&image, None).unwrap();
        assert_eq!((own.width, own.height, own.hint_unit.len()), (32, 16, 3 * 32 * 16));
        let given = HintPixels::from_rgb(&image, Some((side(8), side(24)))).unwrap();
        assert_eq!((given.width, given.height), (8, 24));
        assert!(HintPixels::from_rgb(&RgbImage::new(7, 100), None).is_none());
    }
}
