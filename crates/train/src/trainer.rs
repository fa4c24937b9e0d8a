//! The loop: everything a run does, in order.

mod encoders;
mod look;
mod replay;
mod start;
mod step;

use std::num::{NonZeroU64, NonZeroUsize};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use burn::module::Module;
use burn::prelude::*;
use pyrograph_data::{BatchOrder, Data, Loader, LoaderOptions, Turn, bucket_of_each};
use pyrograph_diffusion::{NoiseSchedule, ScheduleConfig};
use pyrograph_pipeline::{Bundle, PipelineError, save_controlnet, save_unet};
use pyrograph_unet::{ControlNet, ControlNetConfig};
use pyrograph_weights::{Disk, SystemDisk};

use crate::best::Best;
use crate::checkpoint::{
    Checkpoint, Due, Position, Record, Restored, SavedResult, Snapshot, UNET, checkpoint_dir, recover,
};
use crate::ema::Ema;
use crate::encode::{CacheUse, Encoder};
use crate::evaluate::{EvaluationSet, Evaluator};
use crate::events::{Banner, Both, Event, Progress};
use crate::group::{Group, Ranks};
use crate::identity::Identity;
use crate::left_out::LeftOutLog;
use crate::lock::RunLock;
use crate::memory;
use crate::metrics::MetricsFile;
use crate::nonfinite::Skipped;
use crate::optim::Optimizer;
use crate::plan::{ResumeFrom, TrainPlan};
use crate::stop::Stop;
use crate::stopwatch::Stopwatch;
use crate::tap::Tap;
use crate::trainee::Trainee;
use crate::validate::Validator;
use crate::window::Window;
use crate::{Observer, TrainError};

pub use self::replay::{Attempt, Replay, ReplayedBatch, ReplayedSample};
pub(crate) use self::start::hint_config;
use self::start::{continued, fresh_start, require_same_run};
pub(crate) use self::step::Step;

/// Batches that each worker holds ready.
pub(crate) const PREFETCH: usize = 2;

/// What to do when the control gap stays closed.
const STILL_CLOSED: &str = "the hint has not taken hold yet: with another sample's hint the loss is the same. It can take \
    thousands of steps; if it stays so, check that each hint belongs to its picture, train longer, or raise the batch size \
    or the learning rate";

/// A training run.
#[derive(Debug)]
pub struct Trainer {
    plan: TrainPlan,
    ranks: Ranks,
    device: Device,
    bundle: Bundle,
    schedule: NoiseSchedule,
    data: Data,
    /// The bucket of each of its samples, if there are any.
    buckets: Option<Arc<[usize]>>,
    encoder: Encoder,
    evaluator: Option<Evaluator>,
    validator: Validator,
    identity: Identity,
    trainee: Trainee,
    controlnet_config: ControlNetConfig,
    optimizer: Optimizer,
    ema: Option<Ema<ControlNet>>,
    position: Position,
    record: Record,
    /// When [`Trainer::run`] was called.
    since: Instant,
    disk: Arc<dyn Disk>,
    stop: Stop,
    tap: Option<Box<dyn Tap>>,
    /// The newest checkpoint in the output folder: its step and its folder.
    saved: Option<(u64, PathBuf)>,
    /// Whether it continues from a checkpoint, be it of step 0.
    is_resumed: bool,
    /// Where the step in hand began, or the next one begins.
    step_began: Position,
    /// Whether the parameters are being changed; what breaks off meanwhile leaves nothing to save.
    is_updating: bool,
    /// The steps skipped since one was made.
    skipped: Vec<Skipped>,
    left_out: LeftOutLog,
}

/// How [`Trainer::run`] ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunEnd {
    /// All steps of the plan are made.
    Finished,
    /// It was asked to stop; see [`Trainer::stopped_by`].
    Stopped {
        /// The checkpoint to continue from.
        checkpoint: PathBuf,
    },
}

impl Trainer {
    /// Loads everything the plan names; nothing is written yet.
    ///
    /// # Errors
    /// [`TrainError`] for anything that is missing or does not fit, before the first step.
    pub fn new(plan: TrainPlan, device: &Device) -> Result<Self, TrainError> {
        let bundle =
            |plan: &TrainPlan, device: &Device| Bundle::open(&plan.model.base, &plan.model.options(), device);
        Self::with_bundle(plan, bundle, device)
    }

