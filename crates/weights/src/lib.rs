//! Diffusers folders and safetensors to and from any Burn module, strictly.
//!
//! The crate knows no model. A module's field names are its tensor names; what Rust cannot spell is a table of
//! [`Renames`] beside the model. [`load`] compares every name and shape before it reads a single weight and reports
//! everything that differs at once; [`save`] writes files that PyTorch's libraries load.

mod archive;
mod disk;
mod error;
mod folder;
mod inspect;
mod load;
mod names;
mod pickle;
mod places;
mod rewrite;
mod save;
mod tensors;
#[cfg(test)]
mod toy;

pub use load::{LoadOptions, load};
pub use names::{RenameError, Renames, names_and_shapes};
pub use save::{SaveDtype, SaveOptions, save};

pub use places::{Header, Part, Place, Places, read_header};

pub use folder::{
    ComponentDir, PipelineFolder, WeightFiles, class_name, find_weights, read_config, write_config,
    write_text,
};

pub use rewrite::{Network, rewrite};

pub use inspect::{BaseModel, ModelKind, Report, inspect};

pub use tensors::{load_pickled_tensors, load_tensors, read_tensor, save_tensors};

pub use pickle::Pickles;

pub use disk::{Disk, DiskFile, SystemDisk};

pub use error::{Malformed, Mismatch, Misshapen, Missing, Mistyped, Unused, WeightsError};
