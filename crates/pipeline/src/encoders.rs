//! Giving up encoders once everything is encoded, and reading them again.

use std::path::Path;

use pyrograph_vae::AutoencoderKl;

use crate::base::Base;
use crate::precision::{in_weights, text_in_weights};
use crate::{Bundle, BundleOptions, PipelineError, TextEncoders};

impl Bundle {
    /// Gives up the text encoders' networks; encoding a prompt after that is a panic. Tokenizers and configs stay.
    pub fn free_text_encoders(&mut self) {
        for encoder in std::iter::once(&mut self.text.first).chain(&mut self.text.second) {
            encoder.model = None;
        }
    }

    /// Gives up the weights of the VAE's encoder; encoding a picture after that is a panic.
    pub fn free_vae_encoder(&mut self) {
        self.vae = self.vae.clone().without_encoder();
    }

    /// The text encoders of a folder, as this bundle would hold them.
    ///
    /// # Errors
    /// As [`Bundle::open`].
    pub fn read_text_encoders(
        &self,
        path: &Path,
        options: &BundleOptions<'_>,
    ) -> Result<TextEncoders, PipelineError> {
        let text = Base::open(path, options.pickles)?.load_text_encoders(options, &self.device())?;
        Ok(text_in_weights(text, self.precision.weights))
    }

    /// The VAE of a folder, as this bundle would hold it.
    ///
    /// # Errors
    /// As [`Bundle::open`].
    pub fn read_vae(&self, path: &Path, options: &BundleOptions<'_>) -> Result<AutoencoderKl, PipelineError> {
        let vae = Base::open(path, options.pickles)?.vae(options)?.load(options, &self.device())?;
        Ok(in_weights(vae, self.configs().vae_weights(self.precision)))
    }
}
