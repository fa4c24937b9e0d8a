//! Whether a hint lies where its image has what it shows.

use std::fmt;

use image::RgbImage;
use serde::Serialize;

use crate::hints::{CannyThresholds, canny};
use crate::picture::luma;

/// Shifts that are found, in pixels.
pub(super) const REACH: i32 = 8;
/// Shifts that are looked at beyond: at the end of what is found there may be a slope instead of a peak.
const BEYOND: i32 = 2;
/// Points of a hint that are looked for in its image.
const MAX_POINTS: usize = 4_096;
/// Weaker edges than those of a hint: what a hint shows may be faint in its image.
const THRESHOLDS: CannyThresholds = CannyThresholds { low: 50, high: 100 };
/// A hint is a drawing of bright lines if so much of it is dark and so much is bright, and depth, colours or tones otherwise.
const MIN_DARK: f64 = 0.7;
const MAX_BRIGHT: f64 = 0.25;
const DARK: u8 = 32;
const BRIGHT: u8 = 96;
/// A hint is told to be elsewhere if so many of its points are on edges there, so many more than here, and so many times more.
/// Poses and other hints that do not follow edges stay below the first of these.
const MIN_OVERLAP: f64 = 0.3;
const MIN_DIFFERENCE: f64 = 0.1;
const MIN_RATIO: f64 = 1.4;

/// Where a hint lies that does not lie right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Misplacement {
    /// Pixels that it is too far to the right and too far down, of the picture as it was compared.
    Shifted {
        /// Negative: to the left.
        right: i32,
        /// Negative: up.
        down: i32,
    },
    /// Mirrored, left to right.
    Mirrored,
    /// Upside down.
    Flipped,
    /// Turned by 180 degrees.
    UpsideDown,
    /// Turned by 90 degrees, to either side, and perhaps mirrored.
    Turned,
}

impl fmt::Display for Misplacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shifted { right, down } => {
                write!(f, "shifted by {right} px to the right and {down} px down")
            }
            Self::Mirrored => f.write_str("mirrored, left to right"),
            Self::Flipped => f.write_str("mirrored, top to bottom"),
            Self::UpsideDown => f.write_str("turned by 180 degrees"),
            Self::Turned => f.write_str("turned by 90 degrees"),
        }
    }
}

/// Looks for the points of a hint on the edges of its image, where it is, shifted by up to 8 px, and mirrored or turned.
///
/// # Panics
/// If the pictures are of different sizes.
pub(super) fn misplacement(image: &RgbImage, hint: &RgbImage) -> Option<Misplacement> {
    assert_eq!(image.dimensions(), hint.dimensions(), "pictures of equal size");
    let edges = Edges::of(image);
    let points = points(hint);
    if points.is_empty() {
        return None;
    }
    let here = edges.overlap(points.iter().copied());
    let (width, height) = (edges.width, edges.height);
    let mut best = (here, None);
    let mut consider = |overlap: f64, misplacement: Misplacement| {
        if overlap > best.0 {
            best = (overlap, Some(misplacement));
        }
    };
    let reach = REACH + BEYOND;
    for down in -reach..=reach {
        for right in -reach..=reach {
            let overlap = edges.overlap(points.iter().map(|&(x, y)| (x - right, y - down)));
            consider(overlap, Misplacement::Shifted { right, down });
        }
    }
    type Turn = fn((i32, i32), (i32, i32)) -> (i32, i32);
    let turns: [(Turn, Misplacement); 3] = [
        (|(x, y), (right, _)| (right - x, y), Misplacement::Mirrored),
        (|(x, y), (_, bottom)| (x, bottom - y), Misplacement::Flipped),
        (|(x, y), (right, bottom)| (right - x, bottom - y), Misplacement::UpsideDown),
    ];
    let quarter_turns: [Turn; 4] = [
        |(x, y), _| (y, x),
        |(x, y), (right, _)| (right - y, x),
        |(x, y), (_, bottom)| (y, bottom - x),
        |(x, y), (right, bottom)| (right - y, bottom - x),
    ];
    let is_square = width == height;
    let quarter_turns =
        quarter_turns.into_iter().filter(|_| is_square).map(|turn| (turn, Misplacement::Turned));
    for (turn, misplacement) in turns.into_iter().chain(quarter_turns) {
        let last = (width - 1, height - 1);
        consider(edges.overlap(points.iter().map(|&point| turn(point, last))), misplacement);
    }
    let (there, misplacement) = best;
    let is_found = there >= MIN_OVERLAP && there >= here + MIN_DIFFERENCE && there >= here * MIN_RATIO;
    misplacement.filter(|found| match found {
        Misplacement::Shifted { right, down } => is_found && right.abs().max(down.abs()) <= REACH,
        _ => is_found,
    })
}

/// The edges of an image.
struct Edges {
    width: i32,
    height: i32,
    mask: Vec<bool>,
}

impl Edges {
    fn of(image: &RgbImage) -> Self {
        let [width, height] =
            [image.width(), image.height()].map(|length| i32::try_from(length).unwrap_or(0));
        Self { width, height, mask: canny(image, THRESHOLDS) }
    }

    /// The share of the points within the image that are on an edge.
    fn overlap(&self, points: impl Iterator<Item = (i32, i32)>) -> f64 {
        let (mut n_within, mut n_on_edges) = (0_u32, 0_u32);
        for (x, y) in points {
            if (0..self.width).contains(&x) && (0..self.height).contains(&y) {
                n_within += 1;
                let place = usize::try_from(y * self.width + x).expect("both are at least 0");
                n_on_edges += u32::from(self.mask[place]);
            }
        }
        if n_within == 0 { 0.0 } else { f64::from(n_on_edges) / f64::from(n_within) }
    }
}