    /// The same as one of several ranks, each of which makes such a trainer of an equal plan and runs it. The batch size of the
    /// plan is that of each; rank 0 alone writes.
    ///
    /// # Errors
    /// As [`Self::new`]; the other ranks do not get to know of it.
    pub fn in_group(plan: TrainPlan, device: &Device, group: Arc<dyn Group>) -> Result<Self, TrainError> {
        let bundle =
            |plan: &TrainPlan, device: &Device| Bundle::open(&plan.model.base, &plan.model.options(), device);
        Self::of_ranks(plan, bundle, device, Ranks::new(group))
    }

    /// Loads everything the plan names but the base model, which comes from `bundle`, called when all smaller things
    /// are found to be there.
    ///
    /// # Errors
    /// [`TrainError`] for anything that is missing or does not fit, before the first step.
    pub fn with_bundle(
        plan: TrainPlan,
        bundle: impl FnOnce(&TrainPlan, &Device) -> Result<Bundle, PipelineError>,
        device: &Device,
    ) -> Result<Self, TrainError> {
        Self::of_ranks(plan, bundle, device, Ranks::ALONE)
    }

    fn of_ranks(
        plan: TrainPlan,
        bundle: impl FnOnce(&TrainPlan, &Device) -> Result<Bundle, PipelineError>,
        device: &Device,
        ranks: Ranks,
    ) -> Result<Self, TrainError> {
        let device = device.clone().inner();
        if ranks.writes() {
            RunLock::check(&plan.output_dir)?;
            plan.data.tell_left_out().map_err(TrainError::Data)?;
        }
        let data = plan.open_share(ranks.share())?;
        if data.n_own_samples() == 0 {
            let (n_ranks, n_samples) = (ranks.share().n_ranks.get(), data.n_samples());
            return Err(TrainError::TooManyRanks { n_ranks, n_samples });
        }
        let n_evaluated = plan.evaluation.map_or(0, |evaluation| evaluation.n_samples.get());
        let (data, evaluation_set) = EvaluationSet::split(data, n_evaluated, plan.seed)?;
        let evaluation_set =
            evaluation_set.without_unusable(plan.data.transform, Turn { seed: plan.seed, epoch: 0 });
        let validator = Validator::new(&plan, &evaluation_set.samples)?;
        let identity = Identity::new(&plan, &data, ranks.share());
        let checkpoint = match &plan.checkpoint.resume_from {
            ResumeFrom::Fresh => None,
            ResumeFrom::Latest => Some(Checkpoint::latest(&plan.output_dir)?),
            ResumeFrom::Path(path) => Some(Checkpoint::open(path)?),
        };
        // Before gigabytes are read.
        if let Some(checkpoint) = &checkpoint {
            require_same_run(&plan, checkpoint, &identity)?;
        }

        let mut bundle = bundle(&plan, &device).map_err(TrainError::Pipeline)?;
        if plan.loss.rescale_betas_zero_snr {
            bundle.scheduler.rescale_betas_zero_snr = Some(true);
        }
        let schedule = ScheduleConfig::try_from(&bundle.scheduler)
            .and_then(|config| NoiseSchedule::new(&config))
            .map_err(TrainError::Schedule)?;
        let identity = identity.with_base(&bundle);
        let start = match &checkpoint {
            Some(checkpoint) => {
                require_same_run(&plan, checkpoint, &identity)?;
                let restored = checkpoint.restore(&plan, &bundle, &device.clone().autodiff())?;
                Restored { position: continued(checkpoint, &identity), ..restored }
            }
            None => fresh_start(&plan, &bundle, &device)?,
        };
        let is_resumed = checkpoint.is_some();
        bundle.check_controlnet(&start.controlnet_config).map_err(TrainError::Pipeline)?;
        // Not before: a new ControlNet starts from the weights as they are in the file.
        let bundle = bundle.in_precision(plan.precision.precision());
        let mut trainer = Self {
            encoder: Encoder::new(&plan, &bundle, device.clone()),
            left_out: LeftOutLog::new(data.n_samples(), plan.data.max_bad_samples),
            buckets: data.samples().and_then(|samples| bucket_of_each(samples, &plan.data.transform)),
            data,
            trainee: start.trainee,
            controlnet_config: start.controlnet_config,
            optimizer: start.optimizer,
            ema: start.ema,
            position: start.position,
            record: Record { best: Best::still_there(start.record.best, &plan.output_dir), ..start.record },
            since: Instant::now(),
            disk: Arc::new(SystemDisk),
            stop: Stop::default(),
            tap: None,
            saved: checkpoint
                .filter(|checkpoint| checkpoint.path().parent() == Some(&plan.output_dir))
                .map(|checkpoint| (start.position.optimizer_step.into(), checkpoint.path().to_owned())),
            is_resumed,
            step_began: start.position,
            is_updating: false,
            skipped: Vec::new(),
            evaluator: Evaluator::new(&plan, evaluation_set),
            plan,
            ranks,
            device,
            bundle,
            schedule,
            validator,
            identity,
        };
        trainer.show_decoder();
        Ok(trainer)
    }

