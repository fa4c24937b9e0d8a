//! Where the parts of a base model come from: a folder in diffusers' layout, or one file.

use std::fs;
use std::path::Path;

use burn::prelude::*;
use pyrograph_diffusion::SchedulerJson;
use pyrograph_text::{Activation, ClipTextConfig, ClipTextJson, ClipTextModel, ClipTokenizer};
use pyrograph_unet::{Unet, UnetConfig, UnetJson};
use pyrograph_vae::{AutoencoderKl, VaeConfig, VaeJson};
use pyrograph_weights::{ComponentDir, LoadOptions, Pickles, PipelineFolder, Renames};
use serde_json::Value;

use crate::bundle::{BundleOptions, SD, SDXL, config, load_unet, weights};
use crate::error::PipelineError;
use crate::prompts::{TextEncoder, TextEncoders};
use crate::single_file::{Layout, SingleFile, VaeFile};

/// A base model of which no weights have been read.
#[derive(Debug)]
pub(crate) enum Base {
    Folder(PipelineFolder),
    File(SingleFile),
}

/// The autoencoder of a base model or another one, and its config.
#[derive(Debug)]
pub(crate) enum Vae {
    Folder(ComponentDir, VaeConfig),
    File(VaeFile),
}

/// Where a text encoder is in a folder, and what it is called in errors.
#[derive(Clone, Copy)]
struct TextPart {
    name: &'static str,
    folder: &'static str,
    class: &'static str,
    tokenizer: &'static str,
}

/// The text encoder, and the second one of SDXL.
const TEXT_PARTS: [TextPart; 2] = [
    TextPart { name: "text encoder", folder: "text_encoder", class: "CLIPTextModel", tokenizer: "tokenizer" },
    TextPart {
        name: "second text encoder",
        folder: "text_encoder_2",
        class: "CLIPTextModelWithProjection",
        tokenizer: "tokenizer_2",
    },
];

impl Base {
    pub(crate) fn open(path: &Path, pickles: Pickles) -> Result<Self, PipelineError> {
        if path.is_file() {
            return SingleFile::open(path, pickles).map(Self::File);
        }
        PipelineFolder::open(path, &[SD, SDXL]).map(Self::Folder).map_err(weights("base model"))
    }

    pub(crate) fn is_xl(&self) -> bool {
        match self {
            Self::Folder(folder) => folder.class() == SDXL,
            Self::File(file) => file.layout() == Layout::Xl,
        }
    }

    /// Whose code's names the model has in a single file.
    pub(crate) fn layout(&self) -> Result<Layout, PipelineError> {
        match self {
            Self::File(file) => Ok(file.layout()),
            Self::Folder(_) => Ok(match self.text_configs()?.as_slice() {
                [_, _] => Layout::Xl,
                [text, ..] if text.activation == Activation::Gelu => Layout::Sd2,
                _ => Layout::Sd1,
            }),
        }
    }

    pub(crate) fn n_text_encoders(&self) -> usize {
        if self.is_xl() { 2 } else { 1 }
    }

    pub(crate) fn unet_config(&self) -> Result<UnetConfig, PipelineError> {
        match self {
            Self::Folder(folder) => {
                let dir = folder.component("unet", &["UNet2DConditionModel"]).map_err(weights("UNet"))?;
                let json: UnetJson = dir.config().map_err(weights("UNet"))?;
                UnetConfig::try_from(json).map_err(config("UNet"))
            }
            Self::File(file) => file.unet_config(),
        }
    }

    pub(crate) fn load_unet(
        &self,
        options: &BundleOptions<'_>,
        device: &Device,
    ) -> Result<(Unet, UnetConfig), PipelineError> {
        match (options.unet, self) {
            (Some(path), _) => load_unet(path, &BundleOptions { variant: None, ..*options }, device),
            (None, Self::Folder(folder)) => {
                let path = folder.component_path("unet").map_err(weights("UNet"))?;
                load_unet(&path, options, device)
            }
            (None, Self::File(file)) => file.load_unet(options.names_only, device),
        }
    }

    /// The model's own VAE.
    pub(crate) fn own_vae(&self) -> Result<Vae, PipelineError> {
        match self {
            Self::Folder(folder) => Vae::of_component(folder.component("vae", &[VAE_CLASS])),
            Self::File(file) => file.vae().map(Vae::File),
        }
    }

    /// The model's VAE, or another one: a folder, a file, or that of another model.
    pub(crate) fn vae(&self, options: &BundleOptions<'_>) -> Result<Vae, PipelineError> {
        let Some(path) = options.vae else {
            return self.own_vae();
        };
        if path.is_file() {
            let usual = if self.is_xl() { VaeConfig::sdxl() } else { VaeConfig::sd15() };
            return VaeFile::open(path, options.pickles, &usual).map(Vae::File);
        }
        match PipelineFolder::open(path, &[SD, SDXL]) {
            Ok(model) => Vae::of_component(model.component("vae", &[VAE_CLASS])),
            Err(_) => Vae::of_component(ComponentDir::open(path, &[VAE_CLASS])),
        }
    }

