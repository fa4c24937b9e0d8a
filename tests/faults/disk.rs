//! A disk that fails when it is told to.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use pyrograph_train::Stop;
use pyrograph_weights::{Disk, DiskFile, SystemDisk};

/// What an operation does to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    CreateDir,
    Create,
    Write,
    SyncFile,
    Rename,
    SyncDir,
    Remove,
}

/// What becomes of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is done.
    Done,
    /// It fails, and leaves half of what it should have written.
    Fails(ErrorKind),
    /// The process dies in it: this one is half done, and nothing after it is done at all.
    Dies,
    /// The power fails in it: as [`Fate::Dies`], and what was not synced is gone, too.
    PowerFails,
}

/// Decides by number, from 1, kind and path.
type Judge = dyn Fn(usize, Kind, &Path) -> Fate + Send + Sync;

/// Does every operation on the real disk, unless its judge decides otherwise.
pub(super) struct FaultyDisk {
    judge: Box<Judge>,
    state: Mutex<State>,
    /// Bytes that it says are free.
    free: AtomicU64,
    /// Raised at death: nobody trains on after it.
    stop: Stop,
}

#[derive(Default)]
struct State {
    operations: Vec<(Kind, PathBuf)>,
    is_dead: bool,
    unsynced: Vec<Unsynced>,
}

/// What a power cut takes back.
enum Unsynced {
    Contents(PathBuf),
    Name { from: PathBuf, to: PathBuf },
}

impl fmt::Debug for FaultyDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyDisk").finish_non_exhaustive()
    }
}

impl FaultyDisk {
    pub(super) fn new(
        stop: &Stop,
        judge: impl Fn(usize, Kind, &Path) -> Fate + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            judge: Box::new(judge),
            state: Mutex::default(),
            free: AtomicU64::new(12_345_678),
            stop: stop.clone(),
        })
    }

    /// From now on it says that so many bytes are free.
    pub(super) fn set_free(&self, bytes: u64) {
        self.free.store(bytes, Ordering::Relaxed);
    }

    /// The operations so far.
    pub(super) fn operations(&self) -> Vec<(Kind, PathBuf)> {
        self.state.lock().unwrap().operations.clone()
    }

    /// Asks what becomes of an operation; `Ok` if it is to be done.
    fn judge(&self, kind: Kind, path: &Path) -> Result<(), io::Error> {
        let mut state = self.state.lock().unwrap();
        if state.is_dead {
            return Err(io::Error::other("the process is dead"));
        }
        state.operations.push((kind, path.to_owned()));
        match (self.judge)(state.operations.len(), kind, path) {
            Fate::Done => Ok(()),
            Fate::Fails(kind) => Err(kind.into()),
            fate @ (Fate::Dies | Fate::PowerFails) => {
                state.is_dead = true;
                self.stop.request();
                if fate == Fate::PowerFails {
                    state.unsynced.drain(..).rev().for_each(Unsynced::take_back);
                }
                Err(io::Error::other("the process dies"))
            }
        }
    }

    fn synced(&self, is_synced: impl Fn(&Unsynced) -> bool) {
        self.state.lock().unwrap().unsynced.retain(|unsynced| !is_synced(unsynced));
    }

    fn wrap(&self, file: Box<dyn DiskFile + 'static>, path: &Path) -> Box<dyn DiskFile + '_> {
        self.state.lock().unwrap().unsynced.push(Unsynced::Contents(path.to_owned()));
        Box::new(FaultyFile { disk: self, file, path: path.to_owned() })
    }
}

impl Unsynced {
    /// What a disk may look like that never got it.
    fn take_back(self) {
        match self {
            // It may be gone already.
            Self::Contents(path) => drop(File::options().write(true).open(path).map(|file| file.set_len(0))),
            Self::Name { from, to } => drop(fs::rename(to, from)),
        }
    }
}

impl Disk for FaultyDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.judge(Kind::CreateDir, path)?;
        SystemDisk.create_dir(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile + '_>> {
        self.judge(Kind::Create, path)?;
        Ok(self.wrap(Box::new(File::create(path)?), path))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile + '_>> {
        self.judge(Kind::Create, path)?;
        let file = File::options().append(true).create(true).open(path)?;
        Ok(Box::new(FaultyFile { disk: self, file: Box::new(file), path: path.to_owned() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.judge(Kind::Rename, to)?;
        SystemDisk.rename(from, to)?;
        let mut state = self.state.lock().unwrap();
        for unsynced in &mut state.unsynced {
            if let Unsynced::Contents(path) = unsynced
                && let Ok(rest) = path.strip_prefix(from)
            {
                *path = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
            }
        }
        state.unsynced.push(Unsynced::Name { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.judge(Kind::SyncDir, path)?;
        SystemDisk.sync_dir(path)?;
        self.synced(|unsynced| matches!(unsynced, Unsynced::Name { to, .. } if to.parent() == Some(path)));
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.judge(Kind::Remove, path)?;
        SystemDisk.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.judge(Kind::Remove, path)?;
        SystemDisk.remove_dir(path)
    }

    fn available_bytes(&self, _path: &Path) -> Option<u64> {
        Some(self.free.load(Ordering::Relaxed))
    }
}

struct FaultyFile<'a> {
    disk: &'a FaultyDisk,
    file: Box<dyn DiskFile>,
    path: PathBuf,
}

impl Write for FaultyFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.disk.judge(Kind::Write, &self.path) {
            // What comes after death is written nowhere.
            if !error.to_string().ends_with("is dead") {
                self.file.write_all(&bytes[..bytes.len() / 2])?;
            }
            return Err(error);
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl DiskFile for FaultyFile<'_> {
    fn sync(&mut self) -> io::Result<()> {
        self.disk.judge(Kind::SyncFile, &self.path)?;
        self.file.sync()?;
        self.disk.synced(|unsynced| matches!(unsynced, Unsynced::Contents(path) if *path == self.path));
        Ok(())
    }
}