    /// The run ends in order when this is raised: after the micro-batch, the pass of an evaluation or the denoising step in
    /// hand it saves a checkpoint. Micro-batches of a step that is not complete are dropped and made again.
    #[must_use]
    pub fn stopped_by(self, stop: Stop) -> Self {
        Self { stop, ..self }
    }

    /// The run writes to this disk.
    #[must_use]
    pub fn on_disk(self, disk: Arc<dyn Disk>) -> Self {
        Self { disk, ..self }
    }

    /// Every step passes this tap.
    #[must_use]
    pub fn tapped_by(self, tap: Box<dyn Tap>) -> Self {
        Self { tap: Some(tap), ..self }
    }

    /// What the run is.
    #[must_use]
    pub fn plan(&self) -> &TrainPlan {
        &self.plan
    }

    /// What is trained on, without the samples held out.
    #[must_use]
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// The ControlNet as trained so far.
    #[must_use]
    pub fn controlnet(&self) -> &ControlNet {
        &self.trainee.controlnet
    }

    /// What the run is judged by and ends with: the average of the ControlNet if one is kept, else the ControlNet itself.
    #[must_use]
    pub fn result(&self) -> &ControlNet {
        self.ema.as_ref().map_or(&self.trainee.controlnet, Ema::average)
    }

    /// The number of trained parameters.
    #[must_use]
    pub fn n_trained(&self) -> usize {
        self.trainee.n_trained()
    }

    /// What the ControlNet was made from.
    #[must_use]
    pub fn controlnet_config(&self) -> &ControlNetConfig {
        &self.controlnet_config
    }

    /// The device without autodiff.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// The base model, with the decoder that is trained if one is. A run frees encoders that it needs no more: see
    /// [`Trainer::complete_bundle`].
    #[must_use]
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// What was found in the cache and what was encoded so far; `None` if there is no cache.
    #[must_use]
    pub fn cache_use(&self) -> Option<CacheUse> {
        self.encoder.cache_use()
    }

    /// Trains to the end of the plan, with an evaluation and a validation before the first step and after the last;
    /// `metrics.jsonl` is told what the observer is told.
    ///
    /// A checkpoint, picture or line that cannot be written is warned of, and the run goes on.
    ///
    /// # Errors
    /// [`TrainError`] if data cannot be read, the final ControlNet cannot be written, too many steps in a row are not finite
    /// or the observer cannot go on. Unless numbers were not finite, the run saves what it has before.
    pub fn run(&mut self, observer: &mut dyn Observer) -> Result<RunEnd, TrainError> {
        let ended =
            if self.ranks.writes() { self.run_and_write(observer) } else { self.run_to_end(observer) };
        match &ended {
            // The others know.
            Ok(_) | Err(TrainError::RankFailed | TrainError::Group(_)) => {}
            Err(_) => self.ranks.leave(),
        }
        ended
    }

    fn run_and_write(&mut self, observer: &mut dyn Observer) -> Result<RunEnd, TrainError> {
        let output_dir = self.plan.output_dir.clone();
        self.disk.create_dir(&output_dir).map_err(TrainError::output_dir(&output_dir))?;
        let _lock = RunLock::acquire(&output_dir)?;
        if let Err(error) = recover(&*self.disk, &output_dir) {
            tracing::warn!("{}", error.with_causes());
        }
        let metrics =
            MetricsFile::open(Arc::clone(&self.disk), &output_dir, self.is_resumed.then(|| self.step()))?;
        self.run_to_end(&mut Both(metrics, observer))
    }

    fn run_to_end(&mut self, observer: &mut dyn Observer) -> Result<RunEnd, TrainError> {
        let banner = self.banner();
        let total_steps = banner.total_steps;
        observer.observe(&Event::Started(banner))?;
        self.since = Instant::now();
        // A panic of the device or of ours is an error like any other: what was trained is saved.
        let ended = catch_unwind(AssertUnwindSafe(|| self.train(total_steps, observer)));
        self.tell_left_out(observer)?;
        let ended = ended.unwrap_or_else(|panic| {
            let message = panic.downcast_ref::<String>().map(String::as_str);
            let message =
                message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned();
            self.position = self.step_began;
            Err(TrainError::Panicked { step: self.step() + 1, message })
        });
        match ended {
            Ok(()) => Ok(RunEnd::Finished),
            Err(TrainError::Stopped) => {
                let checkpoint = self.save(observer)?;
                let path = checkpoint.clone();
                observer.observe(&Event::Stopped { step: self.step(), path })?;
                Ok(RunEnd::Stopped { checkpoint })
            }
            Err(error) => {
                self.save_what_is_left(&error, observer);
                Err(error)
            }
        }
    }

