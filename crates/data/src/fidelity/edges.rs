//! How well a drawn picture keeps to the edges of a hint.

use image::RgbImage;

use super::{count, dilated, is_white};
use crate::hints::{CannyThresholds, canny};

/// A drawn edge may be so many rows and columns away from the asked one.
const TOLERANCE_PX: usize = 2;

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

/// Compares the edges of a drawn picture ([`canny()`], thresholds 100 and 200) with the white pixels of the hint, up to 2 px apart.
///
/// # Panics
/// If the pictures are of different sizes.
#[must_use]
pub fn edge_fidelity(drawn: &RgbImage, hint: &RgbImage) -> EdgeFidelity {
    assert_eq!(drawn.dimensions(), hint.dimensions(), "pictures of equal size");
    let width = drawn.width() as usize;
    let asked: Vec<bool> = hint.pixels().map(is_white).collect();
    let drawn = canny(drawn, CannyThresholds::default());
    let precision = share_near(&drawn, &asked, width);
    let recall = share_near(&asked, &drawn, width);
    let f1 = if precision + recall > 0.0 { 2.0 * precision * recall / (precision + recall) } else { 0.0 };
    EdgeFidelity { precision, recall, f1 }
}

/// The share of the pixels of one mask that are near a pixel of the other.
fn share_near(mask: &[bool], other: &[bool], width: usize) -> f64 {
    let near = dilated(other, width, TOLERANCE_PX);
    let n_pixels = count(mask.iter().copied());
    let n_near = count(mask.iter().zip(near).map(|(&inside, near)| inside && near));
    if n_pixels > 0.0 { n_near / n_pixels } else { 1.0 }
}

#[cfg(test)]
mod tests {
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
        let edges = canny(picture, CannyThresholds::default())
            .into_iter()
            .flat_map(|is_edge| [if is_edge { 255 } else { 0 }; 3]);
        RgbImage::from_raw(picture.width(), picture.height(), edges.collect()).unwrap()
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
}
