//! Packs a data set into a few large files.
//!
//! Pictures are copied as they are, byte for byte; only their headers are read.

mod parquet;
mod tar;

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use image::ImageFormat;

use self::parquet::ParquetFile;
use self::tar::TarFile;
use crate::content::Content;
use crate::decode::EncodedPicture;
use crate::error::DataError;
use crate::new_folder::{cannot_write, write_new_folder};
use crate::source::Sample;

/// The folder of the files, where those who load a data set look for them.
const FOLDER: &str = "data";

/// What the files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShardFormat {
    /// Parquet as `push_to_hub` of Hugging Face's `datasets` writes it.
    Parquet,
    /// Tar archives in webdataset's way.
    Tar,
}

impl ShardFormat {
    fn extension(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Tar => "tar",
        }
    }
}

/// How a data set is packed.
#[derive(Clone, Copy)]
pub struct BuildOptions<'a> {
    /// What the files are.
    pub format: ShardFormat,
    /// What the split is called in their names.
    pub split: &'a str,
    /// Bytes of pictures and captions in one file, about. A pair is never divided.
    pub shard_bytes: u64,
    /// Whether the samples have hints. Those that are made while training are no part of a data set.
    pub has_hints: bool,
    /// Is told how many samples are packed.
    pub on_progress: &'a dyn Fn(usize),
}

impl fmt::Debug for BuildOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { format, split, shard_bytes, has_hints, on_progress: _ } = self;
        let mut shown = f.debug_struct("BuildOptions");
        shown.field("format", format).field("split", split).field("shard_bytes", shard_bytes);
        shown.field("has_hints", has_hints).finish_non_exhaustive()
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Built {
    /// The number of files.
    pub n_shards: usize,
    /// Bytes of pictures and captions.
    pub n_bytes: u64,
}

/// Writes `out/data/train-00000-of-00002.parquet`, ... and a `README.md` that tells the Hub which files are which split.
///
/// Everything is made in a folder beside `out` and renamed at the end, so `out` is complete or not there. Samples are read one after
/// another, and as many are kept in memory as are in a group of rows: 64 MiB or one pair.
///
/// # Errors
/// [`DataError::OutputNotEmpty`], what the file system refuses, and [`DataError::Row`] for the first sample of which a picture
/// cannot be read.
pub fn build(samples: &[Sample], options: &BuildOptions<'_>, out: &Path) -> Result<Built, DataError> {
    write_new_folder(out, |folder| {
        let files = folder.join(FOLDER);
        fs::create_dir(&files).map_err(cannot_write(&files))?;
        let shards = shards(samples, options);
        let captions = Captions::of(samples);
        let mut n_packed = 0;
        let mut n_bytes = 0;
        for (place, &shard) in shards.iter().enumerate() {
            let BuildOptions { split, format, .. } = options;
            let name = format!("{split}-{place:05}-of-{:05}.{}", shards.len(), format.extension());
            let mut file = create(&files.join(name), options, captions)?;
            for sample in shard {
                let pair = Pair::read(sample, n_packed, options.has_hints)
                    .map_err(|error| DataError::Row { at: sample.origin.clone(), source: Box::new(error) })?;
                n_bytes += pair.n_bytes();
                file.add(&pair)?;
                n_packed += 1;
                (options.on_progress)(n_packed);
            }
            file.finish()?;
        }
        write_readme(folder, options, samples.len())?;
        Ok(Built { n_shards: shards.len(), n_bytes })
    })
}

/// The samples of each file. Sizes are those of the files, which are not read for it.
fn shards<'a>(samples: &'a [Sample], options: &BuildOptions<'_>) -> Vec<&'a [Sample]> {
    let mut shards = Vec::new();
    let mut first = 0;
    let mut bytes = 0;
    for (place, sample) in samples.iter().enumerate() {
        let hint = Some(&sample.hint).filter(|_| options.has_hints);
        let pictures = [Some(&sample.image), hint].into_iter().flatten();
        let captions: usize = sample.captions.iter().map(String::len).sum();
        let size = pictures.filter_map(Content::len).sum::<u64>() + captions as u64;
        if place > first && bytes + size > options.shard_bytes {
            shards.push(&samples[first..place]);
            (first, bytes) = (place, 0);
        }
        bytes += size;
    }
    shards.push(&samples[first..]);
    shards
}

