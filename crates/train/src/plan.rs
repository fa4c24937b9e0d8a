//! A checked training run: what the trainer is given, with nothing left to look up, default or doubt.

mod error;
mod resolve;
#[cfg(test)]
mod tests;

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;

use pyrograph_data::{
    Columns, Data, DataError, Dataset, Share, SourceOptions, Stream, StreamOptions, Transform,
};
use pyrograph_pipeline::BundleOptions;
use pyrograph_unet::ParameterGroup;
use pyrograph_weights::Pickles;
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::config::{MemorySection, ReportSection, TrainConfig};
use crate::ema::EmaSection;
use crate::lr::LrSchedule;
use crate::objective::LossSection;
use crate::optim::OptimizerConfig;
use crate::precision::PrecisionSection;
use crate::sizes::SizeConditioning;

pub use error::PlanError;
pub(crate) use resolve::require;

/// A training run that can be started.
///
/// It is made by [`TrainPlan::try_from`] a [`TrainConfig`]. With serde it is written as the config that says all
/// of it, so that what a checkpoint stores is itself a preset, checked again when it is read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "TrainConfig", into = "TrainConfig")]
#[non_exhaustive]
pub struct TrainPlan {
    /// The networks to start from.
    pub model: ModelPlan,
    /// The images and how they are read.
    pub data: DataPlan,
    /// Where latents and prompt embeddings are kept.
    pub cache: CachePlan,
    /// How gradients become updates.
    pub optimizer: OptimizerPlan,
    /// How long to train.
    pub length: Length,
    /// What is made small.
    pub loss: LossSection,
    /// The average that the run ends with.
    pub ema: EmaSection,
    /// In which number formats.
    pub precision: PrecisionSection,
    /// What is traded for less memory.
    pub memory: MemorySection,
    /// What is kept on the way, and what to continue from.
    pub checkpoint: CheckpointPlan,
    /// Pictures made on the way.
    pub validation: ValidationPlan,
    /// How it is found out whether the run learns; else it is not.
    pub evaluation: Option<EvaluationPlan>,
    /// Who else is told of the run.
    pub report: ReportSection,
    /// Where everything is written.
    pub output_dir: PathBuf,
    /// Decides every random number of the run; below 2^63, since TOML cannot write more.
    pub seed: u64,
    /// Updates between two reports of the loss.
    pub log_every: NonZeroU64,
}

/// The networks to start from.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ModelPlan {
    /// A Stable Diffusion folder in diffusers' layout, or one file with the original names.
    pub base: PathBuf,
    /// A VAE's folder, or that of a model with one, if not the base's own.
    pub vae: Option<PathBuf>,
    /// Where the ControlNet comes from.
    pub controlnet: ControlNetSource,
    /// A tokenizer's folder, if not the base's own.
    pub tokenizer: Option<PathBuf>,
    /// The variant of the frozen models' weight files, `fp16` in `model.fp16.safetensors`.
    pub variant: Option<String>,
    /// Whether pickled weight files are read.
    pub pickles: Pickles,
    /// Whether the base model is left as it is; else its UNet's decoder is trained, too.
    pub sd_locked: bool,
}

impl ModelPlan {
    /// What is taken from elsewhere than the base folder's usual places.
    pub(crate) fn options(&self) -> BundleOptions<'_> {
        BundleOptions {
            variant: self.variant.as_deref(),
            pickles: self.pickles,
            tokenizer: self.tokenizer.as_deref(),
            vae: self.vae.as_deref(),
            ..BundleOptions::default()
        }
    }
}

/// Where the ControlNet comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlNetSource {
    /// A copy of the UNet's encoder with zero convolutions.
    FromUnet {
        /// Channels of the hint embedding; else those of the published ControlNets.
        hint_channels: Option<Vec<NonZeroUsize>>,
    },
    /// A folder in diffusers' layout, or a file.
    Folder(PathBuf),
}

/// The images and how they are read.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DataPlan {
    /// The data set's folder or file.
    pub dir: PathBuf,
    /// Which of its columns are used.
    pub columns: Columns,
    /// Which of its splits.
    pub split: String,
    /// Which of its configurations.
    pub config: Option<String>,
    /// A folder of hints that are named as the images.
    pub hint_dir: Option<PathBuf>,
    /// Rows are read as they come, and this many mixed; else all are listed before.
    pub shuffle_buffer: Option<NonZeroUsize>,
    /// So many samples may be left out because they cannot be used; else a tenth.
    pub max_bad_samples: Option<usize>,
    /// A list of samples to leave out, if it is not the one in the data set's folder.
    pub quarantine: Option<PathBuf>,
    /// Train on so many samples, drawn by the seed; else on all.
    pub max_samples: Option<NonZeroUsize>,
    /// Side and filter of the images.
    pub transform: Transform,
    /// What SDXL is told of how they came to their size.
    pub sizes: SizeConditioning,
    /// The probability, in [0, 1], that a caption is replaced by the empty one.
    pub empty_prompt_probability: f64,
    /// Samples per micro-batch.
    pub batch_size: NonZeroUsize,
    /// Threads that decode images; 0 decodes between two steps.
    pub workers: usize,
}

impl TrainPlan {
    /// Opens the data set, with as many samples as are asked for.
    ///
    /// # Errors
    /// [`TrainError::Data`] if it is not one, or has too few of them.
    pub fn open_data(&self) -> Result<Data, TrainError> {
        self.open_share(Share::WHOLE)
    }

