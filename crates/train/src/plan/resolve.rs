//! From a config to the plan, and back.

use std::num::NonZeroUsize;
use std::path::{Component, Path, PathBuf};

use pyrograph_data::{Buckets, Columns, Crop, Flip, Interpolation, Side, Transform};
use pyrograph_pipeline::is_xl;
use pyrograph_weights::Pickles;

use super::{
    CachePlan, CheckpointPlan, ControlNetSource, DataPlan, EvaluationPlan, Length, ModelPlan, OptimizerPlan,
    PlanError, ResumeFrom, TrainPlan, ValidationPair, ValidationPlan,
};
use crate::config::{
    CacheKind, CacheSection, CheckpointSection, DataSection, EvaluationSection, ModelSection, RunSection,
    ScheduleSection, TrainConfig, ValidationSection,
};
use crate::lr::{LrSchedule, LrScheduler};
use crate::optim::OptimizerSection;
use crate::sizes::SizeConditioning;

impl TryFrom<TrainConfig> for TrainPlan {
    type Error = PlanError;

    /// Checks in the order of the reference, so that the same mistake is reported first.
    fn try_from(config: TrainConfig) -> Result<Self, PlanError> {
        let TrainConfig { model, data, cache, optimizer, schedule, loss, ema, precision, .. } = config;
        let TrainConfig { memory, checkpoint, validation, evaluation, report, run, .. } = config;
        let model = model_plan(model)?;
        if ema.use_ema && !model.sd_locked {
            return Err(PlanError::AverageOfUnlocked);
        }
        let (batch_size, dir) = (data.train_batch_size, data_dir(&data)?);
        require_share_of_empty_prompts(&data)?;
        let validation = validation_plan(&validation)?;
        let evaluation = evaluation_plan(&evaluation, &validation)?;
        let data = data_plan(data, dir, &model)?;
        let cache = cache_plan(cache)?;
        let length =
            schedule.max_train_steps.map_or(Length::Epochs(schedule.num_train_epochs), Length::Steps);
        let optimizer = optimizer_plan(&optimizer, schedule, batch_size)?;
        let RunSection { output_dir, seed, log_every } = run;
        if i64::try_from(seed).is_err() {
            return Err(PlanError::Seed { value: seed });
        }
        let checkpoint = checkpoint_plan(checkpoint, &output_dir);
        Ok(Self {
            model,
            data,
            cache,
            optimizer,
            length,
            loss: loss.checked()?,
            ema: ema.checked()?,
            precision,
            memory,
            checkpoint,
            validation,
            evaluation,
            report,
            output_dir,
            seed,
            log_every,
        })
    }
}

fn model_plan(section: ModelSection) -> Result<ModelPlan, PlanError> {
    let ModelSection {
        pretrained_model_name_or_path,
        pretrained_vae_model_name_or_path,
        controlnet_model_name_or_path,
        conditioning_embedding_out_channels: hint_channels,
        tokenizer_name,
        // Whoever knows the Hub has brought what it named.
        revision: _,
        variant,
        allow_pickle,
        sd_locked,
    } = section;
    let controlnet = match (controlnet_model_name_or_path, hint_channels) {
        (None, hint_channels) => ControlNetSource::FromUnet { hint_channels },
        (Some(path), None) => ControlNetSource::Folder(path),
        (Some(path), Some(_)) => return Err(PlanError::HintChannelsOfTrained { path }),
    };
    Ok(ModelPlan {
        base: pretrained_model_name_or_path.ok_or(PlanError::NoBaseModel)?,
        vae: pretrained_vae_model_name_or_path,
        controlnet,
        tokenizer: tokenizer_name,
        variant,
        pickles: allow_pickle.into(),
        sd_locked,
    })
}

fn data_dir(section: &DataSection) -> Result<PathBuf, PlanError> {
    match (&section.dataset_name, &section.train_data_dir) {
        (Some(dir), None) | (None, Some(dir)) => Ok(dir.clone()),
        (None, None) => Err(PlanError::NoDataSource),
        (Some(name), Some(dir)) => Err(PlanError::TwoDataSources { name: name.clone(), dir: dir.clone() }),
    }
}

fn require_share_of_empty_prompts(section: &DataSection) -> Result<(), PlanError> {
    let value = section.proportion_empty_prompts;
    if (0.0..=1.0).contains(&value) { Ok(()) } else { Err(PlanError::EmptyPromptsOutOfRange { value }) }
}

