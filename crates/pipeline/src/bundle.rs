//! The parts of a Stable Diffusion model, loaded from where [`Base`] finds them.

use std::collections::BTreeMap;
use std::path::Path;

use burn::prelude::*;
use pyrograph_diffusion::SchedulerJson;
use pyrograph_unet::{ControlNet, ControlNetConfig, ControlNetJson, Unet, UnetConfig, UnetJson};
use pyrograph_vae::{AutoencoderKl, Passes, VaeConfig};
use pyrograph_weights::{
    ComponentDir, Disk, LoadOptions, Pickles, Renames, SaveOptions, load, save, write_config,
};

use crate::base::Base;
use crate::compatible::ensure_equal;
use crate::configs::{BundleConfigs, controlnet_config};
use crate::controlnet_file::ControlNetFile;
use crate::error::PipelineError;
use crate::precision::{Precision, in_weights, text_in_weights};
use crate::prompts::TextEncoders;

/// The classes of pipelines whose parts make a [`Bundle`].
pub(crate) const SD: &str = "StableDiffusionPipeline";
pub(crate) const SDXL: &str = "StableDiffusionXLPipeline";

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
    /// The prompt's encoders.
    pub text: TextEncoders,
    /// What stands for a negative prompt that is not given.
    pub no_negative: NoNegative,
    /// The noise schedule as its file has it; every sampler takes from it what it knows.
    pub scheduler: SchedulerJson,
    /// The networks' element types.
    pub precision: Precision,
    /// How much goes through the VAE at a time where pictures are drawn.
    pub vae_passes: Passes,
}

pub(crate) fn weights(component: &'static str) -> impl Fn(pyrograph_weights::WeightsError) -> PipelineError {
    move |source| PipelineError::Weights { component, source }
}

pub(crate) fn config<E: std::error::Error + Send + Sync + 'static>(
    component: &'static str,
) -> impl Fn(E) -> PipelineError {
    move |source| PipelineError::Config { component, source: Box::new(source) }
}

/// What stands for a negative prompt that is not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoNegative {
    /// The empty prompt.
    EmptyPrompt,
    /// Zeros, which is not what text encoders make of the empty prompt: SDXL's `force_zeros_for_empty_prompt`.
    Zeros,
}

/// What is taken from elsewhere than the base folder's usual places.
#[derive(Debug, Clone, Copy, Default)]
pub struct BundleOptions<'a> {
    /// The variant of the weight files, as `fp16` in `model.fp16.safetensors`.
    pub variant: Option<&'a str>,
    /// Whether pickled weight files are read, where there are no others.
    pub pickles: Pickles,
    /// Another folder for the tokenizer; of SDXL's two, for the first.
    pub tokenizer: Option<&'a Path>,
    /// Another UNet's folder, as a run with an unlocked base model writes it.
    pub unet: Option<&'a Path>,
    /// Another VAE's folder, or that of a model that has one.
    pub vae: Option<&'a Path>,
    /// What the networks become, each as soon as it is read.
    pub precision: Precision,
    /// Compare names and shapes only: what is opened is not filled.
    pub names_only: bool,
}

impl Bundle {
    /// Loads a folder in diffusers' layout, or a single file with the names of the original code, onto a device without
    /// autodiff.
    ///
    /// # Errors
    /// [`PipelineError`] names the part that is missing, of another kind, or does not fit the others.
    pub fn open(path: &Path, options: &BundleOptions<'_>, device: &Device) -> Result<Self, PipelineError> {
        let base = Base::open(path, options.pickles)?;
        // Before gigabytes are read.
        let vae_weights = BundleConfigs::of(&base, options)?.vae_weights(options.precision);
        let weights_dtype = options.precision.weights;

        let (unet, unet_config) = base.load_unet(options, device)?;
        let unet = in_weights(unet, weights_dtype);
        let vae = base.vae(options)?;
        let vae_config = vae.config().clone();
        let vae = in_weights(vae.load(options, device)?, vae_weights);
        let text = text_in_weights(base.load_text_encoders(options, device)?, weights_dtype);
        let no_negative = match text.second {
            Some(_) if base.forces_zeros().unwrap_or(true) => NoNegative::Zeros,
            _ => NoNegative::EmptyPrompt,
        };
        let scheduler = base.scheduler()?;

        let (precision, vae_passes) = (options.precision, Passes::default());
        let bundle =
            Self { unet, unet_config, vae, vae_config, text, no_negative, scheduler, precision, vae_passes };
        bundle.check_parts()?;
        Ok(bundle)
    }

