//! What can be wrong with a data set, and what to do about it.

mod advice;

use std::fmt;
use std::path::PathBuf;

use crate::hints::HintMaker;
use crate::order::Cursor;
use crate::source::Origin;

/// How many names of a list an error message shows.
const SHOWN_NAMES: usize = 10;

/// Everything this crate can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file or folder cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file or folder cannot be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The folder holds none of the layouts this crate reads.
    #[error("`{}` is not a data set this program can read", dir.display())]
    UnknownLayout {
        /// The folder.
        dir: PathBuf,
    },
    /// More than one file or folder could be meant.
    #[error("`{}` is ambiguous: it has {}", dir.display(), found.join(" and "))]
    AmbiguousLayout {
        /// The folder.
        dir: PathBuf,
        /// What was found in it, relative to `dir`.
        found: Vec<String>,
    },
    /// The data set has no sample.
    #[error("the data set `{}` is empty", dir.display())]
    Empty {
        /// The folder.
        dir: PathBuf,
    },
    /// More samples were asked for than there are.
    #[error("{requested} samples were asked for, the data set has {available}")]
    TooFewSamples {
        /// `max_train_samples`.
        requested: usize,
        /// The size of the data set.
        available: usize,
    },
    /// One row of the data set cannot be used; the source says why.
    #[error("cannot use row {at}")]
    Row {
        /// The metadata file and its line.
        at: Origin,
        /// The reason.
        source: Box<DataError>,
    },
    /// A row of a `.jsonl` file is not a JSON object.
    #[error("expected one JSON object per line")]
    InvalidJson {
        /// Where in the line, and why.
        source: serde_json::Error,
    },
    /// A row of a `.csv` file cannot be parsed.
    #[error("expected a comma-separated row with as many fields as the header")]
    InvalidCsv {
        /// Where, and why.
        source: csv::Error,
    },
    /// A line is longer than a caption and two paths can be.
    #[error("the line is longer than {max_bytes} bytes")]
    LineTooLong {
        /// The limit.
        max_bytes: usize,
    },
    /// A selected column is not there. The wording is that of the reference scripts.
    #[error("--{flag} value '{column}' not found in dataset columns. Dataset columns are: {}", columns.join(", "))]
    MissingColumn {
        /// The flag that selects the column.
        flag: &'static str,
        /// The column it selects.
        column: String,
        /// The columns of the row.
        columns: Vec<String>,
    },
    /// A column that should hold a path holds something else.
    #[error("column `{column}` holds {found}, expected the path of an image")]
    NotAPath {
        /// The column.
        column: String,
        /// The JSON value found.
        found: String,
    },
    /// A caption is neither a string nor a list of strings.
    #[error("column `{column}` holds {found}, expected a string or a list of strings")]
    NotACaption {
        /// The column.
        column: String,
        /// The JSON value found.
        found: String,
    },
    /// A path in a metadata file could leave the data set's folder.
    #[error("path `{path}` {fault}")]
    UnsafePath {
        /// The path as written in the metadata file.
        path: String,
        /// What is wrong with it.
        fault: PathFault,
    },
    /// A file named by a metadata file is not there.
    #[error("`{}` does not exist or is not a file", path.display())]
    MissingFile {
        /// The file.
        path: PathBuf,
    },
    /// A picture is larger than any that can be decoded.
    #[error("`{name}` is larger than {} MiB", max_bytes >> 20)]
    ContentTooLarge {
        /// The file, or its name in another.
        name: String,
        /// The limit.
        max_bytes: u64,
    },
    /// A file with many pictures in it is another than when it was opened.
    #[error("`{}` has changed since it was opened", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A part of a file has another length or checksum than the file says.
    #[error("`{name}` is damaged")]
    DamagedPart {
        /// The file, and the part's name in it.
        name: String,
    },
    /// A table or archive that is not what its name says, or breaks off.
    #[error("`{}` is damaged: {reason}", path.display())]
    DamagedTable {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        reason: String,
    },
    /// A table or archive that would take more memory than any honest one.
    #[error("`{}` is refused: {fault}", path.display())]
    RefusedTable {
        /// The file.
        path: PathBuf,
        /// What is too much.
        fault: TableFault,
    },
    /// A shard has fewer rows than when it was counted.
    #[error("`{}` has fewer than the {expected} rows that were counted", path.display())]
    FewerRows {
        /// The file.
        path: PathBuf,
        /// The rows counted.
        expected: usize,
    },
    /// A name in a table is that of no file in its archive.
    #[error("`{name}` is not in the archive")]
    NotInArchive {
        /// The name.
        name: String,
    },
    /// An entry of an archive cannot be read.
    #[error("`{name}` {reason}")]
    RefusedEntry {
        /// Its name in the archive.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A link or a device in an archive.
    #[error("`{name}` is a link or no file")]
    NotAPlainMember {
        /// Its name in the archive.
        name: String,
    },
    /// A sample of an archive has more members than any honest one.
    #[error("the sample has more than {max} members")]
    TooManyMembers {
        /// The limit.
        max: usize,
    },
    /// A caption is not UTF-8.
    #[error("`{name}` is not UTF-8 text")]
    NotText {
        /// Its name in the archive, or what it is.
        name: String,
    },
    /// An archive of pictures without a table of them.
    #[error("`{}` has no metadata.jsonl, metadata.csv or prompt.json", path.display())]
    NoTableInArchive {
        /// The archive.
        path: PathBuf,
    },
    /// A data set does not have the split.
    #[error("`{}` has no split `{split}`, only {}", dir.display(), found.join(", "))]
    UnknownSplit {
        /// The folder.
        dir: PathBuf,
        /// The split asked for.
        split: String,
        /// Those that are there.
        found: Vec<String>,
    },
    /// A data set does not have the configuration.
    #[error("`{}` has no configuration `{config}`; its folders are: {}", dir.display(), found.join(", "))]
    UnknownConfig {
        /// The folder.
        dir: PathBuf,
        /// The configuration asked for.
        config: String,
        /// The folders that are there.
        found: Vec<String>,
    },
    /// A folder has more tables and archives than any honest one.
    #[error("`{}` has more than {max} tables and archives", dir.display())]
    TooManyShards {
        /// The folder.
        dir: PathBuf,
        /// The limit.
        max: usize,
    },
    /// A folder `N_name` asks for its images too many times.
    #[error("`{}` asks for its images more than {max} times", folder.display())]
    TooManyRepeats {
        /// The folder.
        folder: PathBuf,
        /// The limit.
        max: usize,
    },
    /// So many samples cannot be used that something is wrong with all of them.
    #[error("{n_left_out} of {n_samples} samples cannot be used, {max} may be left out")]
    TooManyLeftOut {
        /// Samples left out so far.
        n_left_out: usize,
        /// All samples.
        n_samples: usize,
        /// The limit, `max_bad_samples`.
        max: usize,
        /// Why the last of them cannot be used.
        source: Box<DataError>,
    },
    /// Images without hints, hints without images, or images without captions in a pair of folders.
    #[error(
        "images and hints do not pair up{}{}{}",
        Names { what: "image(s) without a hint", names: without_hint },
        Names { what: "hint(s) without an image", names: without_image },
        Names { what: "image(s) without a .txt caption", names: without_caption },
    )]
    Unpaired {
        /// Stems of images that have no hint.
        without_hint: Vec<String>,
        /// Stems of hints that have no image.
        without_image: Vec<String>,
        /// Stems of images that have no caption.
        without_caption: Vec<String>,
    },
    /// Two files of one folder have the same stem.
    #[error("`{first}` and `{second}` in `{}` have the same stem", folder.display())]
    DuplicateStem {
        /// The folder.
        folder: PathBuf,
        /// One file name.
        first: String,
        /// The other.
        second: String,
    },
    /// An image cannot be decoded.
    #[error("cannot decode `{picture}`")]
    Decode {
        /// The file, or its name in another.
        picture: String,
        /// What the decoder said.
        source: image::ImageError,
    },
    /// A decoder panicked: a fault of the decoder, met by a damaged file.
    #[error("cannot decode `{picture}`: the decoder panicked ({message})")]
    DecoderPanicked {
        /// The file, or its name in another.
        picture: String,
        /// The panic's message.
        message: String,
    },
    /// An image is so long and thin that resizing its shorter side would make it huge.
    #[error("an image of {width}x{height} px is too long and thin to resize its shorter side to {side} px")]
    TooElongated {
        /// In pixels.
        width: u32,
        /// In pixels.
        height: u32,
        /// The side asked for.
        side: usize,
    },
    /// An image and its hint have different shapes.
    #[error(
        "the image is {}x{} px and its hint {}x{} px: their aspect ratios differ by more than 1 %",
        image.0, image.1, hint.0, hint.1
    )]
    AspectMismatch {
        /// Width and height of the image.
        image: (u32, u32),
        /// Width and height of the hint.
        hint: (u32, u32),
    },
    /// A side in pixels that the VAE and the hint embedding cannot halve three times.
    #[error("{value} px is not a positive multiple of 8 up to {max}")]
    InvalidSide {
        /// The number given.
        value: usize,
        /// The largest side.
        max: usize,
    },
    /// The name of no [`Interpolation`](crate::Interpolation).
    #[error("unknown interpolation `{name}`, expected nearest, box, bilinear, hamming, bicubic or lanczos")]
    UnknownInterpolation {
        /// The name given.
        name: String,
    },
    /// The name of no [`HintKind`](crate::HintKind).
    #[error("unknown kind of hint `{name}`, expected outline or canny")]
    UnknownHintKind {
        /// The name given.
        name: String,
    },
    /// The name of no [`HintMaker`](crate::HintMaker).
    #[error("there is no hint `{name}`; hints are {}", HintMaker::FORMS.join(", "))]
    UnknownHint {
        /// The name given.
        name: String,
    },
    /// A number of a hint is none, or too small or large.
    #[error("`{name}` of `{text}` is a number or range from {min} to {max}, not `{given}`")]
    HintNumber {
        /// The hint as given.
        text: String,
        /// Which of its numbers.
        name: &'static str,
        /// The number as given.
        given: String,
        /// The least.
        min: f64,
        /// The most.
        max: f64,
    },
    /// A hint is given more values than it has.
    #[error("`{text}` has one value too many: `{given}`")]
    HintArgument {
        /// The hint as given.
        text: String,
        /// The first that is too many.
        given: String,
    },
    /// The name of no [`MaskKind`](crate::MaskKind).
    #[error("there is no mask `{name}`")]
    UnknownMask {
        /// The name given.
        name: String,
    },
    /// A hint too small to be cut to multiples of 8.
    #[error("`{}` is {width}x{height} px, expected at least 8x8", path.display())]
    HintTooSmall {
        /// The file.
        path: PathBuf,
        /// In pixels.
        width: u32,
        /// In pixels.
        height: u32,
    },
    /// A buffer of numbers is no RGB image of that size.
    #[error("expected {expected} numbers for an RGB image of {width}x{height} px, found {found}")]
    PixelCount {
        /// In pixels.
        width: u32,
        /// In pixels.
        height: u32,
        /// `3 * height * width`.
        expected: usize,
        /// The length of the buffer.
        found: usize,
    },
    /// An image cannot be written as PNG.
    #[error("cannot write `{}`", path.display())]
    Encode {
        /// The file.
        path: PathBuf,
        /// What the encoder said.
        source: image::ImageError,
    },
    /// A text of a picture that no program would write.
    #[error("the text `{keyword}` of `{}` is longer than {} KiB", path.display(), max_bytes >> 10)]
    TextTooLong {
        /// The file.
        path: PathBuf,
        /// The text's keyword.
        keyword: String,
        /// What is read at most.
        max_bytes: usize,
    },
    /// A cursor that points behind the end of an epoch: it belongs to another data set or batch size.
    #[error("batch {} of an epoch was asked for, an epoch has {batches_per_epoch}", cursor.batch)]
    CursorOutOfRange {
        /// The cursor.
        cursor: Cursor,
        /// The number of batches in an epoch.
        batches_per_epoch: usize,
    },
    /// A loader's thread cannot be started.
    #[error("cannot start a loader thread")]
    SpawnWorker {
        /// What the system said.
        source: std::io::Error,
    },
    /// A loader's worker panicked while it made a batch.
    #[error("a loader worker panicked: {message}")]
    WorkerPanicked {
        /// The panic's message.
        message: String,
    },
    /// A loader's worker ended without a word.
    #[error("a loader worker stopped")]
    WorkerStopped,
    /// A file that is to be written is there already.
    #[error("`{}` is there already", path.display())]
    OutputExists {
        /// The file.
        path: PathBuf,
    },
    /// The folder to write a new data set to already holds something.
    #[error("`{}` already exists and is not an empty folder", path.display())]
    OutputNotEmpty {
        /// The folder.
        path: PathBuf,
    },
}

