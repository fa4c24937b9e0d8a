//! One optimizer step, and what is done about one that cannot be made.

use std::time::{Duration, Instant};

use burn::prelude::*;
use burn::tensor::DType;
use pyrograph_data::{HostBatch, Loader};

use super::Trainer;
use crate::TrainError;
use crate::batch::{Batch, Dropout};
use crate::checkpoint::{Checkpoint, Restored};
use crate::events::{Event, Observer};
use crate::loss::{Draw, Frozen, LossOptions, accumulate, control_gradients, timesteps};
use crate::nonfinite::{NonFinite, Skipped, Suspect};
use crate::optim::{Gradients, Shapes};
use crate::stopwatch::{Phase, Stopwatch};
use crate::tap::Tapped;
use crate::trainee::Trainee;
use crate::window::Window;

/// How long a batch is waited for before looking at the wish to stop again.
const GLANCE: Duration = Duration::from_millis(100);
/// How often it is said that a batch does not come.
const REMINDER: Duration = Duration::from_secs(60);
/// How long a batch is waited for: a network drive may come back, a thread that hangs does not.
const MAX_WAIT: Duration = Duration::from_secs(1800);

/// What became of an optimizer step.
#[derive(Debug)]
pub(crate) enum Step {
    /// The parameters are updated; the norm of the gradients before clipping.
    Made(f64),
    /// They are as before.
    Skipped(NonFinite, Vec<Suspect>),
    /// They are as before, and the next loss is scaled less: a gradient overflowed in fp16.
    Rescaled,
}

/// Numbers that are summed over all ranks at once: 256 MiB.
const BUCKET: usize = 64 << 20;

/// A rank's part of a micro-batch, computed.
struct Micro {
    loss: Tensor<1>,
    /// Of the samples of all ranks.
    share: f64,
    samples: Vec<Suspect>,
}

/// What of a step is not finite, and where it may come from.
type Fault = (NonFinite, Vec<Suspect>);

/// A rank's part of a batch.
pub(super) struct Part {
    /// May have no samples, if others have some.
    pub(super) host: HostBatch,
    /// The part's share of the samples of all ranks.
    pub(super) share: f64,
}

impl Trainer {
    /// One optimizer step: the micro-batches of one accumulation group, backward, clip, update. After an error the run is
    /// where it was before.
    ///
    /// The last group of an epoch may be short; its gradients are divided by the full number all the same, as the
    /// references do.
    pub(crate) fn optimizer_step(
        &mut self,
        loader: &mut Loader,
        lr: f64,
        window: &mut Window,
        stopwatch: &mut Stopwatch,
    ) -> Result<Step, TrainError> {
        let done = self.try_step(loader, lr, window, stopwatch);
        match done {
            Ok(_) => self.step_began = self.position,
            Err(_) => self.position = self.step_began,
        }
        done
    }

    fn try_step(
        &mut self,
        loader: &mut Loader,
        lr: f64,
        window: &mut Window,
        stopwatch: &mut Stopwatch,
    ) -> Result<Step, TrainError> {
        let (micros, gradients) = match self.accumulated(loader, stopwatch)? {
            Ok(computed) => computed,
            Err((found, samples)) => return Ok(Step::Skipped(found, samples)),
        };
        let (clipped, norm) = gradients.clipped(self.plan.optimizer.max_grad_norm);
        // One number is read from the device in each step: what is not finite anywhere shows in it.
        let norm = norm.map_or(0.0, |norm| f64::from(norm.into_scalar::<f32>()));
        if !norm.is_finite() {
            let (found, samples) = self.of_all_ranks(suspects(micros))?;
            let is_overflow = found == NonFinite::Gradient && self.loss_scale().is_some();
            if is_overflow && self.record.loss_scale.overflowed() {
                tracing::debug!("a gradient overflowed: the loss is scaled by half as much");
                return Ok(Step::Rescaled);
            }
            return Ok(Step::Skipped(found, samples));
        }
        for Micro { loss, share, samples } in micros {
            window.add(loss, share, samples.len());
        }
        self.is_updating = true;
        // Without weights meanwhile, so that nobody else holds the parameters and they are updated in place.
        let empty = Trainee { controlnet: self.controlnet_config.init(&self.device), unet: None };
        let trainee = std::mem::replace(&mut self.trainee, empty);
        if trainee.unet.is_some() {
            self.bundle.unet = self.bundle.unet_config.init(&self.device);
        }
        let lr_factor = |path: &str| {
            Trainee::path_in_controlnet(path).map_or(1.0, |path| self.plan.optimizer.lr_factor(path))
        };
        self.trainee = self.optimizer.step_with(trainee, clipped, lr, lr_factor);
        self.show_decoder();
        self.ema = self.ema.take().map(|ema| ema.updated(&self.trainee.controlnet));
        self.position.optimizer_step = self.optimizer.steps();
        self.is_updating = false;
        self.record.skips.n_in_a_row = 0;
        if self.loss_scale().is_some() {
            self.record.loss_scale.step_made();
        }
        self.skipped.clear();
        stopwatch.lap(Phase::Optimizer);
        Ok(Step::Made(norm))
    }