    /// The same for a rank; only a stream is divided already when it is opened.
    pub(crate) fn open_share(&self, share: Share) -> Result<Data, TrainError> {
        self.try_open_data(share).map_err(TrainError::Data)
    }

    fn try_open_data(&self, share: Share) -> Result<Data, DataError> {
        let DataPlan { dir, max_samples, shuffle_buffer, .. } = &self.data;
        let source = SourceOptions {
            columns: self.data.columns.clone(),
            split: self.data.split.clone(),
            config: self.data.config.clone(),
            hint_dir: self.data.hint_dir.clone(),
            cache_dir: match &self.cache {
                CachePlan::Disk(dir) => Some(dir.clone()),
                CachePlan::Off | CachePlan::Memory => None,
            },
        };
        if let Some(shuffle_buffer) = *shuffle_buffer {
            let options = StreamOptions { shuffle_buffer, share };
            let stream = Stream::open(dir, &source, options)?;
            return Ok(Arc::new(max_samples.map_or(Ok(stream.clone()), |count| stream.take(count))?).into());
        }
        let list = self.data.left_out()?.map(|(_, list)| list).unwrap_or_default();
        let dataset = Dataset::open_without(dir, &source, &list)?;
        let dataset = match *max_samples {
            Some(count) => dataset.take(count, self.seed)?,
            None => dataset,
        };
        Ok(Arc::new(dataset).into())
    }
}

/// Where latents and prompt embeddings are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CachePlan {
    /// Nowhere: they are computed at each use.
    Off,
    /// In memory, for the run.
    Memory,
    /// In this folder, for all runs; and in memory, for this one.
    Disk(PathBuf),
}

impl fmt::Display for CachePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Memory => f.write_str("memory"),
            Self::Disk(dir) => dir.display().fmt(f),
        }
    }
}

/// How gradients become updates.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct OptimizerPlan {
    /// The learning rate that the schedule multiplies; positive, and already scaled if that was asked for.
    pub learning_rate: f64,
    /// The factor on it at each update.
    pub lr_schedule: LrSchedule,
    /// Micro-batches per update.
    pub accumulation_steps: NonZeroUsize,
    /// Which optimizer, with its constants.
    pub algorithm: OptimizerConfig,
    /// The factor on the learning rate of zero convolutions.
    pub zero_conv_lr_factor: f64,
    /// The factor on the learning rate of the hint embedding.
    pub hint_embedding_lr_factor: f64,
    /// The largest norm of all gradients together, positive.
    pub max_grad_norm: f64,
    /// Updates in a row that may be skipped because a number is not finite.
    pub max_nonfinite_steps: NonZeroU32,
}

impl OptimizerPlan {
    /// The learning rate of update `step`, counted from 0, of `total_steps`.
    #[must_use]
    pub fn learning_rate_at(&self, step: u64, total_steps: u64) -> f64 {
        self.learning_rate * self.lr_schedule.multiplier(step, total_steps)
    }

    /// The factor on the learning rate of a ControlNet's parameter, by its path.
    #[must_use]
    pub fn lr_factor(&self, path: &str) -> f64 {
        match ParameterGroup::of(path) {
            ParameterGroup::Copied => 1.0,
            ParameterGroup::HintEmbedding => self.hint_embedding_lr_factor,
            ParameterGroup::ZeroConv => self.zero_conv_lr_factor,
        }
    }
}

/// How long to train.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// Until so many updates are done.
    Steps(NonZeroU64),
    /// For so many passes over the data set.
    Epochs(NonZeroU64),
}

impl Length {
    /// The number of updates, given those of one pass over the data set.
    #[must_use]
    pub fn total_steps(self, steps_per_epoch: NonZeroU64) -> NonZeroU64 {
        match self {
            Self::Steps(steps) => steps,
            Self::Epochs(epochs) => epochs.saturating_mul(steps_per_epoch),
        }
    }
}

/// What is kept on the way, and what to continue from.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct CheckpointPlan {
    /// Updates between two checkpoints.
    pub every_steps: NonZeroU64,
    /// The most checkpoints to keep; else all.
    pub total_limit: Option<NonZeroUsize>,
    /// What to continue from.
    pub resume_from: ResumeFrom,
    /// Continue from a checkpoint of another run, too.
    pub force_resume: bool,
}

/// What a run continues from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResumeFrom {
    /// Nothing: step 0.
    Fresh,
    /// The checkpoint of the output folder with the highest step.
    Latest,
    /// This checkpoint.
    Path(PathBuf),
}

/// Pictures made on the way.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ValidationPlan {
    /// What to make pictures of.
    pub pairs: Vec<ValidationPair>,
    /// Evaluation samples to make pictures of if there are no pairs, at most.
    pub n_samples: usize,
    /// Pictures of each pair or sample.
    pub images_per_pair: NonZeroUsize,
    /// Updates between two validations.
    pub every_steps: NonZeroU64,
    /// Denoising steps of a picture.
    pub inference_steps: NonZeroUsize,
    /// Classifier-free guidance, 0 or more and finite; 1 or less turns it off.
    pub guidance_scale: f64,
}

/// One hint and one prompt to make validation pictures of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidationPair {
    /// The conditioning image's file.
    pub image: PathBuf,
    /// The prompt.
    pub prompt: String,
}

/// How it is found out whether a run learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct EvaluationPlan {
    /// Samples to evaluate on, at least 2.
    pub n_samples: NonZeroUsize,
    /// Updates between two evaluations.
    pub every_steps: NonZeroU64,
}
