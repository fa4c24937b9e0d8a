//! Hints made ahead: a PNG file for each picture.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::HintMaker;
use crate::decode::decode_rgb8;
use crate::error::DataError;
use crate::picture::png_bytes;
use crate::random::{self, Purpose};

/// Endings of pictures that are read.
pub(crate) const IMAGE_EXTENSIONS: [&str; 8] = ["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "gif"];

/// Folders within folders, at most: a link that leads back would not end.
const MAX_DEPTH: usize = 16;

/// What became of a folder of pictures.
#[derive(Debug)]
pub struct HintFolder {
    /// Hints that were written.
    pub n_made: usize,
    /// Hints whose file was there already.
    pub n_there: usize,
    /// Why others were not made, in the order of the names.
    pub failures: Vec<DataError>,
}

/// Writes the hint of one picture as a PNG file.
///
/// # Errors
/// A picture that cannot be read, and [`DataError::OutputExists`] if the file is there.
pub fn make_hint_file(maker: HintMaker, seed: u64, picture: &Path, output: &Path) -> Result<(), DataError> {
    if output.exists() {
        return Err(DataError::OutputExists { path: output.to_owned() });
    }
    let name = picture.file_name().unwrap_or_default().to_string_lossy();
    write_hint(maker, seed, &name, picture, output)
}

/// Writes a PNG file for each picture of a folder and the folders in it, with its name; those that are there are left as
/// they are, so that it continues where it was stopped. Pictures are decoded by all threads.
///
/// # Errors
/// If a folder cannot be read or made, and [`DataError::DuplicateStem`] if two pictures would have the same hint.
pub fn make_hint_folder(
    maker: HintMaker,
    seed: u64,
    pictures: &Path,
    output: &Path,
) -> Result<HintFolder, DataError> {
    let mut names = Vec::new();
    list_pictures(pictures, Path::new(""), 0, &mut names)?;
    if names.is_empty() {
        return Err(DataError::Empty { dir: pictures.to_owned() });
    }
    let mut hints: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    for name in names {
        if let Some(first) = hints.insert(name.with_extension("png"), name.clone()) {
            let [first, second] = [first, name].map(|name| name.to_string_lossy().into_owned());
            return Err(DataError::DuplicateStem { folder: pictures.to_owned(), first, second });
        }
    }
    for folder in hints.keys().filter_map(|name| name.parent()) {
        let folder = output.join(folder);
        fs::create_dir_all(&folder).map_err(|source| DataError::Write { path: folder.clone(), source })?;
    }
    let hints: Vec<(PathBuf, PathBuf)> = hints.into_iter().collect();
    let n_pictures = hints.len();
    let make = |(hint, picture): (PathBuf, PathBuf)| {
        let hint = output.join(hint);
        if hint.exists() {
            return Ok(false);
        }
        write_hint(maker, seed, &picture.to_string_lossy(), &pictures.join(&picture), &hint).map(|()| true)
    };
    let made: Vec<Result<bool, DataError>> = hints.into_par_iter().map(make).collect();
    let n_made = made.iter().filter(|made| matches!(made, Ok(true))).count();
    let failures: Vec<DataError> = made.into_iter().filter_map(Result::err).collect();
    Ok(HintFolder { n_made, n_there: n_pictures - n_made - failures.len(), failures })
}

/// Written under another name first, so that a file of the right name is whole.
fn write_hint(
    maker: HintMaker,
    seed: u64,
    name: &str,
    picture: &Path,
    output: &Path,
) -> Result<(), DataError> {
    let hint = maker.make(&decode_rgb8(picture)?, &mut random::rng(seed, 0, name, Purpose::Hint));
    let unwritten = |source| DataError::Write { path: output.to_owned(), source };
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(unwritten)?;
    std::io::Write::write_all(&mut file, &png_bytes(hint.picture())).map_err(unwritten)?;
    file.persist(output).map_err(|error| unwritten(error.error))?;
    Ok(())
}

/// The pictures of a folder and of those in it, by their paths in the first.
fn list_pictures(
    root: &Path,
    within: &Path,
    depth: usize,
    names: &mut Vec<PathBuf>,
) -> Result<(), DataError> {
    let folder = root.join(within);
    let unreadable = |source| DataError::Read { path: folder.clone(), source };
    let mut entries =
        fs::read_dir(&folder).map_err(unreadable)?.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = within.join(entry.file_name());
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        let kind = entry.file_type().map_err(unreadable)?;
        if is_hidden {
            // Thumbnails and resource forks that file managers leave behind.
        } else if kind.is_dir() && depth < MAX_DEPTH {
            list_pictures(root, &name, depth + 1, names)?;
        } else if !kind.is_dir() && is_picture(&name) {
            names.push(name);
        }
    }
    Ok(())
}

fn is_picture(name: &Path) -> bool {
    let extension = name.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    IMAGE_EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::*;

    #[test]
    fn each_picture_of_a_folder_gets_a_hint_and_what_is_there_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let (pictures, hints) = (dir.path().join("images"), dir.path().join("hints"));
        fs::create_dir_all(pictures.join("more")).unwrap();
        let picture = RgbImage::from_fn(32, 24, |x, _| Rgb([if x < 16 { 0 } else { 250 }; 3]));
        for name in ["a.jpg", "b.png", "more/c.png"] {
            picture.save(pictures.join(name)).unwrap();
        }
        fs::write(pictures.join("b.txt"), "a caption").unwrap();
        fs::write(pictures.join("broken.png"), "no picture").unwrap();
        let maker: HintMaker = "canny".parse().unwrap();
        let made = make_hint_folder(maker, 0, &pictures, &hints).unwrap();
        assert_eq!((made.n_made, made.n_there, made.failures.len()), (3, 0, 1));
        assert!(made.failures[0].to_string().contains("broken.png"));
        let found = decode_rgb8(&hints.join("more/c.png")).unwrap();
        assert_eq!(found, *maker.make(&picture, &mut random::rng(0, 0, "", Purpose::Hint)).picture());
        let again = make_hint_folder("grey".parse().unwrap(), 0, &pictures, &hints).unwrap();
        assert_eq!((again.n_made, again.n_there, again.failures.len()), (0, 3, 1));
        assert_eq!(decode_rgb8(&hints.join("more/c.png")).unwrap(), found);
        assert_eq!(fs::read_dir(&hints).unwrap().count(), 3, "nothing else is left behind");

        picture.save(pictures.join("a.png")).unwrap();
        let error = make_hint_folder(maker, 0, &pictures, &dir.path().join("other")).unwrap_err();
        assert!(matches!(error, DataError::DuplicateStem { .. }), "{error}");
        let error = make_hint_file(maker, 0, &pictures.join("a.jpg"), &hints.join("a.png")).unwrap_err();
        assert!(matches!(error, DataError::OutputExists { .. }), "{error}");
    }
}
