//! How an error is told, and what the process exits with.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use pyrograph_data::DataError;
use pyrograph_diffusion::DiffusionError;
use pyrograph_hub::HubError;
use pyrograph_pipeline::PipelineError;
use pyrograph_train::{PlanError, TrainError};
use pyrograph_weights::WeightsError;

use crate::args::UsageError;
use crate::backend::DeviceError;

/// What a run came to; documented in `--help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything asked for is done.
    Done,
    /// The run itself failed.
    Failed,
    /// What the user gave cannot be used. Nothing was written, unless training met a file that cannot be read.
    BadInput,
    /// It stopped on request and can be continued.
    Stopped,
}

impl Outcome {
    /// What a process exits with.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::BadInput => 2,
            Self::Stopped => 3,
        }
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        outcome.code().into()
    }
}

/// Tells an error on standard error and says what it is.
pub(crate) fn print(error: &anyhow::Error) -> Outcome {
    // Nobody is left to tell if standard error is closed.
    let _ = write!(std::io::stderr().lock(), "{}", text(error));
    outcome(error)
}

/// The error, its causes, and the first hint that one of them has.
fn text(error: &anyhow::Error) -> String {
    let mut text = format!("error: {error}\n");
    for cause in error.chain().skip(1) {
        // A TOML error ends with a line break of its own.
        text += &format!("  caused by: {}\n", cause.to_string().trim_end());
    }
    if let Some(hint) = error.chain().find_map(hint) {
        text += &format!("\nhint: {hint}\n");
    }
    text
}

/// The hint of one link of a chain of errors, if it is an error of ours that has one.
fn hint(link: &(dyn Error + 'static)) -> Option<String> {
    fn of<E: Error + 'static>(
        link: &(dyn Error + 'static),
        hint: fn(&E) -> Option<String>,
    ) -> Option<String> {
        link.downcast_ref::<E>().and_then(hint)
    }
    of(link, UsageError::hint)
        .or_else(|| of(link, PlanError::hint))
        .or_else(|| of(link, TrainError::hint))
        .or_else(|| of(link, PipelineError::hint))
        .or_else(|| of(link, DiffusionError::hint))
        .or_else(|| of(link, WeightsError::hint))
        .or_else(|| of(link, DataError::hint))
        .or_else(|| of(link, HubError::hint))
        .or_else(|| of(link, DeviceError::hint))
}

/// Bad input, unless a link of the chain is of a kind that good input can meet too.
fn outcome(error: &anyhow::Error) -> Outcome {
    let is_failure = |link: &(dyn Error + 'static)| {
        matches!(
            link.downcast_ref::<TrainError>(),
            Some(
                TrainError::NonFiniteSteps { .. }
                    | TrainError::OptimizerState { .. }
                    | TrainError::NotSaved { .. }
                    | TrainError::DataStalled { .. }
                    | TrainError::Panicked { .. }
                    | TrainError::Io { .. }
            )
        ) || matches!(
            link.downcast_ref::<DataError>(),
            Some(DataError::Write { .. } | DataError::Encode { .. })
        ) || matches!(
            link.downcast_ref::<WeightsError>(),
            Some(WeightsError::Write { .. } | WeightsError::ReadBack { .. })
        ) || link.downcast_ref::<HubError>().is_some_and(|error| {
            error.is_of_the_network() || matches!(error, HubError::Write { .. } | HubError::DiskFull { .. })
        })
    };
    let is_ours = |link: &(dyn Error + 'static)| {
        link.is::<UsageError>()
            || link.is::<PlanError>()
            || link.is::<TrainError>()
            || link.is::<PipelineError>()
            || link.is::<DiffusionError>()
            || link.is::<WeightsError>()
            || link.is::<DataError>()
            || link.is::<HubError>()
            || link.downcast_ref::<DeviceError>().is_some_and(DeviceError::is_of_a_setting)
    };
    if error.chain().any(is_failure) || !error.chain().any(is_ours) {
        Outcome::Failed
    } else {
        Outcome::BadInput
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn an_error_shows_its_causes_and_a_hint() {
        let error = TrainError::Data(DataError::Empty { dir: "circles".into() });
        assert_eq!(
            text(&anyhow::Error::new(error)),
            "error: cannot read the training data\n  caused by: the data set `circles` is empty\n"
        );
        let error = TrainError::Data(DataError::TooFewSamples { requested: 9, available: 3 });
        let text = text(&anyhow::Error::new(error).context("cannot train"));
        assert!(
            text.starts_with(
                "error: cannot train\n  caused by: cannot read the training data\n  caused by: "
            ),
            "{text}"
        );
        assert!(text.ends_with("\n\nhint: lower `--max_train_samples` or leave it out\n"), "{text}");
    }

    #[test]
    fn bad_input_and_failed_runs_have_different_exit_codes() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let outcome_of = |error: anyhow::Error| outcome(&error);
        assert_eq!(outcome_of(PlanError::NoDataSource.into()), Outcome::BadInput);
        assert_eq!(outcome_of(DataError::Empty { dir: "circles".into() }.into()), Outcome::BadInput);
        assert_eq!(outcome_of(DataError::Write { path: "a".into(), source: full() }.into()), Outcome::Failed);
        assert_eq!(
            outcome_of(TrainError::DataStalled { seconds: 3, samples: Vec::new() }.into()),
            Outcome::Failed
        );
        assert_eq!(outcome_of(DeviceError::Moments.into()), Outcome::BadInput);
        assert_eq!(outcome_of(DeviceError::NotFound.into()), Outcome::Failed);
        assert_eq!(outcome_of(anyhow::anyhow!("anything else")), Outcome::Failed);
    }
}
