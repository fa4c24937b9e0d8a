//! What a preset file and the command line may say about a run, before it is checked.
//!
//! A key has the name of the flag of diffusers' `train_controlnet.py` that it stands for, and, where nothing else
//! is said, that flag's default (diffusers 0.42.1, `parse_args`). `TrainPlan::try_from` checks a config.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};

use pyrograph_data::{HintMaker, Interpolation, StreamOptions};
use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize, forward_to_deserialize_any};

use crate::choice::Choice;
use crate::ema::EmaSection;
use crate::lr::{LrScheduler, StepRules};
use crate::objective::LossSection;
use crate::optim::OptimizerSection;
use crate::plan::PlanError;
use crate::precision::PrecisionSection;

/// A training run as it is written down: `configs/*.toml`.
///
/// Every key may be left out. An unknown key is an error, so that a misspelt one is never ignored.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// The networks to start from.
    pub model: ModelSection,
    /// The images and how they are read.
    pub data: DataSection,
    /// Where what is computed once is kept.
    pub cache: CacheSection,
    /// How gradients become updates.
    pub optimizer: OptimizerSection,
    /// How long to train and how the learning rate moves meanwhile.
    pub schedule: ScheduleSection,
    /// What is made small.
    pub loss: LossSection,
    /// The average that the run ends with.
    pub ema: EmaSection,
    /// In which number formats.
    pub precision: PrecisionSection,
    /// What is traded for less memory.
    pub memory: MemorySection,
    /// What is kept on the way, and what to continue from.
    pub checkpoint: CheckpointSection,
    /// Pictures made on the way.
    pub validation: ValidationSection,
    /// Whether it is learning.
    pub evaluation: EvaluationSection,
    /// Who else is told of the run.
    pub report: ReportSection,
    /// The run as a whole.
    pub run: RunSection,
}

/// `[model]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSection {
    /// A Stable Diffusion folder in diffusers' layout, or one file with the original names. Required.
    pub pretrained_model_name_or_path: Option<PathBuf>,
    /// A VAE's folder, or that of a model with one. Left out: the VAE of the Stable Diffusion folder.
    pub pretrained_vae_model_name_or_path: Option<PathBuf>,
    /// The ControlNet to start from. Left out: a new one made from the UNet.
    pub controlnet_model_name_or_path: Option<PathBuf>,
    /// Channels of a new ControlNet's hint embedding, finest level first; each after the first halves width and height.
    /// Left out: those of the published ControlNets, 16, 32, 96, 256. The reference has no flag for it.
    pub conditioning_embedding_out_channels: Option<Vec<NonZeroUsize>>,
    /// A tokenizer's folder. Left out: the one of the Stable Diffusion folder.
    pub tokenizer_name: Option<PathBuf>,
    /// The branch, tag or commit of base model, VAE and tokenizer, where they are named as on the Hub; folders have none.
    /// Left out: `main`.
    pub revision: Option<String>,
    /// The variant of the frozen models' weight files, as in `model.fp16.safetensors`.
    pub variant: Option<String>,
    /// Read pickled weight files (`.bin`, `.ckpt`, `.pth`) where there are no others; nothing in them is run. Default: false.
    pub allow_pickle: bool,
    /// Leave the base model as it is. If false, the UNet's decoder is trained with the ControlNet, which is for data unlike
    /// the base model's; a lower learning rate is usual. Default: true; the name is that of the original ControlNet code.
    pub sd_locked: bool,
}

impl Default for ModelSection {
    fn default() -> Self {
        Self {
            pretrained_model_name_or_path: None,
            pretrained_vae_model_name_or_path: None,
            controlnet_model_name_or_path: None,
            conditioning_embedding_out_channels: None,
            tokenizer_name: None,
            revision: None,
            variant: None,
            allow_pickle: false,
            sd_locked: true,
        }
    }
}

