//! Generated scenes: one figure on one ground, as picture, hint, mask and caption.
//!
//! A scene is the smallest thing a text-to-image model can be taught and judged by: the caption says which
//! figure and which colours, the hint says where, and the mask is what was asked for, pixel by pixel.

use std::array;
use std::f64::consts::TAU;

use image::{Rgb, RgbImage};
use rand_chacha::rand_core::Rng;

use crate::colors::{self, Color, Palette};
use crate::geometry::Side;
use crate::picture::to_byte;
use crate::random::{self, Purpose};

/// Figure and ground differ by at least this in RGB (Euclidean, of 441), so that the figure can be seen.
const MIN_COLOR_DISTANCE: f64 = 96.0;
/// The centre stays this many radii away from the edges: a few figures touch or leave the picture.
const MIN_CENTER_RADII: f64 = 0.8;
/// The two tones of a texture are this far, in each channel, from the colour between them.
const TONE_OFFSET: f64 = 18.0;
/// Stripes and checks are this share of the side wide: 8 px of 128, as wide as one place of a VAE's latent.
const N_BANDS: u32 = 16;

/// What is drawn in front.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Figure {
    /// A disc.
    #[default]
    Circle,
    /// A square, turned by any angle.
    Square,
    /// An equilateral triangle, turned by any angle.
    Triangle,
    /// A star with five tips, turned by any angle.
    Star,
}

impl Figure {
    /// Every figure.
    pub const ALL: [Self; 4] = [Self::Circle, Self::Square, Self::Triangle, Self::Star];

    /// As the captions call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Circle => "circle",
            Self::Square => "square",
            Self::Triangle => "triangle",
            Self::Star => "star",
        }
    }

    /// The number of tips, and how far the outline is from the centre halfway between two of them, in radii.
    /// The outline is straight from a tip to there; a circle has none.
    fn tips(self) -> Option<(f64, f64)> {
        match self {
            Self::Circle => None,
            Self::Square => Some((4.0, (TAU / 8.0).cos())),
            Self::Triangle => Some((3.0, (TAU / 6.0).cos())),
            // A little fuller than the pentagram (0.382), so that small stars keep a body.
            Self::Star => Some((5.0, 0.45)),
        }
    }
}

/// What is drawn behind.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ground {
    /// The named colour alone.
    #[default]
    Plain,
    /// Level stripes in two tones of the named colour.
    Stripes,
    /// A chessboard in two tones of the named colour.
    Checker,
}

impl Ground {
    /// Every ground.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Stripes, Self::Checker];

    /// As the captions call it, with a space behind; nothing for a plain ground.
    fn adjective(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Stripes => "striped ",
            Self::Checker => "checkered ",
        }
    }
}

/// What [`Scene::draw`] chooses from, every choice equally likely.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SceneOptions {
    /// The figures; an empty list stands for circles.
    pub figures: &'static [Figure],
    /// The grounds; an empty list stands for plain ones.
    pub grounds: &'static [Ground],
    /// The colours of both. The tones of a texture can be nearer to another colour of [`Palette::Css`].
    pub palette: Palette,
    /// The smallest and the largest [`Scene::radius`].
    pub radius: (f64, f64),
}

impl Default for SceneOptions {
    /// Everything, in distinct colours: at 128 px, radii of 14 to 48 px.
    fn default() -> Self {
        Self {
            figures: &Figure::ALL,
            grounds: &Ground::ALL,
            palette: Palette::Distinct,
            radius: (1.0 / 9.0, 3.0 / 8.0),
        }
    }
}

/// What one generated picture holds. Lengths are shares of the side, so a scene can be drawn at any size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scene {
    /// What is in front.
    pub figure: Figure,
    /// Of the figure, from the left and from the top.
    pub center: (f64, f64),
    /// From the centre to the farthest points of the outline.
    pub radius: f64,
    /// Clockwise, in radians; at 0 a tip points up. Without effect on a circle.
    pub rotation: f64,
    /// The figure's colour.
    pub figure_color: Color,
    /// What is behind.
    pub ground: Ground,
    /// The ground's colour, which its texture varies.
    pub ground_color: Color,
}

impl Scene {
    /// The scene with a number. Equal arguments give equal scenes on every machine.
    #[must_use]
    pub fn draw(seed: u64, index: u64, options: &SceneOptions) -> Self {
        Self::choose(&mut random::rng(seed, index, "", Purpose::Shape), options)
    }

