//! A full-size model with random weights, to measure with where none can be downloaded.

use std::path::Path;

use burn::prelude::*;
use pyrograph_diffusion::SchedulerJson;
use pyrograph_text::{ClipTextConfig, ClipTokenizer, build_vocabulary};
use pyrograph_unet::UnetConfig;
use pyrograph_vae::VaeConfig;

use crate::error::PipelineError;
use crate::{Bundle, Precision, TinyBase};

impl Bundle {
    /// The networks of Stable Diffusion 1.5 with random weights, which are drawn when first used.
    ///
    /// Its tokenizer, a small one padded to 77 tokens, is written into `dir`.
    ///
    /// # Errors
    /// [`PipelineError::Tokenizer`] if a file cannot be written.
    pub fn random_sd15(dir: &Path, device: &Device) -> Result<Self, PipelineError> {
        let (unet_config, vae_config) = (UnetConfig::sd15(), VaeConfig::sd15());
        let vocabulary = build_vocabulary(&[]);
        let text = ClipTextConfig::clip_l();
        vocabulary.save(dir, text.max_tokens).map_err(PipelineError::Tokenizer)?;
        let text = ClipTextConfig {
            bos_token_id: Some(vocabulary.bos_id),
            eos_token_id: Some(vocabulary.eos_id),
            pad_token_id: Some(vocabulary.eos_id),
            ..text
        };
        Ok(Self {
            unet: unet_config.init(device),
            vae: vae_config.init(device),
            text_encoder: text.init(device),
            tokenizer: ClipTokenizer::from_dir(dir).map_err(PipelineError::Tokenizer)?,
            scheduler: SchedulerJson {
                prediction_type: Some("epsilon".to_owned()),
                rescale_betas_zero_snr: None,
                ..TinyBase::scheduler()
            },
            unet_config,
            vae_config,
            text_config: text,
            precision: Precision::F32,
        })
    }
}