/// Points that should be on edges of the image: the lines of a drawing, else the edges of the hint.
fn points(hint: &RgbImage) -> Vec<(i32, i32)> {
    let levels: Vec<u8> = hint.pixels().map(|pixel| luma(pixel.0)).collect();
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 pixels")]
    let share = |of: &dyn Fn(u8) -> bool| {
        levels.iter().filter(|level| of(**level)).count() as f64 / levels.len().max(1) as f64
    };
    let is_drawing =
        share(&|level| level < DARK) >= MIN_DARK && share(&|level| level >= BRIGHT) <= MAX_BRIGHT;
    let is_point: Vec<bool> = if is_drawing {
        levels.iter().map(|level| *level >= BRIGHT).collect()
    } else {
        canny(hint, THRESHOLDS)
    };
    let width = hint.width();
    let places = (0_u32..).zip(is_point).filter(|(_, is_point)| *is_point).map(|(place, _)| place);
    let all: Vec<(i32, i32)> = places
        .filter_map(|place| Some((i32::try_from(place % width).ok()?, i32::try_from(place / width).ok()?)))
        .collect();
    let step = all.len().div_ceil(MAX_POINTS).max(1);
    all.into_iter().step_by(step).collect()
}

#[cfg(test)]
mod tests {
    use image::Rgb;
    use image::imageops::{flip_horizontal, flip_vertical, rotate90, rotate180};

    use super::*;
    use crate::hints::HintMaker;
    use crate::random::{self, Purpose};

    /// Ellipses of many colours, drawn by a seed, on a slope.
    fn image(seed: u64) -> RgbImage {
        let mut rng = random::rng(seed, 0, "", Purpose::Shape);
        let mut draw = |bound| i64::try_from(random::below(&mut rng, bound)).unwrap();
        let ellipses: Vec<_> = (0..14)
            .map(|_| (draw(160), draw(160), 6 + draw(24), 6 + draw(24), [draw(256), draw(256), draw(256)]))
            .collect();
        RgbImage::from_fn(160, 160, |x, y| {
            let (x, y) = (i64::from(x), i64::from(y));
            let inside = ellipses.iter().rev().find(|(cx, cy, rx, ry, _)| {
                (x - cx).pow(2) * ry * ry + (y - cy).pow(2) * rx * rx <= rx * rx * ry * ry
            });
            let ground = [x / 2 + 40, y / 2 + 60, 120];
            Rgb(inside.map_or(ground, |found| found.4).map(|level| u8::try_from(level).unwrap()))
        })
    }

    fn hint(maker: &str, image: &RgbImage) -> RgbImage {
        let maker: HintMaker = maker.parse().unwrap();
        maker.make(image, &mut random::rng(0, 0, "", Purpose::Hint)).picture().clone()
    }

    fn shifted(picture: &RgbImage, right: i32, down: i32) -> RgbImage {
        RgbImage::from_fn(picture.width(), picture.height(), |x, y| {
            let from = |at: u32, by: i32, length: u32| {
                u32::try_from(i32::try_from(at).unwrap() - by).ok().filter(|at| *at < length)
            };
            match (from(x, right, picture.width()), from(y, down, picture.height())) {
                (Some(x), Some(y)) => *picture.get_pixel(x, y),
                _ => Rgb([0; 3]),
            }
        })
    }

    const MAKERS: [&str; 6] = ["canny", "soft_edge", "scribble:8,1", "grey", "blur:2", "tile:4"];

    #[test]
    fn a_hint_in_its_place_is_not_told_to_be_elsewhere() {
        for seed in 0..20 {
            for maker in MAKERS {
                assert_eq!(misplacement(&image(seed), &hint(maker, &image(seed))), None, "{maker} of {seed}");
            }
        }
    }

    #[test]
    fn hints_of_edges_that_are_shifted_by_one_to_eight_pixels_are_found() {
        for seed in 0..4 {
            let image = image(seed);
            for maker in ["canny", "grey"] {
                let hint = hint(maker, &image);
                for by in 1..=8 {
                    for (right, down) in [(by, 0), (0, -by), (-by, by)] {
                        let found = misplacement(&image, &shifted(&hint, right, down));
                        assert_eq!(found, Some(Misplacement::Shifted { right, down }), "{maker} of {seed}");
                    }
                }
            }
        }
    }

    #[test]
    fn mirrored_and_turned_hints_are_found() {
        for seed in 0..4 {
            let image = image(seed);
            for maker in ["canny", "grey"] {
                let hint = hint(maker, &image);
                let found = |hint: RgbImage| misplacement(&image, &hint);
                assert_eq!(found(flip_horizontal(&hint)), Some(Misplacement::Mirrored));
                assert_eq!(found(flip_vertical(&hint)), Some(Misplacement::Flipped));
                assert_eq!(found(rotate180(&hint)), Some(Misplacement::UpsideDown));
                assert_eq!(found(rotate90(&hint)), Some(Misplacement::Turned));
            }
        }
    }

    #[test]
    fn hints_that_follow_no_edge_are_left_alone() {
        for seed in 0..20 {
            for maker in ["canny", "grey", "scribble:8,1"] {
                let other = hint(maker, &image(seed + 100));
                assert_eq!(misplacement(&image(seed), &other), None, "{maker} of {seed}");
            }
            assert_eq!(misplacement(&image(seed), &RgbImage::new(160, 160)), None);
        }
    }
}