    /// The choices in their order, which must not change: it would change every data set.
    pub(crate) fn choose(rng: &mut impl Rng, options: &SceneOptions) -> Self {
        let mut between = |low: f64, high: f64| low + (high - low) * random::unit(rng);
        let radius = between(options.radius.0, options.radius.1);
        let margin = MIN_CENTER_RADII * radius;
        let center = (between(margin, 1.0 - margin), between(margin, 1.0 - margin));
        let (figure_color, ground_color) = distinct_colors(rng, options.palette.colors());
        Self {
            figure: pick(rng, options.figures),
            center,
            radius,
            rotation: TAU * random::unit(rng),
            figure_color,
            ground: pick(rng, options.grounds),
            ground_color,
        }
    }

    /// "pale golden rod circle with old lace background", "red star with striped blue background"
    #[must_use]
    pub fn caption(&self) -> String {
        let (figure_color, ground_color) = (self.figure_color.0, self.ground_color.0);
        let (figure, texture) = (self.figure.name(), self.ground.adjective());
        format!("{figure_color} {figure} with {texture}{ground_color} background")
    }

    /// The filled figure on its ground.
    #[must_use]
    pub fn picture(&self, side: Side) -> RgbImage {
        let figure = self.figure_rgb().map(f64::from);
        RgbImage::from_fn(side.pixels(), side.pixels(), |x, y| {
            let inside = coverage(self.distance(x, y, side));
            let ground = self.ground_at(x, y, side);
            Rgb(array::from_fn(|channel| {
                to_byte((ground[channel] + (figure[channel] - ground[channel]) * inside) / 255.0)
            }))
        })
    }

    /// The figure's outline in white on black: inside the figure, 1 to 3 px wide (2 px at 128).
    #[must_use]
    pub fn hint(&self, side: Side) -> RgbImage {
        let width = (f64::from(side.pixels()) / 64.0).clamp(1.0, 3.0);
        RgbImage::from_fn(side.pixels(), side.pixels(), |x, y| {
            let distance = self.distance(x, y, side);
            Rgb([to_byte(coverage(distance) - coverage(distance + width)); 3])
        })
    }

    /// The pixels that the figure covers by half or more, row by row.
    #[must_use]
    pub fn mask(&self, side: Side) -> Vec<bool> {
        let rows = 0..side.pixels();
        rows.flat_map(|y| (0..side.pixels()).map(move |x| self.distance(x, y, side) <= 0.0)).collect()
    }

    /// Red, green and blue of the figure.
    #[must_use]
    pub fn figure_rgb(&self) -> [u8; 3] {
        self.figure_color.1
    }

    /// Red, green and blue of the ground; the mean of a texture is within 18 of each.
    #[must_use]
    pub fn ground_rgb(&self) -> [u8; 3] {
        self.ground_color.1
    }

    /// How far the middle of a pixel is outside of the figure, in px; negative inside. Where it is more than a
    /// pixel outside of the circle around the figure, only as far as from that circle.
    fn distance(&self, x: u32, y: u32, side: Side) -> f64 {
        let side = f64::from(side.pixels());
        let radius = side * self.radius;
        let right = f64::from(x) + 0.5 - side * self.center.0;
        let down = f64::from(y) + 0.5 - side * self.center.1;
        let from_center = right.hypot(down);
        let from_circle = from_center - radius;
        let Some((n_tips, waist)) = self.figure.tips().filter(|_| from_circle <= 1.0) else {
            return from_circle;
        };

        // Turned and mirrored, every edge is the one from the tip at angle 0 to the waist at half a sector,
        // and a pixel's nearest edge is the one of its own half sector.
        let sector = TAU / n_tips;
        let angle = (right.atan2(-down) - self.rotation).rem_euclid(sector);
        let angle = angle.min(sector - angle);
        let edge = (radius * (waist * (sector / 2.0).cos() - 1.0), radius * waist * (sector / 2.0).sin());
        let from_tip = (from_center * angle.cos() - radius, from_center * angle.sin());

        let along = (from_tip.0 * edge.0 + from_tip.1 * edge.1) / (edge.0 * edge.0 + edge.1 * edge.1);
        let along = along.clamp(0.0, 1.0);
        let from_edge = (from_tip.0 - along * edge.0).hypot(from_tip.1 - along * edge.1);
        let is_inside = edge.0 * from_tip.1 > edge.1 * from_tip.0;
        if is_inside { -from_edge } else { from_edge }
    }

