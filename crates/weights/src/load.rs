//! Filling a module from a file, strictly.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};
use rayon::prelude::*;

use crate::archive::{Archive, TensorEntry};
use crate::error::{Mismatch, Misshapen, Missing, Mistyped, Unused, WeightsError};
use crate::folder::WeightFiles;
use crate::inspect::classify;
use crate::names::{Renames, Slot, Walk, replace_fragments, slots};
use crate::pickle::Pickles;
use crate::places::Places;

/// How a file's names meet a module's. The default is: exactly.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoadOptions<'a> {
    /// The model's table of names that Rust cannot spell.
    pub renames: Renames,
    /// Older names still found in files, `(old, present)` fragments of whole segments of the file's names, as
    /// `("query", "to_q")` of old VAE files. Tried only for a name that is not known as it stands.
    pub aliases: &'a [(&'a str, &'a str)],
    /// Leading segments that some files have and others lack, as `text_model` of CLIP text encoders. Tried only for
    /// a name that is not known as it stands.
    pub optional_prefix: Option<&'a str>,
    /// Tensors of the file that may stay unused: full names or their last segments, as `position_ids`.
    pub ignore: &'a [&'a str],
    /// Which variant of the weights to take in a component folder, as `fp16` in `model.fp16.safetensors`.
    pub variant: Option<&'a str>,
    /// Whether a pickled file is read.
    pub pickles: Pickles,
    /// Where the tensors are in a file that names and cuts them otherwise; else, by their names.
    pub places: Option<&'a Places>,
    /// Compare names and shapes, and leave the module as it is.
    pub names_only: bool,
}

/// Fills a module with the tensors of a safetensors file or of a component folder (`config.json` beside weights,
/// sharded or not).
///
/// - Parameters keep their ids, devices, gradient settings and element types; a file in f16, bf16 or f64 is converted.
/// - Linear weights are transposed from PyTorch's `[out, in]`; norms' `weight` and `bias` go to `gamma` and `beta`.
/// - A `[out, in, 1, 1]` tensor fills an `[out, in]` parameter: a 1x1 convolution and a linear map are the same numbers.
/// - Parameters that are not initialised yet never are: memory peaks at one copy of the model plus 256 MiB, or two copies
///   of the tensor in hand.
/// - Files are read and converted by all threads of rayon's pool.
///
/// # Errors
/// [`WeightsError::Mismatch`] lists every missing, unused, wrongly shaped and wrongly typed tensor; it is found from
/// the header, before any weight is read. Other variants say what is wrong with the file or folder.
pub fn load<M: Module>(module: M, path: &Path, options: &LoadOptions<'_>) -> Result<M, WeightsError> {
    let slots = slots(&module, &options.renames);
    let expected = slots.iter().map(|(slot, shape)| (slot.name.clone(), shape.clone())).collect();
    let (archive, sources) = open_matched(path, &expected, options)?;
    if options.names_only {
        return Ok(module);
    }
    let coming = slots.into_iter().map(|(slot, _)| slot).collect::<Vec<_>>().into_iter();
    let walk = Walk::new(options.renames);
    let mut filler = Filler { walk, archive, sources, coming, ready: HashMap::new(), failure: None };
    let module = module.map(&mut filler);
    match filler.failure {
        Some(failure) => Err(failure),
        None => Ok(module),
    }
}

/// Opens a file or component folder, and finds for each expected name the entry that fills it.
pub(crate) fn open_matched(
    path: &Path,
    expected: &BTreeMap<String, Vec<usize>>,
    options: &LoadOptions<'_>,
) -> Result<(Archive, HashMap<String, TensorEntry>), WeightsError> {
    let files = WeightFiles::of(path, options.variant, options.pickles)?;
    let mut archive = Archive::open(&files.paths, options.pickles)?;
    if let Some(places) = options.places {
        archive.entries = places.rearrange(&archive.entries);
    }
    let sources = match_tensors(expected, &archive.entries, options)
        .map_err(|mismatch| WeightsError::Mismatch { path: path.to_owned(), mismatch: Box::new(mismatch) })?;
    Ok((archive, sources))
}

