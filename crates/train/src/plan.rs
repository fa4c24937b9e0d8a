//! A checked training run: what the trainer is given, with nothing left to look up, default or doubt.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Component, Path, PathBuf};

use pyrograph_data::{Columns, DataError, Side, Transform};
use serde::{Deserialize, Serialize};

use crate::config::{
    CheckpointSection, DataSection, ModelSection, OptimizerSection, RunSection, ScheduleSection, TrainConfig,
    ValidationSection,
};
use crate::lr::{LrSchedule, LrScheduler};
use crate::optim::AdamWConfig;

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
    /// How gradients become updates.
    pub optimizer: OptimizerPlan,
    /// How long to train.
    pub length: Length,
    /// What is kept on the way, and what to continue from.
    pub checkpoint: CheckpointPlan,
    /// Pictures made on the way.
    pub validation: ValidationPlan,
    /// Where everything is written.
    pub output_dir: PathBuf,
    /// Decides every random number of the run; below 2^63, since TOML cannot write more.
    pub seed: u64,
}

/// The networks to start from.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ModelPlan {
    /// A Stable Diffusion folder in diffusers' layout.
    pub base: PathBuf,
    /// Where the ControlNet comes from.
    pub controlnet: ControlNetSource,
    /// A tokenizer's folder, if not the base's own.
    pub tokenizer: Option<PathBuf>,
    /// The variant of the frozen models' weight files, `fp16` in `model.fp16.safetensors`.
    pub variant: Option<String>,
}

/// Where the ControlNet comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlNetSource {
    /// A copy of the UNet's encoder with zero convolutions.
    FromUnet,
    /// A folder in diffusers' layout.
    Folder(PathBuf),
}

/// The images and how they are read.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DataPlan {
    /// The data set's folder.
    pub dir: PathBuf,
    /// Which of its columns are used.
    pub columns: Columns,
    /// Train on so many samples, drawn by the seed; else on all.
    pub max_samples: Option<NonZeroUsize>,
    /// Side and filter of the images.
    pub transform: Transform,
    /// The probability, in [0, 1], that a caption is replaced by the empty one.
    pub empty_prompt_probability: f64,
    /// Samples per micro-batch.
    pub batch_size: NonZeroUsize,
    /// Threads that decode images; 0 decodes between two steps.
    pub workers: usize,
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
    /// The constants of AdamW.
    pub adamw: AdamWConfig,
    /// The largest norm of all gradients together, positive.
    pub max_grad_norm: f64,
}

impl OptimizerPlan {
    /// The learning rate of update `step`, counted from 0, of `total_steps`.
    #[must_use]
    pub fn learning_rate_at(&self, step: u64, total_steps: u64) -> f64 {
        self.learning_rate * self.lr_schedule.multiplier(step, total_steps)
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
    /// What to make pictures of; if empty, none are made.
    pub pairs: Vec<ValidationPair>,
    /// Pictures of each pair.
    pub images_per_pair: NonZeroUsize,
    /// Updates between two validations.
    pub every_steps: NonZeroU64,
}

/// One hint and one prompt to make validation pictures of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidationPair {
    /// The conditioning image's file.
    pub image: PathBuf,
    /// The prompt.
    pub prompt: String,
}

