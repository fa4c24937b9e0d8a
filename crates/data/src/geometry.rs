//! One geometry for a target image and its hint: resize, crop, mirror.

use image::RgbImage;
use image::imageops::flip_horizontal_in_place;
use rand_chacha::rand_core::Rng;
use serde::{Deserialize, Serialize};

use crate::decode::MAX_IMAGE_SIDE;
use crate::error::DataError;
use crate::random;
use crate::resize::{Interpolation, Window, resize_and_crop};

/// The largest [`Side`].
const MAX_SIDE: usize = 16_384;

/// Width or height of a training image in pixels: a positive multiple of 8, because the VAE and the hint embedding
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

/// Width and height of a training image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size {
    /// In pixels.
    pub width: Side,
    /// In pixels.
    pub height: Side,
}

impl Size {
    /// As wide as high.
    #[must_use]
    pub fn square(side: Side) -> Self {
        Self { width: side, height: side }
    }

    /// Their product.
    #[must_use]
    pub fn n_pixels(self) -> usize {
        self.width.get() * self.height.get()
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.width.get(), self.height.get())
    }
}

/// Where an image is cut once it is resized.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Crop {
    /// In the middle.
    #[default]
    Center,
    /// Anywhere, drawn anew in each epoch.
    Random,
}

/// Whether an image is mirrored, left to right.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flip {
    /// Never.
    #[default]
    Never,
    /// Half of the time, drawn anew in each epoch.
    Random,
}

impl Flip {
    pub(crate) fn draw(self, rng: &mut impl Rng) -> bool {
        self == Self::Random && random::unit(rng) < 0.5
    }
}

/// A resize that covers the frame, a crop and perhaps a mirror: what is done to a target image and, equally, to its hint.
///
/// Source: torchvision `Resize(side)` and `CenterCrop(side)`, as in diffusers' `train_controlnet.py`. There the
/// two images are cut independently; here the geometry comes from the target image alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Width and height before.
    pub original: (u32, u32),
    /// Width and height after the resize.
    pub resized: (u32, u32),
    /// Left and top of the crop in the resized image, before it is mirrored.
    pub offset: (u32, u32),
    /// Width and height of the crop.
    pub size: Size,
    /// Whether what is cut out is mirrored, left to right.
    pub is_mirrored: bool,
}

impl Geometry {
    /// The geometry of an image of `width` x `height` px: cut in the middle and not mirrored.
    ///
    /// # Errors
    /// [`DataError::TooElongated`] if the longer side would exceed 32,768 px.
    pub fn new(width: u32, height: u32, size: Size) -> Result<Self, DataError> {
        let frame = (size.width.pixels(), size.height.pixels());
        let scaled = |length: u32, to: u32, from: u32| {
            // Rounded down, as torchvision does.
            let scaled = u64::from(length) * u64::from(to) / u64::from(from.max(1));
            u32::try_from(scaled).ok().filter(|length| *length <= MAX_IMAGE_SIDE).ok_or(
                DataError::TooElongated { width, height, side: size.width.get().max(size.height.get()) },
            )
        };
        let is_narrow = u64::from(width) * u64::from(frame.1) <= u64::from(height) * u64::from(frame.0);
        let resized = if is_narrow {
            (frame.0, scaled(height, frame.0, width)?.max(frame.1))
        } else {
            (scaled(width, frame.1, height)?.max(frame.0), frame.1)
        };
        let offset = (half_to_even(resized.0 - frame.0), half_to_even(resized.1 - frame.1));
        Ok(Self { original: (width, height), resized, offset, size, is_mirrored: false })
    }

    /// The same, cut somewhere that is drawn.
    #[must_use]
    pub fn cut_anywhere(self, rng: &mut impl Rng) -> Self {
        let mut draw = |length: u32, frame: u32| {
            let n_places = (length - frame) as usize + 1;
            u32::try_from(random::below(rng, n_places)).expect("below a length of an image")
        };
        let left = draw(self.resized.0, self.size.width.pixels());
        Self { offset: (left, draw(self.resized.1, self.size.height.pixels())), ..self }
    }

