//! How well a drawn picture keeps to the figure that a hint outlines.

use image::RgbImage;

use super::{ColorsRight, inner_mean, intersection_over_union, inverted, is_white, nearest_color, segment};
use crate::colors::{Palette, distance};

/// From black to white: the largest distance of two colours. A colour that is not there counts as so far away.
const MAX_COLOR_ERROR: f64 = 441.672_955_930_063_7;

/// How well a picture shows the figure that was outlined, in the colours of a target picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OutlineFidelity {
    /// Of the drawn figure with the asked one: see [`intersection_over_union`].
    pub iou: f64,
    /// From the figure's mean colour to the target's, in RGB (Euclidean, of 441); 441 if no figure can be seen.
    pub figure_color_error: f64,
    /// The same of the ground.
    pub ground_color_error: f64,
    /// Whether the colour of [`Palette::Distinct`] that is nearest is the same as in the target.
    pub colors_right: ColorsRight,
}

/// Compares the figure of a drawn picture ([`segment`]) with the one that the hint encloses ([`enclosed`]), and its
/// colours with those of the target inside and outside of the latter.
///
/// # Panics
/// If the pictures are of different sizes.
#[must_use]
pub fn outline_fidelity(drawn: &RgbImage, hint: &RgbImage, target: &RgbImage) -> OutlineFidelity {
    assert_eq!(drawn.dimensions(), target.dimensions(), "pictures of equal size");
    let (drawn_figure, asked_figure) = (segment(drawn), enclosed(hint));
    let figure = [inner_mean(drawn, &drawn_figure), inner_mean(target, &asked_figure)];
    let ground = [inner_mean(drawn, &inverted(&drawn_figure)), inner_mean(target, &inverted(&asked_figure))];
    OutlineFidelity {
        iou: intersection_over_union(&drawn_figure, &asked_figure),
        figure_color_error: color_error(figure),
        ground_color_error: color_error(ground),
        colors_right: ColorsRight { figure: is_same_color(figure), ground: is_same_color(ground) },
    }
}

fn color_error(colors: [Option<[f64; 3]>; 2]) -> f64 {
    match colors {
        [Some(drawn), Some(asked)] => distance(drawn, asked),
        [None, None] => 0.0,
        _ => MAX_COLOR_ERROR,
    }
}

fn is_same_color(colors: [Option<[f64; 3]>; 2]) -> bool {
    let [drawn, asked] = colors.map(|color| color.map(|rgb| nearest_color(rgb, Palette::Distinct)));
    drawn == asked
}

