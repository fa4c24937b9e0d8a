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
    /// Of a snapshot in the Hub's cache: where its files are, to which it has only links.
    blobs: Option<PathBuf>,
}

impl Root {
    /// The folder must exist.
    pub(super) fn new(folder: &Path) -> Result<Self, DataError> {
        let folder =
            folder.canonicalize().map_err(|source| DataError::Read { path: folder.to_owned(), source })?;
        let blobs = blobs_of(&folder);
        Ok(Self { folder, blobs })
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
        let is_blob = self.blobs.is_some() && real.parent() == self.blobs.as_deref();
        if !real.starts_with(&self.folder) && !is_blob {
            return Err(DataError::UnsafePath { path: relative.to_owned(), fault: PathFault::LinkOutside });
        }
        // A pipe or a device would block its reader for ever.
        if !real.is_file() {
            return Err(DataError::MissingFile { path });
        }
        Ok(real)
    }
}

/// `REPOSITORY/blobs` for `REPOSITORY/snapshots/COMMIT` and what is in it.
fn blobs_of(folder: &Path) -> Option<PathBuf> {
    let snapshots = folder
        .ancestors()
        .skip(1)
        .find(|folder| folder.file_name().is_some_and(|name| name == "snapshots"))?;
    Some(snapshots.parent()?.join("blobs")).filter(|blobs| blobs.is_dir())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_snapshot_of_the_hubs_cache_has_links_to_its_own_files_only() {
        let dir = tempfile::tempdir().unwrap();
        let repo = dir.path().join("datasets--org--circles");
        let train = repo.join("snapshots/0123/train");
        for folder in [&train, &repo.join("blobs/below")] {
            std::fs::create_dir_all(folder).unwrap();
        }
        for file in [&repo.join("blobs/hash"), &repo.join("blobs/below/hash"), &dir.path().join("secret")] {
            std::fs::write(file, "").unwrap();
        }
        let root = Root::new(&train).unwrap();
        let link = |name: &str, to: &str| {
            std::os::unix::fs::symlink(to, train.join(name)).unwrap();
            root.file(name)
        };
        assert!(link("a.png", "../../../blobs/hash").unwrap().ends_with("blobs/hash"));
        for (name, to) in [("b.png", "../../../blobs/below/hash"), ("c.png", "../../../../secret")] {
            assert!(matches!(
                link(name, to),
                Err(DataError::UnsafePath { fault: PathFault::LinkOutside, .. })
            ));
        }
    }
}
