//! What a training run tells its observer.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::TrainError;

/// Something that happened in a run, in the order in which it happened.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Everything is loaded and the first step comes next.
    Started(Banner),
    /// Optimizer steps were made; sent every `log_every` of them, before each checkpoint and after the last.
    Progress(Progress),
    /// A checkpoint is complete on disk.
    Checkpoint {
        /// Optimizer steps made.
        step: u64,
        /// The checkpoint's folder.
        path: PathBuf,
    },
    /// Validation images are on disk.
    Validation {
        /// Optimizer steps made.
        step: u64,
        /// The grid of all of them.
        grid: PathBuf,
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
}

/// Receives a run's events; an error from it ends the run.
pub trait Observer {
    /// Is told of an event just after it happened.
    ///
    /// # Errors
    /// If the observer cannot go on, for example because a disk is full.
    fn observe(&mut self, event: &Event) -> Result<(), TrainError>;
}

/// Tells two observers, the first one first.
pub(crate) struct Both<'a>(pub(crate) &'a mut dyn Observer, pub(crate) &'a mut dyn Observer);

impl Observer for Both<'_> {
    fn observe(&mut self, event: &Event) -> Result<(), TrainError> {
        self.0.observe(event)?;
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
