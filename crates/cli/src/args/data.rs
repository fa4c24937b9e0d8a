//! Arguments of `data`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use pyrograph_data::{HintMaker, Palette, Side};

/// Make data sets, and the hints of one.
#[derive(Debug, Args)]
pub(crate) struct DataArgs {
    #[command(subcommand)]
    pub(crate) command: DataCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    Circles(CirclesArgs),
    Hint(HintArgs),
}

/// Draw the fill50k task: from the outline of a circle to a filled circle on a coloured background.
///
/// Captions name the colours, as in "pale golden rod circle with old lace background" or, of the palette of distinct
/// colours, "red circle with navy background".
#[derive(Debug, Args)]
pub(crate) struct CirclesArgs {
    /// The number of samples.
    #[arg(long, default_value = "1000", value_name = "N")]
    pub(crate) count: NonZeroUsize,
    /// Width and height of the pictures in pixels, a multiple of 8.
    #[arg(long, default_value = "512", value_name = "PIXELS", value_parser = side)]
    pub(crate) size: Side,
    /// The colours.
    #[arg(long, value_enum, default_value_t = Colors::Css)]
    pub(crate) palette: Colors,
    /// Draws the circles; equal seeds give equal files.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// The folder to write; it must not exist yet or be empty.
    pub(crate) out: PathBuf,
}

/// The colours of `data circles`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Colors {
    /// All 140 of CSS, as in fill50k; many are neighbours.
    Css,
    /// 20 that nobody confuses.
    Distinct,
}

impl From<Colors> for Palette {
    fn from(colors: Colors) -> Self {
        match colors {
            Colors::Css => Self::Css,
            Colors::Distinct => Self::Distinct,
        }
    }
}

const HINT_HELP: &str = "\
Hints, with what their numbers are if they are not given:
  canny:100,200            Canny's edges as cv2.Canny(image, 100, 200) finds them
  random_canny             the same with thresholds from 50 to 150 and from 150 to 300
  soft_edge:1.5            how strongly the colours change, after a blur of 1.5 px; not HED, which is learned
  scribble:32,1            what a felt pen would draw (XDoG of ControlNet 1.1), 1 px thicker on each side
  random_scribble          the same with thresholds from 16 to 64, 0 to 3 px thicker
  tile:8                   the picture without its details: shrunk to an eighth and enlarged again
  blur:4                   the picture after a Gaussian blur of 4 px
  colors:64                squares of 64 px with the mean colour of what they cover
  grey                     its lightness
  inpaint                  the picture with holes: rectangles, strokes or all around (inpaint:rectangles, inpaint:strokes,
                           inpaint:outpaint); a file has them black, `train --hint inpaint` gives the networks -1

Instead of a number a range such as tile:2..8 is drawn from anew for each picture, in training at each pass.
Depth, poses and other learned hints come from other programs, as files.

Examples:
  pyrograph data hint canny photo.jpg edges.png
  pyrograph data hint soft_edge photos/images photos/conditioning_images";

/// Make hints of pictures: edges, scribbles, coarse copies, holes.
///
/// Pictures are left as they are, and so is every file that is there already.
#[derive(Debug, Args)]
#[command(after_help = HINT_HELP)]
pub(crate) struct HintArgs {
    /// What to make; see below.
    pub(crate) hint: HintMaker,
    /// A picture, or a folder of pictures.
    #[arg(value_name = "FILE|DIR")]
    pub(crate) input: PathBuf,
    /// The hint's PNG file, or a folder for them with the names of the pictures.
    #[arg(value_name = "FILE.png|DIR")]
    pub(crate) output: PathBuf,
    /// Draws what is drawn; equal seeds give equal files.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

pub(super) fn side(text: &str) -> Result<Side, Box<dyn std::error::Error + Send + Sync>> {
    Ok(Side::try_from(text.parse::<usize>()?)?)
}