    /// Resizes, crops and mirrors; the image may have any size of about the same shape.
    #[must_use]
    pub fn apply(&self, image: &RgbImage, interpolation: Interpolation) -> RgbImage {
        let (left, top) = self.offset;
        let (width, height) = (self.size.width.pixels(), self.size.height.pixels());
        let window = Window { left, top, width, height };
        let mut image = resize_and_crop(image, self.resized, window, interpolation);
        if self.is_mirrored {
            flip_horizontal_in_place(&mut image);
        }
        image
    }

    /// Left and top of the crop in the resized image as it is seen: mirrored if what is cut out is.
    #[must_use]
    pub fn visible_offset(&self) -> (u32, u32) {
        let (left, top) = self.offset;
        let from_right = self.resized.0 - self.size.width.pixels() - left;
        (if self.is_mirrored { from_right } else { left }, top)
    }
}

/// `length / 2`, halves rounded to even: Python's `round`.
fn half_to_even(length: u32) -> u32 {
    let half = length / 2;
    if length % 2 == 1 && half % 2 == 1 { half + 1 } else { half }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;

    fn side(value: usize) -> Side {
        Side::try_from(value).unwrap()
    }

    fn size(width: usize, height: usize) -> Size {
        Size { width: side(width), height: side(height) }
    }

    #[test]
    fn geometry_of_a_square_follows_torchvision() {
        #[track_caller]
        fn check(original: (u32, u32), value: usize, resized: (u32, u32), offset: (u32, u32)) {
            let geometry = Geometry::new(original.0, original.1, size(value, value)).unwrap();
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
    fn an_oblong_frame_is_covered_and_no_more() {
        #[track_caller]
        fn check(original: (u32, u32), frame: (usize, usize), resized: (u32, u32), offset: (u32, u32)) {
            let geometry = Geometry::new(original.0, original.1, size(frame.0, frame.1)).unwrap();
            assert_eq!((geometry.resized, geometry.offset), (resized, offset));
        }
        check((768, 512), (768, 512), (768, 512), (0, 0));
        check((1000, 1000), (768, 512), (768, 768), (0, 128));
        check((300, 100), (768, 512), (1536, 512), (384, 0));
        check((767, 511), (768, 512), (768, 512), (0, 0));
    }

    #[test]
    fn thread_of_an_image_is_refused_instead_of_filling_the_memory() {
        let error = Geometry::new(1, 30_000, size(512, 512)).unwrap_err();
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
    fn crops_are_drawn_from_all_places_and_mirrors_half_of_the_time() {
        let centered = Geometry::new(40, 16, size(32, 16)).unwrap();
        let mut counts = [0; 9];
        let mut n_mirrored = 0;
        for step in 0..900 {
            let mut rng = random::rng(0, step, "a", Purpose::Geometry);
            n_mirrored += u32::from(Flip::Random.draw(&mut rng));
            let drawn = centered.cut_anywhere(&mut rng);
            assert_eq!(drawn.offset.1, 0);
            counts[drawn.offset.0 as usize] += 1;
        }
        assert!(counts.iter().all(|count| (60..140).contains(count)), "{counts:?}");
        assert!((400..500).contains(&n_mirrored), "{n_mirrored}");
        assert!(!Flip::Never.draw(&mut random::rng(0, 0, "a", Purpose::Geometry)));
    }

    #[test]
    fn a_mirrored_crop_is_told_from_the_other_side() {
        let geometry = Geometry { offset: (3, 2), ..Geometry::new(64, 40, size(32, 32)).unwrap() };
        assert_eq!((geometry.resized, geometry.visible_offset()), ((51, 32), (3, 2)));
        assert_eq!(Geometry { is_mirrored: true, ..geometry }.visible_offset(), (16, 2));
    }
}
