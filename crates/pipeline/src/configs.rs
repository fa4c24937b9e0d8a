//! The configs of a model, without its weights.

use std::path::Path;

use pyrograph_text::ClipTextConfig;
use pyrograph_unet::{ControlNetConfig, ControlNetJson, UnetConfig};
use pyrograph_vae::VaeConfig;
use pyrograph_weights::{ComponentDir, Pickles};

use crate::base::Base;
use crate::bundle::{config, weights};
use crate::compatible::ensure_equal;
use crate::controlnet_file::ControlNetFile;
use crate::{Bundle, BundleOptions, PipelineError};

/// What the networks of a Stable Diffusion model are made from.
#[derive(Debug, Clone, PartialEq)]
pub struct BundleConfigs {
    /// The denoiser.
    pub unet: UnetConfig,
    /// Pictures to latents and back.
    pub vae: VaeConfig,
    /// The prompt's encoder, or SDXL's two.
    pub text: Vec<ClipTextConfig>,
}

impl BundleConfigs {
    /// Those of Stable Diffusion 1.5.
    #[must_use]
    pub fn sd15() -> Self {
        Self { unet: UnetConfig::sd15(), vae: VaeConfig::sd15(), text: vec![ClipTextConfig::clip_l()] }
    }

    /// Those of Stable Diffusion XL.
    #[must_use]
    pub fn sdxl() -> Self {
        let text = vec![ClipTextConfig::clip_l(), ClipTextConfig::open_clip_big_g()];
        Self { unet: UnetConfig::sdxl(), vae: VaeConfig::sdxl(), text }
    }

    /// Reads the configs of a folder in diffusers' layout, or makes them of a single file's header; and that of another VAE if
    /// the options name one. No weights are read.
    ///
    /// # Errors
    /// [`PipelineError`] names the part that is missing, of another kind, or does not fit the others.
    pub fn open(path: &Path, options: &BundleOptions<'_>) -> Result<Self, PipelineError> {
        Self::of(&Base::open(path, options.pickles)?, options)
    }

    pub(crate) fn of(base: &Base, options: &BundleOptions<'_>) -> Result<Self, PipelineError> {
        let own_vae = base.own_vae();
        let vae = match options.vae {
            None => own_vae?.config().clone(),
            Some(_) => {
                let vae = base.vae(options)?.config().clone();
                // The families' VAEs differ in little else. A base without a VAE of its own knows no better.
                if let Ok(own) = own_vae {
                    let factors = [own.config().scaling_factor, vae.scaling_factor];
                    ensure_equal("base model", "VAE", "scaling_factor", factors)?;
                }
                vae
            }
        };
        let configs = Self { unet: base.unet_config()?, vae, text: base.text_configs()? };
        configs.check()?;
        Ok(configs)
    }
}

impl BundleConfigs {
    /// What a prompt's embeddings take, in f32.
    #[must_use]
    pub fn prompt_bytes(&self) -> u64 {
        let n_tokens = self.text[0].max_tokens;
        let n_context: usize = self.text.iter().map(|text| n_tokens * text.d_model).sum();
        let n_pooled = self.unet.added.map_or(0, |added| added.pooled_dim);
        4 * (n_context + n_pooled) as u64
    }

    /// What the moments of a square picture's latents take, in f32.
    #[must_use]
    pub fn moments_bytes(&self, side: usize) -> u64 {
        let latents = side / self.vae.pixels_per_latent();
        4 * (2 * self.vae.latent_channels * latents * latents) as u64
    }
}

/// Whether a folder or file holds a model of SDXL; not, too, if it cannot be read.
#[must_use]
pub fn is_xl(path: &Path, pickles: Pickles) -> bool {
    Base::open(path, pickles).is_ok_and(|base| base.is_xl())
}

impl Bundle {
    /// What the networks were made from.
    #[must_use]
    pub fn configs(&self) -> BundleConfigs {
        let text = self.text.iter().map(|encoder| encoder.config.clone()).collect();
        BundleConfigs { unet: self.unet_config.clone(), vae: self.vae_config.clone(), text }
    }
}

/// The config of a ControlNet's folder or file.
///
/// # Errors
/// [`PipelineError`] if it is of another kind.
pub fn controlnet_config(path: &Path, pickles: Pickles) -> Result<ControlNetConfig, PipelineError> {
    if path.is_file() {
        return ControlNetFile::open(path, pickles).map(|file| file.config);
    }
    let dir = ComponentDir::open(path, &["ControlNetModel"]).map_err(weights("ControlNet"))?;
    let json: ControlNetJson = dir.config().map_err(weights("ControlNet"))?;
    ControlNetConfig::try_from(json).map_err(config("ControlNet"))
}
