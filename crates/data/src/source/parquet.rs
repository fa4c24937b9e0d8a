//! Parquet, as `Dataset.push_to_hub` and `to_parquet` write it: pictures are structs of bytes and a path, or plain bytes.
//!
//! Source: Hugging Face datasets 5.2, `features/image.py` (`Image.embed_storage`) and the Parquet specification.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader};
use parquet::file::metadata::ParquetMetaData;

use super::root::Files;
use super::row::{Cell, MAX_CAPTION_BYTES, Row, in_row};
use super::sample::{Columns, Origin};
use super::shard::{Samples, Shard};
use crate::content::Content;
use crate::decode::panic_message;
use crate::error::{DataError, TableFault};

/// What one column of one row group may unpack to, by the file's own account: a thousand rows of 2 MB.
const MAX_CHUNK_BYTES: i64 = 2 << 30;
/// More than any tool writes: a thousand million rows in groups of a thousand.
const MAX_ROW_GROUPS: usize = 1 << 20;
/// What the table of contents may take in memory.
const MAX_FOOTER_BYTES: u64 = 256 << 20;
/// Rows are unpacked so many bytes at a time, about.
const BATCH_BYTES: i64 = 8 << 20;
const MAX_BATCH_ROWS: usize = 64;

/// A Parquet file.
#[derive(Debug)]
pub(super) struct ParquetShard {
    pub(super) file: Arc<Path>,
    /// What its rows are called, however the file is.
    pub(super) id: Arc<str>,
    pub(super) columns: Columns,
    pub(super) rename: fn(Row) -> Row,
    pub(super) files: Arc<dyn Files>,
}

impl ParquetShard {
    fn open(&self) -> Result<(File, ArrowReaderMetadata), DataError> {
        let unreadable = |source| DataError::Read { path: self.file.to_path_buf(), source };
        let open = File::open(&self.file).map_err(unreadable)?;
        if !open.metadata().map_err(unreadable)?.is_file() {
            return Err(DataError::MissingFile { path: self.file.to_path_buf() });
        }
        let footer = footer_bytes(&open).map_err(unreadable)?;
        if footer > MAX_FOOTER_BYTES {
            return Err(self.refused(TableFault::Footer { bytes: footer, max: MAX_FOOTER_BYTES }));
        }
        let metadata = self.guarded(|| {
            // Types are those of the file, not what Arrow made of them: its own schema can be forged, too.
            ArrowReaderMetadata::load(&open, ArrowReaderOptions::new().with_skip_arrow_metadata(true))
        })?;
        self.check(metadata.metadata())?;
        Ok((open, metadata))
    }

    fn check(&self, metadata: &ParquetMetaData) -> Result<(), DataError> {
        let found = metadata.num_row_groups();
        if found > MAX_ROW_GROUPS {
            return Err(self.refused(TableFault::RowGroups { found, max: MAX_ROW_GROUPS }));
        }
        for group in metadata.row_groups() {
            for chunk in group.columns() {
                let bytes = chunk.uncompressed_size();
                if !(0..=MAX_CHUNK_BYTES).contains(&bytes) {
                    let column = chunk.column_path().string();
                    return Err(self.refused(TableFault::Chunk { column, bytes, max: MAX_CHUNK_BYTES }));
                }
            }
            if group.num_rows() < 0 {
                return Err(self.refused(TableFault::NegativeRows));
            }
        }
        Ok(())
    }

    fn refused(&self, fault: TableFault) -> DataError {
        DataError::RefusedTable { path: self.file.to_path_buf(), fault }
    }

