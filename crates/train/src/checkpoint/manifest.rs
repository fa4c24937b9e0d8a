//! What a folder is made of: its files, their lengths and hashes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use pyrograph_weights::{Disk, DiskFile};
use serde::{Deserialize, Serialize};

pub(super) const MANIFEST: &str = "manifest.json";

/// The layout of the manifest itself.
const VERSION: u32 = 1;

/// The files of a folder by their paths in it, separated by slashes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    version: u32,
    pub(super) files: BTreeMap<String, Entry>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) bytes: u64,
    /// In hexadecimal.
    blake3: String,
}

impl Manifest {
    /// Reads a folder's manifest.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub(super) fn read(dir: &Path) -> Result<Self, String> {
        let manifest: Self = read_json(&dir.join(MANIFEST))?;
        if manifest.version != VERSION {
            return Err(format!("`{MANIFEST}` has version {}, expected {VERSION}", manifest.version));
        }
        Ok(manifest)
    }

    /// Asserts that every file is there with its length: what can be seen at once.
    ///
    /// # Errors
    /// A sentence that names the first file that is not.
    pub(super) fn check_lengths(&self, dir: &Path) -> Result<(), String> {
        self.files.iter().try_for_each(|(name, entry)| entry.check_length(name, &inside(dir, name)?))
    }

    /// Asserts that every file is there with its hash.
    ///
    /// # Errors
    /// A sentence that names the first file that is not.
    pub(super) fn verify(&self, dir: &Path) -> Result<(), String> {
        self.check_lengths(dir)?;
        for (name, entry) in &self.files {
            let mut hasher = blake3::Hasher::new();
            File::open(inside(dir, name)?)
                .and_then(|file| hasher.update_reader(file).map(drop))
                .map_err(|error| format!("`{name}` cannot be read: {error}"))?;
            if hasher.finalize().to_hex().as_str() != entry.blake3 {
                return Err(format!("`{name}` is damaged"));
            }
        }
        Ok(())
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.files.values().map(|entry| entry.bytes).sum()
    }
}

impl Entry {
    fn check_length(&self, name: &str, path: &Path) -> Result<(), String> {
        match fs::metadata(path) {
            Ok(found) if found.is_file() && found.len() == self.bytes => Ok(()),
            Ok(found) if found.is_file() => {
                Err(format!("`{name}` is damaged: it has {} bytes, expected {}", found.len(), self.bytes))
            }
            Ok(_) => Err(format!("`{name}` is not a file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(format!("`{name}` is missing")),
            Err(error) => Err(format!("`{name}` cannot be read: {error}")),
        }
    }
}

/// The path of a file that a manifest names, which may have been written by anybody.
fn inside(dir: &Path, name: &str) -> Result<PathBuf, String> {
    let is_plain = Path::new(name).components().all(|component| matches!(component, Component::Normal(_)));
    if is_plain {
        Ok(dir.join(name))
    } else {
        Err(format!("`{MANIFEST}` names `{name}`, which is elsewhere"))
    }
}

pub(crate) fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, String> {
    let name = path.file_name().unwrap_or_default().display();
    let text = fs::read_to_string(path).map_err(|error| format!("`{name}` cannot be read: {error}"))?;
    serde_json::from_str(&text).map_err(|error| format!("`{name}` is not what we write: {error}"))
}

/// A disk that remembers the hash of what was written into a folder, as it was meant and before any medium could
/// change it.
#[derive(Debug)]
pub(super) struct Recorder<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    written: Mutex<BTreeMap<PathBuf, Entry>>,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(disk: &'a dyn Disk, dir: &'a Path) -> Self {
        Self { disk, dir, written: Mutex::default() }
    }

    /// What was written and synced so far.
    pub(super) fn manifest(&self) -> Manifest {
        let name = |path: &Path| {
            let parts = path.strip_prefix(self.dir).unwrap_or(path).components();
            parts.map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
        };
        let written = self.written();
        let files = written.iter().map(|(path, entry)| (name(path), entry.clone())).collect();
        Manifest { version: VERSION, files }
    }

    fn written(&self) -> std::sync::MutexGuard<'_, BTreeMap<PathBuf, Entry>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct RecordedFile<'a> {
    file: Box<dyn DiskFile + 'a>,
    recorder: &'a Recorder<'a>,
    path: PathBuf,
    hasher: blake3::Hasher,
}

impl Write for RecordedFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n_written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..n_written]);
        Ok(n_written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl DiskFile for RecordedFile<'_> {
    fn sync(&mut self) -> io::Result<()> {
        self.file.sync()?;
        let entry = Entry { bytes: self.hasher.count(), blake3: self.hasher.finalize().to_hex().to_string() };
        self.recorder.written().insert(self.path.clone(), entry);
        Ok(())
    }
}

