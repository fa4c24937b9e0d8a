//! Which hint is made, and of what strength.

use std::fmt;
use std::str::FromStr;

use image::RgbImage;
use rand_chacha::rand_core::Rng;
use serde::{Deserialize, Serialize};

use super::mask::{MaskKind, mask};
use super::span::Span;
use super::{CannyThresholds, MadeHint, canny, coarse, lines, white_on_black};
use crate::error::DataError;

/// How a hint is made from its picture.
///
/// As text, in files and flags, it is a name with its numbers: `canny`, `canny:100,200`, `tile:2..8`. A [`Span`] such as
/// `2..8` is drawn anew for each hint.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum HintMaker {
    /// Canny's edges, white on black: those of `cv2.Canny`. `random_canny` is `canny:50..150,150..300`.
    Canny {
        /// [`CannyThresholds::low`].
        low: Span,
        /// [`CannyThresholds::high`].
        high: Span,
    },
    /// How strongly the colours change, white on black: Sobel's gradient after a blur. A classical stand-in for learned
    /// soft edges (HED, PiDiNet), which look at objects and leave out textures.
    SoftEdge {
        /// Standard deviation of the blur in pixels.
        sigma: Span,
    },
    /// What a felt pen would draw, white on black: the difference of two blurs above a threshold, made thicker.
    /// `random_scribble` is `scribble:16..64,0..3`.
    ///
    /// Source: ControlNet 1.1's `scribble_xdog` (difference of Gaussians of 0.5 and 5 px, threshold 32).
    Scribble {
        /// Of the difference in levels of 255, times 2.
        threshold: Span,
        /// Pixels that a line grows by on each side.
        thickness: Span,
    },
    /// The picture without its details: shrunk and enlarged again.
    ///
    /// Source: ControlNet 1.1's tile model, preprocessor `tile_resample`.
    Tile {
        /// By how much it is shrunk.
        factor: Span,
    },
    /// The picture after a Gaussian blur.
    Blur {
        /// Its standard deviation in pixels.
        sigma: Span,
    },
    /// Squares of one colour each.
    ///
    /// Source: T2I-Adapter's colour condition, with squares of 64 px; ours are the mean of what they cover.
    Colors {
        /// Side of a square in pixels.
        cell: Span,
    },
    /// The lightness of the picture.
    Grey,
    /// The picture with holes, which are -1 to the networks.
    ///
    /// Source: diffusers' `make_inpaint_condition`.
    Inpaint {
        /// The shape of the holes.
        mask: MaskKind,
    },
}

/// A number of a hint: its name, what it is if it is not given, and its bounds.
struct Parameter {
    name: &'static str,
    usual: Span,
    min: f64,
    max: f64,
}

const LOW: Parameter = Parameter { name: "low", usual: Span::of(100.0), min: 0.0, max: 2_040.0 };
const HIGH: Parameter = Parameter { name: "high", usual: Span::of(200.0), ..LOW };
const SOFT: Parameter = Parameter { name: "sigma", usual: Span::of(1.5), min: 0.5, max: 64.0 };
const THRESHOLD: Parameter = Parameter { name: "threshold", usual: Span::of(32.0), min: 1.0, max: 255.0 };
const THICKNESS: Parameter = Parameter { name: "thickness", usual: Span::of(1.0), min: 0.0, max: 16.0 };
const FACTOR: Parameter = Parameter { name: "factor", usual: Span::of(8.0), min: 1.0, max: 64.0 };
const SIGMA: Parameter = Parameter { name: "sigma", usual: Span::of(4.0), ..SOFT };
const CELL: Parameter = Parameter { name: "cell", usual: Span::of(64.0), min: 1.0, max: 1_024.0 };

impl HintMaker {
    /// Every form in which one is written, for messages and help.
    pub const FORMS: [&str; 10] = [
        "canny[:LOW,HIGH]",
        "random_canny",
        "soft_edge[:SIGMA]",
        "scribble[:THRESHOLD,THICKNESS]",
        "random_scribble",
        "tile[:FACTOR]",
        "blur[:SIGMA]",
        "colors[:CELL]",
        "grey",
        "inpaint[:rectangles|strokes|outpaint]",
    ];

