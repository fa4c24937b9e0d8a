//! Whether the run has learnt to follow the hint, and what to do if not.

use crate::format::{count, significant};
use crate::run::Run;

/// Optimizer steps after which the hint takes hold in Stable Diffusion 1.5, late runs included.
///
/// Source: the ControlNet repository, discussion 198 ("SD1 fits at 4k to 6k").
const USUAL_STEPS: u64 = 6_000;

/// The answer to "is it learning?".
#[derive(Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) outcome: Outcome,
    pub(crate) headline: String,
    pub(crate) advice: String,
}

/// Whether the hint took hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    TookHold,
    NotYet,
    Unknown,
}

impl Verdict {
    pub(crate) fn of(run: &Run) -> Self {
        if let Some(step) = run.took_hold {
            return Self {
                outcome: Outcome::TookHold,
                headline: format!("The hint took hold at step {}.", count(step)),
                advice: effect(run).unwrap_or_else(|| {
                    "Since then a wrong hint makes the prediction worse: the model looks at it.".to_owned()
                }),
            };
        }
        let steps = run.step();
        if run.evaluations.is_empty() {
            let advice = if run.progress.is_empty() {
                "No step has been reported."
            } else {
                "Judge by the pictures: once they follow their hints, it has. An evaluation on held-out samples would name \
                 the step."
            };
            return Self {
                outcome: Outcome::Unknown,
                headline: "Whether the hint took hold was not measured.".to_owned(),
                advice: advice.to_owned(),
            };
        }
        let advice = if steps <= USUAL_STEPS {
            format!(
                "Give it more steps: Stable Diffusion 1.5 usually needs 4,000 to 6,000, and it happens suddenly. This run has \
                 made {}; watch the control gap, not the loss.",
                count(steps)
            )
        } else {
            format!(
                "After {} steps that is late. Check that every hint belongs to its picture, then try a larger batch or a \
                 higher learning rate.",
                count(steps)
            )
        };
        Self { outcome: Outcome::NotYet, headline: "The hint has not taken hold yet.".to_owned(), advice }
    }
}

/// What a wrong hint costs at the end.
fn effect(run: &Run) -> Option<String> {
    let last = run.last_evaluation()?;
    let (gap, loss) = (last.control_gap?, last.loss?);
    let percent = 100.0 * gap / loss;
    (percent.is_finite() && percent > 0.0).then(|| {
        format!(
            "A wrong hint now raises the loss by {} %: the model draws what the hint asks for.",
            significant(percent)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;

    fn verdict(lines: &str) -> Verdict {
        Verdict::of(&Run::from_records(lines.lines().filter_map(|line| Record::parse(line.as_bytes()))))
    }

    #[test]
    fn a_hint_that_took_hold_is_named_with_its_step_and_effect() {
        let verdict = verdict(
            "{\"event\":\"took_hold\",\"step\":1200}\n{\"event\":\"evaluation\",\"step\":1400,\"loss\":0.1,\"control_gap\":0.02}",
        );
        assert_eq!(verdict.headline, "The hint took hold at step 1,200.");
        assert!(verdict.advice.contains("by 20 %"), "{}", verdict.advice);
    }

    #[test]
    fn a_hint_that_did_not_comes_with_advice_for_its_age() {
        let early = verdict(r#"{"event":"evaluation","step":300}"#);
        assert_eq!(early.outcome, Outcome::NotYet);
        assert!(early.advice.contains("more steps"), "{}", early.advice);
        let late = verdict(r#"{"event":"evaluation","step":30000}"#);
        assert!(late.advice.contains("30,000 steps that is late"), "{}", late.advice);
    }

    #[test]
    fn what_was_not_measured_is_not_claimed() {
        assert_eq!(verdict("").outcome, Outcome::Unknown);
        assert_eq!(verdict(r#"{"event":"progress","step":3}"#).outcome, Outcome::Unknown);
    }
}
