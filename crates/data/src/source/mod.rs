//! Where samples come from: the layouts that are read, and what they have in common.
//!
//! Every layout is a list of shards ([`shard::Shard`]), whose rows are read one after another. [`Dataset`] lists the samples of
//! all of them; [`Stream`] reads them as they are needed.

mod arrow;
mod data;
mod dataset;
mod find;
mod paired_folders;
mod parquet;
mod root;
mod row;
mod sample;
mod shard;
mod split;
mod stream;
mod tar;
mod text;
mod unpack;
mod zip;

use std::path::PathBuf;

pub use self::data::Data;
pub(crate) use self::dataset::row_name;
pub use self::dataset::{Dataset, Survey};
pub use self::find::Layout;
pub use self::sample::{Columns, Origin, Sample};
pub(crate) use self::stream::StreamCursor;
pub use self::stream::{Stream, StreamOptions};

/// Which rows of a folder or file are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceOptions {
    /// The columns that are used.
    pub columns: Columns,
    /// The split, `train` by default.
    pub split: String,
    /// The configuration: a sub-folder.
    pub config: Option<String>,
    /// A folder of hints that are named as the images (`--conditioning_data_dir`).
    pub hint_dir: Option<PathBuf>,
    /// The folder of caches, where compressed pictures are unpacked to. Without one a temporary folder is used.
    pub cache_dir: Option<PathBuf>,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self {
            columns: Columns::default(),
            split: split::TRAIN.to_owned(),
            config: None,
            hint_dir: None,
            cache_dir: None,
        }
    }
}

/// The captions of a text file: each line that is not empty is one, and an empty file is an empty one.
fn captions_of(text: &str) -> Vec<String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines: Vec<String> =
        text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { vec![String::new()] } else { lines }
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod layouts;
#[cfg(test)]
mod tests;
