//! What a training run tells its observer.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::TrainError;
use crate::metrics::MetricsFile;
use crate::nonfinite::Skipped;

/// Something that happened in a run, in the order in which it happened.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Everything is loaded and the first step comes next.
    Started(Banner),
    /// Optimizer steps were made; sent every `log_every` of them, before each checkpoint and after the last.
    Progress(Progress),
    /// A number was not finite, so a step was not made.
    Skipped(Skipped),
    /// A checkpoint is complete on disk.
    Checkpoint {
        /// Optimizer steps made.
        step: u64,
        /// The checkpoint's folder.
        path: PathBuf,
    },
    /// The ControlNet was evaluated: at step 0, every `eval_steps` steps and after the last.
    Evaluation(Evaluation),
    /// Two evaluations in a row found the control gap open; told once in a run.
    TookHold {
        /// Optimizer steps made at the first of the two.
        step: u64,
    },
    /// The ControlNet with the largest control gap so far is on disk.
    Best {
        /// Optimizer steps made.
        step: u64,
        /// Its control gap.
        control_gap: f64,
        /// Its folder.
        path: PathBuf,
    },
    /// Something that the run goes on with, but that its user should know.
    Warning {
        /// Optimizer steps made.
        step: u64,
        /// What, and what to do about it.
        message: String,
    },
    /// Validation images are on disk: at step 0, every `validation_steps` steps and after the last.
    Validation {
        /// Optimizer steps made.
        step: u64,
        /// The grid of all of them.
        grid: PathBuf,
        /// The prompt of each row.
        prompts: Vec<String>,
    },
    /// The run was asked to stop and has saved what it had.
    Stopped {
        /// Optimizer steps made.
        step: u64,
        /// The checkpoint to continue from.
        path: PathBuf,
    },
    /// The trained ControlNet is on disk.
    Finished {
        /// Optimizer steps made.
        step: u64,
        /// Its folder.
        path: PathBuf,
    },
}

/// The size of a run, as the reference scripts print it at the start.
#[derive(Debug, Clone, Serialize)]
pub struct Banner {
    /// Pairs in the data set.
    pub n_examples: usize,
    /// Batches in each epoch, the partial one included.
    pub batches_per_epoch: usize,
    /// Epochs, the last of which may end early.
    pub n_epochs: u64,
    /// Samples in a micro-batch.
    pub batch_size: usize,
    /// Micro-batches in an optimizer step.
    pub accumulation: usize,
    /// Optimizer steps in the whole run.
    pub total_steps: u64,
    /// Optimizer steps already made by the run that this one resumes.
    pub resumed_at: u64,
    /// Trainable parameters.
    pub n_parameters: usize,
    /// Where latents and prompt embeddings are kept: `off`, `memory`, or the folder.
    pub cache: String,
}

/// The state of a run after an optimizer step.
#[derive(Debug, Clone, Serialize)]
pub struct Progress {
    /// Optimizer steps made.
    pub step: u64,
    /// Optimizer steps in the whole run.
    pub total_steps: u64,
    /// The epoch of the last sample, counted from 0.
    pub epoch: u64,
    /// Mean loss over all samples since the last report.
    pub loss: f64,
    /// Learning rate of the last step.
    pub lr: f64,
    /// Norm of all gradients of the last step, before clipping.
    pub grad_norm: f64,
    /// Training images per second since the last report.
    pub images_per_second: f64,
    /// What the process holds in main memory, where the system tells. A GPU's memory is not in it.
    pub memory_bytes: Option<u64>,
    /// Seconds that the run has taken, loading left out; a resumed run counts on from its checkpoint.
    pub seconds: f64,
}

/// How well noise is predicted on samples, timesteps and noise that are the same in every evaluation of a run.
///
/// The loss with true and with shuffled hints differs in the hints alone. Before the ControlNet has learnt what
/// they mean, the two are equal; their difference, the control gap, opens when it has, which the loss does not show.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// Optimizer steps made.
    pub step: u64,
    /// Samples evaluated, each once in each bin.
    pub n_samples: usize,
    /// Whether no sample is trained on; a data set too small for that is evaluated on training samples.
    pub is_held_out: bool,
    /// Mean loss over samples and bins, each sample with its own hint.
    pub loss: f64,
    /// The same by timestep, from the least noise to the most.
    pub bins: Vec<TimestepBin>,
    /// Mean loss with the hint of another sample.
    pub shuffled_loss: f64,
    /// `shuffled_loss - loss`.
    pub control_gap: f64,
    /// The standard error of `control_gap` over the samples.
    pub control_gap_error: f64,
    /// The zero convolutions from the finest to the coarsest, the middle block's last.
    pub zero_convs: Vec<ZeroConv>,
}

/// The losses in a range of timesteps.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TimestepBin {
    /// The first timestep.
    pub first: usize,
    /// The last timestep.
    pub last: usize,
    /// Mean loss with the true hints.
    pub loss: f64,
    /// Mean loss with the hints of other samples.
    pub shuffled_loss: f64,
}

/// How much one zero convolution has grown and does.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ZeroConv {
    /// `down 0`, `down 1`, ..., `mid`.
    pub name: String,
    /// The Euclidean norm of its weight.
    pub weight_norm: f64,
    /// The root mean square of what it adds to the UNet, over the evaluation with the true hints.
    pub residual_rms: f64,
}

/// Receives a run's events; an error from it ends the run.
pub trait Observer {
    /// Is told of an event just after it happened.
    ///
    /// # Errors
    /// If the run must not go on, either. A full disk is no reason for that.
    fn observe(&mut self, event: &Event) -> Result<(), TrainError>;
}

/// Tells `metrics.jsonl`, then the run's observer.
pub(crate) struct Both<'a>(pub(crate) MetricsFile, pub(crate) &'a mut dyn Observer);

impl Observer for Both<'_> {
    fn observe(&mut self, event: &Event) -> Result<(), TrainError> {
        self.0.record(event);
        self.1.observe(event)
    }
}

impl Observer for () {
    fn observe(&mut self, _event: &Event) -> Result<(), TrainError> {
        Ok(())
    }
}

/// Where a validation's grid is kept, for an output folder and a step.
#[must_use]
pub(crate) fn validation_dir(output_dir: &Path, step: u64) -> PathBuf {
    output_dir.join("validation").join(format!("step-{step:06}"))
}
