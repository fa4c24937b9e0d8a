//! A Stable Diffusion model in one file with the names of its authors' code.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::prelude::*;
use pyrograph_diffusion::SchedulerJson;
use pyrograph_text::{
    ClipTextConfig, ClipTextModel, ClipTokenizer, OriginalPart, Padding, TextFamily, open_clip_name,
};
use pyrograph_unet::{Naming, Unet, UnetConfig};
use pyrograph_vae::{AutoencoderKl, VaeConfig};
use pyrograph_weights::{
    Header, LoadOptions, Part, Pickles, Place, Places, Renames, WeightsError, inspect, load,
    names_and_shapes, read_header,
};
use serde_json::json;

use crate::bundle::weights;
use crate::error::PipelineError;

/// What the names of the UNet begin with.
pub(crate) const UNET_PREFIX: &str = "model.diffusion_model.";

/// What the names of the VAE begin with, in most files and in some.
pub(crate) const VAE_PREFIXES: [&str; 2] = ["first_stage_model.", "vae."];

/// A checkpoint of which only the header has been read.
#[derive(Debug, Clone)]
pub(crate) struct SingleFile {
    path: PathBuf,
    pickles: Pickles,
    header: Header,
    layout: Layout,
}

/// Whose code wrote the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    Sd1,
    Sd2,
    Xl,
}

/// A text encoder in a checkpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TextPlace {
    pub(crate) prefix: &'static str,
    pub(crate) family: TextFamily,
    pub(crate) padding: Padding,
}

impl Layout {
    /// The text encoders of the family.
    pub(crate) fn text(self) -> &'static [TextPlace] {
        const CLIP_L: TextPlace = TextPlace {
            prefix: "cond_stage_model.transformer.",
            family: TextFamily::Clip,
            padding: Padding::EndOfText,
        };
        const CLIP_H: TextPlace = TextPlace {
            prefix: "cond_stage_model.model.",
            family: TextFamily::OpenClipPenultimate,
            padding: Padding::ExclamationMark,
        };
        const XL_FIRST: TextPlace = TextPlace { prefix: "conditioner.embedders.0.transformer.", ..CLIP_L };
        const XL_SECOND: TextPlace = TextPlace {
            prefix: "conditioner.embedders.1.model.",
            family: TextFamily::OpenClip,
            padding: Padding::ExclamationMark,
        };
        match self {
            Self::Sd1 => &[CLIP_L],
            Self::Sd2 => &[CLIP_H],
            Self::Xl => &[XL_FIRST, XL_SECOND],
        }
    }

    /// The code whose names these are, for a file's metadata.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Sd1 => "https://github.com/CompVis/stable-diffusion",
            Self::Sd2 => "https://github.com/Stability-AI/stablediffusion",
            Self::Xl => "https://github.com/Stability-AI/generative-models",
        }
    }

    fn usual_vae(self) -> VaeConfig {
        match self {
            Self::Sd1 | Self::Sd2 => VaeConfig::sd15(),
            Self::Xl => VaeConfig::sdxl(),
        }
    }
}

impl SingleFile {
    /// Reads the header and tells the family by it.
    ///
    /// Source: diffusers 0.42 `infer_diffusers_model_type`; but SD 2.x is told by the names of its text encoder, not by a
    /// width.
    pub(crate) fn open(path: &Path, pickles: Pickles) -> Result<Self, PipelineError> {
        let failed = weights("base model");
        let header = read_header(path, None, pickles).map_err(&failed)?;
        let has = |prefix: &str| header.has_prefix(prefix);
        let layout = if !has(UNET_PREFIX) || has("conditioner.embedders.0.model.") || has("control_model.") {
            None
        } else if has("conditioner.embedders.1.model.") {
            Some(Layout::Xl)
        } else if has("cond_stage_model.model.") {
            Some(Layout::Sd2)
        } else if has("cond_stage_model.transformer.") {
            Some(Layout::Sd1)
        } else {
            let (path, component) = (path.to_owned(), "text_encoder".to_owned());
            let found = vec!["unet".to_owned()];
            return Err(failed(WeightsError::MissingComponent { dir: path, component, found }));
        };
        let Some(layout) = layout else {
            let found = inspect(path, pickles).map_err(&failed)?.in_words();
            let expected = "a Stable Diffusion model".to_owned();
            return Err(failed(WeightsError::WrongKind { path: path.to_owned(), expected, found }));
        };
        Ok(Self { path: path.to_owned(), pickles, header, layout })
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    fn shape_of<'a>(&'a self, prefix: &'a str) -> impl Fn(&str) -> Option<&'a [usize]> + 'a {
        move |name| self.header.shapes.get(&format!("{prefix}{name}")).map(Vec::as_slice)
    }