    fn train(&mut self, total_steps: u64, observer: &mut dyn Observer) -> Result<(), TrainError> {
        // Rank 0 has put the folder in order.
        self.ranks.meet()?;
        self.encode_prompts_ahead(total_steps)?;
        self.evaluate_if_due(total_steps, observer)?;
        if self.step() < total_steps {
            self.validate_if_due(observer)?;
        }
        let whole_epoch = self.next_whole_epoch();
        let mut loader = self.loader()?;
        let (mut window, mut stopwatch) = (Window::new(), Stopwatch::at_rest());
        while self.step() < total_steps {
            let lr = self.plan.optimizer.learning_rate_at(self.step(), total_steps);
            let epoch = self.position.cursor.epoch;
            let grad_norm = match self.optimizer_step(&mut loader, lr, &mut window, &mut stopwatch)? {
                Step::Made(grad_norm) => grad_norm,
                Step::Skipped(found, samples) => {
                    self.skip(found, samples, observer)?;
                    continue;
                }
                Step::Rescaled => continue,
            };
            self.tell_left_out(observer)?;
            let step = self.step();
            let is_last = step == total_steps;
            let is_checkpoint = step.is_multiple_of(self.plan.checkpoint.every_steps.get());
            let is_evaluation = is_last || self.evaluator.as_ref().is_some_and(|it| it.is_due(step));
            let is_validation = is_last || step.is_multiple_of(self.plan.validation.every_steps.get());
            self.record.due = Due { evaluation: is_evaluation, validation: is_validation };
            if step.is_multiple_of(self.plan.log_every.get()) || is_checkpoint || is_evaluation {
                let (loss, images_per_second) = window.report(&self.ranks)?;
                observer.observe(&Event::Progress(Progress {
                    step,
                    total_steps,
                    epoch,
                    loss,
                    lr,
                    grad_norm,
                    images_per_second,
                    memory_bytes: memory::current_bytes(),
                    seconds: self.seconds(),
                }))?;
            }
            // Before the checkpoint, which keeps what was found.
            self.evaluate_if_due(total_steps, observer)?;
            if is_checkpoint && let Err(error) = self.save(observer) {
                self.warn(format!("training goes on: {}", error.with_causes()), observer)?;
            }
            if !is_last {
                self.validate_if_due(observer)?;
            }
            self.free_vae_encoder_after(whole_epoch);
            window.resume();
        }

        if self.ranks.writes() {
            self.save_result()?;
        }
        self.validate_if_due(observer)?;
        observer.observe(&Event::Finished { step: self.step(), path: self.plan.output_dir.clone() })?;
        if let Some(CacheUse { latents, prompts }) = self.cache_use() {
            tracing::info!(
                "latents: {} read from the cache, {} encoded; prompts: {} read, {} encoded",
                latents.read,
                latents.computed,
                prompts.read,
                prompts.computed,
            );
        }
        Ok(())
    }

    fn save_result(&self) -> Result<(), TrainError> {
        let output_dir = &self.plan.output_dir;
        save_controlnet(self.result(), &self.controlnet_config, output_dir, &*self.disk)
            .map_err(TrainError::Pipeline)?;
        let Some(unet) = &self.trainee.unet else { return Ok(()) };
        let dir = output_dir.join(UNET);
        self.disk.create_dir(&dir).map_err(TrainError::io(&dir))?;
        save_unet(unet, &self.bundle.unet_config, &dir, &*self.disk).map_err(TrainError::Pipeline)
    }

    /// Saves a checkpoint, unless there is one of this step: what was done since, pictures or skipped steps, is done again
    /// in the same way. Returns its folder.
    fn save(&mut self, observer: &mut dyn Observer) -> Result<PathBuf, TrainError> {
        let step = self.step();
        if let Some((_, path)) = self.saved.as_ref().filter(|(saved, _)| *saved == step) {
            return Ok(path.clone());
        }
        let path = if self.ranks.writes() {
            self.snapshot().save(&*self.disk, &self.plan.output_dir, self.plan.checkpoint.total_limit)?
        } else {
            checkpoint_dir(&self.plan.output_dir, step)
        };
        self.saved = Some((step, path.clone()));
        observer.observe(&Event::Checkpoint { step, path: path.clone() })?;
        Ok(path)
    }

