//! Where files are written: the one door through which everything goes that must survive a full disk or a power cut.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// The operations that change a file system. [`SystemDisk`] does them; another implementation may count them, refuse them
/// or remember what was written.
pub trait Disk: Debug + Send + Sync {
    /// Makes a folder and those above it, where they are missing.
    ///
    /// # Errors
    /// What the system says; the same holds for every other operation.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// A new, empty file, in place of one that is there.
    ///
    /// # Errors
    /// As [`Disk::create_dir`].
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile + '_>>;

    /// A file to write at the end of, made if it is missing.
    ///
    /// # Errors
    /// As [`Disk::create_dir`].
    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile + '_>>;

    /// Gives a file or folder another name, in place of a file that has it.
    ///
    /// # Errors
    /// As [`Disk::create_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// As [`Disk::create_dir`].
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Deletes a file, or a link.
    ///
    /// # Errors
    /// As [`Disk::create_dir`].
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Deletes an empty folder.
    ///
    /// # Errors
    /// As [`Disk::create_dir`].
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// The bytes that can still be written in a folder, where the system tells.
    fn available_bytes(&self, path: &Path) -> Option<u64>;
}

/// A file that is being written.
pub trait DiskFile: Write {
    /// Makes its contents durable.
    ///
    /// # Errors
    /// What the system says.
    fn sync(&mut self) -> io::Result<()>;
}

/// The file system of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile + '_>> {
        Ok(Box::new(File::create(path)?))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile + '_>> {
        Ok(Box::new(File::options().append(true).create(true).open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        // Other systems have no handle on a folder to sync.
        #[cfg(unix)]
        File::open(path)?.sync_all()?;
        #[cfg(not(unix))]
        let _ = path;
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn available_bytes(&self, path: &Path) -> Option<u64> {
        #[cfg(unix)]
        // Some network drives have no number, and say 0 for their size, too.
        return rustix::fs::statvfs(path)
            .ok()
            .filter(|found| found.f_blocks > 0)
            .map(|found| found.f_bavail.saturating_mul(found.f_frsize));
        #[cfg(not(unix))]
        {
            let _ = path;
            None
        }
    }
}

impl DiskFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}
