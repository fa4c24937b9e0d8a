//! Tar archives in webdataset's way: `000000000.jpg`, `000000000.conditioning_image.png`, `000000000.txt`.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use ::tar::{Builder, Header};
use serde_json::json;

use super::{Captions, Pair, ShardFile};
use crate::error::DataError;
use crate::new_folder::cannot_write;

pub(super) struct TarFile {
    path: PathBuf,
    captions: Captions,
    archive: Builder<BufWriter<File>>,
}

impl TarFile {
    pub(super) fn new(path: &Path, file: File, captions: Captions) -> Self {
        Self { path: path.to_owned(), captions, archive: Builder::new(BufWriter::new(file)) }
    }

    fn member(&mut self, place: usize, end: &str, bytes: &[u8]) -> Result<(), DataError> {
        let mut header = Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        self.archive
            .append_data(&mut header, format!("{place:09}.{end}"), bytes)
            .map_err(cannot_write(&self.path))
    }
}

impl ShardFile for TarFile {
    fn add(&mut self, pair: &Pair<'_>) -> Result<(), DataError> {
        self.member(pair.place, pair.image.extension, &pair.image.bytes)?;
        if let Some(hint) = &pair.hint {
            self.member(pair.place, &format!("conditioning_image.{}", hint.extension), &hint.bytes)?;
        }
        match (self.captions, pair.captions) {
            (Captions::Line, [caption]) => self.member(pair.place, "txt", caption.as_bytes()),
            (Captions::Text, [caption]) => {
                self.member(pair.place, "json", json!({"text": caption}).to_string().as_bytes())
            }
            (_, captions) => {
                self.member(pair.place, "json", json!({"text": captions}).to_string().as_bytes())
            }
        }
    }

    fn finish(self: Box<Self>) -> Result<(), DataError> {
        let Self { path, archive, .. } = *self;
        let file = archive
            .into_inner()
            .and_then(|writer| writer.into_inner().map_err(io::IntoInnerError::into_error));
        file.and_then(|file| file.sync_all()).map_err(cannot_write(&path))
    }
}
