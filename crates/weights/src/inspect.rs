//! What a model file or folder is, from its config and from the names and shapes in its header.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::archive::{Archive, TensorEntry};
use crate::error::WeightsError;
use crate::folder::{PipelineFolder, WeightFiles, class_name};
use crate::pickle::Pickles;

/// A kind of model, as far as names tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelKind {
    /// A folder of components with a `model_index.json`.
    Pipeline,
    /// A diffusers `UNet2DConditionModel`.
    Unet,
    /// A diffusers `ControlNetModel`.
    ControlNet,
    /// A ControlNet with the names of its authors' code.
    OriginalControlNet,
    /// A ControlNet-Union: one network that is told which of several kinds its hint is.
    ControlNetUnion,
    /// A ControlNet-XS: a small network that exchanges features with the UNet at every block.
    ControlNetXs,
    /// An autoencoder.
    Vae,
    /// A CLIP text encoder.
    TextEncoder,
    /// A whole Stable Diffusion in one file, with the names of the latent diffusion code.
    SingleFile,
    /// An autoencoder with the names of its authors' code.
    OriginalVae,
    /// A UNet alone with the names of its authors' code.
    OriginalUnet,
    /// A low-rank adapter.
    Lora,
    /// A ControlNet-LLLite: small matrices beside the UNet's attention.
    Lllite,
    /// A T2I-Adapter.
    T2iAdapter,
    /// An IP-Adapter: attention to the features of a picture.
    IpAdapter,
    /// Learned embeddings of new words.
    TextualInversion,
    /// None of these.
    Unknown,
}

impl fmt::Display for ModelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pipeline => "a diffusers pipeline",
            Self::Unet => "a UNet",
            Self::ControlNet => "a ControlNet",
            Self::OriginalControlNet => "a ControlNet with the original names",
            Self::ControlNetUnion => "a ControlNet-Union",
            Self::ControlNetXs => "a ControlNet-XS",
            Self::Vae => "an autoencoder (VAE)",
            Self::TextEncoder => "a CLIP text encoder",
            Self::SingleFile => "a single-file Stable Diffusion checkpoint",
            Self::OriginalVae => "an autoencoder (VAE) with the original names",
            Self::OriginalUnet => "a UNet with the original names",
            Self::Lora => "a LoRA",
            Self::Lllite => "a ControlNet-LLLite",
            Self::T2iAdapter => "a T2I-Adapter",
            Self::IpAdapter => "an IP-Adapter",
            Self::TextualInversion => "a textual inversion",
            Self::Unknown => "of an unknown kind",
        })
    }
}

/// The family that a model belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BaseModel {
    /// Stable Diffusion 1.x: cross-attention to 768 features.
    Sd1,
    /// Stable Diffusion 2.x: 1024 features.
    Sd2,
    /// Stable Diffusion XL: 2048 features.
    Sdxl,
    /// The refiner of Stable Diffusion XL: 1280 features.
    SdxlRefiner,
}

impl fmt::Display for BaseModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sd1 => "Stable Diffusion 1.x",
            Self::Sd2 => "Stable Diffusion 2.x",
            Self::Sdxl => "Stable Diffusion XL",
            Self::SdxlRefiner => "the refiner of Stable Diffusion XL",
        })
    }
}

/// What [`inspect`] found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The file or folder.
    pub path: PathBuf,
    /// What it is.
    pub kind: ModelKind,
    /// The class its config names.
    pub class_name: Option<String>,
    /// The family, from the width of the cross-attention, else from the class of the pipeline.
    pub base: Option<BaseModel>,
    /// Channels that the UNet or ControlNet takes: 4, or 9 for inpainting.
    pub in_channels: Option<usize>,
    /// Channels of a ControlNet's hint image.
    pub hint_channels: Option<usize>,
    /// Number of tensors.
    pub n_tensors: usize,
    /// Number of elements of all tensors.
    pub n_parameters: usize,
    /// Bytes of all tensors.
    pub bytes: u64,
    /// Tensors per element type, as safetensors spells it.
    pub dtypes: BTreeMap<String, usize>,
    /// The file's own metadata.
    pub metadata: BTreeMap<String, String>,
    /// The components of a pipeline that have weights.
    pub components: BTreeMap<String, Report>,
}