/// The pixels of the outline of a hint and all that it encloses, row by row.
///
/// An outline may be cut by the picture's edge: outside is every dark region that has one of the picture's corners.
/// So a figure may leave the picture at its sides, as those of [`Scene`](crate::Scene) do, but not cover a corner.
#[must_use]
pub fn enclosed(hint: &RgbImage) -> Vec<bool> {
    let (width, height) = (hint.width() as usize, hint.height() as usize);
    let mut is_figure = vec![true; width * height];
    if is_figure.is_empty() {
        return is_figure;
    }
    let is_outline: Vec<bool> = hint.pixels().map(is_white).collect();
    let (right, bottom) = (width - 1, (height - 1) * width);
    let mut open = vec![0, right, bottom, bottom + right];
    while let Some(place) = open.pop() {
        if is_outline[place] || !std::mem::replace(&mut is_figure[place], false) {
            continue;
        }
        let (x, y) = (place % width, place / width);
        open.extend((x > 0).then(|| place - 1));
        open.extend((x < right).then(|| place + 1));
        open.extend((y > 0).then(|| place - width));
        open.extend((y + 1 < height).then(|| place + width));
    }
    is_figure
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;
    use crate::{Figure, Scene, SceneOptions, Side};

    fn side(pixels: usize) -> Side {
        Side::try_from(pixels).unwrap()
    }

    fn scenes(seed: u64, count: u64) -> impl Iterator<Item = Scene> {
        (0..count).map(move |index| Scene::draw(seed, index, &SceneOptions::default()))
    }

    #[test]
    fn outline_of_a_scene_encloses_its_mask() {
        for figure in Figure::ALL {
            for scene in scenes(7, 100) {
                let scene = Scene { figure, ..scene };
                for side in [64, 128].map(side) {
                    let found = intersection_over_union(&enclosed(&scene.hint(side)), &scene.mask(side));
                    assert!(found > 0.95, "{figure:?} of {} px: {found}, {scene:?}", side.get());
                }
            }
        }
    }

    #[test]
    fn cut_outline_encloses_what_is_left_of_its_figure() {
        // Cut at the top, and at two sides so that the corner between them is a region of its own.
        for center in [(0.5, 0.3), (0.3, 0.3), (0.7, 0.5)] {
            let circle =
                Scene { figure: Figure::Circle, center, radius: 0.375, ..scenes(0, 1).next().unwrap() };
            assert_eq!(enclosed(&circle.hint(side(128))), circle.mask(side(128)), "{center:?}");
        }
    }

    #[test]
    fn hint_without_an_outline_encloses_nothing() {
        assert!(!enclosed(&RgbImage::new(16, 8)).contains(&true));
        assert!(enclosed(&RgbImage::new(0, 0)).is_empty());
    }

    #[test]
    fn target_itself_is_perfect() {
        let found: Vec<OutlineFidelity> = scenes(8, 200)
            .map(|scene| {
                let target = scene.picture(side(128));
                outline_fidelity(&target, &scene.hint(side(128)), &target)
            })
            .collect();
        let mean_iou = found.iter().map(|fidelity| fidelity.iou).sum::<f64>() / 200.0;
        assert!(mean_iou > 0.98, "{mean_iou}");
        for fidelity in found {
            assert!(fidelity.iou > 0.93, "{fidelity:?}");
            assert!(fidelity.figure_color_error < 5.0 && fidelity.ground_color_error < 5.0, "{fidelity:?}");
            assert_eq!(fidelity.colors_right, ColorsRight { figure: true, ground: true });
        }
    }

    #[test]
    fn hints_of_other_pictures_are_not_followed() {
        let scenes: Vec<Scene> = scenes(9, 100).collect();
        let ious = scenes.iter().zip(scenes.iter().cycle().skip(1)).map(|(scene, other)| {
            let target = scene.picture(side(128));
            outline_fidelity(&target, &other.hint(side(128)), &target).iou
        });
        let mean_iou = ious.sum::<f64>() / 100.0;
        assert!(mean_iou < 0.35, "{mean_iou}");
    }

    #[test]
    fn color_errors_are_distances_in_rgb() {
        let scene = scenes(0, 1).next().unwrap();
        let red_on_blue = Scene {
            ground: crate::Ground::Plain,
            figure_color: ("red", [255, 0, 0]),
            ground_color: ("blue", [0, 0, 255]),
            ..scene
        };
        let drawn = Scene {
            figure_color: ("pink", [255, 30, 40]),
            ground_color: ("navy", [0, 0, 128]),
            ..red_on_blue
        };
        let (hint, target) = (red_on_blue.hint(side(128)), red_on_blue.picture(side(128)));
        let found = outline_fidelity(&drawn.picture(side(128)), &hint, &target);
        assert!((found.figure_color_error - 50.0).abs() < 1.0, "{found:?}");
        assert!((found.ground_color_error - 127.0).abs() < 1.0, "{found:?}");
        assert_eq!(found.colors_right, ColorsRight { figure: true, ground: false });
    }

    #[test]
    fn picture_without_a_figure_is_as_wrong_as_can_be() {
        let scene = scenes(0, 1).next().unwrap();
        let empty = RgbImage::from_pixel(128, 128, Rgb(scene.ground_rgb()));
        let found = outline_fidelity(&empty, &scene.hint(side(128)), &scene.picture(side(128)));
        assert_eq!((found.iou, found.figure_color_error), (0.0, MAX_COLOR_ERROR));
        assert_eq!(found.colors_right, ColorsRight { figure: false, ground: true });
    }
}
