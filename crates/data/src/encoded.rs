//! Samples whose target images need not be decoded, because what is encoded from them is in a cache.

use std::sync::Arc;

use image::RgbImage;

use crate::cache::{Blob, Cache, CacheKey};
use crate::decode::EncodedPicture;
use crate::error::DataError;
use crate::geometry::{Crop, Geometry};
use crate::picture::{rgb_to_signed, rgb_to_unit};
use crate::source::Sample;
use crate::transform::{Transform, Turn, Turned};

/// Where that which one encoder makes of target images is kept.
#[derive(Debug, Clone)]
pub struct EncodedImages {
    cache: Arc<Cache>,
    encoder: [u8; 32],
}

/// A sample for training.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadedSample {
    /// The target image.
    pub target: Target,
    /// The conditioning image in [0, 1], or -1 where it is to be painted; `[3, height, width]`.
    pub hint_unit: Vec<f32>,
    /// How both came to their size.
    pub geometry: Geometry,
}

/// A target image, or what was encoded from it.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// To be encoded.
    Pixels {
        /// In [-1, 1], `[3, height, width]`.
        image_signed: Vec<f32>,
        /// What to keep the result under, if there is a cache.
        key: Option<CacheKey>,
    },
    /// Found in the cache; the image was not decoded.
    Encoded(Arc<Blob>),
}

impl EncodedImages {
    /// `encoder` is a hash of everything that decides what the encoder makes of pixels.
    #[must_use]
    pub fn new(cache: Arc<Cache>, encoder: [u8; 32]) -> Self {
        Self { cache, encoder }
    }

    /// The key of an image: its file's bytes, what makes pixels of them, and the encoder.
    /// `None` if it is cut somewhere that is drawn: the same crop hardly ever comes again.
    fn key(&self, image: &EncodedPicture<'_>, turned: Turned<'_>) -> Option<CacheKey> {
        let Transform { side, buckets, interpolation, crop, flip: _, hint: _ } = *turned.transform;
        let (side, interpolation) = (side.get(), interpolation.name());
        let mut transform = match crop {
            Crop::Center => format!("resize and centre crop, {side} px, {interpolation}"),
            Crop::Random => return None,
        };
        if let Some(step) = buckets {
            transform += &format!(", buckets of {} px", step.get());
        }
        if turned.is_mirrored() {
            transform += ", mirrored";
        }
        Some(CacheKey::new("image", &[image.bytes(), transform.as_bytes(), &self.encoder]))
    }
}