impl Disk for Recorder<'_> {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile + '_>> {
        let file = self.disk.create(path)?;
        let (path, hasher) = (path.to_owned(), blake3::Hasher::new());
        Ok(Box::new(RecordedFile { file, recorder: self, path, hasher }))
    }

    fn append(&self, _path: &Path) -> io::Result<Box<dyn DiskFile + '_>> {
        // What is there already has not been seen.
        Err(io::ErrorKind::Unsupported.into())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)?;
        let mut written = self.written();
        if let Some(entry) = written.remove(from) {
            written.insert(to.to_owned(), entry);
        }
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)?;
        self.written().remove(path);
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir(path)
    }

    fn available_bytes(&self, path: &Path) -> Option<u64> {
        self.disk.available_bytes(path)
    }
}

#[cfg(test)]
mod tests {
    use pyrograph_weights::SystemDisk;

    use super::*;

    /// A folder with two files and its manifest.
    fn folder() -> (tempfile::TempDir, Manifest) {
        let dir = tempfile::tempdir().expect("a folder");
        let recorder = Recorder::new(&SystemDisk, dir.path());
        recorder.create_dir(&dir.path().join("below")).expect("made");
        for (name, text) in [("first.writing", "one"), ("below/second", "two")] {
            let mut file = recorder.create(&dir.path().join(name)).expect("made");
            file.write_all(text.as_bytes()).expect("written");
            file.sync().expect("synced");
        }
        recorder.rename(&dir.path().join("first.writing"), &dir.path().join("first")).expect("renamed");
        let manifest = recorder.manifest();
        (dir, manifest)
    }

    #[test]
    fn a_manifest_has_every_file_under_its_last_name() {
        let (dir, manifest) = folder();
        assert_eq!(manifest.files.keys().collect::<Vec<_>>(), ["below/second", "first"]);
        assert_eq!(manifest.bytes(), 6);
        assert_eq!(manifest.verify(dir.path()), Ok(()));
    }

    #[test]
    fn a_file_that_is_missing_longer_or_changed_is_named() {
        let (dir, manifest) = folder();
        let path = dir.path().join("below/second");
        for (contents, complaint) in [("twx", "is damaged"), ("twoo", "it has 4 bytes, expected 3")] {
            fs::write(&path, contents).expect("written");
            let found = manifest.verify(dir.path()).expect_err("changed");
            assert!(found.starts_with("`below/second`") && found.ends_with(complaint), "{found}");
        }
        fs::remove_file(&path).expect("removed");
        assert_eq!(manifest.check_lengths(dir.path()), Err("`below/second` is missing".to_owned()));
    }

    #[test]
    fn a_manifest_cannot_point_out_of_its_folder() {
        let (dir, mut manifest) = folder();
        let entry = manifest.files["first"].clone();
        for name in ["../first", "/etc/hostname", "below/../first"] {
            manifest.files = BTreeMap::from([(name.to_owned(), entry.clone())]);
            let found = manifest.verify(dir.path()).expect_err("elsewhere");
            assert!(found.ends_with("which is elsewhere"), "{found}");
        }
    }
}
