//! Full-size models with random weights, to measure with where none can be downloaded.

use std::path::Path;

use burn::prelude::*;
use pyrograph_diffusion::SchedulerJson;
use pyrograph_text::{ClipTextConfig, ClipTokenizer, build_vocabulary};
use pyrograph_unet::UnetConfig;
use pyrograph_vae::{Passes, VaeConfig};

use crate::error::PipelineError;
use crate::{Bundle, NoNegative, Precision, TextEncoder, TextEncoders, TinyBase};

impl Bundle {
    /// The networks of Stable Diffusion 1.5 with random weights, which are drawn when first used.
    ///
    /// Its tokenizer, a small one padded to 77 tokens, is written into `dir`.
    ///
    /// # Errors
    /// [`PipelineError::Tokenizer`] if a file cannot be written.
    pub fn random_sd15(dir: &Path, device: &Device) -> Result<Self, PipelineError> {
        let first = random_text_encoder(&ClipTextConfig::clip_l(), dir, device)?;
        let text = TextEncoders { first, second: None };
        Ok(random(UnetConfig::sd15(), VaeConfig::sd15(), text, NoNegative::EmptyPrompt, device))
    }

    /// The same of Stable Diffusion XL: 3.5 billion parameters.
    ///
    /// # Errors
    /// As [`Bundle::random_sd15`].
    pub fn random_sdxl(dir: &Path, device: &Device) -> Result<Self, PipelineError> {
        let first = random_text_encoder(&ClipTextConfig::clip_l(), dir, device)?;
        let second = random_text_encoder(&ClipTextConfig::open_clip_big_g(), dir, device)?;
        let text = TextEncoders { first, second: Some(second) };
        Ok(random(UnetConfig::sdxl(), VaeConfig::sdxl(), text, NoNegative::Zeros, device))
    }
}

fn random(
    unet_config: UnetConfig,
    vae_config: VaeConfig,
    text: TextEncoders,
    no_negative: NoNegative,
    device: &Device,
) -> Bundle {
    Bundle {
        unet: unet_config.init(device),
        vae: vae_config.init(device),
        text,
        no_negative,
        scheduler: SchedulerJson {
            prediction_type: Some("epsilon".to_owned()),
            rescale_betas_zero_snr: None,
            ..TinyBase::scheduler()
        },
        unet_config,
        vae_config,
        precision: Precision::F32,
        vae_passes: Passes::default(),
    }
}

/// A text encoder with a tokenizer that knows no word but all characters.
fn random_text_encoder(
    config: &ClipTextConfig,
    dir: &Path,
    device: &Device,
) -> Result<TextEncoder, PipelineError> {
    let vocabulary = build_vocabulary(&[]);
    vocabulary.save(dir, config.max_tokens).map_err(PipelineError::Tokenizer)?;
    let config = ClipTextConfig {
        bos_token_id: Some(vocabulary.bos_id),
        eos_token_id: Some(vocabulary.eos_id),
        pad_token_id: Some(vocabulary.eos_id),
        ..config.clone()
    };
    Ok(TextEncoder {
        tokenizer: ClipTokenizer::from_dir(dir).map_err(PipelineError::Tokenizer)?,
        model: Some(config.init(device)),
        config,
    })
}
