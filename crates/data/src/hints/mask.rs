//! Holes of inpainting hints.

use std::fmt;
use std::str::FromStr;

use rand_chacha::rand_core::Rng;
use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::random;

/// The shape of the holes of an inpainting hint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaskKind {
    /// Any of the others, equally likely.
    Any,
    /// One to four rectangles, each from an eighth to a half of the picture wide and high.
    Rectangles,
    /// One to four strokes of a brush, each of two to six straight pieces.
    Strokes,
    /// All but a rectangle of which each side is from 0.4 to 0.8 of the picture's.
    Outpaint,
}

impl MaskKind {
    const NAMED: [(&'static str, Self); 4] = [
        ("any", Self::Any),
        ("rectangles", Self::Rectangles),
        ("strokes", Self::Strokes),
        ("outpaint", Self::Outpaint),
    ];
}

impl fmt::Display for MaskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = Self::NAMED.iter().find(|(_, kind)| kind == self);
        f.write_str(found.expect("every kind has a name").0)
    }
}

impl FromStr for MaskKind {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self, DataError> {
        let found = Self::NAMED.into_iter().find(|(known, _)| *known == name);
        found.map(|(_, kind)| kind).ok_or_else(|| DataError::UnknownMask { name: name.to_owned() })
    }
}

/// Whether each pixel is in a hole, row by row. Some are.
pub(super) fn mask(kind: MaskKind, width: u32, height: u32, rng: &mut impl Rng) -> Vec<bool> {
    let canvas = Canvas { width, height };
    match kind {
        MaskKind::Any => {
            let kinds = [MaskKind::Rectangles, MaskKind::Strokes, MaskKind::Outpaint];
            mask(kinds[random::below(rng, kinds.len())], width, height, rng)
        }
        MaskKind::Rectangles => {
            let holes: Vec<Rectangle> =
                (0..=random::below(rng, 4)).map(|_| canvas.rectangle(0.125, 0.5, rng)).collect();
            canvas.filled(|x, y| holes.iter().any(|hole| hole.contains(x, y)))
        }
        MaskKind::Strokes => {
            let strokes: Vec<Stroke> = (0..=random::below(rng, 4)).map(|_| canvas.stroke(rng)).collect();
            canvas.filled(|x, y| strokes.iter().any(|stroke| stroke.contains(x, y)))
        }
        MaskKind::Outpaint => {
            let kept = canvas.rectangle(0.4, 0.8, rng);
            canvas.filled(|x, y| !kept.contains(x, y))
        }
    }
}

struct Canvas {
    width: u32,
    height: u32,
}

struct Rectangle {
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
}

impl Rectangle {
    fn contains(&self, x: f64, y: f64) -> bool {
        (self.left..self.right).contains(&x) && (self.top..self.bottom).contains(&y)
    }
}

/// Points that a round brush passes.
struct Stroke {
    points: Vec<[f64; 2]>,
    radius: f64,
}

impl Stroke {
    fn contains(&self, x: f64, y: f64) -> bool {
        self.points.windows(2).any(|piece| distance([x, y], piece[0], piece[1]) <= self.radius)
    }
}

impl Canvas {
    /// The pixels whose centre is inside; the middle one if none is, since a hint without a hole says all.
    fn filled(&self, is_inside: impl Fn(f64, f64) -> bool) -> Vec<bool> {
        let rows = 0..self.height;
        let mut mask: Vec<bool> = rows
            .flat_map(|y| (0..self.width).map(move |x| (f64::from(x) + 0.5, f64::from(y) + 0.5)))
            .map(|(x, y)| is_inside(x, y))
            .collect();
        let middle = mask.len() / 2;
        if !mask.contains(&true)
            && let Some(pixel) = mask.get_mut(middle)
        {
            *pixel = true;
        }
        mask
    }

    /// A rectangle whose sides are drawn between two shares of the picture's.
    fn rectangle(&self, min_share: f64, max_share: f64, rng: &mut impl Rng) -> Rectangle {
        let mut side = |length: u32| {
            let length = f64::from(length);
            let extent = length * between(min_share, max_share, rng);
            let start = (length - extent) * random::unit(rng);
            (start, start + extent)
        };
        let ((left, right), (top, bottom)) = (side(self.width), side(self.height));
        Rectangle { left, top, right, bottom }
    }

    fn stroke(&self, rng: &mut impl Rng) -> Stroke {
        let (width, height) = (f64::from(self.width), f64::from(self.height));
        let shorter = width.min(height);
        let radius = shorter * between(0.02, 0.08, rng);
        let mut point = [width * random::unit(rng), height * random::unit(rng)];
        let mut angle = std::f64::consts::TAU * random::unit(rng);
        let mut points = vec![point];
        for _ in 0..2 + random::below(rng, 5) {
            // The brush turns by at most 90 degrees and stays in the picture.
            angle += std::f64::consts::PI * (random::unit(rng) - 0.5);
            let length = shorter * between(0.1, 0.3, rng);
            let moved = |from: f64, direction: f64, end: f64| (from + length * direction).clamp(0.0, end);
            point = [moved(point[0], angle.cos(), width), moved(point[1], angle.sin(), height)];
            points.push(point);
        }
        Stroke { points, radius }
    }
}

fn between(from: f64, to: f64, rng: &mut impl Rng) -> f64 {
    from + (to - from) * random::unit(rng)
}

/// Of a point from a piece of a straight line.
fn distance(point: [f64; 2], start: [f64; 2], end: [f64; 2]) -> f64 {
    let along = [end[0] - start[0], end[1] - start[1]];
    let away = [point[0] - start[0], point[1] - start[1]];
    let squared = along[0].powi(2) + along[1].powi(2);
    let share = if squared > 0.0 { (away[0] * along[0] + away[1] * along[1]) / squared } else { 0.0 };
    let share = share.clamp(0.0, 1.0);
    (away[0] - share * along[0]).hypot(away[1] - share * along[1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;

    #[test]
    fn holes_leave_something_and_take_something() {
        for kind in [MaskKind::Rectangles, MaskKind::Strokes, MaskKind::Outpaint] {
            let mut shares: Vec<f64> = (0..200)
                .map(|step| {
                    let found = mask(kind, 96, 64, &mut random::rng(0, step, "", Purpose::Hint));
                    #[expect(clippy::cast_precision_loss, reason = "a few thousand pixels")]
                    let share = |n: usize| n as f64 / found.len() as f64;
                    share(found.iter().filter(|is_hole| **is_hole).count())
                })
                .collect();
            shares.sort_by(f64::total_cmp);
            assert!(shares[0] > 0.0 && shares[199] < 1.0, "{kind}: {} to {}", shares[0], shares[199]);
            assert!(shares[199] - shares[0] > 0.2, "{kind} is always about as large");
        }
    }
}
