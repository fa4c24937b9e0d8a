//! Plain tensors by name, without a module: latents, optimizer state.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::TensorData;

use crate::archive::{Archive, Outgoing, dtype_of, write};
use crate::disk::Disk;
use crate::error::WeightsError;
use crate::pickle::Pickles;

/// Writes tensors by name as safetensors, each in its own element type, with the promises of [`save`](crate::save).
///
/// # Errors
/// If the file cannot be written, or an element type is none of the format's (quantized).
pub fn save_tensors(
    path: &Path,
    tensors: &BTreeMap<String, TensorData>,
    metadata: &BTreeMap<String, String>,
    disk: &dyn Disk,
) -> Result<(), WeightsError> {
    let mut outgoing = Vec::with_capacity(tensors.len());
    for (name, data) in tensors {
        let dtype = dtype_of(data).ok_or_else(|| WeightsError::UnsupportedDtype {
            path: path.to_owned(),
            name: name.clone(),
            dtype: format!("{:?}", data.dtype()),
        })?;
        outgoing.push(Outgoing {
            name: name.clone(),
            shape: data.shape().to_vec(),
            dtype,
            bytes: Box::new(|| Ok(data.as_bytes().to_vec())),
        });
    }
    let mut metadata = metadata.clone();
    metadata.insert("format".to_owned(), "pt".to_owned());
    write(disk, path, &metadata, outgoing)
}

/// Reads all tensors of a safetensors file, each in its own element type.
///
/// # Errors
/// If the file cannot be read or is malformed, or an element type is unknown to Burn.
pub fn load_tensors(path: &Path) -> Result<BTreeMap<String, TensorData>, WeightsError> {
    read_all(path, Pickles::Refused)
}

/// Reads all tensors of a pickled file of PyTorch, each in its own element type, without running anything; those of its
/// `state_dict` if there is one.
///
/// # Errors
/// If the file cannot be read or is malformed, or would have Python run a program.
pub fn load_pickled_tensors(path: &Path) -> Result<BTreeMap<String, TensorData>, WeightsError> {
    read_all(path, Pickles::Allowed)
}

fn read_all(path: &Path, pickles: Pickles) -> Result<BTreeMap<String, TensorData>, WeightsError> {
    let archive = Archive::open(&[path.to_owned()], pickles)?;
    let read = |(name, entry): (&String, &_)| Ok((name.clone(), archive.read_data(name, entry)?));
    archive.entries.iter().map(read).collect()
}

/// Reads one tensor of a safetensors file, in its own element type.
///
/// # Errors
/// As [`load_tensors`], and [`WeightsError::NoSuchTensor`] with the names that are there.
pub fn read_tensor(path: &Path, name: &str) -> Result<TensorData, WeightsError> {
    let archive = Archive::open(&[path.to_owned()], Pickles::Refused)?;
    match archive.entries.get(name) {
        Some(entry) => archive.read_data(name, entry),
        None => {
            let mut found: Vec<String> = archive.entries.into_keys().collect();
            found.sort_by_cached_key(|candidate| Reverse(likeness(candidate, name)));
            found.truncate(8);
            Err(WeightsError::NoSuchTensor { path: path.to_owned(), name: name.to_owned(), found })
        }
    }
}

/// How alike two names are, as a sortable number.
fn likeness(a: &str, b: &str) -> u64 {
    // Non-negative floats sort as their bits do.
    strsim::sorensen_dice(a, b).abs().to_bits()
}

#[cfg(test)]
mod tests {
    use burn::tensor::DType;
    use tempfile::TempDir;

    use super::*;
    use crate::SystemDisk;

    #[test]
    fn tensors_of_every_type_come_back_as_they_were() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("t.safetensors");
        let float = TensorData::new(vec![0.5_f32, -1.0, 2.0, 3.5], [2, 2]);
        let tensors = BTreeMap::from([
            ("f32".to_owned(), float.clone()),
            ("f64".to_owned(), float.clone().try_cast(DType::F64).unwrap()),
            ("f16".to_owned(), float.clone().try_cast(DType::F16).unwrap()),
            ("bf16".to_owned(), float.try_cast(DType::BF16).unwrap()),
            ("i64".to_owned(), TensorData::new(vec![i64::MIN, 1], [2])),
            ("u8".to_owned(), TensorData::new(vec![1_u8, 2, 255], [3])),
            ("bool".to_owned(), TensorData::new(vec![true, false], [2])),
            ("scalar".to_owned(), TensorData::new(vec![7_i32], Vec::<usize>::new())),
            ("empty".to_owned(), TensorData::new(Vec::<f32>::new(), [0, 4])),
        ]);
        save_tensors(&path, &tensors, &BTreeMap::new(), &SystemDisk).unwrap();
        assert_eq!(load_tensors(&path).unwrap(), tensors);
        for (name, data) in &tensors {
            assert_eq!(&read_tensor(&path, name).unwrap(), data);
        }
    }

    #[test]
    fn an_absent_tensor_is_named_beside_its_nearest() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("t.safetensors");
        let one = || TensorData::new(vec![1.0_f32], [1]);
        let tensors = BTreeMap::from([("noise".to_owned(), one()), ("latent".to_owned(), one())]);
        save_tensors(&path, &tensors, &BTreeMap::new(), &SystemDisk).unwrap();
        let err = read_tensor(&path, "latents").unwrap_err().to_string();
        assert!(err.ends_with("has no tensor `latents`, it has latent, noise"), "{err}");
    }
}