    /// Where the models are.
    ///
    /// # Panics
    /// Never: a VAE has weights.
    #[must_use]
    pub fn device(&self) -> Device {
        self.vae.devices().into_iter().next().expect("a VAE has weights")
    }

    /// As [`BundleConfigs::is_for_inpainting`].
    #[must_use]
    pub fn is_for_inpainting(&self) -> bool {
        self.configs().is_for_inpainting()
    }

    /// The pictures of clean latents.
    ///
    /// # Shapes
    /// - latents: `[pictures, channels, height / factor, width / factor]`
    /// - output: `[pictures, 3, height, width]`, values in [0, 1]
    #[must_use]
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        let pictures = self.vae.decode_in(self.vae_passes, self.vae.unscale(latents));
        (pictures / 2.0 + 0.5).clamp(0.0, 1.0)
    }

    /// Whether the parts belong together.
    fn check_parts(&self) -> Result<(), PipelineError> {
        for encoder in self.text.iter() {
            let n_tokens = [self.text.n_tokens(), encoder.tokenizer.model_max_length()];
            ensure_equal("tokenizer", "second tokenizer", "model_max_length", n_tokens)?;
        }
        self.configs().check()
    }

    /// Whether a ControlNet can steer this model.
    ///
    /// # Errors
    /// [`PipelineError::OtherFamily`], else [`PipelineError::Mismatch`] with the first thing that differs.
    pub fn check_controlnet(&self, controlnet: &ControlNetConfig) -> Result<(), PipelineError> {
        self.configs().check_controlnet(controlnet)
    }
}

/// Loads a UNet folder onto a device, from the weight files that the options choose.
///
/// # Errors
/// [`PipelineError`] if the folder is of another kind or its weights do not match its config.
pub fn load_unet(
    path: &Path,
    options: &BundleOptions<'_>,
    device: &Device,
) -> Result<(Unet, UnetConfig), PipelineError> {
    let dir = ComponentDir::open(path, &["UNet2DConditionModel"]).map_err(weights("UNet"))?;
    let json: UnetJson = dir.config().map_err(weights("UNet"))?;
    let unet_config = UnetConfig::try_from(json).map_err(config("UNet"))?;
    let load = LoadOptions {
        renames: Renames::new(pyrograph_unet::RENAMES),
        variant: options.variant,
        pickles: options.pickles,
        names_only: options.names_only,
        ..LoadOptions::default()
    };
    let unet = dir.load(unet_config.init(device), &load).map_err(weights("UNet"))?;
    Ok((unet, unet_config))
}

/// Writes a UNet as diffusers does: `config.json` and `diffusion_pytorch_model.safetensors`, in f32.
///
/// # Errors
/// [`PipelineError::Weights`] if a file cannot be written.
pub fn save_unet(
    unet: &Unet,
    unet_config: &UnetConfig,
    path: &Path,
    disk: &dyn Disk,
) -> Result<(), PipelineError> {
    let options = SaveOptions { renames: Renames::new(pyrograph_unet::RENAMES), ..SaveOptions::default() };
    save(unet, &path.join("diffusion_pytorch_model.safetensors"), &options, disk).map_err(weights("UNet"))?;
    write_config(path, "config.json", &UnetJson::from(unet_config), disk).map_err(weights("UNet"))
}

/// Loads a ControlNet's folder or file onto a device; an autodiff device makes it trainable.
///
/// # Errors
/// [`PipelineError`] if it is of another kind or its weights do not match its config.
pub fn load_controlnet(
    path: &Path,
    pickles: Pickles,
    device: &Device,
) -> Result<(ControlNet, ControlNetConfig), PipelineError> {
    controlnet(path, pickles, false, device)
}

pub(crate) fn controlnet(
    path: &Path,
    pickles: Pickles,
    names_only: bool,
    device: &Device,
) -> Result<(ControlNet, ControlNetConfig), PipelineError> {
    if path.is_file() {
        return ControlNetFile::open(path, pickles)?.load(names_only, device);
    }
    let controlnet_config = controlnet_config(path, pickles)?;
    let renames = Renames::new(pyrograph_unet::RENAMES);
    let options = LoadOptions { renames, pickles, names_only, ..LoadOptions::default() };
    let controlnet = load(controlnet_config.init(device), path, &options).map_err(weights("ControlNet"))?;
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
    save_controlnet_as(controlnet, &ControlNetJson::from(controlnet_config), path, disk)
}

/// The same with a `config.json` that may have further entries.
///
/// # Errors
/// As [`save_controlnet`].
pub fn save_controlnet_as(
    controlnet: &ControlNet,
    config: &ControlNetJson,
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
    write_config(path, "config.json", config, disk).map_err(weights("ControlNet"))
}