/// How captions are written, which is the same in all rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Captions {
    /// Each sample has one, in one line.
    Line,
    /// Each sample has one.
    Text,
    /// Some samples have several.
    List,
}

impl Captions {
    fn of(samples: &[Sample]) -> Self {
        let mut captions = samples.iter().flat_map(|sample| &sample.captions);
        if samples.iter().any(|sample| sample.captions.len() != 1) {
            Self::List
        } else if captions.any(|caption| caption.trim() != caption || caption.lines().count() > 1) {
            Self::Text
        } else {
            Self::Line
        }
    }
}

/// A sample with its pictures.
struct Pair<'a> {
    /// Its number in the data set.
    place: usize,
    image: Picture,
    hint: Option<Picture>,
    captions: &'a [String],
}

/// A picture as it is in its file.
struct Picture {
    bytes: Arc<[u8]>,
    /// What names of such files end with.
    extension: &'static str,
}

impl<'a> Pair<'a> {
    fn read(sample: &'a Sample, place: usize, has_hints: bool) -> Result<Self, DataError> {
        let hint = Some(&sample.hint).filter(|_| has_hints);
        Ok(Self {
            place,
            image: Picture::read(&sample.image)?,
            hint: hint.map(Picture::read).transpose()?,
            captions: &sample.captions,
        })
    }

    fn n_bytes(&self) -> u64 {
        let pictures = [Some(&self.image), self.hint.as_ref()].into_iter().flatten();
        let captions: usize = self.captions.iter().map(String::len).sum();
        (pictures.map(|picture| picture.bytes.len()).sum::<usize>() + captions) as u64
    }
}

impl Picture {
    fn read(content: &Content) -> Result<Self, DataError> {
        let picture = EncodedPicture::read(content)?;
        picture.dimensions()?;
        let bytes = picture.into_bytes();
        let extension = match image::guess_format(&bytes) {
            Ok(ImageFormat::Jpeg) => "jpg",
            Ok(format) => format.extensions_str().first().copied().unwrap_or("png"),
            Err(source) => return Err(DataError::Decode { picture: content.to_string(), source }),
        };
        Ok(Self { bytes, extension })
    }
}

/// A file that pairs are written to.
trait ShardFile {
    fn add(&mut self, pair: &Pair<'_>) -> Result<(), DataError>;

    fn finish(self: Box<Self>) -> Result<(), DataError>;
}

fn create(
    path: &Path,
    options: &BuildOptions<'_>,
    captions: Captions,
) -> Result<Box<dyn ShardFile>, DataError> {
    let file = fs::File::create(path).map_err(cannot_write(path))?;
    Ok(match options.format {
        ShardFormat::Parquet => Box::new(ParquetFile::new(path, file, options.has_hints, captions)?),
        ShardFormat::Tar => Box::new(TarFile::new(path, file, captions)),
    })
}

/// Source: Hugging Face Hub, "Data files Configuration".
fn write_readme(folder: &Path, options: &BuildOptions<'_>, n_samples: usize) -> Result<(), DataError> {
    let BuildOptions { split, format, has_hints, .. } = options;
    let columns = match (format, has_hints) {
        (ShardFormat::Parquet, true) => "Columns: `image`, `conditioning_image`, `text`.",
        (ShardFormat::Parquet, false) => "Columns: `image`, `text`.",
        (ShardFormat::Tar, true) => {
            "Members of a sample: the image, `conditioning_image` and the caption as `txt` or `json`."
        }
        (ShardFormat::Tar, false) => "Members of a sample: the image, and the caption as `txt` or `json`.",
    };
    let text = format!(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: {split}\n    path: {FOLDER}/{split}-*\n---\n\n\
         Pairs: {n_samples}. {columns}\n",
    );
    let path = folder.join("README.md");
    fs::write(&path, text).map_err(cannot_write(&path))
}

#[cfg(test)]
mod tests;
