//! The lines of `metrics.jsonl`, read leniently: a report of half a run is better than none.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::ReportError;

/// One line of `metrics.jsonl`.
///
/// Every field but the step is optional, so that files of older and newer versions can be read. A number that was not
/// finite is written as `null` and read as `None`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Record {
    /// A run began, or was resumed.
    Started(Started),
    /// Optimizer steps were made.
    Progress(Progress),
    /// A step was not made, because a number in it was not finite.
    Skipped {
        /// Optimizer steps made.
        step: u64,
    },
    /// A checkpoint was written.
    Checkpoint {
        /// Optimizer steps made.
        step: u64,
    },
    /// Validation pictures were drawn.
    Validation(Validation),
    /// The loss on samples that are kept the same for the whole run was measured.
    Evaluation(Evaluation),
    /// The hint took hold: the control gap opened.
    TookHold {
        /// Optimizer steps made.
        step: u64,
    },
    /// The ControlNet with the largest control gap so far was written.
    Best {
        /// Optimizer steps made.
        step: u64,
    },
    /// Something that the run's user should know.
    Warning {
        /// Optimizer steps made.
        step: u64,
        /// What, and what to do about it.
        #[serde(default)]
        message: String,
    },
    /// The run stopped on request.
    Stopped {
        /// Optimizer steps made.
        step: u64,
    },
    /// The trained ControlNet was written.
    Finished {
        /// Optimizer steps made.
        step: u64,
    },
    /// An event of another version.
    #[serde(other)]
    Unknown,
}

/// The size of a run.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Started {
    /// Pairs in the data set.
    pub n_examples: Option<u64>,
    /// Samples in a micro-batch.
    pub batch_size: Option<u64>,
    /// Micro-batches in an optimizer step.
    pub accumulation: Option<u64>,
    /// Optimizer steps in the whole run.
    pub total_steps: Option<u64>,
    /// Optimizer steps already made by the run that this one resumes.
    pub resumed_at: Option<u64>,
    /// Trainable parameters.
    pub n_parameters: Option<u64>,
}

/// The state of a run after an optimizer step.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct Progress {
    /// Optimizer steps made.
    pub step: u64,
    /// Optimizer steps in the whole run.
    pub total_steps: Option<u64>,
    /// Mean loss since the last report.
    pub loss: Option<f64>,
    /// Learning rate of the last step.
    pub lr: Option<f64>,
    /// Norm of all gradients of the last step, before clipping.
    pub grad_norm: Option<f64>,
    /// Training images per second since the last report.
    pub images_per_second: Option<f64>,
    /// Memory that the process holds (its resident set), in bytes.
    pub memory_bytes: Option<u64>,
    /// Seconds that the run has taken; a resumed run counts on from its checkpoint.
    pub seconds: Option<f64>,
}

/// Pictures drawn for fixed hints, prompts and noise.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct Validation {
    /// Optimizer steps made.
    pub step: u64,
    /// The grid of all pictures; the single pictures are beside it.
    pub grid: Option<PathBuf>,
    /// The prompt of each pair.
    #[serde(default)]
    pub prompts: Vec<String>,
}

/// The loss on the same samples, noise and timesteps as at every other evaluation of the run.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct Evaluation {
    /// Optimizer steps made.
    pub step: u64,
    /// Samples in the evaluation.
    pub n_samples: Option<u64>,
    /// Whether training never sees these samples.
    pub is_held_out: Option<bool>,
    /// The loss with each sample's own hint.
    pub loss: Option<f64>,
    /// The loss with another sample's hint.
    pub shuffled_loss: Option<f64>,
    /// `shuffled_loss - loss`: how much the hint matters.
    pub control_gap: Option<f64>,
    /// The standard error of `control_gap` over the samples.
    pub control_gap_error: Option<f64>,
    /// The losses of ranges of timesteps.
    #[serde(default)]
    pub bins: Vec<Bin>,
    /// How far each zero convolution is from zero.
    #[serde(default)]
    pub zero_convs: Vec<ZeroConv>,
}

/// The loss of a range of timesteps.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct Bin {
    /// The first timestep.
    pub first: u64,
    /// The last timestep, inclusive.
    pub last: u64,
    /// The loss with each sample's own hint.
    pub loss: Option<f64>,
    /// The loss with another sample's hint.
    pub shuffled_loss: Option<f64>,
}

/// The state of one zero convolution.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct ZeroConv {
    /// The block whose output it adds: `down 0`, `mid`.
    pub name: String,
    /// Norm of its weight.
    pub weight_norm: Option<f64>,
    /// Root mean square of what it adds to the UNet.
    pub residual_rms: Option<f64>,
}

impl Record {
    /// Reads one line; `None` if it is not a record, as the half line that a killed run leaves.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    /// The optimizer steps made when it was written.
    pub(crate) fn step(&self) -> Option<u64> {
        match self {
            Self::Started(_) | Self::Unknown => None,
            Self::Progress(progress) => Some(progress.step),
            Self::Validation(validation) => Some(validation.step),
            Self::Evaluation(evaluation) => Some(evaluation.step),
            Self::Checkpoint { step }
            | Self::TookHold { step }
            | Self::Best { step }
            | Self::Warning { step, .. }
            | Self::Skipped { step }
            | Self::Stopped { step }
            | Self::Finished { step } => Some(*step),
        }
    }
}

/// Reads the `metrics.jsonl` of a run's folder; lines that are no records are skipped.
///
/// # Errors
/// [`ReportError::Read`] if there is no such file or it cannot be read.
pub fn read_metrics(run_dir: &Path) -> Result<Vec<Record>, ReportError> {
    let path = run_dir.join("metrics.jsonl");
    let bytes = fs::read(&path).map_err(ReportError::read(&path))?;
    Ok(bytes.split(|byte| *byte == b'\n').filter_map(Record::parse).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asserts which steps are read from a file.
    fn check(metrics: &[u8], expected: &[Option<u64>]) {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join("metrics.jsonl"), metrics).expect("written");
        let records = read_metrics(dir.path()).expect("readable");
        assert_eq!(records.iter().map(Record::step).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_is_not_a_record_is_skipped() {
        check(b"", &[]);
        check(b"{\"event\":\"finished\",\"step\":7}\n{\"event\":\"progre", &[Some(7)]);
        check(b"\xff\xfe\x00\n[]\n3\n\n{\"event\":\"took_hold\",\"step\":4}\r\n", &[Some(4)]);
        check(b"{\"event\":\"progress\"}\n{\"event\":\"progress\",\"step\":-1}", &[]);
        check(b"{\"event\":\"progress\",\"step\":1,\"loss\":\"high\"}", &[]);
    }

    #[test]
    fn other_versions_events_and_fields_are_no_obstacle() {
        check(b"{\"event\":\"eclipse\",\"step\":3,\"moon\":[1]}", &[None]);
        check(b"{\"event\":\"progress\",\"step\":3,\"moon\":[1],\"loss\":null}", &[Some(3)]);
        check(b"{\"event\":\"started\"}\n{\"event\":\"validation\",\"step\":0}", &[None, Some(0)]);
        check(b"{\"event\":\"evaluation\",\"step\":9,\"bins\":[{\"first\":0,\"last\":9}]}", &[Some(9)]);
    }

    #[test]
    fn a_run_without_metrics_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().expect("a folder");
        let error = read_metrics(dir.path()).expect_err("no file");
        assert!(error.to_string().contains("metrics.jsonl"), "{error}");
    }
}