/// What is wrong with a config. Where the reference has a message for it, it is that message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The preset file cannot be read.
    #[error("cannot read preset `{}`", path.display())]
    ReadPreset {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The preset is not TOML, or a value has the wrong type or range.
    #[error("preset `{}` is not valid", path.display())]
    InvalidPreset {
        /// The file.
        path: PathBuf,
        /// Where, and why.
        source: Box<toml::de::Error>,
    },
    /// The preset has a key or section that does not exist.
    #[error("preset `{}` has an unknown {}", path.display(), describe(section.as_deref(), key))]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The section it stands in; `None` at the top.
        section: Option<String>,
        /// The key.
        key: String,
        /// What was probably meant.
        near: Option<String>,
    },
    /// The config cannot be written as TOML.
    #[error("the config cannot be written as TOML")]
    NotToml {
        /// Why not.
        source: toml::ser::Error,
    },
    /// No base model.
    #[error("the following arguments are required: --pretrained_model_name_or_path")]
    NoBaseModel,
    /// No data set.
    #[error("specify either `--dataset_name` or `--train_data_dir`")]
    NoDataSource,
    /// Two data sets.
    #[error("specify only one of `--dataset_name` (`{}`) and `--train_data_dir` (`{}`)", name.display(), dir.display())]
    TwoDataSources {
        /// The value of `--dataset_name`.
        name: PathBuf,
        /// The value of `--train_data_dir`.
        dir: PathBuf,
    },
    /// A share of empty prompts that is no share.
    #[error("`--proportion_empty_prompts` must be in the range [0, 1], found {value}")]
    EmptyPromptsOutOfRange {
        /// The number given.
        value: f64,
    },
    /// Prompts and no image.
    #[error("`--validation_image` must be set if `--validation_prompt` is set")]
    NoValidationImage,
    /// Images and no prompt.
    #[error("`--validation_prompt` must be set if `--validation_image` is set")]
    NoValidationPrompt,
    /// Images and prompts that do not pair up.
    #[error(
        "must provide either 1 `--validation_image`, 1 `--validation_prompt`, or the same number of both, found \
         {images} images and {prompts} prompts"
    )]
    ValidationCounts {
        /// Images given.
        images: usize,
        /// Prompts given.
        prompts: usize,
    },
    /// A side that the networks cannot halve three times.
    #[error(
        "`--resolution` must be divisible by 8 for consistently sized encoded images between the VAE and the \
         controlnet encoder, found {value}"
    )]
    Resolution {
        /// The number given.
        value: usize,
        /// The rule it breaks.
        source: DataError,
    },
    /// A number outside its range.
    #[error("`--{flag}` must be {expected}, found {value}")]
    OutOfRange {
        /// The flag, and the preset's key.
        flag: &'static str,
        /// The range.
        expected: &'static str,
        /// The number given.
        value: f64,
    },
    /// A schedule that would rise to its end.
    #[error("lr_end ({end:e}) must be smaller than initial lr ({learning_rate:e})")]
    PolynomialEnd {
        /// Where the schedule ends.
        end: f64,
        /// Where it starts.
        learning_rate: f64,
    },
    /// The name of no schedule.
    #[error("unknown learning-rate schedule `{name}`, expected {}", LrScheduler::ALL.map(LrScheduler::name).join(", "))]
    UnknownLrScheduler {
        /// The name given.
        name: String,
    },
    /// `piecewise_constant` without pieces.
    #[error("`--lr_scheduler piecewise_constant` needs `--lr_step_rules`")]
    NoStepRules,
    /// Pieces that cannot be parsed.
    #[error("`{rules}` is not a list of rules `factor:step,...,factor` with ascending steps")]
    InvalidStepRules {
        /// The rules given.
        rules: String,
    },
    /// A seed that TOML cannot write.
    #[error("`--seed` must be below 2^63, found {value}")]
    Seed {
        /// The number given.
        value: u64,
    },
}

fn describe(section: Option<&str>, key: &str) -> String {
    match section {
        Some(section) => format!("key `{key}` in section [{section}]"),
        None => format!("section or key `{key}`"),
    }
}

