//! The tiny base model: a complete Stable Diffusion for pictures of 128 px, small enough to train on two processor
//! cores.

use std::fs;
use std::path::{Path, PathBuf};

use pyrograph_diffusion::SchedulerJson;
use pyrograph_text::{
    ClipTextConfig, ClipTextJson, ClipTextModel, TextProjection, Vocabulary, build_vocabulary,
};
use pyrograph_unet::{Stage, StageKind, TransformerDepth, Unet, UnetConfig, UnetJson};
use pyrograph_vae::{AutoencoderKl, VaeConfig, VaeJson};
use pyrograph_weights::{Renames, SaveDtype, SaveOptions, SystemDisk, WeightsError, save, write_config};
use serde_json::{Value, json};

use crate::error::PipelineError;

/// What the tiny base is made of: about 4 million parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct TinyBase {
    /// The denoiser, 2.7 million parameters.
    pub unet: UnetConfig,
    /// The autoencoder, 1.0 million parameters. Its `scaling_factor` is that of Stable Diffusion 1 until the VAE is
    /// trained and the deviation of its latents is known.
    pub vae: VaeConfig,
    /// The prompt's encoder.
    pub text: ClipTextConfig,
    /// The words of the prompts.
    pub vocabulary: Vocabulary,
}

/// Which models [`TinyBase::write`] writes.
#[derive(Debug, Clone, Copy)]
pub struct TinyModels<'a> {
    /// The denoiser.
    pub unet: &'a Unet,
    /// The autoencoder.
    pub vae: &'a AutoencoderKl,
    /// The prompt's encoder.
    pub text_encoder: &'a ClipTextModel,
}

impl TinyBase {
    /// The tiny base whose tokenizer knows each of these words as one token.
    #[must_use]
    pub fn new(words: &[&str]) -> Self {
        let vocabulary = build_vocabulary(words);
        let text = text(&vocabulary);
        Self { unet: unet(text.d_model), vae: vae(), text, vocabulary }
    }

    /// Zero terminal signal-to-noise ratio with velocity prediction: with the usual schedule, flat pictures leak
    /// their mean colour even at the last timestep, and a model learns to read it there instead of from the prompt.
    ///
    /// Source: Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed".
    #[must_use]
    pub fn scheduler() -> SchedulerJson {
        SchedulerJson {
            class_name: Some("DDIMScheduler".to_owned()),
            num_train_timesteps: Some(1000),
            beta_start: Some(0.00085),
            beta_end: Some(0.012),
            beta_schedule: Some("scaled_linear".to_owned()),
            prediction_type: Some("v_prediction".to_owned()),
            rescale_betas_zero_snr: Some(true),
            timestep_spacing: Some("trailing".to_owned()),
            clip_sample: Some(false),
            set_alpha_to_one: Some(true),
            ..SchedulerJson::default()
        }
    }

    /// Writes the `tokenizer` folder into `dir`.
    ///
    /// # Errors
    /// [`PipelineError`] if a file cannot be written.
    pub fn write_tokenizer(&self, dir: &Path) -> Result<(), PipelineError> {
        self.vocabulary.save(dir, self.text.max_tokens).map_err(PipelineError::Tokenizer)
    }

    /// Writes a folder in diffusers' layout.
    ///
    /// Weights that are not initialised yet are drawn in the order in which they are saved: UNet, VAE, text encoder.
    ///
    /// # Errors
    /// [`PipelineError`] if a file cannot be written.
    pub fn write(&self, models: TinyModels<'_>, dtype: SaveDtype, out: &Path) -> Result<(), PipelineError> {
        let options = |renames| SaveOptions { renames, dtype, ..SaveOptions::default() };
        let dir = folder(out, "unet")?;
        let renames = Renames::new(pyrograph_unet::RENAMES);
        save(models.unet, &dir.join("diffusion_pytorch_model.safetensors"), &options(renames), &SystemDisk)
            .map_err(failed)?;
        write(&dir, "config.json", &UnetJson::from(&self.unet))?;
        let dir = folder(out, "vae")?;
        let renames = Renames::new(pyrograph_vae::RENAMES);
        save(models.vae, &dir.join("diffusion_pytorch_model.safetensors"), &options(renames), &SystemDisk)
            .map_err(failed)?;
        write(&dir, "config.json", &VaeJson::from(&self.vae))?;
        let dir = folder(out, "text_encoder")?;
        let renames = Renames::new(pyrograph_text::RENAMES);
        save(models.text_encoder, &dir.join("model.safetensors"), &options(renames), &SystemDisk)
            .map_err(failed)?;
        write(&dir, "config.json", &ClipTextJson::from(&self.text))?;
        write(&folder(out, "scheduler")?, "scheduler_config.json", &Self::scheduler())?;
        self.write_tokenizer(&folder(out, "tokenizer")?)?;
        write(out, "model_index.json", &model_index())
    }
}

fn unet(context_dim: usize) -> UnetConfig {
    let depth = TransformerDepth::Same(1);
    let stage = |kind, channels| Stage { kind, channels, n_resnets: 1, depth: depth.clone(), n_heads: 4 };
    UnetConfig {
        in_channels: 4,
        out_channels: 4,
        sample_size: Some(16),
        stages: vec![
            stage(StageKind::CrossAttention, 32),
            stage(StageKind::CrossAttention, 64),
            // A third level with attention would cost 1.5 million parameters, and the prompts are simple.
            stage(StageKind::Plain, 112),
        ],
        context_dim,
        norm_groups: 8,
        ..UnetConfig::sd15()
    }
}

fn vae() -> VaeConfig {
    VaeConfig {
        channels: vec![16, 32, 64, 64],
        n_resnets: 1,
        // Each group forgets one number of a picture, and flat pictures have only three: one group learns faster.
        norm_groups: 1,
        sample_size: 128,
        ..VaeConfig::sd15()
    }
}

fn text(vocabulary: &Vocabulary) -> ClipTextConfig {
    ClipTextConfig {
        vocab_size: vocabulary.vocab_size,
        d_model: 64,
        d_ff: 256,
        n_layers: 2,
        n_heads: 4,
        max_tokens: 32,
        projection: TextProjection::Absent(None),
        bos_token_id: Some(vocabulary.bos_id),
        eos_token_id: Some(vocabulary.eos_id),
        pad_token_id: Some(vocabulary.eos_id),
        ..ClipTextConfig::clip_l()
    }
}

fn model_index() -> Value {
    json!({
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.0",
        "feature_extractor": [null, null],
        "image_encoder": [null, null],
        "requires_safety_checker": false,
        "safety_checker": [null, null],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    })
}

fn folder(out: &Path, name: &str) -> Result<PathBuf, PipelineError> {
    let path = out.join(name);
    fs::create_dir_all(&path).map_err(|source| PipelineError::Io { path: path.clone(), source })?;
    Ok(path)
}

fn failed(source: WeightsError) -> PipelineError {
    PipelineError::Weights { component: "base model", source }
}

fn write<T: serde::Serialize>(dir: &Path, file: &str, config: &T) -> Result<(), PipelineError> {
    write_config(dir, file, config, &SystemDisk).map_err(failed)
}