    /// Losses and summed gradients of one accumulation group; or what of its batches is not finite before anything was
    /// computed, and in which samples.
    fn accumulated(
        &mut self,
        loader: &mut Loader,
        stopwatch: &mut Stopwatch,
    ) -> Result<Result<(Vec<Micro>, Gradients), Fault>, TrainError> {
        let (mut sum, mut micros, mut fault) = (None, Vec::new(), None);
        for n_before in 0..self.plan.optimizer.accumulation_steps.get() {
            let Some(Part { host, share }) = self.next_batch_with_samples(loader, n_before)? else { break };
            let cursor_after = host.cursor_after;
            stopwatch.lap(Phase::Data);
            if !host.samples.is_empty() {
                let batch = self.batch(host)?;
                let draw = Draw { seed: self.plan.seed, micro_step: self.position.micro_step };
                let times = timesteps(&batch.ids, draw, self.schedule.n_train_timesteps());
                let samples = batch.ids.iter().cloned().zip(times);
                let samples: Vec<Suspect> = samples.map(|(id, timestep)| Suspect { id, timestep }).collect();
                match &batch.non_finite {
                    Some((found, places)) if fault.is_none() => {
                        fault = Some((*found, places.iter().map(|&place| samples[place].clone()).collect()));
                    }
                    // The group is lost, but the next one begins after all of its batches.
                    _ if fault.is_some() => {}
                    _ => {
                        let (loss, gradients) = self.micro_batch(&batch, draw, share, stopwatch);
                        accumulate(&mut sum, gradients);
                        micros.push(Micro { loss, share, samples });
                    }
                }
            }
            stopwatch.lap(Phase::Backward);
            self.position.micro_step += 1;
            self.position.cursor = cursor_after;
            if cursor_after.batch == 0 {
                break;
            }
        }
        if let Some(fault) = self.fault_of_all_ranks(fault)? {
            return Ok(Err(fault));
        }
        let gradients = if self.ranks.is_alone() {
            sum.expect("accumulation is at least 1")
        } else {
            Gradients::summed(sum, &Shapes::of(&self.trainee), BUCKET, &self.ranks, &self.device)?
        };
        let gradients = match &mut self.tap {
            Some(tap) => tap.gradients(self.position.optimizer_step.into(), gradients),
            None => gradients,
        };
        Ok(Ok((micros, gradients)))
    }

    /// What any rank found.
    fn fault_of_all_ranks(&self, own: Option<Fault>) -> Result<Option<Fault>, TrainError> {
        let mut n_faults = [f32::from(u8::from(own.is_some()))];
        self.ranks.sum(&mut n_faults)?;
        if n_faults[0] == 0.0 {
            return Ok(None);
        }
        let mut faults = self.ranks.gather(own)?.into_iter().flatten();
        let (found, mut samples) = faults.next().expect("one was counted");
        samples.extend(faults.flat_map(|(_, samples)| samples));
        Ok(Some((found, samples)))
    }

    /// Who may be to blame in any rank: for a loss, if any rank has one that is not finite.
    fn of_all_ranks(&self, own: Fault) -> Result<Fault, TrainError> {
        let all = self.ranks.gather(own)?;
        let is_of_loss = all.iter().any(|(found, _)| *found == NonFinite::Loss);
        let found = if is_of_loss { NonFinite::Loss } else { NonFinite::Gradient };
        let samples = all.into_iter().filter(|(of_rank, _)| *of_rank == found);
        Ok((found, samples.flat_map(|(_, samples)| samples).collect()))
    }

    /// The next batch of which a sample can be used, by any rank; `None` if an epoch, and so its last group, ends before. The
    /// first of a group may be in the next epoch.
    pub(super) fn next_batch_with_samples(
        &mut self,
        loader: &mut Loader,
        n_before: usize,
    ) -> Result<Option<Part>, TrainError> {
        loop {
            let mut host = match self.next_batch(loader) {
                // All stop after the same batch.
                Err(TrainError::Stopped) => None,
                host => Some(host?),
            };
            if let Some(host) = &mut host {
                self.left_out.add(std::mem::take(&mut host.left_out))?;
            }
            let n_own = host.as_ref().map_or(0, |host| host.samples.len());
            #[expect(clippy::cast_precision_loss, reason = "a batch has far fewer than 2^24 samples")]
            let mut told = [n_own as f32, f32::from(u8::from(host.is_none()))];
            self.ranks.sum(&mut told)?;
            let [n_samples, n_stopped] = told;
            let Some(host) = host.filter(|_| n_stopped == 0.0) else { return Err(TrainError::Stopped) };
            if n_samples > 0.0 {
                #[expect(clippy::cast_precision_loss, reason = "as above")]
                let share = n_own as f64 / f64::from(n_samples);
                return Ok(Some(Part { host, share }));
            }
            self.position.micro_step += 1;
            self.position.cursor = host.cursor_after;
            if host.cursor_after.batch == 0 && n_before > 0 {
                return Ok(None);
            }
        }
    }