fn data_plan(section: DataSection, dir: PathBuf, model: &ModelPlan) -> Result<DataPlan, PlanError> {
    if section.streaming && section.aspect_buckets {
        return Err(PlanError::StreamedBuckets);
    }
    let value = section.resolution;
    let side = Side::try_from(value).map_err(|source| PlanError::Resolution { value, source })?;
    let step = match section.bucket_reso_steps {
        Some(value) => Side::try_from(value).map_err(|source| PlanError::BucketSteps { value, source })?,
        None => Buckets::usual_step(side),
    };
    Ok(DataPlan {
        dir,
        columns: Columns {
            image: section.image_column,
            hint: section.hint.is_none().then_some(section.conditioning_image_column),
            caption: section.caption_column,
        },
        split: section.dataset_split,
        config: section.dataset_config_name,
        hint_dir: section.conditioning_data_dir,
        shuffle_buffer: section.streaming.then_some(section.shuffle_buffer),
        max_bad_samples: section.max_bad_samples,
        quarantine: section.quarantine,
        max_samples: section.max_train_samples,
        transform: Transform {
            side,
            buckets: section.aspect_buckets.then_some(step),
            crop: if section.random_crop { Crop::Random } else { Crop::Center },
            flip: if section.random_flip { Flip::Random } else { Flip::Never },
            interpolation: section.image_interpolation_mode.unwrap_or_else(|| usual_interpolation(model)),
            hint: section.hint,
        },
        sizes: match (section.crops_coords_top_left_h, section.crops_coords_top_left_w) {
            (None, None) => SizeConditioning::OfEachPicture,
            (top, left) => SizeConditioning::Constant { crop: [top.unwrap_or(0), left.unwrap_or(0)] },
        },
        empty_prompt_probability: section.proportion_empty_prompts,
        batch_size: section.train_batch_size,
        workers: section.dataloader_num_workers,
    })
}

/// The filter of the reference's script for such a base model. If there is none, that is told where it is opened.
fn usual_interpolation(model: &ModelPlan) -> Interpolation {
    if is_xl(&model.base, model.pickles) { Interpolation::Lanczos } else { Interpolation::Bilinear }
}

fn cache_plan(section: CacheSection) -> Result<CachePlan, PlanError> {
    let CacheSection { cache, cache_dir } = section;
    Ok(match (cache, cache_dir) {
        (Some(CacheKind::Off), _) => CachePlan::Off,
        (Some(CacheKind::Memory), _) | (None, None) => CachePlan::Memory,
        (Some(CacheKind::Disk) | None, Some(dir)) => CachePlan::Disk(dir),
        (Some(CacheKind::Disk), None) => return Err(PlanError::NoCacheDir),
    })
}

fn cache_section(plan: CachePlan) -> CacheSection {
    let (kind, cache_dir) = match plan {
        CachePlan::Off => (CacheKind::Off, None),
        CachePlan::Memory => (CacheKind::Memory, None),
        CachePlan::Disk(dir) => (CacheKind::Disk, Some(dir)),
    };
    CacheSection { cache: Some(kind), cache_dir }
}

fn optimizer_plan(
    section: &OptimizerSection,
    schedule: ScheduleSection,
    batch_size: NonZeroUsize,
) -> Result<OptimizerPlan, PlanError> {
    let positive =
        |flag, value: f64| require(flag, "positive and finite", value, value > 0.0 && value.is_finite());
    let accumulation_steps = section.gradient_accumulation_steps;
    let scale = if section.scale_lr { product(accumulation_steps, batch_size) } else { 1.0 };
    let learning_rate = positive("learning_rate", section.base_learning_rate())? * scale;
    not_negative("lr_power", schedule.lr_power)?;
    Ok(OptimizerPlan {
        learning_rate,
        lr_schedule: lr_schedule(schedule, learning_rate)?,
        accumulation_steps,
        algorithm: section.algorithm()?,
        zero_conv_lr_factor: not_negative("zero_conv_lr_factor", section.zero_conv_lr_factor)?,
        hint_embedding_lr_factor: not_negative("hint_embedding_lr_factor", section.hint_embedding_lr_factor)?,
        max_grad_norm: positive("max_grad_norm", section.max_grad_norm)?,
        max_nonfinite_steps: section.max_nonfinite_steps,
    })
}

fn not_negative(flag: &'static str, value: f64) -> Result<f64, PlanError> {
    require(flag, "0 or more", value, value >= 0.0 && value.is_finite())
}

pub(crate) fn require(
    flag: &'static str,
    expected: &'static str,
    value: f64,
    is_met: bool,
) -> Result<f64, PlanError> {
    if is_met { Ok(value) } else { Err(PlanError::OutOfRange { flag, expected, value }) }
}

#[expect(clippy::cast_precision_loss, reason = "a batch has far fewer than 2^53 samples")]
fn product(left: NonZeroUsize, right: NonZeroUsize) -> f64 {
    left.get() as f64 * right.get() as f64
}

