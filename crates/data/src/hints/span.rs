//! A number that is given, or drawn between two.

use std::fmt;
use std::str::FromStr;

use rand_chacha::rand_core::Rng;

use crate::random;

/// A number, or a range from which one is drawn for each hint: `100`, `50..150`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    from: f64,
    to: f64,
}

impl Span {
    /// One number.
    pub(crate) const fn of(number: f64) -> Self {
        Self { from: number, to: number }
    }

    /// Any number of a range.
    pub(crate) const fn between(from: f64, to: f64) -> Self {
        Self { from, to }
    }

    /// The number, drawn uniformly if there is a choice. A draw is made in any case, so that what is drawn after it does
    /// not depend on it.
    pub(crate) fn draw(self, rng: &mut impl Rng) -> f64 {
        self.from + (self.to - self.from) * random::unit(rng)
    }

    /// The same, rounded to a whole number; those at the ends are as likely as the others.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be small where it is read"
    )]
    pub(crate) fn draw_whole(self, rng: &mut impl Rng) -> u32 {
        let (from, to) = (self.from.round(), self.to.round());
        (from + ((to - from + 1.0) * random::unit(rng)).floor()) as u32
    }

    /// Whether both ends lie within these bounds, in order.
    pub(crate) fn is_within(self, min: f64, max: f64) -> bool {
        min <= self.from && self.from <= self.to && self.to <= max
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.from.to_bits() == self.to.to_bits() {
            write!(f, "{}", self.from)
        } else {
            write!(f, "{}..{}", self.from, self.to)
        }
    }
}

impl FromStr for Span {
    type Err = std::num::ParseFloatError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once("..") {
            Some((from, to)) => Ok(Self { from: from.trim().parse()?, to: to.trim().parse()? }),
            None => text.trim().parse().map(Self::of),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;

    #[test]
    fn whole_numbers_are_drawn_with_both_ends_equally_often() {
        let mut rng = random::rng(0, 0, "", Purpose::Hint);
        let mut counts = [0; 4];
        for _ in 0..4_000 {
            counts[Span::between(0.0, 3.0).draw_whole(&mut rng) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (850..1_150).contains(count)), "{counts:?}");
        assert_eq!(Span::of(7.0).draw_whole(&mut rng), 7);
    }

    #[test]
    fn a_span_survives_being_written_and_read() {
        for text in ["100", "50..150", "1.5", "0.5..2"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        assert!("a..b".parse::<Span>().is_err());
    }
}
