//! Writing a module as a file that PyTorch's libraries load.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Bool, DType, Int, Tensor};
use half::{bf16, f16};
use safetensors::Dtype;

use crate::archive::{Outgoing, write};
use crate::disk::Disk;
use crate::error::WeightsError;
use crate::load::transpose;
use crate::names::{Renames, Walk};

/// The element type of a saved file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SaveDtype {
    /// 32 bits, the type of training.
    #[default]
    F32,
    /// 16 bits with 10 of fraction, the usual type of published weights.
    F16,
    /// 16 bits with the exponent of f32.
    Bf16,
}

/// How a module is saved. The default is f32 under the module's own names.
#[derive(Debug, Clone, Default)]
pub struct SaveOptions {
    /// The model's table of names that Rust cannot spell.
    pub renames: Renames,
    /// The element type of the file.
    pub dtype: SaveDtype,
    /// Entries of the file's metadata beside `format`, which is always `pt`.
    pub metadata: BTreeMap<String, String>,
}

/// Writes a module's parameters as safetensors, contiguous and in PyTorch's layout.
///
/// The same parameters give the same bytes. The file is written beside `path`, synced and renamed, so `path` is the old
/// file or the new one and never a part. Tensors are fetched from their device one at a time.
///
/// # Errors
/// If the file cannot be written, a tensor cannot be fetched, or a parameter is not floating point.
pub fn save<M: Module>(
    module: &M,
    path: &Path,
    options: &SaveOptions,
    disk: &dyn Disk,
) -> Result<(), WeightsError> {
    let mut collector = Collector {
        walk: Walk::new(options.renames),
        dtype: options.dtype,
        tensors: Vec::new(),
        failure: None,
    };
    module.visit(&mut collector);
    if let Some(failure) = collector.failure {
        return Err(failure);
    }
    // Transformers refuses a file without it; diffusers takes it as PyTorch's layout.
    let mut metadata = options.metadata.clone();
    metadata.insert("format".to_owned(), "pt".to_owned());
    write(disk, path, &metadata, collector.tensors)
}

/// Lists a module's parameters; the tensors stay where they are until they are written.
struct Collector {
    walk: Walk,
    dtype: SaveDtype,
    tensors: Vec<Outgoing<'static>>,
    failure: Option<WeightsError>,
}

