//! Learning-rate schedules: the factor on the learning rate as a function of the step.
//!
//! Source: diffusers 0.42.1, `optimization.py`, reached through `get_scheduler` as `train_controlnet.py` does.

use std::f64::consts::PI;
use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::plan::PlanError;

/// The name of a schedule: `--lr_scheduler`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LrScheduler {
    /// The learning rate itself, from the first step.
    #[default]
    Constant,
    /// Constant after a linear warmup.
    ConstantWithWarmup,
    /// Down to 0 in a line.
    Linear,
    /// Down to 0 along half a cosine.
    Cosine,
    /// Half cosines, one after the other.
    CosineWithRestarts,
    /// Down to 1e-7 along a power.
    Polynomial,
    /// Steps at given places.
    PiecewiseConstant,
}

impl LrScheduler {
    /// Every schedule.
    pub const ALL: [Self; 7] = [
        Self::Constant,
        Self::ConstantWithWarmup,
        Self::Linear,
        Self::Cosine,
        Self::CosineWithRestarts,
        Self::Polynomial,
        Self::PiecewiseConstant,
    ];

    /// The name in files and flags.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::ConstantWithWarmup => "constant_with_warmup",
            Self::Linear => "linear",
            Self::Cosine => "cosine",
            Self::CosineWithRestarts => "cosine_with_restarts",
            Self::Polynomial => "polynomial",
            Self::PiecewiseConstant => "piecewise_constant",
        }
    }
}

impl fmt::Display for LrScheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for LrScheduler {
    type Err = PlanError;

    fn from_str(name: &str) -> Result<Self, PlanError> {
        let known = Self::ALL.into_iter().find(|scheduler| scheduler.name() == name);
        known.ok_or_else(|| PlanError::UnknownLrScheduler { name: name.to_owned() })
    }
}

/// A schedule with all that it needs. Steps count updates of the ControlNet, not micro-batches.
#[derive(Debug, Clone, PartialEq)]
pub enum LrSchedule {
    /// 1.
    Constant,
    /// From 0 to 1 in a line, then 1.
    ConstantWithWarmup {
        /// Steps of the warmup; the first has the factor 0.
        warmup_steps: u64,
    },
    /// After the warmup from 1 to 0 in a line.
    Linear {
        /// Steps of the warmup.
        warmup_steps: u64,
    },
    /// After the warmup from 1 to 0 along half a cosine.
    Cosine {
        /// Steps of the warmup.
        warmup_steps: u64,
    },
    /// After the warmup `num_cycles` times from 1 to 0 along half a cosine.
    CosineWithRestarts {
        /// Steps of the warmup.
        warmup_steps: u64,
        /// How many times it falls.
        num_cycles: NonZeroU64,
    },
    /// After the warmup from 1 to `end_multiplier` along `(1 - progress)^power`.
    Polynomial {
        /// Steps of the warmup.
        warmup_steps: u64,
        /// 1 is a line.
        power: f64,
        /// The factor from the last step on.
        end_multiplier: f64,
    },
    /// The factor of the piece that holds the step.
    PiecewiseConstant {
        /// The pieces.
        rules: StepRules,
    },
}

impl LrSchedule {
    /// The learning rate of [`LrSchedule::Polynomial`] at its end.
    ///
    /// Source: diffusers 0.42.1, `get_polynomial_decay_schedule_with_warmup`, `lr_end`.
    pub const POLYNOMIAL_END: f64 = 1e-7;

    /// Its name.
    #[must_use]
    pub fn scheduler(&self) -> LrScheduler {
        match self {
            Self::Constant => LrScheduler::Constant,
            Self::ConstantWithWarmup { .. } => LrScheduler::ConstantWithWarmup,
            Self::Linear { .. } => LrScheduler::Linear,
            Self::Cosine { .. } => LrScheduler::Cosine,
            Self::CosineWithRestarts { .. } => LrScheduler::CosineWithRestarts,
            Self::Polynomial { .. } => LrScheduler::Polynomial,
            Self::PiecewiseConstant { .. } => LrScheduler::PiecewiseConstant,
        }
    }

    /// Steps of its warmup, if it can have one.
    #[must_use]
    pub fn warmup_steps(&self) -> Option<u64> {
        match self {
            Self::Constant | Self::PiecewiseConstant { .. } => None,
            Self::ConstantWithWarmup { warmup_steps }
            | Self::Linear { warmup_steps }
            | Self::Cosine { warmup_steps }
            | Self::CosineWithRestarts { warmup_steps, .. }
            | Self::Polynomial { warmup_steps, .. } => Some(*warmup_steps),
        }
    }

    /// The factor on the learning rate in update `step`, counted from 0, of `total_steps`.
    #[must_use]
    pub fn multiplier(&self, step: u64, total_steps: u64) -> f64 {
        let after_warmup = |warmup_steps: u64, decay: &dyn Fn(f64) -> f64| {
            if step < warmup_steps {
                return count(step) / count(warmup_steps);
            }
            decay(count(step - warmup_steps) / count(total_steps.saturating_sub(warmup_steps).max(1)))
        };
        match self {
            Self::Constant => 1.0,
            Self::ConstantWithWarmup { warmup_steps } => after_warmup(*warmup_steps, &|_| 1.0),
            Self::Linear { warmup_steps } => {
                after_warmup(*warmup_steps, &|progress| (1.0 - progress).max(0.0))
            }
            Self::Cosine { warmup_steps } => after_warmup(*warmup_steps, &half_cosine),
            Self::CosineWithRestarts { warmup_steps, num_cycles } => {
                after_warmup(*warmup_steps, &|progress| {
                    if progress >= 1.0 {
                        0.0
                    } else {
                        half_cosine((count(num_cycles.get()) * progress) % 1.0)
                    }
                })
            }
            Self::Polynomial { warmup_steps, power, end_multiplier } => {
                after_warmup(*warmup_steps, &|progress| {
                    end_multiplier + (1.0 - end_multiplier) * (1.0 - progress).max(0.0).powf(*power)
                })
            }
            Self::PiecewiseConstant { rules } => rules.multiplier(step),
        }
    }
}

