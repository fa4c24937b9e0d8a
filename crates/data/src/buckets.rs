//! Sizes of about one area for images of any shape.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::content::Content;
use crate::decode::EncodedPicture;
use crate::error::DataError;
use crate::geometry::{Side, Size};
use crate::source::Sample;
use crate::transform::Transform;

/// Most headers are in so many bytes, with a preview in between.
const HEADER_BYTES: u64 = 64 << 10;

/// A bucket is at least half and at most twice as wide and high as the square. At 512 px these are the 256 and 1,024 px of
/// kohya's scripts.
const STRETCH: usize = 2;

/// Aspect buckets: each image gets the size, of at most as many pixels as the square, whose shape is nearest to its own.
///
/// Source: kohya-ss/sd-scripts, `model_util.make_bucket_resolutions`, after NovelAI's aspect ratio bucketing. The nearest
/// shape is that of the nearest logarithm, so that wide and high images are treated alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buckets {
    sizes: Vec<Size>,
}

impl Buckets {
    /// The buckets for a resolution, with sides that are multiples of `step` (`--bucket_reso_steps`).
    #[must_use]
    pub fn new(resolution: Side, step: Side) -> Self {
        let (area, step) = (resolution.get().pow(2), step.get());
        let (min, max) = (resolution.get() / STRETCH, resolution.get() * STRETCH);
        let size = |width: usize, height: usize| {
            Some(Size { width: Side::try_from(width).ok()?, height: Side::try_from(height).ok()? })
        };
        let mut sizes: Vec<Size> = (min.div_ceil(step)..=max / step)
            .map(|n_steps| n_steps * step)
            .filter(|width| *width > 0)
            .map(|width| (width, (area / width).min(max) / step * step))
            .filter(|(_, height)| *height >= min)
            .flat_map(|(width, height)| [size(width, height), size(height, width)])
            .flatten()
            .collect();
        if sizes.is_empty() {
            sizes.push(Size::square(resolution));
        }
        sizes.sort_unstable();
        sizes.dedup();
        Self { sizes }
    }

    /// Kohya's 64 px, which are clean for a UNet of three levels; less for small images, which would have few buckets.
    #[must_use]
    pub fn usual_step(resolution: Side) -> Side {
        let step = (resolution.get() / 8 / 8 * 8).clamp(8, 64);
        Side::try_from(step).expect("a multiple of 8 from 8 to 64")
    }

    /// The sizes, by width.
    #[must_use]
    pub fn sizes(&self) -> &[Size] {
        &self.sizes
    }

    /// The size for an image of this width and height.
    #[must_use]
    pub fn nearest(&self, (width, height): (u32, u32)) -> Size {
        let shape = |width: f64, height: f64| (width.max(1.0) / height.max(1.0)).ln();
        let wanted = shape(width.into(), height.into());
        let off =
            |size: &Size| (shape(size.width.pixels().into(), size.height.pixels().into()) - wanted).abs();
        let nearest = self.sizes.iter().min_by(|left, right| off(left).total_cmp(&off(right)));
        *nearest.expect("there is always a bucket")
    }
}

/// The bucket of each sample by number, if the transform has buckets: samples of equal numbers get equal sizes. Only the headers
/// of images are read. Those that cannot be read have a bucket of their own, since their turn tells what is wrong.
#[must_use]
pub fn bucket_of_each(samples: &[Sample], transform: &Transform) -> Option<Arc<[usize]>> {
    let buckets = Buckets::new(transform.side, transform.buckets?);
    let bucket = |sample: &Sample| {
        let size = dimensions(&sample.image).ok().map(|image| buckets.nearest(image));
        let found = buckets.sizes.iter().position(|bucket| Some(*bucket) == size);
        found.unwrap_or(buckets.sizes.len())
    };
    Some(samples.par_iter().map(bucket).collect::<Vec<_>>().into())
}

/// Width and height of a picture, from no more of it than is needed.
pub(crate) fn dimensions(content: &Content) -> Result<(u32, u32), DataError> {
    let beginning = content.file().and_then(|path| {
        // Opening a pipe would block for ever.
        let path = path.metadata().ok()?.is_file().then_some(path)?;
        let mut bytes = Vec::new();
        File::open(path).ok()?.take(HEADER_BYTES).read_to_end(&mut bytes).ok()?;
        Some(Content::Bytes { name: content.to_string().into(), bytes: bytes.into() })
    });
    let of = |content: &Content| EncodedPicture::read(content)?.dimensions();
    beginning.and_then(|beginning| of(&beginning).ok()).map_or_else(|| of(content), Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(resolution: usize, step: usize) -> Buckets {
        Buckets::new(Side::try_from(resolution).unwrap(), Side::try_from(step).unwrap())
    }

    fn told(sizes: &[Size]) -> Vec<String> {
        sizes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn buckets_are_those_of_kohyas_scripts() {
        // `make_bucket_resolutions((512, 512), 256, 1024, 64)`.
        let expected = [
            "256x1024", "320x768", "384x640", "448x576", "512x512", "576x448", "640x384", "768x320",
            "832x256", "896x256", "960x256", "1024x256",
        ];
        let found = told(buckets(512, 64).sizes());
        for size in expected {
            assert!(found.contains(&size.to_owned()), "{size} of {found:?}");
        }
    }

    #[test]
    fn no_bucket_has_more_pixels_than_the_square_or_another_step() {
        for (resolution, step) in [(512, 64), (1024, 64), (128, 16), (64, 8), (32, 8), (8, 8), (768, 8)] {
            let buckets = buckets(resolution, step);
            for size in buckets.sizes() {
                assert!(size.n_pixels() <= resolution * resolution, "{size} at {resolution}");
                assert!(
                    size.width.get() % step == 0 && size.height.get() % step == 0,
                    "{size} at {resolution}"
                );
                let turned = Size { width: size.height, height: size.width };
                assert!(buckets.sizes().contains(&turned), "{size} at {resolution}");
            }
        }
        assert_eq!(Buckets::usual_step(Side::try_from(1024).unwrap()).get(), 64);
        assert_eq!(Buckets::usual_step(Side::try_from(128).unwrap()).get(), 16);
        assert_eq!(Buckets::usual_step(Side::try_from(8).unwrap()).get(), 8);
    }

    #[test]
    fn an_image_gets_the_bucket_of_the_nearest_shape() {
        let buckets = buckets(512, 64);
        let nearest = |width, height| buckets.nearest((width, height)).to_string();
        assert_eq!(nearest(2000, 2000), "512x512");
        assert_eq!(nearest(30, 20), "640x384");
        assert_eq!(nearest(20, 30), "384x640");
        assert_eq!(nearest(9000, 10), "1024x256");
    }
}
