//! Two folders of images with equal stems, and `.txt` captions beside the target images (kohya's way).
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

use super::root::Root;
use super::{Columns, Origin, Sample};
use crate::error::DataError;

const IMAGE_FOLDERS: [&str; 3] = ["image", "images", "target"];
const HINT_FOLDERS: [&str; 6] =
    ["conditioning_image", "conditioning_images", "conditioning", "hint", "hints", "source"];
const IMAGE_EXTENSIONS: [&str; 7] = ["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff"];

/// Names of two folders below `root`.
pub(super) struct Folders {
    root: PathBuf,
    images: String,
    hints: String,
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
        if columns.hint.is_none() && has_captioned_image(&root) {
            let itself = || ".".to_owned();
            return Ok(Some(Folders { root, images: itself(), hints: itself() }));
        }
    }
    Ok(None)
}

fn has_captioned_image(folder: &Path) -> bool {
    let images = files_by_stem(folder).unwrap_or_default();
    images.keys().any(|stem| folder.join(format!("{stem}.txt")).is_file())
}

/// The path of a file in one of the folders.
fn path_in(folder: &str, name: &str) -> String {
    if folder == "." { name.to_owned() } else { format!("{folder}/{name}") }
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

pub(super) fn read(folders: &Folders) -> Result<Vec<Sample>, DataError> {
    let root = Root::new(&folders.root)?;
    let image_dir = folders.root.join(&folders.images);
    let images = files_by_stem(&image_dir)?;
    let hints = files_by_stem(&folders.root.join(&folders.hints))?;

    let missing_in = |files: &BTreeMap<String, String>, stem: &&String| !files.contains_key(*stem);
    let without_hint: Vec<String> = images.keys().filter(|stem| missing_in(&hints, stem)).cloned().collect();
    let without_image: Vec<String> = hints.keys().filter(|stem| missing_in(&images, stem)).cloned().collect();
    let has_caption = |stem: &&String| image_dir.join(format!("{stem}.txt")).is_file();
    let without_caption: Vec<String> = images.keys().filter(|stem| !has_caption(stem)).cloned().collect();
    if !(without_hint.is_empty() && without_image.is_empty() && without_caption.is_empty()) {
        return Err(DataError::Unpaired { without_hint, without_image, without_caption });
    }

    let folder: Arc<Path> = image_dir.into();
    images
        .iter()
        .zip(hints.values())
        .enumerate()
        .map(|(index, ((stem, image), hint))| {
            let origin = Origin { file: Arc::clone(&folder), row: index + 1 };
            let in_row = |error| DataError::Row { at: origin.clone(), source: Box::new(error) };
            let id = path_in(&folders.images, image);
            Ok(Sample {
                image: root.file(&id).map_err(in_row)?.into(),
                hint: root.file(&path_in(&folders.hints, hint)).map_err(in_row)?.into(),
                captions: root
                    .file(&path_in(&folders.images, &format!("{stem}.txt")))
                    .and_then(|file| captions(&file))
                    .map_err(in_row)?,
                id,
                origin,
            })
        })
        .collect()
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

fn captions(file: &Path) -> Result<Vec<String>, DataError> {
    let text =
        fs::read_to_string(file).map_err(|source| DataError::Read { path: file.to_owned(), source })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let lines: Vec<String> =
        text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
    Ok(if lines.is_empty() { vec![String::new()] } else { lines })
}
