//! One format into another: names of diffusers and original names, folders and single files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::prelude::*;
use pyrograph_text::{ClipTextJson, ClipTokenizer};
use pyrograph_unet::{ControlNetConfig, ControlNetJson, Naming, UnetJson};
use pyrograph_vae::VaeJson;
use pyrograph_weights::{
    Disk, LoadOptions, Network, Part, Pickles, Places, Renames, SaveDtype, WeightsError, names_and_shapes,
    rewrite, write_config, write_text,
};
use serde_json::{Map, Value, json};

use crate::Family;
use crate::base::{Base, Vae};
use crate::bundle::weights;
use crate::configs::controlnet_config;
use crate::controlnet_file::ControlNetFile;
use crate::error::PipelineError;
use crate::single_file::{Layout, UNET_PREFIX, VAE_PREFIXES, places, vae_place};

/// The stem that diffusers gives to files of weights.
const STEM: &str = "diffusion_pytorch_model";

/// How a model is converted.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConvertOptions<'a> {
    /// The names of the new file; else, those that the old one does not have.
    pub naming: Option<Naming>,
    /// The new file's element type; else, each tensor keeps its own.
    pub dtype: Option<SaveDtype>,
    /// The title in the file's metadata; else, its name.
    pub title: Option<&'a str>,
    /// The variant of a folder's weight files, as `fp16` in `model.fp16.safetensors`.
    pub variant: Option<&'a str>,
    /// Whether pickled files are read.
    pub pickles: Pickles,
}

/// What [`convert`] has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Converted {
    /// A whole model with these names.
    Base(Naming),
    /// A ControlNet with these names.
    ControlNet(Naming),
}

/// Writes a model under other names.
///
/// The folder of a base model becomes one file with the original names, and such a file a folder. A ControlNet's folder or
/// file becomes one file with either names; or, with diffusers' names and if `output` does not end in `.safetensors`, a folder.
/// Every tensor is read back and compared. What is at `output` is written over.
///
/// # Errors
/// [`PipelineError`] if the model is of another kind or not complete, the output's name is of another kind of output or one
/// that other programs misread, or a file cannot be read or written.
pub fn convert(
    input: &Path,
    output: &Path,
    options: &ConvertOptions<'_>,
    device: &Device,
    disk: &dyn Disk,
) -> Result<Converted, PipelineError> {
    let job = Job { input, output, options, device, disk };
    match Base::open(input, options.pickles) {
        Ok(base) => job.convert_base(&base),
        // It says that it is one, and is not complete.
        Err(error) if input.join("model_index.json").is_file() => Err(error),
        Err(_) => job.convert_controlnet(&controlnet_config(input, options.pickles)?),
    }
}

/// One network of a model, and where it is and goes.
struct Member {
    /// Its folder in diffusers' layout.
    folder: &'static str,
    /// The stem of its file there.
    stem: &'static str,
    class: [&'static str; 2],
    config: Value,
    path: PathBuf,
    /// Where its tensors are, if the input has the original names.
    read: Option<Places>,
    expected: BTreeMap<String, Vec<usize>>,
    original: Places,
}

impl Member {
    fn network<'a>(&'a self, naming: Naming, options: &ConvertOptions<'a>) -> Network<'a> {
        let read = LoadOptions {
            places: self.read.as_ref(),
            aliases: if self.folder == "vae" { pyrograph_vae::LEGACY_ALIASES } else { &[] },
            optional_prefix: (self.class[0] == "transformers").then_some(pyrograph_text::OPTIONAL_PREFIX),
            ignore: pyrograph_text::IGNORED,
            variant: options.variant,
            pickles: options.pickles,
            ..LoadOptions::default()
        };
        Network {
            path: &self.path,
            read,
            expected: self.expected.clone(),
            written: (naming == Naming::Original).then_some(&self.original),
        }
    }
}

struct Job<'a> {
    input: &'a Path,
    output: &'a Path,
    options: &'a ConvertOptions<'a>,
    device: &'a Device,
    disk: &'a dyn Disk,
}

