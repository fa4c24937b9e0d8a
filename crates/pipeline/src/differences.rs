//! What a model's files lack, and what they have too much.

use std::path::Path;

use burn::prelude::*;
use pyrograph_vae::VaeConfig;
use pyrograph_weights::{ComponentDir, Mismatch, ModelKind, Pickles, WeightsError};
use serde::Serialize;

use crate::base::{Base, VAE_CLASS, Vae};
use crate::bundle::{BundleOptions, controlnet, load_unet};
use crate::error::PipelineError;
use crate::single_file::VaeFile;

/// A part of a model whose tensors are not those of its config or, where there is none, of a network of its shapes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The part, as in errors: `UNet`.
    pub component: &'static str,
    /// What differs.
    #[serde(flatten)]
    pub mismatch: Mismatch,
}

/// Compares the tensors of a model with what would be loaded of it; only headers are read. `None` for a kind that is not loaded,
/// or not without its config.
///
/// # Errors
/// [`PipelineError`] if a config or the shapes describe no model that can be built.
pub fn differences(
    path: &Path,
    kind: ModelKind,
    pickles: Pickles,
    device: &Device,
) -> Result<Option<Vec<Difference>>, PipelineError> {
    let options = &BundleOptions { pickles, names_only: true, ..BundleOptions::default() };
    let compared = match kind {
        ModelKind::Pipeline | ModelKind::SingleFile => {
            let base = Base::open(path, pickles)?;
            let mut compared = vec![
                base.load_unet(options, device).map(drop),
                base.vae(options)?.load(options, device).map(drop),
            ];
            for idx in 0..base.n_text_encoders() {
                compared.push(base.load_text_encoder(idx, options, device).map(drop));
            }
            compared
        }
        ModelKind::Unet if path.is_dir() => vec![load_unet(path, options, device).map(drop)],
        ModelKind::ControlNet | ModelKind::OriginalControlNet => {
            vec![controlnet(path, pickles, true, device).map(drop)]
        }
        ModelKind::Vae if path.is_dir() => {
            vec![Vae::of_component(ComponentDir::open(path, &[VAE_CLASS]))?.load(options, device).map(drop)]
        }
        ModelKind::OriginalVae => {
            vec![VaeFile::open(path, pickles, &VaeConfig::sd15())?.load(true, device).map(drop)]
        }
        _ => return Ok(None),
    };
    let mut differences = Vec::new();
    for part in compared {
        match part {
            Ok(()) => {}
            Err(PipelineError::Weights { component, source: WeightsError::Mismatch { mismatch, .. } }) => {
                differences.push(Difference { component, mismatch: *mismatch });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Some(differences))
}