    /// Makes the hint of a picture; `rng` draws what is to be drawn.
    #[must_use]
    pub fn make(self, picture: &RgbImage, rng: &mut impl Rng) -> MadeHint {
        let (width, height) = picture.dimensions();
        MadeHint::of(match self {
            Self::Canny { low, high } => {
                let mut strength = |span: Span| u16::try_from(span.draw_whole(rng)).unwrap_or(u16::MAX);
                let (low, high) = (strength(low), strength(high));
                white_on_black(&canny(picture, CannyThresholds { low, high }), width, height)
            }
            Self::SoftEdge { sigma } => lines::soft_edges(picture, sigma.draw(rng)),
            Self::Scribble { threshold, thickness } => {
                let (threshold, thickness) = (threshold.draw(rng), thickness.draw_whole(rng));
                let mask = lines::scribble(picture, threshold, thickness as usize);
                white_on_black(&mask, width, height)
            }
            Self::Tile { factor } => coarse::tile(picture, factor.draw(rng)),
            Self::Blur { sigma } => coarse::blurred(picture, sigma.draw(rng)),
            Self::Colors { cell } => coarse::colors(picture, cell.draw_whole(rng)),
            Self::Grey => coarse::grey(picture),
            Self::Inpaint { mask: kind } => {
                let masked = mask(kind, width, height, rng);
                let mut picture = picture.clone();
                let places = picture.pixels_mut().zip(&masked).filter(|(_, is_masked)| **is_masked);
                places.for_each(|(pixel, _)| pixel.0 = [0; 3]);
                return MadeHint { picture, masked: Some(masked) };
            }
        })
    }
}

impl fmt::Display for HintMaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Canny { low, high } => write!(f, "canny:{low},{high}"),
            Self::SoftEdge { sigma } => write!(f, "soft_edge:{sigma}"),
            Self::Scribble { threshold, thickness } => write!(f, "scribble:{threshold},{thickness}"),
            Self::Tile { factor } => write!(f, "tile:{factor}"),
            Self::Blur { sigma } => write!(f, "blur:{sigma}"),
            Self::Colors { cell } => write!(f, "colors:{cell}"),
            Self::Grey => f.write_str("grey"),
            Self::Inpaint { mask: MaskKind::Any } => f.write_str("inpaint"),
            Self::Inpaint { mask } => write!(f, "inpaint:{mask}"),
        }
    }
}

impl FromStr for HintMaker {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self, DataError> {
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        let mut given =
            Arguments { text, rest: rest.split(',').filter(|argument| !argument.is_empty()).collect() };
        let maker = match name.replace('-', "_").as_str() {
            "canny" => Self::Canny { low: given.next(&LOW)?, high: given.next(&HIGH)? },
            "random_canny" => {
                Self::Canny { low: Span::between(50.0, 150.0), high: Span::between(150.0, 300.0) }
            }
            "soft_edge" => Self::SoftEdge { sigma: given.next(&SOFT)? },
            "scribble" => {
                Self::Scribble { threshold: given.next(&THRESHOLD)?, thickness: given.next(&THICKNESS)? }
            }
            "random_scribble" => {
                Self::Scribble { threshold: Span::between(16.0, 64.0), thickness: Span::between(0.0, 3.0) }
            }
            "tile" => Self::Tile { factor: given.next(&FACTOR)? },
            "blur" => Self::Blur { sigma: given.next(&SIGMA)? },
            "colors" => Self::Colors { cell: given.next(&CELL)? },
            "grey" => Self::Grey,
            "inpaint" => Self::Inpaint { mask: given.mask()? },
            _ => return Err(DataError::UnknownHint { name: name.to_owned() }),
        };
        given.end(maker)
    }
}

impl TryFrom<String> for HintMaker {
    type Error = DataError;

    fn try_from(text: String) -> Result<Self, DataError> {
        text.parse()
    }
}

impl From<HintMaker> for String {
    fn from(maker: HintMaker) -> Self {
        maker.to_string()
    }
}

/// What stands behind the colon.
struct Arguments<'a> {
    text: &'a str,
    rest: std::collections::VecDeque<&'a str>,
}

