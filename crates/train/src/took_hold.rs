//! Sudden convergence: finding the step at which the hint took hold.

use serde::{Deserialize, Serialize};

use crate::events::Evaluation;

/// The gap must exceed so many standard errors: by chance, 16 samples give that once in 1,700 evaluations (one-sided
/// t-test), and two in a row are asked for.
const MIN_STANDARD_ERRORS: f64 = 4.0;

/// The gap must exceed this share of the loss. A zero convolution that has only begun to grow lets a little of any hint
/// through, alike on every sample: statistically certain, and of no use yet.
const MIN_SHARE_OF_LOSS: f64 = 0.01;

/// What the evaluations so far say about the hint; a checkpoint keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct TookHold {
    /// The step of the last evaluation, if the gap was open there.
    open_at: Option<u64>,
    /// The step at which the hint took hold.
    step: Option<u64>,
    /// Whether the user was told that the gap stays closed.
    is_warned: bool,
}

/// What is new after an evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finding {
    /// The hint took hold at this step.
    TookHold(u64),
    /// Half of the run is over and the gap is still closed.
    StillClosed,
}

impl TookHold {
    /// Takes note of the next evaluation of a run of `total_steps`; each finding comes once.
    pub(crate) fn observe(&mut self, evaluation: &Evaluation, total_steps: u64) -> Option<Finding> {
        if self.step.is_some() {
            return None;
        }
        let step = evaluation.step;
        if !is_open(evaluation) {
            self.open_at = None;
            let is_news = step >= total_steps.div_ceil(2) && !self.is_warned;
            self.is_warned |= is_news;
            return is_news.then_some(Finding::StillClosed);
        }
        match self.open_at {
            None => {
                self.open_at = Some(step);
                None
            }
            Some(first) => {
                self.step = Some(first);
                Some(Finding::TookHold(first))
            }
        }
    }
}

/// Whether the loss with shuffled hints is larger for certain, and by an amount that matters.
fn is_open(evaluation: &Evaluation) -> bool {
    let Evaluation { control_gap, control_gap_error, loss, .. } = evaluation;
    *control_gap > MIN_STANDARD_ERRORS * control_gap_error && *control_gap > MIN_SHARE_OF_LOSS * loss
}

#[cfg(test)]
mod tests {
    use pyrograph_data::random::{self, Purpose};

    use super::*;

    const TOTAL_STEPS: u64 = 1_000;

    fn evaluation(step: u64, control_gap: f64, control_gap_error: f64) -> Evaluation {
        Evaluation {
            step,
            n_samples: 16,
            is_held_out: true,
            loss: 0.1,
            bins: Vec::new(),
            shuffled_loss: 0.1 + control_gap,
            control_gap,
            control_gap_error,
            zero_convs: Vec::new(),
        }
    }

    /// The findings of a run with these gaps, 50 steps apart, and the step of the evaluation that made each.
    fn findings(gaps: &[(f64, f64)]) -> Vec<(u64, Finding)> {
        let mut took_hold = TookHold::default();
        let evaluations = (0..).step_by(50).zip(gaps);
        evaluations
            .filter_map(|(step, &(gap, error))| {
                let finding = took_hold.observe(&evaluation(step, gap, error), TOTAL_STEPS)?;
                Some((step, finding))
            })
            .collect()
    }

    /// Mean and standard error of 16 numbers of standard deviation `noise`, about uniform.
    fn noise(seed: u64, step: u64, noise: f64) -> (f64, f64) {
        let mut rng = random::rng(seed, step, "", Purpose::Evaluation);
        let draws: Vec<f64> = (0..16)
            .map(|_| (random::below(&mut rng, 2_001) as f64 / 1_000.0 - 1.0) * noise * 3.0_f64.sqrt())
            .collect();
        crate::evaluate::mean_and_error(&draws)
    }

    #[test]
    fn noise_alone_never_takes_hold() {
        for seed in 0..200 {
            let gaps: Vec<_> = (0..20).map(|step| noise(seed, step, 0.05)).collect();
            let found = findings(&gaps);
            assert!(!found.iter().any(|(_, finding)| matches!(finding, Finding::TookHold(_))), "{found:?}");
        }
    }

    #[test]
    fn a_jump_is_found_at_the_first_evaluation_that_shows_it() {
        for seed in 0..20 {
            let jump = |step| if step < 4 { 0.0 } else { 0.02 };
            let gaps: Vec<_> = (0..20)
                .map(|step| {
                    let (mean, error) = noise(seed, step, 0.008);
                    (mean + jump(step), error)
                })
                .collect();
            assert_eq!(findings(&gaps), [(250, Finding::TookHold(200))], "seed {seed}");
        }
    }

    #[test]
    fn one_open_evaluation_is_not_enough() {
        let (open, closed) = ((0.02, 0.001), (0.0, 0.001));
        assert_eq!(findings(&[closed, open, closed, open, closed]), []);
    }

    #[test]
    fn a_gap_that_is_certain_but_tiny_is_closed() {
        assert_eq!(findings(&[(0.0009, 0.000_001); 5]), []);
        assert_eq!(findings(&[(0.0011, 0.000_001); 5]), [(50, Finding::TookHold(0))]);
    }

    #[test]
    fn a_gap_still_closed_at_half_of_the_run_is_told_once() {
        assert_eq!(findings(&[(0.0, 0.001); 21]), [(500, Finding::StillClosed)]);
        let late = [[(0.0, 0.001); 15].as_slice(), &[(0.02, 0.001); 6]].concat();
        assert_eq!(findings(&late), [(500, Finding::StillClosed), (800, Finding::TookHold(750))]);
    }

    #[test]
    fn a_state_that_was_stored_finds_the_same() {
        let mut straight = TookHold::default();
        assert_eq!(straight.observe(&evaluation(50, 0.02, 0.001), TOTAL_STEPS), None);
        let stored = serde_json::to_string(&straight).expect("plain data");
        let mut resumed: TookHold = serde_json::from_str(&stored).expect("our own JSON");
        let next = evaluation(100, 0.03, 0.001);
        assert_eq!(resumed.observe(&next, TOTAL_STEPS), Some(Finding::TookHold(50)));
        assert_eq!(straight.observe(&next, TOTAL_STEPS), Some(Finding::TookHold(50)));
        assert_eq!(resumed.observe(&next, TOTAL_STEPS), None, "it is told once");
    }
}
