//! Writing the tensors of files under other names, cut otherwise and in another element type, one at a time.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use half::{bf16, f16};
use safetensors::Dtype;

use crate::archive::{Archive, Outgoing, TensorEntry, write};
use crate::disk::Disk;
use crate::error::WeightsError;
use crate::load::{LoadOptions, open_matched, transpose};
use crate::pickle::Pickles;
use crate::places::{Part, Places};
use crate::save::SaveDtype;

/// One network of the file to be written.
#[derive(Debug)]
pub struct Network<'a> {
    /// The file or component folder it is read from.
    pub path: &'a Path,
    /// How its names there meet diffusers'.
    pub read: LoadOptions<'a>,
    /// All of its tensors as diffusers has them, from [`names_and_shapes`](crate::names_and_shapes).
    pub expected: BTreeMap<String, Vec<usize>>,
    /// Where its tensors go; else, to diffusers' names.
    pub written: Option<&'a Places>,
}

/// Writes networks into one safetensors file, reads it back and compares every byte.
///
/// `dtype` is the file's element type; else, each tensor keeps its own. The file is written beside `path`, synced and
/// renamed. One tensor at a time is in memory.
///
/// # Errors
/// [`WeightsError::Mismatch`] if a network is not what was expected, before anything is written;
/// [`WeightsError::OutOfRange`] for a number that f16 cannot hold; others if a file cannot be read or written.
pub fn rewrite(
    networks: &[Network<'_>],
    path: &Path,
    dtype: Option<SaveDtype>,
    metadata: &BTreeMap<String, String>,
    disk: &dyn Disk,
) -> Result<(), WeightsError> {
    let mut sources = Vec::with_capacity(networks.len());
    for network in networks {
        let (archive, entries) = open_matched(network.path, &network.expected, &network.read)?;
        let tensors = compose(network, &entries);
        sources.push((archive, tensors));
    }
    let tensors = || {
        sources.iter().flat_map(move |(archive, tensors)| tensors.iter().map(move |tensor| (archive, tensor)))
    };
    let outgoing = tensors().map(|(archive, tensor)| Outgoing {
        name: tensor.name.clone(),
        shape: tensor.shape.clone(),
        dtype: tensor.dtype(dtype),
        bytes: Box::new(move || tensor.bytes(archive, dtype)),
    });
    let mut metadata = metadata.clone();
    metadata.insert("format".to_owned(), "pt".to_owned());
    write(disk, path, &metadata, outgoing.collect())?;

    let written = Archive::open(&[path.to_owned()], Pickles::Refused)?;
    for (archive, tensor) in tensors() {
        let entry = written.entries.get(&tensor.name);
        let is_equal = match entry {
            Some(entry) => written.bytes(entry)? == tensor.bytes(archive, dtype)?,
            None => false,
        };
        if !is_equal {
            return Err(WeightsError::NotAsWritten { path: path.to_owned(), name: tensor.name.clone() });
        }
    }
    Ok(())
}

/// A tensor of the new file, made of the rows of some of the old one.
struct Composed {
    name: String,
    shape: Vec<usize>,
    rows_of: Vec<TensorEntry>,
}

fn compose(network: &Network<'_>, entries: &HashMap<String, TensorEntry>) -> Vec<Composed> {
    let mut composed: BTreeMap<String, BTreeMap<usize, TensorEntry>> = BTreeMap::new();
    let mut shapes = BTreeMap::new();
    for (name, shape) in &network.expected {
        let Some(entry) = entries.get(name) else { continue };
        let place = network.written.and_then(|written| written.places.get(name));
        let (target, part) = place.map_or((name, Part::Whole), |place| (&place.name, place.part));
        let mut shape = shape.clone();
        // What a file has as 1x1 convolution and diffusers as linear map are the same numbers.
        let mut entry = entry.clone();
        entry.shape.clone_from(&shape);
        let (idx, entry) = match part {
            Part::Whole => (0, Some(entry)),
            Part::Pointwise => {
                shape.extend([1, 1]);
                (0, Some(entry))
            }
            Part::Transposed => {
                shape.reverse();
                (0, entry.part(Part::Transposed))
            }
            Part::Third(idx) => {
                shape.iter_mut().take(1).for_each(|rows| *rows *= 3);
                (idx, Some(entry))
            }
        };
        shapes.insert(target.clone(), shape);
        composed.entry(target.clone()).or_default().extend(entry.map(|entry| (idx, entry)));
    }
    let of = |(name, parts): (String, BTreeMap<usize, TensorEntry>)| {
        let shape = shapes.remove(&name).unwrap_or_default();
        Composed { name, shape, rows_of: parts.into_values().collect() }
    };
    composed.into_iter().map(of).collect()
}

impl Composed {
    fn dtype(&self, wanted: Option<SaveDtype>) -> Dtype {
        match (wanted, self.rows_of.first().map(|entry| entry.dtype)) {
            (Some(SaveDtype::F16), _) | (None, Some(Dtype::F16)) => Dtype::F16,
            (Some(SaveDtype::Bf16), _) | (None, Some(Dtype::BF16)) => Dtype::BF16,
            _ => Dtype::F32,
        }
    }

    fn bytes(&self, archive: &Archive, wanted: Option<SaveDtype>) -> Result<Vec<u8>, WeightsError> {
        let dtype = self.dtype(wanted);
        let mut bytes = Vec::new();
        for entry in &self.rows_of {
            let name = || self.name.clone();
            let values = archive
                .read_f32(entry)?
                .ok_or_else(|| WeightsError::UnsupportedParameter { name: name() })?;
            let values = match entry.shape.as_slice() {
                [columns, rows] if entry.is_transposed => transpose(&values, *rows, *columns),
                _ => values,
            };
            match dtype {
                Dtype::F16 => {
                    for value in values {
                        let half = f16::from_f32(value);
                        if half.is_infinite() && value.is_finite() {
                            return Err(WeightsError::OutOfRange { name: name(), value });
                        }
                        bytes.extend(half.to_le_bytes());
                    }
                }
                Dtype::BF16 => bytes.extend(values.into_iter().flat_map(|v| bf16::from_f32(v).to_le_bytes())),
                _ => bytes.extend(values.into_iter().flat_map(f32::to_le_bytes)),
            }
        }
        Ok(bytes)
    }
}