/// Says what a file of weights, a component folder or a pipeline folder is. Only headers and configs are read.
///
/// # Errors
/// If the path is not there, cannot be read, or is malformed.
pub fn inspect(path: &Path, pickles: Pickles) -> Result<Report, WeightsError> {
    if path.join("model_index.json").is_file() {
        return inspect_pipeline(path, pickles);
    }
    let files = WeightFiles::of(path, None, pickles)?;
    let archive = Archive::open(&files.paths, pickles)?;
    let class_name = class_name(path)?;
    let mut facts = classify(&archive.entries);
    if let Some(kind) = class_name.as_deref().and_then(kind_of_class) {
        facts.kind = kind;
    }
    let mut dtypes = BTreeMap::new();
    for entry in archive.entries.values() {
        *dtypes.entry(entry.dtype.to_string()).or_default() += 1;
    }
    Ok(Report {
        path: path.to_owned(),
        kind: facts.kind,
        class_name,
        base: facts.base,
        in_channels: facts.in_channels,
        hint_channels: facts.hint_channels,
        n_tensors: archive.entries.len(),
        n_parameters: archive.entries.values().map(TensorEntry::n_elements).sum(),
        bytes: archive.tensor_bytes(),
        dtypes,
        metadata: archive.metadata,
        components: BTreeMap::new(),
    })
}

fn inspect_pipeline(path: &Path, pickles: Pickles) -> Result<Report, WeightsError> {
    let folder = PipelineFolder::open_any(path)?;
    let mut components = BTreeMap::new();
    for name in folder.components().keys() {
        let path = path.join(name);
        // Tokenizers and schedulers have no weights, and a component may be there in a variant only.
        if path.is_dir() && WeightFiles::of(&path, None, pickles).is_ok() {
            components.insert(name.clone(), inspect(&path, pickles)?);
        }
    }
    let mut dtypes = BTreeMap::new();
    for (dtype, count) in components.values().flat_map(|report| &report.dtypes) {
        *dtypes.entry(dtype.clone()).or_default() += count;
    }
    let unet = components.get("unet");
    Ok(Report {
        path: path.to_owned(),
        kind: ModelKind::Pipeline,
        class_name: Some(folder.class().to_owned()),
        base: unet.and_then(|unet| unet.base).or_else(|| base_of_pipeline(folder.class())),
        in_channels: unet.and_then(|unet| unet.in_channels),
        hint_channels: None,
        n_tensors: components.values().map(|report| report.n_tensors).sum(),
        n_parameters: components.values().map(|report| report.n_parameters).sum(),
        bytes: components.values().map(|report| report.bytes).sum(),
        dtypes,
        metadata: BTreeMap::new(),
        components,
    })
}

/// The family that a pipeline's class tells, where the UNet is none of the published ones.
fn base_of_pipeline(class: &str) -> Option<BaseModel> {
    class.starts_with("StableDiffusionXL").then_some(BaseModel::Sdxl)
}

fn kind_of_class(class: &str) -> Option<ModelKind> {
    match class {
        "UNet2DConditionModel" => Some(ModelKind::Unet),
        "ControlNetModel" => Some(ModelKind::ControlNet),
        "ControlNetUnionModel" => Some(ModelKind::ControlNetUnion),
        "ControlNetXSAdapter" => Some(ModelKind::ControlNetXs),
        "AutoencoderKL" => Some(ModelKind::Vae),
        "CLIPTextModel" | "CLIPTextModelWithProjection" => Some(ModelKind::TextEncoder),
        _ => None,
    }
}

/// What names and shapes tell.
pub(crate) struct Facts {
    pub(crate) kind: ModelKind,
    base: Option<BaseModel>,
    in_channels: Option<usize>,
    hint_channels: Option<usize>,
}

