//! Compressed pictures are unpacked once, so that each can be read by itself at any time.
//!
//! A Parquet file becomes a tar archive in webdataset's way, in the folder of caches, under a name made of all of its bytes and the
//! columns that are used. It is written beside and renamed, so that it is whole or not there; runs share it.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::find::relative;
use super::shard::Shard;
use super::tar::{Checksums, TarShard};
use super::{Columns, Sample};
use crate::error::DataError;

/// Changes when the archives are made in another way.
const CONTEXT: &str = "pyrograph 2026 unpacked data v1";

/// The folder below that of the caches.
const FOLDER: &str = "unpacked";

/// Unpacks the shards that are packed, into a folder of caches.
pub(super) fn unpacked(
    dir: &Path,
    shards: Vec<Arc<dyn Shard>>,
    columns: &Columns,
    cache_dir: &Path,
) -> Result<Vec<Arc<dyn Shard>>, DataError> {
    shards
        .into_iter()
        .map(|shard| if shard.is_packed() { unpack(dir, &*shard, columns, cache_dir) } else { Ok(shard) })
        .collect()
}

fn unpack(
    dir: &Path,
    shard: &dyn Shard,
    columns: &Columns,
    cache_dir: &Path,
) -> Result<Arc<dyn Shard>, DataError> {
    let name = name(shard.path(), columns)?;
    let folder = cache_dir.join(FOLDER);
    let path = folder.join(format!("{name}.tar"));
    let made_from = (shard.path().into(), relative(shard.path(), Some(dir)));
    let archive = TarShard {
        file: path.as_path().into(),
        columns: Columns { hint: columns.hint.as_ref().and(Columns::default().hint), ..Columns::default() },
        made_from: Some(made_from),
    };
    if !path.is_file() {
        tracing::info!("{} is unpacked to {}, once for all runs", shard.path().display(), path.display());
        write(shard, &folder, &path)?;
    } else if !archive.is_whole() {
        tracing::warn!("{} is damaged and made again", path.display());
        write(shard, &folder, &path)?;
    }
    Ok(Arc::new(archive))
}

fn name(file: &Path, columns: &Columns) -> Result<String, DataError> {
    let unreadable = |source| DataError::Read { path: file.to_owned(), source };
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(&[u8::from(columns.hint.is_some())]);
    for column in columns.all() {
        hasher.update(&(column.len() as u64).to_le_bytes()).update(column.as_bytes());
    }
    hasher.update_reader(File::open(file).map_err(unreadable)?).map_err(unreadable)?;
    Ok(hasher.finalize().to_hex()[..32].to_owned())
}

fn write(shard: &dyn Shard, folder: &Path, path: &Path) -> Result<(), DataError> {
    let unwritable = |source| DataError::Write { path: path.to_owned(), source };
    fs::create_dir_all(folder).map_err(unwritable)?;
    // Deletes itself if anything below fails.
    let file = tempfile::Builder::new().suffix(".incomplete").tempfile_in(folder).map_err(unwritable)?;
    let mut archive = tar::Builder::new(BufWriter::new(file));
    for (place, sample) in shard.samples(0)?.enumerate() {
        append(&mut archive, place, &sample?, &unwritable)?;
    }
    let file =
        archive.into_inner().and_then(|writer| writer.into_inner().map_err(io::IntoInnerError::into_error));
    let file = file.map_err(unwritable)?;
    // Unlike a lost entry of the other caches, a torn archive would look like a damaged data set.
    file.as_file().sync_all().map_err(unwritable)?;
    file.persist(path).map_err(|error| unwritable(error.error))?;
    Ok(())
}

fn append(
    archive: &mut tar::Builder<impl Write>,
    place: usize,
    sample: &Sample,
    unwritable: &dyn Fn(io::Error) -> DataError,
) -> Result<(), DataError> {
    #[derive(Serialize)]
    struct Metadata<'a> {
        text: &'a [String],
        #[serde(flatten)]
        checksums: Checksums,
    }
    let (image, hint) = (sample.image.read()?, sample.hint.read()?);
    let checksum = |bytes: &[u8]| Some(crc32fast::hash(bytes));
    let checksums = Checksums { image: checksum(&image), hint: checksum(&hint) };
    let metadata = Metadata { text: &sample.captions, checksums };
    let metadata = serde_json::to_vec(&metadata).expect("strings and numbers are JSON");
    let mut add = |bytes: &[u8], end: &str| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, format!("{place:09}.{end}"), bytes).map_err(unwritable)
    };
    add(&image, "image")?;
    // What hints are made of is there already.
    if sample.hint != sample.image {
        add(&hint, "conditioning_image")?;
    }
    add(&metadata, "json")
}

/// A folder for a data set that is opened without one for caches; it goes with the data set.
pub(super) fn passing_folder() -> Result<tempfile::TempDir, DataError> {
    tempfile::Builder::new()
        .prefix("pyrograph-")
        .tempdir()
        .map_err(|source| DataError::Write { path: PathBuf::from("the temporary folder"), source })
}
