//! A run as its records tell it, with what was done twice counted once.

use std::collections::BTreeMap;

use crate::record::{Evaluation, Progress, Record, Started, Validation};

/// What is known of a run; maps are by optimizer step.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) started: Started,
    pub(crate) progress: BTreeMap<u64, Progress>,
    pub(crate) validations: BTreeMap<u64, Validation>,
    pub(crate) evaluations: BTreeMap<u64, Evaluation>,
    pub(crate) took_hold: Option<u64>,
    /// Where the control gap was largest.
    pub(crate) best: Option<u64>,
    /// Each message once, with its first step.
    pub(crate) warnings: Vec<(u64, String)>,
    pub(crate) is_finished: bool,
}

/// What is said of steps that were not made.
const SKIPPED: &str = "a number was not finite, so this step was skipped, and perhaps later ones; metrics.jsonl names their samples";

impl Run {
    pub(crate) fn from_records(records: impl IntoIterator<Item = Record>) -> Self {
        let mut run = Self::default();
        for record in records {
            match record {
                Record::Started(started) => {
                    run.forget_after(started.resumed_at.unwrap_or(0));
                    run.started = started;
                }
                Record::Progress(progress) => {
                    run.progress.insert(progress.step, progress);
                }
                Record::Validation(validation) => {
                    run.validations.insert(validation.step, validation);
                }
                Record::Evaluation(evaluation) => {
                    run.evaluations.insert(evaluation.step, evaluation);
                }
                Record::TookHold { step } => run.took_hold = run.took_hold.or(Some(step)),
                Record::Best { step } => run.best = Some(step),
                Record::Warning { step, message } => run.warn(step, message),
                Record::Skipped { step } => run.warn(step, SKIPPED.to_owned()),
                Record::Finished { .. } => run.is_finished = true,
                Record::Checkpoint { .. } | Record::Stopped { .. } | Record::Unknown => {}
            }
        }
        run
    }

    fn warn(&mut self, step: u64, message: String) {
        if self.warnings.iter().all(|(_, other)| *other != message) {
            self.warnings.push((step, message));
        }
    }

    /// Steps after a checkpoint are made again by the run that resumes from it.
    fn forget_after(&mut self, step: u64) {
        self.progress.retain(|other, _| *other <= step);
        self.validations.retain(|other, _| *other <= step);
        self.evaluations.retain(|other, _| *other <= step);
        self.warnings.retain(|(other, _)| *other <= step);
        self.took_hold = self.took_hold.filter(|other| *other <= step);
        self.best = self.best.filter(|other| *other <= step);
        self.is_finished = false;
    }

    /// Optimizer steps made, as far as it was reported.
    pub(crate) fn step(&self) -> u64 {
        let last = |step: Option<&u64>| step.copied().unwrap_or(0);
        last(self.progress.keys().next_back())
            .max(last(self.evaluations.keys().next_back()))
            .max(last(self.validations.keys().next_back()))
    }

    /// Optimizer steps in the whole run.
    pub(crate) fn total_steps(&self) -> Option<u64> {
        let reported = self.progress.values().next_back().and_then(|progress| progress.total_steps);
        reported.or(self.started.total_steps)
    }

    /// Seconds that the run has taken.
    pub(crate) fn seconds(&self) -> Option<f64> {
        self.progress.values().rev().find_map(|progress| progress.seconds)
    }

    pub(crate) fn last_evaluation(&self) -> Option<&Evaluation> {
        self.evaluations.values().next_back()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(lines: &str) -> Run {
        Run::from_records(lines.lines().filter_map(|line| Record::parse(line.as_bytes())))
    }

    #[test]
    fn a_resumed_run_counts_no_step_twice() {
        let run = run(r#"{"event":"started","resumed_at":0,"total_steps":4}
{"event":"progress","step":2,"loss":0.5,"seconds":20}
{"event":"progress","step":3,"loss":0.4,"seconds":30}
{"event":"took_hold","step":3}
{"event":"finished","step":3}
{"event":"started","resumed_at":2,"total_steps":8}
{"event":"progress","step":4,"loss":0.2,"seconds":41}"#);
        assert_eq!(run.progress.keys().copied().collect::<Vec<_>>(), [2, 4]);
        assert_eq!((run.took_hold, run.is_finished, run.step()), (None, false, 4));
        assert_eq!(run.total_steps(), Some(8));
        assert_eq!(run.seconds(), Some(41.0));
    }

    #[test]
    fn the_pictures_from_before_the_first_step_are_kept() {
        let run = run("{\"event\":\"validation\",\"step\":0}\n{\"event\":\"started\",\"resumed_at\":0}");
        assert_eq!(run.validations.len(), 1);
    }

    #[test]
    fn a_warning_is_told_once() {
        let lines = [3, 5].map(|step| format!(r#"{{"event":"warning","step":{step},"message":"too dark"}}"#));
        assert_eq!(run(&lines.join("\n")).warnings, [(3, "too dark".to_owned())]);
    }

    #[test]
    fn the_hint_takes_hold_once() {
        let run = run("{\"event\":\"took_hold\",\"step\":3}\n{\"event\":\"took_hold\",\"step\":9}");
        assert_eq!(run.took_hold, Some(3));
    }
}
