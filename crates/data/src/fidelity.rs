//! How well a drawn picture shows what was asked for: by a [`Scene`], or by a hint.

mod edges;
mod outline;

use std::fmt;
use std::str::FromStr;

use image::{Rgb, RgbImage};
use serde::{Deserialize, Serialize};

use crate::colors::{Palette, distance};
use crate::error::DataError;
use crate::shapes::Scene;

pub use edges::{EdgeFidelity, edge_fidelity};
pub use outline::{OutlineFidelity, enclosed, outline_fidelity};

/// What a hint shows, and so by what a picture is judged.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HintKind {
    /// The outline of one figure, white on black: [`outline_fidelity`].
    #[default]
    Outline,
    /// Canny's edges, white on black: [`edge_fidelity`].
    Canny,
}

impl HintKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Outline, Self::Canny];

    /// The name in files and flags.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Outline => "outline",
            Self::Canny => "canny",
        }
    }
}

impl fmt::Display for HintKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for HintKind {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self, DataError> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| DataError::UnknownHintKind { name: name.to_owned() })
    }
}

/// A figure that differs less than this from its ground in RGB (Euclidean, of 441) is not seen as one.
///
/// The two tones of a texture are 62 apart, and any two colours of [`Palette::Distinct`] at least 114.
const MIN_CONTRAST: f64 = 64.0;
/// One in so many pixels may have any colour. The smallest star covers one in 60.
const STRAY_PIXELS: usize = 200;
/// Clear pictures settle in a few rounds; the bound is for the others.
const MAX_ROUNDS: usize = 10;

/// The share of the pixels of either mask that both have: 1 for equal masks, 0 for disjoint ones.
///
/// Two empty masks are equal.
///
/// # Panics
/// If the masks are of different sizes.
#[must_use]
pub fn intersection_over_union(drawn: &[bool], asked: &[bool]) -> f64 {
    assert_eq!(drawn.len(), asked.len(), "masks of equal size");
    let pixels =
        |of: fn(bool, bool) -> bool| count(drawn.iter().zip(asked).map(|(&left, &right)| of(left, right)));
    let (intersection, union) = (pixels(|left, right| left && right), pixels(|left, right| left || right));
    if union == 0.0 { 1.0 } else { intersection / union }
}

/// The pixels of the figure of a picture, row by row; none if no figure can be seen.
///
/// It depends on neither the asked colours nor the asked place, so that a figure in wrong colours is still
/// found and one at a wrong place is found where it is. The pixels fall into two clusters of colours (2-means).
/// The ground's begins as the mean of the picture's edge, the figure's as the colour that is farthest from it
/// but for stray pixels (one in 200).
///
/// Clusters whose means are less than 64 apart are a texture or noise, not a figure on a ground.
#[must_use]
pub fn segment(picture: &RgbImage) -> Vec<bool> {
    let pixels: Vec<[f64; 3]> = picture.pixels().map(|pixel| pixel.0.map(f64::from)).collect();
    let (width, height) = picture.dimensions();
    let is_edge = |x, y| x == 0 || y == 0 || x + 1 == width || y + 1 == height;
    let edge: Vec<bool> = picture.enumerate_pixels().map(|(x, y, _)| is_edge(x, y)).collect();

    let nothing = || vec![false; pixels.len()];
    let Some(mut ground) = mean(&pixels, &edge) else {
        return nothing();
    };
    let mut farthest_first = pixels.clone();
    let by_distance = |a: &[f64; 3], b: &[f64; 3]| distance(*b, ground).total_cmp(&distance(*a, ground));
    let (_, &mut mut figure, _) =
        farthest_first.select_nth_unstable_by(pixels.len() / STRAY_PIXELS, by_distance);

    let mut mask = nothing();
    for _ in 0..MAX_ROUNDS {
        let nearer: Vec<bool> =
            pixels.iter().map(|&pixel| distance(pixel, figure) < distance(pixel, ground)).collect();
        if nearer == mask {
            break;
        }
        mask = nearer;
        figure = mean(&pixels, &mask).unwrap_or(figure);
        ground = mean(&pixels, &inverted(&mask)).unwrap_or(ground);
    }
    if distance(figure, ground) < MIN_CONTRAST { nothing() } else { mask }
}