    pub(crate) fn unet_config(&self) -> Result<UnetConfig, PipelineError> {
        let pooled_dim = match self.layout {
            Layout::Sd1 | Layout::Sd2 => None,
            Layout::Xl => Some(self.text_config(1)?.pooled_dim()),
        };
        UnetConfig::from_shapes(Naming::Original, &self.shape_of(UNET_PREFIX), pooled_dim)
            .map_err(shapes("UNet"))
    }

    pub(crate) fn load_unet(
        &self,
        names_only: bool,
        device: &Device,
    ) -> Result<(Unet, UnetConfig), PipelineError> {
        let unet_config = self.unet_config()?;
        let names = unet_config.original_names();
        let file = PartFile {
            path: &self.path,
            pickles: self.pickles,
            prefix: UNET_PREFIX,
            renames: pyrograph_unet::RENAMES,
            names_only,
        };
        let unet = file
            .load(unet_config.init(device), &[], |name| Some((names.of(name)?, Part::Whole)))
            .map_err(weights("UNet"))?;
        Ok((unet, unet_config))
    }

    /// The file's VAE, which some do not have.
    pub(crate) fn vae(&self) -> Result<VaeFile, PipelineError> {
        VaeFile::find(&self.path, self.pickles, &self.header, &self.layout.usual_vae())
    }

    pub(crate) fn text_config(&self, idx: usize) -> Result<ClipTextConfig, PipelineError> {
        let place = self.layout.text()[idx];
        ClipTextConfig::from_original_shapes(self.shape_of(place.prefix), place.family)
            .map_err(shapes("text encoder"))
    }

    pub(crate) fn load_text(
        &self,
        idx: usize,
        names_only: bool,
        device: &Device,
    ) -> Result<(ClipTextModel, ClipTextConfig), PipelineError> {
        let place = self.layout.text()[idx];
        let text_config = self.text_config(idx)?;
        let file = PartFile {
            path: &self.path,
            pickles: self.pickles,
            prefix: place.prefix,
            renames: pyrograph_text::RENAMES,
            names_only,
        };
        let model = file
            .load(text_config.init(device), &place.ignored(&text_config), |name| place.of(name))
            .map_err(weights("text encoder"))?;
        Ok((model, text_config))
    }

    /// The tokenizer that goes with a text encoder.
    pub(crate) fn tokenizer(&self, idx: usize) -> ClipTokenizer {
        ClipTokenizer::clip(self.layout.text()[idx].padding)
    }

    /// The family's noise schedule, as its published folders have it.
    ///
    /// What the UNet predicts is not in the file: SD 2.x's is the velocity, as of `v2-inference-v.yaml`, the others' the
    /// noise, unless `modelspec.prediction_type` or ComfyUI's marker tensors `v_pred` and `ztsnr` say so.
    pub(crate) fn scheduler(&self) -> Result<SchedulerJson, PipelineError> {
        let has = |name: &str| self.header.shapes.contains_key(name);
        let is_velocity = match self.header.metadata.get("modelspec.prediction_type").map(String::as_str) {
            Some("v") => true,
            Some(_) => false,
            None => has("v_pred") || self.layout == Layout::Sd2,
        };
        let class = match self.layout {
            Layout::Sd1 => "PNDMScheduler",
            Layout::Sd2 => "DDIMScheduler",
            Layout::Xl => "EulerDiscreteScheduler",
        };
        let mut scheduler = json!({
            "_class_name": class,
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "num_train_timesteps": 1000,
            "prediction_type": if is_velocity { "v_prediction" } else { "epsilon" },
            "clip_sample": false,
            "set_alpha_to_one": false,
            "skip_prk_steps": true,
            "steps_offset": 1,
            "timestep_spacing": "leading",
        });
        if has("ztsnr") {
            scheduler["rescale_betas_zero_snr"] = json!(true);
        }
        scheduler.to_string().parse().map_err(PipelineError::Scheduler)
    }
}

impl TextPlace {
    /// Where a tensor with transformers' name is, without the prefix.
    pub(crate) fn of(self, name: &str) -> Option<(String, Part)> {
        if self.family == TextFamily::Clip {
            return Some((name.to_owned(), Part::Whole));
        }
        let (name, part) = open_clip_name(name)?;
        let part = match part {
            OriginalPart::Whole => Part::Whole,
            OriginalPart::Transposed => Part::Transposed,
            OriginalPart::Third(idx) => Part::Third(idx),
        };
        Some((name, part))
    }

    /// What diffusers leaves in the file, too: the last layer that Stable Diffusion 2.x does not use, and what compares
    /// texts and pictures.
    pub(crate) fn ignored(self, config: &ClipTextConfig) -> Vec<String> {
        let mut ignored = vec!["text_model.embeddings.position_ids".to_owned(), "logit_scale".to_owned()];
        if self.family == TextFamily::OpenClipPenultimate {
            ignored.push(format!("transformer.resblocks.{}.", config.n_layers));
            ignored.push("text_projection".to_owned());
        }
        ignored
    }
}