    /// The ground's colour at a pixel.
    fn ground_at(&self, x: u32, y: u32, side: Side) -> [f64; 3] {
        let place = |n_cells: u32| (x * n_cells / side.pixels(), y * n_cells / side.pixels());
        let is_light = match self.ground {
            Ground::Plain => return self.ground_rgb().map(f64::from),
            Ground::Stripes => place(N_BANDS).1 % 2 == 0,
            Ground::Checker => (place(N_BANDS).0 + place(N_BANDS).1) % 2 == 0,
        };
        self.ground_rgb().map(|value| {
            // At the ends of the range both tones move inwards: textures of all colours are equally strong.
            let middle = f64::from(value).clamp(TONE_OFFSET, 255.0 - TONE_OFFSET);
            if is_light { middle + TONE_OFFSET } else { middle - TONE_OFFSET }
        })
    }
}

/// The share of a pixel that a figure covers whose outline is at a distance from the pixel's middle.
///
/// An outline is as good as straight within a pixel, so the distance is the share.
fn coverage(distance: f64) -> f64 {
    (0.5 - distance).clamp(0.0, 1.0)
}

fn pick<T: Copy + Default>(rng: &mut impl Rng, choices: &[T]) -> T {
    let choice = random::below(rng, choices.len());
    choices.get(choice).copied().unwrap_or_default()
}

