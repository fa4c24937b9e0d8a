//! What can go wrong in a training run.

use std::path::{Path, PathBuf};

use pyrograph_data::DataError;
use pyrograph_diffusion::DiffusionError;
use pyrograph_pipeline::PipelineError;
use pyrograph_weights::WeightsError;

use crate::group::GroupError;
use crate::identity::Difference;
use crate::nonfinite::{NonFinite, Skipped};

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
    /// The ranks of a run cannot reach each other any more.
    #[error("the ranks of this run have lost each other")]
    Group(#[source] GroupError),
    /// Another rank cannot go on, and says itself why.
    #[error("another rank has failed; its own message says why")]
    RankFailed,
    /// There is less to train on than there are ranks.
    #[error("{n_ranks} ranks cannot share {n_samples} samples")]
    TooManyRanks {
        /// Ranks of the run.
        n_ranks: usize,
        /// Samples to train on.
        n_samples: usize,
    },
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
    #[error("`{}` belongs to another run: {}", path.display(), listed(differences))]
    ResumeMismatch {
        /// The checkpoint's folder.
        path: PathBuf,
        /// Every setting that differs, at least one.
        differences: Vec<Difference>,
    },
    /// A checkpoint or the best ControlNet that could not be written.
    #[error(
        "cannot save `{}`: it needs {} MB{}",
        path.display(),
        megabytes(*needed_bytes),
        available_bytes.map(|bytes| format!(", {} MB are free", megabytes(bytes))).unwrap_or_default()
    )]
    NotSaved {
        /// The folder.
        path: PathBuf,
        /// What it takes, a little rounded up.
        needed_bytes: u64,
        /// What the disk has left, where the system tells.
        available_bytes: Option<u64>,
        /// Why.
        #[source]
        source: Box<TrainError>,
    },
    /// Another run writes to the output folder.
    #[error("`{}` is in use: {owner} writes to it", output_dir.display())]
    RunFolderInUse {
        /// The output folder.
        output_dir: PathBuf,
        /// Who.
        owner: String,
    },
    /// A checkpoint that is too late for a step to be made again.
    #[error("`{}` is of step {at}, so step {step} cannot be made again from it", path.display())]
    ReplayAfter {
        /// The checkpoint.
        path: PathBuf,
        /// Its step.
        at: u64,
        /// The step to make.
        step: u64,
    },
    /// It was asked to stop; see [`Stop`](crate::Stop). A run saves and ends in order instead.
    #[error("stopped on request")]
    Stopped,
    /// Images that do not come.
    #[error("no batch came in {seconds} s, waiting for {}", samples.join(", "))]
    DataStalled {
        /// How long was waited.
        seconds: u64,
        /// The samples of the batch.
        samples: Vec<String>,
    },
    /// Our own code or the device's gave up in the middle of a step.
    #[error("step {step} broke off: {message}")]
    Panicked {
        /// The optimizer step.
        step: u64,
        /// What it said.
        message: String,
    },
    /// Optimizer state that does not fit the ControlNet.
    #[error("the optimizer's state does not fit the ControlNet: `{tensor}` {problem}")]
    OptimizerState {
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// One step after another had to be skipped.
    #[error(
        "{n_steps} steps in a row were skipped after step {step}, each with a {found} that is not finite; their samples: {}",
        crate::nonfinite::listed(skipped)
    )]
    NonFiniteSteps {
        /// Optimizer steps made.
        step: u64,
        /// Steps skipped.
        n_steps: usize,
        /// What was found last.
        found: NonFinite,
        /// All of them.
        skipped: Vec<Skipped>,
        /// The step that the run was taken back to, if there is a checkpoint.
        back_at: Option<u64>,
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

    /// The error and its causes in one line.
    pub(crate) fn with_causes(&self) -> String {
        let causes = std::iter::successors(Some(self as &dyn std::error::Error), |error| error.source());
        causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
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
                "resume with the settings of that run, start a new one in another --output_dir, or continue all the same \
                 with --force_resume"
            }
            Self::NotSaved { .. } => "make room and continue with --resume_from_checkpoint latest",
            Self::RunFolderInUse { .. } => "wait for its end, or name another --output_dir",
            Self::Stopped => return None,
            Self::ReplayAfter { .. } => "give an earlier checkpoint, or a later --step",
            Self::DataStalled { .. } | Self::Panicked { .. } | Self::Group(_) | Self::RankFailed => {
                "continue with --resume_from_checkpoint latest when the cause is gone"
            }
            Self::OptimizerState { .. } => "the checkpoint was changed by hand; resume from another one",
            Self::TooManyRanks { .. } => "start fewer ranks",
            Self::HintLevels { .. } => {
                "give the channels of each level, as in `16 32 96 256`, or leave the flag out"
            }
            Self::NonFiniteSteps { back_at: None, .. } => {
                "look at these samples; if they are well, start again with a lower --learning_rate"
            }
            Self::NonFiniteSteps { back_at: Some(step), .. } => {
                return Some(format!(
                    "the run is back at step {step}: look at these samples; if they are well, resume with a lower \
                     --learning_rate"
                ));
            }
            Self::OutputDir { .. } => {
                "name another --output_dir, or make this one a folder that can be written"
            }
            Self::Io { .. } => return None,
        };
        Some(hint.to_owned())
    }
}

fn listed(differences: &[Difference]) -> String {
    differences.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Bytes as megabytes, rounded up.
fn megabytes(bytes: u64) -> u64 {
    bytes.div_ceil(1_000_000)
}