/// Finds for each expected name the entry that fills it.
fn match_tensors(
    expected: &BTreeMap<String, Vec<usize>>,
    found: &BTreeMap<String, TensorEntry>,
    options: &LoadOptions<'_>,
) -> Result<HashMap<String, TensorEntry>, Mismatch> {
    let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
    let mut unused: BTreeSet<&str> = BTreeSet::new();
    for name in found.keys() {
        if let Some((known, _)) = expected.get_key_value(name) {
            taken.insert(known, name);
        } else {
            unused.insert(name);
        }
    }
    // A name that is known as it stands has precedence, so other spellings are tried in a second pass.
    unused.retain(|name| {
        let known = other_spellings(name, options)
            .into_iter()
            .find_map(|spelling| expected.get_key_value(&spelling))
            .filter(|(known, _)| !taken.contains_key(known.as_str()));
        if let Some((known, _)) = known {
            taken.insert(known, name);
        }
        known.is_none() && !is_ignored(name, options.ignore)
    });

    let mut sources = HashMap::new();
    let mut missing = Vec::new();
    let mut misshapen = Vec::new();
    let mut mistyped = Vec::new();
    for (name, shape) in expected {
        let Some(&source) = taken.get(name.as_str()) else {
            let place = options.places.and_then(|places| places.places.get(name));
            let name = place.map_or(name, |place| &place.name);
            missing.push(Missing { name: name.clone(), shape: shape.clone(), near: None });
            continue;
        };
        let entry = &found[source];
        if !fits(shape, &entry.shape) {
            let (expected, found) = (shape.clone(), entry.shape.clone());
            misshapen.push(Misshapen { name: source.to_owned(), expected, found });
        } else if !entry.is_float() {
            mistyped.push(Mistyped { name: source.to_owned(), found: entry.dtype.to_string() });
        } else {
            sources.insert(name.clone(), entry.clone());
        }
    }
    let unused: Vec<Unused> = unused
        .into_iter()
        .map(|name| Unused { name: name.to_owned(), shape: found[name].shape.clone() })
        .collect();
    find_near_names(&mut missing, &unused);
    let kind = classify(found).kind;
    let mismatch = Mismatch { missing, unused, misshapen, mistyped, kind };
    if mismatch.is_empty() { Ok(sources) } else { Err(mismatch) }
}

/// The present spellings that an old or differently prefixed name may stand for.
fn other_spellings(name: &str, options: &LoadOptions<'_>) -> Vec<String> {
    let mut spellings = vec![name.to_owned(), replace_fragments(name, &options.aliases.iter().copied())];
    if let Some(prefix) = options.optional_prefix {
        for index in 0..spellings.len() {
            let spelling = &spellings[index];
            let without =
                spelling.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.')).map(str::to_owned);
            let with = format!("{prefix}.{spelling}");
            spellings.extend(without);
            spellings.push(with);
        }
    }
    spellings
}

