//! What is wrong with a config, and what to do about it.

use std::path::PathBuf;

use pyrograph_data::DataError;

use crate::lr::LrScheduler;

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
    /// Hint channels for a ControlNet that has its own.
    #[error("`--conditioning_embedding_out_channels` is for a new ControlNet, but `{}` is given", path.display())]
    HintChannelsOfTrained {
        /// The ControlNet's folder.
        path: PathBuf,
    },
    /// An average of the ControlNet, trained with a decoder that has none.
    #[error(
        "`--use_ema` keeps an average of the ControlNet alone, but `--sd_locked=false` trains the UNet's decoder, too"
    )]
    AverageOfUnlocked,
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
    /// Batches of one size each, where only the rows at hand are known.
    #[error("`--streaming` cannot be combined with `--aspect_buckets`")]
    StreamedBuckets,
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
    /// A single sample, where hints are exchanged between samples.
    #[error("`--num_eval_samples` must be 0 or at least 2, found 1")]
    OneEvaluationSample,
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
    /// A step of aspect buckets that the networks cannot halve three times.
    #[error("`--bucket_reso_steps` must be divisible by 8, found {value}")]
    BucketSteps {
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
    /// A cache on disk without a folder.
    #[error("`--cache disk` needs `--cache_dir`: there is no home folder to find the usual place in")]
    NoCacheDir,
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
            Self::Resolution { source, .. } | Self::BucketSteps { source, .. } => return source.hint(),
            Self::UnknownLrScheduler { name } => {
                let names = LrScheduler::ALL
                    .map(|scheduler| (strsim::jaro_winkler(name, scheduler.name()), scheduler));
                let near = names.into_iter().max_by(|left, right| left.0.total_cmp(&right.0));
                return near
                    .filter(|(likeness, _)| *likeness > 0.7)
                    .map(|(_, near)| format!("did you mean `{near}`?"));
            }
            Self::NoBaseModel => "give a Stable Diffusion folder in diffusers' layout",
            Self::AverageOfUnlocked | Self::StreamedBuckets => "leave out one of the two",
            Self::NoDataSource => "give the folder of the data set as `--train_data_dir`",
            Self::TwoDataSources { .. } => "both are the data set's folder; keep `--train_data_dir`",
            Self::NoValidationImage | Self::NoValidationPrompt => {
                "give both, or neither to see evaluation samples"
            }
            Self::ValidationCounts { .. } => "put a prompt of several words in quotes",
            Self::NoCacheDir => "give a folder, or `--cache memory`",
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
