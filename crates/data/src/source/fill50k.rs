//! The original fill50k: `prompt.json` with one row per line, `source/` with hints, `target/` with images.
//!
//! The columns get the data-set names `image` (target), `conditioning_image` (source) and `text` (prompt).
//!
//! Source: lllyasviel/ControlNet, `docs/train.md` and `tutorial_dataset.py`.

use std::path::{Path, PathBuf};

use super::rows::{self, Row};
use super::{Columns, Sample};
use crate::error::DataError;

pub(super) fn find(dir: &Path) -> Option<PathBuf> {
    Some(dir.join("prompt.json")).filter(|prompts| prompts.is_file())
}

pub(super) fn read(prompts: &Path, columns: &Columns) -> Result<Vec<Sample>, DataError> {
    rows::read(prompts, columns, with_dataset_names)
}

fn with_dataset_names(row: Row) -> Row {
    row.into_iter()
        .map(|(name, value)| {
            let column = match name.as_str() {
                "target" => "image",
                "source" => "conditioning_image",
                "prompt" => "text",
                _ => return (name, value),
            };
            (column.to_owned(), value)
        })
        .collect()
}
