//! Whether networks belong together, told from their configs.

use std::fmt;

use pyrograph_unet::{ControlNetConfig, UnetConfig};

use crate::{BundleConfigs, PipelineError};

/// A family of base models, whose ControlNets fit each other's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Stable Diffusion 1.x.
    Sd1,
    /// Stable Diffusion 2.x.
    Sd2,
    /// Stable Diffusion XL.
    Xl,
}

impl Family {
    /// The family that attends to prompts of a width, in which they all differ.
    #[must_use]
    pub fn of_context(context_dim: usize) -> Option<Self> {
        match context_dim {
            768 => Some(Self::Sd1),
            1024 => Some(Self::Sd2),
            2048 => Some(Self::Xl),
            _ => None,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sd1 => "SD 1.x",
            Self::Sd2 => "SD 2.x",
            Self::Xl => "SDXL",
        })
    }
}

impl BundleConfigs {
    /// Whether the UNet is told of a mask and of what is kept, beside the latents.
    ///
    /// Source: diffusers `StableDiffusionInpaintPipeline` (0.42), `num_channels_unet == 9`.
    #[must_use]
    pub fn is_for_inpainting(&self) -> bool {
        self.unet.in_channels == 2 * self.vae.latent_channels + 1
    }

    /// Whether the networks belong together.
    pub(crate) fn check(&self) -> Result<(), PipelineError> {
        let Self { unet, vae, text } = self;
        if !self.is_for_inpainting() {
            ensure_equal("UNet", "VAE", "latent channels", [unet.in_channels, vae.latent_channels])?;
        }
        let context_dim = text.iter().map(|text| text.d_model).sum();
        if unet.context_dim != context_dim {
            let values = [unet.context_dim, context_dim].map(with_family);
            ensure_equal("UNet", "text encoder", "prompt width", values)?;
        }
        let pooled = |dim: Option<usize>| dim.map_or_else(|| "none".to_owned(), |dim| dim.to_string());
        let given = text.get(1).map(|second| second.pooled_dim());
        let wanted = unet.added.map(|added| added.pooled_dim);
        ensure_equal("UNet", "text encoder", "pooled prompt width", [pooled(wanted), pooled(given)])
    }

    /// Whether a ControlNet can steer this model.
    ///
    /// # Errors
    /// [`PipelineError::OtherFamily`], else [`PipelineError::Mismatch`] with the first thing that differs.
    pub fn check_controlnet(&self, controlnet: &ControlNetConfig) -> Result<(), PipelineError> {
        let (ours, theirs) = (&self.unet, &controlnet.unet);
        if let Some(family) = Family::of_context(theirs.context_dim)
            && ours.context_dim != theirs.context_dim
        {
            let (context_dim, base_dim) = (theirs.context_dim, ours.context_dim);
            return Err(PipelineError::OtherFamily { family, context_dim, base_dim });
        }
        let scale_factors = [self.vae.pixels_per_latent(), controlnet.hint.scale_factor()];
        ensure_equal("VAE", "ControlNet", "pixels per latent", scale_factors)?;
        // It sees the latents only, also where the UNet is told of a mask.
        let n_channels = [self.vae.latent_channels, theirs.in_channels];
        ensure_equal("VAE", "ControlNet", "in_channels", n_channels)?;
        ensure_equal("UNet", "ControlNet", "cross_attention_dim", [ours.context_dim, theirs.context_dim])?;
        let added = |config: &UnetConfig| match &config.added {
            Some(added) => format!("text_time of {} features", added.input_dim()),
            None => "null".to_owned(),
        };
        ensure_equal("UNet", "ControlNet", "addition_embed_type", [added(ours), added(theirs)])?;
        let widths = |config: &UnetConfig| -> Vec<[usize; 2]> {
            config.stages.iter().map(|stage| [stage.channels, stage.n_resnets]).collect()
        };
        let [ours, theirs] = [ours, theirs].map(|config| format!("{:?}", widths(config)));
        ensure_equal("UNet", "ControlNet", "channels and layers of the blocks", [ours, theirs])
    }
}