fn distinct_colors(rng: &mut impl Rng, colors: &[Color]) -> (Color, Color) {
    loop {
        let (first, second) =
            (colors[random::below(rng, colors.len())], colors[random::below(rng, colors.len())]);
        if colors::distance(first.1.map(f64::from), second.1.map(f64::from)) >= MIN_COLOR_DISTANCE {
            return (first, second);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn side(pixels: usize) -> Side {
        Side::try_from(pixels).unwrap()
    }

    /// A figure in the middle of a plain ground.
    fn red_on_blue(figure: Figure) -> Scene {
        Scene {
            figure,
            center: (0.5, 0.5),
            radius: 0.375,
            rotation: 0.0,
            figure_color: ("red", [255, 0, 0]),
            ground: Ground::Plain,
            ground_color: ("blue", [0, 0, 255]),
        }
    }

    fn is_covered(scene: &Scene, x: usize, y: usize) -> bool {
        scene.mask(side(128))[y * 128 + x]
    }

    #[test]
    fn scene_of_a_number_never_changes() {
        let scene = Scene::draw(0, 0, &SceneOptions::default());
        assert_eq!(scene.caption(), "violet star with red background");
        let millionths =
            [scene.radius, scene.center.0, scene.center.1, scene.rotation].map(|v| (v * 1e6).round());
        assert_eq!(millionths, [180_199.0, 523_001.0, 323_374.0, 2_635_834.0]);
    }

    #[test]
    fn every_choice_is_made_and_every_figure_can_be_seen() {
        let scenes: Vec<Scene> =
            (0..2_000).map(|index| Scene::draw(1, index, &SceneOptions::default())).collect();
        let seen = |of: fn(&Scene) -> String| scenes.iter().map(of).collect::<HashSet<_>>().len();
        assert_eq!(seen(|scene| format!("{:?} {:?}", scene.figure, scene.ground)), 12);
        assert_eq!(seen(|scene| scene.figure_color.0.into()), 20);
        assert_eq!(seen(|scene| scene.ground_color.0.into()), 20);
        for scene in &scenes {
            assert!((1.0 / 9.0..3.0 / 8.0).contains(&scene.radius));
            assert!(
                [scene.center.0, scene.center.1]
                    .iter()
                    .all(|at| { (0.8 * scene.radius..=1.0 - 0.8 * scene.radius).contains(at) })
            );
        }
    }

    #[test]
    fn colors_of_a_scene_are_apart_in_every_palette() {
        let options = SceneOptions { palette: Palette::Css, ..SceneOptions::default() };
        for index in 0..500 {
            let scene = Scene::draw(2, index, &options);
            let (figure, ground) = (scene.figure_rgb().map(f64::from), scene.ground_rgb().map(f64::from));
            assert!(colors::distance(figure, ground) >= MIN_COLOR_DISTANCE, "{}", scene.caption());
        }
    }

    #[test]
    fn empty_lists_stand_for_circles_on_plain_grounds() {
        let options = SceneOptions { figures: &[], grounds: &[], ..SceneOptions::default() };
        let scene = Scene::draw(0, 0, &options);
        assert_eq!((scene.figure, scene.ground), (Figure::Circle, Ground::Plain));
    }

    #[test]
    fn caption_names_colors_figure_and_texture() {
        let scene = red_on_blue(Figure::Star);
        assert_eq!(scene.caption(), "red star with blue background");
        let scene = Scene { ground: Ground::Stripes, ..scene };
        assert_eq!(scene.caption(), "red star with striped blue background");
    }

    #[test]
    fn masks_have_the_areas_of_geometry() {
        let unit_areas = [
            (Figure::Circle, TAU / 2.0),
            (Figure::Square, 2.0),
            (Figure::Triangle, 27.0_f64.sqrt() / 4.0),
            (Figure::Star, 5.0 * 0.45 * (TAU / 10.0).sin()),
        ];
        for (figure, unit_area) in unit_areas {
            for rotation in [0.0, 0.3, 1.0, 3.0] {
                let scene = Scene { rotation, ..red_on_blue(figure) };
                let area: f64 =
                    scene.mask(side(256)).iter().map(|&covered| f64::from(u8::from(covered))).sum();
                let expected = unit_area * (0.375 * 256.0_f64).powi(2);
                assert!((area / expected - 1.0).abs() < 0.01, "{figure:?} at {rotation}: {area}, {expected}");
            }
        }
    }

    #[test]
    fn tip_points_up_and_turns_clockwise() {
        // 44 px from the middle of 128, of a radius of 48: only tips reach there.
        for figure in [Figure::Square, Figure::Triangle, Figure::Star] {
            let scene = red_on_blue(figure);
            assert!(is_covered(&scene, 64, 20), "{figure:?} points up");
            let turned = Scene { rotation: TAU / 4.0, ..scene };
            assert!(is_covered(&turned, 108, 64), "{figure:?} points right after a quarter turn");
        }
        let triangle = red_on_blue(Figure::Triangle);
        assert!(!is_covered(&triangle, 64, 108) && !is_covered(&triangle, 20, 64));
    }

    #[test]
    fn outline_is_the_edge_of_the_filled_figure() {
        for index in 0..40 {
            let options = SceneOptions { grounds: &[Ground::Plain], ..SceneOptions::default() };
            let scene = Scene::draw(3, index, &options);
            let (picture, hint) = (scene.picture(side(128)), scene.hint(side(128)));
            for (x, y, pixel) in picture.enumerate_pixels() {
                let outside = scene.distance(x, y, side(128));
                let lightness = hint.get_pixel(x, y).0[0];
                let (figure, ground) = (scene.figure_rgb(), scene.ground_rgb());
                match outside {
                    _ if outside > 0.6 => assert_eq!((pixel.0, lightness), (ground, 0)),
                    _ if outside < -2.6 => assert_eq!((pixel.0, lightness), (figure, 0)),
                    _ if (-1.4..-0.6).contains(&outside) => assert_eq!((pixel.0, lightness), (figure, 255)),
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn scene_looks_the_same_at_every_size() {
        for index in 0..20 {
            let scene = Scene::draw(4, index, &SceneOptions::default());
            let (small, large) = (scene.picture(side(128)), scene.picture(side(256)));
            let halved = crate::resize(&large, 128, 128, crate::Interpolation::Bilinear);
            let errors =
                small.iter().zip(halved.iter()).map(|(left, right)| f64::from(left.abs_diff(*right)));
            let mean = errors.sum::<f64>() / (3.0 * 128.0 * 128.0);
            assert!(mean < 3.0, "{}: {mean:.2}", scene.caption());
        }
    }

    #[test]
    fn texture_is_two_tones_around_the_named_color() {
        for &(name, rgb) in Palette::Css.colors() {
            for ground in [Ground::Stripes, Ground::Checker] {
                let scene = Scene { ground, ground_color: (name, rgb), ..red_on_blue(Figure::Circle) };
                let mut tones: Vec<[f64; 3]> = Vec::new();
                let mut mean = [0.0; 3];
                for place in 0..128 * 128 {
                    let tone = scene.ground_at(place % 128, place / 128, side(128));
                    if !tones.contains(&tone) {
                        tones.push(tone);
                    }
                    mean.iter_mut().zip(tone).for_each(|(mean, value)| *mean += value / (128.0 * 128.0));
                }
                assert_eq!(tones.len(), 2, "{name} {ground:?}");
                assert!(tones.iter().flatten().all(|value| (0.0..=255.0).contains(value)));
                for (mean, named) in mean.iter().zip(rgb) {
                    let named = f64::from(named);
                    let middle = named.clamp(18.0, 237.0);
                    assert!((mean - middle).abs() < 1e-6, "{name} {ground:?}: {mean} of {named}");
                }
            }
        }
    }
}
