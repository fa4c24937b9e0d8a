//! Folders that are complete or not there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::DataError;

/// Fills a folder beside `out` and renames it at the end.
///
/// # Errors
/// [`DataError::OutputNotEmpty`], what the file system refuses, and what `fill` fails with; nothing is left then.
pub(crate) fn write_new_folder<T>(
    out: &Path,
    fill: impl FnOnce(&Path) -> Result<T, DataError>,
) -> Result<T, DataError> {
    let is_free = match fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_none(),
        Err(_) => fs::symlink_metadata(out).is_err(),
    };
    if !is_free {
        return Err(DataError::OutputNotEmpty { path: out.to_owned() });
    }
    let out = &std::path::absolute(out).map_err(cannot_write(out))?;
    let partial = partial_path(out);
    if let Some(parent) = out.parent() {
        fs::create_dir_all(parent).map_err(cannot_write(parent))?;
    }
    // Fails if it is there: whatever is removed below was made by this call.
    fs::create_dir(&partial).map_err(cannot_write(&partial))?;
    let result = fill(&partial).and_then(|filled| {
        // An empty folder at the place is only in the way on some systems.
        let _ = fs::remove_dir(out);
        fs::rename(&partial, out).map_err(cannot_write(out))?;
        Ok(filled)
    });
    if result.is_err() {
        let _ = fs::remove_dir_all(&partial);
    }
    result
}

/// A name of its own beside `out`, so that the rename does not cross file systems.
fn partial_path(out: &Path) -> PathBuf {
    let mut name = out.components().as_path().to_owned().into_os_string();
    name.push(format!(".partial-{}", std::process::id()));
    name.into()
}

pub(crate) fn cannot_write(path: &Path) -> impl Fn(io::Error) -> DataError {
    move |source| DataError::Write { path: path.to_owned(), source }
}
