//! A base model made from nothing: random weights in diffusers' layout, so that everything runs with nothing
//! downloaded.

use std::fs;
use std::path::Path;

use burn::prelude::*;
use pyrograph_diffusion::SchedulerJson;
use pyrograph_text::{ClipTextConfig, ClipTextJson, build_vocabulary};
use pyrograph_unet::{Projection, Stage, StageKind, TimeConfig, UnetConfig, UnetJson};
use pyrograph_vae::{VaeConfig, VaeJson};
use pyrograph_weights::{Renames, SaveOptions, WeightsError, save, write_config};
use serde_json::{Value, json};

use crate::error::PipelineError;

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
    let vocabulary = build_vocabulary(words);
    let text = ClipTextConfig {
        vocab_size: vocabulary.vocab_size,
        bos_token_id: Some(vocabulary.bos_id),
        eos_token_id: Some(vocabulary.eos_id),
        pad_token_id: Some(vocabulary.eos_id),
        ..tiny_text()
    };
    let unet = tiny_unet(text.d_model);
    let vae = tiny_vae();

    // Weights are drawn in the order in which they are saved, so one seed decides all of them.
    device.seed(seed);
    let folder = |name: &str| -> Result<std::path::PathBuf, PipelineError> {
        let path = out.join(name);
        fs::create_dir_all(&path).map_err(|source| PipelineError::Io { path: path.clone(), source })?;
        Ok(path)
    };
    let dir = folder("unet")?;
    save_model(&unet.init(device), Renames::new(pyrograph_unet::RENAMES), &dir, "diffusion_pytorch_model")?;
    write(&dir, "config.json", &UnetJson::from(&unet))?;
    let dir = folder("vae")?;
    save_model(&vae.init(device), Renames::new(pyrograph_vae::RENAMES), &dir, "diffusion_pytorch_model")?;
    write(&dir, "config.json", &VaeJson::from(&vae))?;
    let dir = folder("text_encoder")?;
    save_model(&text.init(device), Renames::new(pyrograph_text::RENAMES), &dir, "model")?;
    write(&dir, "config.json", &ClipTextJson::from(&text))?;
    write(&folder("scheduler")?, "scheduler_config.json", &scheduler())?;
    let dir = folder("tokenizer")?;
    vocabulary.save(&dir, text.max_tokens).map_err(PipelineError::Tokenizer)?;
    write(out, "model_index.json", &model_index())
}

fn tiny_unet(context_dim: usize) -> UnetConfig {
    let stage = |kind, channels| Stage { kind, channels, n_resnets: 1, n_transformer_blocks: 1, n_heads: 4 };
    UnetConfig {
        in_channels: 4,
        out_channels: 4,
        sample_size: Some(16),
        stages: vec![
            stage(StageKind::CrossAttention, 32),
            stage(StageKind::CrossAttention, 64),
            stage(StageKind::CrossAttention, 128),
        ],
        context_dim,
        norm_groups: 8,
        norm_eps: 1e-5,
        projection: Projection::Convolution,
        time: TimeConfig { flip_sin_to_cos: true, freq_shift: 0.0 },
        upcast_attention: false,
    }
}

fn tiny_vae() -> VaeConfig {
    VaeConfig {
        channels: vec![16, 32, 64, 64],
        n_resnets: 1,
        norm_groups: 4,
        sample_size: 128,
        ..VaeConfig::sd15()
    }
}

fn tiny_text() -> ClipTextConfig {
    ClipTextConfig {
        d_model: 64,
        d_ff: 256,
        n_layers: 2,
        n_heads: 4,
        max_tokens: 32,
        projection_dim: None,
        ..ClipTextConfig::clip_l()
    }
}

/// Zero terminal signal-to-noise ratio with velocity prediction: with the usual schedule, flat pictures leak their
/// mean colour even at the last timestep, and a model learns to read it there instead of from the prompt.
///
/// Source: Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed".
fn scheduler() -> SchedulerJson {
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

fn failed(source: WeightsError) -> PipelineError {
    PipelineError::Weights { component: "base model", source }
}

fn write<T: serde::Serialize>(dir: &Path, file: &str, config: &T) -> Result<(), PipelineError> {
    write_config(dir, file, config).map_err(failed)
}

fn save_model<M: Module>(module: &M, renames: Renames, dir: &Path, stem: &str) -> Result<(), PipelineError> {
    let options = SaveOptions { renames, ..SaveOptions::default() };
    save(module, &dir.join(format!("{stem}.safetensors")), &options).map_err(failed)
}
