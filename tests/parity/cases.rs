//! Finding, reading and comparing parity cases.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::prelude::*;
use burn::tensor::TensorData;
use safetensors::{Dtype, SafeTensors};
use serde::de::DeserializeOwned;

/// One folder written by `make_goldens.py`.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
}

/// All cases of a kind; at least one must be there, so that a test can never pass by finding nothing.
pub(crate) fn cases(kind: &str) -> Vec<Case> {
    let committed = crate::fixtures().join("parity");
    let extra = std::env::var_os("PYROGRAPH_PARITY_DIR").map(PathBuf::from);
    let mut found = Vec::new();
    for root in std::iter::once(committed).chain(extra) {
        let Ok(entries) = std::fs::read_dir(root.join(kind)) else {
            continue;
        };
        for entry in entries {
            let dir = entry.expect("readable fixture folder").path();
            if dir.join("case.json").is_file() {
                let name = dir.file_name().expect("a folder name").to_string_lossy();
                found.push(Case { name: format!("{kind}/{name}"), dir });
            }
        }
    }
    assert!(!found.is_empty(), "no parity case of kind `{kind}`");
    found.sort_by(|left, right| left.dir.cmp(&right.dir));
    found
}

impl Case {
    /// Reads a JSON file of the case.
    pub(crate) fn json<T: DeserializeOwned>(&self, file: &str) -> T {
        let path = self.dir.join(file);
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Reads a safetensors file of the case.
    pub(crate) fn tensors(&self, file: &str) -> Tensors {
        let path = self.dir.join(file);
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let parsed = SafeTensors::deserialize(&bytes).expect("a valid safetensors fixture");
        let tensors = parsed
            .iter()
            .map(|(name, view)| {
                let shape = view.shape().to_vec();
                let data = match view.dtype() {
                    Dtype::F32 => TensorData::new(numbers(view.data(), f32::from_le_bytes), shape),
                    Dtype::I64 => TensorData::new(numbers(view.data(), i64::from_le_bytes), shape),
                    other => panic!("fixtures hold f32 and i64, `{name}` is {other:?}"),
                };
                (name.to_owned(), data)
            })
            .collect();
        Tensors(tensors)
    }
}

fn numbers<T, const N: usize>(bytes: &[u8], parse: fn([u8; N]) -> T) -> Vec<T> {
    bytes.chunks_exact(N).map(|chunk| parse(chunk.try_into().expect("N bytes"))).collect()
}

/// The tensors of one safetensors file, by name.
pub(crate) struct Tensors(pub(crate) BTreeMap<String, TensorData>);

impl Tensors {
    fn data(&self, name: &str) -> TensorData {
        self.0.get(name).unwrap_or_else(|| panic!("no tensor `{name}` in the fixture")).clone()
    }

    pub(crate) fn float<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D> {
        Tensor::from_data(self.data(name), device)
    }

    pub(crate) fn int<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D, Int> {
        Tensor::from_data(self.data(name), device)
    }
}

/// Asserts that the largest absolute difference is at most `tolerance` of the expected values' largest
/// magnitude (of 1 if that is smaller than 1e-6).
pub(crate) fn assert_close<const D: usize>(
    what: &str,
    actual: Tensor<D>,
    expected: Tensor<D>,
    tolerance: f64,
) {
    assert_eq!(actual.dims(), expected.dims(), "{what}: shape");
    let actual = actual.try_into_vec_as::<f32>().expect("f32");
    let expected = expected.try_into_vec_as::<f32>().expect("f32");
    let scale = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let scale = if scale < 1e-6 { 1.0 } else { f64::from(scale) };
    let worst = actual
        .iter()
        .zip(&expected)
        .map(|(left, right)| if left.is_finite() { f64::from((left - right).abs()) } else { f64::INFINITY })
        .fold(0.0, f64::max);
    assert!(
        worst <= tolerance * scale,
        "{what}: off by {worst:.3e}, scale {scale:.3e}, tolerance {tolerance:.0e} of it"
    );
}
