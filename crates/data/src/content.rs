//! Where the bytes of a picture are: in a file of their own, in a part of a file, or in memory.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::error::DataError;

/// The largest picture that is read, as it is in its file.
pub(crate) const MAX_CONTENT_BYTES: u64 = 512 << 20;

/// Where the bytes of a picture are. Cheap to clone and to keep by the million, but for [`Content::Bytes`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Content {
    /// A file of its own.
    File(PathBuf),
    /// A part of a file: a member of a tar or zip archive, a value of an Arrow table.
    Part(Part),
    /// In memory, with a name for messages.
    Bytes {
        /// `train-00000.parquet!image.17`.
        name: Arc<str>,
        /// The picture as it would be in a file.
        bytes: Arc<[u8]>,
    },
}

/// A part of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The file it is in.
    pub container: Arc<Container>,
    /// Its name in the file, for messages.
    pub name: Box<str>,
    /// Where it begins.
    pub start: u64,
    /// Its bytes in the file.
    pub stored_len: u64,
    /// Its bytes when read.
    pub len: u64,
    /// Whether it is stored as it is, or deflated.
    pub packing: Packing,
    /// The CRC-32 of what is read, if the file has one.
    pub crc32: Option<u32>,
}

/// How a part of a file is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// As it is.
    Stored,
    /// A raw deflate stream, as in zip archives.
    Deflated,
}

/// A file with many pictures in it, as it was when it was opened: of one that has changed since, no place is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    path: PathBuf,
    len: u64,
    modified: Option<SystemTime>,
}

impl Container {
    /// The container of an open file.
    ///
    /// # Errors
    /// [`DataError::Read`], and [`DataError::MissingFile`] if it is no plain file.
    pub(crate) fn of(path: &Path, file: &File) -> Result<Self, DataError> {
        let metadata = file.metadata().map_err(|source| DataError::Read { path: path.to_owned(), source })?;
        if !metadata.is_file() {
            return Err(DataError::MissingFile { path: path.to_owned() });
        }
        Ok(Self { path: path.to_owned(), len: metadata.len(), modified: metadata.modified().ok() })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn open(&self) -> Result<File, DataError> {
        let file =
            File::open(&self.path).map_err(|source| DataError::Read { path: self.path.clone(), source })?;
        if Self::of(&self.path, &file)? == *self {
            Ok(file)
        } else {
            Err(DataError::Changed { path: self.path.clone() })
        }
    }
}

impl Content {
    /// The file, if the picture has one to itself.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Part(_) | Self::Bytes { .. } => None,
        }
    }

    /// The number of bytes that [`Self::read`] gives; `None` if the file is gone.
    #[must_use]
    pub fn len(&self) -> Option<u64> {
        match self {
            Self::File(path) => path.metadata().ok().map(|found| found.len()),
            Self::Part(part) => Some(part.len),
            Self::Bytes { bytes, .. } => Some(bytes.len() as u64),
        }
    }

    /// Whether there is nothing to read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len().is_none_or(|len| len == 0)
    }

    /// Reads the picture, at most 512 MiB.
    ///
    /// # Errors
    /// [`DataError::Read`], [`DataError::MissingFile`] if it is no plain file, [`DataError::ContentTooLarge`],
    /// [`DataError::Changed`] and [`DataError::DamagedPart`] if a part of a file is not what it was or claims to be.
    pub fn read(&self) -> Result<Arc<[u8]>, DataError> {
        match self {
            Self::File(path) => read_file(path),
            Self::Part(part) => part.read(),
            Self::Bytes { bytes, .. } => Ok(Arc::clone(bytes)),
        }
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Part(part) => write!(f, "{}!{}", part.container.path.display(), part.name),
            Self::Bytes { name, .. } => f.write_str(name),
        }
    }
}