    /// Saves what was trained before a run ends with an error, where that is worth something.
    fn save_what_is_left(&mut self, error: &TrainError, observer: &mut dyn Observer) {
        let is_spoilt = matches!(error, TrainError::NonFiniteSteps { .. });
        if !self.ranks.writes() || is_spoilt || self.is_updating || self.step() == 0 {
            return;
        }
        // A device that has failed may fail again.
        match catch_unwind(AssertUnwindSafe(|| self.save(observer))) {
            Ok(Ok(_)) => {}
            Ok(Err(failure)) => tracing::warn!("{}", failure.with_causes()),
            Err(_) => tracing::warn!("step {} cannot be saved either", self.step()),
        }
    }

    fn warn(&self, message: String, observer: &mut dyn Observer) -> Result<(), TrainError> {
        observer.observe(&Event::Warning { step: self.step(), message })
    }

    fn step(&self) -> u64 {
        u64::from(self.position.optimizer_step)
    }

    /// Seconds of the run so far, those before it was resumed included.
    fn seconds(&self) -> f64 {
        self.record.seconds + self.since.elapsed().as_secs_f64()
    }

    /// Batches of an epoch, on this device.
    fn batches_per_epoch(&self) -> usize {
        match &self.data {
            Data::Listed(_) => self.batch_order().batches_per_epoch(),
            Data::Streamed(stream) => stream.n_own_rows().div_ceil(self.plan.data.batch_size.get()),
        }
    }

    /// Of a batch of all ranks.
    fn batch_size(&self) -> NonZeroUsize {
        self.ranks.share().batch_size_of_all(self.plan.data.batch_size)
    }

    /// Which samples make up each batch, if they are listed.
    fn batch_order(&self) -> BatchOrder {
        let (n_samples, batch_size) = (self.data.n_samples(), self.batch_size());
        BatchOrder::new(self.plan.seed, n_samples, batch_size).within(self.buckets.clone())
    }

    pub(crate) fn loader(&self) -> Result<Loader, TrainError> {
        let options = LoaderOptions {
            seed: self.plan.seed,
            batch_size: self.plan.data.batch_size,
            share: self.ranks.share(),
            workers: self.plan.data.workers,
            prefetch: PREFETCH,
            transform: self.plan.data.transform,
            buckets: self.buckets.clone(),
            encoded: self.encoder.images().cloned(),
        };
        Loader::new(self.data.clone(), &options, self.position.cursor).map_err(TrainError::Data)
    }

    /// Evaluations and pictures are made with the decoder as it is trained.
    fn show_decoder(&mut self) {
        if let Some(unet) = &self.trainee.unet {
            self.bundle.unet = unet.valid();
        }
    }

    fn saved_result(&self) -> SavedResult<'_> {
        SavedResult {
            controlnet: self.result(),
            controlnet_config: &self.controlnet_config,
            unet: self.trainee.unet.as_ref().map(|unet| (unet, &self.bundle.unet_config)),
        }
    }

    fn snapshot(&self) -> Snapshot<'_> {
        Snapshot {
            trainee: &self.trainee,
            controlnet_config: &self.controlnet_config,
            unet_config: &self.bundle.unet_config,
            optimizer: &self.optimizer,
            ema: self.ema.as_ref(),
            position: self.position,
            record: Record { seconds: self.seconds(), ..self.record },
            identity: &self.identity,
            plan: &self.plan,
        }
    }

    fn banner(&self) -> Banner {
        let n_examples = self.data.n_samples();
        let batch_size = self.plan.data.batch_size;
        let accumulation = self.plan.optimizer.accumulation_steps.get();
        let batches_per_epoch = self.batches_per_epoch();
        let steps_per_epoch = NonZeroU64::new(batches_per_epoch.div_ceil(accumulation) as u64)
            .expect("a data set has at least one sample");
        let total_steps = self.plan.length.total_steps(steps_per_epoch).get();
        Banner {
            n_examples,
            batches_per_epoch,
            n_epochs: total_steps.div_ceil(steps_per_epoch.get()),
            batch_size: batch_size.get(),
            accumulation,
            total_steps,
            resumed_at: self.step(),
            n_parameters: self.trainee.n_trained(),
            cache: self.plan.cache.to_string(),
        }
    }
}