/// The mean colour of the pixels in a mask; `None` if there are none.
///
/// # Panics
/// If picture and mask are of different sizes.
#[must_use]
pub fn mean_color(picture: &RgbImage, mask: &[bool]) -> Option<[f64; 3]> {
    let pixels: Vec<[f64; 3]> = picture.pixels().map(|pixel| pixel.0.map(f64::from)).collect();
    mean(&pixels, mask)
}

/// The place in [`Palette::colors`] of the colour that is nearest in RGB; the first of equals.
#[must_use]
pub fn nearest_color(rgb: [f64; 3], palette: Palette) -> usize {
    let apart = palette.colors().iter().map(|color| distance(rgb, color.1.map(f64::from)));
    let nearest = apart.enumerate().min_by(|(_, left), (_, right)| left.total_cmp(right));
    nearest.expect("no palette is empty").0
}

/// Whether a picture has the colours that were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColorsRight {
    /// Of the figure.
    pub figure: bool,
    /// Of the ground.
    pub ground: bool,
}

/// Compares the colours of the drawn figure and the drawn ground with those of the scene.
///
/// Right means: of all colours in the palette, the asked one is nearest to the mean. Figure and ground are
/// those of the picture ([`segment`]), wherever the figure is, without the pixels along the outline, where
/// both mix. A figure that cannot be seen is wrong.
#[must_use]
pub fn colors_right(picture: &RgbImage, scene: &Scene, palette: Palette) -> ColorsRight {
    let figure = segment(picture);
    let ground = inverted(&figure);
    let is_right = |mask: &[bool], asked: [u8; 3]| {
        let mean = inner_mean(picture, mask);
        mean.is_some_and(|mean| palette.colors()[nearest_color(mean, palette)].1 == asked)
    };
    ColorsRight {
        figure: is_right(&figure, scene.figure_rgb()),
        ground: is_right(&ground, scene.ground_rgb()),
    }
}

/// Peak signal-to-noise ratio in dB, over all channels: 10 log10(255^2 / mean squared error).
///
/// Infinite for equal pictures.
///
/// # Panics
/// If the pictures are of different sizes.
#[must_use]
pub fn psnr(left: &RgbImage, right: &RgbImage) -> f64 {
    assert_eq!(left.dimensions(), right.dimensions(), "pictures of equal size");
    let squares = left.iter().zip(right.iter()).map(|(left, right)| f64::from(left.abs_diff(*right)).powi(2));
    let (sum, n_values) = squares.fold((0.0, 0.0), |(sum, n_values), square| (sum + square, n_values + 1.0));
    10.0 * (255.0_f64.powi(2) * n_values / sum).log10()
}

/// The mean colour of the pixels in a mask without those along its outline, where two colours mix: without what is
/// within 1/64 of the width (2 px of 128) of a pixel outside.
fn inner_mean(picture: &RgbImage, mask: &[bool]) -> Option<[f64; 3]> {
    let width = picture.width() as usize;
    let inner = eroded(mask, width, (width / 64).max(1));
    // A figure as thin as an outline has no inner pixels.
    mean_color(picture, &inner).or_else(|| mean_color(picture, mask))
}

/// Whether a hint has a line at a pixel.
fn is_white(pixel: &Rgb<u8>) -> bool {
    pixel.0.iter().map(|&value| u16::from(value)).sum::<u16>() >= 3 * 128
}

/// The mask without what is within `reach` rows and columns of a pixel outside of it.
fn eroded(mask: &[bool], width: usize, reach: usize) -> Vec<bool> {
    let height = mask.len() / width.max(1);
    let around = |place: usize, end: usize| place.saturating_sub(reach)..(place + reach + 1).min(end);
    let is_inner =
        |x, y| around(y, height).all(|y| mask[y * width..][around(x, width)].iter().all(|&inside| inside));
    (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).map(|(x, y)| is_inner(x, y)).collect()
}

