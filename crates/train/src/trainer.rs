//! The loop: everything a run does, in order.

use std::fs;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use burn::module::Module;
use burn::prelude::*;
use pyrograph_data::random::{self, Purpose};
use pyrograph_data::{BatchOrder, Dataset, HostBatch, Loader, LoaderOptions};
use pyrograph_diffusion::{NoiseSchedule, ScheduleConfig};
use pyrograph_pipeline::{Bundle, BundleOptions, PipelineError, load_controlnet, save_controlnet};
use pyrograph_unet::{ControlNet, ControlNetConfig, HintConfig};

use crate::batch::{Batch, Dropout};
use crate::best::Best;
use crate::checkpoint::{Checkpoint, Identity, Position, Record, Restored, Snapshot};
use crate::choice::Choice;
use crate::encode::{CacheUse, Encoder};
use crate::evaluate::{EvaluationSet, Evaluator};
use crate::events::{Banner, Both, Event, Progress};
use crate::loss::{Draw, Frozen, LossOptions, accumulate, control_gradients};
use crate::memory;
use crate::metrics::MetricsFile;
use crate::optim::{Gradients, Optimizer, OptimizerSection};
use crate::plan::{ControlNetSource, ResumeFrom, TrainPlan};
use crate::stopwatch::{Phase, Stopwatch};
use crate::took_hold::Finding;
use crate::validate::Validator;
use crate::window::Window;
use crate::{Observer, TrainError};

/// Batches that each worker holds ready.
const PREFETCH: usize = 2;

/// What to do when the control gap stays closed.
const STILL_CLOSED: &str = "the hint has not taken hold yet: with another sample's hint the loss is the same. It can take \
    thousands of steps; if it stays so, check that each hint belongs to its picture, train longer, or raise the batch size \
    or the learning rate";

/// A training run.
#[derive(Debug)]
pub struct Trainer {
    plan: TrainPlan,
    device: Device,
    bundle: Bundle,
    schedule: NoiseSchedule,
    dataset: Arc<Dataset>,
    encoder: Encoder,
    evaluator: Option<Evaluator>,
    validator: Validator,
    identity: Identity,
    controlnet: ControlNet,
    controlnet_config: ControlNetConfig,
    optimizer: Optimizer,
    position: Position,
    record: Record,
    /// When [`Trainer::run`] was called.
    since: Instant,
}

impl Trainer {
    /// Loads everything the plan names; nothing is written yet.
    ///
    /// # Errors
    /// [`TrainError`] for anything that is missing or does not fit, before the first step.
    pub fn new(plan: TrainPlan, device: &Device) -> Result<Self, TrainError> {
        let bundle =
            |plan: &TrainPlan, device: &Device| Bundle::open(&plan.model.base, &base_options(plan), device);
        Self::with_bundle(plan, bundle, device)
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
        let device = device.clone().inner();
        let dataset = Dataset::open(&plan.data.dir, &plan.data.columns).map_err(TrainError::Data)?;
        let dataset = match plan.data.max_samples {
            Some(count) => dataset.take(count, plan.seed).map_err(TrainError::Data)?,
            None => dataset,
        };
        let n_evaluated = plan.evaluation.map_or(0, |evaluation| evaluation.n_samples.get());
        let (dataset, evaluation_set) = EvaluationSet::split(dataset, n_evaluated, plan.seed);
        let validator = Validator::new(&plan, &evaluation_set.samples)?;
        let identity = identity(&plan, &dataset);
        let checkpoint = match &plan.checkpoint.resume_from {
            ResumeFrom::Fresh => None,
            ResumeFrom::Latest => Some(Checkpoint::latest(&plan.output_dir)?),
            ResumeFrom::Path(path) => Some(Checkpoint::open(path)?),
        };

        let mut bundle = bundle(&plan, &device).map_err(TrainError::Pipeline)?;
        if plan.loss.rescale_betas_zero_snr {
            bundle.scheduler.rescale_betas_zero_snr = Some(true);
        }
        let schedule = ScheduleConfig::try_from(&bundle.scheduler)
            .and_then(|config| NoiseSchedule::new(&config))
            .map_err(TrainError::Schedule)?;
        let start = match checkpoint {
            Some(checkpoint) => {
                checkpoint.restore(&identity, plan.optimizer.algorithm, &device.clone().autodiff())?
            }
            None => fresh_start(&plan, &bundle, &device)?,
        };
        bundle.check_controlnet(&start.controlnet_config).map_err(TrainError::Pipeline)?;
        // Not before: a new ControlNet starts from the weights as they are in the file.
        let bundle = bundle.in_precision(plan.precision.precision());
        Ok(Self {
            encoder: Encoder::new(&plan.cache, &bundle, device.clone()),
            dataset: Arc::new(dataset),
            controlnet: start.controlnet,
            controlnet_config: start.controlnet_config,
            optimizer: start.optimizer,
            position: start.position,
            record: Record { best: Best::still_there(start.record.best, &plan.output_dir), ..start.record },
            since: Instant::now(),
            evaluator: Evaluator::new(&plan, evaluation_set),
            plan,
            device,
            bundle,
            schedule,
            validator,
            identity,
        })
    }

