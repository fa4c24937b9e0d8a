//! PyTorch's pickled files (`.bin`, `.ckpt`, `.pt`, `.pth`), read without running anything.
//!
//! A pickle is a program for Python's unpickler, which may call any function. The reader behind this knows tensors and plain
//! values; every other object is a name to it, whatever the file would have Python do with it.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use pytorch_reader::{DType, PickleValue, PytorchError, PytorchReader, Tensor};
use safetensors::Dtype;

use crate::error::WeightsError;

/// Whether pickled files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pickles {
    /// They are an error that says how to go on.
    #[default]
    Refused,
    /// They are read, without running anything, where there is no safetensors file.
    Allowed,
}

impl From<bool> for Pickles {
    fn from(is_allowed: bool) -> Self {
        if is_allowed { Self::Allowed } else { Self::Refused }
    }
}

/// Modules whose objects have no business in a file of weights: they run programs, read files or talk to others.
const MODULES_THAT_ACT: [&str; 16] = [
    "asyncio",
    "code",
    "ctypes",
    "http",
    "importlib",
    "nt",
    "os",
    "pip",
    "posix",
    "pty",
    "runpy",
    "shutil",
    "socket",
    "subprocess",
    "urllib",
    "webbrowser",
];

/// Functions of `builtins`, in Python 2 `__builtin__`, that do as much.
const BUILTINS_THAT_ACT: [&str; 6] = ["__import__", "compile", "eval", "exec", "execfile", "open"];

/// The tensors of a pickled file by name, their bytes not yet read. If there is a `state_dict`, as in checkpoints of
/// PyTorch Lightning, they are those in it.
pub(crate) fn tensors(path: &Path) -> Result<HashMap<String, Tensor>, WeightsError> {
    let malformed = |source: PytorchError| WeightsError::MalformedPickle {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let foreign = foreign_objects(path).map_err(malformed)?;
    let acting: Vec<String> = foreign.iter().filter(|name| acts(name)).cloned().collect();
    if !acting.is_empty() {
        return Err(WeightsError::PickleActs { path: path.to_owned(), calls: acting });
    }
    let tensors = PytorchReader::new(path).map_err(malformed)?.into_tensors();
    let nested: HashMap<String, Tensor> = tensors
        .iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix("state_dict.")?.to_owned(), tensor.clone())))
        .collect();
    let tensors = if nested.is_empty() { tensors } else { nested };
    let unread: Vec<&str> = foreign.iter().map(String::as_str).collect();
    tracing::info!(
        "`{}` is a pickle: {} tensors are read from it, and nothing in it is run{}{}",
        path.display(),
        tensors.len(),
        if unread.is_empty() { "" } else { "; left out are objects of " },
        unread.join(", ")
    );
    Ok(tensors)
}

/// The types of objects that are no tensors, plain values or types of PyTorch itself.
fn foreign_objects(path: &Path) -> Result<BTreeSet<String>, PytorchError> {
    let mut names = BTreeSet::new();
    let mut rest = vec![PytorchReader::read_pickle_data(path, None)?];
    while let Some(value) = rest.pop() {
        match value {
            PickleValue::List(values) => rest.extend(values),
            PickleValue::Dict(values) => rest.extend(values.into_values()),
            PickleValue::Unsupported(name) if !name.starts_with("torch.") => {
                names.insert(name);
            }
            _ => {}
        }
    }
    Ok(names)
}

fn acts(name: &str) -> bool {
    let (module, function) = name.split_once('.').unwrap_or((name, ""));
    match module {
        "builtins" | "__builtin__" => BUILTINS_THAT_ACT.contains(&function),
        _ => MODULES_THAT_ACT.contains(&module),
    }
}

/// An element type as safetensors names it.
pub(crate) fn dtype_of(tensor: &Tensor) -> Dtype {
    match tensor.dtype() {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I16 => Dtype::I16,
        DType::I8 => Dtype::I8,
        DType::U64 => Dtype::U64,
        DType::U32 => Dtype::U32,
        DType::U16 => Dtype::U16,
        DType::U8 => Dtype::U8,
        DType::Bool => Dtype::BOOL,
    }
}
