//! A small base model to start from with nothing downloaded.

use std::fs;
use std::path::Path;

use burn::prelude::*;
use pyrograph_weights::SaveDtype;

use crate::embedded;
use crate::error::PipelineError;
use crate::tiny::{TinyBase, TinyModels};

/// Which base model [`init_base`] writes; both are for pictures of 128 px and have about 4 million parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BasePreset<'a> {
    /// The one inside the program: it draws circles, squares, triangles and stars in the colours of its prompts.
    Tiny,
    /// The same networks with random weights, which draw noise.
    TinyRandom {
        /// The words that are one token each.
        words: &'a [&'a str],
        /// Draws the weights.
        seed: u64,
    },
}

/// Writes a Stable Diffusion folder in diffusers' layout.
///
/// # Errors
/// [`PipelineError`] if the folder is not empty or cannot be written.
pub fn init_base(preset: BasePreset<'_>, out: &Path, device: &Device) -> Result<(), PipelineError> {
    let is_free = match fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_none(),
        Err(_) => fs::symlink_metadata(out).is_err(),
    };
    if !is_free {
        return Err(PipelineError::NotEmpty { path: out.to_owned() });
    }
    match preset {
        BasePreset::Tiny => embedded::write(out),
        BasePreset::TinyRandom { words, seed } => {
            let base = TinyBase::new(words);
            // Weights are drawn in the order in which they are saved, so one seed decides all of them.
            device.seed(seed);
            let (unet, vae, text_encoder) =
                (base.unet.init(device), base.vae.init(device), base.text.init(device));
            let models = TinyModels { unet: &unet, vae: &vae, text_encoder: &text_encoder };
            base.write(models, SaveDtype::F32, out)
        }
    }
}
