//! Arrow tables as `Dataset.save_to_disk` writes them: `data-*.arrow` in the stream format.
//!
//! Record batches are not compressed there, so a picture is a part of the file: of a batch only the offsets are read.
//! A file in Arrow's other format, with the magic bytes `ARROW1`, holds the same stream behind them.
//!
//! Source: the Arrow columnar format, "Serialization and interprocess communication".

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::{MessageHeader, RecordBatch, root_as_message};
use arrow_schema::{DataType, Field, Schema};

use super::root::Files;
use super::row::{Cell, MAX_CAPTION_BYTES, Row, in_row};
use super::sample::{Columns, Origin};
use super::shard::{Samples, Shard};
use crate::content::{Container, Content, Packing, Part};
use crate::decode::panic_message;
use crate::error::DataError;

/// The description of a batch: a few dozen bytes for each column.
const MAX_METADATA_BYTES: u64 = 16 << 20;
/// Rows of a batch, whose offsets are in memory together; `datasets` writes 1000.
const MAX_BATCH_ROWS: u64 = 4 << 20;

/// An Arrow file.
#[derive(Debug)]
pub(super) struct ArrowShard {
    pub(super) file: Arc<Path>,
    pub(super) id: Arc<str>,
    pub(super) columns: Columns,
    pub(super) files: Arc<dyn Files>,
}

impl ArrowShard {
    fn batches(&self) -> Result<Batches, DataError> {
        let unreadable = |source| DataError::Read { path: self.file.to_path_buf(), source };
        let mut open = File::open(&self.file).map_err(unreadable)?;
        let container = Arc::new(Container::of(&self.file, &open)?);
        let mut magic = [0; 8];
        let has_magic = open.read_exact(&mut magic).is_ok() && magic.starts_with(b"ARROW1");
        let mut batches =
            Batches { open, container, next: if has_magic { 8 } else { 0 }, schema: Schema::empty() };
        batches.read_schema()?;
        Ok(batches)
    }
}

impl Shard for ArrowShard {
    fn path(&self) -> &Path {
        &self.file
    }

    fn count(&self) -> Result<usize, DataError> {
        let mut batches = self.batches()?;
        let mut count = 0;
        while let Some(batch) = batches.next()? {
            count += batch.n_rows;
        }
        Ok(count)
    }

