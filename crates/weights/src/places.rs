//! Where a module's tensors are in a file that names and cuts them otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::archive::{Archive, TensorEntry};
use crate::error::WeightsError;
use crate::folder::WeightFiles;
use crate::pickle::Pickles;

/// Where one tensor is in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The name of the tensor that it is, or is a part of.
    pub name: String,
    /// Which part.
    pub part: Part,
}

/// What one tensor is of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// All of it.
    Whole,
    /// All of a matrix, rows and columns exchanged.
    Transposed,
    /// All of a matrix, as a 1x1 convolution.
    Pointwise,
    /// A third of the rows, counted from 0: queries, keys and values in one tensor.
    Third(usize),
}

/// Where all tensors of a module are, by their names in diffusers' files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// What all names of the module's tensors in the file begin with; others are not looked at.
    pub prefix: String,
    /// By name, with the prefix.
    pub places: BTreeMap<String, Place>,
    /// Beginnings of names, with the prefix, of tensors that may stay unused.
    pub ignore: Vec<String>,
}

impl Places {
    /// The entries of a file by diffusers' names, and under its own name what no place speaks of.
    pub(crate) fn rearrange(&self, entries: &BTreeMap<String, TensorEntry>) -> BTreeMap<String, TensorEntry> {
        let mut rearranged = BTreeMap::new();
        let mut used = BTreeSet::new();
        for (name, place) in &self.places {
            if let Some(entry) = entries.get(&place.name).and_then(|entry| entry.part(place.part)) {
                rearranged.insert(name.clone(), entry);
                used.insert(place.name.as_str());
            }
        }
        let is_unknown = |name: &str| {
            name.starts_with(&self.prefix)
                && !used.contains(name)
                && !self.ignore.iter().any(|ignored| name.starts_with(ignored))
        };
        for (name, entry) in entries {
            if is_unknown(name) {
                rearranged.entry(name.clone()).or_insert_with(|| entry.clone());
            }
        }
        rearranged
    }
}

/// What the header of a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The shapes of all tensors by name.
    pub shapes: BTreeMap<String, Vec<usize>>,
    /// The file's own metadata.
    pub metadata: BTreeMap<String, String>,
}

impl Header {
    /// Whether a tensor's name begins so.
    #[must_use]
    pub fn has_prefix(&self, prefix: &str) -> bool {
        self.shapes.range(prefix.to_owned()..).next().is_some_and(|(name, _)| name.starts_with(prefix))
    }
}

/// Reads the header of a file, or of the files of a component folder.
///
/// # Errors
/// If the path is not there, cannot be read, or is malformed.
pub fn read_header(path: &Path, variant: Option<&str>, pickles: Pickles) -> Result<Header, WeightsError> {
    let Archive { entries, metadata, .. } =
        Archive::open(&WeightFiles::of(path, variant, pickles)?.paths, pickles)?;
    Ok(Header { shapes: entries.into_iter().map(|(name, entry)| (name, entry.shape)).collect(), metadata })
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use tempfile::TempDir;

    use super::*;
    use crate::toy::{RENAMES, Toy, ramp, write_file};
    use crate::{LoadOptions, load, names_and_shapes};
    use burn::tensor::Device;

    fn places(prefix: &str, names: impl IntoIterator<Item = (String, Place)>) -> Places {
        Places { prefix: prefix.to_owned(), places: names.into_iter().collect(), ignore: Vec::new() }
    }

    /// The toy's file with each name under `model.` and `to_q` in the middle of three.
    #[test]
    fn parts_of_tensors_and_other_names_fill_a_module() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("model.ckpt.safetensors");
        let toy = Toy::new(&Device::flex());
        let tensors = toy.tensors();
        let mut file: BTreeMap<String, TensorData> = BTreeMap::new();
        let mut table = Vec::new();
        for (name, data) in &tensors {
            let original = format!("model.{}", name.replace("blocks", "layers"));
            let part = match name.as_str() {
                "blocks.0.to_q.weight" => {
                    let [rows, columns] = [data.shape()[0], data.shape()[1]];
                    let middle: Vec<f32> = data.clone().try_into_vec().unwrap();
                    let outer = vec![-1.0; middle.len()];
                    let values = [outer.clone(), middle, outer].concat();
                    file.insert(original.clone(), TensorData::new(values, vec![3 * rows, columns]));
                    Part::Third(1)
                }
                "blocks.1.to_out.0.weight" => {
                    let [rows, columns] = [data.shape()[0], data.shape()[1]];
                    let values: Vec<f32> = data.clone().try_into_vec().unwrap();
                    let turned = crate::load::transpose(&values, rows, columns);
                    file.insert(original.clone(), TensorData::new(turned, vec![columns, rows]));
                    Part::Transposed
                }
                _ => {
                    file.insert(original.clone(), data.clone());
                    Part::Whole
                }
            };
            table.push((name.clone(), Place { name: original, part }));
        }
        file.insert("elsewhere.weight".to_owned(), ramp(0, vec![3]));
        write_file(&path, &file);
        let places = places("model.", table);
        let options = LoadOptions { renames: RENAMES, places: Some(&places), ..LoadOptions::default() };
        let loaded = load(Toy::new(&Device::flex()), &path, &options).unwrap();
        assert_eq!(loaded.tensors(), tensors);

        // What is under the prefix and not known is an error, unless it is expected.
        file.insert("model.more.weight".to_owned(), ramp(0, vec![3]));
        write_file(&path, &file);
        let error = load(Toy::new(&Device::flex()), &path, &options).unwrap_err();
        assert!(matches!(&error, WeightsError::Mismatch { mismatch, .. }
            if mismatch.unused.len() == 1 && mismatch.unused[0].name == "model.more.weight"));
        let tolerant = Places { ignore: vec!["model.more.".to_owned()], ..places.clone() };
        let options = LoadOptions { places: Some(&tolerant), ..options };
        load(Toy::new(&Device::flex()), &path, &options).unwrap();

        // What is missing has the file's name.
        file.remove("model.conv_in.weight");
        write_file(&path, &file);
        let error = load(Toy::new(&Device::flex()), &path, &options).unwrap_err();
        assert!(matches!(&error, WeightsError::Mismatch { mismatch, .. }
            if mismatch.missing[0].name == "model.conv_in.weight"));
        let header = read_header(&path, None, Pickles::Refused).unwrap();
        assert_eq!(header.shapes.len(), file.len());
        assert!(header.has_prefix("model.blo") || header.has_prefix("model.lay"));
        assert!(!header.has_prefix("modem"));
        assert_eq!(names_and_shapes(&toy, &RENAMES).len(), tensors.len());
    }

    #[test]
    fn a_third_of_rows_that_do_not_divide_is_not_there() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("model.safetensors");
        write_file(&path, &BTreeMap::from([("qkv".to_owned(), ramp(0, vec![4, 2]))]));
        let archive = Archive::open(&[path], Pickles::Refused).unwrap();
        let place = Place { name: "qkv".to_owned(), part: Part::Third(0) };
        let places = places("", [("q".to_owned(), place)]);
        assert_eq!(places.rearrange(&archive.entries).into_keys().collect::<Vec<_>>(), ["qkv"]);
    }
}
