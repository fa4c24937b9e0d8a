//! The cache that all programs share.
//!
//! ```text
//! models--owner--name/blobs/HASH              contents
//! models--owner--name/snapshots/COMMIT/PATH   a relative link to them
//! models--owner--name/refs/BRANCH             the commit that the branch was at
//! .locks/models--owner--name/HASH.lock        taken by who writes them
//! .locks/models--owner--name/COMMIT.files     ours: the paths of all files that the commit has
//! .locks/models--owner--name/HASH.verified    ours: size and time of the contents when their hash was last seen right
//! ```
//!
//! Source: `huggingface_hub` 2.4.0, `file_download.py`; names by crate `hf-hub`.

use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::UNIX_EPOCH;

use hf_hub::{Cache, CacheRepo};

use crate::error::HubError;
use crate::hash::ContentId;
use crate::name::{Place, RepoKind, RepoName};

/// One repository's part of the cache.
#[derive(Debug)]
pub(crate) struct Entry {
    repo: CacheRepo,
    root: PathBuf,
    locks: PathBuf,
    revision: String,
}

impl Entry {
    pub(crate) fn of(cache_dir: &Path, place: &Place) -> Self {
        let folder = place.repo().folder_name();
        Self {
            root: cache_dir.join(&folder),
            locks: cache_dir.join(".locks").join(&folder),
            repo: Cache::new(cache_dir.to_owned()).repo(place.repo()),
            revision: place.revision.clone(),
        }
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.repo.pointer_path(commit)
    }

    pub(crate) fn blob(&self, id: &ContentId) -> PathBuf {
        self.root.join("blobs").join(id.as_str())
    }

    /// Where a blob is until it is whole.
    pub(crate) fn incomplete(&self, id: &ContentId) -> PathBuf {
        self.root.join("blobs").join(format!("{}.incomplete", id.as_str()))
    }

    /// The commit that the revision is known to be, if its snapshot is here.
    pub(crate) fn commit(&self) -> Option<String> {
        let known = fs::read_to_string(self.root.join("refs").join(&self.revision)).ok();
        let commit = known.map_or_else(|| self.revision.clone(), |text| text.trim().to_owned());
        (is_commit(&commit) && self.snapshot(&commit).is_dir()).then_some(commit)
    }

    /// Remembers what commit the revision is.
    pub(crate) fn set_commit(&self, commit: &str) -> Result<(), HubError> {
        if commit == self.revision {
            return Ok(());
        }
        self.repo.create_ref(commit).map_err(HubError::write(&self.root.join("refs")))
    }

    /// Waits until nobody else writes this blob. The lock ends with the file that is returned.
    pub(crate) fn lock(&self, id: &ContentId) -> Result<File, HubError> {
        let path = self.locks.join(format!("{}.lock", id.as_str()));
        let lock = || {
            fs::create_dir_all(&self.locks)?;
            let file = File::options().create(true).truncate(false).write(true).open(&path)?;
            file.lock()?;
            Ok(file)
        };
        lock().map_err(HubError::write(&path))
    }

    /// Whether a blob is there and what its name says. It is hashed once, and again when its size or time changed.
    pub(crate) fn is_right(&self, id: &ContentId) -> Result<bool, HubError> {
        let blob = self.blob(id);
        let Some(stamp) = stamp(&blob) else { return Ok(false) };
        let marker = self.marker(id);
        if fs::read_to_string(&marker).is_ok_and(|text| text == stamp) {
            return Ok(true);
        }
        let is_right = id.of_file(&blob).map_err(HubError::read(&blob))? == id.as_str();
        if is_right {
            self.note_right(id);
        }
        Ok(is_right)
    }

    /// Notes that a blob's hash was seen right. A note that cannot be written costs time, nothing else.
    pub(crate) fn note_right(&self, id: &ContentId) {
        if let Some(stamp) = stamp(&self.blob(id)) {
            let _ = fs::create_dir_all(&self.locks).and_then(|()| fs::write(self.marker(id), stamp));
        }
    }

    fn marker(&self, id: &ContentId) -> PathBuf {
        self.locks.join(format!("{}.verified", id.as_str()))
    }

    /// Puts a blob into a snapshot under a path that [`is_safe`].
    pub(crate) fn link(&self, id: &ContentId, commit: &str, path: &str) -> Result<(), HubError> {
        let pointer = self.snapshot(commit).join(path);
        let up = "../".repeat(path.split('/').count() + 1);
        let target = format!("{up}blobs/{}", id.as_str());
        let link = || {
            fs::create_dir_all(pointer.parent().expect("a snapshot is in a folder"))?;
            match fs::read_link(&pointer) {
                Ok(there) if there == Path::new(&target) => return Ok(()),
                Ok(_) => fs::remove_file(&pointer)?,
                // A program without links has copied the contents.
                Err(_) if pointer.exists() => fs::remove_file(&pointer)?,
                Err(_) => {}
            }
            match make_link(&target, &self.blob(id), &pointer) {
                // Another process was faster.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                done => done,
            }
        };
        link().map_err(HubError::write(&pointer))
    }

