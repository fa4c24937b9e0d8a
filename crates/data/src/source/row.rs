//! A row of any table, and the sample that it describes.

use serde_json::Value;

use super::root::Files;
use super::sample::{Columns, Origin, Sample};
use crate::content::Content;
use crate::error::DataError;

/// A caption is a few lines.
pub(super) const MAX_CAPTION_BYTES: usize = 1 << 20;

/// What a row has in one column.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    /// A caption, or the path of a picture.
    Text(String),
    /// Several captions.
    Texts(Vec<String>),
    /// A picture that is in the table itself, and its name if it has one.
    Picture(Content, Option<String>),
    /// Nothing that is used, as it is shown in messages.
    Other(String),
}

impl From<Value> for Cell {
    fn from(value: Value) -> Self {
        match value {
            Value::String(text) => Self::Text(text),
            Value::Array(values) if !values.is_empty() && values.iter().all(Value::is_string) => Self::Texts(
                values.into_iter().filter_map(|value| value.as_str().map(str::to_owned)).collect(),
            ),
            value => Self::Other(value.to_string()),
        }
    }
}

impl Cell {
    fn shown(&self) -> String {
        match self {
            Self::Text(text) => format!("{text:?}"),
            Self::Texts(texts) => format!("{texts:?}"),
            Self::Picture(..) => "a picture".to_owned(),
            Self::Other(text) => text.clone(),
        }
    }
}

/// Columns by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Row(pub(super) Vec<(String, Cell)>);

impl Row {
    fn get(&self, flag: &'static str, name: &str) -> Result<&Cell, DataError> {
        self.0.iter().find(|(column, _)| column == name).map(|(_, cell)| cell).ok_or_else(|| {
            let mut columns: Vec<String> = self.0.iter().map(|(column, _)| column.clone()).collect();
            columns.sort();
            DataError::MissingColumn { flag, column: name.to_owned(), columns }
        })
    }

    /// The sample; paths are looked up in `files`. A picture without a name makes `unnamed` the sample's id.
    pub(super) fn sample(
        &self,
        columns: &Columns,
        files: &dyn Files,
        origin: Origin,
        unnamed: impl FnOnce() -> String,
    ) -> Result<Sample, DataError> {
        // All three are looked up first: a wrong flag is a clearer message than what it leads to.
        let cells = self.get("image_column", &columns.image).and_then(|image| {
            let hint = self.get("conditioning_image_column", columns.hint_or_image())?;
            Ok((image, hint, self.get("caption_column", &columns.caption)?))
        });
        let sample = || {
            let (image, hint, caption) = cells?;
            let (image, name) = picture(image, &columns.image, files)?;
            let (hint, _) = picture(hint, columns.hint_or_image(), files)?;
            let captions = captions(caption, &columns.caption)?;
            Ok((image, hint, captions, name))
        };
        match sample() {
            Ok((image, hint, captions, name)) => {
                Ok(Sample { image, hint, captions, id: name.unwrap_or_else(unnamed), origin })
            }
            Err(error) => Err(in_row(origin, error)),
        }
    }
}

pub(super) fn in_row(at: Origin, error: DataError) -> DataError {
    DataError::Row { at, source: Box::new(error) }
}

fn picture(cell: &Cell, column: &str, files: &dyn Files) -> Result<(Content, Option<String>), DataError> {
    match cell {
        Cell::Text(path) => Ok((files.content(path)?, Some(path.clone()))),
        Cell::Picture(content, name) => Ok((content.clone(), name.clone())),
        cell => Err(DataError::NotAPath { column: column.to_owned(), found: cell.shown() }),
    }
}

fn captions(cell: &Cell, column: &str) -> Result<Vec<String>, DataError> {
    match cell {
        Cell::Text(caption) => Ok(vec![caption.clone()]),
        Cell::Texts(captions) => Ok(captions.clone()),
        cell => Err(DataError::NotACaption { column: column.to_owned(), found: cell.shown() }),
    }
}

/// Gives the columns of an imagefolder the names that `datasets` gives them: `file_name` is `image`, `X_file_name` is `X`.
///
/// Source: Hugging Face datasets, guide "Create an image dataset", section `ImageFolder`.
pub(super) fn with_imagefolder_names(row: Row) -> Row {
    let (files, mut renamed): (Vec<_>, Vec<_>) =
        row.0.into_iter().partition(|(name, _)| name.ends_with("file_name"));
    for (name, cell) in files {
        let column = match name.strip_suffix("_file_name") {
            Some(column) => column.to_owned(),
            None if name == "file_name" => "image".to_owned(),
            None => name,
        };
        renamed.retain(|(other, _)| *other != column);
        renamed.push((column, cell));
    }
    Row(renamed)
}

/// Gives the columns of the original fill50k the names that its data set on the Hub has.
///
/// Source: lllyasviel/ControlNet, `docs/train.md` and `tutorial_dataset.py`.
pub(super) fn with_fill50k_names(mut row: Row) -> Row {
    for (name, _) in &mut row.0 {
        match name.as_str() {
            "target" => "image",
            "source" => "conditioning_image",
            "prompt" => "text",
            _ => continue,
        }
        .clone_into(name);
    }
    row
}
