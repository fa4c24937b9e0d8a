//! Rows of text: JSON lines and comma-separated values.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::root::Files;
use super::row::{Cell, Row, in_row};
use super::sample::{Columns, Origin};
use super::shard::{Samples, Shard};
use crate::content::Content;
use crate::error::DataError;

/// A caption and two paths fit many times over; a file without line breaks does not fill the memory.
const MAX_LINE_BYTES: usize = 1 << 20;

/// A file of rows. Its name tells which kind: `.csv` has a header and comma-separated values, all others a JSON object in each line.
#[derive(Debug)]
pub(super) struct TextShard {
    pub(super) file: Arc<Path>,
    /// Its text, if it is no file of its own.
    pub(super) text: Option<Content>,
    pub(super) columns: Columns,
    /// Gives the columns their names in the data set.
    pub(super) rename: fn(Row) -> Row,
    pub(super) files: Arc<dyn Files>,
}

impl TextShard {
    fn rows(&self) -> Result<Box<dyn Rows>, DataError> {
        let open: Box<dyn Read + Send> = match &self.text {
            Some(text) => Box::new(io::Cursor::new(text.read()?)),
            None => {
                // Opening a pipe would block for ever.
                if !self.file.is_file() {
                    return Err(DataError::MissingFile { path: self.file.to_path_buf() });
                }
                Box::new(File::open(&self.file).map_err(|source| self.unreadable(source))?)
            }
        };
        let is_csv = self.file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
        Ok(if is_csv {
            Box::new(CsvRows::new(open).map_err(|fault| self.error(fault))?)
        } else {
            Box::new(JsonRows { reader: BufReader::new(open), line: Vec::new(), row: 0 })
        })
    }

    fn unreadable(&self, source: io::Error) -> DataError {
        DataError::Read { path: self.file.to_path_buf(), source }
    }

    fn error(&self, fault: Fault) -> DataError {
        match fault {
            Fault::File(source) => self.unreadable(source),
            Fault::Row(row, error) => in_row(Origin { file: Arc::clone(&self.file), row }, error),
        }
    }
}

impl Shard for TextShard {
    fn path(&self) -> &Path {
        &self.file
    }

    fn count(&self) -> Result<usize, DataError> {
        let mut rows = self.rows()?;
        let mut count = 0;
        while rows.skip().map_err(|fault| self.error(fault))? {
            count += 1;
        }
        Ok(count)
    }

    fn samples(&self, first: usize) -> Result<Samples, DataError> {
        let mut rows = self.rows()?;
        for _ in 0..first {
            rows.skip().map_err(|fault| self.error(fault))?;
        }
        let shard = Self {
            file: Arc::clone(&self.file),
            text: self.text.clone(),
            columns: self.columns.clone(),
            rename: self.rename,
            files: Arc::clone(&self.files),
        };
        let mut has_ended = false;
        Ok(Box::new(std::iter::from_fn(move || {
            if has_ended {
                return None;
            }
            match rows.next()? {
                Ok((row, at)) => {
                    let origin = Origin { file: Arc::clone(&shard.file), row: at };
                    let name = || origin_id(&shard.file, at);
                    Some((shard.rename)(row).sample(&shard.columns, &*shard.files, origin, name))
                }
                Err(fault) => {
                    has_ended = matches!(fault, Fault::File(_));
                    Some(Err(shard.error(fault)))
                }
            }
        })))
    }
}

/// An id for a picture that has no name.
pub(super) fn origin_id(file: &Path, row: usize) -> String {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    format!("{name}:{row}")
}

/// What is wrong, with the whole file or with a row and its number.
enum Fault {
    File(io::Error),
    Row(usize, DataError),
}

/// The rows of an open file with their line numbers.
trait Rows: Send {
    fn next(&mut self) -> Option<Result<(Row, usize), Fault>>;

    /// Passes over a row, good or bad; false if there is none.
    fn skip(&mut self) -> Result<bool, Fault>;
}

struct JsonRows {
    reader: BufReader<Box<dyn Read + Send>>,
    line: Vec<u8>,
    row: usize,
}

impl JsonRows {
    /// Reads the next line that is not empty; false if there is none. No more of it is kept than its limit and one byte.
    fn read_line(&mut self) -> Result<bool, Fault> {
        loop {
            self.line.clear();
            let limit = MAX_LINE_BYTES as u64 + 1;
            let n_read =
                self.reader.by_ref().take(limit).read_until(b'\n', &mut self.line).map_err(Fault::File)?;
            if n_read == 0 {
                return Ok(false);
            }
            self.row += 1;
            if self.is_too_long() {
                if self.line.last() != Some(&b'\n') {
                    skip_line(&mut self.reader).map_err(Fault::File)?;
                }
                return Ok(true);
            }
            if !self.text().is_empty() {
                return Ok(true);
            }
        }
    }

