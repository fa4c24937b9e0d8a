//! Lines other than Canny's: soft edges and scribbles.

use image::buffer::ConvertBuffer;
use image::imageops::blur;
use image::{Rgb, Rgb32FImage, RgbImage};

use crate::fidelity::dilated;

/// A gradient of so much of the range of a channel over one pixel is white. Edges of photographs are seldom sharper once
/// they are blurred.
const WHITE_GRADIENT: f32 = 0.12;

/// The narrower and the wider blur of a scribble.
///
/// Source: ControlNet 1.1, `scribble_xdog`.
const SCRIBBLE_SIGMAS: [f32; 2] = [0.5, 5.0];

/// The strongest channel's gradient after a blur of `sigma` px, as grey levels.
pub(super) fn soft_edges(picture: &RgbImage, sigma: f64) -> RgbImage {
    let smooth = blur(&unit(picture), narrowed(sigma));
    let (width, height) = smooth.dimensions();
    RgbImage::from_fn(width, height, |x, y| {
        let (left, right) = (x.saturating_sub(1), (x + 1).min(width - 1));
        let (above, below) = (y.saturating_sub(1), (y + 1).min(height - 1));
        // Sobel's filters; their weights add up to 8 for a slope of one per pixel.
        let gradient = |channel: usize| {
            let at = |x, y| smooth.get_pixel(x, y).0[channel];
            let across = at(right, above) + 2.0 * at(right, y) + at(right, below)
                - at(left, above)
                - 2.0 * at(left, y)
                - at(left, below);
            let down = at(left, below) + 2.0 * at(x, below) + at(right, below)
                - at(left, above)
                - 2.0 * at(x, above)
                - at(right, above);
            across.hypot(down) / 8.0
        };
        let strongest = gradient(0).max(gradient(1)).max(gradient(2));
        Rgb([to_level(strongest / WHITE_GRADIENT); 3])
    })
}

/// Where the picture is darker, in its least dark channel, than its surroundings; each pixel grown by `thickness`.
///
/// Source: ControlNet 1.1, `scribble_xdog`: `255 - min(g2 - g1)` clipped to bytes, white where twice the rest exceeds the
/// threshold.
pub(super) fn scribble(picture: &RgbImage, threshold: f64, thickness: usize) -> Vec<bool> {
    let picture = unit(picture);
    let [narrow, wide] = SCRIBBLE_SIGMAS.map(|sigma| blur(&picture, sigma));
    let is_line = |(narrow, wide): (&Rgb<f32>, &Rgb<f32>)| {
        let darker = |channel: usize| wide.0[channel] - narrow.0[channel];
        let least = darker(0).min(darker(1)).min(darker(2)) * 255.0;
        // Cut off as by numpy's `astype(uint8)`, but of the difference itself.
        2.0 * f64::from(least.max(0.0).ceil()) > threshold
    };
    let lines: Vec<bool> = narrow.pixels().zip(wide.pixels()).map(is_line).collect();
    if thickness == 0 { lines } else { dilated(&lines, picture.width() as usize, thickness) }
}

/// Levels of 0 to 1.
fn unit(picture: &RgbImage) -> Rgb32FImage {
    picture.convert()
}

#[expect(clippy::cast_possible_truncation, reason = "a few digits of a blur's width are plenty")]
pub(super) fn narrowed(sigma: f64) -> f32 {
    sigma as f32
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a byte")]
fn to_level(unit: f32) -> u8 {
    (unit * 255.0).round().clamp(0.0, 255.0) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A dark line of 3 px on a bright ground.
    fn line() -> RgbImage {
        RgbImage::from_fn(64, 48, |x, _| {
            Rgb(if (30..33).contains(&x) { [20, 40, 30] } else { [230, 200, 210] })
        })
    }

    fn n_white(mask: &[bool]) -> usize {
        mask.iter().filter(|is_white| **is_white).count()
    }

    #[test]
    fn a_scribble_is_the_line_and_grows_by_its_thickness() {
        let thin = scribble(&line(), 32.0, 0);
        let columns: Vec<usize> = (0..64).filter(|x| thin[64 * 24 + x]).collect();
        assert_eq!(columns, [30, 31, 32]);
        assert_eq!(n_white(&scribble(&line(), 32.0, 2)), 7 * 48);
        assert_eq!(n_white(&scribble(&RgbImage::from_pixel(64, 48, Rgb([128; 3])), 1.0, 0)), 0);
    }

    #[test]
    fn soft_edges_are_beside_the_line_and_wider_with_more_blur() {
        let bright = |sigma| {
            let edges = soft_edges(&line(), sigma);
            (0..64).filter(|&x| edges.get_pixel(x, 24).0[0] > 64).collect::<Vec<u32>>()
        };
        let (sharp, soft) = (bright(0.6), bright(2.5));
        assert!(sharp.contains(&29) && sharp.contains(&33) && !sharp.contains(&31), "{sharp:?}");
        assert!(soft.len() > sharp.len(), "{soft:?}");
        assert!(!soft.contains(&5));
    }
}
