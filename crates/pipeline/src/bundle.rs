//! The parts of a Stable Diffusion model, loaded from diffusers' folder; the one place where modules and files meet.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::prelude::*;
use pyrograph_diffusion::SchedulerJson;
use pyrograph_text::{ClipTextConfig, ClipTextJson, ClipTextModel, ClipTokenizer};
use pyrograph_unet::{ControlNet, ControlNetConfig, ControlNetJson, Unet, UnetConfig, UnetJson};
use pyrograph_vae::{AutoencoderKl, VaeConfig, VaeJson};
use pyrograph_weights::{
    ComponentDir, Disk, LoadOptions, PipelineFolder, Renames, SaveOptions, save, write_config,
};

use crate::error::PipelineError;
use crate::precision::Precision;

/// A Stable Diffusion model: everything that `generate` and a training run need beside a ControlNet.
#[derive(Debug)]
pub struct Bundle {
    /// The denoiser.
    pub unet: Unet,
    /// What the UNet was made from; a new ControlNet needs it.
    pub unet_config: UnetConfig,
    /// Pictures to latents and back.
    pub vae: AutoencoderKl,
    /// What the VAE was made from; it holds the latents' scaling factor.
    pub vae_config: VaeConfig,
    /// The prompt's encoder.
    pub text_encoder: ClipTextModel,
    /// What the text encoder was made from.
    pub text_config: ClipTextConfig,
    /// The prompt's tokenizer.
    pub tokenizer: ClipTokenizer,
    /// The noise schedule as its file has it; every sampler takes from it what it knows.
    pub scheduler: SchedulerJson,
    /// The networks' element types.
    pub precision: Precision,
}

fn weights(component: &'static str) -> impl Fn(pyrograph_weights::WeightsError) -> PipelineError {
    move |source| PipelineError::Weights { component, source }
}

fn config<E: std::error::Error + Send + Sync + 'static>(
    component: &'static str,
) -> impl Fn(E) -> PipelineError {
    move |source| PipelineError::Config { component, source: Box::new(source) }
}

/// What is taken from elsewhere than the base folder's usual places.
#[derive(Debug, Clone, Copy, Default)]
pub struct BundleOptions<'a> {
    /// The variant of the weight files, as `fp16` in `model.fp16.safetensors`.
    pub variant: Option<&'a str>,
    /// Another tokenizer's folder.
    pub tokenizer: Option<&'a Path>,
}

impl Bundle {
    /// Loads a folder in diffusers' layout onto a device without autodiff, in f32.
    ///
    /// # Errors
    /// [`PipelineError`] names the part that is missing, of another kind, or does not fit the others.
    pub fn open(path: &Path, options: &BundleOptions<'_>, device: &Device) -> Result<Self, PipelineError> {
        let variant = options.variant;
        let folder =
            PipelineFolder::open(path, &["StableDiffusionPipeline"]).map_err(weights("base model"))?;

        let dir = folder.component("unet", &["UNet2DConditionModel"]).map_err(weights("UNet"))?;
        let json: UnetJson = dir.config().map_err(weights("UNet"))?;
        let unet_config = UnetConfig::try_from(json).map_err(config("UNet"))?;
        let load =
            LoadOptions { renames: Renames::new(pyrograph_unet::RENAMES), variant, ..LoadOptions::default() };
        let unet = dir.load(unet_config.init(device), &load).map_err(weights("UNet"))?;

        let dir = folder.component("vae", &["AutoencoderKL"]).map_err(weights("VAE"))?;
        let json: VaeJson = dir.config().map_err(weights("VAE"))?;
        let vae_config = VaeConfig::try_from(json).map_err(config("VAE"))?;
        let load = LoadOptions {
            renames: Renames::new(pyrograph_vae::RENAMES),
            aliases: pyrograph_vae::LEGACY_ALIASES,
            variant,
            ..LoadOptions::default()
        };
        let vae = dir.load(vae_config.init(device), &load).map_err(weights("VAE"))?;

        let dir = folder.component("text_encoder", &["CLIPTextModel"]).map_err(weights("text encoder"))?;
        let json: ClipTextJson = dir.config().map_err(weights("text encoder"))?;
        let text_config = ClipTextConfig::try_from(json).map_err(config("text encoder"))?;
        let load = LoadOptions {
            renames: Renames::new(pyrograph_text::RENAMES),
            optional_prefix: Some(pyrograph_text::OPTIONAL_PREFIX),
            ignore: pyrograph_text::IGNORED,
            variant,
            ..LoadOptions::default()
        };
        let text_encoder = dir.load(text_config.init(device), &load).map_err(weights("text encoder"))?;

        let tokenizer = match options.tokenizer {
            Some(path) => path.to_owned(),
            None => folder.component_path("tokenizer").map_err(weights("tokenizer"))?,
        };
        let tokenizer = ClipTokenizer::from_dir(&tokenizer).map_err(PipelineError::Tokenizer)?;
        tokenizer.check_fits(&text_config).map_err(PipelineError::Tokenizer)?;
        let scheduler = folder.component_path("scheduler").map_err(weights("scheduler"))?;
        let path = scheduler.join("scheduler_config.json");
        let scheduler = fs::read_to_string(&path).map_err(|source| PipelineError::Io { path, source })?;
        let scheduler = scheduler.parse().map_err(PipelineError::Scheduler)?;

        let pairs = [
            ("UNet", "VAE", "latent channels", unet_config.in_channels, vae_config.latent_channels),
            ("UNet", "text encoder", "prompt width", unet_config.context_dim, text_config.d_model),
        ];
        for (left, right, key, left_value, right_value) in pairs {
            ensure_equal(left, right, key, left_value, right_value)?;
        }
        let precision = Precision::F32;
        Ok(Self {
            unet,
            unet_config,
            vae,
            vae_config,
            text_encoder,
            text_config,
            tokenizer,
            scheduler,
            precision,
        })
    }