fn with_family(context_dim: usize) -> String {
    match Family::of_context(context_dim) {
        Some(family) => format!("{context_dim} ({family})"),
        None => context_dim.to_string(),
    }
}

pub(crate) fn ensure_equal<T: PartialEq + ToString>(
    left: &'static str,
    right: &'static str,
    key: &'static str,
    values: [T; 2],
) -> Result<(), PipelineError> {
    if values[0] == values[1] {
        return Ok(());
    }
    let [left_value, right_value] = values.map(|value| value.to_string());
    Err(PipelineError::Mismatch { left, right, key, left_value, right_value })
}

#[cfg(test)]
mod tests {
    use pyrograph_text::ClipTextConfig;
    use pyrograph_vae::VaeConfig;

    use super::*;

    fn sd21() -> BundleConfigs {
        let text = vec![ClipTextConfig::open_clip_h()];
        BundleConfigs { unet: UnetConfig::sd21(), vae: VaeConfig::sd15(), text }
    }

    #[test]
    fn a_controlnet_of_another_family_is_told_with_both_widths() {
        let bases = [BundleConfigs::sd15(), sd21(), BundleConfigs::sdxl()];
        for base in &bases {
            assert!(base.check().is_ok());
            for other in &bases {
                let found = base.check_controlnet(&ControlNetConfig::for_unet(&other.unet));
                assert_eq!(found.is_ok(), base == other);
            }
        }
        let [sd15, sd21, sdxl] = bases;
        for (base, other, message) in [
            (&sd15, &sdxl, "this ControlNet is for SDXL: cross-attention 2048, the base has 768"),
            (&sdxl, &sd21, "this ControlNet is for SD 2.x: cross-attention 1024, the base has 2048"),
            (&sd21, &sd15, "this ControlNet is for SD 1.x: cross-attention 768, the base has 1024"),
        ] {
            let error = base.check_controlnet(&ControlNetConfig::for_unet(&other.unet)).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
        let error = sd15.check_controlnet(&ControlNetConfig::for_unet(&sdxl.unet)).unwrap_err();
        assert_eq!(error.hint().as_deref(), Some("use a ControlNet for SD 1.x, or a base model of SDXL"));
    }

    #[test]
    fn parts_of_different_families_are_told() {
        let check = |change: fn(&mut BundleConfigs), message: &str| {
            let mut configs = BundleConfigs::sd15();
            change(&mut configs);
            assert_eq!(configs.check().unwrap_err().to_string(), message);
        };
        check(
            |configs| configs.text = sd21().text,
            "the UNet and the text encoder do not belong together: `prompt width` is 768 (SD 1.x) and 1024 (SD 2.x)",
        );
        check(
            |configs| configs.text = BundleConfigs::sdxl().text,
            "the UNet and the text encoder do not belong together: `prompt width` is 768 (SD 1.x) and 2048 (SDXL)",
        );
        check(
            |configs| configs.vae.latent_channels = 16,
            "the UNet and the VAE do not belong together: `latent channels` is 4 and 16",
        );
    }

    #[test]
    fn a_vae_of_other_latents_does_not_fit_a_controlnet() {
        let mut configs = BundleConfigs::sd15();
        let controlnet = ControlNetConfig::for_unet(&configs.unet);
        configs.vae.channels.pop();
        assert_eq!(
            configs.check_controlnet(&controlnet).unwrap_err().to_string(),
            "the VAE and the ControlNet do not belong together: `pixels per latent` is 4 and 8"
        );
    }

    #[test]
    fn a_controlnet_for_an_inpainting_model_sees_the_latents_only() {
        let mut configs = BundleConfigs::sd15();
        let controlnet = ControlNetConfig::for_unet(&configs.unet);
        configs.unet.in_channels = 9;
        assert!(configs.check().is_ok() && configs.check_controlnet(&controlnet).is_ok());
    }
}
