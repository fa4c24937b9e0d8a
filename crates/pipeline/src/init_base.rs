//! A base model made from nothing: random weights in diffusers' layout, so that everything runs with nothing
//! downloaded.

use std::fs;
use std::path::Path;

use burn::prelude::*;
use pyrograph_weights::SaveDtype;

use crate::error::PipelineError;
use crate::tiny::{TinyBase, TinyModels};

/// The size of a base model made by [`init_base`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BasePreset {
    /// For 128 px pictures; about 5 million parameters, 20 MB.
    Tiny,
}

/// Writes a Stable Diffusion folder with random weights.
///
/// # Errors
/// [`PipelineError`] if the folder is not empty or cannot be written.
pub fn init_base(
    preset: BasePreset,
    words: &[&str],
    seed: u64,
    out: &Path,
    device: &Device,
) -> Result<(), PipelineError> {
    let BasePreset::Tiny = preset;
    let is_free = match fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_none(),
        Err(_) => fs::symlink_metadata(out).is_err(),
    };
    if !is_free {
        return Err(PipelineError::NotEmpty { path: out.to_owned() });
    }
    let base = TinyBase::new(words);
    // Weights are drawn in the order in which they are saved, so one seed decides all of them.
    device.seed(seed);
    let (unet, vae, text_encoder) = (base.unet.init(device), base.vae.init(device), base.text.init(device));
    base.write(TinyModels { unet: &unet, vae: &vae, text_encoder: &text_encoder }, SaveDtype::F32, out)
}