    /// What the run is.
    #[must_use]
    pub fn plan(&self) -> &TrainPlan {
        &self.plan
    }

    /// The samples that are trained on, without those held out.
    #[must_use]
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// The ControlNet as trained so far.
    #[must_use]
    pub fn controlnet(&self) -> &ControlNet {
        &self.controlnet
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

    /// The frozen base model.
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
    /// # Errors
    /// [`TrainError`] if data cannot be read, a file cannot be written, the loss is not finite or the observer
    /// cannot go on; the last checkpoint is complete in every case.
    pub fn run(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let output_dir = self.plan.output_dir.clone();
        fs::create_dir_all(&output_dir).map_err(TrainError::output_dir(&output_dir))?;
        let observer = &mut Both(&mut MetricsFile::open(&output_dir, self.step())?, observer);
        let banner = self.banner();
        let total_steps = banner.total_steps;
        observer.observe(&Event::Started(banner))?;
        self.since = Instant::now();
        if self.step() == 0 {
            self.evaluate(total_steps, observer)?;
            self.validate(&output_dir, observer)?;
        }

        let mut loader = self.loader()?;
        let (mut window, mut stopwatch) = (Window::new(), Stopwatch::at_rest());
        while self.step() < total_steps {
            let lr = self.plan.optimizer.learning_rate_at(self.step(), total_steps);
            let epoch = self.position.cursor.epoch;
            let grad_norm = self.optimizer_step(&mut loader, lr, &mut window, &mut stopwatch)?;
            let step = self.step();
            let is_last = step == total_steps;
            let is_checkpoint = step.is_multiple_of(self.plan.checkpoint.every_steps.get());
            let is_evaluation = is_last || self.evaluator.as_ref().is_some_and(|it| it.is_due(step));
            // Before each checkpoint, too: nothing is kept of a run whose loss is no number any more.
            if step.is_multiple_of(self.plan.log_every.get()) || is_checkpoint || is_evaluation {
                let (loss, images_per_second) = window.report();
                if !loss.is_finite() {
                    return Err(TrainError::NonFinite { step, loss });
                }
                let grad_norm = grad_norm.map_or(0.0, |norm| f64::from(norm.into_scalar::<f32>()));
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
            if is_evaluation {
                self.evaluate(total_steps, observer)?;
            }
            if is_checkpoint {
                let path = self.snapshot().save(&output_dir, self.plan.checkpoint.total_limit)?;
                observer.observe(&Event::Checkpoint { step, path })?;
            }
            if step.is_multiple_of(self.plan.validation.every_steps.get()) && !is_last {
                self.validate(&output_dir, observer)?;
            }
            window.resume();
        }

        save_controlnet(&self.controlnet, &self.controlnet_config, &output_dir)
            .map_err(TrainError::Pipeline)?;
        self.validate(&output_dir, observer)?;
        observer.observe(&Event::Finished { step: self.step(), path: output_dir })?;
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

    /// One optimizer step: the micro-batches of one accumulation group, backward, clip, update.
    ///
    /// The last group of an epoch may be short; its gradients are divided by the full number all the same, as the
    /// references do.
    pub(crate) fn optimizer_step(
        &mut self,
        loader: &mut Loader,
        lr: f64,
        window: &mut Window,
        stopwatch: &mut Stopwatch,
    ) -> Result<Option<Tensor<1>>, TrainError> {
        let accumulation = self.plan.optimizer.accumulation_steps.get();
        let mut sum = None;
        for _ in 0..accumulation {
            let host = loader.next_batch().map_err(TrainError::Data)?;
            let cursor_after = host.cursor_after;
            let n_images = host.ids.len();
            stopwatch.lap(Phase::Data);
            let (loss, gradients) = self.micro_batch(host, stopwatch);
            accumulate(&mut sum, gradients);
            window.add(loss, n_images);
            stopwatch.lap(Phase::Backward);
            self.position.micro_step += 1;
            self.position.cursor = cursor_after;
            if cursor_after.batch == 0 {
                break;
            }
        }
        let gradients = sum.expect("accumulation is at least 1");
        let (clipped, norm) = gradients.clipped(self.plan.optimizer.max_grad_norm);
        // Without weights meanwhile, so that nobody else holds the parameters and they are updated in place.
        let empty = self.controlnet_config.init(&self.device);
        let controlnet = std::mem::replace(&mut self.controlnet, empty);
        let lr_factor = |path: &str| self.plan.optimizer.lr_factor(path);
        self.controlnet = self.optimizer.step_with(controlnet, clipped, lr, lr_factor);
        self.position.optimizer_step = self.optimizer.steps();
        stopwatch.lap(Phase::Optimizer);
        Ok(norm)
    }

    /// Loss and gradients of one micro-batch.
    fn micro_batch(&mut self, host: HostBatch, stopwatch: &mut Stopwatch) -> (Tensor<1>, Gradients) {
        let (seed, micro_step) = (self.plan.seed, self.position.micro_step);
        let dropout = Dropout {
            seed,
            micro_step,
            empty_prompts: self.plan.data.empty_prompt_probability,
            empty_hints: self.plan.loss.proportion_empty_hints,
        };
        let batch = Batch::new(host, &self.dataset, &self.bundle, &self.encoder, &dropout);
        let frozen = Frozen { bundle: &self.bundle, schedule: &self.schedule };
        #[expect(clippy::cast_precision_loss, reason = "an accumulation count is small")]
        let options = LossOptions {
            weight: 1.0 / self.plan.optimizer.accumulation_steps.get() as f64,
            checkpointing: self.plan.memory.gradient_checkpointing,
            loss: self.plan.loss,
        };
        control_gradients(frozen, &self.controlnet, &batch, Draw { seed, micro_step }, options, stopwatch)
    }

    /// Evaluates, and tells what that says about the hint; keeps the ControlNet if it is the best so far.
    fn evaluate(&mut self, total_steps: u64, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let Some(evaluator) = &self.evaluator else { return Ok(()) };
        let step = self.step();
        let frozen = Frozen { bundle: &self.bundle, schedule: &self.schedule };
        let evaluation = evaluator.run(frozen, &self.controlnet, &self.encoder, step)?;
        observer.observe(&Event::Evaluation(evaluation.clone()))?;
        match self.record.took_hold.observe(&evaluation, total_steps) {
            Some(Finding::TookHold(step)) => observer.observe(&Event::TookHold { step })?,
            Some(Finding::StillClosed) => {
                observer.observe(&Event::Warning { step, message: STILL_CLOSED.to_owned() })?;
            }
            None => {}
        }
        // Nothing was trained at step 0.
        if let Some(best) = Best::beaten_by(self.record.best, &evaluation).filter(|_| step > 0) {
            let path = best.save(&self.controlnet, &self.controlnet_config, &self.plan.output_dir)?;
            self.record.best = Some(best);
            observer.observe(&Event::Best { step, control_gap: evaluation.control_gap, path })?;
        }
        Ok(())
    }

    fn validate(&self, output_dir: &Path, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let step = self.step();
        let grid = self.validator.run(&self.bundle, &self.controlnet, step, output_dir, &self.device)?;
        match grid {
            Some(grid) => {
                let prompts = self.validator.prompts();
                observer.observe(&Event::Validation { step, grid, prompts })
            }
            None => Ok(()),
        }
    }

    fn step(&self) -> u64 {
        u64::from(self.position.optimizer_step)
    }

    /// Seconds of the run so far, those before it was resumed included.
    fn seconds(&self) -> f64 {
        self.record.seconds + self.since.elapsed().as_secs_f64()
    }

    pub(crate) fn loader(&self) -> Result<Loader, TrainError> {
        let options = LoaderOptions {
            seed: self.plan.seed,
            batch_size: self.plan.data.batch_size,
            workers: self.plan.data.workers,
            prefetch: PREFETCH,
            transform: self.plan.data.transform,
            encoded: self.encoder.images().cloned(),
        };
        Loader::new(Arc::clone(&self.dataset), &options, self.position.cursor).map_err(TrainError::Data)
    }

    fn snapshot(&self) -> Snapshot<'_> {
        Snapshot {
            controlnet: &self.controlnet,
            controlnet_config: &self.controlnet_config,
            optimizer: &self.optimizer,
            position: self.position,
            record: Record { seconds: self.seconds(), ..self.record },
            identity: &self.identity,
            plan: &self.plan,
        }
    }

    fn banner(&self) -> Banner {
        let n_examples = self.dataset.samples().len();
        let batch_size = self.plan.data.batch_size;
        let accumulation = self.plan.optimizer.accumulation_steps.get();
        let batches_per_epoch = BatchOrder::new(self.plan.seed, n_examples, batch_size).batches_per_epoch();
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
            n_parameters: self.controlnet.num_params(),
            cache: self.plan.cache.to_string(),
        }
    }
}

fn base_options(plan: &TrainPlan) -> BundleOptions<'_> {
    BundleOptions { variant: plan.model.variant.as_deref(), tokenizer: plan.model.tokenizer.as_deref() }
}