/// Why a path in a metadata file is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathFault {
    /// The empty string.
    #[error("is empty")]
    Empty,
    /// `/etc/passwd` or `C:/x.png`.
    #[error("is absolute, expected one relative to the metadata file")]
    Absolute,
    /// A `..` anywhere.
    #[error("contains `..`")]
    Parent,
    /// A backslash, which is a separator on one system and a letter on another.
    #[error("contains a backslash, expected `/` between folders")]
    Backslash,
    /// More than any system takes.
    #[error("is longer than 4096 bytes")]
    TooLong,
    /// A NUL byte.
    #[error("contains a NUL byte")]
    Nul,
    /// A link that points out of the folder.
    #[error("is a link out of the data set's folder")]
    LinkOutside,
}

/// What of a table or archive is too much.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TableFault {
    /// A Parquet file's table of contents.
    #[error("its table of contents has {bytes} bytes, at most {max} are read")]
    Footer {
        /// Its length.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// The row groups of a Parquet file.
    #[error("it has {found} row groups, at most {max} are read")]
    RowGroups {
        /// Their number.
        found: usize,
        /// The limit.
        max: usize,
    },
    /// A column of a row group in a Parquet file.
    #[error("column `{column}` of a row group unpacks to {bytes} bytes, at most {max} are read")]
    Chunk {
        /// The column.
        column: String,
        /// Its bytes, by the file's own account.
        bytes: i64,
        /// The limit.
        max: i64,
    },
    /// A number of rows below zero.
    #[error("a row group has less than no rows")]
    NegativeRows,
    /// A name in a tar archive.
    #[error("a name in it has {bytes} bytes, at most {max} are read")]
    LongName {
        /// Its length.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// The entries of a zip archive.
    #[error("it has {found} entries, at most {max} are read from a file of this size")]
    Entries {
        /// Their number.
        found: usize,
        /// The limit.
        max: u64,
    },
}

/// `; 12 hint(s) without an image: a, b, ...`, or nothing if there are none.
struct Names<'a> {
    what: &'static str,
    names: &'a [String],
}

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.names.is_empty() {
            return Ok(());
        }
        let shown = &self.names[..self.names.len().min(SHOWN_NAMES)];
        write!(f, "; {} {}: {}", self.names.len(), self.what, shown.join(", "))?;
        if self.names.len() > shown.len() { f.write_str(", ...") } else { Ok(()) }
    }
}