    /// The paths of all files in a snapshot, relative and with `/`, in order.
    pub(crate) fn files(&self, commit: &str) -> Result<Vec<String>, HubError> {
        let root = self.snapshot(commit);
        let mut folders = vec![root.clone()];
        let mut found = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).map_err(HubError::read(&folder))? {
                let path = entry.map_err(HubError::read(&folder))?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if let Some(relative) = path.strip_prefix(&root).ok().and_then(Path::to_str) {
                    found.push(relative.replace('\\', "/"));
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Notes what files a commit has, so that a part of them is not taken for all. A note that cannot be written is none.
    pub(crate) fn note_listing(&self, commit: &str, paths: &[&str]) {
        let text = serde_json::json!(paths).to_string();
        let _ = fs::create_dir_all(&self.locks).and_then(|()| fs::write(self.listing(commit), text));
    }

    /// The paths of all files of a commit, if they were noted.
    pub(crate) fn noted_listing(&self, commit: &str) -> Option<Vec<String>> {
        serde_json::from_slice(&fs::read(self.listing(commit)).ok()?).ok()
    }

    fn listing(&self, commit: &str) -> PathBuf {
        self.locks.join(format!("{commit}.files"))
    }

    /// Whether a file is in a snapshot.
    pub(crate) fn has(&self, commit: &str, path: &str) -> bool {
        is_safe(path) && self.snapshot(commit).join(path).is_file()
    }

    /// What a file of a snapshot should hold; `None` if it is no link, as where there are none.
    pub(crate) fn content_of(&self, commit: &str, path: &str) -> Option<ContentId> {
        let target = fs::read_link(self.snapshot(commit).join(path)).ok()?;
        ContentId::parse(target.file_name()?.to_str()?)
    }
}

#[cfg(unix)]
fn make_link(target: &str, _blob: &Path, pointer: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, pointer)
}

/// Links need a privilege elsewhere; the other name of a file does not.
#[cfg(not(unix))]
fn make_link(_target: &str, blob: &Path, pointer: &Path) -> io::Result<()> {
    fs::hard_link(blob, pointer).or_else(|_| fs::copy(blob, pointer).map(|_| ()))
}

/// Size and time of change.
fn stamp(path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok()?;
    let time = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(format!("{} {}", metadata.len(), time.as_nanos()))
}

/// Whether a text is the full name of a commit.
pub(crate) fn is_commit(text: &str) -> bool {
    matches!(ContentId::parse(text), Some(ContentId::Git(_)))
}

/// Whether a path of a repository stays in its snapshot on every system.
pub(crate) fn is_safe(path: &str) -> bool {
    let is_plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', ':', '\0']);
    path.split('/').all(is_plain) && path.len() < 1024
}

/// The repository and commit that a folder of the cache is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached {
    /// Its name on the Hub.
    pub name: RepoName,
    /// What it holds.
    pub kind: RepoKind,
    /// The commit.
    pub commit: String,
}

impl Cached {
    /// Reads it off the path of a snapshot or of something in one.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let parts: Vec<&str> = path
            .components()
            .filter_map(|part| match part {
                Component::Normal(name) => name.to_str(),
                _ => None,
            })
            .collect();
        parts.windows(3).rev().find_map(|window| {
            let &[repo, "snapshots", commit] = window else { return None };
            let (kind, rest) = match repo.split_once("--")? {
                ("models", rest) => (RepoKind::Model, rest),
                ("datasets", rest) => (RepoKind::Dataset, rest),
                _ => return None,
            };
            let name = RepoName::parse(&rest.replacen("--", "/", 1))?;
            is_commit(commit).then(|| Self { name, kind, commit: commit.to_owned() })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn a_path_of_the_cache_says_what_it_is_of() {
        let path =
            PathBuf::from(format!("/home/me/hub/datasets--org--my-circles/snapshots/{COMMIT}/default"));
        let cached = Cached::of(&path).unwrap();
        assert_eq!(
            (cached.name.as_str(), cached.kind, &*cached.commit),
            ("org/my-circles", RepoKind::Dataset, COMMIT)
        );
        for other in ["sd15", "models--org--name/snapshots/main", "spaces--a--b/snapshots/0123"] {
            assert_eq!(Cached::of(Path::new(other)), None);
        }
    }

    #[test]
    fn paths_that_leave_the_snapshot_are_not_safe() {
        for path in ["a", "unet/config.json", "a b/.c"] {
            assert!(is_safe(path), "{path}");
        }
        for path in ["", "/a", "../a", "a/../b", "a//b", "./a", "a\\b", "C:a", "a/", "a\0"] {
            assert!(!is_safe(path), "{path}");
        }
    }

    #[test]
    fn a_blob_is_hashed_again_when_it_changed() {
        let dir = tempfile::tempdir().unwrap();
        let name = RepoName::parse("org/name").unwrap();
        let entry = Entry::of(dir.path(), &Place { name, kind: RepoKind::Model, revision: "main".into() });
        let id = ContentId::parse("ce013625030ba8dba906f756967f9e9ca394464a").unwrap();
        assert!(!entry.is_right(&id).unwrap());
        fs::create_dir_all(entry.blob(&id).parent().unwrap()).unwrap();
        fs::write(entry.blob(&id), "hello\n").unwrap();
        assert!(entry.is_right(&id).unwrap());
        assert!(entry.marker(&id).is_file());
        fs::write(entry.blob(&id), "hell").unwrap();
        assert!(!entry.is_right(&id).unwrap());
    }
}
