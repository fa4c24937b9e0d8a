//! From an image and its hint to numbers: one geometry for both, drawn by seed, epoch and sample.

use std::path::Path;

use image::RgbImage;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::buckets::Buckets;
use crate::decode::decode_rgb8;
use crate::error::DataError;
use crate::geometry::{Crop, Flip, Geometry, Side, Size};
use crate::hints::HintMaker;
use crate::picture::{luma, rgb_to_signed, rgb_to_unit};
use crate::random::{self, Purpose};
use crate::resize::{Interpolation, resize};
use crate::source::Sample;

/// A hint may differ from its image by this much in aspect ratio: the rounding of a resize, no more.
const MAX_ASPECT_DIFFERENCE: f64 = 0.01;

/// From a pair of files, or from a file alone, to the numbers that the networks take.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Transform {
    /// Width and height of the result (`resolution`), or the square of about the area of each [bucket](Buckets).
    pub side: Side,
    /// The step of aspect buckets, if there are any.
    pub buckets: Option<Side>,
    /// The filter of the resize.
    pub interpolation: Interpolation,
    /// Where both are cut.
    pub crop: Crop,
    /// Whether both are mirrored.
    pub flip: Flip,
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

/// What is done to the image and the hint of a sample at one turn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turned<'a> {
    pub(crate) transform: &'a Transform,
    pub(crate) id: &'a str,
    pub(crate) turn: Turn,
}

/// The pixels of a sample, each `[3, height, width]`.
#[derive(Debug, Clone, PartialEq)]
pub struct PixelSample {
    /// The target image in [-1, 1].
    pub image_signed: Vec<f32>,
    /// The conditioning image in [0, 1]; -1 where it is to be painted.
    pub hint_unit: Vec<f32>,
    /// How both came to their size.
    pub geometry: Geometry,
}

impl Transform {
    /// Reads the hint, resizes both to `side` and cuts them in the middle.
    #[must_use]
    pub fn new(side: Side, interpolation: Interpolation) -> Self {
        Self { side, buckets: None, interpolation, crop: Crop::Center, flip: Flip::Never, hint: None }
    }

    /// The same without what is drawn of the geometry, and square: what samples are compared by.
    #[must_use]
    pub fn square(self) -> Self {
        Self { buckets: None, ..self.undrawn() }
    }

    /// The same without what is drawn of the geometry.
    #[must_use]
    pub fn undrawn(self) -> Self {
        Self { crop: Crop::Center, flip: Flip::Never, ..self }
    }

    /// Whether an image comes out the same in each epoch.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        (self.crop, self.flip) == (Crop::Center, Flip::Never)
    }

    /// The size for an image of this width and height.
    #[must_use]
    pub fn size_for(&self, image: (u32, u32)) -> Size {
        match self.buckets {
            Some(step) => Buckets::new(self.side, step).nearest(image),
            None => Size::square(self.side),
        }
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
        let turned = Turned { transform: self, id: &sample.id, turn };
        match self.hint {
            Some(maker) => {
                let geometry = turned.geometry_of(image.dimensions())?;
                let image = self.framed(geometry, &image);
                let hint_unit = turned.made_hint(maker, &image);
                Ok(PixelSample { image_signed: rgb_to_signed(&image), hint_unit, geometry })
            }
            None => self.apply(&image, &sample.hint.decode_rgb8()?, &sample.id, turn),
        }
    }

    /// Gives both images the geometry of the first at a turn. A hint of another size is resized straight to where its
    /// image goes.
    ///
    /// # Errors
    /// [`DataError::AspectMismatch`] if the two have different shapes, [`DataError::TooElongated`].
    pub fn apply(
        &self,
        image: &RgbImage,
        hint: &RgbImage,
        id: &str,
        turn: Turn,
    ) -> Result<PixelSample, DataError> {
        let turned = Turned { transform: self, id, turn };
        let geometry = turned.geometry(image.dimensions(), hint.dimensions())?;
        Ok(PixelSample {
            image_signed: rgb_to_signed(&self.framed(geometry, image)),
            hint_unit: rgb_to_unit(&self.framed(geometry, hint)),
            geometry,
        })
    }

    pub(crate) fn framed(&self, geometry: Geometry, image: &RgbImage) -> RgbImage {
        geometry.apply(image, self.interpolation)
    }
}

impl Turned<'_> {
    fn rng(&self, purpose: Purpose) -> ChaCha8Rng {
        random::rng(self.turn.seed, self.turn.epoch, self.id, purpose)
    }

    /// Drawn first, so that it is known before the image's size is.
    pub(crate) fn is_mirrored(&self) -> bool {
        self.transform.flip.draw(&mut self.rng(Purpose::Geometry))
    }

    /// The geometry of an image and its hint, from their widths and heights.
    pub(crate) fn geometry(&self, image: (u32, u32), hint: (u32, u32)) -> Result<Geometry, DataError> {
        if !have_one_shape(image, hint) {
            return Err(DataError::AspectMismatch { image, hint });
        }
        self.geometry_of(image)
    }

    /// The geometry of an image alone.
    pub(crate) fn geometry_of(&self, image: (u32, u32)) -> Result<Geometry, DataError> {
        let centered = Geometry::new(image.0, image.1, self.transform.size_for(image))?;
        let mut rng = self.rng(Purpose::Geometry);
        let is_mirrored = self.transform.flip.draw(&mut rng);
        let cut = match self.transform.crop {
            Crop::Center => centered,
            Crop::Random => centered.cut_anywhere(&mut rng),
        };
        Ok(Geometry { is_mirrored, ..cut })
    }

    /// The hint of an image that has its size.
    pub(crate) fn made_hint(&self, maker: HintMaker, image: &RgbImage) -> Vec<f32> {
        maker.make(image, &mut self.rng(Purpose::Hint)).to_unit()
    }
}

