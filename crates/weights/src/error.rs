//! What can go wrong with a file of weights, and what to do about it.

use std::fmt;
use std::path::PathBuf;

use pytorch_reader::PytorchError;
use serde::Serialize;
use thiserror::Error;

use crate::inspect::ModelKind;

/// An error of this crate. [`WeightsError::hint`] says what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The path does not exist.
    #[error("`{}` does not exist", path.display())]
    NotFound {
        /// The path as given.
        path: PathBuf,
    },
    /// The operating system refused to read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Its reason.
        source: std::io::Error,
    },
    /// The operating system refused to write.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file that was to be written.
        path: PathBuf,
        /// Its reason.
        source: std::io::Error,
    },
    /// The file is not well-formed safetensors.
    #[error("cannot load `{}`", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        reason: Malformed,
    },
    /// The file is a pickle, which can run code when it is read.
    #[error("`{}` is a PyTorch pickle, which is not read unasked", path.display())]
    Pickle {
        /// The file.
        path: PathBuf,
    },
    /// A pickle that cannot be read.
    #[error("cannot read the pickle `{}`", path.display())]
    MalformedPickle {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<PytorchError>,
    },
    /// A pickle made to do something when Python reads it.
    #[error("`{}` calls {} when Python reads it", path.display(), calls.join(", "))]
    PickleActs {
        /// The file.
        path: PathBuf,
        /// The functions, with their modules.
        calls: Vec<String>,
    },
    /// Names, shapes or types of the file are not the module's.
    #[error("cannot load `{}`", path.display())]
    Mismatch {
        /// The file or component folder.
        path: PathBuf,
        /// Everything that differs.
        #[source]
        mismatch: Box<Mismatch>,
    },
    /// The module holds a parameter that is no floating-point tensor.
    #[error("parameter `{name}` is not floating point")]
    UnsupportedParameter {
        /// Its name in the file.
        name: String,
    },
    /// A tensor has an element type that is not read here.
    #[error("tensor `{name}` of `{}` has the unsupported type {dtype}", path.display())]
    UnsupportedDtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        dtype: String,
    },
    /// The file has no tensor of that name.
    #[error("`{}` has no tensor `{name}`, it has {}", path.display(), list_or_none(found))]
    NoSuchTensor {
        /// The file.
        path: PathBuf,
        /// The tensor that was looked for.
        name: String,
        /// The names in the file, nearest first, at most eight.
        found: Vec<String>,
    },
    /// Two shards hold a tensor of the same name.
    #[error("tensor `{name}` is in both `{}` and `{}`", first.display(), second.display())]
    DuplicateTensor {
        /// The tensor.
        name: String,
        /// One shard.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A number that f16 cannot hold.
    #[error("tensor `{name}` holds {value}, which is too large for f16")]
    OutOfRange {
        /// The tensor.
        name: String,
        /// The number.
        value: f32,
    },
    /// A file that was written and read back has other bytes.
    #[error("tensor `{name}` of `{}` is not what was written", path.display())]
    NotAsWritten {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor could not be fetched from its device.
    #[error("cannot read tensor `{name}` back from its device: {reason}")]
    ReadBack {
        /// The tensor.
        name: String,
        /// The backend's words.
        reason: String,
    },
    /// A component folder has no weights that fit.
    #[error("`{}` has no {}; it has {}", dir.display(), looked_for.join(" or "), list_or_none(found))]
    NoWeights {
        /// The folder.
        dir: PathBuf,
        /// The file names that would have been taken.
        looked_for: Vec<String>,
        /// The names that are there.
        found: Vec<String>,
    },
    /// A shard index names a file outside its own folder.
    #[error("`{}` names the shard `{shard}`, which is not a plain file name", index.display())]
    ShardOutsideFolder {
        /// The index.
        index: PathBuf,
        /// The name it gives.
        shard: String,
    },
    /// A shard that the index names is not there.
    #[error("`{}` names the shard `{shard}`, which is not beside it", index.display())]
    MissingShard {
        /// The index.
        index: PathBuf,
        /// The name it gives.
        shard: String,
    },
    /// A json file is not what it should be.
    #[error("cannot parse `{}`", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A model of another kind than was asked for.
    #[error("`{}` is {found}, not {expected}", path.display())]
    WrongKind {
        /// What was given.
        path: PathBuf,
        /// What was asked for, with its article.
        expected: String,
        /// What it is, with its article.
        found: String,
    },
    /// A pipeline folder lacks a component.
    #[error("pipeline folder `{}` has no component `{component}`; it has {}", dir.display(), list_or_none(found))]
    MissingComponent {
        /// The pipeline folder.
        dir: PathBuf,
        /// The component that was looked for.
        component: String,
        /// The components that are there.
        found: Vec<String>,
    },
}

impl WeightsError {
    /// What the user can do about it, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Mismatch { mismatch, .. } => mismatch.hint(),
            Self::Malformed { reason, .. } => reason.hint(),
            Self::Pickle { .. } => Some(PICKLE_HINT.to_owned()),
            Self::PickleActs { .. } => Some(ACTING_PICKLE_HINT.to_owned()),
            Self::NoWeights { found, .. } if found.iter().any(|name| is_pickle_name(name)) => {
                Some(PICKLE_HINT.to_owned())
            }
            Self::NoWeights { found, .. } if found.iter().any(|name| name.ends_with(".safetensors")) => Some(
                "a base's variant is chosen with `--variant` (`fp16` for `model.fp16.safetensors`); of another model, give \
                 the file itself"
                    .to_owned(),
            ),
            Self::NoWeights { .. } | Self::MissingShard { .. } => {
                Some("the download or the copy is incomplete; fetch the folder again".to_owned())
            }
            Self::Json { source, .. } if source.is_eof() => Some(CUT_OFF_HINT.to_owned()),
            Self::OutOfRange { .. } => Some("use bf16, which has the range of f32".to_owned()),
            Self::NotAsWritten { .. } => Some("the disk may be damaged; write it elsewhere".to_owned()),
            Self::NotFound { .. } => Some("check the path; it starts at the current folder".to_owned()),
            _ => None,
        }
    }
}

