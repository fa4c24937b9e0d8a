//! Paths out of a metadata file, kept below the folder of that file.

use std::fmt::Debug;
use std::path::{Component, Path, PathBuf};

use crate::content::Content;
use crate::error::{DataError, PathFault};

/// No system has longer paths.
const MAX_PATH_BYTES: usize = 4096;

/// Where the pictures are that a table names.
pub(super) trait Files: Debug + Send + Sync {
    /// The picture that `relative` names.
    fn content(&self, relative: &str) -> Result<Content, DataError>;
}

/// A folder that no path of its metadata may leave, neither by its spelling nor through a link.
#[derive(Debug)]
pub(super) struct Root {
    folder: PathBuf,
}

impl Root {
    /// The folder must exist.
    pub(super) fn new(folder: &Path) -> Result<Self, DataError> {
        let folder =
            folder.canonicalize().map_err(|source| DataError::Read { path: folder.to_owned(), source })?;
        Ok(Self { folder })
    }

    /// The folder that a file is in.
    pub(super) fn beside(file: &Path) -> Result<Self, DataError> {
        Self::new(file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))
    }

    /// The existing file that `relative` names.
    pub(super) fn file(&self, relative: &str) -> Result<PathBuf, DataError> {
        check_spelling(relative)?;
        let path = self.folder.join(relative);
        let Ok(real) = path.canonicalize() else {
            return Err(DataError::MissingFile { path });
        };
        if !real.starts_with(&self.folder) {
            return Err(DataError::UnsafePath { path: relative.to_owned(), fault: PathFault::LinkOutside });
        }
        // A pipe or a device would block its reader for ever.
        if !real.is_file() {
            return Err(DataError::MissingFile { path });
        }
        Ok(real)
    }
}

impl Files for Root {
    fn content(&self, relative: &str) -> Result<Content, DataError> {
        self.file(relative).map(Content::File)
    }
}

/// Refuses a path that could lead anywhere but below a folder, or elsewhere on another system.
pub(super) fn check_spelling(relative: &str) -> Result<(), DataError> {
    let Some(fault) = spelling_fault(relative) else { return Ok(()) };
    // A path as long as a book says no more than its beginning.
    let path = relative.chars().take(200).collect();
    Err(DataError::UnsafePath { path, fault })
}

fn spelling_fault(relative: &str) -> Option<PathFault> {
    if relative.is_empty() {
        return Some(PathFault::Empty);
    }
    if relative.len() > MAX_PATH_BYTES {
        return Some(PathFault::TooLong);
    }
    if relative.contains('\0') {
        return Some(PathFault::Nul);
    }
    // A drive letter is an ordinary name on Unix; a data set must mean the same everywhere.
    if relative.as_bytes().get(1) == Some(&b':') {
        return Some(PathFault::Absolute);
    }
    if relative.contains('\\') {
        return Some(PathFault::Backslash);
    }
    Path::new(relative).components().find_map(|component| match component {
        Component::Normal(_) | Component::CurDir => None,
        Component::ParentDir => Some(PathFault::Parent),
        Component::RootDir | Component::Prefix(_) => Some(PathFault::Absolute),
    })
}