/// Whether two sizes have one shape but for the rounding of a resize.
pub(crate) fn have_one_shape(image: (u32, u32), hint: (u32, u32)) -> bool {
    let aspect = |(width, height): (u32, u32)| f64::from(width) / f64::from(height);
    (aspect(image) / aspect(hint) - 1.0).abs() <= MAX_ASPECT_DIFFERENCE
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

    const TURN: Turn = Turn { seed: 0, epoch: 0 };

    fn side(value: usize) -> Side {
        Side::try_from(value).unwrap()
    }

    #[test]
    fn image_is_signed_and_hint_is_unit() {
        let image = RgbImage::from_pixel(8, 8, Rgb([0, 255, 51]));
        let transform = Transform::new(side(8), Interpolation::Bilinear);
        let pixels = transform.apply(&image, &image, "a", TURN).unwrap();
        assert_eq!(pixels.image_signed.len(), 3 * 64);
        assert_eq!([0, 64, 128].map(|at| pixels.image_signed[at]), [-1.0, 1.0, -0.6]);
        assert_eq!([0, 64, 128].map(|at| pixels.hint_unit[at]), [0.0, 1.0, 0.2]);
    }

    /// Every crop, mirror and set of sizes.
    fn transforms() -> Vec<Transform> {
        let mut all = Vec::new();
        for interpolation in Interpolation::ALL {
            for crop in [Crop::Center, Crop::Random] {
                for flip in [Flip::Never, Flip::Random] {
                    for buckets in [None, Some(side(8))] {
                        all.push(Transform {
                            crop,
                            flip,
                            buckets,
                            ..Transform::new(side(32), interpolation)
                        });
                    }
                }
            }
        }
        all
    }

    #[test]
    fn a_pixelwise_hint_of_a_transformed_image_is_the_transformed_hint() {
        // Exchanged channels: pixelwise, and untouched by any rounding.
        let exchanged = |image: &RgbImage| {
            let mut hint = image.clone();
            hint.pixels_mut().for_each(|pixel| pixel.0.rotate_left(1));
            hint
        };
        for (width, height) in [(61, 40), (40, 61), (32, 32), (200, 33)] {
            let image = RgbImage::from_fn(width, height, |x, y| {
                Rgb([x * 7, y * 5, x * y].map(|v| v.to_le_bytes()[0]))
            });
            for transform in transforms() {
                for epoch in 0..8 {
                    let pixels =
                        transform.apply(&image, &exchanged(&image), "a", Turn { seed: 5, epoch }).unwrap();
                    let framed = transform.framed(pixels.geometry, &image);
                    assert_eq!(pixels.image_signed, rgb_to_signed(&framed), "{transform:?}");
                    assert_eq!(pixels.hint_unit, rgb_to_unit(&exchanged(&framed)), "{transform:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_drawn_of_a_geometry_depends_on_seed_epoch_and_sample() {
        let transform = Transform {
            crop: Crop::Random,
            flip: Flip::Random,
            ..Transform::new(side(16), Interpolation::Box)
        };
        let geometry = |seed, epoch, id| {
            Turned { transform: &transform, id, turn: Turn { seed, epoch } }.geometry_of((200, 40)).unwrap()
        };
        let usual = geometry(1, 1, "a");
        assert_eq!(usual, geometry(1, 1, "a"));
        assert_eq!(
            usual.is_mirrored,
            Turned { transform: &transform, id: "a", turn: Turn { seed: 1, epoch: 1 } }.is_mirrored()
        );
        let others = [geometry(2, 1, "a"), geometry(1, 2, "a"), geometry(1, 1, "b")];
        assert!(others.iter().all(|other| other.offset != usual.offset), "{others:?}");
        let fixed = Turned { transform: &transform.undrawn(), id: "a", turn: Turn { seed: 1, epoch: 1 } };
        assert_eq!(
            fixed.geometry_of((200, 40)).unwrap(),
            Geometry::new(200, 40, Size::square(side(16))).unwrap()
        );
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
        let pixels = transform.apply(&square(1), &square(2), "a", TURN).unwrap();
        for (signed, unit) in pixels.image_signed.iter().zip(&pixels.hint_unit) {
            assert!((signed - (unit * 2.0 - 1.0)).abs() < 1e-6);
        }
    }

    #[test]
    fn hint_of_another_shape_is_refused_with_both_sizes() {
        let transform = Transform::new(side(8), Interpolation::Bilinear);
        let error = transform.apply(&RgbImage::new(100, 80), &RgbImage::new(80, 100), "a", TURN).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("100x80") && message.contains("80x100"), "{message}");
        assert!(transform.apply(&RgbImage::new(1000, 800), &RgbImage::new(500, 401), "a", TURN).is_ok());
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