const CUT_OFF_HINT: &str = "the download or the copy was probably cut off; fetch the file again";

const PICKLE_HINT: &str = "with `--allow-pickle` its tensors are read, and nothing in it is run; a safetensors file is safe in \
                           Python, too";

const ACTING_PICKLE_HINT: &str =
    "this file is made to run a program; do not load it in Python, and tell where you got it from";

/// Whether a file name is one of those that PyTorch gives to pickles.
pub(crate) fn is_pickle_name(name: &str) -> bool {
    [".bin", ".ckpt", ".pt", ".pth"].iter().any(|ending| name.ends_with(ending))
}

fn list_or_none(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// What is wrong with a file that should be safetensors.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Not even a header length.
    #[error("the file has {bytes} bytes, a safetensors file has at least 8")]
    TooShort {
        /// Its length.
        bytes: u64,
    },
    /// A header length that no file of weights has.
    #[error("the header claims {bytes} bytes, at most {limit} are accepted")]
    HeaderTooLarge {
        /// The length it claims.
        bytes: u64,
        /// The most that is accepted.
        limit: u64,
    },
    /// The header is cut off.
    #[error("the header claims {expected} bytes, the file has {found} after the header length")]
    HeaderTruncated {
        /// The length it claims.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// The header is not json, or its offsets overlap, leave holes or do not fit their shape and type.
    #[error("the header is not a valid list of tensors")]
    Header(#[source] serde_json::Error),
    /// The file is shorter or longer than its header says.
    #[error("the tensors take {expected} bytes, the file has {found} for them")]
    WrongLength {
        /// The bytes the header speaks of.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// A Git LFS pointer in the place of the file.
    #[error("the file is a Git LFS pointer, its contents were not downloaded")]
    LfsPointer,
}

impl Malformed {
    fn hint(&self) -> Option<String> {
        match self {
            Self::LfsPointer => Some("run `git lfs pull` in the folder that the file came from".to_owned()),
            Self::TooShort { .. } | Self::HeaderTruncated { .. } | Self::WrongLength { .. } => {
                Some(CUT_OFF_HINT.to_owned())
            }
            Self::HeaderTooLarge { .. } => Some("this is not a safetensors file".to_owned()),
            Self::Header(_) => None,
        }
    }
}

/// Everything in which a file differs from the module it should fill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mismatch {
    /// Tensors of the module that the file lacks.
    pub missing: Vec<Missing>,
    /// Tensors of the file that the module lacks.
    pub unused: Vec<Unused>,
    /// Tensors of both with different shapes.
    pub misshapen: Vec<Misshapen>,
    /// Tensors of both that are no floating-point numbers in the file.
    pub mistyped: Vec<Mistyped>,
    /// What the file's names say it is.
    pub kind: ModelKind,
}

/// A tensor of the module that the file lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// Its name in the file.
    pub name: String,
    /// Its shape in the file's layout.
    pub shape: Vec<usize>,
    /// The unused tensor of the same shape with the nearest name.
    pub near: Option<String>,
}

/// A tensor of the file that the module lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unused {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// A tensor whose shape in the file is not the module's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Misshapen {
    /// Its name in the file.
    pub name: String,
    /// The module's shape in the file's layout.
    pub expected: Vec<usize>,
    /// The file's shape.
    pub found: Vec<usize>,
}