pub(crate) fn classify(entries: &BTreeMap<String, TensorEntry>) -> Facts {
    let has = |name: &str| entries.contains_key(name);
    let any = |test: &dyn Fn(&str) -> bool| entries.keys().any(|name| test(name));
    let kind = if any(&|name| name.starts_with("control_to_base_for_conv_in.")) {
        ModelKind::ControlNetXs
    } else if has("task_embedding") && any(&|name| name.starts_with("spatial_ch_projs.")) {
        ModelKind::ControlNetUnion
    } else if has("controlnet_cond_embedding.conv_in.weight") {
        ModelKind::ControlNet
    } else if any(&|name| name.starts_with("control_model.") || name.starts_with("input_hint_block.")) {
        ModelKind::OriginalControlNet
    } else if any(&|name| name.starts_with("model.diffusion_model.")) {
        ModelKind::SingleFile
    } else if any(&|name| name.starts_with("lllite_")) {
        ModelKind::Lllite
    } else if any(&|name| name.starts_with("ip_adapter.") || name.starts_with("image_proj.")) {
        // Some have low-rank matrices, too.
        ModelKind::IpAdapter
    } else if any(&|name| ["lora_", ".lora.", "_lora."].iter().any(|part| name.contains(part))) {
        ModelKind::Lora
    } else if has("input_blocks.0.0.weight") && has("out.2.weight") {
        ModelKind::OriginalUnet
    } else if any(&|name| name.ends_with("encoder.down.0.block.0.conv1.weight")) {
        ModelKind::OriginalVae
    } else if has("body.0.resnets.0.block1.weight")
        || has("adapter.body.0.resnets.0.block1.weight")
        || has("body.0.block1.weight")
    {
        ModelKind::T2iAdapter
    } else if has("emb_params") || has("string_to_param.*") || has("clip_g") && entries.len() <= 2 {
        ModelKind::TextualInversion
    } else if has("time_embedding.linear_1.weight") && any(&|name| name.starts_with("up_blocks.")) {
        ModelKind::Unet
    } else if has("encoder.conv_in.weight") && has("decoder.conv_in.weight") {
        ModelKind::Vae
    } else if any(&|name| name.ends_with("embeddings.token_embedding.weight")) {
        ModelKind::TextEncoder
    } else {
        ModelKind::Unknown
    };
    let input_channels = |names: &[&str]| {
        names.iter().find_map(|name| entries.get(*name)).and_then(|entry| entry.shape.get(1).copied())
    };
    Facts {
        kind,
        base: base_of(kind, entries),
        in_channels: match kind {
            ModelKind::Vae
            | ModelKind::OriginalVae
            | ModelKind::TextEncoder
            | ModelKind::Lora
            | ModelKind::Lllite
            | ModelKind::T2iAdapter
            | ModelKind::IpAdapter
            | ModelKind::TextualInversion
            | ModelKind::Unknown => None,
            _ => input_channels(&[
                "conv_in.weight",
                "model.diffusion_model.input_blocks.0.0.weight",
                "control_model.input_blocks.0.0.weight",
                "input_blocks.0.0.weight",
            ]),
        },
        hint_channels: input_channels(&[
            "controlnet_cond_embedding.conv_in.weight",
            "control_model.input_hint_block.0.weight",
            "input_hint_block.0.weight",
        ]),
    }
}

/// The family, from the features that cross-attention reads; for a text encoder, from those it gives.
fn base_of(kind: ModelKind, entries: &BTreeMap<String, TensorEntry>) -> Option<BaseModel> {
    if kind == ModelKind::TextEncoder {
        let (_, embedding) = entries.iter().find(|(name, _)| name.ends_with("token_embedding.weight"))?;
        // CLIP-L with its 768 features belongs to Stable Diffusion 1.x and to XL alike.
        return match embedding.shape.get(1)? {
            1024 => Some(BaseModel::Sd2),
            1280 => Some(BaseModel::Sdxl),
            _ => None,
        };
    }
    // The half of a LoRA that faces the output has another width.
    let outward = ["lora_up", "lora_B", "lora.up"];
    let cross_attention = entries.iter().find(|(name, entry)| {
        name.contains("attn2")
            && name.contains("to_k")
            && entry.shape.len() >= 2
            && !outward.iter().any(|half| name.contains(half))
    });
    let width = cross_attention.and_then(|(_, entry)| entry.shape.get(1).copied());
    match width {
        Some(768) => Some(BaseModel::Sd1),
        Some(1024) => Some(BaseModel::Sd2),
        Some(1280) => Some(BaseModel::SdxlRefiner),
        Some(2048) => Some(BaseModel::Sdxl),
        // The small ControlNets of XL have no attention, but only XL embeds the picture's size.
        None if entries.contains_key("add_embedding.linear_1.weight") => Some(BaseModel::Sdxl),
        _ => None,
    }
}