    /// A damaged file makes the reader fail, and now and then panic.
    fn guarded<T>(&self, read: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T, DataError> {
        catch_unwind(AssertUnwindSafe(read))
            .map_err(|panic| format!("the reader panicked: {}", panic_message(&*panic)))
            .and_then(|result| result.map_err(|error| error.to_string()))
            .map_err(|reason| DataError::DamagedTable { path: self.file.to_path_buf(), reason })
    }

    /// The top-level columns that are used, under the names that they have in the file.
    fn used(&self, metadata: &ArrowReaderMetadata) -> Vec<usize> {
        let fields = metadata.schema().fields().iter().enumerate();
        let is_used = |field: &Field| {
            let Row(renamed) = (self.rename)(Row(vec![(field.name().clone(), Cell::Other(String::new()))]));
            renamed.iter().any(|(name, _)| self.columns.all().contains(&name.as_str()))
        };
        fields.filter(|(_, field)| is_used(field)).map(|(place, _)| place).collect()
    }

    fn others(&self, metadata: &ArrowReaderMetadata) -> Vec<String> {
        metadata.schema().fields().iter().map(|field| field.name().clone()).collect()
    }

    /// The rows of all row groups from the one with row `first` on, and how many of them come before `first`.
    fn batches(&self, first: usize) -> Result<(ParquetRecordBatchReader, usize, Vec<String>), DataError> {
        let (open, metadata) = self.open()?;
        let others = self.others(&metadata);
        let used = self.used(&metadata);
        let mut n_before = first;
        let mut groups = Vec::new();
        let mut bytes_per_row = 1;
        for (place, group) in metadata.metadata().row_groups().iter().enumerate() {
            let n_rows = usize::try_from(group.num_rows()).unwrap_or(usize::MAX);
            if groups.is_empty() && n_before >= n_rows {
                n_before -= n_rows;
                continue;
            }
            bytes_per_row = bytes_per_row.max(group.total_byte_size() / group.num_rows().max(1));
            groups.push(place);
        }
        let batch_rows = usize::try_from(BATCH_BYTES / bytes_per_row).unwrap_or(1).clamp(1, MAX_BATCH_ROWS);
        let mask = ProjectionMask::roots(metadata.parquet_schema(), used);
        let reader = self.guarded(|| {
            ParquetRecordBatchReaderBuilder::new_with_metadata(open, metadata)
                .with_row_groups(groups)
                .with_projection(mask)
                .with_batch_size(batch_rows)
                .with_offset(n_before)
                .build()
        })?;
        Ok((reader, first, others))
    }
}

/// The length of the table of contents, from the last eight bytes.
fn footer_bytes(mut file: &File) -> std::io::Result<u64> {
    use std::io::{Read, Seek, SeekFrom};
    let mut tail = [0; 8];
    if file.metadata()?.len() < 8 {
        return Ok(0);
    }
    file.seek(SeekFrom::End(-8))?;
    file.read_exact(&mut tail)?;
    let [a, b, c, d, ..] = tail;
    Ok(u32::from_le_bytes([a, b, c, d]).into())
}

impl Shard for ParquetShard {
    fn path(&self) -> &Path {
        &self.file
    }

    fn count(&self) -> Result<usize, DataError> {
        let (_, metadata) = self.open()?;
        let rows = metadata.metadata().row_groups().iter().map(|group| group.num_rows());
        // Not the sum in the footer: it may say anything.
        Ok(rows.map(|n_rows| usize::try_from(n_rows).unwrap_or(0)).sum())
    }

    fn is_packed(&self) -> bool {
        let Ok((_, metadata)) = self.open() else { return true };
        let used = self.used(&metadata);
        used.iter().any(|&place| holds_bytes(metadata.schema().field(place).data_type()))
    }

