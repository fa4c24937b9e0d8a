//! How well a drawn picture keeps to the edges of a hint.

use image::RgbImage;

use super::{count, eroded, inverted, is_white};

/// The thresholds of `cv2.Canny(image, 100, 200)`, with which the guides to ControlNet make their hints.
const LOW_STRENGTH: i32 = 100;
const HIGH_STRENGTH: i32 = 200;
/// A drawn edge may be so many rows and columns away from the asked one.
const TOLERANCE_PX: usize = 2;
/// The tangent of 22.5 degrees in units of 2^-15.
const TAN_22_5: i32 = 13_573;

/// How well the edges of a picture and those of a hint agree, each from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EdgeFidelity {
    /// The share of the drawn edges that was asked for; 1 if there are none.
    pub precision: f64,
    /// The share of the asked edges that was drawn; 1 if there are none.
    pub recall: f64,
    /// The harmonic mean of both.
    pub f1: f64,
}

/// Compares the edges of a drawn picture ([`canny`]) with the white pixels of the hint, up to 2 px apart.
///
/// # Panics
/// If the pictures are of different sizes.
#[must_use]
pub fn edge_fidelity(drawn: &RgbImage, hint: &RgbImage) -> EdgeFidelity {
    assert_eq!(drawn.dimensions(), hint.dimensions(), "pictures of equal size");
    let width = drawn.width() as usize;
    let asked: Vec<bool> = hint.pixels().map(is_white).collect();
    let drawn = canny(drawn);
    let precision = share_near(&drawn, &asked, width);
    let recall = share_near(&asked, &drawn, width);
    let f1 = if precision + recall > 0.0 { 2.0 * precision * recall / (precision + recall) } else { 0.0 };
    EdgeFidelity { precision, recall, f1 }
}

/// The share of the pixels of one mask that are near a pixel of the other.
fn share_near(mask: &[bool], other: &[bool], width: usize) -> f64 {
    let near = inverted(&eroded(&inverted(other), width, TOLERANCE_PX));
    let n_pixels = count(mask.iter().copied());
    let n_near = count(mask.iter().zip(near).map(|(&inside, near)| inside && near));
    if n_pixels > 0.0 { n_near / n_pixels } else { 1.0 }
}

/// Canny's edges of a picture, row by row, as `cv2.Canny(picture, 100, 200)` finds them.
///
/// A pixel's gradient is that of the channel in which it is strongest, so that edges between colours of equal
/// lightness are found, too. Written here because crate `imageproc` blurs first, which halves the strength of an
/// edge, and sees only grey: both would compare a picture with a hint that OpenCV made by another measure.
///
/// Source: OpenCV 4, `Canny` with `apertureSize = 3` and `L2gradient = false`.
#[must_use]
pub fn canny(picture: &RgbImage) -> Vec<bool> {
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
        is_ridge[place] =
            gradients[place].strength() > LOW_STRENGTH && is_local_maximum(&gradients, place, stride);
    }

    // Weak ridges are edges where they continue strong ones.
    let is_strong = |place: &usize| is_ridge[*place] && gradients[*place].strength() > HIGH_STRENGTH;
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

    use image::Rgb;

    use super::*;
    use crate::{Scene, SceneOptions, Side};

    fn scenes(count: u64) -> Vec<Scene> {
        (0..count).map(|index| Scene::draw(3, index, &SceneOptions::default())).collect()
    }

    fn side() -> Side {
        Side::try_from(128).unwrap()
    }

    /// What a hint of Canny's edges looks like.
    fn hint(picture: &RgbImage) -> RgbImage {
        let edges = canny(picture).into_iter().flat_map(|is_edge| [if is_edge { 255 } else { 0 }; 3]);
        RgbImage::from_raw(picture.width(), picture.height(), edges.collect()).unwrap()
    }

    #[test]
    fn edges_are_those_of_opencv() {
        let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/parity/edges");
        for name in ["soft", "hard", "noise", "equal-lightness"] {
            let read = |file: &str| image::open(cases.join(name).join(file)).unwrap();
            let expected: Vec<bool> =
                read("expected.png").into_luma8().pixels().map(|pixel| pixel.0[0] > 0).collect();
            assert!(expected.contains(&true), "{name}");
            assert_eq!(canny(&read("source.png").into_rgb8()), expected, "{name}");
        }
    }

    #[test]
    fn target_itself_is_perfect() {
        for scene in scenes(50) {
            let target = scene.picture(side());
            let found = edge_fidelity(&target, &hint(&target));
            assert_eq!(found, EdgeFidelity { precision: 1.0, recall: 1.0, f1: 1.0 });
        }
    }

    #[test]
    fn hints_of_other_pictures_are_not_followed() {
        let scenes = scenes(50);
        let f1s = scenes
            .iter()
            .zip(scenes.iter().cycle().skip(1))
            .map(|(scene, other)| edge_fidelity(&scene.picture(side()), &hint(&other.picture(side()))).f1);
        let mean_f1 = f1s.sum::<f64>() / 50.0;
        assert!(mean_f1 < 0.4, "{mean_f1}");
    }

    #[test]
    fn edges_may_be_two_pixels_away_but_not_four() {
        let halves = |middle| RgbImage::from_fn(32, 16, |x, _| Rgb([if x < middle { 0 } else { 200 }; 3]));
        let asked = hint(&halves(16));
        for (middle, expected) in [(14, 1.0), (18, 1.0), (12, 0.0), (20, 0.0)] {
            assert_eq!(edge_fidelity(&halves(middle), &asked).f1, expected, "at {middle}");
        }
    }

    #[test]
    fn missing_edges_cost_recall_and_additional_ones_precision() {
        let stripes = |n: u32| {
            RgbImage::from_fn(64, 64, |x, _| Rgb([if x / 16 % 2 == 1 && x < 32 * n { 200 } else { 0 }; 3]))
        };
        let [few, many] = [1_u32, 2].map(stripes);
        let found = edge_fidelity(&few, &hint(&many));
        assert!(found.precision == 1.0 && found.recall < 0.8 && found.f1 < 0.9, "{found:?}");
        let found = edge_fidelity(&many, &hint(&few));
        assert!(found.precision < 0.8 && found.recall == 1.0, "{found:?}");
        let nothing = edge_fidelity(&RgbImage::new(64, 64), &hint(&few));
        assert_eq!((nothing.recall, nothing.f1), (0.0, 0.0));
    }

    #[test]
    fn tiny_pictures_have_edges_too() {
        for (width, height) in [(0, 0), (1, 1), (2, 1), (1, 7)] {
            assert_eq!(canny(&RgbImage::new(width, height)).len(), (width * height) as usize);
        }
    }
}