/// A tensor that should be floating point and is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mistyped {
    /// Its name in the file.
    pub name: String,
    /// Its type in the file, as safetensors spells it.
    pub found: String,
}

impl Mismatch {
    /// Whether nothing differs.
    pub(crate) fn is_empty(&self) -> bool {
        self.missing.is_empty()
            && self.unused.is_empty()
            && self.misshapen.is_empty()
            && self.mistyped.is_empty()
    }

    fn hint(&self) -> Option<String> {
        match self.kind {
            ModelKind::OriginalControlNet => Some(
                "this file has the original ControlNet names (`control_model.*`); one with diffusers' names \
                 (`controlnet_down_blocks.*`) is needed"
                    .to_owned(),
            ),
            ModelKind::Unknown if self.missing.is_empty() => None,
            ModelKind::Unknown => Some("check that config.json belongs to this file".to_owned()),
            kind => Some(format!("by its names this file is {kind}; check that config.json belongs to it")),
        }
    }
}

impl std::error::Error for Mismatch {}

impl Mismatch {
    /// How many tensors differ and how, in one line.
    #[must_use]
    pub fn counts(&self) -> String {
        let counts = [
            (self.missing.len(), "missing"),
            (self.unused.len(), "unused"),
            (self.misshapen.len(), "wrongly shaped"),
            (self.mistyped.len(), "not floating point"),
        ];
        let mut head = Vec::new();
        for (count, state) in counts.into_iter().filter(|&(count, _)| count > 0) {
            let noun = match (head.is_empty(), count) {
                (true, 1) => " tensor",
                (true, _) => " tensors",
                (false, _) => "",
            };
            let verb = if count == 1 { "is" } else { "are" };
            head.push(format!("{count}{noun} {verb} {state}"));
        }
        head.join(", ")
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.counts())?;
        for Missing { name, shape, near } in &self.missing {
            write!(f, "\n    missing: {name} {shape:?}")?;
            if let Some(near) = near {
                write!(f, "   (found: {near})")?;
            }
        }
        for Unused { name, shape } in &self.unused {
            write!(f, "\n    unused: {name} {shape:?}")?;
        }
        for Misshapen { name, expected, found } in &self.misshapen {
            write!(f, "\n    wrongly shaped: {name} {expected:?}   (found: {found:?})")?;
        }
        for Mistyped { name, found } in &self.mistyped {
            write!(f, "\n    not floating point: {name}   (found: {found})")?;
        }
        Ok(())
    }
}
