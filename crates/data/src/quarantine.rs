//! The list of samples that training leaves out.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use crate::error::DataError;

const HEADER: &str = "# Left out of training: one sample or row in each line, and why after a tab. Delete a line to use it again.\n";

/// Samples and rows that training leaves out, each with the reason. As a file it has one in each line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Quarantine {
    reasons: BTreeMap<String, String>,
}

impl Quarantine {
    /// The name under which a list is found in its data set's folder.
    pub const FILE_NAME: &str = "quarantine.txt";

    /// Reads a list.
    ///
    /// # Errors
    /// [`DataError::Read`]; a file that is not text is read as far as it is.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let bytes = fs::read(path).map_err(|source| DataError::Read { path: path.to_owned(), source })?;
        let text = String::from_utf8_lossy(&bytes);
        let lines = text.trim_start_matches('\u{feff}').lines();
        let lines = lines.filter(|line| !line.starts_with('#') && !line.trim().is_empty());
        let entry = |line: &str| {
            let (name, reason) = line.split_once('\t').unwrap_or((line, ""));
            (unescaped(name), unescaped(reason))
        };
        Ok(Self { reasons: lines.map(entry).collect() })
    }

    /// Writes the list, beside its name first, so that it is whole if it is there.
    ///
    /// # Errors
    /// [`DataError::Write`].
    pub fn write(&self, path: &Path) -> Result<(), DataError> {
        let unwritten = |source| DataError::Write { path: path.to_owned(), source };
        let lines =
            self.reasons.iter().map(|(name, reason)| format!("{}\t{}\n", escaped(name), escaped(reason)));
        let text = HEADER.to_owned() + &lines.collect::<String>();
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(unwritten)?;
        file.write_all(text.as_bytes()).map_err(unwritten)?;
        file.persist(path).map_err(|error| unwritten(error.error))?;
        Ok(())
    }

    /// Adds a sample's id, or the file and line of a row that is no sample. The first reason stays.
    pub fn add(&mut self, name: String, reason: String) {
        self.reasons.entry(name).or_insert(reason);
    }

    /// Whether a sample or row is in it.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.reasons.contains_key(name)
    }

    /// How many are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.reasons.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.reasons.is_empty()
    }
}

/// Without what would end a name or a line, and never a comment.
fn escaped(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r");
    if escaped.starts_with('#') { format!("\\{escaped}") } else { escaped }
}

fn unescaped(text: &str) -> String {
    let mut characters = text.chars();
    let mut unescaped = String::with_capacity(text.len());
    while let Some(character) = characters.next() {
        unescaped.push(match character {
            '\\' => match characters.next() {
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some(other) => other,
                None => '\\',
            },
            other => other,
        });
    }
    unescaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_survives_being_written_and_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(Quarantine::FILE_NAME);
        let mut list = Quarantine::default();
        for name in
            ["images/a b.png", "#strange\tname\n", r"back\slash\n", "train/metadata.jsonl:17", "ünïcode"]
        {
            list.add(name.to_owned(), format!("why {name}"));
        }
        list.write(&path).unwrap();
        assert_eq!(Quarantine::read(&path).unwrap(), list);
        fs::write(&path, "\u{feff}images/a.png\n# a note\n\nimages/b.png\tby hand\r\n").unwrap();
        let by_hand = Quarantine::read(&path).unwrap();
        assert_eq!(by_hand.len(), 2);
        assert!(by_hand.contains("images/a.png") && by_hand.contains("images/b.png"));
    }
}
