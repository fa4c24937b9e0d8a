//! Hints that keep the whole picture and leave out details or colours.

use image::imageops::blur;
use image::{Rgb, RgbImage};

use super::lines::narrowed;
use crate::picture::luma;
use crate::resize::{Interpolation, resize};

/// Shrunk by `factor` to the means of its parts, and enlarged again.
pub(super) fn tile(picture: &RgbImage, factor: f64) -> RgbImage {
    let (width, height) = picture.dimensions();
    let [small_width, small_height] = [width, height].map(|length| shrunk(length, factor));
    let small = resize(picture, small_width, small_height, Interpolation::Box);
    resize(&small, width, height, Interpolation::Bicubic)
}

pub(super) fn blurred(picture: &RgbImage, sigma: f64) -> RgbImage {
    blur(picture, narrowed(sigma))
}

/// Squares of about `cell` px with the mean colour of what they cover.
pub(super) fn colors(picture: &RgbImage, cell: u32) -> RgbImage {
    let (width, height) = picture.dimensions();
    let [columns, rows] = [width, height].map(|length| (length / cell.max(1)).max(1));
    resize(&resize(picture, columns, rows, Interpolation::Box), width, height, Interpolation::Nearest)
}

pub(super) fn grey(picture: &RgbImage) -> RgbImage {
    let (width, height) = picture.dimensions();
    RgbImage::from_fn(width, height, |x, y| Rgb([luma(picture.get_pixel(x, y).0); 3]))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most the length of an image")]
fn shrunk(length: u32, factor: f64) -> u32 {
    ((f64::from(length) / factor).round() as u32).clamp(1, length.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_square_of_colours_has_the_mean_of_what_it_covers() {
        let stripes =
            RgbImage::from_fn(32, 16, |x, _| Rgb(if x % 2 == 0 { [200, 0, 40] } else { [100, 0, 60] }));
        let found = colors(&stripes, 8);
        assert!(found.pixels().all(|pixel| pixel.0 == [150, 0, 50]), "{:?}", found.get_pixel(0, 0));
    }

    #[test]
    fn a_tile_keeps_large_things_and_loses_small_ones() {
        let picture = RgbImage::from_fn(64, 64, |x, _| {
            Rgb([if x < 32 { x % 2 * 100 } else { 255 }.to_le_bytes()[0]; 3])
        });
        let found = tile(&picture, 8.0);
        assert_eq!([found.get_pixel(8, 8).0[0], found.get_pixel(56, 8).0[0]], [50, 255]);
        assert_eq!(tile(&picture, 1.0), picture);
    }

    #[test]
    fn grey_is_pillows_luma() {
        let picture =
            RgbImage::from_fn(3, 1, |x, _| Rgb([[255, 0, 0], [0, 255, 0], [0, 0, 255]][x as usize]));
        assert_eq!(
            grey(&picture).pixels().map(|pixel| pixel.0).collect::<Vec<_>>(),
            [[76; 3], [150; 3], [29; 3]]
        );
    }
}