/// A VAE with original names, in a file of its own or of a whole model.
#[derive(Debug, Clone)]
pub(crate) struct VaeFile {
    path: PathBuf,
    pickles: Pickles,
    prefix: &'static str,
    pub(crate) config: VaeConfig,
}

impl VaeFile {
    /// The VAE of any file; what its shapes do not tell is as in `usual`.
    pub(crate) fn open(path: &Path, pickles: Pickles, usual: &VaeConfig) -> Result<Self, PipelineError> {
        Self::find(path, pickles, &read_header(path, None, pickles).map_err(weights("VAE"))?, usual)
    }

    fn find(
        path: &Path,
        pickles: Pickles,
        header: &Header,
        usual: &VaeConfig,
    ) -> Result<Self, PipelineError> {
        let prefix = VAE_PREFIXES.into_iter().chain([""]).find(|prefix| {
            header.shapes.contains_key(&format!("{prefix}encoder.down.0.block.0.conv1.weight"))
        });
        let Some(prefix) = prefix else {
            let expected = "an autoencoder (VAE)".to_owned();
            let found = inspect(path, pickles).map_err(weights("VAE"))?.in_words();
            return Err(weights("VAE")(WeightsError::WrongKind { path: path.to_owned(), expected, found }));
        };
        let shape_of = |name: &str| header.shapes.get(&format!("{prefix}{name}")).map(Vec::as_slice);
        let vae_config = VaeConfig::from_original_shapes(shape_of, usual).map_err(shapes("VAE"))?;
        Ok(Self { path: path.to_owned(), pickles, prefix, config: vae_config })
    }

    pub(crate) fn load(&self, names_only: bool, device: &Device) -> Result<AutoencoderKl, PipelineError> {
        let file = PartFile {
            path: &self.path,
            pickles: self.pickles,
            prefix: self.prefix,
            renames: pyrograph_vae::RENAMES,
            names_only,
        };
        let ignored = VAE_TRAINING.map(str::to_owned);
        file.load(self.config.init(device), &ignored, |name| vae_place(&self.config, name))
            .map_err(weights("VAE"))
    }

    /// Where the tensors with these of diffusers' names are.
    pub(crate) fn places(&self, names: impl IntoIterator<Item = String>) -> Places {
        places(self.prefix, names, &VAE_TRAINING.map(str::to_owned), |name| vae_place(&self.config, name))
    }
}

/// What a VAE's training needed beside the autoencoder.
const VAE_TRAINING: [&str; 2] = ["loss.", "model_ema."];

/// Where a VAE's tensor with diffusers' name is, without the prefix; attention is made of 1x1 convolutions there.
pub(crate) fn vae_place(config: &VaeConfig, name: &str) -> Option<(String, Part)> {
    let is_map = name.contains(".attentions.0.to_") && name.ends_with(".weight");
    Some((config.original_name(name), if is_map { Part::Pointwise } else { Part::Whole }))
}

/// One network of a file.
pub(crate) struct PartFile<'a> {
    pub(crate) path: &'a Path,
    pub(crate) pickles: Pickles,
    /// What the names of its tensors begin with.
    pub(crate) prefix: &'a str,
    pub(crate) renames: &'static [(&'static str, &'static str)],
    /// As [`LoadOptions::names_only`].
    pub(crate) names_only: bool,
}

impl PartFile<'_> {
    /// Fills a module; `original` finds for diffusers' name the name after the prefix. `ignored` are beginnings of such
    /// names that may stay unused.
    pub(crate) fn load<M: Module>(
        &self,
        module: M,
        ignored: &[String],
        original: impl Fn(&str) -> Option<(String, Part)>,
    ) -> Result<M, WeightsError> {
        let renames = Renames::new(self.renames);
        let names = names_and_shapes(&module, &renames).into_keys();
        let places = places(self.prefix, names, ignored, original);
        let options = LoadOptions {
            renames,
            places: Some(&places),
            pickles: self.pickles,
            names_only: self.names_only,
            ..LoadOptions::default()
        };
        load(module, self.path, &options)
    }
}

/// An error about a model that is told by its tensors.
pub(crate) fn shapes<E: std::error::Error + Send + Sync + 'static>(
    component: &'static str,
) -> impl Fn(E) -> PipelineError {
    move |source| PipelineError::Shapes { component, source: Box::new(source) }
}

/// The table that leads from diffusers' names to a file's.
pub(crate) fn places(
    prefix: &str,
    names: impl IntoIterator<Item = String>,
    ignored: &[String],
    original: impl Fn(&str) -> Option<(String, Part)>,
) -> Places {
    let place = |name: String| {
        let (theirs, part) = original(&name)?;
        Some((name, Place { name: format!("{prefix}{theirs}"), part }))
    };
    Places {
        prefix: prefix.to_owned(),
        places: names.into_iter().filter_map(place).collect::<BTreeMap<_, _>>(),
        ignore: ignored.iter().map(|name| format!("{prefix}{name}")).collect(),
    }
}