/// From 1 at 0 to 0 at 1; it rises again after that, as in the reference.
fn half_cosine(progress: f64) -> f64 {
    0.5 * (1.0 + (PI * progress).cos())
}

/// A number of steps as a float.
#[expect(clippy::cast_precision_loss, reason = "a run has far fewer than 2^53 steps")]
fn count(steps: u64) -> f64 {
    steps as f64
}

/// The pieces of a piecewise constant schedule, written as `1:10,0.1:20,0.005`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StepRules {
    /// A factor and the first step that it no longer holds for; steps ascend.
    pieces: Vec<(f64, u64)>,
    /// The factor from there on.
    last: f64,
}

impl StepRules {
    fn multiplier(&self, step: u64) -> f64 {
        self.pieces.iter().find(|(_, end)| step < *end).map_or(self.last, |(factor, _)| *factor)
    }
}

impl FromStr for StepRules {
    type Err = PlanError;

    fn from_str(rules: &str) -> Result<Self, PlanError> {
        parse_rules(rules).ok_or_else(|| PlanError::InvalidStepRules { rules: rules.to_owned() })
    }
}

fn parse_rules(rules: &str) -> Option<StepRules> {
    let factor =
        |text: &str| text.trim().parse().ok().filter(|factor: &f64| factor.is_finite() && *factor >= 0.0);
    let (pieces, last) = rules.rsplit_once(',').map_or((None, rules), |(pieces, last)| (Some(pieces), last));
    let pieces = pieces.map_or(Some(Vec::new()), |pieces| {
        let piece = |piece: &str| {
            let (value, end) = piece.split_once(':')?;
            Some((factor(value)?, end.trim().parse().ok()?))
        };
        pieces.split(',').map(piece).collect()
    })?;
    let ascends = pieces.windows(2).all(|pair: &[(f64, u64)]| pair[0].1 < pair[1].1);
    Some(StepRules { pieces, last: factor(last)? }).filter(|_| ascends)
}

impl fmt::Display for StepRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (factor, end) in &self.pieces {
            write!(f, "{factor}:{end},")?;
        }
        write!(f, "{}", self.last)
    }
}

impl TryFrom<String> for StepRules {
    type Error = PlanError;

    fn try_from(rules: String) -> Result<Self, PlanError> {
        rules.parse()
    }
}

impl From<StepRules> for String {
    fn from(rules: StepRules) -> Self {
        rules.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asserts the factors at some steps of a run of 20.
    fn check(schedule: &LrSchedule, expected: &[(u64, f64)]) {
        for (step, factor) in expected {
            let found = schedule.multiplier(*step, 20);
            assert!((found - factor).abs() < 1e-12, "{schedule:?} at {step}: {found}, expected {factor}");
        }
    }

    #[test]
    fn schedules_pass_through_their_landmarks() {
        let warmup_steps = 4;
        check(&LrSchedule::Constant, &[(0, 1.0), (20, 1.0)]);
        check(&LrSchedule::ConstantWithWarmup { warmup_steps }, &[(0, 0.0), (1, 0.25), (4, 1.0), (20, 1.0)]);
        check(&LrSchedule::Linear { warmup_steps }, &[(0, 0.0), (4, 1.0), (12, 0.5), (20, 0.0), (25, 0.0)]);
        check(&LrSchedule::Cosine { warmup_steps }, &[(0, 0.0), (4, 1.0), (12, 0.5), (20, 0.0)]);
        let num_cycles = NonZeroU64::new(2).unwrap();
        let restarts = LrSchedule::CosineWithRestarts { warmup_steps, num_cycles };
        check(&restarts, &[(0, 0.0), (4, 1.0), (8, 0.5), (12, 1.0), (16, 0.5), (20, 0.0)]);
        let polynomial = LrSchedule::Polynomial { warmup_steps, power: 2.0, end_multiplier: 0.1 };
        check(&polynomial, &[(0, 0.0), (4, 1.0), (12, 0.325), (20, 0.1), (25, 0.1)]);
        let rules = "1:10,0.1:15,0.005".parse().unwrap();
        check(
            &LrSchedule::PiecewiseConstant { rules },
            &[(0, 1.0), (9, 1.0), (10, 0.1), (14, 0.1), (15, 0.005)],
        );
    }

    #[test]
    fn a_warmup_longer_than_the_run_never_ends() {
        check(&LrSchedule::Linear { warmup_steps: 500 }, &[(0, 0.0), (19, 19.0 / 500.0)]);
    }

    #[test]
    fn step_rules_are_written_as_they_were_read() {
        for rules in ["1:10,0.1:20,0.01:30,0.005", "0.5"] {
            assert_eq!(rules.parse::<StepRules>().unwrap().to_string(), rules);
        }
    }

    #[test]
    fn rules_that_do_not_ascend_or_parse_are_refused() {
        for rules in
            ["", "1:10", "1:10,", "1:20,0.1:10,0.005", "one:10,0.1", "1:ten,0.1", "1:10,NaN", "-1:10,1"]
        {
            assert!(rules.parse::<StepRules>().is_err(), "{rules}");
        }
    }
}
