//! Which files belong to a split, from their names.
//!
//! Source: Hugging Face hub docs, "File names and splits": `train-00000-of-00002.parquet`, or a keyword between characters that are
//! no letters, in the file's name or in that of a folder.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::find::relative;
use crate::error::DataError;

/// The split that is trained on; files that name none belong to it.
pub(super) const TRAIN: &str = "train";

const KEYWORDS: [(&str, &[&str]); 3] = [
    (TRAIN, &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// The files of a split, in their order.
pub(super) fn choose<'a>(
    dir: &Path,
    files: &[&'a PathBuf],
    split: &str,
) -> Result<Vec<&'a PathBuf>, DataError> {
    let of = |file: &Path| split_of(&relative(file, Some(dir))).unwrap_or_else(|| TRAIN.to_owned());
    let chosen: Vec<&PathBuf> = files.iter().copied().filter(|file| of(file) == split).collect();
    if chosen.is_empty() && !files.is_empty() {
        let found: BTreeSet<String> = files.iter().map(|file| of(file)).collect();
        return Err(DataError::UnknownSplit {
            dir: dir.to_owned(),
            split: split.to_owned(),
            found: found.into_iter().collect(),
        });
    }
    Ok(chosen)
}

/// The split that a path names, the file before its folders.
fn split_of(path: &str) -> Option<String> {
    let (folders, file) = path.rsplit_once('/').unwrap_or(("", path));
    let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    sharded(stem).or_else(|| keyword(stem)).or_else(|| folders.rsplit('/').find_map(keyword))
}

/// `name` of `name-00000-of-00002` or `name-00000-of-00002-hash`.
fn sharded(stem: &str) -> Option<String> {
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<&str> = stem.split('-').collect();
    let place = parts
        .windows(3)
        .position(|window| is_number(window[0]) && window[1] == "of" && is_number(window[2]))?;
    Some(parts[..place].join("-")).filter(|name| !name.is_empty() && name != "data")
}

fn keyword(name: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    let mut words = name.split(|letter: char| !letter.is_ascii_alphabetic());
    words.find_map(|word| {
        let known = KEYWORDS.iter().find(|(_, words)| words.contains(&word));
        known.map(|(split, _)| (*split).to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_of_a_file_is_what_the_hub_makes_of_its_name() {
        #[track_caller]
        fn check(path: &str, expected: Option<&str>) {
            assert_eq!(split_of(path).as_deref(), expected, "{path}");
        }
        check("data/train-00000-of-00002.parquet", Some("train"));
        check("data/train-00000-of-00001-4a1f6b3c9e0d2f7a.parquet", Some("train"));
        check("data/my_split-00000-of-00002.parquet", Some("my_split"));
        check("data-00000-of-00001.arrow", None);
        check("default/train/0000.parquet", Some("train"));
        check("test/0000.parquet", Some("test"));
        check("my-val.tar", Some("validation"));
        check("training.parquet", Some("train"));
        check("strain.parquet", None);
        check("circles.parquet", None);
        check("train/test-1.parquet", Some("test"));
    }
}