impl Arguments<'_> {
    fn next(&mut self, parameter: &Parameter) -> Result<Span, DataError> {
        let Some(given) = self.rest.pop_front() else { return Ok(parameter.usual) };
        let is_right = |span: &Span| span.is_within(parameter.min, parameter.max);
        given.parse().ok().filter(is_right).ok_or_else(|| DataError::HintNumber {
            text: self.text.to_owned(),
            name: parameter.name,
            given: given.to_owned(),
            min: parameter.min,
            max: parameter.max,
        })
    }

    fn mask(&mut self) -> Result<MaskKind, DataError> {
        self.rest.pop_front().map_or(Ok(MaskKind::Any), str::parse)
    }

    fn end(&self, maker: HintMaker) -> Result<HintMaker, DataError> {
        match self.rest.front() {
            None => Ok(maker),
            Some(given) => {
                Err(DataError::HintArgument { text: self.text.to_owned(), given: (*given).to_owned() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;
    use crate::random::{self, Purpose};

    fn all() -> Vec<HintMaker> {
        let names =
            ["canny", "random_canny", "soft_edge", "scribble", "random_scribble", "tile", "blur", "colors"];
        let more =
            ["grey", "inpaint", "inpaint:rectangles", "inpaint:strokes", "inpaint:outpaint", "tile:2..8"];
        names.into_iter().chain(more).map(|name| name.parse().unwrap()).collect()
    }

    fn made(maker: HintMaker, picture: &RgbImage, step: u64) -> MadeHint {
        maker.make(picture, &mut random::rng(3, step, "a.png", Purpose::Hint))
    }

    /// Waves of three lengths, from faint to strong, with thin dark lines.
    fn picture() -> RgbImage {
        RgbImage::from_fn(160, 128, |x, y| {
            let wave = |length: f64| ((f64::from(x) / length).sin() * (f64::from(y) / 9.0).cos() + 1.0) / 2.0;
            let strength = f64::from(y) / 128.0;
            let line = if (x + y) % 24 == 0 { 0.3 } else { 1.0 };
            Rgb([3.0, 7.0, 20.0]
                .map(|length| crate::picture::to_byte((0.5 + strength * (wave(length) - 0.5)) * line)))
        })
    }

    #[test]
    fn text_of_a_maker_is_read_back_as_itself() {
        for maker in all() {
            assert_eq!(maker.to_string().parse::<HintMaker>().unwrap(), maker);
            let json = serde_json::to_string(&maker).unwrap();
            assert_eq!(serde_json::from_str::<HintMaker>(&json).unwrap(), maker, "{json}");
        }
        assert_eq!("canny".parse::<HintMaker>().unwrap().to_string(), "canny:100,200");
        assert_eq!("random-canny".parse::<HintMaker>().unwrap().to_string(), "canny:50..150,150..300");
    }

    #[test]
    fn a_wrong_maker_is_refused_with_what_is_wrong() {
        #[track_caller]
        fn check(text: &str, message: &str) {
            let found = text.parse::<HintMaker>().unwrap_err().to_string();
            assert!(found.starts_with(message), "{found}");
        }
        check("cany", "there is no hint `cany`");
        check("canny:abc", "`low` of `canny:abc` is a number or range from 0 to 2040, not `abc`");
        check(
            "canny:9,1..9999",
            "`high` of `canny:9,1..9999` is a number or range from 0 to 2040, not `1..9999`",
        );
        check("tile:8..2", "`factor` of `tile:8..2` is a number or range from 1 to 64, not `8..2`");
        check("blur:NaN", "`sigma` of `blur:NaN` is a number or range from 0.5 to 64, not `NaN`");
        check("grey:1", "`grey:1` has one value too many: `1`");
        check("inpaint:holes", "there is no mask `holes`");
        assert_eq!("cany".parse::<HintMaker>().unwrap_err().hint().unwrap(), "did you mean `canny`?");
    }

    #[test]
    fn every_hint_has_the_size_of_its_picture_whatever_that_is() {
        for maker in all() {
            for (width, height) in [(1, 1), (2, 1), (1, 9), (7, 5), (64, 40)] {
                let picture = RgbImage::from_fn(width, height, |x, y| Rgb([(x * 9 + y).to_le_bytes()[0]; 3]));
                let hint = made(maker, &picture, 0);
                assert_eq!(hint.picture().dimensions(), (width, height), "{maker}");
                assert_eq!(hint.to_unit().len(), 3 * picture.pixels().len(), "{maker}");
            }
        }
    }

    #[test]
    fn a_hint_shows_something_of_its_picture_and_is_not_the_picture() {
        let picture = picture();
        for maker in all() {
            let hint = made(maker, &picture, 0);
            assert_ne!(*hint.picture(), picture, "{maker}");
            let first = hint.picture().get_pixel(0, 0);
            assert!(hint.picture().pixels().any(|pixel| pixel != first), "{maker} is blank");
        }
    }

    #[test]
    fn what_is_drawn_depends_on_the_key_alone() {
        let picture = picture();
        for text in
            ["random_canny", "random_scribble", "tile:2..8", "blur:1..9", "inpaint", "inpaint:strokes"]
        {
            let maker: HintMaker = text.parse().unwrap();
            assert_eq!(made(maker, &picture, 0), made(maker, &picture, 0), "{text}");
            let others = (1..6).any(|step| made(maker, &picture, step) != made(maker, &picture, 0));
            assert!(others, "{text} draws the same for each key");
        }
    }

    #[test]
    fn holes_are_minus_one_to_the_networks_and_black_in_a_picture() {
        let picture = RgbImage::from_pixel(64, 48, Rgb([200; 3]));
        let hint = made(HintMaker::Inpaint { mask: MaskKind::Any }, &picture, 0);
        let unit = hint.to_unit();
        let n_pixels = 64 * 48;
        let mut n_holes = 0;
        for (place, pixel) in hint.picture().pixels().enumerate() {
            let values = [0, 1, 2].map(|channel| unit[channel * n_pixels + place]);
            let is_hole = pixel.0 == [0; 3];
            n_holes += u32::from(is_hole);
            assert_eq!(values, if is_hole { [-1.0; 3] } else { [200.0 / 255.0; 3] });
        }
        assert!(n_holes > 0);
    }
}