impl PlanError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::UnknownKey { near, .. } => {
                return near.as_ref().map(|near| format!("did you mean {near}?"));
            }
            Self::Resolution { source, .. } => return source.hint(),
            Self::UnknownLrScheduler { name } => {
                let names = LrScheduler::ALL
                    .map(|scheduler| (strsim::jaro_winkler(name, scheduler.name()), scheduler));
                let near = names.into_iter().max_by(|left, right| left.0.total_cmp(&right.0));
                return near
                    .filter(|(likeness, _)| *likeness > 0.7)
                    .map(|(_, near)| format!("did you mean `{near}`?"));
            }
            Self::NoBaseModel => "give a Stable Diffusion folder in diffusers' layout",
            Self::NoDataSource => "give the folder of the data set as `--train_data_dir`",
            Self::TwoDataSources { .. } => "both are the data set's folder; keep `--train_data_dir`",
            Self::NoValidationImage | Self::NoValidationPrompt => {
                "give both, or neither to make no validation pictures"
            }
            Self::ValidationCounts { .. } => "put a prompt of several words in quotes",
            Self::PolynomialEnd { .. } => "raise `--learning_rate`",
            Self::NoStepRules | Self::InvalidStepRules { .. } => {
                "`1:10,0.1:20,0.005` is the learning rate itself before step 10, a tenth of it before step 20, and \
                 0.005 of it from there on"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

impl TryFrom<TrainConfig> for TrainPlan {
    type Error = PlanError;

    /// Checks in the order of the reference, so that the same mistake is reported first.
    fn try_from(config: TrainConfig) -> Result<Self, PlanError> {
        let TrainConfig { model, data, optimizer, schedule, checkpoint, validation, run } = config;
        let model = model_plan(model)?;
        let (batch_size, dir) = (data.train_batch_size, data_dir(&data)?);
        require_share_of_empty_prompts(&data)?;
        let validation = validation_plan(validation)?;
        let data = data_plan(data, dir)?;
        let length =
            schedule.max_train_steps.map_or(Length::Epochs(schedule.num_train_epochs), Length::Steps);
        let optimizer = optimizer_plan(&optimizer, schedule, batch_size)?;
        let RunSection { output_dir, seed } = run;
        if i64::try_from(seed).is_err() {
            return Err(PlanError::Seed { value: seed });
        }
        let checkpoint = checkpoint_plan(checkpoint, &output_dir);
        Ok(Self { model, data, optimizer, length, checkpoint, validation, output_dir, seed })
    }
}

fn model_plan(section: ModelSection) -> Result<ModelPlan, PlanError> {
    let ModelSection {
        pretrained_model_name_or_path,
        controlnet_model_name_or_path,
        tokenizer_name,
        variant,
    } = section;
    Ok(ModelPlan {
        base: pretrained_model_name_or_path.ok_or(PlanError::NoBaseModel)?,
        controlnet: controlnet_model_name_or_path
            .map_or(ControlNetSource::FromUnet, ControlNetSource::Folder),
        tokenizer: tokenizer_name,
        variant,
    })
}

fn data_dir(section: &DataSection) -> Result<PathBuf, PlanError> {
    match (&section.dataset_name, &section.train_data_dir) {
        (Some(dir), None) | (None, Some(dir)) => Ok(dir.clone()),
        (None, None) => Err(PlanError::NoDataSource),
        (Some(name), Some(dir)) => Err(PlanError::TwoDataSources { name: name.clone(), dir: dir.clone() }),
    }
}

fn require_share_of_empty_prompts(section: &DataSection) -> Result<(), PlanError> {
    let value = section.proportion_empty_prompts;
    if (0.0..=1.0).contains(&value) { Ok(()) } else { Err(PlanError::EmptyPromptsOutOfRange { value }) }
}

fn data_plan(section: DataSection, dir: PathBuf) -> Result<DataPlan, PlanError> {
    let value = section.resolution;
    let side = Side::try_from(value).map_err(|source| PlanError::Resolution { value, source })?;
    Ok(DataPlan {
        dir,
        columns: Columns {
            image: section.image_column,
            hint: section.conditioning_image_column,
            caption: section.caption_column,
        },
        max_samples: section.max_train_samples,
        transform: Transform { side, interpolation: section.image_interpolation_mode },
        empty_prompt_probability: section.proportion_empty_prompts,
        batch_size: section.train_batch_size,
        workers: section.dataloader_num_workers,
    })
}

fn optimizer_plan(
    section: &OptimizerSection,
    schedule: ScheduleSection,
    batch_size: NonZeroUsize,
) -> Result<OptimizerPlan, PlanError> {
    let positive =
        |flag, value: f64| require(flag, "positive and finite", value, value > 0.0 && value.is_finite());
    let not_negative =
        |flag, value: f64| require(flag, "0 or more", value, value >= 0.0 && value.is_finite());
    let decay = |flag, value: f64| require(flag, "in the range [0, 1)", value, (0.0..1.0).contains(&value));
    let accumulation_steps = section.gradient_accumulation_steps;
    let scale = if section.scale_lr { product(accumulation_steps, batch_size) } else { 1.0 };
    let learning_rate = positive("learning_rate", section.learning_rate)? * scale;
    not_negative("lr_power", schedule.lr_power)?;
    Ok(OptimizerPlan {
        learning_rate,
        lr_schedule: lr_schedule(schedule, learning_rate)?,
        accumulation_steps,
        adamw: AdamWConfig {
            beta1: decay("adam_beta1", section.adam_beta1)?,
            beta2: decay("adam_beta2", section.adam_beta2)?,
            epsilon: not_negative("adam_epsilon", section.adam_epsilon)?,
            weight_decay: not_negative("adam_weight_decay", section.adam_weight_decay)?,
        },
        max_grad_norm: positive("max_grad_norm", section.max_grad_norm)?,
    })
}

fn require(flag: &'static str, expected: &'static str, value: f64, is_met: bool) -> Result<f64, PlanError> {
    if is_met { Ok(value) } else { Err(PlanError::OutOfRange { flag, expected, value }) }
}

#[expect(clippy::cast_precision_loss, reason = "a batch has far fewer than 2^53 samples")]
fn product(left: NonZeroUsize, right: NonZeroUsize) -> f64 {
    left.get() as f64 * right.get() as f64
}

fn lr_schedule(section: ScheduleSection, learning_rate: f64) -> Result<LrSchedule, PlanError> {
    let warmup_steps = section.lr_warmup_steps;
    Ok(match section.lr_scheduler {
        LrScheduler::Constant => LrSchedule::Constant,
        LrScheduler::ConstantWithWarmup => LrSchedule::ConstantWithWarmup { warmup_steps },
        LrScheduler::Linear => LrSchedule::Linear { warmup_steps },
        LrScheduler::Cosine => LrSchedule::Cosine { warmup_steps },
        LrScheduler::CosineWithRestarts => {
            LrSchedule::CosineWithRestarts { warmup_steps, num_cycles: section.lr_num_cycles }
        }
        LrScheduler::Polynomial => {
            let end = LrSchedule::POLYNOMIAL_END;
            if learning_rate <= end {
                return Err(PlanError::PolynomialEnd { end, learning_rate });
            }
            LrSchedule::Polynomial {
                warmup_steps,
                power: section.lr_power,
                end_multiplier: end / learning_rate,
            }
        }
        LrScheduler::PiecewiseConstant => {
            LrSchedule::PiecewiseConstant { rules: section.lr_step_rules.ok_or(PlanError::NoStepRules)? }
        }
    })
}

fn checkpoint_plan(section: CheckpointSection, output_dir: &Path) -> CheckpointPlan {
    let resume_from = match section.resume_from_checkpoint {
        None => ResumeFrom::Fresh,
        Some(latest) if latest == Path::new("latest") => ResumeFrom::Latest,
        // The reference moves every path into the output folder; here only a bare name is meant so.
        Some(name) if is_bare_name(&name) => ResumeFrom::Path(output_dir.join(name)),
        Some(path) => ResumeFrom::Path(path),
    };
    CheckpointPlan {
        every_steps: section.checkpointing_steps,
        total_limit: section.checkpoints_total_limit,
        resume_from,
    }
}

fn is_bare_name(path: &Path) -> bool {
    let mut components = path.components();
    matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
}

fn validation_plan(section: ValidationSection) -> Result<ValidationPlan, PlanError> {
    let ValidationSection { validation_prompt, validation_image, num_validation_images, validation_steps } =
        section;
    let pair = |(image, prompt): (&PathBuf, &String)| ValidationPair {
        image: image.clone(),
        prompt: prompt.clone(),
    };
    let pairs = match (validation_image.as_slice(), validation_prompt.as_slice()) {
        ([], []) => Vec::new(),
        ([], _) => return Err(PlanError::NoValidationImage),
        (_, []) => return Err(PlanError::NoValidationPrompt),
        ([image], prompts) => prompts.iter().map(|prompt| pair((image, prompt))).collect(),
        (images, [prompt]) => images.iter().map(|image| pair((image, prompt))).collect(),
        (images, prompts) if images.len() == prompts.len() => images.iter().zip(prompts).map(pair).collect(),
        (images, prompts) => {
            return Err(PlanError::ValidationCounts { images: images.len(), prompts: prompts.len() });
        }
    };
    Ok(ValidationPlan { pairs, images_per_pair: num_validation_images, every_steps: validation_steps })
}

impl From<TrainPlan> for TrainConfig {
    /// The config that says all of the plan, whose plan is this one again.
    fn from(plan: TrainPlan) -> Self {
        let TrainPlan { model, data, optimizer, length, checkpoint, validation, output_dir, seed } = plan;
        let (validation_image, validation_prompt) =
            validation.pairs.into_iter().map(|ValidationPair { image, prompt }| (image, prompt)).unzip();
        Self {
            model: ModelSection {
                pretrained_model_name_or_path: Some(model.base),
                controlnet_model_name_or_path: match model.controlnet {
                    ControlNetSource::FromUnet => None,
                    ControlNetSource::Folder(path) => Some(path),
                },
                tokenizer_name: model.tokenizer,
                variant: model.variant,
            },
            data: DataSection {
                train_data_dir: Some(data.dir),
                dataset_name: None,
                image_column: data.columns.image,
                conditioning_image_column: data.columns.hint,
                caption_column: data.columns.caption,
                max_train_samples: data.max_samples,
                resolution: data.transform.side.get(),
                image_interpolation_mode: data.transform.interpolation,
                proportion_empty_prompts: data.empty_prompt_probability,
                train_batch_size: data.batch_size,
                dataloader_num_workers: data.workers,
            },
            schedule: schedule_section(optimizer.lr_schedule, length),
            optimizer: OptimizerSection {
                learning_rate: optimizer.learning_rate,
                scale_lr: false,
                gradient_accumulation_steps: optimizer.accumulation_steps,
                adam_beta1: optimizer.adamw.beta1,
                adam_beta2: optimizer.adamw.beta2,
                adam_weight_decay: optimizer.adamw.weight_decay,
                adam_epsilon: optimizer.adamw.epsilon,
                max_grad_norm: optimizer.max_grad_norm,
            },
            checkpoint: CheckpointSection {
                checkpointing_steps: checkpoint.every_steps,
                checkpoints_total_limit: checkpoint.total_limit,
                resume_from_checkpoint: match checkpoint.resume_from {
                    ResumeFrom::Fresh => None,
                    ResumeFrom::Latest => Some(PathBuf::from("latest")),
                    ResumeFrom::Path(path) => Some(path),
                },
            },
            validation: ValidationSection {
                validation_prompt,
                validation_image,
                num_validation_images: validation.images_per_pair,
                validation_steps: validation.every_steps,
            },
            run: RunSection { output_dir, seed },
        }
    }
}

fn schedule_section(lr_schedule: LrSchedule, length: Length) -> ScheduleSection {
    let mut section = ScheduleSection::default();
    match length {
        Length::Steps(steps) => section.max_train_steps = Some(steps),
        Length::Epochs(epochs) => section.num_train_epochs = epochs,
    }
    section.lr_scheduler = lr_schedule.scheduler();
    if let Some(warmup_steps) = lr_schedule.warmup_steps() {
        section.lr_warmup_steps = warmup_steps;
    }
    match lr_schedule {
        LrSchedule::CosineWithRestarts { num_cycles, .. } => section.lr_num_cycles = num_cycles,
        LrSchedule::Polynomial { power, .. } => section.lr_power = power,
        LrSchedule::PiecewiseConstant { rules } => section.lr_step_rules = Some(rules),
        _ => {}
    }
    section
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A config with only what is required.
    fn minimal() -> TrainConfig {
        let mut config = TrainConfig::default();
        config.model.pretrained_model_name_or_path = Some("sd".into());
        config.data.train_data_dir = Some("circles".into());
        config
    }

    fn plan(change: impl FnOnce(&mut TrainConfig)) -> Result<TrainPlan, PlanError> {
        let mut config = minimal();
        change(&mut config);
        TrainPlan::try_from(config)
    }

    /// Asserts that a changed config is refused with a message that begins so.
    fn check_refused(message: &str, change: impl FnOnce(&mut TrainConfig)) {
        let error = plan(change).expect_err(message);
        assert!(error.to_string().starts_with(message), "expected `{message}`, found `{error}`");
    }

    #[test]
    fn defaults_are_those_of_the_reference() {
        let plan = plan(|_| {}).expect("a minimal config");
        assert_eq!(plan.optimizer.learning_rate, 5e-6);
        assert_eq!(plan.optimizer.lr_schedule, LrSchedule::Constant);
        assert_eq!(plan.data.transform.side.get(), 512);
        assert_eq!(plan.data.batch_size.get(), 4);
        assert_eq!(plan.length, Length::Epochs(NonZeroU64::MIN));
        assert_eq!(plan.output_dir, Path::new("controlnet-model"));
        assert_eq!(plan.seed, 0);
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_the_references_words() {
        check_refused("the following arguments are required: --pretrained_model_name_or_path", |config| {
            config.model.pretrained_model_name_or_path = None;
        });
        check_refused("specify either `--dataset_name` or `--train_data_dir`", |config| {
            config.data.train_data_dir = None;
        });
        check_refused("specify only one of", |config| config.data.dataset_name = Some("fill50k".into()));
        check_refused("`--proportion_empty_prompts` must be in the range [0, 1], found 1.5", |config| {
            config.data.proportion_empty_prompts = 1.5;
        });
        check_refused("`--proportion_empty_prompts` must be", |config| {
            config.data.proportion_empty_prompts = f64::NAN;
        });
        check_refused("`--validation_image` must be set if `--validation_prompt` is set", |config| {
            config.validation.validation_prompt = vec!["a circle".into()];
        });
        check_refused("`--validation_prompt` must be set if `--validation_image` is set", |config| {
            config.validation.validation_image = vec!["a.png".into()];
        });
        check_refused("must provide either 1 `--validation_image`, 1 `--validation_prompt`", |config| {
            config.validation.validation_image = vec!["a.png".into(), "b.png".into()];
            config.validation.validation_prompt = vec!["red".into(), "green".into(), "blue".into()];
        });
        check_refused("`--resolution` must be divisible by 8", |config| config.data.resolution = 500);
        check_refused("`--learning_rate` must be positive", |config| config.optimizer.learning_rate = 0.0);
        check_refused("`--adam_beta2` must be in the range [0, 1), found 1", |config| {
            config.optimizer.adam_beta2 = 1.0;
        });
        check_refused("lr_end (1e-7) must be smaller than initial lr (1e-7)", |config| {
            config.optimizer.learning_rate = 1e-7;
            config.schedule.lr_scheduler = LrScheduler::Polynomial;
        });
        check_refused("`--lr_scheduler piecewise_constant` needs", |config| {
            config.schedule.lr_scheduler = LrScheduler::PiecewiseConstant;
        });
        check_refused("`--seed` must be below", |config| config.run.seed = u64::MAX);
    }

    #[test]
    fn a_wrong_resolution_hints_at_its_neighbours() {
        let error = plan(|config| config.data.resolution = 500).expect_err("500 = 8 * 62.5");
        assert_eq!(error.hint().as_deref(), Some("use 496 or 504"));
    }

    /// Asserts how images and prompts pair up.
    fn check_pairs(images: &[&str], prompts: &[&str], expected: &[(&str, &str)]) {
        let plan = plan(|config| {
            config.validation.validation_image = images.iter().map(PathBuf::from).collect();
            config.validation.validation_prompt = prompts.iter().map(ToString::to_string).collect();
        });
        let pairs = plan.expect("they pair up").validation.pairs;
        let pairs: Vec<_> =
            pairs.iter().map(|pair| (pair.image.to_str().unwrap(), pair.prompt.as_str())).collect();
        assert_eq!(pairs, expected);
    }

    #[test]
    fn validation_images_and_prompts_pair_up() {
        check_pairs(&[], &[], &[]);
        check_pairs(&["a", "b"], &["red", "blue"], &[("a", "red"), ("b", "blue")]);
        check_pairs(&["a"], &["red", "blue"], &[("a", "red"), ("a", "blue")]);
        check_pairs(&["a", "b"], &["red"], &[("a", "red"), ("b", "red")]);
    }

    #[test]
    fn scale_lr_multiplies_by_batch_and_accumulation() {
        let plan = plan(|config| {
            config.optimizer.scale_lr = true;
            config.optimizer.learning_rate = 1e-5;
            config.optimizer.gradient_accumulation_steps = NonZeroUsize::new(3).unwrap();
            config.data.train_batch_size = NonZeroUsize::new(2).unwrap();
        });
        assert!((plan.expect("a scaled rate").optimizer.learning_rate - 6e-5).abs() < 1e-18);
    }

    #[test]
    fn steps_override_epochs() {
        let per_epoch = NonZeroU64::new(10).unwrap();
        let length = |steps| {
            let change = |config: &mut TrainConfig| {
                config.schedule.num_train_epochs = NonZeroU64::new(3).unwrap();
                config.schedule.max_train_steps = NonZeroU64::new(steps);
            };
            plan(change).expect("a length").length.total_steps(per_epoch).get()
        };
        assert_eq!(length(0), 30, "0 is no number of steps: the epochs hold");
        assert_eq!(length(7), 7);
    }

    /// Asserts what a value of `resume_from_checkpoint` means with the output folder `out`.
    fn check_resume(value: &str, expected: &ResumeFrom) {
        let plan = plan(|config| {
            config.run.output_dir = "out".into();
            config.checkpoint.resume_from_checkpoint = Some(value.into());
        });
        assert_eq!(plan.expect("a place to resume from").checkpoint.resume_from, *expected);
    }

    #[test]
    fn only_a_bare_checkpoint_name_is_looked_up_in_the_output_folder() {
        check_resume("latest", &ResumeFrom::Latest);
        check_resume("checkpoint-5", &ResumeFrom::Path("out/checkpoint-5".into()));
        check_resume("elsewhere/checkpoint-5", &ResumeFrom::Path("elsewhere/checkpoint-5".into()));
        check_resume("/checkpoint-5", &ResumeFrom::Path("/checkpoint-5".into()));
    }

    #[test]
    fn a_plan_written_as_toml_is_the_same_plan_again() {
        let check = |change: fn(&mut TrainConfig)| {
            let plan = plan(change).expect("a plan");
            let text = TrainConfig::from(plan.clone()).to_toml().expect("fits TOML");
            assert_eq!(toml::from_str::<TrainPlan>(&text).expect("our own TOML"), plan, "{text}");
        };
        check(|_| {});
        check(|config| {
            config.optimizer.scale_lr = true;
            config.schedule.lr_scheduler = LrScheduler::Polynomial;
            config.schedule.lr_power = 2.0;
            config.schedule.max_train_steps = NonZeroU64::new(9);
            config.checkpoint.resume_from_checkpoint = Some("checkpoint-3".into());
            config.run.output_dir = PathBuf::new();
            config.validation.validation_image = vec!["a.png".into()];
            config.validation.validation_prompt = vec!["red".into(), "blue".into()];
        });
        check(|config| {
            config.schedule.lr_scheduler = LrScheduler::CosineWithRestarts;
            config.schedule.lr_num_cycles = NonZeroU64::new(4).unwrap();
            config.schedule.lr_warmup_steps = 7;
            config.model.controlnet_model_name_or_path = Some("controlnet".into());
            config.checkpoint.resume_from_checkpoint = Some("latest".into());
        });
        check(|config| {
            config.schedule.lr_scheduler = LrScheduler::PiecewiseConstant;
            config.schedule.lr_step_rules = Some("1:10,0.1:20,0.005".parse().unwrap());
        });
    }
}