impl From<PathBuf> for Content {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

fn read_file(path: &Path) -> Result<Arc<[u8]>, DataError> {
    let unreadable = |source| DataError::Read { path: path.to_owned(), source };
    // Opening a pipe would block for ever.
    if !path.metadata().map_err(unreadable)?.is_file() {
        return Err(DataError::MissingFile { path: path.to_owned() });
    }
    let file = File::open(path).map_err(unreadable)?;
    let expected = file.metadata().map_err(unreadable)?.len();
    let too_large =
        || DataError::ContentTooLarge { name: path.display().to_string(), max_bytes: MAX_CONTENT_BYTES };
    if expected > MAX_CONTENT_BYTES {
        return Err(too_large());
    }
    let bytes = read_at_most(file, expected, MAX_CONTENT_BYTES).map_err(unreadable)?;
    bytes.map(Arc::from).ok_or_else(too_large)
}

/// All that `reader` has, or `None` if that is more than `limit`. Memory is taken for what is there, not for what is expected.
fn read_at_most(reader: impl Read, expected: u64, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::with_capacity(usize::try_from(expected.min(limit).min(1 << 20)).unwrap_or(0));
    let n_read = reader.take(limit + 1).read_to_end(&mut bytes)?;
    Ok((n_read as u64 <= limit).then_some(bytes))
}

impl Part {
    fn read(&self) -> Result<Arc<[u8]>, DataError> {
        if self.len > MAX_CONTENT_BYTES {
            let name = Content::Part(self.clone()).to_string();
            return Err(DataError::ContentTooLarge { name, max_bytes: MAX_CONTENT_BYTES });
        }
        let unreadable = |source| DataError::Read { path: self.container.path.clone(), source };
        let damaged = || DataError::DamagedPart { name: Content::Part(self.clone()).to_string() };
        let mut file = self.container.open()?;
        file.seek(SeekFrom::Start(self.start)).map_err(unreadable)?;
        let stored = io::BufReader::new(file.take(self.stored_len));
        let bytes = match self.packing {
            Packing::Stored => read_at_most(stored, self.len, self.len).map_err(unreadable)?,
            // What cannot be inflated is the archive's fault, not the system's.
            Packing::Deflated => {
                read_at_most(flate2::bufread::DeflateDecoder::new(stored), self.len, self.len)
                    .map_err(|_| damaged())?
            }
        };
        let bytes = bytes.filter(|bytes| bytes.len() as u64 == self.len).ok_or_else(damaged)?;
        if self.crc32.is_some_and(|expected| crc32fast::hash(&bytes) != expected) {
            return Err(damaged());
        }
        Ok(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    const PICTURE: &[u8] = b"not really a picture, but a picture, but a picture";

    fn part(path: &Path, packing: Packing, stored: &[u8]) -> Part {
        fs::write(path, [b"header", stored, b"trailer"].concat()).unwrap();
        Part {
            container: Arc::new(Container::of(path, &File::open(path).unwrap()).unwrap()),
            name: "a/b.png".into(),
            start: 6,
            stored_len: stored.len() as u64,
            len: PICTURE.len() as u64,
            packing,
            crc32: Some(crc32fast::hash(PICTURE)),
        }
    }

    fn deflated() -> Vec<u8> {
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(PICTURE).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_picture_is_read_from_wherever_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        fs::write(&path, PICTURE).unwrap();
        let contents = [
            Content::File(path),
            Content::Part(part(&dir.path().join("a.tar"), Packing::Stored, PICTURE)),
            Content::Part(part(&dir.path().join("a.zip"), Packing::Deflated, &deflated())),
            Content::Bytes { name: "a".into(), bytes: PICTURE.into() },
        ];
        for content in contents {
            assert_eq!((&*content.read().unwrap(), content.len()), (PICTURE, Some(50)), "{content}");
        }
    }

    #[test]
    fn a_part_that_is_not_what_it_claims_is_refused_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.zip");
        let whole = part(&path, Packing::Deflated, &deflated());
        let faults = [
            Part { len: 49, ..whole.clone() },
            Part { len: 51, crc32: None, ..whole.clone() },
            Part { crc32: Some(1), ..whole.clone() },
            Part { start: 7, ..whole.clone() },
            Part { stored_len: 9, ..whole.clone() },
            Part { packing: Packing::Stored, ..whole.clone() },
        ];
        for fault in faults {
            let error = Content::Part(fault.clone()).read().unwrap_err();
            assert_eq!(error.to_string(), format!("`{}!a/b.png` is damaged", path.display()), "{fault:?}");
        }
        let huge = Content::Part(Part { len: u64::MAX, ..whole });
        assert!(matches!(huge.read().unwrap_err(), DataError::ContentTooLarge { .. }));
    }

    #[test]
    fn a_container_that_changed_since_it_was_opened_is_read_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let content = Content::Part(part(&path, Packing::Stored, PICTURE));
        fs::write(&path, "another").unwrap();
        assert!(matches!(content.read().unwrap_err(), DataError::Changed { .. }));
        fs::remove_file(&path).unwrap();
        assert!(matches!(content.read().unwrap_err(), DataError::Read { .. }));
    }
}