/// `[data]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataSection {
    /// The data set's folder or file. Exactly one of this and `dataset_name` is required.
    pub train_data_dir: Option<PathBuf>,
    /// The data set's folder, under the reference's other name.
    pub dataset_name: Option<PathBuf>,
    /// The configuration of the data set: one of its sub-folders. Left out: the folder itself.
    pub dataset_config_name: Option<String>,
    /// The split of the data set. Default: `train`, which is fixed in the reference.
    pub dataset_split: String,
    /// A folder of hints named as the images of `train_data_dir` (kohya's name). Left out: they are in the data set.
    pub conditioning_data_dir: Option<PathBuf>,
    /// Read rows as they come, for data sets of any size, instead of listing them all first. Default: false.
    pub streaming: bool,
    /// With `streaming`: the next row is drawn from so many. Default: 1000, as in Hugging Face's `IterableDataset.shuffle`.
    pub shuffle_buffer: NonZeroUsize,
    /// Leave out at most so many samples that cannot be read or decoded. Left out: a tenth of all, but one at least.
    pub max_bad_samples: Option<usize>,
    /// The column of target images. Default: `image`.
    pub image_column: String,
    /// The column of conditioning images. Default: `conditioning_image`.
    pub conditioning_image_column: String,
    /// The column of captions. Default: `text`.
    pub caption_column: String,
    /// How hints are made of the target images, as in `canny:100,200`; no conditioning image is looked for then. Left out:
    /// they are read.
    pub hint: Option<HintMaker>,
    /// A list of samples to leave out, as `pyrograph data check --quarantine` writes it. Left out: `quarantine.txt` in the data
    /// set's folder, if it is there.
    pub quarantine: Option<PathBuf>,
    /// Train on so many samples, drawn by the seed. Left out: all.
    pub max_train_samples: Option<NonZeroUsize>,
    /// Width and height of the training images in pixels, a multiple of 8. Default: 512.
    pub resolution: usize,
    /// Give each image the size, of at most as many pixels as the square, that is nearest to its shape. Default: false.
    pub aspect_buckets: bool,
    /// Widths and heights of aspect buckets are multiples of it, in pixels. Left out: 64, as in kohya's scripts, whose name it
    /// is, or an eighth of a resolution below 512.
    pub bucket_reso_steps: Option<usize>,
    /// Cut images anywhere, drawn anew in each epoch; latents are then encoded at each use. Default: false.
    pub random_crop: bool,
    /// Mirror half of the pairs, left to right, drawn anew in each epoch. Default: false, as the reference.
    pub random_flip: bool,
    /// The filter of the resize. Left out: lanczos for SDXL (the default of `train_controlnet_sdxl.py`, whose flag it is), else
    /// bilinear (fixed in `train_controlnet.py`).
    pub image_interpolation_mode: Option<Interpolation>,
    /// With either of these two SDXL is told of every sample that its file had the size of the training and was cropped
    /// here, as by `train_controlnet_sdxl.py`; the other one is then 0. Left out: the real size and crop of each sample.
    pub crops_coords_top_left_h: Option<usize>,
    /// See `crops_coords_top_left_h`.
    pub crops_coords_top_left_w: Option<usize>,
    /// The share of captions replaced by the empty one, in [0, 1]. Default: 0.
    pub proportion_empty_prompts: f64,
    /// Samples per micro-batch. Default: 4.
    pub train_batch_size: NonZeroUsize,
    /// Threads that decode images. Default: 2, so that decoding runs beside the device. The reference's 0 decodes
    /// between two steps; the batches are the same for any number.
    pub dataloader_num_workers: usize,
}