    fn samples(&self, first: usize) -> Result<Samples, DataError> {
        let (mut reader, mut place, others) = self.batches(first)?;
        let shard = Self {
            file: Arc::clone(&self.file),
            id: Arc::clone(&self.id),
            columns: self.columns.clone(),
            rename: self.rename,
            files: Arc::clone(&self.files),
        };
        let mut batch: Option<(RecordBatch, usize)> = None;
        let mut has_ended = false;
        Ok(Box::new(std::iter::from_fn(move || {
            loop {
                if has_ended {
                    return None;
                }
                if let Some((rows, next)) = &mut batch
                    && *next < rows.num_rows()
                {
                    let row = row(rows, *next, &shard.id, place);
                    *next += 1;
                    place += 1;
                    let origin = Origin { file: Arc::clone(&shard.file), row: place };
                    let unnamed = || format!("{}:{place}", shard.id);
                    return Some(match row {
                        Ok(row) => with_others((shard.rename)(row), &others).sample(
                            &shard.columns,
                            &*shard.files,
                            origin,
                            unnamed,
                        ),
                        Err(error) => Err(in_row(origin, error)),
                    });
                }
                batch = None;
                let next = shard.guarded(|| reader.next().transpose().map_err(Into::into));
                match next {
                    Ok(Some(rows)) => batch = Some((rows, 0)),
                    Ok(None) => has_ended = true,
                    Err(error) => {
                        has_ended = true;
                        return Some(Err(error));
                    }
                }
            }
        })))
    }
}

/// Columns that are not read stand in the message of one that is missing.
fn with_others(mut row: Row, others: &[String]) -> Row {
    for name in others {
        if row.0.iter().all(|(known, _)| known != name) {
            row.0.push((name.clone(), Cell::Other("something that is not read".to_owned())));
        }
    }
    row
}

fn holds_bytes(data_type: &DataType) -> bool {
    match data_type {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => true,
        DataType::Struct(fields) => fields.iter().any(|field| field.name() == "bytes"),
        _ => false,
    }
}

fn row(batch: &RecordBatch, at: usize, file: &str, place: usize) -> Result<Row, DataError> {
    let schema = batch.schema();
    let cells = schema.fields().iter().zip(batch.columns()).map(|(field, column)| {
        let name = || format!("{file}!{}.{}", field.name(), place + 1).into();
        Ok((field.name().clone(), cell(column, at, name)?))
    });
    cells.collect::<Result<_, _>>().map(Row)
}

fn cell(column: &ArrayRef, at: usize, name: impl Fn() -> Arc<str>) -> Result<Cell, DataError> {
    if column.is_null(at) {
        return Ok(Cell::Other("null".to_owned()));
    }
    if let Some(bytes) = bytes(column, at) {
        return Ok(Cell::Picture(Content::Bytes { name: name(), bytes: bytes.into() }, None));
    }
    if let Some(text) = text(column, at)? {
        return Ok(Cell::Text(text));
    }
    if let Some(table) = column.as_struct_opt() {
        let field = |name| table.column_by_name(name).filter(|column| !column.is_null(at));
        let path = field("path").map(|column| text(column, at)).transpose()?.flatten();
        if let Some(bytes) = field("bytes").and_then(|column| bytes(column, at)) {
            return Ok(Cell::Picture(Content::Bytes { name: name(), bytes: bytes.into() }, None));
        }
        return Ok(path.map_or_else(|| Cell::Other("neither bytes nor a path".to_owned()), Cell::Text));
    }
    let list = column
        .as_list_opt::<i32>()
        .map(|list| list.value(at))
        .or_else(|| column.as_list_opt::<i64>().map(|list| list.value(at)));
    if let Some(list) = list
        && !list.is_empty()
    {
        let texts: Option<Vec<String>> =
            (0..list.len()).map(|at| text(&list, at)).collect::<Result<_, _>>()?;
        return Ok(texts.map_or_else(|| Cell::Other(shown(&list)), Cell::Texts));
    }
    Ok(Cell::Other(shown(column)))
}

fn shown(column: &ArrayRef) -> String {
    format!("a value of type {}", column.data_type())
}

fn bytes(column: &ArrayRef, at: usize) -> Option<&[u8]> {
    column
        .as_binary_opt::<i32>()
        .map(|array| array.value(at))
        .or_else(|| column.as_binary_opt::<i64>().map(|array| array.value(at)))
        .or_else(|| column.as_binary_view_opt().map(|array| array.value(at)))
}

fn text(column: &ArrayRef, at: usize) -> Result<Option<String>, DataError> {
    if column.is_null(at) {
        return Ok(None);
    }
    let text = column
        .as_string_opt::<i32>()
        .map(|array| array.value(at))
        .or_else(|| column.as_string_opt::<i64>().map(|array| array.value(at)))
        .or_else(|| column.as_string_view_opt().map(|array| array.value(at)));
    match text {
        Some(text) if text.len() > MAX_CAPTION_BYTES => {
            Err(DataError::LineTooLong { max_bytes: MAX_CAPTION_BYTES })
        }
        text => Ok(text.map(str::to_owned)),
    }
}