/// The pixels of a mask and those within `reach` rows and columns of one.
pub(crate) fn dilated(mask: &[bool], width: usize, reach: usize) -> Vec<bool> {
    inverted(&eroded(&inverted(mask), width, reach))
}

fn inverted(mask: &[bool]) -> Vec<bool> {
    mask.iter().map(|&inside| !inside).collect()
}

fn mean(pixels: &[[f64; 3]], mask: &[bool]) -> Option<[f64; 3]> {
    assert_eq!(pixels.len(), mask.len(), "picture and mask of equal size");
    let n_inside = count(mask.iter().copied());
    let mut sums = [0.0; 3];
    for (pixel, _) in pixels.iter().zip(mask).filter(|(_, inside)| **inside) {
        for (sum, value) in sums.iter_mut().zip(pixel) {
            *sum += value;
        }
    }
    (n_inside > 0.0).then(|| sums.map(|sum| sum / n_inside))
}

/// How many are true.
fn count(flags: impl Iterator<Item = bool>) -> f64 {
    flags.map(|flag| f64::from(u8::from(flag))).sum()
}

#[cfg(test)]
mod tests {
    use image::Rgb;
    use image::imageops::flip_horizontal;

    use super::*;
    use crate::random::{self, Purpose};
    use crate::{Figure, Ground, SceneOptions, Side};

    /// So far outside of the picture that nothing of the figure can be seen.
    const AWAY: (f64, f64) = (-1.0, -1.0);

    fn side() -> Side {
        Side::try_from(128).unwrap()
    }

    fn scenes(count: u64) -> impl Iterator<Item = Scene> {
        (0..count).map(|index| Scene::draw(5, index, &SceneOptions::default()))
    }

    /// A square of 10 x 10 in a mask of 40 x 40.
    fn square(left: usize, top: usize) -> Vec<bool> {
        let is_inside = |x, y| (left..left + 10).contains(&x) && (top..top + 10).contains(&y);
        (0..1_600).map(|place| is_inside(place % 40, place / 40)).collect()
    }

    #[test]
    fn intersection_over_union_of_shifted_squares_is_known() {
        let cases = [
            (square(5, 5), 1.0),
            (square(10, 5), 50.0 / 150.0),
            (square(13, 5), 20.0 / 180.0),
            (square(10, 10), 25.0 / 175.0),
            (square(15, 5), 0.0),
            (vec![false; 1_600], 0.0),
            (vec![true; 1_600], 100.0 / 1_600.0),
        ];
        for (drawn, expected) in cases {
            let found = intersection_over_union(&drawn, &square(5, 5));
            assert!((found - expected).abs() < 1e-12, "{found} instead of {expected}");
            assert_eq!(found, intersection_over_union(&square(5, 5), &drawn));
        }
        assert_eq!(intersection_over_union(&[false; 4], &[false; 4]), 1.0);
    }

    #[test]
    fn segmenting_a_scene_gives_its_mask() {
        for figure in Figure::ALL {
            for ground in Ground::ALL {
                let of_both = (0..30).map(|index| Scene {
                    figure,
                    ground,
                    ..Scene::draw(6, index, &SceneOptions::default())
                });
                let found: Vec<f64> = of_both
                    .map(|scene| {
                        intersection_over_union(&segment(&scene.picture(side())), &scene.mask(side()))
                    })
                    .collect();
                let mean = found.iter().sum::<f64>() / 30.0;
                let worst = found.iter().copied().fold(1.0, f64::min);
                // Half a pixel along the outline of the smallest star is 7 % of its area.
                assert!(mean > 0.98 && worst > 0.93, "{figure:?} {ground:?}: mean {mean}, worst {worst}");
            }
        }
    }

