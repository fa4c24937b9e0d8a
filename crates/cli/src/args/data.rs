//! Arguments of `data`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use pyrograph_data::{Columns, HintMaker, Palette, ShardFormat, Side, SourceOptions};
use pyrograph_train::Bytes;

use super::hub::{HubArgs, TokenArgs};

/// Make data sets and hints, and look at them before they are trained on.
#[derive(Debug, Args)]
pub(crate) struct DataArgs {
    #[command(subcommand)]
    pub(crate) command: DataCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    Circles(CirclesArgs),
    Hint(HintArgs),
    Check(CheckArgs),
    Stats(StatsArgs),
    Build(BuildArgs),
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
    /// A picture, or a folder of pictures; of a data set, also one on the Hub, `train --hint` makes them.
    #[arg(value_name = "FILE|DIR")]
    pub(crate) input: PathBuf,
    /// The hint's PNG file, or a folder for them with the names of the pictures.
    #[arg(value_name = "FILE.png|DIR")]
    pub(crate) output: PathBuf,
    /// Draws what is drawn; equal seeds give equal files.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

const CHECK_HELP: &str = "\
Faults, for which it exits with 1 and which the quarantine lists: rows that are no sample (a column, file or partner is
missing, a path leads out of the folder), pictures that cannot be read, hints of another shape than their image, blank images
and hints, hints that are their image, hints that lie elsewhere (shifted by up to 8 px, mirrored or turned), and pairs that
are there already, byte for byte.

Worth knowing: images or hints that are there already, images that look like another (a difference hash and mean colours),
hints of another size, captions that are empty or cut off, and the share of images without colours.

`train` finds quarantine.txt in the data set's folder by itself, or elsewhere with --quarantine FILE.

Examples:
  pyrograph data check my-data
  pyrograph data check my-data --base sd15 --sheet sheet.png --quarantine my-data/quarantine.txt";

/// Which rows of a data set are read.
#[derive(Debug, Args)]
pub(crate) struct RowArgs {
    /// The data set's folder, file or name on the Hub.
    #[arg(value_name = "DIR|FILE|NAME")]
    pub(crate) dir: PathBuf,
    /// The column of target images.
    #[arg(long, value_name = "NAME", default_value = "image")]
    image_column: String,
    /// The column of conditioning images.
    #[arg(long, value_name = "NAME", default_value = "conditioning_image")]
    conditioning_image_column: String,
    /// The column of captions.
    #[arg(long, value_name = "NAME", default_value = "text")]
    caption_column: String,
    /// The split.
    #[arg(long, value_name = "NAME", default_value = "train")]
    pub(crate) dataset_split: String,
    /// The configuration: a sub-folder.
    #[arg(long, value_name = "NAME")]
    pub(crate) dataset_config_name: Option<String>,
    /// A folder of hints that are named as the images.
    #[arg(long, value_name = "DIR")]
    conditioning_data_dir: Option<PathBuf>,
    /// Hints will be made while training: there are none to look for.
    #[arg(long)]
    pub(crate) without_hints: bool,
    /// Where Parquet is unpacked to, and stays for the next command and for `train` [default: a temporary folder].
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
}

impl RowArgs {
    pub(crate) fn source(&self) -> SourceOptions {
        SourceOptions {
            columns: Columns {
                image: self.image_column.clone(),
                hint: (!self.without_hints).then(|| self.conditioning_image_column.clone()),
                caption: self.caption_column.clone(),
            },
            split: self.dataset_split.clone(),
            config: self.dataset_config_name.clone(),
            hint_dir: self.conditioning_data_dir.clone(),
            cache_dir: self.cache_dir.clone(),
        }
    }
}

/// Where captions are measured in tokens.
#[derive(Debug, Args)]
pub(crate) struct TokenizerArgs {
    /// Count the tokens of captions as this Stable Diffusion folder does, or that of a name on the Hub [default: count words].
    #[arg(long, value_name = "DIR|NAME")]
    base: Option<PathBuf>,
    /// The same for a tokenizer's own folder or name on the Hub.
    #[arg(long, value_name = "DIR|NAME", conflicts_with = "base")]
    tokenizer_name: Option<PathBuf>,
}