    fn is_too_long(&self) -> bool {
        self.line.len() > MAX_LINE_BYTES
    }

    /// Editors on Windows write a byte-order mark; carriage returns are white space to JSON.
    fn text(&self) -> &[u8] {
        let text = self.line.strip_prefix(b"\xef\xbb\xbf").filter(|_| self.row == 1).unwrap_or(&self.line);
        text.trim_ascii()
    }
}

fn skip_line(reader: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = reader.fill_buf()?;
        let (used, is_end) = match buffer.iter().position(|&byte| byte == b'\n') {
            Some(place) => (place + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        reader.consume(used);
        if is_end {
            return Ok(());
        }
    }
}

impl Rows for JsonRows {
    fn next(&mut self) -> Option<Result<(Row, usize), Fault>> {
        match self.read_line() {
            Ok(false) => return None,
            Ok(true) => {}
            Err(fault) => return Some(Err(fault)),
        }
        let row = if self.is_too_long() {
            Err(DataError::LineTooLong { max_bytes: MAX_LINE_BYTES })
        } else {
            serde_json::from_slice(self.text()).map_err(|source| DataError::InvalidJson { source })
        };
        Some(row.map(|row| (row, self.row)).map_err(|error| Fault::Row(self.row, error)))
    }

    fn skip(&mut self) -> Result<bool, Fault> {
        self.read_line()
    }
}

/// A JSON object in which no key comes twice: one of the two would be lost.
impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Columns;
        impl<'de> Visitor<'de> for Columns {
            type Value = Row;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
                let mut row = Row::default();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if row.0.iter().any(|(other, _)| *other == name) {
                        return Err(serde::de::Error::custom(format_args!("key `{name}` comes twice")));
                    }
                    row.0.push((name, Cell::from(value)));
                }
                Ok(row)
            }
        }
        deserializer.deserialize_map(Columns)
    }
}

struct CsvRows {
    reader: csv::Reader<Limited>,
    header: csv::StringRecord,
    record: csv::StringRecord,
    spent: Arc<AtomicUsize>,
}

impl CsvRows {
    fn new(file: Box<dyn Read + Send>) -> Result<Self, Fault> {
        let spent = Arc::new(AtomicUsize::new(0));
        let mut reader = csv::Reader::from_reader(Limited { file, spent: Arc::clone(&spent) });
        let header = reader.headers().map_err(|source| csv_fault(source, 1))?.clone();
        Ok(Self { reader, header, record: csv::StringRecord::new(), spent })
    }

    /// Reads the next record and gives its line; `None` if there is none.
    fn read(&mut self) -> Result<Option<usize>, Fault> {
        self.spent.store(0, Ordering::Relaxed);
        let line = |line: u64| usize::try_from(line).unwrap_or(usize::MAX);
        let at = line(self.reader.position().line());
        match self.reader.read_record(&mut self.record) {
            Ok(true) => Ok(Some(self.record.position().map_or(at, |position| line(position.line())))),
            Ok(false) => Ok(None),
            Err(source) => {
                let at = source.position().map_or(at, |position| line(position.line()));
                Err(csv_fault(source, at))
            }
        }
    }
}

fn csv_fault(source: csv::Error, row: usize) -> Fault {
    if !source.is_io_error() {
        return Fault::Row(row, DataError::InvalidCsv { source });
    }
    match source.into_kind() {
        csv::ErrorKind::Io(source) => Fault::File(source),
        kind => Fault::File(io::Error::other(format!("{kind:?}"))),
    }
}

impl Rows for CsvRows {
    fn next(&mut self) -> Option<Result<(Row, usize), Fault>> {
        let line = match self.read() {
            Ok(line) => line?,
            Err(fault) => return Some(Err(fault)),
        };
        let cell = |(name, value): (&str, &str)| (name.to_owned(), Cell::Text(value.to_owned()));
        Some(Ok((Row(self.header.iter().zip(&self.record).map(cell).collect()), line)))
    }

    fn skip(&mut self) -> Result<bool, Fault> {
        match self.read() {
            Ok(line) => Ok(line.is_some()),
            Err(Fault::Row(..)) => Ok(true),
            Err(fault) => Err(fault),
        }
    }
}

/// A file that ends with an error where a record is too long: a quote that is never closed takes in the rest of the file.
struct Limited {
    file: Box<dyn Read + Send>,
    /// Bytes read since a record began; the reader's buffer makes it read a little ahead.
    spent: Arc<AtomicUsize>,
}

#[derive(Debug, thiserror::Error)]
#[error("a row is longer than {} bytes; is a quote not closed?", MAX_LINE_BYTES)]
struct TooLong;

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n_read = self.file.read(buffer)?;
        if self.spent.fetch_add(n_read, Ordering::Relaxed) > MAX_LINE_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, TooLong));
        }
        Ok(n_read)
    }
}
