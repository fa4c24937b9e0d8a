//! Pictures in zip archives, stored or deflated.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use zip::CompressionMethod;

use super::root::{Files, Root, check_spelling};
use crate::content::{Container, Content, MAX_CONTENT_BYTES, Packing, Part};
use crate::decode::panic_message;
use crate::error::{DataError, TableFault};

/// Entries of an archive: their names are kept in memory.
const MAX_ENTRIES: u64 = 20_000_000;

/// The files of one or more zip archives by their names.
#[derive(Debug, Default)]
pub(super) struct Zips {
    entries: HashMap<Box<str>, Part>,
    /// Names that are there, but cannot be read, and why.
    refused: HashMap<Box<str>, &'static str>,
}

impl Zips {
    /// Adds the entries of an archive.
    pub(super) fn add(&mut self, path: &Path) -> Result<(), DataError> {
        let unreadable = |source| DataError::Read { path: path.to_owned(), source };
        let damaged = |reason: String| DataError::DamagedTable { path: path.to_owned(), reason };
        let open = File::open(path).map_err(unreadable)?;
        let container = Arc::new(Container::of(path, &open)?);
        // The least that an entry takes in the file: what claims more of them lies.
        const MIN_ENTRY_BYTES: u64 = 46 + 30;
        let max = MAX_ENTRIES.min(container.len() / MIN_ENTRY_BYTES);
        let read = AssertUnwindSafe(|| zip::ZipArchive::new(BufReader::new(open)));
        let mut archive = catch_unwind(read)
            .map_err(|panic| damaged(format!("the reader panicked: {}", panic_message(&*panic))))?
            .map_err(|error| damaged(error.to_string()))?;
        if archive.len() as u64 > max {
            let fault = TableFault::Entries { found: archive.len(), max };
            return Err(DataError::RefusedTable { path: path.to_owned(), fault });
        }
        for index in 0..archive.len() {
            let entry = archive.by_index_raw(index).map_err(|error| damaged(error.to_string()))?;
            let name = entry.name().map_err(|error| damaged(error.to_string()))?.into_owned();
            if name.ends_with('/') {
                continue;
            }
            let refusal = if entry.is_symlink() {
                Some("is a link")
            } else if entry.encrypted() {
                Some("is encrypted")
            } else if !matches!(entry.compression(), CompressionMethod::Stored | CompressionMethod::DEFLATE) {
                Some("is compressed by something other than deflate")
            } else if entry.size() > MAX_CONTENT_BYTES {
                Some("is larger than 512 MiB")
            } else {
                None
            };
            if let Some(refusal) = refusal {
                self.refused.insert(name.into(), refusal);
                continue;
            }
            let packing = if entry.compression() == CompressionMethod::Stored {
                Packing::Stored
            } else {
                Packing::Deflated
            };
            let start = entry.data_start().ok_or_else(|| damaged(format!("`{name}` has no place")))?;
            let part = Part {
                container: Arc::clone(&container),
                name: name.as_str().into(),
                start,
                stored_len: entry.compressed_size(),
                len: entry.size(),
                packing,
                crc32: Some(entry.crc32()),
            };
            self.entries.insert(name.into(), part);
        }
        Ok(())
    }

    /// The names that end so, in order.
    pub(super) fn names_ending(&self, end: &str) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.entries.keys().map(AsRef::as_ref).filter(|name| name.ends_with(end)).collect();
        names.sort_unstable();
        names
    }

    fn find(&self, name: &str) -> Result<Option<Content>, DataError> {
        // `./a/b` and `a//b` are `a/b`.
        let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        let name = parts.join("/");
        if let Some(reason) = self.refused.get(name.as_str()) {
            return Err(DataError::RefusedEntry { name, reason });
        }
        Ok(self.entries.get(name.as_str()).map(|part| Content::Part(part.clone())))
    }
}

/// The files of an archive, below one of its folders.
#[derive(Debug)]
pub(super) struct ZipFolder {
    pub(super) zips: Arc<Zips>,
    /// Empty, or with a slash at its end.
    pub(super) prefix: String,
}

impl Files for ZipFolder {
    fn content(&self, relative: &str) -> Result<Content, DataError> {
        check_spelling(relative)?;
        let name = format!("{}{relative}", self.prefix);
        self.zips.find(&name)?.ok_or(DataError::NotInArchive { name })
    }
}

/// The files of a folder, and those of the archives in it.
#[derive(Debug)]
pub(super) struct FolderAndZips {
    pub(super) root: Root,
    pub(super) zips: Arc<Zips>,
}

impl Files for FolderAndZips {
    fn content(&self, relative: &str) -> Result<Content, DataError> {
        match self.root.content(relative) {
            Err(missing @ DataError::MissingFile { .. }) => self.zips.find(relative)?.ok_or(missing),
            found => found,
        }
    }
}