impl Default for DataSection {
    fn default() -> Self {
        Self {
            train_data_dir: None,
            dataset_name: None,
            dataset_config_name: None,
            dataset_split: "train".to_owned(),
            conditioning_data_dir: None,
            streaming: false,
            shuffle_buffer: StreamOptions::default().shuffle_buffer,
            max_bad_samples: None,
            image_column: "image".to_owned(),
            conditioning_image_column: "conditioning_image".to_owned(),
            caption_column: "text".to_owned(),
            hint: None,
            quarantine: None,
            max_train_samples: None,
            resolution: 512,
            aspect_buckets: false,
            bucket_reso_steps: None,
            random_crop: false,
            random_flip: false,
            image_interpolation_mode: None,
            crops_coords_top_left_h: None,
            crops_coords_top_left_w: None,
            proportion_empty_prompts: 0.0,
            train_batch_size: const { NonZeroUsize::new(4).expect("4 is not 0") },
            dataloader_num_workers: 2,
        }
    }
}

/// `[cache]`, which the reference does not have.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheSection {
    /// Where latents and prompt embeddings are kept. Left out: `disk` if there is a `cache_dir`, else `memory`.
    pub cache: Option<CacheKind>,
    /// The folder of `disk`; runs may share it. Left out: none, but the command line gives the user's cache folder.
    pub cache_dir: Option<PathBuf>,
}

/// Where latents and prompt embeddings are kept: `--cache`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheKind {
    /// Nowhere: they are computed at each use, as in the reference.
    Off,
    /// In memory, for the run.
    Memory,
    /// In a folder, for all runs.
    Disk,
}

impl Choice for CacheKind {
    const NAMES: &'static [(&'static str, Self)] =
        &[("off", Self::Off), ("memory", Self::Memory), ("disk", Self::Disk)];
}

/// `[schedule]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleSection {
    /// Passes over the data set. Default: 1.
    pub num_train_epochs: NonZeroU64,
    /// Updates of the ControlNet; overrides `num_train_epochs`.
    pub max_train_steps: Option<NonZeroU64>,
    /// How the learning rate moves. Default: `constant`.
    pub lr_scheduler: LrScheduler,
    /// Updates of the linear warmup. Default: 500; `constant` and `piecewise_constant` have none.
    pub lr_warmup_steps: u64,
    /// Restarts of `cosine_with_restarts`. Default: 1.
    pub lr_num_cycles: NonZeroU64,
    /// The power of `polynomial`. Default: 1.
    pub lr_power: f64,
    /// The pieces of `piecewise_constant`, as in `1:10,0.1:20,0.005`: the factor 1 before step 10, 0.1 before
    /// step 20, 0.005 from there on. The reference has that scheduler but no flag for its rules.
    pub lr_step_rules: Option<StepRules>,
}

impl Default for ScheduleSection {
    fn default() -> Self {
        Self {
            num_train_epochs: NonZeroU64::MIN,
            max_train_steps: None,
            lr_scheduler: LrScheduler::Constant,
            lr_warmup_steps: 500,
            lr_num_cycles: NonZeroU64::MIN,
            lr_power: 1.0,
            lr_step_rules: None,
        }
    }
}

/// `[memory]`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemorySection {
    /// Keep only the input of each block of the ControlNet and of the UNet's decoder, and run the block a second time
    /// in the backward pass. Default: false.
    pub gradient_checkpointing: bool,
}

/// `[checkpoint]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointSection {
    /// Updates between two checkpoints. Default: 500.
    pub checkpointing_steps: NonZeroU64,
    /// The most checkpoints to keep. Left out: all.
    pub checkpoints_total_limit: Option<NonZeroUsize>,
    /// `latest`, the name of a checkpoint in the output folder, or a path. Left out: a fresh start.
    pub resume_from_checkpoint: Option<PathBuf>,
    /// Continue from a checkpoint of another data set, base model, seed or batch, too. Default: false.
    pub force_resume: bool,
}

impl Default for CheckpointSection {
    fn default() -> Self {
        Self {
            checkpointing_steps: const { NonZeroU64::new(500).expect("500 is not 0") },
            checkpoints_total_limit: None,
            resume_from_checkpoint: None,
            force_resume: false,
        }
    }
}