    pub(crate) fn text_configs(&self) -> Result<Vec<ClipTextConfig>, PipelineError> {
        (0..self.n_text_encoders())
            .map(|idx| match self {
                Self::Folder(folder) => TEXT_PARTS[idx].config(folder).map(|(_, config)| config),
                Self::File(file) => file.text_config(idx),
            })
            .collect()
    }

    pub(crate) fn load_text_encoders(
        &self,
        options: &BundleOptions<'_>,
        device: &Device,
    ) -> Result<TextEncoders, PipelineError> {
        let first = self.load_text_encoder(0, options, device)?;
        let second = if self.is_xl() { Some(self.load_text_encoder(1, options, device)?) } else { None };
        Ok(TextEncoders { first, second })
    }

    pub(crate) fn load_text_encoder(
        &self,
        idx: usize,
        options: &BundleOptions<'_>,
        device: &Device,
    ) -> Result<TextEncoder, PipelineError> {
        let (model, config) = match self {
            Self::Folder(folder) => TEXT_PARTS[idx].load(folder, options, device)?,
            Self::File(file) => file.load_text(idx, options.names_only, device)?,
        };
        let from_dir = |path: &Path| ClipTokenizer::from_dir(path).map_err(PipelineError::Tokenizer);
        let tokenizer = match (options.tokenizer, self) {
            (Some(path), _) if idx == 0 => from_dir(path)?,
            (_, Self::Folder(folder)) => {
                let path = folder.component_path(TEXT_PARTS[idx].tokenizer).map_err(weights("tokenizer"))?;
                from_dir(&path)?
            }
            (_, Self::File(file)) => file.tokenizer(idx),
        };
        tokenizer.check_fits(&config).map_err(PipelineError::Tokenizer)?;
        Ok(TextEncoder { tokenizer, model: Some(model), config })
    }

    pub(crate) fn scheduler(&self) -> Result<SchedulerJson, PipelineError> {
        match self {
            Self::Folder(folder) => {
                let dir = folder.component_path("scheduler").map_err(weights("scheduler"))?;
                let path = dir.join("scheduler_config.json");
                let text = fs::read_to_string(&path).map_err(|source| PipelineError::Io { path, source })?;
                text.parse().map_err(PipelineError::Scheduler)
            }
            Self::File(file) => file.scheduler(),
        }
    }

    /// `force_zeros_for_empty_prompt`, where the model says so.
    pub(crate) fn forces_zeros(&self) -> Option<bool> {
        match self {
            Self::Folder(folder) => {
                folder.settings().get("force_zeros_for_empty_prompt").and_then(Value::as_bool)
            }
            Self::File(_) => None,
        }
    }
}

impl TextPart {
    fn config(self, folder: &PipelineFolder) -> Result<(ComponentDir, ClipTextConfig), PipelineError> {
        let dir = folder.component(self.folder, &[self.class]).map_err(weights(self.name))?;
        let json: ClipTextJson = dir.config().map_err(weights(self.name))?;
        let text_config = ClipTextConfig::try_from(json).map_err(config(self.name))?;
        Ok((dir, text_config))
    }

    fn load(
        self,
        folder: &PipelineFolder,
        options: &BundleOptions<'_>,
        device: &Device,
    ) -> Result<(ClipTextModel, ClipTextConfig), PipelineError> {
        let (dir, text_config) = self.config(folder)?;
        let load = LoadOptions {
            renames: Renames::new(pyrograph_text::RENAMES),
            optional_prefix: Some(pyrograph_text::OPTIONAL_PREFIX),
            ignore: pyrograph_text::IGNORED,
            variant: options.variant,
            pickles: options.pickles,
            names_only: options.names_only,
            ..LoadOptions::default()
        };
        let model = dir.load(text_config.init(device), &load).map_err(weights(self.name))?;
        Ok((model, text_config))
    }
}

pub(crate) const VAE_CLASS: &str = "AutoencoderKL";

impl Vae {
    pub(crate) fn of_component(
        dir: Result<ComponentDir, pyrograph_weights::WeightsError>,
    ) -> Result<Self, PipelineError> {
        let dir = dir.map_err(weights("VAE"))?;
        let json: VaeJson = dir.config().map_err(weights("VAE"))?;
        let vae_config = VaeConfig::try_from(json).map_err(config("VAE"))?;
        Ok(Self::Folder(dir, vae_config))
    }

    pub(crate) fn config(&self) -> &VaeConfig {
        match self {
            Self::Folder(_, config) => config,
            Self::File(file) => &file.config,
        }
    }

    pub(crate) fn load(
        &self,
        options: &BundleOptions<'_>,
        device: &Device,
    ) -> Result<AutoencoderKl, PipelineError> {
        let load = LoadOptions {
            renames: Renames::new(pyrograph_vae::RENAMES),
            aliases: pyrograph_vae::LEGACY_ALIASES,
            variant: options.variant,
            pickles: options.pickles,
            names_only: options.names_only,
            ..LoadOptions::default()
        };
        match self {
            Self::Folder(dir, config) => dir.load(config.init(device), &load).map_err(weights("VAE")),
            Self::File(file) => file.load(options.names_only, device),
        }
    }
}