impl Collector {
    fn refuse(&mut self) {
        let name = self.walk.slot().name;
        self.failure.get_or_insert(WeightsError::UnsupportedParameter { name });
    }
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.walk.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.walk.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let slot = self.walk.slot();
        let (param, name, dtype, transposed) =
            (param.clone(), slot.name.clone(), self.dtype, slot.transposed);
        self.tensors.push(Outgoing {
            name: slot.name.clone(),
            shape: slot.other_layout(param.lazy_shape().to_vec()),
            dtype: match dtype {
                SaveDtype::F32 => Dtype::F32,
                SaveDtype::F16 => Dtype::F16,
                SaveDtype::Bf16 => Dtype::BF16,
            },
            bytes: Box::new(move || {
                let shape = param.lazy_shape();
                let values: Vec<f32> = param
                    .val()
                    .try_into_data_dtype(DType::F32)
                    .map_err(|err| err.to_string())
                    .and_then(|data| data.try_into_vec().map_err(|err| err.to_string()))
                    .map_err(|reason| WeightsError::ReadBack { name, reason })?;
                let values = match shape.as_slice() {
                    [rows, columns] if transposed => transpose(&values, *rows, *columns),
                    _ => values,
                };
                Ok(match dtype {
                    SaveDtype::F32 => values.into_iter().flat_map(f32::to_le_bytes).collect(),
                    SaveDtype::F16 => {
                        values.into_iter().flat_map(|v| f16::from_f32(v).to_le_bytes()).collect()
                    }
                    SaveDtype::Bf16 => {
                        values.into_iter().flat_map(|v| bf16::from_f32(v).to_le_bytes()).collect()
                    }
                })
            }),
        });
    }

    fn visit_int<const D: usize>(&mut self, _param: &Param<Tensor<D, Int>>) {
        self.refuse();
    }

    fn visit_bool<const D: usize>(&mut self, _param: &Param<Tensor<D, Bool>>) {
        self.refuse();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use burn::tensor::Device;
    use tempfile::TempDir;

    use super::*;
    use crate::Pickles;
    use crate::toy::{RENAMES, Toy};
    use crate::{LoadOptions, SystemDisk, inspect, load, load_tensors};

    fn options(dtype: SaveDtype) -> SaveOptions {
        let metadata =
            [("b", "2"), ("a", "1"), ("c", "3")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        SaveOptions { renames: RENAMES, dtype, metadata: metadata.into() }
    }

    #[test]
    fn what_is_saved_loads_as_the_same_bits() {
        let dir = TempDir::new().unwrap();
        let [first, second] = ["first", "second"].map(|name| dir.path().join(name));
        let toy = Toy::new(&Device::flex());
        save(&toy, &first, &options(SaveDtype::F32), &SystemDisk).unwrap();

        let other = Toy::new(&Device::flex());
        let load_options = LoadOptions { renames: RENAMES, ..LoadOptions::default() };
        let other = load(other, &first, &load_options).unwrap();
        assert_eq!(
            other.blocks[1].to_out.weight.val().into_data(),
            toy.blocks[1].to_out.weight.val().into_data()
        );
        save(&other, &second, &options(SaveDtype::F32), &SystemDisk).unwrap();
        assert_eq!(fs::read(first).unwrap(), fs::read(second).unwrap());
    }

    #[test]
    fn names_and_shapes_of_the_file_are_those_announced() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("model.safetensors");
        let toy = Toy::new(&Device::flex());
        save(&toy, &path, &options(SaveDtype::F32), &SystemDisk).unwrap();
        let saved: BTreeMap<String, Vec<usize>> = load_tensors(&path)
            .unwrap()
            .into_iter()
            .map(|(name, data)| (name, data.shape().to_vec()))
            .collect();
        assert_eq!(saved, crate::names_and_shapes(&toy, &RENAMES));
    }

    #[test]
    fn metadata_says_pytorch_and_comes_in_order() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("model.safetensors");
        save(&Toy::new(&Device::flex()), &path, &options(SaveDtype::F32), &SystemDisk).unwrap();
        let bytes = fs::read(&path).unwrap();
        let header = br#"{"__metadata__":{"a":"1","b":"2","c":"3","format":"pt"},"#;
        assert_eq!(&bytes[8..8 + header.len()], header);
        assert_eq!(u64::from_le_bytes(bytes[..8].try_into().unwrap()) % 8, 0);
    }

    #[test]
    fn half_precision_halves_the_file() {
        let dir = TempDir::new().unwrap();
        let toy = Toy::new(&Device::flex());
        for (dtype, name) in [(SaveDtype::F16, "F16"), (SaveDtype::Bf16, "BF16")] {
            let path = dir.path().join(name);
            save(&toy, &path, &options(dtype), &SystemDisk).unwrap();
            let report = inspect(&path, Pickles::Refused).unwrap();
            assert_eq!(report.dtypes, BTreeMap::from([(name.to_owned(), report.n_tensors)]));
            assert_eq!(report.bytes, 2 * report.n_parameters as u64);
        }
    }

    #[test]
    fn a_failed_save_leaves_the_old_file_and_nothing_else() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("model.safetensors");
        fs::write(&path, "old").unwrap();
        let broken = Outgoing {
            name: "a".to_owned(),
            shape: vec![1],
            dtype: Dtype::F32,
            bytes: Box::new(|| {
                Err(WeightsError::ReadBack { name: "a".to_owned(), reason: "lost".to_owned() })
            }),
        };
        assert!(write(&SystemDisk, &path, &BTreeMap::new(), vec![broken]).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let dir = TempDir::new().unwrap();
        let toy = Toy::new(&Device::flex());
        let outcome =
            save(&toy, &dir.path().join("absent/model.safetensors"), &SaveOptions::default(), &SystemDisk);
        assert!(matches!(outcome, Err(WeightsError::Write { .. })));
    }
}
