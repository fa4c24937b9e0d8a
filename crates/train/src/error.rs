//! What can go wrong in a training run.

use std::path::{Path, PathBuf};

use pyrograph_data::DataError;
use pyrograph_diffusion::DiffusionError;
use pyrograph_pipeline::PipelineError;
use pyrograph_weights::WeightsError;

/// A run that cannot start, or cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The data set.
    #[error("cannot read the training data")]
    Data(#[source] DataError),
    /// A hint for the validation images.
    #[error("cannot use the validation image `{}`", path.display())]
    ValidationImage {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: DataError,
    },
    /// The base model or a ControlNet.
    #[error("cannot use the model")]
    Pipeline(#[source] PipelineError),
    /// A hint embedding that does not bring the hint to the latents' size.
    #[error(
        "`--conditioning_embedding_out_channels` has {found} levels, but the VAE's factor of {scale_factor} needs {expected}"
    )]
    HintLevels {
        /// How many times wider and higher a picture is than its latents.
        scale_factor: usize,
        /// Levels that halve it so often.
        expected: usize,
        /// Levels given.
        found: usize,
    },
    /// The noise schedule of the base model.
    #[error("cannot train with the base model's scheduler")]
    Schedule(#[source] DiffusionError),
    /// A file of tensors.
    #[error("cannot read or write the optimizer's state")]
    Weights(#[source] WeightsError),
    /// A folder to resume from that is no checkpoint.
    #[error("`{}` is not a complete checkpoint: {problem}", path.display())]
    NotACheckpoint {
        /// The folder.
        path: PathBuf,
        /// What is missing or damaged.
        problem: String,
    },
    /// `latest`, where there is none.
    #[error("there is no checkpoint to resume from in `{}`", output_dir.display())]
    NoCheckpoint {
        /// The output folder.
        output_dir: PathBuf,
    },
    /// A checkpoint of a run with other settings.
    #[error("`{}` belongs to another run: `{key}` was {stored} and is {now}", path.display())]
    ResumeMismatch {
        /// The checkpoint's folder.
        path: PathBuf,
        /// The setting.
        key: String,
        /// In the checkpoint.
        stored: String,
        /// In this run.
        now: String,
    },
    /// Optimizer state that does not fit the ControlNet.
    #[error("the optimizer's state does not fit the ControlNet: `{tensor}` {problem}")]
    OptimizerState {
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The loss is not a number any more.
    #[error("the loss is {loss} at step {step}")]
    NonFinite {
        /// The optimizer step.
        step: u64,
        /// Infinity or NaN.
        loss: f64,
    },
    /// An output folder that cannot be written; found before the first step.
    #[error("cannot write `{}`", path.display())]
    OutputDir {
        /// The folder, or the file in it.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file or folder that cannot be read or written.
    #[error("cannot access `{}`", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl TrainError {
    /// Turns an I/O error into ours, for `map_err`.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    /// As [`TrainError::io`], before anything was written.
    pub(crate) fn output_dir(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::OutputDir { path, source }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Data(source) | Self::ValidationImage { source, .. } => return source.hint(),
            Self::Pipeline(source) => return source.hint(),
            Self::Schedule(source) => return source.hint(),
            Self::Weights(source) => return source.hint(),
            Self::NotACheckpoint { .. } => {
                "give a folder `checkpoint-N` that a run has written, or `latest` for the newest complete one"
            }
            Self::NoCheckpoint { .. } => {
                "leave out --resume_from_checkpoint to start a new run, or check --output_dir"
            }
            Self::ResumeMismatch { .. } => {
                "resume with the settings of that run, or start a new one in another --output_dir"
            }
            Self::OptimizerState { .. } => "the checkpoint was changed by hand; resume from another one",
            Self::HintLevels { .. } => {
                "give the channels of each level, as in `16 32 96 256`, or leave the flag out"
            }
            Self::NonFinite { .. } => "resume from the last checkpoint with a lower --learning_rate",
            Self::OutputDir { .. } => {
                "name another --output_dir, or make this one a folder that can be written"
            }
            Self::Io { .. } => return None,
        };
        Some(hint.to_owned())
    }
}