    /// Prompt embeddings, in f32.
    ///
    /// # Shapes
    /// - output: `[prompts, tokens, context_dim]`
    #[must_use]
    pub fn encode_prompts(&self, prompts: &[&str], device: &Device) -> Tensor<3> {
        pyrograph_text::encode_prompts(&self.tokenizer, &self.text_encoder, prompts, device)
    }

    /// Whether a ControlNet can steer this model.
    ///
    /// # Errors
    /// [`PipelineError::Mismatch`] names the first thing that differs.
    pub fn check_controlnet(&self, controlnet: &ControlNetConfig) -> Result<(), PipelineError> {
        let scale_factor = controlnet.hint.scale_factor();
        ensure_equal("VAE", "ControlNet", "scale factor", self.vae_config.pixels_per_latent(), scale_factor)?;
        let ControlNetConfig { unet, .. } = controlnet;
        let ours = &self.unet_config;
        ensure_equal("UNet", "ControlNet", "in_channels", ours.in_channels, unet.in_channels)?;
        ensure_equal("UNet", "ControlNet", "cross_attention_dim", ours.context_dim, unet.context_dim)?;
        let widths = |config: &UnetConfig| -> Vec<[usize; 2]> {
            config.stages.iter().map(|stage| [stage.channels, stage.n_resnets]).collect()
        };
        let (ours, theirs) = (widths(ours), widths(unet));
        if ours == theirs {
            return Ok(());
        }
        Err(PipelineError::Mismatch {
            left: "UNet",
            right: "ControlNet",
            key: "channels and layers of the blocks",
            left_value: format!("{ours:?}"),
            right_value: format!("{theirs:?}"),
        })
    }
}

fn ensure_equal(
    left: &'static str,
    right: &'static str,
    key: &'static str,
    left_value: usize,
    right_value: usize,
) -> Result<(), PipelineError> {
    if left_value == right_value {
        return Ok(());
    }
    let (left_value, right_value) = (left_value.to_string(), right_value.to_string());
    Err(PipelineError::Mismatch { left, right, key, left_value, right_value })
}

/// Loads a ControlNet folder onto a device; an autodiff device makes it trainable.
///
/// # Errors
/// [`PipelineError`] if the folder is of another kind or its weights do not match its config.
pub fn load_controlnet(
    path: &Path,
    device: &Device,
) -> Result<(ControlNet, ControlNetConfig), PipelineError> {
    let dir = ComponentDir::open(path, &["ControlNetModel"]).map_err(weights("ControlNet"))?;
    let json: ControlNetJson = dir.config().map_err(weights("ControlNet"))?;
    let controlnet_config = ControlNetConfig::try_from(json).map_err(config("ControlNet"))?;
    let options = LoadOptions { renames: Renames::new(pyrograph_unet::RENAMES), ..LoadOptions::default() };
    let controlnet = dir.load(controlnet_config.init(device), &options).map_err(weights("ControlNet"))?;
    Ok((controlnet, controlnet_config))
}

/// Writes a ControlNet as diffusers does: `config.json` and `diffusion_pytorch_model.safetensors`, in f32.
///
/// # Errors
/// [`PipelineError::Weights`] if a file cannot be written.
pub fn save_controlnet(
    controlnet: &ControlNet,
    controlnet_config: &ControlNetConfig,
    path: &Path,
    disk: &dyn Disk,
) -> Result<(), PipelineError> {
    let options = SaveOptions {
        renames: Renames::new(pyrograph_unet::RENAMES),
        metadata: BTreeMap::new(),
        ..SaveOptions::default()
    };
    save(controlnet, &path.join("diffusion_pytorch_model.safetensors"), &options, disk)
        .map_err(weights("ControlNet"))?;
    write_config(path, "config.json", &ControlNetJson::from(controlnet_config), disk)
        .map_err(weights("ControlNet"))
}
