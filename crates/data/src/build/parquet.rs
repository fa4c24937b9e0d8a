//! Parquet files with the pictures in them.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::parquet::arrow::ArrowWriter;
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::{EnabledStatistics, WriterProperties};
use arrow_array::builder::{BinaryBuilder, ListBuilder, StringBuilder};
use arrow_array::{ArrayRef, RecordBatch, StructArray};
use arrow_schema::{DataType, Field, Fields, Schema};
use serde_json::json;

use super::{Captions, Pair, Picture, ShardFile};
use crate::error::DataError;
use crate::source::Columns;

/// Rows of a group, which is read as a whole.
const GROUP_ROWS: usize = 100;
/// What a group holds at most, if that is more than one pair.
const GROUP_BYTES: u64 = 64 << 20;

pub(super) struct ParquetFile {
    path: PathBuf,
    schema: Arc<Schema>,
    writer: ArrowWriter<File>,
    images: PictureColumn,
    hints: Option<PictureColumn>,
    captions: CaptionColumn,
    group_rows: usize,
    group_bytes: u64,
}

impl ParquetFile {
    pub(super) fn new(
        path: &Path,
        file: File,
        has_hints: bool,
        captions: Captions,
    ) -> Result<Self, DataError> {
        let schema = Arc::new(schema(has_hints, captions));
        // Pictures are compressed as they are, no two are equal, and nobody asks for the smallest.
        let properties = WriterProperties::builder()
            .set_dictionary_enabled(false)
            .set_statistics_enabled(EnabledStatistics::None)
            .set_max_row_group_row_count(None)
            .build();
        let writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties))
            .map_err(|error| unwritable(path, error))?;
        Ok(Self {
            path: path.to_owned(),
            schema,
            writer,
            images: PictureColumn::default(),
            hints: has_hints.then(PictureColumn::default),
            captions: CaptionColumn::new(captions),
            group_rows: 0,
            group_bytes: 0,
        })
    }

    fn write_group(&mut self) -> Result<(), DataError> {
        let mut columns = vec![self.images.finish()];
        columns.extend(self.hints.as_mut().map(PictureColumn::finish));
        columns.push(self.captions.finish());
        (self.group_rows, self.group_bytes) = (0, 0);
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .expect("the columns are those of the schema, equally long");
        let written = self.writer.write(&rows).and_then(|()| self.writer.flush());
        written.map_err(|error| unwritable(&self.path, error))
    }
}

impl ShardFile for ParquetFile {
    fn add(&mut self, pair: &Pair<'_>) -> Result<(), DataError> {
        let size = pair.n_bytes();
        if self.group_rows == GROUP_ROWS || self.group_rows > 0 && self.group_bytes + size > GROUP_BYTES {
            self.write_group()?;
        }
        self.images.add(&pair.image, pair.place);
        if let (Some(column), Some(hint)) = (&mut self.hints, &pair.hint) {
            column.add(hint, pair.place);
        }
        self.captions.add(pair.captions);
        self.group_rows += 1;
        self.group_bytes += size;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), DataError> {
        self.write_group()?;
        let path = self.path;
        let file = self.writer.into_inner().map_err(|error| unwritable(&path, error))?;
        file.sync_all().map_err(|source| DataError::Write { path, source })
    }
}

fn unwritable(path: &Path, error: ParquetError) -> DataError {
    let source = match error {
        ParquetError::External(cause) => match cause.downcast::<std::io::Error>() {
            Ok(error) => *error,
            Err(cause) => std::io::Error::other(cause),
        },
        error => std::io::Error::other(error),
    };
    DataError::Write { path: path.to_owned(), source }
}

fn picture_fields() -> Fields {
    [("bytes", DataType::Binary), ("path", DataType::Utf8)]
        .map(|(name, data_type)| Field::new(name, data_type, true))
        .into_iter()
        .collect()
}

/// The columns, and in the metadata what `datasets` makes of them.
fn schema(has_hints: bool, captions: Captions) -> Schema {
    let names = Columns::default();
    let image = json!({"_type": "Image"});
    let string = json!({"dtype": "string", "_type": "Value"});
    let (caption, caption_type) = match captions {
        Captions::Line | Captions::Text => (string, DataType::Utf8),
        Captions::List => {
            (json!({"feature": string, "_type": "List"}), DataType::new_list(DataType::Utf8, true))
        }
    };
    let hint = names.hint.as_deref().filter(|_| has_hints);
    let pictures = [Some(names.image.as_str()), hint].into_iter().flatten();
    let mut columns: Vec<_> =
        pictures.map(|name| (name, image.clone(), DataType::Struct(picture_fields()))).collect();
    columns.push((&names.caption, caption, caption_type));

    let fields: Vec<Field> =
        columns.iter().map(|(name, _, data_type)| Field::new(*name, data_type.clone(), true)).collect();
    let features: serde_json::Map<_, _> =
        columns.into_iter().map(|(name, feature, _)| (name.to_owned(), feature)).collect();
    let metadata = json!({"info": {"features": features}}).to_string();
    Schema::new(fields).with_metadata(HashMap::from([("huggingface".to_owned(), metadata)]))
}

#[derive(Default)]
struct PictureColumn {
    bytes: BinaryBuilder,
    paths: StringBuilder,
}

impl PictureColumn {
    fn add(&mut self, picture: &Picture, place: usize) {
        self.bytes.append_value(&picture.bytes);
        self.paths.append_value(format!("{place:09}.{}", picture.extension));
    }

    fn finish(&mut self) -> ArrayRef {
        let columns: Vec<ArrayRef> = vec![Arc::new(self.bytes.finish()), Arc::new(self.paths.finish())];
        Arc::new(StructArray::new(picture_fields(), columns, None))
    }
}

enum CaptionColumn {
    Texts(StringBuilder),
    Lists(ListBuilder<StringBuilder>),
}

impl CaptionColumn {
    fn new(captions: Captions) -> Self {
        match captions {
            Captions::Line | Captions::Text => Self::Texts(StringBuilder::new()),
            Captions::List => Self::Lists(ListBuilder::new(StringBuilder::new())),
        }
    }

    fn add(&mut self, captions: &[String]) {
        match self {
            Self::Texts(column) => column.extend(captions.iter().map(Some)),
            Self::Lists(column) => column.append_value(captions.iter().map(Some)),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Texts(column) => Arc::new(column.finish()),
            Self::Lists(column) => Arc::new(column.finish()),
        }
    }
}