/// `[validation]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ValidationSection {
    /// Prompts of the pictures. Default: none, and then the pictures are of evaluation samples.
    pub validation_prompt: Vec<String>,
    /// Their conditioning images: as many, or one for all; or one prompt for all images.
    pub validation_image: Vec<PathBuf>,
    /// Evaluation samples to make pictures of where no prompt is given, at most. Default: 2, so that every run can
    /// be seen; the reference makes none.
    pub num_validation_samples: usize,
    /// Pictures per prompt and image. Default: 4.
    pub num_validation_images: NonZeroUsize,
    /// Updates between two validations. Default: 100.
    pub validation_steps: NonZeroU64,
    /// Denoising steps of a picture. Default: 20 (fixed in the reference's `log_validation`).
    pub validation_inference_steps: NonZeroUsize,
    /// Classifier-free guidance of a picture; 1 turns it off. Default: 7.5 (that of the pipeline with which the
    /// reference draws).
    pub validation_guidance_scale: f64,
}

impl Default for ValidationSection {
    fn default() -> Self {
        Self {
            validation_prompt: Vec::new(),
            validation_image: Vec::new(),
            num_validation_samples: 2,
            num_validation_images: const { NonZeroUsize::new(4).expect("4 is not 0") },
            validation_steps: const { NonZeroU64::new(100).expect("100 is not 0") },
            validation_inference_steps: const { NonZeroUsize::new(20).expect("20 is not 0") },
            validation_guidance_scale: 7.5,
        }
    }
}

/// `[evaluation]`, which the reference does not have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluationSection {
    /// Samples to keep out of training for evaluation, at most a tenth of all; a data set of fewer than 20 is
    /// evaluated on training samples. Default: 16. 0 turns evaluation off; 1 is refused, since the hints of two
    /// samples are exchanged.
    pub num_eval_samples: usize,
    /// Updates between two evaluations. Default: `validation_steps`.
    pub eval_steps: Option<NonZeroU64>,
}

impl Default for EvaluationSection {
    fn default() -> Self {
        Self { num_eval_samples: 16, eval_steps: None }
    }
}

/// `[report]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReportSection {
    /// Which trackers are written beside `report.html`. Default: `tensorboard`, as the reference.
    pub report_to: ReportTo,
    /// Where TensorBoard's event files go, relative to the output folder. Default: `logs`.
    pub logging_dir: PathBuf,
    /// A folder in `logging_dir` for them, so that several runs can share it. Left out: none; the reference has
    /// `train_controlnet`.
    pub tracker_project_name: Option<PathBuf>,
}

impl Default for ReportSection {
    fn default() -> Self {
        Self {
            report_to: ReportTo::Tensorboard,
            logging_dir: PathBuf::from("logs"),
            tracker_project_name: None,
        }
    }
}

impl ReportSection {
    /// The folder of TensorBoard's event files, for an output folder.
    #[must_use]
    pub fn event_dir(&self, output_dir: &Path) -> PathBuf {
        let logs = output_dir.join(&self.logging_dir);
        self.tracker_project_name.as_ref().map_or(logs.clone(), |name| logs.join(name))
    }
}

/// Trackers of a run: `--report_to`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportTo {
    /// TensorBoard's event files.
    #[default]
    Tensorboard,
    /// None.
    None,
    /// All that there are.
    All,
}

impl Choice for ReportTo {
    const NAMES: &'static [(&'static str, Self)] =
        &[("tensorboard", Self::Tensorboard), ("none", Self::None), ("all", Self::All)];
}

/// `[run]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunSection {
    /// Where everything is written. Default: `controlnet-model`.
    pub output_dir: PathBuf,
    /// Decides every random number of the run. Default: 0, where the reference does not seed at all: a run that
    /// cannot be repeated cannot be resumed exactly.
    pub seed: u64,
    /// Updates between two reports of the loss. Default: 1, as the reference. Reading the loss waits for the device,
    /// so more is faster on a GPU.
    pub log_every: NonZeroU64,
}

impl Default for RunSection {
    fn default() -> Self {
        Self { output_dir: PathBuf::from("controlnet-model"), seed: 0, log_every: NonZeroU64::MIN }
    }
}

