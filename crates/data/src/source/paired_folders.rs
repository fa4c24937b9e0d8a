//! Two folders of images with equal stems, and `.txt` or `.caption` files beside the target images (kohya's way).
//!
//! ```text
//! DIR/images/0.jpg   DIR/images/0.txt   DIR/conditioning_images/0.png
//! ```
//! If hints are made of the images, a folder of images with captions is enough: `DIR/images`, or `DIR` itself.
//! Each non-empty line of a caption file is one caption. Column names other than the defaults are taken as the
//! folders' names.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::root::{Files, Root};
use super::row::MAX_CAPTION_BYTES;
use super::{Columns, Origin, Sample, captions_of};
use crate::error::DataError;
use crate::quarantine::Quarantine;

const IMAGE_FOLDERS: [&str; 3] = ["image", "images", "target"];
const HINT_FOLDERS: [&str; 6] =
    ["conditioning_image", "conditioning_images", "conditioning", "hint", "hints", "source"];
const IMAGE_EXTENSIONS: [&str; 8] = ["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "gif"];
/// The first that is there.
const CAPTIONS: [&str; 2] = ["txt", "caption"];
/// What `N_name` may ask for.
const MAX_REPEATS: usize = 10_000;

/// Names of two folders below `root`.
pub(super) struct Folders {
    root: PathBuf,
    images: String,
    hints: String,
}

impl Folders {
    /// Whether there is any caption beside the images.
    pub(super) fn has_captions(&self) -> bool {
        let folder = self.root.join(&self.images);
        let images = files_by_stem(&folder).unwrap_or_default();
        images.keys().any(|stem| caption_file(&folder, stem).is_some())
    }
}

pub(super) fn find(dir: &Path, columns: &Columns) -> Result<Option<Folders>, DataError> {
    let defaults = Columns::default();
    for root in [dir.to_owned(), dir.join("train")] {
        let images = find_folder(&root, &columns.image, &defaults.image, &IMAGE_FOLDERS)?;
        let hints = match &columns.hint {
            Some(column) => find_folder(&root, column, defaults.hint_or_image(), &HINT_FOLDERS)?,
            // Hints are made of the images.
            None => images.clone(),
        };
        if let (Some(images), Some(hints)) = (images, hints) {
            return Ok(Some(Folders { root, images, hints }));
        }
        let itself = || ".".to_owned();
        let folders = Folders { root, images: itself(), hints: itself() };
        if columns.hint.is_none() && folders.has_captions() {
            return Ok(Some(folders));
        }
    }
    Ok(None)
}

fn find_folder(
    root: &Path,
    column: &str,
    default: &str,
    names: &[&str],
) -> Result<Option<String>, DataError> {
    let names = if column == default { names } else { &[column] };
    let found: Vec<&str> = names.iter().copied().filter(|name| root.join(name).is_dir()).collect();
    match found.as_slice() {
        [] => Ok(None),
        [name] => Ok(Some((*name).to_owned())),
        _ => Err(DataError::AmbiguousLayout {
            dir: root.to_owned(),
            found: found.into_iter().map(|name| format!("`{name}/`")).collect(),
        }),
    }
}

pub(super) fn read(folders: &Folders) -> Result<Pairs, DataError> {
    let Folders { root, images, hints } = folders;
    let mut pairs = Pairs::default();
    let prefix = if images == "." { String::new() } else { format!("{images}/") };
    pairs.add(&root.join(images), &[root.join(hints)], &prefix, 1)?;
    Ok(pairs)
}

/// Images in a folder, or in folders `N_name` of it whose images come `N` times in an epoch, with hints of the same names in another
/// folder, or in one of the same name within it.
///
/// Source: kohya-ss/sd-scripts, `--train_data_dir` and `--conditioning_data_dir`.
pub(super) fn read_apart(image_dir: &Path, hint_dir: &Path) -> Result<Pairs, DataError> {
    let unreadable = |source| DataError::Read { path: image_dir.to_owned(), source };
    let mut pairs = Pairs::default();
    let mut subsets = Vec::new();
    for entry in fs::read_dir(image_dir).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let repeats = name.split_once('_').and_then(|(count, _)| count.parse::<usize>().ok());
        if let Some(repeats) = repeats.filter(|_| entry.path().is_dir()) {
            subsets.push((name, repeats));
        }
    }
    subsets.sort();
    if subsets.is_empty() {
        pairs.add(image_dir, &[hint_dir.to_owned()], "", 1)?;
    }
    for (name, repeats) in subsets {
        if repeats > MAX_REPEATS {
            return Err(DataError::TooManyRepeats { folder: image_dir.join(name), max: MAX_REPEATS });
        }
        let hint_dirs = [hint_dir.join(&name), hint_dir.to_owned()];
        pairs.add(&image_dir.join(&name), &hint_dirs, &format!("{name}/"), repeats)?;
    }
    Ok(pairs)
}

/// Pairs that were found, and what has no counterpart.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    pub(super) samples: Vec<Sample>,
    pub(super) lacking: Lacking,
}