fn lr_schedule(section: ScheduleSection, learning_rate: f64) -> Result<LrSchedule, PlanError> {
    let warmup_steps = section.lr_warmup_steps;
    Ok(match section.lr_scheduler {
        LrScheduler::Constant => LrSchedule::Constant,
        LrScheduler::ConstantWithWarmup => LrSchedule::ConstantWithWarmup { warmup_steps },
        LrScheduler::Linear => LrSchedule::Linear { warmup_steps },
        LrScheduler::Cosine => LrSchedule::Cosine { warmup_steps },
        LrScheduler::CosineWithRestarts => {
            LrSchedule::CosineWithRestarts { warmup_steps, num_cycles: section.lr_num_cycles }
        }
        LrScheduler::Polynomial => {
            let end = LrSchedule::POLYNOMIAL_END;
            if learning_rate <= end {
                return Err(PlanError::PolynomialEnd { end, learning_rate });
            }
            LrSchedule::Polynomial {
                warmup_steps,
                power: section.lr_power,
                end_multiplier: end / learning_rate,
            }
        }
        LrScheduler::PiecewiseConstant => {
            LrSchedule::PiecewiseConstant { rules: section.lr_step_rules.ok_or(PlanError::NoStepRules)? }
        }
    })
}

fn checkpoint_plan(section: CheckpointSection, output_dir: &Path) -> CheckpointPlan {
    let resume_from = match section.resume_from_checkpoint {
        None => ResumeFrom::Fresh,
        Some(latest) if latest == Path::new("latest") => ResumeFrom::Latest,
        // The reference moves every path into the output folder; here only a bare name is meant so.
        Some(name) if is_bare_name(&name) => ResumeFrom::Path(output_dir.join(name)),
        Some(path) => ResumeFrom::Path(path),
    };
    CheckpointPlan {
        every_steps: section.checkpointing_steps,
        total_limit: section.checkpoints_total_limit,
        resume_from,
        force_resume: section.force_resume,
    }
}

fn is_bare_name(path: &Path) -> bool {
    let mut components = path.components();
    matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
}

fn validation_plan(section: &ValidationSection) -> Result<ValidationPlan, PlanError> {
    let ValidationSection { validation_prompt, validation_image, .. } = section;
    let pair = |(image, prompt): (&PathBuf, &String)| ValidationPair {
        image: image.clone(),
        prompt: prompt.clone(),
    };
    let pairs = match (validation_image.as_slice(), validation_prompt.as_slice()) {
        ([], []) => Vec::new(),
        ([], _) => return Err(PlanError::NoValidationImage),
        (_, []) => return Err(PlanError::NoValidationPrompt),
        ([image], prompts) => prompts.iter().map(|prompt| pair((image, prompt))).collect(),
        (images, [prompt]) => images.iter().map(|image| pair((image, prompt))).collect(),
        (images, prompts) if images.len() == prompts.len() => images.iter().zip(prompts).map(pair).collect(),
        (images, prompts) => {
            return Err(PlanError::ValidationCounts { images: images.len(), prompts: prompts.len() });
        }
    };
    Ok(ValidationPlan {
        pairs,
        n_samples: section.num_validation_samples,
        images_per_pair: section.num_validation_images,
        every_steps: section.validation_steps,
        inference_steps: section.validation_inference_steps,
        guidance_scale: not_negative("validation_guidance_scale", section.validation_guidance_scale)?,
    })
}

fn evaluation_plan(
    section: &EvaluationSection,
    validation: &ValidationPlan,
) -> Result<Option<EvaluationPlan>, PlanError> {
    let n_samples = NonZeroUsize::new(section.num_eval_samples);
    if n_samples == Some(NonZeroUsize::MIN) {
        return Err(PlanError::OneEvaluationSample);
    }
    let every_steps = section.eval_steps.unwrap_or(validation.every_steps);
    Ok(n_samples.map(|n_samples| EvaluationPlan { n_samples, every_steps }))
}