impl Job<'_> {
    fn convert_base(&self, base: &Base) -> Result<Converted, PipelineError> {
        let has = match base {
            Base::Folder(_) => Naming::Diffusers,
            Base::File(_) => Naming::Original,
        };
        let naming = self.options.naming.unwrap_or_else(|| other(has));
        let members = self.members(base)?;
        match naming {
            _ if naming == has => {
                return Err(PipelineError::SameNames { path: self.input.to_owned() });
            }
            Naming::Original => {
                self.require_file(true)?;
                let networks: Vec<_> =
                    members.iter().map(|member| member.network(naming, self.options)).collect();
                let scheduler = base.scheduler()?;
                let is_velocity = scheduler.prediction_type.as_deref() == Some("v_prediction");
                let side = base.unet_config()?.sample_size.unwrap_or(64) * 8;
                let architecture = architecture(base.layout()?, is_velocity).to_owned();
                let mut metadata = self.metadata(&architecture, base.layout()?.code());
                metadata.insert("modelspec.resolution".to_owned(), format!("{side}x{side}"));
                let prediction = if is_velocity { "v" } else { "epsilon" };
                metadata.insert("modelspec.prediction_type".to_owned(), prediction.to_owned());
                self.write(&networks, self.output, &metadata)?;
            }
            Naming::Diffusers => {
                self.require_file(false)?;
                let mut index = Map::new();
                for member in &members {
                    let network = member.network(naming, self.options);
                    let dir = self.folder(&self.output.join(member.folder))?;
                    let file = dir.join(format!("{}.safetensors", member.stem));
                    self.write(&[network], &file, &BTreeMap::new())?;
                    write_config(&dir, "config.json", &member.config, self.disk).map_err(failed)?;
                    index.insert(member.folder.to_owned(), json!(member.class));
                }
                self.write_rest(base, index)?;
            }
        }
        Ok(Converted::Base(naming))
    }

    /// What a folder has beside networks; its index comes last, so that a folder without one is not complete.
    fn write_rest(&self, base: &Base, mut index: Map<String, Value>) -> Result<(), PipelineError> {
        let scheduler = base.scheduler()?;
        let dir = self.folder(&self.output.join("scheduler"))?;
        write_config(&dir, "scheduler_config.json", &scheduler, self.disk).map_err(failed)?;
        index.insert("scheduler".to_owned(), json!(["diffusers", scheduler.class_name]));
        let layout = base.layout()?;
        for (place, folder) in layout.text().iter().zip(["tokenizer", "tokenizer_2"]) {
            let dir = self.folder(&self.output.join(folder))?;
            for (file, text) in ClipTokenizer::clip_files(place.padding) {
                write_text(&dir, file, &text, self.disk).map_err(failed)?;
            }
            index.insert(folder.to_owned(), json!(["transformers", "CLIPTokenizer"]));
        }
        let class = if layout == Layout::Xl {
            index.insert("force_zeros_for_empty_prompt".to_owned(), json!(true));
            "StableDiffusionXLPipeline"
        } else {
            for left_out in ["feature_extractor", "safety_checker"] {
                index.insert(left_out.to_owned(), json!([null, null]));
            }
            index.insert("requires_safety_checker".to_owned(), json!(false));
            "StableDiffusionPipeline"
        };
        index.insert("_class_name".to_owned(), json!(class));
        index.insert("_diffusers_version".to_owned(), json!("0.42.0"));
        write_config(self.output, "model_index.json", &Value::Object(index), self.disk).map_err(failed)
    }

    fn members(&self, base: &Base) -> Result<Vec<Member>, PipelineError> {
        let component = |name: &'static str| match base {
            Base::Folder(folder) => folder.component_path(name).map_err(weights(name)),
            Base::File(_) => Ok(self.input.to_owned()),
        };
        let is_file = matches!(base, Base::File(_));

        let unet_config = base.unet_config()?;
        let renames = Renames::new(pyrograph_unet::RENAMES);
        let expected = names_and_shapes(&unet_config.init(self.device), &renames);
        let names = unet_config.original_names();
        let keys = expected.keys().cloned();
        let original = places(UNET_PREFIX, keys, &[], |name| Some((names.of(name)?, Part::Whole)));
        let mut members = vec![Member {
            folder: "unet",
            stem: STEM,
            class: ["diffusers", "UNet2DConditionModel"],
            config: to_json(&UnetJson::from(&unet_config)),
            path: component("unet")?,
            read: is_file.then(|| original.clone()),
            expected,
            original,
        }];

        let vae = base.own_vae()?;
        let vae_config = vae.config();
        let renames = Renames::new(pyrograph_vae::RENAMES);
        let expected = names_and_shapes(&vae_config.init(self.device), &renames);
        let original =
            |prefix| places(prefix, expected.keys().cloned(), &[], |name| vae_place(vae_config, name));
        members.push(Member {
            folder: "vae",
            stem: STEM,
            class: ["diffusers", "AutoencoderKL"],
            config: to_json(&VaeJson::from(vae_config)),
            path: component("vae")?,
            read: match &vae {
                Vae::Folder(..) => None,
                Vae::File(file) => Some(file.places(expected.keys().cloned())),
            },
            original: original(VAE_PREFIXES[0]),
            expected,
        });

        let folders = [("text_encoder", "CLIPTextModel"), ("text_encoder_2", "CLIPTextModelWithProjection")];
        let text_places = base.layout()?.text();
        for ((text_config, place), (folder, class)) in
            base.text_configs()?.iter().zip(text_places).zip(folders)
        {
            let renames = Renames::new(pyrograph_text::RENAMES);
            let expected = names_and_shapes(&text_config.init(self.device), &renames);
            let keys = expected.keys().cloned();
            let original = places(place.prefix, keys, &place.ignored(text_config), |name| place.of(name));
            members.push(Member {
                folder,
                stem: "model",
                class: ["transformers", class],
                config: to_json(&ClipTextJson::from(text_config)),
                path: component(folder)?,
                read: is_file.then(|| original.clone()),
                expected,
                original,
            });
        }
        Ok(members)
    }

    fn convert_controlnet(&self, config: &ControlNetConfig) -> Result<Converted, PipelineError> {
        let renames = Renames::new(pyrograph_unet::RENAMES);
        let expected = names_and_shapes(&config.init(self.device), &renames);
        let names = config.original_names();
        let named = |prefix: &str| {
            places(prefix, expected.keys().cloned(), &[], |name| Some((names.of(name)?, Part::Whole)))
        };
        let file = if self.input.is_file() {
            Some(ControlNetFile::open(self.input, self.options.pickles)?)
        } else {
            None
        };
        let (has, prefix) = file.map_or((Naming::Diffusers, ""), |file| (file.naming, file.prefix));
        let naming = self.options.naming.unwrap_or_else(|| other(has));
        let member = Member {
            folder: "controlnet",
            stem: STEM,
            class: ["diffusers", "ControlNetModel"],
            config: to_json(&ControlNetJson::from(config)),
            path: self.input.to_owned(),
            read: (has == Naming::Original).then(|| named(prefix)),
            original: named("control_model."),
            expected: expected.clone(),
        };
        let network = member.network(naming, self.options);
        if naming == Naming::Diffusers && !self.is_to_a_file() {
            self.require_file(false)?;
            let dir = self.folder(self.output)?;
            let file = dir.join(format!("{STEM}.safetensors"));
            self.write(&[network], &file, &BTreeMap::new())?;
            write_config(&dir, "config.json", &member.config, self.disk).map_err(failed)?;
        } else {
            self.require_file(true)?;
            self.require_safe_name()?;
            let layout = match Family::of_context(config.unet.context_dim) {
                Some(Family::Xl) => Layout::Xl,
                Some(Family::Sd2) => Layout::Sd2,
                Some(Family::Sd1) | None => Layout::Sd1,
            };
            let code = match naming {
                Naming::Original => "https://github.com/lllyasviel/ControlNet",
                Naming::Diffusers => "diffusers",
            };
            let architecture = format!("{}/controlnet", architecture(layout, false));
            self.write(&[network], self.output, &self.metadata(&architecture, code))?;
        }
        Ok(Converted::ControlNet(naming))
    }

    /// Source: Stability AI's ModelSpec, version 1.0.0.
    fn metadata(&self, architecture: &str, implementation: &str) -> BTreeMap<String, String> {
        let stem = self.output.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let title = self.options.title.map_or(stem, str::to_owned);
        let entries = [
            ("sai_model_spec", "1.0.0"),
            ("architecture", architecture),
            ("implementation", implementation),
            ("title", &title),
        ];
        entries.map(|(key, value)| (format!("modelspec.{key}"), value.to_owned())).into()
    }

    fn write(
        &self,
        networks: &[Network<'_>],
        path: &Path,
        metadata: &BTreeMap<String, String>,
    ) -> Result<(), PipelineError> {
        rewrite(networks, path, self.options.dtype, metadata, self.disk).map_err(failed)
    }

    fn folder(&self, path: &Path) -> Result<PathBuf, PipelineError> {
        let io = |source| PipelineError::Io { path: path.to_owned(), source };
        self.disk.create_dir(path).map_err(io)?;
        Ok(path.to_owned())
    }

    fn is_to_a_file(&self) -> bool {
        self.output.extension().is_some_and(|ending| ending == "safetensors")
    }

    fn require_file(&self, wanted: bool) -> Result<(), PipelineError> {
        if self.is_to_a_file() == wanted {
            return Ok(());
        }
        let needed = if wanted { "a file that ends in `.safetensors`" } else { "a folder" };
        Err(PipelineError::OutputName { path: self.output.to_owned(), needed })
    }

    /// sd-webui-controlnet takes a ControlNet with such a name for one of another kind.
    ///
    /// Source: Mikubill/sd-webui-controlnet, `controlnet_model_guess.py`.
    fn require_safe_name(&self) -> Result<(), PipelineError> {
        let name = self.output.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        if name.contains("shuffle") || name.contains("instant_id") {
            return Err(PipelineError::MisreadName { path: self.output.to_owned() });
        }
        Ok(())
    }
}

fn other(naming: Naming) -> Naming {
    match naming {
        Naming::Diffusers => Naming::Original,
        Naming::Original => Naming::Diffusers,
    }
}

/// ModelSpec's name of a family.
fn architecture(layout: Layout, is_velocity: bool) -> &'static str {
    match (layout, is_velocity) {
        (Layout::Sd1, _) => "stable-diffusion-v1",
        (Layout::Sd2, true) => "stable-diffusion-v2-768-v",
        (Layout::Sd2, false) => "stable-diffusion-v2-512",
        (Layout::Xl, _) => "stable-diffusion-xl-v1-base",
    }
}

fn to_json<T: serde::Serialize>(config: &T) -> Value {
    serde_json::to_value(config).expect("a mirror of a json file")
}

fn failed(source: WeightsError) -> PipelineError {
    PipelineError::Weights { component: "converted model", source }
}