fn fresh_start(plan: &TrainPlan, bundle: &Bundle, device: &Device) -> Result<Restored, TrainError> {
    let device = device.clone().autodiff();
    let (controlnet, controlnet_config) = match &plan.model.controlnet {
        ControlNetSource::Folder(path) => load_controlnet(path, &device).map_err(TrainError::Pipeline)?,
        ControlNetSource::FromUnet { hint_channels } => {
            let mut config = ControlNetConfig::for_unet(&bundle.unet_config);
            config.hint = hint_config(hint_channels.as_deref(), bundle.vae_config.pixels_per_latent())?;
            let mut rng = random::rng(plan.seed, 0, "", Purpose::Weights);
            (ControlNet::from_unet(&bundle.unet, &config, &mut rng, &device), config)
        }
    };
    let optimizer = Optimizer::new(plan.optimizer.algorithm);
    let (position, record) = (Position::default(), Record::default());
    Ok(Restored { controlnet, controlnet_config, optimizer, position, record })
}

/// The hint embedding for a VAE of this factor.
fn hint_config(channels: Option<&[NonZeroUsize]>, scale_factor: usize) -> Result<HintConfig, TrainError> {
    let expected = HintConfig::with_scale_factor(scale_factor);
    let Some(channels) = channels else { return Ok(expected) };
    if channels.len() != expected.channels.len() {
        let (expected, found) = (expected.channels.len(), channels.len());
        return Err(TrainError::HintLevels { scale_factor, expected, found });
    }
    Ok(HintConfig { channels: channels.iter().map(|count| count.get()).collect(), ..expected })
}

/// What decides a run's numbers beside the model: a resumed run must have all of it in common with the first.
fn identity(plan: &TrainPlan, dataset: &Dataset) -> Identity {
    let settings = [
        ("seed", plan.seed.to_string()),
        ("train_batch_size", plan.data.batch_size.to_string()),
        ("gradient_accumulation_steps", plan.optimizer.accumulation_steps.to_string()),
        ("optimizer", OptimizerSection::of(&plan.optimizer.algorithm).optimizer.name().to_owned()),
        ("mixed_precision", plan.precision.mixed_precision.name().to_owned()),
        ("resolution", plan.data.transform.side.get().to_string()),
        ("number of samples", dataset.samples().len().to_string()),
        ("num_eval_samples", plan.evaluation.map_or(0, |evaluation| evaluation.n_samples.get()).to_string()),
    ];
    Identity(settings.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}
