//! Hugging Face `imagefolder`: images and a `metadata.jsonl` or `metadata.csv`.
//!
//! Column `file_name` becomes column `image`, `X_file_name` becomes `X`; paths are relative to the metadata
//! file. Plain columns with relative paths are read too, so that `{"image": "a.png", "text": "..."}` works.
//!
//! Source: Hugging Face datasets, guide "Create an image dataset", section `ImageFolder`.

use std::path::{Path, PathBuf};

use super::rows::{self, Row};
use super::{Columns, Sample};
use crate::error::DataError;

const METADATA_FILES: [&str; 4] =
    ["metadata.jsonl", "metadata.csv", "train/metadata.jsonl", "train/metadata.csv"];

pub(super) fn find(dir: &Path) -> Result<Option<PathBuf>, DataError> {
    rows::find_one(dir, &METADATA_FILES)
}

pub(super) fn read(metadata: &Path, columns: &Columns) -> Result<Vec<Sample>, DataError> {
    rows::read(metadata, columns, with_dataset_names)
}

fn with_dataset_names(row: Row) -> Row {
    let (files, mut renamed): (Row, Row) = row.into_iter().partition(|(name, _)| name.ends_with("file_name"));
    for (name, value) in files {
        let column = match name.strip_suffix("_file_name") {
            Some(column) => column.to_owned(),
            None if name == "file_name" => "image".to_owned(),
            None => name,
        };
        renamed.insert(column, value);
    }
    renamed
}