    #[test]
    fn figure_in_wrong_colors_at_a_wrong_place_is_found_where_it_is() {
        for scene in scenes(40) {
            let mut picture = flip_horizontal(&scene.picture(side()));
            picture.iter_mut().for_each(|value| *value = 255 - *value);
            let asked = scene.mask(side());
            let drawn: Vec<bool> = asked.chunks(128).flat_map(|row| row.iter().rev()).copied().collect();
            let found = segment(&picture);
            assert!(intersection_over_union(&found, &drawn) > 0.93, "{}", scene.caption());
            let (at_asked, expected) =
                (intersection_over_union(&found, &asked), intersection_over_union(&drawn, &asked));
            assert!((at_asked - expected).abs() < 0.05, "{at_asked} instead of {expected}");
        }
    }

    #[test]
    fn ground_without_a_figure_is_no_figure() {
        for &ground_color in Palette::Css.colors() {
            for ground in Ground::ALL {
                let scene = Scene {
                    ground,
                    ground_color,
                    center: AWAY,
                    ..Scene::draw(0, 0, &SceneOptions::default())
                };
                let picture = scene.picture(side());
                assert!(!segment(&picture).contains(&true), "{ground:?} {}", ground_color.0);
            }
        }
    }

    #[test]
    fn stray_pixels_are_no_figure() {
        let navy_on_black = Scene {
            figure_color: ("navy", [0, 0, 128]),
            ground_color: ("black", [0, 0, 0]),
            ..Scene::draw(0, 0, &SceneOptions::default())
        };
        let mut picture = navy_on_black.picture(side());
        for place in 0..60 {
            picture.put_pixel(2 * place, place, Rgb([255; 3]));
        }
        let found = intersection_over_union(&segment(&picture), &navy_on_black.mask(side()));
        assert!(found > 0.8, "{found}");
    }

    #[test]
    fn shaded_figure_is_found_whole() {
        for figure in Figure::ALL {
            let scene = Scene {
                figure,
                center: (0.4, 0.5),
                radius: 0.375,
                ..Scene::draw(0, 0, &SceneOptions::default())
            };
            let mask = scene.mask(side());
            // From 84 on the left to 228 on the right: the darkest is nearer to black than to the brightest.
            let red = |x: u32| u8::try_from(80 + x * 3 / 2).unwrap_or(u8::MAX);
            let picture = RgbImage::from_fn(128, 128, |x, y| {
                let is_inside = mask[(y * 128 + x) as usize];
                Rgb([if is_inside { red(x) } else { 0 }, 0, 0])
            });
            assert_eq!(segment(&picture), mask, "{figure:?}");
        }
    }

    #[test]
    fn slight_noise_does_not_move_the_figure() {
        let mut rng = random::rng(0, 0, "", Purpose::Noise);
        for scene in scenes(40) {
            let mut picture = scene.picture(side());
            for value in picture.iter_mut() {
                let noise = u8::try_from(random::below(&mut rng, 17)).unwrap();
                *value = value.saturating_add(noise).saturating_sub(8);
            }
            let found = intersection_over_union(&segment(&picture), &scene.mask(side()));
            assert!(found > 0.9, "{}: {found}", scene.caption());
        }
    }

    #[test]
    fn colors_of_own_picture_are_right() {
        for scene in scenes(200) {
            let found = colors_right(&scene.picture(side()), &scene, Palette::Distinct);
            assert_eq!(found, ColorsRight { figure: true, ground: true }, "{}", scene.caption());
        }
    }

    #[test]
    fn swapped_colors_are_wrong() {
        for scene in scenes(40) {
            let swapped =
                Scene { figure_color: scene.ground_color, ground_color: scene.figure_color, ..scene };
            let found = colors_right(&swapped.picture(side()), &scene, Palette::Distinct);
            assert_eq!(found, ColorsRight { figure: false, ground: false }, "{}", scene.caption());
        }
    }

