//! The configs of a model folder, without its weights.

use std::path::Path;

use pyrograph_text::ClipTextConfig;
use pyrograph_unet::{ControlNetConfig, ControlNetJson, UnetConfig, UnetJson};
use pyrograph_vae::VaeConfig;
use pyrograph_weights::{ComponentDir, PipelineFolder};

use crate::bundle::{SD, SDXL, TextPart, config, vae_folder, weights};
use crate::compatible::ensure_equal;
use crate::{Bundle, PipelineError};

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

    /// Reads the configs of a folder in diffusers' layout, and that of another VAE if one is given; no weights are looked
    /// for.
    ///
    /// # Errors
    /// [`PipelineError`] names the part that is missing, of another kind, or does not fit the others.
    pub fn open(path: &Path, vae: Option<&Path>) -> Result<Self, PipelineError> {
        let folder = PipelineFolder::open(path, &[SD, SDXL]).map_err(weights("base model"))?;
        let dir = folder.component("unet", &["UNet2DConditionModel"]).map_err(weights("UNet"))?;
        let unet: UnetJson = dir.config().map_err(weights("UNet"))?;
        let own_vae = vae_folder(&folder, None).map(|(_, config)| config);
        let vae = match vae {
            None => own_vae?,
            Some(path) => {
                let (_, vae) = vae_folder(&folder, Some(path))?;
                // The families' VAEs differ in little else. A base without a VAE of its own knows no better.
                if let Ok(own) = own_vae {
                    let factors = [own.scaling_factor, vae.scaling_factor];
                    ensure_equal("base model", "VAE", "scaling_factor", factors)?;
                }
                vae
            }
        };
        let mut text = vec![TextPart::FIRST.config(&folder)?.1];
        if folder.class() == SDXL {
            text.push(TextPart::SECOND.config(&folder)?.1);
        }
        let configs = Self { unet: UnetConfig::try_from(unet).map_err(config("UNet"))?, vae, text };
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

/// Whether a folder holds a model of SDXL; not, too, if it cannot be read.
#[must_use]
pub fn is_xl(path: &Path) -> bool {
    PipelineFolder::open(path, &[SDXL]).is_ok()
}

impl Bundle {
    /// What the networks were made from.
    #[must_use]
    pub fn configs(&self) -> BundleConfigs {
        let text = self.text.iter().map(|encoder| encoder.config.clone()).collect();
        BundleConfigs { unet: self.unet_config.clone(), vae: self.vae_config.clone(), text }
    }
}

/// The config of a ControlNet folder.
///
/// # Errors
/// [`PipelineError`] if the folder is of another kind.
pub fn controlnet_config(path: &Path) -> Result<ControlNetConfig, PipelineError> {
    let dir = ComponentDir::open(path, &["ControlNetModel"]).map_err(weights("ControlNet"))?;
    let json: ControlNetJson = dir.config().map_err(weights("ControlNet"))?;
    ControlNetConfig::try_from(json).map_err(config("ControlNet"))
}