    /// The next batch, unless the run is to stop meanwhile.
    fn next_batch(&self, loader: &mut Loader) -> Result<HostBatch, TrainError> {
        let since = Instant::now();
        let mut reminder = REMINDER;
        loop {
            self.stop.check()?;
            if let Some(batch) = loader.next_within(GLANCE).map_err(TrainError::Data)? {
                return Ok(batch);
            }
            let waited = since.elapsed();
            if waited < reminder {
                continue;
            }
            reminder += REMINDER;
            let (seconds, samples) = (waited.as_secs(), loader.awaited().map_err(TrainError::Data)?);
            let stalled = TrainError::DataStalled { seconds, samples };
            if waited >= MAX_WAIT {
                return Err(stalled);
            }
            tracing::warn!("{stalled}");
        }
    }

    /// Moves a batch to the device, past the tap.
    pub(super) fn batch(&mut self, host: HostBatch) -> Result<Batch, TrainError> {
        let (seed, micro_step) = (self.plan.seed, self.position.micro_step);
        let dropout = Dropout {
            seed,
            micro_step,
            empty_prompts: self.plan.data.empty_prompt_probability,
            empty_hints: self.plan.loss.proportion_empty_hints,
        };
        let mut batch = Batch::new(host, &self.bundle, &self.encoder, &dropout)?;
        if let Some(tap) = &mut self.tap {
            let Batch { moments, hint, conditioning, ids, .. } = &mut batch;
            let context = &mut conditioning.context;
            let step = self.position.optimizer_step.into();
            tap.batch(Tapped { step, micro_step, ids, moments, hint, context });
        }
        Ok(batch)
    }

    /// Loss and gradients of a rank's part of a micro-batch.
    pub(super) fn micro_batch(
        &self,
        batch: &Batch,
        draw: Draw,
        share: f64,
        stopwatch: &mut Stopwatch,
    ) -> (Tensor<1>, Gradients) {
        let frozen = Frozen { bundle: &self.bundle, schedule: &self.schedule };
        #[expect(clippy::cast_precision_loss, reason = "an accumulation count is small")]
        let weight = share / self.plan.optimizer.accumulation_steps.get() as f64;
        let scale = self.loss_scale();
        let options = LossOptions {
            weight: scale.map_or(weight, |scale| weight * f64::from(scale)),
            checkpointing: self.plan.memory.gradient_checkpointing,
            loss: self.plan.loss,
        };
        let (loss, gradients) = control_gradients(frozen, &self.trainee, batch, draw, options, stopwatch);
        match scale {
            Some(scale) => (loss, gradients.scaled(scale.recip())),
            None => (loss, gradients),
        }
    }

    /// The factor on the loss, if gradients are computed in fp16, whose smallest number is 6e-8.
    fn loss_scale(&self) -> Option<f32> {
        let is_narrow = self.bundle.precision.compute == DType::F16;
        is_narrow.then(|| self.record.loss_scale.factor())
    }

    /// Warns of samples that cannot be used.
    pub(super) fn tell_left_out(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        self.left_out.untold().into_iter().try_for_each(|message| self.warn(message, observer))
    }

    /// Tells of a step that was not made; after too many in a row takes the run back to where it was well.
    pub(super) fn skip(
        &mut self,
        found: NonFinite,
        samples: Vec<Suspect>,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let step = self.step();
        let skips = &mut self.record.skips;
        skips.n_in_a_row += 1;
        skips.n_skipped += 1;
        let (n_in_a_row, n_skipped) = (skips.n_in_a_row, skips.n_skipped);
        let skipped = Skipped { step, found, samples, n_in_a_row, n_skipped };
        observer.observe(&Event::Skipped(skipped.clone()))?;
        self.skipped.push(skipped);
        if n_in_a_row < self.plan.optimizer.max_nonfinite_steps.get() {
            return Ok(());
        }
        let (n_steps, back_at) = (self.skipped.len(), self.roll_back());
        Err(TrainError::NonFiniteSteps { step, n_steps, found, skipped: self.skipped.clone(), back_at })
    }

    /// Takes parameters, optimizer, average and position from the newest checkpoint; returns its step.
    fn roll_back(&mut self) -> Option<u64> {
        let restored = Checkpoint::latest(&self.plan.output_dir)
            .and_then(|newest| newest.restore(&self.plan, &self.bundle, &self.device.clone().autodiff()));
        let Restored { trainee, optimizer, ema, position, record, .. } = restored.ok()?;
        (self.trainee, self.optimizer, self.ema) = (trainee, optimizer, ema);
        self.show_decoder();
        (self.position, self.record, self.step_began) = (position, record, position);
        Some(self.step())
    }
}

/// Who may be to blame for a gradient that is not finite: the micro-batches whose loss is not, else all.
fn suspects(micros: Vec<Micro>) -> Fault {
    let is_finite = |micro: &Micro| micro.loss.clone().into_scalar::<f32>().is_finite();
    let (well, ill): (Vec<_>, Vec<_>) = micros.into_iter().partition(is_finite);
    let (found, micros) = if ill.is_empty() { (NonFinite::Gradient, well) } else { (NonFinite::Loss, ill) };
    (found, micros.into_iter().flat_map(|micro| micro.samples).collect())
}
