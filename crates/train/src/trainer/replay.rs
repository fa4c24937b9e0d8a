//! Making a step again, to look at it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::DType;
use pyrograph_weights::save_tensors;
use serde::Serialize;

use super::Trainer;
use crate::TrainError;
use crate::batch::Batch;
use crate::checkpoint::Checkpoint;
use crate::loss::{Draw, accumulate, timesteps};
use crate::plan::{ResumeFrom, TrainPlan};
use crate::stopwatch::Stopwatch;
use crate::trainer::step::{Part, Step};
use crate::window::Window;

/// A step that was made again, with the same samples, timesteps and noise.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Replay {
    /// The step; it is the one that the run counts so when it is made.
    pub step: u64,
    /// What was continued from.
    pub checkpoint: PathBuf,
    /// Its learning rate.
    pub lr: f64,
    /// The attempts to make it: one, unless numbers were not finite and it was skipped.
    pub attempts: Vec<Attempt>,
}

/// One attempt at a step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Attempt {
    /// The norm of all gradients before clipping.
    pub grad_norm: f64,
    /// What was accumulated.
    pub micro_batches: Vec<ReplayedBatch>,
}

/// A micro-batch that was made again.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReplayedBatch {
    /// Micro-batches made before it.
    pub micro_step: u64,
    /// Its loss.
    pub loss: f64,
    /// Its samples.
    pub samples: Vec<ReplayedSample>,
}

/// A sample that was seen again.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReplayedSample {
    /// [`Sample::id`](pyrograph_data::Sample::id).
    pub id: String,
    /// The timestep drawn for it.
    pub timestep: usize,
    /// Its loss alone.
    pub loss: f64,
}

impl Replay {
    /// The plan of a run's folder, continued from its newest checkpoint before `step`, or from the one given.
    ///
    /// # Errors
    /// [`TrainError::NoCheckpoint`] if there is none, [`TrainError::NotACheckpoint`] if it is damaged,
    /// [`TrainError::ReplayAfter`] if it is of that step or a later one.
    pub fn plan(run_dir: &Path, step: u64, checkpoint: Option<&Path>) -> Result<TrainPlan, TrainError> {
        let checkpoint = match checkpoint {
            Some(path) => Checkpoint::open(path)?,
            None => Checkpoint::latest_before(run_dir, step.saturating_sub(1))?,
        };
        let at = u64::from(checkpoint.position().optimizer_step);
        if at >= step {
            return Err(TrainError::ReplayAfter { path: checkpoint.path().to_owned(), at, step });
        }
        let mut plan = checkpoint.plan()?;
        plan.checkpoint.resume_from = ResumeFrom::Path(checkpoint.path().to_owned());
        Ok(plan)
    }
}

impl Trainer {
    /// Makes the steps up to `step`, and that one with an eye on everything. What its networks are given is written to
    /// `seen`, if that is asked for; nothing else is.
    ///
    /// # Errors
    /// As [`Trainer::run`].
    pub fn replay(&mut self, step: u64, seen: Option<&Path>) -> Result<Replay, TrainError> {
        let total_steps = self.banner().total_steps;
        let mut loader = self.loader()?;
        let (mut window, mut stopwatch) = (Window::new(), Stopwatch::at_rest());
        while self.step() + 1 < step {
            let lr = self.plan.optimizer.learning_rate_at(self.step(), total_steps);
            let made = self.optimizer_step(&mut loader, lr, &mut window, &mut stopwatch)?;
            if let Step::Skipped(found, samples) = made {
                self.skip(found, samples, &mut ())?;
            }
        }
        let lr = self.plan.optimizer.learning_rate_at(self.step(), total_steps);
        let checkpoint = match &self.plan.checkpoint.resume_from {
            ResumeFrom::Path(path) => path.clone(),
            ResumeFrom::Latest | ResumeFrom::Fresh => self.plan.output_dir.clone(),
        };
        let mut attempts: Vec<Attempt> = Vec::new();
        let max_attempts = self.plan.optimizer.max_nonfinite_steps.get() as usize;
        while attempts.last().is_none_or(|last| !last.grad_norm.is_finite()) && attempts.len() < max_attempts
        {
            attempts.push(self.attempt(&mut loader, seen)?);
        }
        Ok(Replay { step, checkpoint, lr, attempts })
    }

    /// The micro-batches of one step, each as a whole and sample by sample.
    fn attempt(
        &mut self,
        loader: &mut pyrograph_data::Loader,
        seen: Option<&Path>,
    ) -> Result<Attempt, TrainError> {
        let mut stopwatch = Stopwatch::at_rest();
        let (mut sum, mut micro_batches) = (None, Vec::new());
        for _ in 0..self.plan.optimizer.accumulation_steps.get() {
            let Some(Part { host, .. }) = self.next_batch_with_samples(loader, micro_batches.len())? else {
                break;
            };
            let cursor_after = host.cursor_after;
            let batch = self.batch(host)?;
            let micro_step = self.position.micro_step;
            if let Some(dir) = seen {
                self.write_seen(&batch, dir, micro_step)?;
            }
            let draw = Draw { seed: self.plan.seed, micro_step };
            let times = timesteps(&batch.ids, draw, self.schedule.n_train_timesteps());
            let (loss, gradients) = self.micro_batch(&batch, draw, 1.0, &mut stopwatch);
            accumulate(&mut sum, gradients);
            let sample = |(place, timestep): (usize, usize)| {
                let (loss, _) = self.micro_batch(&batch.only(place), draw, 1.0, &mut Stopwatch::at_rest());
                let (id, loss) = (batch.ids[place].clone(), f64::from(loss.into_scalar::<f32>()));
                ReplayedSample { id, timestep, loss }
            };
            let samples = times.into_iter().enumerate().map(sample).collect();
            let loss = f64::from(loss.into_scalar::<f32>());
            micro_batches.push(ReplayedBatch { micro_step, loss, samples });
            self.position.micro_step += 1;
            self.position.cursor = cursor_after;
            if cursor_after.batch == 0 {
                break;
            }
        }
        let norm = sum.expect("accumulation is at least 1").norm();
        let grad_norm = norm.map_or(0.0, |norm| f64::from(norm.into_scalar::<f32>()));
        Ok(Attempt { grad_norm, micro_batches })
    }

    /// Writes the tensors of a micro-batch as `micro-N.safetensors`.
    fn write_seen(&self, batch: &Batch, dir: &Path, micro_step: u64) -> Result<(), TrainError> {
        self.disk.create_dir(dir).map_err(TrainError::io(dir))?;
        let tensors = BTreeMap::from([
            ("moments".to_owned(), batch.moments.clone().cast(DType::F32).into_data()),
            ("hint".to_owned(), batch.hint.clone().cast(DType::F32).into_data()),
            ("context".to_owned(), batch.conditioning.context.clone().cast(DType::F32).into_data()),
        ]);
        let metadata = BTreeMap::from([("ids".to_owned(), batch.ids.join("\n"))]);
        let path = dir.join(format!("micro-{micro_step}.safetensors"));
        save_tensors(&path, &tensors, &metadata, &*self.disk).map_err(TrainError::Weights)
    }
}
