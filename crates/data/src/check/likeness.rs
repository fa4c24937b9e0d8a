//! Which pictures look alike.

use std::collections::HashMap;

use image::RgbImage;

use crate::picture::luma;
use crate::resize::{Interpolation, resize};

/// Bits of two prints that may differ.
const MAX_BITS: u32 = 3;
/// Levels of 255 by which two thumbnails may differ on average: the pictures of one task are alike in outline.
const MAX_LEVELS: u32 = 4;
/// The bits of a print are looked up in so many parts; of two that differ in fewer bits, one part is equal.
const N_PARTS: usize = 4;
/// Pictures with an equal part that are compared, at most: of thousands of flat pictures each is like a few.
const MAX_COMPARED: usize = 64;

/// What is left of a picture when its size and small errors are forgotten: whether it grows lighter to the right and down at 64
/// places each, and the mean colours of 8 times 8 parts.
///
/// Source: N. Krawetz, "Kind of Like That" (2013), the difference hash, in both directions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Print {
    bits: u128,
    thumbnail: Vec<u8>,
}

impl Print {
    pub(super) fn of(picture: &RgbImage) -> Self {
        let levels = |width, height| -> Vec<u8> {
            resize(picture, width, height, Interpolation::Box).pixels().map(|pixel| luma(pixel.0)).collect()
        };
        let (wide, high) = (levels(9, 8), levels(8, 9));
        let to_right = wide.chunks_exact(9).flat_map(|row| row.windows(2).map(|pair| pair[0] < pair[1]));
        let down = high.iter().zip(&high[8..]).map(|(above, below)| above < below);
        let bits = to_right.chain(down).fold(0, |bits, is_lighter| (bits << 1) | u128::from(is_lighter));
        Self { bits, thumbnail: resize(picture, 8, 8, Interpolation::Box).into_raw() }
    }

    fn parts(&self) -> [(usize, u128); N_PARTS] {
        let bits_each = 128 / N_PARTS;
        std::array::from_fn(|part| (part, (self.bits >> (part * bits_each)) & ((1 << bits_each) - 1)))
    }

    pub(super) fn is_like(&self, other: &Self) -> bool {
        let differences =
            self.thumbnail.iter().zip(&other.thumbnail).map(|(left, right)| left.abs_diff(*right));
        let n_levels = u32::try_from(self.thumbnail.len()).unwrap_or(u32::MAX);
        (self.bits ^ other.bits).count_ones() <= MAX_BITS
            && differences.map(u32::from).sum::<u32>() <= MAX_LEVELS * n_levels
    }
}

/// For each picture that is like an earlier one, both places.
pub(super) fn alike(prints: &[(usize, Print)]) -> Vec<(usize, usize)> {
    let mut with_part: HashMap<(usize, u128), Vec<usize>> = HashMap::new();
    let mut found = Vec::new();
    for (index, (place, print)) in prints.iter().enumerate() {
        let earlier = print.parts().into_iter().filter_map(|part| with_part.get(&part)).flatten();
        let like = earlier.copied().filter(|earlier| prints[*earlier].1.is_like(print)).min();
        if let Some(like) = like {
            found.push((*place, prints[like].0));
            continue;
        }
        for part in print.parts() {
            let members = with_part.entry(part).or_default();
            if members.len() < MAX_COMPARED {
                members.push(index);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;
    use crate::{Scene, SceneOptions, Side};

    fn waves(phase: u32) -> RgbImage {
        RgbImage::from_fn(96, 64, |x, y| {
            let wave = |length: f64| {
                ((f64::from(x + phase) / length).sin() + (f64::from(y) / 7.0).cos()) / 4.0 + 0.5
            };
            Rgb([9.0, 14.0, 25.0].map(|length| crate::picture::to_byte(wave(length))))
        })
    }

    #[test]
    fn a_smaller_and_a_compressed_copy_look_alike_and_other_pictures_do_not() {
        let original = waves(0);
        let small = resize(&original, 60, 40, Interpolation::Bilinear);
        let mut jpeg = std::io::Cursor::new(Vec::new());
        original.write_to(&mut jpeg, image::ImageFormat::Jpeg).unwrap();
        let jpeg = image::load_from_memory(jpeg.get_ref()).unwrap().into_rgb8();
        let prints: Vec<_> = [original, waves(20), small, jpeg]
            .iter()
            .enumerate()
            .map(|(place, it)| (place, Print::of(it)))
            .collect();
        assert_eq!(alike(&prints), [(2, 0), (3, 0)]);
    }

    #[test]
    fn pictures_of_one_task_are_not_taken_for_copies() {
        let side = Side::try_from(64).unwrap();
        let prints: Vec<_> = (0..300)
            .map(|place| {
                (place, Print::of(&Scene::draw(0, place as u64, &SceneOptions::default()).picture(side)))
            })
            .collect();
        assert!(alike(&prints).len() <= 3, "{:?}", alike(&prints));
    }
}
