//! Hints made from pictures: edges, scribbles, coarse copies and masks, without a file of their own.
//!
//! What needs a learned network (depth, poses, segmentation, HED's soft edges) is not made here: it comes as files.

mod canny;
mod coarse;
mod files;
mod lines;
mod maker;
mod mask;
mod span;

use image::{Rgb, RgbImage};

use crate::picture::rgb_to_unit;

pub use canny::{CannyThresholds, canny};
pub use files::{HintFolder, make_hint_file, make_hint_folder};
pub use maker::HintMaker;
pub use mask::MaskKind;
pub use span::Span;

/// What a network takes for a pixel that is to be painted: [`HintMaker::Inpaint`].
///
/// Source: diffusers 0.42.1, `make_inpaint_condition` of the ControlNet guide: "set as masked pixel".
const MASKED: f32 = -1.0;

/// A hint that was made.
#[derive(Debug, Clone, PartialEq)]
pub struct MadeHint {
    picture: RgbImage,
    /// Of an inpainting hint, row by row: whether the pixel is to be painted.
    masked: Option<Vec<bool>>,
}

impl MadeHint {
    fn of(picture: RgbImage) -> Self {
        Self { picture, masked: None }
    }

    /// It as a picture, in which pixels that are to be painted are black: a file cannot hold the -1 of [`Self::to_unit`].
    #[must_use]
    pub fn picture(&self) -> &RgbImage {
        &self.picture
    }

    /// `[3, height, width]` in [0, 1], and -1 where it is to be painted.
    #[must_use]
    pub fn to_unit(&self) -> Vec<f32> {
        let mut unit = rgb_to_unit(&self.picture);
        if let Some(masked) = &self.masked {
            for plane in unit.chunks_exact_mut(masked.len().max(1)) {
                let places = plane.iter_mut().zip(masked).filter(|(_, is_masked)| **is_masked);
                places.for_each(|(value, _)| *value = MASKED);
            }
        }
        unit
    }
}

/// White where it is true, row by row, on black.
fn white_on_black(mask: &[bool], width: u32, height: u32) -> RgbImage {
    let mut pixels = mask.iter();
    RgbImage::from_fn(width, height, |_, _| {
        Rgb([if pixels.next().is_some_and(|is_white| *is_white) { 255 } else { 0 }; 3])
    })
}