impl Transform {
    /// As [`Self::load`], but a target image whose encoding is in the cache is not decoded.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_unless_encoded(
        &self,
        sample: &Sample,
        encoded: Option<&EncodedImages>,
        turn: Turn,
    ) -> Result<LoadedSample, DataError> {
        self.target_and_hint(sample, encoded, turn)
            .map_err(|error| DataError::Row { at: sample.origin.clone(), source: Box::new(error) })
    }

    fn target_and_hint(
        &self,
        sample: &Sample,
        encoded: Option<&EncodedImages>,
        turn: Turn,
    ) -> Result<LoadedSample, DataError> {
        let turned = Turned { transform: self, id: &sample.id, turn };
        let file = EncodedPicture::read(&sample.image)?;
        let key = encoded.and_then(|encoded| encoded.key(&file, turned));
        let known = encoded.zip(key).and_then(|(encoded, key)| encoded.cache.get(&key));
        let pixels = |image: &RgbImage| Target::Pixels { image_signed: rgb_to_signed(image), key };
        if let Some(maker) = self.hint {
            let image = file.decode()?;
            let geometry = turned.geometry_of(image.dimensions())?;
            let image = self.framed(geometry, &image);
            let target = known.map_or_else(|| pixels(&image), Target::Encoded);
            return Ok(LoadedSample { target, hint_unit: turned.made_hint(maker, &image), geometry });
        }
        let (target, hint, geometry) = if let Some(blob) = known {
            let hint = sample.hint.decode_rgb8()?;
            let geometry = turned.geometry(file.dimensions()?, hint.dimensions())?;
            (Target::Encoded(blob), hint, geometry)
        } else {
            let image = file.decode()?;
            let hint = sample.hint.decode_rgb8()?;
            let geometry = turned.geometry(image.dimensions(), hint.dimensions())?;
            (pixels(&self.framed(geometry, &image)), hint, geometry)
        };
        Ok(LoadedSample { target, hint_unit: rgb_to_unit(&self.framed(geometry, &hint)), geometry })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::num::NonZeroUsize;

    use image::RgbImage;
    use tempfile::TempDir;

    use super::*;
    use crate::circles::{Circles, generate_circles};
    use crate::colors::Palette;
    use crate::content::Content;
    use crate::geometry::{Flip, Side};
    use crate::hints::HintMaker;
    use crate::resize::Interpolation;
    use crate::source::{Columns, Dataset};

    const ENCODER: [u8; 32] = [7; 32];
    const TURN: Turn = Turn { seed: 0, epoch: 0 };

    fn samples() -> (TempDir, Vec<Sample>) {
        let dir = tempfile::tempdir().unwrap();
        let (count, side) = (NonZeroUsize::new(2).unwrap(), Side::try_from(24).unwrap());
        generate_circles(&Circles { count, side, palette: Palette::Css, seed: 0 }, &dir.path().join("data"))
            .unwrap();
        let dataset = Dataset::open(&dir.path().join("data"), &Columns::default()).unwrap();
        (dir, dataset.samples().to_vec())
    }

    fn transform(side: usize, interpolation: Interpolation) -> Transform {
        Transform::new(Side::try_from(side).unwrap(), interpolation)
    }

    /// Keeps an encoding of a sample's image.
    fn keep(encoded: &EncodedImages, transform: Transform, sample: &Sample) -> Arc<Blob> {
        let loaded = transform.load_unless_encoded(sample, Some(encoded), TURN).unwrap();
        let Target::Pixels { key: Some(key), image_signed } = loaded.target else { panic!("it is there") };
        encoded.cache.get_or_compute(key, || Blob::new(vec![1], vec![image_signed.iter().sum()]))
    }

    #[test]
    fn only_the_same_bytes_transform_and_encoder_find_an_encoding() {
        let (_dir, samples) = samples();
        let encoded = EncodedImages::new(Arc::new(Cache::new(1 << 20, None)), ENCODER);
        let usual = transform(16, Interpolation::Bilinear);
        let blob = keep(&encoded, usual, &samples[0]);
        let find = |transform: Transform, encoded: &EncodedImages, sample| match transform
            .load_unless_encoded(sample, Some(encoded), TURN)
            .unwrap()
            .target
        {
            Target::Encoded(found) => Some(found),
            Target::Pixels { .. } => None,
        };
        assert_eq!(find(usual, &encoded, &samples[0]), Some(Arc::clone(&blob)));
        assert_eq!(find(usual, &encoded, &samples[1]), None, "another image");
        assert_eq!(find(transform(8, Interpolation::Bilinear), &encoded, &samples[0]), None, "another side");
        assert_eq!(find(transform(16, Interpolation::Box), &encoded, &samples[0]), None, "another filter");
        let other_encoder = EncodedImages { encoder: [8; 32], ..encoded.clone() };
        assert_eq!(find(usual, &other_encoder, &samples[0]), None, "another encoder");

        let file = |sample: &Sample| sample.image.file().unwrap().to_owned();
        fs::copy(file(&samples[0]), file(&samples[1])).unwrap();
        assert_eq!(find(usual, &encoded, &samples[1]), Some(blob), "the same image under another name");
        let other = RgbImage::from_pixel(24, 24, image::Rgb([9, 9, 9]));
        other.save(file(&samples[0])).unwrap();
        assert_eq!(find(usual, &encoded, &samples[0]), None, "another image under the same name");
    }

    #[test]
    fn both_mirrors_of_an_image_are_kept_and_no_crop_that_is_drawn() {
        let (_dir, samples) = samples();
        let sample = &samples[0];
        let encoded = EncodedImages::new(Arc::new(Cache::new(1 << 20, None)), ENCODER);
        let flipping = Transform { flip: Flip::Random, ..transform(16, Interpolation::Bilinear) };
        let load = |transform: &Transform, epoch| {
            transform.load_unless_encoded(sample, Some(&encoded), Turn { seed: 0, epoch }).unwrap()
        };
        let mut keys = Vec::new();
        for epoch in 0..20 {
            let loaded = load(&flipping, epoch);
            let Target::Pixels { key: Some(key), image_signed } = loaded.target else { continue };
            encoded.cache.get_or_compute(key, || Blob::new(vec![1], vec![image_signed[0]]));
            keys.push((loaded.geometry.is_mirrored, key));
        }
        assert_eq!(keys.len(), 2);
        assert!(keys[0].0 != keys[1].0 && keys[0].1 != keys[1].1);
        let usual = load(&flipping.undrawn(), 0);
        assert!(
            matches!(usual.target, Target::Encoded(_)),
            "without mirrors it is the one that was not mirrored"
        );
        let cutting = Transform { crop: Crop::Random, ..flipping };
        assert!(matches!(load(&cutting, 0).target, Target::Pixels { key: None, .. }));
        let bucketed = Transform { buckets: Some(Side::try_from(8).unwrap()), ..flipping.undrawn() };
        assert!(matches!(load(&bucketed, 0).target, Target::Pixels { key: Some(_), .. }));
    }

    #[test]
    fn a_hint_that_is_made_is_made_of_the_cut_image_and_is_the_same_with_and_without_an_encoding() {
        let (_dir, samples) = samples();
        // Not square, so that it is cut; the file of the hint is not looked at.
        let wide =
            RgbImage::from_fn(40, 24, |x, y| image::Rgb([x * 6, y * 9, 0].map(|v| v.to_le_bytes()[0])));
        wide.save(samples[0].image.file().unwrap()).unwrap();
        fs::remove_file(samples[0].hint.file().unwrap()).unwrap();
        for maker in ["grey", "inpaint", "tile:2..8"] {
            let encoded = EncodedImages::new(Arc::new(Cache::new(1 << 20, None)), ENCODER);
            let maker: HintMaker = maker.parse().unwrap();
            let transform = Transform { hint: Some(maker), ..transform(16, Interpolation::Bilinear) };
            let turned = Turned { transform: &transform, id: &samples[0].id, turn: TURN };
            let geometry = turned.geometry_of((40, 24)).unwrap();
            let cut = transform.framed(geometry, &wide);
            let expected = turned.made_hint(maker, &cut);
            assert_eq!(transform.load(&samples[0], TURN).unwrap().hint_unit, expected);
            let load = || transform.load_unless_encoded(&samples[0], Some(&encoded), TURN).unwrap();
            assert_eq!(load().hint_unit, expected);
            keep(&encoded, transform, &samples[0]);
            let loaded = load();
            assert!(matches!(loaded.target, Target::Encoded(_)));
            assert_eq!((loaded.hint_unit, loaded.geometry), (expected, geometry));
        }
    }

    #[test]
    fn the_hint_and_the_errors_are_the_same_with_and_without_an_encoding() {
        let (_dir, samples) = samples();
        let sample = &samples[0];
        let encoded = EncodedImages::new(Arc::new(Cache::new(1 << 20, None)), ENCODER);
        let transform = transform(16, Interpolation::Bilinear);
        // Not square, so that the crop depends on the image's size.
        let wide = |content: &Content| {
            RgbImage::from_fn(40, 24, |x, y| {
                image::Rgb([x, y, 0].map(|level| u8::try_from(level * 6).unwrap()))
            })
            .save(content.file().unwrap())
        };
        wide(&sample.image).unwrap();
        wide(&sample.hint).unwrap();
        let pixels = transform.load(sample, TURN).unwrap();
        let loaded = transform.load_unless_encoded(sample, Some(&encoded), TURN).unwrap();
        let Target::Pixels { image_signed, .. } = loaded.target else { panic!("nothing is kept yet") };
        assert_eq!((image_signed, loaded.hint_unit), (pixels.image_signed, pixels.hint_unit.clone()));
        keep(&encoded, transform, sample);
        let loaded = transform.load_unless_encoded(sample, Some(&encoded), TURN).unwrap();
        assert!(matches!(loaded.target, Target::Encoded(_)));
        assert_eq!(loaded.hint_unit, pixels.hint_unit);

        RgbImage::new(24, 24).save(sample.hint.file().unwrap()).unwrap();
        let message = |error: DataError| format!("{error:?}");
        assert_eq!(
            message(transform.load_unless_encoded(sample, Some(&encoded), TURN).unwrap_err()),
            message(transform.load(sample, TURN).unwrap_err()),
        );
    }
}
