//! What is in a run's folder: `pyrograph checkpoint list` and `verify`.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::folder::numbered;
use super::manifest::Manifest;
use crate::TrainError;

/// A checkpoint folder and its condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckpointInfo {
    /// The folder.
    pub path: PathBuf,
    /// Bytes of all its files, by its manifest.
    pub bytes: u64,
    /// Whether it can be resumed from.
    #[serde(flatten)]
    pub condition: Condition,
}

/// Whether a checkpoint can be resumed from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "condition", content = "problem", rename_all = "snake_case")]
pub enum Condition {
    /// Every file is there with its length.
    Complete,
    /// Every file has its hash, too.
    Verified,
    /// No.
    Damaged(String),
}

/// How closely files are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thoroughness {
    /// Their lengths: at once.
    Lengths,
    /// Their contents: as long as reading them takes.
    Hashes,
}

/// The folders `checkpoint-N` of an output folder, the oldest first.
///
/// # Errors
/// [`TrainError::Io`] if the folder cannot be read.
pub fn list_checkpoints(
    output_dir: &Path,
    thoroughness: Thoroughness,
) -> Result<Vec<CheckpointInfo>, TrainError> {
    let found = numbered(output_dir)?;
    Ok(found.iter().map(|(_, path)| CheckpointInfo::of(path, thoroughness)).collect())
}

impl CheckpointInfo {
    /// One folder.
    #[must_use]
    pub fn of(path: &Path, thoroughness: Thoroughness) -> Self {
        let manifest = Manifest::read(path);
        let bytes = manifest.as_ref().map_or(0, Manifest::bytes);
        let condition = match thoroughness {
            Thoroughness::Lengths => manifest
                .and_then(|manifest| manifest.check_lengths(path))
                .map_or_else(Condition::Damaged, |()| Condition::Complete),
            Thoroughness::Hashes => manifest
                .and_then(|manifest| manifest.verify(path))
                .map_or_else(Condition::Damaged, |()| Condition::Verified),
        };
        Self { path: path.to_owned(), bytes, condition }
    }
}
