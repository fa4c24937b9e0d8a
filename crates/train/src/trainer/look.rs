//! Looking at what is learnt: evaluations and pictures.

use super::{STILL_CLOSED, Trainer};
use crate::TrainError;
use crate::best::Best;
use crate::evaluate::Outcome;
use crate::events::{Event, Observer};
use crate::loss::Frozen;
use crate::nonfinite::listed_with_timesteps;
use crate::stop::Stop;
use crate::took_hold::Finding;
use crate::validate::Studio;

impl Trainer {
    /// Evaluates if it is due, and tells what that says about the hint; keeps the ControlNet if it is the best so far.
    pub(super) fn evaluate_if_due(
        &mut self,
        total_steps: u64,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let Some(evaluator) = self.evaluator.as_ref().filter(|_| self.record.due.evaluation) else {
            self.record.due.evaluation = false;
            return Ok(());
        };
        let step = self.step();
        let frozen = Frozen { bundle: &self.bundle, schedule: &self.schedule };
        let outcome =
            evaluator.run(frozen, self.result(), &self.encoder, step, &self.stop_between(), &self.ranks);
        self.record.due.evaluation = false;
        let outcome = match outcome {
            // A file that was there when the run began; what is trained does not depend on it.
            Err(error @ TrainError::Data(_)) => {
                let message = format!("training goes on without this evaluation: {}", error.with_causes());
                return self.warn(message, observer);
            }
            Err(error) => {
                self.record.due.evaluation = true;
                return Err(error);
            }
            Ok(outcome) => outcome,
        };
        let evaluation = match outcome {
            Outcome::Finite(evaluation) => evaluation,
            Outcome::NotFinite(samples) => {
                self.record.skips.n_evaluations += 1;
                let (n_left_out, samples) =
                    (self.record.skips.n_evaluations, listed_with_timesteps(&samples));
                let message = format!(
                    "training goes on without this evaluation ({n_left_out} left out so far): the loss is not finite for {samples}"
                );
                return self.warn(message, observer);
            }
        };
        observer.observe(&Event::Evaluation(evaluation.clone()))?;
        match self.record.took_hold.observe(&evaluation, total_steps) {
            Some(Finding::TookHold(step)) => observer.observe(&Event::TookHold { step })?,
            Some(Finding::StillClosed) => self.warn(STILL_CLOSED.to_owned(), observer)?,
            None => {}
        }
        // Nothing was trained at step 0.
        if let Some(best) = Best::beaten_by(self.record.best, &evaluation).filter(|_| step > 0) {
            if !self.ranks.writes() {
                self.record.best = Some(best);
                return Ok(());
            }
            match best.save(&*self.disk, &self.plan.output_dir, &self.saved_result()) {
                Ok(path) => {
                    self.record.best = Some(best);
                    observer.observe(&Event::Best { step, control_gap: evaluation.control_gap, path })?;
                }
                Err(error) => self.warn(format!("training goes on: {}", error.with_causes()), observer)?,
            }
        }
        Ok(())
    }

    /// Draws the validation pictures if they are due.
    pub(super) fn validate_if_due(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        if !self.record.due.validation {
            return Ok(());
        }
        let step = self.step();
        let studio = Studio {
            bundle: &self.bundle,
            encoder: &self.encoder,
            device: &self.device,
            disk: &*self.disk,
            stop: &self.stop_between(),
            ranks: &self.ranks,
        };
        let drawn = self.validator.run(studio, self.result(), step, &self.plan.output_dir);
        if !matches!(drawn, Err(TrainError::Stopped)) {
            self.record.due.validation = false;
        }
        match drawn {
            Ok(Some(grid)) => {
                let prompts = self.validator.prompts();
                observer.observe(&Event::Validation { step, grid, prompts })
            }
            Ok(None) => Ok(()),
            Err(error @ (TrainError::Io { .. } | TrainError::NotSaved { .. })) => {
                self.warn(format!("training goes on: {}", error.with_causes()), observer)
            }
            Err(error) => Err(error),
        }
    }

    /// What ends something in the middle: several ranks stop together, after a batch.
    pub(super) fn stop_between(&self) -> Stop {
        if self.ranks.is_alone() { self.stop.clone() } else { Stop::default() }
    }
}