    #[test]
    fn one_wrong_color_is_told_from_the_other() {
        let red_on_blue = Scene {
            figure_color: ("red", [255, 0, 0]),
            ground_color: ("blue", [0, 0, 255]),
            ..Scene::draw(0, 0, &SceneOptions::default())
        };
        let green = ("green", [0, 128, 0]);
        let cases = [
            (Scene { figure_color: green, ..red_on_blue }, ColorsRight { figure: false, ground: true }),
            (Scene { ground_color: green, ..red_on_blue }, ColorsRight { figure: true, ground: false }),
            (Scene { center: AWAY, ..red_on_blue }, ColorsRight { figure: false, ground: true }),
        ];
        for (drawn, expected) in cases {
            assert_eq!(colors_right(&drawn.picture(side()), &red_on_blue, Palette::Distinct), expected);
        }
    }

    #[test]
    fn blurred_outline_does_not_change_the_colors() {
        for scene in scenes(40) {
            let blurred = image::imageops::fast_blur(&scene.picture(side()), 1.5);
            let found = colors_right(&blurred, &scene, Palette::Distinct);
            assert_eq!(found, ColorsRight { figure: true, ground: true }, "{}", scene.caption());
        }
    }

    #[test]
    fn outline_does_not_count_as_the_figure_s_color() {
        let scene = Scene {
            figure: Figure::Circle,
            radius: 0.12,
            figure_color: ("white", [255; 3]),
            ground_color: ("blue", [0, 0, 255]),
            ..Scene::draw(0, 0, &SceneOptions::default())
        };
        let mut picture = scene.picture(side());
        for (pixel, outline) in picture.pixels_mut().zip(scene.hint(side()).pixels()) {
            if outline.0[0] > 0 {
                *pixel = Rgb([255, 255, 0]);
            }
        }
        let found = colors_right(&picture, &scene, Palette::Distinct);
        assert_eq!(found, ColorsRight { figure: true, ground: true });
    }

    #[test]
    fn nearest_color_of_every_color_is_itself() {
        for palette in [Palette::Distinct, Palette::Css] {
            for (_, rgb) in palette.colors() {
                let nearest = nearest_color(rgb.map(f64::from), palette);
                assert_eq!(palette.colors()[nearest].1, *rgb);
            }
        }
        let nearest = |rgb| Palette::Distinct.colors()[nearest_color(rgb, Palette::Distinct)].0;
        assert_eq!([nearest([225.0, 30.0, 20.0]), nearest([20.0, 30.0, 150.0])], ["red", "navy"]);
    }

    #[test]
    fn mean_color_is_of_the_mask_alone() {
        let bytes = vec![10, 20, 30, 10, 20, 30, 200, 0, 0, 200, 0, 1];
        let picture = RgbImage::from_raw(2, 2, bytes).unwrap();
        assert_eq!(mean_color(&picture, &[true, true, false, false]), Some([10.0, 20.0, 30.0]));
        assert_eq!(mean_color(&picture, &[false, false, true, true]), Some([200.0, 0.0, 0.5]));
        assert_eq!(mean_color(&picture, &[false; 4]), None);
    }

    #[test]
    fn eroding_takes_away_what_is_near_the_outside_but_not_the_picture_s_edge() {
        let inner = eroded(&square(5, 5), 40, 1);
        let expected: Vec<bool> =
            (0..1_600).map(|p| (6..14).contains(&(p % 40)) && (6..14).contains(&(p / 40))).collect();
        assert_eq!(inner, expected);
        assert_eq!(eroded(&[true; 1_600], 40, 1), [true; 1_600]);
    }

    #[test]
    fn psnr_is_known_for_known_errors() {
        let flat = |value| RgbImage::from_pixel(8, 8, Rgb([value; 3]));
        assert!((psnr(&flat(10), &flat(11)) - 48.1308).abs() < 1e-4);
        assert!((psnr(&flat(110), &flat(100)) - 28.1308).abs() < 1e-4);
        assert!(psnr(&flat(0), &flat(255)).abs() < 1e-9);
        assert_eq!(psnr(&flat(7), &flat(7)), f64::INFINITY);
    }
}