impl TrainConfig {
    /// Reads a preset file.
    ///
    /// # Errors
    /// If it cannot be read, is not TOML, has a key that does not exist or a value that does not fit.
    pub fn read(path: &Path) -> Result<Self, PlanError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| PlanError::ReadPreset { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Reads the text of a preset; `path` is for messages.
    ///
    /// # Errors
    /// As [`TrainConfig::read`], but for the reading.
    pub fn parse(text: &str, path: &Path) -> Result<Self, PlanError> {
        let invalid = |source| PlanError::InvalidPreset { path: path.to_owned(), source: Box::new(source) };
        let table: toml::Table = text.parse().map_err(invalid)?;
        if let Some((section, key)) = unknown_key(&table) {
            return Err(PlanError::UnknownKey { path: path.to_owned(), near: near_key(&key), section, key });
        }
        toml::from_str(text).map_err(invalid)
    }

    /// The config as TOML that [`TrainConfig::read`] takes back.
    ///
    /// # Errors
    /// If a path is not Unicode or a number exceeds TOML's 64 signed bits.
    pub fn to_toml(&self) -> Result<String, PlanError> {
        toml::to_string(self).map_err(|source| PlanError::NotToml { source })
    }
}

/// The sections of a preset with their keys.
fn sections() -> [(&'static str, &'static [&'static str]); 14] {
    [
        ("model", keys::<ModelSection>()),
        ("data", keys::<DataSection>()),
        ("cache", keys::<CacheSection>()),
        ("optimizer", keys::<OptimizerSection>()),
        ("schedule", keys::<ScheduleSection>()),
        ("loss", keys::<LossSection>()),
        ("ema", keys::<EmaSection>()),
        ("precision", keys::<PrecisionSection>()),
        ("memory", keys::<MemorySection>()),
        ("checkpoint", keys::<CheckpointSection>()),
        ("validation", keys::<ValidationSection>()),
        ("evaluation", keys::<EvaluationSection>()),
        ("report", keys::<ReportSection>()),
        ("run", keys::<RunSection>()),
    ]
}

/// The first key that does not exist, and the section it is in if it is in one.
fn unknown_key(table: &toml::Table) -> Option<(Option<String>, String)> {
    for (name, value) in table {
        let Some((_, keys)) = sections().into_iter().find(|(section, _)| section == name) else {
            return Some((None, name.clone()));
        };
        if let Some(key) =
            value.as_table().and_then(|table| table.keys().find(|key| !keys.contains(&key.as_str())))
        {
            return Some((Some(name.clone()), key.clone()));
        }
    }
    None
}

/// What a misspelt or misplaced key probably means: `[section]` or `key in [section]`.
fn near_key(wrong: &str) -> Option<String> {
    let keys = sections().into_iter().flat_map(|(section, keys)| {
        let keys = keys.iter().map(move |key| (*key, format!("`{key}` in section [{section}]")));
        keys.chain([(section, format!("section [{section}]"))])
    });
    let wrong = wrong.replace('-', "_");
    keys.map(|(key, place)| (strsim::jaro_winkler(&wrong, key), place))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, place)| place)
}

/// The field names of a section, from serde's derive, which hands them to the deserializer.
fn keys<'de, S: Deserialize<'de>>() -> &'static [&'static str] {
    match S::deserialize(FieldNames) {
        Err(Found(fields)) => fields,
        Ok(_) => &[],
    }
}

/// A deserializer that fails with the names of the fields it is asked for.
struct FieldNames;

#[derive(Debug, thiserror::Error)]
#[error("fields {0:?}")]
struct Found(&'static [&'static str]);

impl serde::de::Error for Found {
    fn custom<T: std::fmt::Display>(_message: T) -> Self {
        Self(&[])
    }
}

impl<'de> Deserializer<'de> for FieldNames {
    type Error = Found;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Found> {
        Err(Found(&[]))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Found> {
        Err(Found(fields))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests;