    fn samples(&self, first: usize) -> Result<Samples, DataError> {
        let mut batches = self.batches()?;
        let (file, id) = (Arc::clone(&self.file), Arc::clone(&self.id));
        let (columns, files) = (self.columns.clone(), Arc::clone(&self.files));
        let mut place = 0;
        let mut rows: Option<(Rows, usize)> = None;
        let mut has_ended = false;
        Ok(Box::new(std::iter::from_fn(move || {
            loop {
                if has_ended {
                    return None;
                }
                if let Some((batch, next)) = &mut rows
                    && *next < batch.n_rows
                {
                    let row = batch.row(*next, place, &id, &mut batches);
                    *next += 1;
                    place += 1;
                    let origin = Origin { file: Arc::clone(&file), row: place };
                    return Some(match row {
                        Ok(row) => row.sample(&columns, &*files, origin, || format!("{id}:{place}")),
                        Err(error) => Err(in_row(origin, error)),
                    });
                }
                rows = None;
                let next = batches.next().and_then(|batch| {
                    let Some(batch) = batch else { return Ok(None) };
                    let n_skipped = first.saturating_sub(place).min(batch.n_rows);
                    place += n_skipped;
                    // Nothing is read of a batch that is passed over.
                    if n_skipped == batch.n_rows {
                        return Ok(Some((Rows::default(), 0)));
                    }
                    Ok(Some((batches.rows(&batch, &columns)?, n_skipped)))
                });
                match next {
                    Ok(Some(next)) => rows = Some(next),
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

/// The messages of a file.
struct Batches {
    open: File,
    container: Arc<Container>,
    next: u64,
    schema: Schema,
}

/// Where the parts of a record batch are.
struct Batch {
    n_rows: usize,
    /// Rows of each array, children behind their parents.
    lengths: Vec<usize>,
    /// Start in the file and length of each buffer.
    buffers: Vec<(u64, u64)>,
}

impl Batches {
    fn damaged(&self, reason: impl Into<String>) -> DataError {
        DataError::DamagedTable { path: self.container.path().to_owned(), reason: reason.into() }
    }

    fn bytes(&mut self, start: u64, len: u64) -> Result<Vec<u8>, DataError> {
        if start.checked_add(len).is_none_or(|end| end > self.container.len()) {
            return Err(self.damaged("a part of it is beyond its end"));
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        let read = |open: &mut File, bytes: &mut [u8]| -> io::Result<()> {
            open.seek(SeekFrom::Start(start))?;
            open.read_exact(bytes)
        };
        read(&mut self.open, &mut bytes)
            .map_err(|source| DataError::Read { path: self.container.path().to_owned(), source })?;
        Ok(bytes)
    }

    /// The description of the next message, and where its body begins; `None` at the end.
    fn message(&mut self) -> Result<Option<(Vec<u8>, u64)>, DataError> {
        let number = |bytes: Vec<u8>| bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        if self.next + 4 > self.container.len() {
            return Ok(None);
        }
        let mut position = self.next;
        let mut len = number(self.bytes(position, 4)?);
        position += 4;
        // Written since Arrow 0.15 before each length.
        if len == u32::MAX {
            len = number(self.bytes(position, 4)?);
            position += 4;
        }
        if len == 0 {
            return Ok(None);
        }
        if u64::from(len) > MAX_METADATA_BYTES {
            return Err(self.damaged(format!("the description at byte {position} takes {len} bytes")));
        }
        let metadata = self.bytes(position, len.into())?;
        Ok(Some((metadata, position + u64::from(len))))
    }

    fn read_schema(&mut self) -> Result<(), DataError> {
        let (bytes, body) = self.message()?.ok_or_else(|| self.damaged("it is empty"))?;
        let read = AssertUnwindSafe(|| {
            let message = root_as_message(&bytes).map_err(|error| error.to_string())?;
            let schema = message.header_as_schema().ok_or("it does not begin with a schema")?;
            try_fb_to_schema(schema).map_err(|error| error.to_string())
        });
        self.schema = catch_unwind(read)
            .unwrap_or_else(|panic| Err(panic_message(&*panic)))
            .map_err(|reason| self.damaged(reason))?;
        self.next = body;
        Ok(())
    }

    /// The next record batch.
    fn next(&mut self) -> Result<Option<Batch>, DataError> {
        loop {
            let Some((bytes, body)) = self.message()? else { return Ok(None) };
            let parsed = catch_unwind(AssertUnwindSafe(|| {
                let message = root_as_message(&bytes).map_err(|error| error.to_string())?;
                let body_len = u64::try_from(message.bodyLength()).map_err(|error| error.to_string())?;
                let batch = match message.header_type() {
                    MessageHeader::RecordBatch => {
                        let batch = message.header_as_record_batch().ok_or("it has no record batch")?;
                        Some(parse(batch, body, body_len)?)
                    }
                    _ => None,
                };
                Ok((batch, body_len))
            }));
            let (batch, body_len) = parsed
                .unwrap_or_else(|panic| Err(panic_message(&*panic)))
                .map_err(|reason: String| self.damaged(reason))?;
            self.next = body
                .checked_add(body_len)
                .filter(|end| *end <= self.container.len())
                .ok_or_else(|| self.damaged("it breaks off in a record batch"))?;
            if batch.is_some() {
                return Ok(batch);
            }
        }
    }

    /// Reads the offsets of the columns that are used.
    fn rows(&mut self, batch: &Batch, columns: &Columns) -> Result<Rows, DataError> {
        let (mut node, mut buffer) = (0, 0);
        let mut cells = Vec::new();
        for field in self.schema.fields.clone().iter() {
            let slot = Slot::of(field, &mut node, &mut buffer).map_err(|reason| self.damaged(reason))?;
            let is_used = columns.all().contains(&field.name().as_str());
            let values = if is_used {
                self.values(batch, &slot, field)?
            } else {
                Values::Other(field.data_type().to_string())
            };
            cells.push((field.name().clone(), values));
        }
        Ok(Rows { n_rows: batch.n_rows, columns: cells })
    }

    fn values(&mut self, batch: &Batch, slot: &Slot, field: &Field) -> Result<Values, DataError> {
        Ok(match field.data_type() {
            DataType::Binary | DataType::LargeBinary => Values::Bytes(self.ranges(batch, slot, field)?),
            DataType::Utf8 | DataType::LargeUtf8 => Values::Text(self.ranges(batch, slot, field)?),
            DataType::Struct(fields) => {
                let mut of = |name| {
                    let child = fields.iter().zip(&slot.children).find(|(field, _)| field.name() == name);
                    let Some((field, slot)) = child else { return Ok(None) };
                    let is_ranges = matches!(
                        field.data_type(),
                        DataType::Binary | DataType::LargeBinary | DataType::Utf8 | DataType::LargeUtf8
                    );
                    if is_ranges { self.ranges(batch, slot, field).map(Some) } else { Ok(None) }
                };
                let (bytes, path) = (of("bytes")?, of("path")?);
                Values::Picture { bytes, path, validity: self.validity(batch, slot)? }
            }
            DataType::List(child) | DataType::LargeList(child)
                if matches!(child.data_type(), DataType::Utf8 | DataType::LargeUtf8) =>
            {
                let lists = self.ranges(batch, slot, field)?;
                let texts = self.ranges(batch, &slot.children[0], child)?;
                Values::Texts { lists, texts }
            }
            other => Values::Other(other.to_string()),
        })
    }

    fn buffer(&self, batch: &Batch, place: usize) -> Result<(u64, u64), DataError> {
        batch.buffers.get(place).copied().ok_or_else(|| self.damaged("a record batch lacks a buffer"))
    }

    fn validity(&mut self, batch: &Batch, slot: &Slot) -> Result<Vec<u8>, DataError> {
        let (start, len) = self.buffer(batch, slot.buffer)?;
        if len > MAX_BATCH_ROWS {
            return Err(self.damaged("a record batch has too many rows"));
        }
        self.bytes(start, len)
    }

    fn ranges(&mut self, batch: &Batch, slot: &Slot, field: &Field) -> Result<Ranges, DataError> {
        let n_rows =
            *batch.lengths.get(slot.node).ok_or_else(|| self.damaged("a record batch lacks a column"))?;
        let validity = self.validity(batch, slot)?;
        let (start, len) = self.buffer(batch, slot.buffer + 1)?;
        let is_wide =
            matches!(field.data_type(), DataType::LargeBinary | DataType::LargeUtf8 | DataType::LargeList(_));
        if n_rows as u64 > MAX_BATCH_ROWS {
            return Err(self.damaged("a record batch has too many rows"));
        }
        let needed = (n_rows as u64 + 1) * if is_wide { 8 } else { 4 };
        // An array without rows may have no offsets.
        if n_rows > 0 && needed > len {
            return Err(self.damaged("a record batch lacks offsets"));
        }
        let bytes = self.bytes(start, needed.min(len))?;
        let offsets: Vec<u64> = if is_wide {
            bytes.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect()
        } else {
            bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes).into()).collect()
        };
        let data = match field.data_type() {
            DataType::List(_) | DataType::LargeList(_) => {
                (0, batch.lengths.get(slot.node + 1).copied().unwrap_or(0) as u64)
            }
            _ => self.buffer(batch, slot.buffer + 2)?,
        };
        if offsets.windows(2).any(|pair| pair[0] > pair[1])
            || offsets.last().is_some_and(|last| *last > data.1)
        {
            return Err(self.damaged("the offsets of a record batch point elsewhere"));
        }
        Ok(Ranges { validity, offsets, start: data.0 })
    }
}

fn parse(batch: RecordBatch<'_>, body: u64, body_len: u64) -> Result<Batch, String> {
    if batch.compression().is_some() {
        return Err("its record batches are compressed, as `save_to_disk` never writes them".to_owned());
    }
    let n_rows = usize::try_from(batch.length()).map_err(|error| error.to_string())?;
    // Each would be told as one that cannot be used.
    if n_rows as u64 > body_len.min(MAX_BATCH_ROWS) {
        return Err("a record batch has more rows than bytes".to_owned());
    }
    let nodes = batch.nodes().ok_or("a record batch has no columns")?;
    let lengths = nodes.iter().map(|node| usize::try_from(node.length()).map_err(|error| error.to_string()));
    let buffers = batch.buffers().ok_or("a record batch has no buffers")?;
    let buffers = buffers.iter().map(|buffer| {
        let (offset, len) = (u64::try_from(buffer.offset()).ok()?, u64::try_from(buffer.length()).ok()?);
        (offset.checked_add(len)? <= body_len).then(|| Some((body.checked_add(offset)?, len)))?
    });
    let buffers: Option<_> = buffers.collect();
    Ok(Batch {
        n_rows,
        lengths: lengths.collect::<Result<_, _>>()?,
        buffers: buffers.ok_or("a buffer is outside of its record batch")?,
    })
}

/// Where an array stands among those of a batch.
struct Slot {
    node: usize,
    buffer: usize,
    children: Vec<Slot>,
}

impl Slot {
    fn of(field: &Field, node: &mut usize, buffer: &mut usize) -> Result<Self, String> {
        let mut slot = Self { node: *node, buffer: *buffer, children: Vec::new() };
        *node += 1;
        let mut children: Vec<&Field> = Vec::new();
        *buffer += match field.data_type() {
            DataType::Null => 0,
            DataType::Struct(fields) => {
                children.extend(fields.iter().map(AsRef::as_ref));
                1
            }
            DataType::FixedSizeList(child, _) => {
                children.push(child);
                1
            }
            DataType::List(child) | DataType::LargeList(child) | DataType::Map(child, _) => {
                children.push(child);
                2
            }
            DataType::Binary | DataType::LargeBinary | DataType::Utf8 | DataType::LargeUtf8 => 3,
            DataType::BinaryView
            | DataType::Utf8View
            | DataType::ListView(_)
            | DataType::LargeListView(_)
            | DataType::Union(..)
            | DataType::RunEndEncoded(..) => {
                return Err(format!(
                    "column `{}` has the type {}, which is not read",
                    field.name(),
                    field.data_type()
                ));
            }
            _ => 2,
        };
        for child in children {
            slot.children.push(Self::of(child, node, buffer)?);
        }
        Ok(slot)
    }
}

/// The offsets of the used columns of a batch.
#[derive(Default)]
struct Rows {
    n_rows: usize,
    columns: Vec<(String, Values)>,
}

enum Values {
    Bytes(Ranges),
    Text(Ranges),
    Picture {
        bytes: Option<Ranges>,
        path: Option<Ranges>,
        validity: Vec<u8>,
    },
    Texts {
        lists: Ranges,
        texts: Ranges,
    },
    /// Of a type that is not used, or a column that is not.
    Other(String),
}

/// Where each value of a column begins and ends.
struct Ranges {
    validity: Vec<u8>,
    offsets: Vec<u64>,
    /// Of the values in the file.
    start: u64,
}

impl Ranges {
    fn get(&self, at: usize) -> Option<(u64, u64)> {
        let [from, to] = *self.offsets.get(at..at + 2)? else { return None };
        is_valid(&self.validity, at).then_some((from, to - from))
    }
}

fn is_valid(validity: &[u8], at: usize) -> bool {
    validity.is_empty() || validity.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1)
}

impl Rows {
    fn row(&self, at: usize, place: usize, file: &str, batches: &mut Batches) -> Result<Row, DataError> {
        let cells = self.columns.iter().map(|(name, values)| {
            let null = || Cell::Other("null".to_owned());
            let picture = |batches: &Batches, (from, len): (u64, u64), start: u64| {
                let part = Part {
                    container: Arc::clone(&batches.container),
                    name: format!("{name}.{}", place + 1).into(),
                    start: start + from,
                    stored_len: len,
                    len,
                    packing: Packing::Stored,
                    crc32: None,
                };
                Cell::Picture(Content::Part(part), None)
            };
            let cell = match values {
                Values::Bytes(ranges) => {
                    ranges.get(at).map_or_else(null, |range| picture(batches, range, ranges.start))
                }
                Values::Text(ranges) => text(ranges, at, batches)?.map_or_else(null, Cell::Text),
                Values::Picture { validity, .. } if !is_valid(validity, at) => null(),
                Values::Picture { bytes, path, .. } => {
                    let bytes = bytes.as_ref().and_then(|ranges| Some((ranges.get(at)?, ranges.start)));
                    match (bytes, path) {
                        (Some((range, start)), _) => picture(batches, range, start),
                        (None, Some(path)) => text(path, at, batches)?.map_or_else(null, Cell::Text),
                        (None, None) => null(),
                    }
                }
                Values::Texts { lists, texts } => match lists.get(at) {
                    Some((from, len)) if len > 0 && len <= MAX_CAPTION_BYTES as u64 => {
                        let index = |place: u64| usize::try_from(place).unwrap_or(usize::MAX);
                        let all = (index(from)..index(from + len))
                            .map(|at| Ok(text(texts, at, batches)?.unwrap_or_default()));
                        Cell::Texts(all.collect::<Result<_, DataError>>()?)
                    }
                    _ => null(),
                },
                Values::Other(data_type) => Cell::Other(format!("a value of type {data_type} in {file}")),
            };
            Ok((name.clone(), cell))
        });
        cells.collect::<Result<_, _>>().map(Row)
    }
}

fn text(ranges: &Ranges, at: usize, batches: &mut Batches) -> Result<Option<String>, DataError> {
    let Some((from, len)) = ranges.get(at) else { return Ok(None) };
    if len > MAX_CAPTION_BYTES as u64 {
        return Err(DataError::LineTooLong { max_bytes: MAX_CAPTION_BYTES });
    }
    let bytes = batches.bytes(ranges.start + from, len)?;
    String::from_utf8(bytes).map(Some).map_err(|_| DataError::NotText { name: "a caption".to_owned() })
}
