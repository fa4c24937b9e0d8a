//! Paths out of a metadata file, kept below the folder of that file.

use std::path::{Component, Path, PathBuf};

use crate::error::{DataError, PathFault};

/// A folder that no path of its metadata may leave, neither by its spelling nor through a link.
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

    /// The existing file that `relative` names.
    pub(super) fn file(&self, relative: &str) -> Result<PathBuf, DataError> {
        let refuse = |fault| DataError::UnsafePath { path: relative.to_owned(), fault };
        if let Some(fault) = spelling_fault(relative) {
            return Err(refuse(fault));
        }
        let path = self.folder.join(relative);
        let Ok(real) = path.canonicalize() else {
            return Err(DataError::MissingFile { path });
        };
        if !real.starts_with(&self.folder) {
            return Err(refuse(PathFault::LinkOutside));
        }
        // A pipe or a device would block its reader for ever.
        if !real.is_file() {
            return Err(DataError::MissingFile { path });
        }
        Ok(real)
    }
}

fn spelling_fault(relative: &str) -> Option<PathFault> {
    if relative.is_empty() {
        return Some(PathFault::Empty);
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
