//! Rows of a metadata file, and the sample that a row describes.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::root::Root;
use super::{Columns, Origin, Sample};
use crate::error::DataError;

/// Columns by name.
pub(super) type Row = Map<String, Value>;

/// A caption and two paths fit many times over; a file without line breaks does not fill the memory.
const MAX_LINE_BYTES: usize = 1 << 20;

/// Turns each row of a file into a sample; `rename` gives the columns their data-set names first.
pub(super) fn read(
    file: &Path,
    columns: &Columns,
    rename: impl Fn(Row) -> Row,
) -> Result<Vec<Sample>, DataError> {
    let folder = file.parent().unwrap_or(Path::new("."));
    let root = Root::new(folder)?;
    let mut samples = Vec::new();
    let mut push = |row: Row, at: Origin| {
        samples.push(sample(&rename(row), &at, columns, &root).map_err(|error| in_row(at, error))?);
        Ok(())
    };
    if file.extension().is_some_and(|extension| extension == "csv") {
        for_each_csv_row(file, &mut push)?;
    } else {
        for_each_json_row(file, &mut push)?;
    }
    Ok(samples)
}

fn in_row(at: Origin, error: DataError) -> DataError {
    DataError::Row { at, source: Box::new(error) }
}

fn sample(row: &Row, at: &Origin, columns: &Columns, root: &Root) -> Result<Sample, DataError> {
    let column = |flag, name: &str| {
        row.get(name).ok_or_else(|| DataError::MissingColumn {
            flag,
            column: name.to_owned(),
            columns: row.keys().cloned().collect(),
        })
    };
    // All three are looked up first: a wrong flag is a clearer message than what it leads to.
    let image = column("image_column", &columns.image)?;
    let hint = column("conditioning_image_column", columns.hint_or_image())?;
    let caption = column("caption_column", &columns.caption)?;

    let id = path(image, &columns.image)?.to_owned();
    Ok(Sample {
        image: root.file(&id)?.into(),
        hint: root.file(path(hint, columns.hint_or_image())?)?.into(),
        captions: captions(caption, &columns.caption)?,
        id,
        origin: at.clone(),
    })
}

fn path<'a>(value: &'a Value, column: &str) -> Result<&'a str, DataError> {
    value.as_str().ok_or_else(|| DataError::NotAPath { column: column.to_owned(), found: value.to_string() })
}

fn captions(value: &Value, column: &str) -> Result<Vec<String>, DataError> {
    let captions: Option<Vec<String>> = match value {
        Value::String(caption) => Some(vec![caption.clone()]),
        Value::Array(values) => values.iter().map(|value| value.as_str().map(str::to_owned)).collect(),
        _ => None,
    };
    captions
        .filter(|captions| !captions.is_empty())
        .ok_or_else(|| DataError::NotACaption { column: column.to_owned(), found: value.to_string() })
}

fn for_each_json_row(
    file: &Path,
    push: &mut impl FnMut(Row, Origin) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let unreadable = |source| DataError::Read { path: file.to_owned(), source };
    let mut reader = BufReader::new(File::open(file).map_err(unreadable)?);
    let name: Arc<Path> = file.into();
    let mut line = Vec::new();
    for row in 1.. {
        line.clear();
        let limit = MAX_LINE_BYTES as u64 + 1;
        let n_read = reader.by_ref().take(limit).read_until(b'\n', &mut line).map_err(unreadable)?;
        if n_read == 0 {
            break;
        }
        let at = Origin { file: Arc::clone(&name), row };
        if line.len() > MAX_LINE_BYTES {
            return Err(in_row(at, DataError::LineTooLong { max_bytes: MAX_LINE_BYTES }));
        }
        // Editors on Windows write a byte-order mark; carriage returns are white space to JSON.
        let text = line.strip_prefix(b"\xef\xbb\xbf").filter(|_| row == 1).unwrap_or(&line);
        let text = text.trim_ascii();
        if text.is_empty() {
            continue;
        }
        match serde_json::from_slice(text) {
            Ok(columns) => push(columns, at)?,
            Err(source) => return Err(in_row(at, DataError::InvalidJson { source })),
        }
    }
    Ok(())
}

fn for_each_csv_row(
    file: &Path,
    push: &mut impl FnMut(Row, Origin) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let open = File::open(file).map_err(|source| DataError::Read { path: file.to_owned(), source })?;
    let mut reader = csv::Reader::from_reader(open);
    let name: Arc<Path> = file.into();
    let at = |line: u64| Origin { file: Arc::clone(&name), row: usize::try_from(line).unwrap_or(usize::MAX) };

    let header = reader.headers().map_err(|source| in_row(at(1), DataError::InvalidCsv { source }))?.clone();
    let mut record = csv::StringRecord::new();
    loop {
        let line = reader.position().line();
        match reader.read_record(&mut record) {
            Ok(false) => return Ok(()),
            Ok(true) => {
                let row =
                    header.iter().zip(&record).map(|(key, value)| (key.to_owned(), value.into())).collect();
                push(row, at(record.position().map_or(line, csv::Position::line)))?;
            }
            Err(source) => {
                let line = source.position().map_or(line, csv::Position::line);
                return Err(in_row(at(line), DataError::InvalidCsv { source }));
            }
        }
    }
}

/// The one of `names` that is a file below `dir`; more than one is an error.
pub(super) fn find_one(dir: &Path, names: &[&str]) -> Result<Option<PathBuf>, DataError> {
    let found: Vec<&str> = names.iter().copied().filter(|name| dir.join(name).is_file()).collect();
    match found.as_slice() {
        [] => Ok(None),
        [name] => Ok(Some(dir.join(name))),
        _ => Err(DataError::AmbiguousLayout {
            dir: dir.to_owned(),
            found: found.into_iter().map(|name| format!("`{name}`")).collect(),
        }),
    }
}
