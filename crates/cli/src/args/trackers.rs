//! The value of `--report_to`.

use std::str::FromStr;

use pyrograph_train::{Choice, ReportTo};

/// Trackers by the names of the reference, separated by commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trackers {
    written: ReportTo,
    /// Those that the reference writes to and this program does not.
    left_out: Vec<&'static str>,
}

/// A name that is no tracker of the reference.
#[derive(Debug, thiserror::Error)]
#[error("`{name}` is none of tensorboard, all, none, {}", ELSEWHERE.join(", "))]
pub(super) struct UnknownTracker {
    name: String,
}

/// Trackers of accelerate (1.10) that need a service or a library.
const ELSEWHERE: [&str; 8] =
    ["aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "trackio", "wandb"];

impl FromStr for Trackers {
    type Err = UnknownTracker;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (mut written, mut left_out) = (None, Vec::new());
        for name in text.split(',').map(str::trim) {
            let ours = ReportTo::NAMES.iter().find(|(ours, _)| *ours == name);
            let other = ELSEWHERE.iter().find(|other| **other == name);
            match (ours, other) {
                (Some((_, tracker)), _) => written = Some(*tracker),
                (None, Some(other)) => left_out.push(*other),
                (None, None) => return Err(UnknownTracker { name: name.to_owned() }),
            }
        }
        // What was to be kept elsewhere is better kept here than lost.
        Ok(Self { written: written.unwrap_or(ReportTo::Tensorboard), left_out })
    }
}

impl Trackers {
    pub(super) fn written(&self) -> ReportTo {
        self.written
    }

    /// Says what is left out.
    pub(super) fn tell(&self) {
        for name in &self.left_out {
            tracing::warn!("--report_to {name} has no effect: a run is reported to files only");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trackers_of_the_reference_are_known_and_others_are_not() {
        for (text, written, left_out) in [
            ("tensorboard", ReportTo::Tensorboard, &[][..]),
            ("all", ReportTo::All, &[]),
            ("none", ReportTo::None, &[]),
            ("wandb", ReportTo::Tensorboard, &["wandb"]),
            ("tensorboard,comet_ml, wandb", ReportTo::Tensorboard, &["comet_ml", "wandb"]),
        ] {
            let found: Trackers = text.parse().expect(text);
            assert_eq!(found, Trackers { written, left_out: left_out.to_vec() }, "{text}");
        }
        assert!("tensorbord".parse::<Trackers>().is_err());
    }
}