fn is_ignored(name: &str, ignore: &[&str]) -> bool {
    ignore
        .iter()
        .any(|pattern| name.strip_suffix(pattern).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

fn fits(expected: &[usize], found: &[usize]) -> bool {
    expected == found
        || expected.len() == 2 && found.len() == 4 && found.starts_with(expected) && found[2..] == [1, 1]
}

/// Near names are looked for only this many times: a file of another model lacks hundreds of names, and comparing
/// each with each takes seconds and tells nothing.
const MAX_NEAR_NAMES: usize = 64;

fn find_near_names(missing: &mut [Missing], unused: &[Unused]) {
    for tensor in missing.iter_mut().take(MAX_NEAR_NAMES) {
        tensor.near = unused
            .iter()
            .filter(|candidate| fits(&tensor.shape, &candidate.shape))
            .map(|candidate| (strsim::sorensen_dice(&tensor.name, &candidate.name), candidate))
            .filter(|(likeness, _)| *likeness > 0.4)
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
            .map(|(_, candidate)| candidate.name.clone());
    }
}

/// Values that are read ahead, by several threads at once.
const AHEAD_BYTES: usize = 256 << 20;

/// Puts the tensors in place while a module is mapped.
struct Filler {
    walk: Walk,
    archive: Archive,
    sources: HashMap<String, TensorEntry>,
    /// What is not read yet, in the order of the map.
    coming: std::vec::IntoIter<Slot>,
    /// What was read ahead, in our layout.
    ready: HashMap<String, Vec<f32>>,
    /// A map cannot be stopped, so the first failure waits here and the rest of the module is left as it is.
    failure: Option<WeightsError>,
}

impl Filler {
    /// The values for the parameter at hand in our layout.
    fn values(&mut self, slot: &Slot) -> Result<Vec<f32>, WeightsError> {
        if !self.ready.contains_key(&slot.name) {
            self.read_ahead()?;
        }
        let unsupported = || WeightsError::UnsupportedParameter { name: slot.name.clone() };
        self.ready.remove(&slot.name).ok_or_else(unsupported)
    }

    fn read_ahead(&mut self) -> Result<(), WeightsError> {
        let mut next = Vec::new();
        let mut n_bytes = 0;
        while n_bytes < AHEAD_BYTES
            && let Some(slot) = self.coming.next()
        {
            if let Some(entry) = self.sources.get(&slot.name) {
                n_bytes += entry.n_elements() * size_of::<f32>();
                next.push((slot, entry));
            }
        }
        let read = |(slot, entry): (Slot, &TensorEntry)| {
            let unsupported = || WeightsError::UnsupportedParameter { name: slot.name.clone() };
            let values = self.archive.read_f32(entry)?.ok_or_else(unsupported)?;
            let values = match entry.shape.as_slice() {
                [d_in, d_out] if entry.is_transposed && !slot.transposed => transpose(&values, *d_out, *d_in),
                [d_out, d_in, ..] if slot.transposed && !entry.is_transposed => {
                    transpose(&values, *d_out, *d_in)
                }
                _ => values,
            };
            Ok((slot.name, values))
        };
        self.ready = next.into_par_iter().map(read).collect::<Result<_, WeightsError>>()?;
        Ok(())
    }

    fn refuse(&mut self) {
        let name = self.walk.slot().name;
        self.failure.get_or_insert(WeightsError::UnsupportedParameter { name });
    }
}

impl ModuleMapper for Filler {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.walk.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.walk.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.failure.is_some() {
            return param;
        }
        match self.values(&self.walk.slot()) {
            Ok(values) => {
                let data = TensorData::new(values, param.lazy_shape());
                let tensor = tensor_like(&param, data);
                let id = param.id;
                param.transform_for_load(tensor, id)
            }
            Err(failure) => {
                self.failure = Some(failure);
                param
            }
        }
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        self.refuse();
        param
    }

    fn map_bool<const D: usize>(&mut self, param: Param<Tensor<D, Bool>>) -> Param<Tensor<D, Bool>> {
        self.refuse();
        param
    }
}

/// A tensor on the parameter's device and in its element type, without initialising the parameter.
fn tensor_like<const D: usize>(param: &Param<Tensor<D>>, data: TensorData) -> Tensor<D> {
    let device: Device = param.lazy_device();
    if param.is_initialized() {
        let dtype: DType = param.base().dtype();
        Tensor::from_data(data, (&device, dtype))
    } else {
        Tensor::from_data(data, &device)
    }
}

/// `[rows, columns]` to `[columns, rows]`, contiguous as a freshly built weight is: kernels may sum a strided matrix in
/// another order, and a resumed run must give the bits of one that was not interrupted.
pub(crate) fn transpose<E: Copy + Default>(values: &[E], rows: usize, columns: usize) -> Vec<E> {
    /// A tile of 32 x 32 floats is read and written within the first cache level.
    const TILE: usize = 32;
    let mut transposed = vec![E::default(); values.len()];
    for row_start in (0..rows).step_by(TILE) {
        for column_start in (0..columns).step_by(TILE) {
            for row in row_start..rows.min(row_start + TILE) {
                for column in column_start..columns.min(column_start + TILE) {
                    transposed[column * rows + row] = values[row * columns + column];
                }
            }
        }
    }
    transposed
}

#[cfg(test)]
mod tests;
