//! One run in a folder at a time.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::TrainError;

/// The file that is locked. It stays in the folder, empty after a run that ended in order: if it were removed, two
/// runs could hold two files of this name.
const NAME: &str = ".lock";

/// Holds a run's folder until it is dropped.
///
/// The lock is the system's, on an open file, so it ends with its process, however that ends. What is written in the
/// file only tells who held it.
#[derive(Debug)]
pub(crate) struct RunLock {
    file: File,
}

/// Who holds a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    pid: u32,
    host: String,
}

impl RunLock {
    /// Takes the folder, from a process that died if there was one.
    ///
    /// A file system that has no locks is used without, with a warning.
    ///
    /// # Errors
    /// [`TrainError::RunFolderInUse`] if another run holds it, [`TrainError::OutputDir`] if nothing can be written.
    pub(crate) fn acquire(output_dir: &Path) -> Result<Self, TrainError> {
        let path = output_dir.join(NAME);
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(TrainError::output_dir(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(output_dir, file)),
            Err(TryLockError::Error(error)) => {
                tracing::warn!("`{}` cannot be locked: {error}; start no second run in it", path.display());
            }
        }
        if let Some(Owner { pid, host }) = owner(&mut file) {
            let dir = output_dir.display();
            tracing::warn!(
                "taking over `{dir}` from process {pid} on {host}, which ended without letting go of it"
            );
        }
        let mut lock = Self { file };
        // The lock holds without it; the next run would only not be told whose it was.
        let _ = lock.sign();
        Ok(lock)
    }

    /// Whether the folder could be taken now, without a trace in it.
    ///
    /// # Errors
    /// [`TrainError::RunFolderInUse`] if a run holds it.
    pub(crate) fn check(output_dir: &Path) -> Result<(), TrainError> {
        let Ok(file) = File::open(output_dir.join(NAME)) else { return Ok(()) };
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Err(in_use(output_dir, file)),
            Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
        }
    }

    fn sign(&mut self) -> std::io::Result<()> {
        let owner = Owner { pid: std::process::id(), host: host() };
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(serde_json::to_string(&owner)?.as_bytes())
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // Else the next run is told that this one died.
        let _ = self.file.set_len(0);
    }
}

fn in_use(output_dir: &Path, mut file: File) -> TrainError {
    let owner = owner(&mut file).map_or_else(
        || "another process".to_owned(),
        |Owner { pid, host }| format!("process {pid} on {host}"),
    );
    TrainError::RunFolderInUse { output_dir: PathBuf::from(output_dir), owner }
}

/// Who signed the file, if anybody did.
fn owner(file: &mut File) -> Option<Owner> {
    let mut text = String::new();
    file.rewind().and_then(|()| file.read_to_string(&mut text)).ok()?;
    serde_json::from_str(&text).ok()
}

fn host() -> String {
    #[cfg(unix)]
    return rustix::system::uname().nodename().to_string_lossy().into_owned();
    #[cfg(not(unix))]
    "this machine".to_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_folder_is_held_by_one_run_until_it_ends() {
        let dir = tempfile::tempdir().expect("a folder");
        RunLock::check(dir.path()).expect("nobody holds it");
        let lock = RunLock::acquire(dir.path()).expect("free");
        let me = format!("process {} on {}", std::process::id(), host());
        for refused in [RunLock::acquire(dir.path()).map(drop), RunLock::check(dir.path())] {
            let error = refused.expect_err("held").to_string();
            assert!(error.contains(&me), "{error}");
        }
        drop(lock);
        RunLock::check(dir.path()).expect("free again");
        RunLock::acquire(dir.path()).expect("free again");
    }

    #[test]
    fn the_folder_of_a_process_that_died_is_taken_over() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join(NAME);
        // A text longer than ours, of which nothing may stay.
        fs::write(&path, format!("{{\"pid\":1,\"host\":\"{}\"}}", "far-away".repeat(99))).expect("written");
        let lock = RunLock::acquire(dir.path()).expect("nobody holds it");
        let signed = owner(&mut File::open(&path).expect("there")).expect("signed");
        assert_eq!(signed.pid, std::process::id());
        drop(lock);
        assert_eq!(fs::read(&path).expect("there"), b"", "nothing for the next run to take over");
    }
}