/// Names without their counterparts.
#[derive(Debug, Default)]
pub(super) struct Lacking {
    without_hint: Vec<String>,
    without_image: Vec<String>,
    without_caption: Vec<String>,
}

impl Lacking {
    /// All in one message, but for those in a list.
    pub(super) fn error(&self, list: &Quarantine) -> Option<DataError> {
        let unlisted =
            |names: &Vec<String>| names.iter().filter(|name| !list.contains(name)).cloned().collect();
        let [without_hint, without_image, without_caption]: [Vec<String>; 3] =
            [&self.without_hint, &self.without_image, &self.without_caption].map(unlisted);
        let is_any = !(without_hint.is_empty() && without_image.is_empty() && without_caption.is_empty());
        is_any.then_some(DataError::Unpaired { without_hint, without_image, without_caption })
    }

    /// A message for each name.
    pub(super) fn errors(&self) -> impl Iterator<Item = DataError> {
        let none = Vec::new;
        let hints = self.without_hint.iter().cloned().map(move |name| (vec![name], none(), none()));
        let images = self.without_image.iter().cloned().map(move |name| (none(), vec![name], none()));
        // Without both it is told once.
        let captions = self.without_caption.iter().filter(|name| !self.without_hint.contains(name)).cloned();
        let captions = captions.map(move |name| (none(), none(), vec![name]));
        let all = hints.chain(images).chain(captions);
        all.map(|(without_hint, without_image, without_caption)| DataError::Unpaired {
            without_hint,
            without_image,
            without_caption,
        })
    }
}

impl Pairs {
    /// Adds the images of a folder, with hints from the first of `hint_dirs` that is there.
    fn add(
        &mut self,
        image_dir: &Path,
        hint_dirs: &[PathBuf],
        prefix: &str,
        repeats: usize,
    ) -> Result<(), DataError> {
        let hint_dir = hint_dirs.iter().find(|dir| dir.is_dir()).or(hint_dirs.last()).expect("one at least");
        let images = files_by_stem(image_dir)?;
        let hints = files_by_stem(hint_dir)?;
        let (image_root, hint_root) = (Root::new(image_dir)?, Root::new(hint_dir)?);
        // Other folders have their hints in the same one.
        let is_shared = hint_dirs.len() > 1 && hint_dirs.last() == Some(hint_dir);
        let lone_hints = hints.keys().filter(|stem| !images.contains_key(*stem) && !is_shared);
        self.lacking.without_image.extend(lone_hints.cloned());
        let folder: Arc<Path> = image_dir.into();
        for (index, (stem, image)) in images.iter().enumerate() {
            let (hint, caption) = match (hints.get(stem), caption_file(image_dir, stem)) {
                (Some(hint), Some(caption)) => (hint, caption),
                (hint, caption) => {
                    self.lacking.without_hint.extend(hint.is_none().then(|| stem.clone()));
                    self.lacking.without_caption.extend(caption.is_none().then(|| stem.clone()));
                    continue;
                }
            };
            let origin = Origin { file: Arc::clone(&folder), row: index + 1 };
            let in_row = |error| DataError::Row { at: origin.clone(), source: Box::new(error) };
            let sample = Sample {
                image: image_root.content(image).map_err(in_row)?,
                hint: hint_root.content(hint).map_err(in_row)?,
                captions: image_root.file(&caption).and_then(|file| captions(&file)).map_err(in_row)?,
                id: format!("{prefix}{image}"),
                origin: origin.clone(),
            };
            self.samples.extend(std::iter::repeat_n(sample, repeats));
        }
        Ok(())
    }
}

/// The image files directly in a folder, by stem.
fn files_by_stem(folder: &Path) -> Result<BTreeMap<String, String>, DataError> {
    let unreadable = |source| DataError::Read { path: folder.to_owned(), source };
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let Some((stem, extension)) = name.to_str().and_then(|name| name.rsplit_once('.')) else {
            continue;
        };
        // Hidden files are thumbnails and resource forks that file managers leave behind.
        if stem.is_empty() || stem.starts_with('.') || !is_image_extension(extension) {
            continue;
        }
        let second = format!("{stem}.{extension}");
        if let Some(first) = files.insert(stem.to_owned(), second.clone()) {
            return Err(DataError::DuplicateStem { folder: folder.to_owned(), first, second });
        }
    }
    Ok(files)
}

fn is_image_extension(extension: &str) -> bool {
    IMAGE_EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// The name of an image's caption file.
fn caption_file(folder: &Path, stem: &str) -> Option<String> {
    CAPTIONS.iter().map(|end| format!("{stem}.{end}")).find(|name| folder.join(name).is_file())
}

fn captions(file: &Path) -> Result<Vec<String>, DataError> {
    let unreadable = |source| DataError::Read { path: file.to_owned(), source };
    let len = file.metadata().map_err(unreadable)?.len();
    if len > MAX_CAPTION_BYTES as u64 {
        return Err(DataError::LineTooLong { max_bytes: MAX_CAPTION_BYTES });
    }
    Ok(captions_of(&fs::read_to_string(file).map_err(unreadable)?))
}