impl From<TrainPlan> for TrainConfig {
    /// The config that says all of the plan, whose plan is this one again.
    fn from(plan: TrainPlan) -> Self {
        let TrainPlan { model, data, cache, optimizer, length, loss, ema, precision, memory, .. } = plan;
        let TrainPlan { checkpoint, validation, evaluation, report, output_dir, seed, log_every, .. } = plan;
        let (controlnet_model_name_or_path, conditioning_embedding_out_channels) = match model.controlnet {
            ControlNetSource::FromUnet { hint_channels } => (None, hint_channels),
            ControlNetSource::Folder(path) => (Some(path), None),
        };
        let crop = match data.sizes {
            SizeConditioning::OfEachPicture => [None; 2],
            SizeConditioning::Constant { crop } => crop.map(Some),
        };
        let usual = DataSection::default();
        let (validation_image, validation_prompt) =
            validation.pairs.into_iter().map(|ValidationPair { image, prompt }| (image, prompt)).unzip();
        Self {
            model: ModelSection {
                pretrained_model_name_or_path: Some(model.base),
                pretrained_vae_model_name_or_path: model.vae,
                controlnet_model_name_or_path,
                conditioning_embedding_out_channels,
                tokenizer_name: model.tokenizer,
                revision: None,
                variant: model.variant,
                allow_pickle: model.pickles == Pickles::Allowed,
                sd_locked: model.sd_locked,
            },
            data: DataSection {
                train_data_dir: Some(data.dir),
                dataset_name: None,
                dataset_config_name: data.config,
                dataset_split: data.split,
                conditioning_data_dir: data.hint_dir,
                streaming: data.shuffle_buffer.is_some(),
                shuffle_buffer: data.shuffle_buffer.unwrap_or(DataSection::default().shuffle_buffer),
                max_bad_samples: data.max_bad_samples,
                image_column: data.columns.image,
                conditioning_image_column: data.columns.hint.unwrap_or(usual.conditioning_image_column),
                caption_column: data.columns.caption,
                hint: data.transform.hint,
                quarantine: data.quarantine,
                max_train_samples: data.max_samples,
                resolution: data.transform.side.get(),
                aspect_buckets: data.transform.buckets.is_some(),
                bucket_reso_steps: data.transform.buckets.map(Side::get),
                random_crop: data.transform.crop == Crop::Random,
                random_flip: data.transform.flip == Flip::Random,
                image_interpolation_mode: Some(data.transform.interpolation),
                crops_coords_top_left_h: crop[0],
                crops_coords_top_left_w: crop[1],
                proportion_empty_prompts: data.empty_prompt_probability,
                train_batch_size: data.batch_size,
                dataloader_num_workers: data.workers,
            },
            cache: cache_section(cache),
            schedule: schedule_section(optimizer.lr_schedule, length),
            optimizer: OptimizerSection {
                learning_rate: Some(optimizer.learning_rate),
                zero_conv_lr_factor: optimizer.zero_conv_lr_factor,
                hint_embedding_lr_factor: optimizer.hint_embedding_lr_factor,
                gradient_accumulation_steps: optimizer.accumulation_steps,
                max_grad_norm: optimizer.max_grad_norm,
                max_nonfinite_steps: optimizer.max_nonfinite_steps,
                ..OptimizerSection::of(&optimizer.algorithm)
            },
            loss,
            ema,
            precision,
            memory,
            checkpoint: CheckpointSection {
                checkpointing_steps: checkpoint.every_steps,
                checkpoints_total_limit: checkpoint.total_limit,
                resume_from_checkpoint: match checkpoint.resume_from {
                    ResumeFrom::Fresh => None,
                    ResumeFrom::Latest => Some(PathBuf::from("latest")),
                    ResumeFrom::Path(path) => Some(path),
                },
                force_resume: checkpoint.force_resume,
            },
            validation: ValidationSection {
                validation_prompt,
                validation_image,
                num_validation_samples: validation.n_samples,
                num_validation_images: validation.images_per_pair,
                validation_steps: validation.every_steps,
                validation_inference_steps: validation.inference_steps,
                validation_guidance_scale: validation.guidance_scale,
            },
            evaluation: EvaluationSection {
                num_eval_samples: evaluation.map_or(0, |evaluation| evaluation.n_samples.get()),
                eval_steps: evaluation.map(|evaluation| evaluation.every_steps),
            },
            report,
            run: RunSection { output_dir, seed, log_every },
        }
    }
}

fn schedule_section(lr_schedule: LrSchedule, length: Length) -> ScheduleSection {
    let mut section = ScheduleSection::default();
    match length {
        Length::Steps(steps) => section.max_train_steps = Some(steps),
        Length::Epochs(epochs) => section.num_train_epochs = epochs,
    }
    section.lr_scheduler = lr_schedule.scheduler();
    if let Some(warmup_steps) = lr_schedule.warmup_steps() {
        section.lr_warmup_steps = warmup_steps;
    }
    match lr_schedule {
        LrSchedule::CosineWithRestarts { num_cycles, .. } => section.lr_num_cycles = num_cycles,
        LrSchedule::Polynomial { power, .. } => section.lr_power = power,
        LrSchedule::PiecewiseConstant { rules } => section.lr_step_rules = Some(rules),
        _ => {}
    }
    section
}