impl Report {
    /// What it is, for an error about the wrong kind: "a LoRA (Stable Diffusion XL)".
    #[must_use]
    pub fn in_words(&self) -> String {
        let for_inpainting = if self.in_channels == Some(9) { " for inpainting" } else { "" };
        match (self.kind, self.base) {
            (ModelKind::SingleFile, Some(BaseModel::SdxlRefiner)) => BaseModel::SdxlRefiner.to_string(),
            (kind, Some(base)) => format!("{kind}{for_inpainting} ({base})"),
            (kind, None) => format!("{kind}{for_inpainting}"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.kind)?;
        if let Some(class) = &self.class_name {
            write!(f, " ({class})")?;
        }
        if let Some(base) = self.base {
            write!(f, "\n  base          {base}")?;
        }
        if let Some(channels) = self.in_channels {
            let note = if channels == 9 { " (inpainting)" } else { "" };
            write!(f, "\n  in channels   {channels}{note}")?;
        }
        if let Some(channels) = self.hint_channels {
            write!(f, "\n  hint channels {channels}")?;
        }
        write!(f, "\n  tensors       {}", self.n_tensors)?;
        write!(f, "\n  parameters    {}", self.n_parameters)?;
        write!(f, "\n  bytes         {}", self.bytes)?;
        for (dtype, count) in &self.dtypes {
            write!(f, "\n  {dtype:<13} {count} tensors")?;
        }
        for (key, value) in &self.metadata {
            write!(f, "\n  {key}: {value}")?;
        }
        for (name, component) in &self.components {
            write!(f, "\n  {name:<13} {}, {} parameters", component.kind, component.n_parameters)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::toy::{ramp, write_file};
    use crate::{SystemDisk, write_config};

    fn report_of(tensors: &[(&str, &[usize])]) -> Report {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("model.safetensors");
        let tensors =
            tensors.iter().map(|(name, shape)| ((*name).to_owned(), ramp(0, shape.to_vec()))).collect();
        write_file(&path, &tensors);
        inspect(&path, Pickles::Refused).unwrap()
    }

    #[test]
    fn kinds_and_families_are_told_by_names_and_shapes() {
        use BaseModel::{Sd1, Sd2, Sdxl};
        let cross = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight";
        for (tensors, kind, base) in [
            (
                vec![("controlnet_cond_embedding.conv_in.weight", vec![16, 3, 3, 3]), (cross, vec![4, 768])],
                ModelKind::ControlNet,
                Some(Sd1),
            ),
            (
                vec![
                    ("controlnet_cond_embedding.conv_in.weight", vec![16, 3, 3, 3]),
                    ("add_embedding.linear_1.weight", vec![4, 4]),
                ],
                ModelKind::ControlNet,
                Some(Sdxl),
            ),
            (
                vec![("control_model.input_hint_block.0.weight", vec![16, 3, 3, 3])],
                ModelKind::OriginalControlNet,
                None,
            ),
            (
                vec![
                    ("time_embedding.linear_1.weight", vec![4, 4]),
                    ("up_blocks.0.resnets.0.conv1.weight", vec![4]),
                    (cross, vec![4, 1024]),
                ],
                ModelKind::Unet,
                Some(Sd2),
            ),
            (
                vec![
                    ("model.diffusion_model.input_blocks.0.0.weight", vec![4, 9, 3, 3]),
                    (
                        "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight",
                        vec![4, 768],
                    ),
                ],
                ModelKind::SingleFile,
                Some(Sd1),
            ),
            (
                vec![
                    ("encoder.conv_in.weight", vec![4, 3, 3, 3]),
                    ("decoder.conv_in.weight", vec![4, 4, 3, 3]),
                ],
                ModelKind::Vae,
                None,
            ),
            (vec![("embeddings.token_embedding.weight", vec![3, 768])], ModelKind::TextEncoder, None),
            (
                vec![("text_model.embeddings.token_embedding.weight", vec![3, 1024])],
                ModelKind::TextEncoder,
                Some(Sd2),
            ),
            (
                vec![
                    ("lora_unet_down_blocks_0_attn2_to_k.lora_down.weight", vec![4, 2048]),
                    ("lora_unet_down_blocks_0_attn2_to_k.lora_up.weight", vec![320, 4]),
                ],
                ModelKind::Lora,
                Some(Sdxl),
            ),
            (vec![("lllite_unet_input_blocks_4_1.down.0.weight", vec![3])], ModelKind::Lllite, None),
            (vec![("body.0.resnets.0.block1.weight", vec![3])], ModelKind::T2iAdapter, None),
            (
                vec![
                    ("controlnet_cond_embedding.conv_in.weight", vec![16, 3, 3, 3]),
                    ("task_embedding", vec![6, 320]),
                    ("spatial_ch_projs.weight", vec![320, 320]),
                ],
                ModelKind::ControlNetUnion,
                None,
            ),
            (
                vec![
                    ("controlnet_cond_embedding.conv_in.weight", vec![16, 3, 3, 3]),
                    ("control_to_base_for_conv_in.conv.weight", vec![4]),
                ],
                ModelKind::ControlNetXs,
                None,
            ),
            (
                vec![
                    ("ip_adapter.1.to_k_ip.weight", vec![4]),
                    ("ip_adapter.0.to_q_lora.down.weight", vec![4]),
                ],
                ModelKind::IpAdapter,
                None,
            ),
            (vec![("emb_params", vec![3, 768])], ModelKind::TextualInversion, None),
            (
                vec![("first_stage_model.encoder.down.0.block.0.conv1.weight", vec![3])],
                ModelKind::OriginalVae,
                None,
            ),
            (
                vec![("input_blocks.0.0.weight", vec![4, 4, 3, 3]), ("out.2.weight", vec![4])],
                ModelKind::OriginalUnet,
                None,
            ),
            (vec![("weight", vec![3])], ModelKind::Unknown, None),
        ] {
            let tensors: Vec<(&str, &[usize])> =
                tensors.iter().map(|(name, shape)| (*name, shape.as_slice())).collect();
            let report = report_of(&tensors);
            assert_eq!((report.kind, report.base), (kind, base), "{tensors:?}");
        }
    }

    #[test]
    fn sizes_channels_and_types_are_counted() {
        let report = report_of(&[
            ("model.diffusion_model.input_blocks.0.0.weight", &[4, 9, 3, 3]),
            ("model.diffusion_model.out.2.bias", &[4]),
        ]);
        assert_eq!((report.n_tensors, report.n_parameters, report.bytes), (2, 328, 1312));
        assert_eq!(report.dtypes, BTreeMap::from([("F32".to_owned(), 2)]));
        let text = report.to_string();
        assert!(text.contains("a single-file Stable Diffusion checkpoint"), "{text}");
        assert!(text.contains("9 (inpainting)"), "{text}");
    }

    #[test]
    fn a_pipeline_sums_the_components_that_have_weights() {
        let dir = TempDir::new().unwrap();
        let index = json!({
            "_class_name": "StableDiffusionPipeline",
            "unet": ["diffusers", "UNet2DConditionModel"], "scheduler": ["diffusers", "DDIMScheduler"],
        });
        write_config(dir.path(), "model_index.json", &index, &SystemDisk).unwrap();
        for name in ["unet", "scheduler"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let unet = dir.path().join("unet");
        write_config(&unet, "config.json", &json!({"_class_name": "UNet2DConditionModel"}), &SystemDisk)
            .unwrap();
        let tensors = BTreeMap::from([("mid.attn2.to_k.weight".to_owned(), ramp(0, vec![2, 768]))]);
        write_file(&unet.join("diffusion_pytorch_model.safetensors"), &tensors);

        let report = inspect(dir.path(), Pickles::Refused).unwrap();
        assert_eq!((report.kind, report.base), (ModelKind::Pipeline, Some(BaseModel::Sd1)));
        assert_eq!(report.components["unet"].kind, ModelKind::Unet);
        assert_eq!((report.components.len(), report.n_parameters), (1, 1536));
        assert!(serde_json::to_string(&report).unwrap().contains(r#""kind":"pipeline""#));

        let index = json!({"_class_name": "StableDiffusionXLPipeline"});
        write_config(dir.path(), "model_index.json", &index, &SystemDisk).unwrap();
        assert_eq!(inspect(dir.path(), Pickles::Refused).unwrap().base, Some(BaseModel::Sdxl));
    }
}
