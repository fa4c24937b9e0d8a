//! Canny's edges.

use image::RgbImage;

/// The tangent of 22.5 degrees in units of 2^-15.
const TAN_22_5: i32 = 13_573;

/// How strong an edge must be, as a sum of the amounts of Sobel's two filters: from 0 to 2,040.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CannyThresholds {
    /// Weaker ones are never edges.
    pub low: u16,
    /// Stronger ones always are; those between where they continue such an edge.
    pub high: u16,
}

impl Default for CannyThresholds {
    /// Those with which the guides to ControlNet make their hints: `cv2.Canny(image, 100, 200)`.
    fn default() -> Self {
        Self { low: 100, high: 200 }
    }
}

/// Canny's edges of a picture, row by row, as `cv2.Canny(picture, low, high)` finds them.
///
/// A pixel's gradient is that of the channel in which it is strongest, so that edges between colours of equal
/// lightness are found, too. Written here because crate `imageproc` blurs first, which halves the strength of an
/// edge, and sees only grey: both would compare a picture with a hint that OpenCV made by another measure.
///
/// Source: OpenCV 4, `Canny` with `apertureSize = 3` and `L2gradient = false`.
#[must_use]
pub fn canny(picture: &RgbImage, CannyThresholds { low, high }: CannyThresholds) -> Vec<bool> {
    let (low, high) = (low.min(high).into(), low.max(high).into());
    // A frame of one pixel without an edge: every pixel of the picture has eight neighbours.
    let stride = picture.width() as usize + 2;
    let mut gradients = vec![Gradient::default(); stride * (picture.height() as usize + 2)];
    let place = |x: u32, y: u32| (y as usize + 1) * stride + x as usize + 1;
    let places: Vec<usize> = picture.enumerate_pixels().map(|(x, y, _)| place(x, y)).collect();
    for (&place, (x, y, _)) in places.iter().zip(picture.enumerate_pixels()) {
        gradients[place] = Gradient::at(picture, x, y);
    }

    let mut is_ridge = vec![false; gradients.len()];
    for &place in &places {
        is_ridge[place] = gradients[place].strength() > low && is_local_maximum(&gradients, place, stride);
    }

    // Weak ridges are edges where they continue strong ones.
    let is_strong = |place: &usize| is_ridge[*place] && gradients[*place].strength() > high;
    let mut open: Vec<usize> = places.iter().copied().filter(is_strong).collect();
    let mut is_edge = vec![false; gradients.len()];
    while let Some(place) = open.pop() {
        if !std::mem::replace(&mut is_edge[place], true) {
            open.extend(neighbours(place, stride).into_iter().filter(|&near| is_ridge[near]));
        }
    }
    places.iter().map(|&place| is_edge[place]).collect()
}

/// How fast the lightness grows, by Sobel's 3x3 filters.
#[derive(Debug, Default, Clone, Copy)]
struct Gradient {
    right: i32,
    down: i32,
}

impl Gradient {
    /// Beyond the picture's edge its last pixels are repeated.
    fn at(picture: &RgbImage, x: u32, y: u32) -> Self {
        let columns = [x.saturating_sub(1), x, (x + 1).min(picture.width() - 1)];
        let rows = [y.saturating_sub(1), y, (y + 1).min(picture.height() - 1)];
        let of_channel = |channel: usize| {
            let value = |row: usize, column: usize| {
                i32::from(picture.get_pixel(columns[column], rows[row]).0[channel])
            };
            let column = |column| value(0, column) + 2 * value(1, column) + value(2, column);
            let row = |row| value(row, 0) + 2 * value(row, 1) + value(row, 2);
            Self { right: column(2) - column(0), down: row(2) - row(0) }
        };
        // Of equals the first, as in OpenCV.
        let stronger =
            |best: Self, other: Self| if other.strength() > best.strength() { other } else { best };
        [1, 2].map(of_channel).into_iter().fold(of_channel(0), stronger)
    }

    fn strength(self) -> i32 {
        self.right.abs() + self.down.abs()
    }
}

/// Whether the gradient is strongest here along its own direction, rounded to a multiple of 45 degrees.
fn is_local_maximum(gradients: &[Gradient], place: usize, stride: usize) -> bool {
    let strength = |place: usize| gradients[place].strength();
    let here = strength(place);
    let Gradient { right, down } = gradients[place];
    let steepness = down.abs() << 15;
    let flat = right.abs() * TAN_22_5;
    // The tangent of 67.5 degrees is that of 22.5 plus 2.
    let steep = flat + (right.abs() << 16);
    if steepness < flat {
        here > strength(place - 1) && here >= strength(place + 1)
    } else if steepness > steep {
        here > strength(place - stride) && here >= strength(place + stride)
    } else if (right < 0) == (down < 0) {
        here > strength(place - stride - 1) && here > strength(place + stride + 1)
    } else {
        here > strength(place - stride + 1) && here > strength(place + stride - 1)
    }
}

fn neighbours(place: usize, stride: usize) -> [usize; 8] {
    let (above, below) = (place - stride, place + stride);
    [above - 1, above, above + 1, place - 1, place + 1, below - 1, below, below + 1]
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn edges_are_those_of_opencv() {
        let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/parity/edges");
        for name in ["soft", "hard", "noise", "equal-lightness"] {
            let read = |file: &str| image::open(cases.join(name).join(file)).unwrap();
            let expected: Vec<bool> =
                read("expected.png").into_luma8().pixels().map(|pixel| pixel.0[0] > 0).collect();
            assert!(expected.contains(&true), "{name}");
            assert_eq!(
                canny(&read("source.png").into_rgb8(), CannyThresholds::default()),
                expected,
                "{name}"
            );
        }
    }

    #[test]
    fn tiny_pictures_have_edges_too() {
        for (width, height) in [(0, 0), (1, 1), (2, 1), (1, 7)] {
            assert_eq!(
                canny(&RgbImage::new(width, height), CannyThresholds::default()).len(),
                (width * height) as usize
            );
        }
    }
}