impl TokenizerArgs {
    /// The tokenizer's folder or name on the Hub, if there is one. Of a name on the Hub the folder in it is found there.
    pub(crate) fn folder(&self) -> Option<PathBuf> {
        let in_base = |base: &PathBuf| if base.is_dir() { base.join("tokenizer") } else { base.clone() };
        self.tokenizer_name.clone().or_else(|| self.base.as_ref().map(in_base))
    }
}

/// Look at every row of a data set before it is trained on.
///
/// All pictures are decoded, all faults are told at once, and nothing is changed or deleted.
#[derive(Debug, Args)]
#[command(after_help = CHECK_HELP)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) rows: RowArgs,
    #[command(flatten)]
    pub(crate) tokenizer: TokenizerArgs,
    /// Width and height that will be trained with: hints and images are compared at that size.
    #[arg(long, default_value = "512", value_name = "PIXELS", value_parser = side)]
    pub(crate) resolution: Side,
    /// Draw a contact sheet: image, hint, and the hint in red on the image; those with faults first, in red frames.
    #[arg(long, value_name = "FILE.png")]
    pub(crate) sheet: Option<PathBuf>,
    /// Pairs on the contact sheet, at most.
    #[arg(long, value_name = "N", default_value = "60")]
    pub(crate) sheet_pairs: NonZeroUsize,
    /// Write the rows with faults to a list that `train` leaves out.
    #[arg(long, value_name = "FILE.txt")]
    pub(crate) quarantine: Option<PathBuf>,
    /// Tell everything as one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) hub: HubArgs,
}

/// Say what is in a data set: numbers, sizes, shapes, captions, and the buckets that would result.
///
/// Pictures are not decoded; only their headers are read.
#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    #[command(flatten)]
    pub(crate) rows: RowArgs,
    #[command(flatten)]
    pub(crate) tokenizer: TokenizerArgs,
    /// The resolution that the buckets are for.
    #[arg(long, default_value = "512", value_name = "PIXELS", value_parser = side)]
    pub(crate) resolution: Side,
    /// Tell everything as one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) hub: HubArgs,
}

const BUILD_HELP: &str = "\
Pictures are copied as they are, byte for byte. The folder has data/train-00000-of-00003.parquet and so on, and a README.md: as it
is it can be uploaded to the Hub, and both `train` here and `load_dataset` of Python's datasets read it.

Of a quarantine.txt in the data set's folder the rows are left out, as in training.

Examples:
  pyrograph data build my-data packed
  pyrograph data build my-data packed --format tar --shard_size 1GB";

/// Pack a data set into a few large files: Parquet as the Hub has it, or webdataset tar archives.
#[derive(Debug, Args)]
#[command(after_help = BUILD_HELP)]
pub(crate) struct BuildArgs {
    #[command(flatten)]
    pub(crate) rows: RowArgs,
    /// The folder to write; it must not exist yet or be empty.
    pub(crate) out: PathBuf,
    /// What the files are.
    #[arg(long, value_enum, default_value_t = Format::Parquet)]
    pub(crate) format: Format,
    /// Bytes of pictures and captions in one file, about.
    #[arg(long, value_name = "BYTES", default_value = "500MB")]
    pub(crate) shard_size: Bytes,
    /// The list of rows to leave out [default: quarantine.txt in the data set's folder, if there is one].
    #[arg(long, value_name = "FILE.txt")]
    pub(crate) quarantine: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) token: TokenArgs,
}

/// The files of `data build`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// As `push_to_hub` writes them.
    Parquet,
    /// One member for each image, hint and caption.
    Tar,
}

impl From<Format> for ShardFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Parquet => Self::Parquet,
            Format::Tar => Self::Tar,
        }
    }
}

pub(super) fn side(text: &str) -> Result<Side, Box<dyn std::error::Error + Send + Sync>> {
    Ok(Side::try_from(text.parse::<usize>()?)?)
}
