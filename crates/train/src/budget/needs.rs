//! What each thing of a run takes, in bytes.

use burn::tensor::DType;
use pyrograph_data::{Crop, Flip};
use pyrograph_pipeline::BundleConfigs;

use super::activations::{self, BatchSize, Peak, to_u64};
use super::size::{TEXT, UNET, VAE};
use super::{Holding, Item, RunSize};
use crate::choice::Choice;
use crate::encode::{MEMORY_BYTES, keeps_all};
use crate::optim::{OptimizerConfig, OptimizerSection, Shapes, state_bytes};
use crate::plan::{CachePlan, ResumeFrom, TrainPlan};
use crate::trainee::DECODER;
use crate::trainer::PREFETCH;

/// The program itself with its threads' scratch memory: measured on the tiny base, whose own tensors are small.
pub(super) const PROGRAM: u64 = 32_000_000;

const F32: u64 = 4;

const TRAINED: &str = "ControlNet";

/// What each thing takes, in bytes.
pub(super) struct Needs<'a> {
    plan: &'a TrainPlan,
    /// Its weights, in f32.
    controlnet: u64,
    /// All trained weights, in f32.
    pub(super) saved: u64,
    /// Of one micro-batch, in f32.
    pub(super) gradients: u64,
    /// The gradients of micro-batches that wait for more.
    pub(super) accumulated: u64,
    pub(super) optimizer: u64,
    /// Copies that an update makes.
    pub(super) updating: u64,
    /// All networks as they are read, and what a run that is continued remembers.
    pub(super) loading: u64,
    pub(super) encoding: u64,
    pub(super) step: Peak,
    pub(super) validation: u64,
    /// The trained one first.
    networks: Vec<(&'static str, Elements)>,
    vae_weights: DType,
    /// Of the text encoders, if they are freed before the first step.
    pub(super) freed: u64,
    cache: u64,
    loader: u64,
}

impl<'a> Needs<'a> {
    pub(super) fn new(run: &RunSize, plan: &'a TrainPlan) -> Self {
        let RunSize { configs, controlnet_shapes: shapes, .. } = run;
        let frozen = run.frozen_shapes.iter().map(|(name, shapes)| (*name, Elements::of(shapes)));
        let networks: Vec<_> = std::iter::once((TRAINED, Elements::of(shapes))).chain(frozen).collect();
        let decoder = trained_decoder(run, plan);
        let controlnet = networks[0].1.bytes(DType::F32);
        let decoder_bytes = Elements::of(&decoder).bytes(DType::F32);
        let trained = controlnet + decoder_bytes;
        let algorithm = &plan.optimizer.algorithm;
        let optimizer = state_bytes(algorithm, shapes) + state_bytes(algorithm, &decoder);
        let size = BatchSize {
            n_samples: to_u64(plan.data.batch_size.get()),
            latents: to_u64(plan.data.transform.side.get() / configs.vae.pixels_per_latent()),
            n_tokens: to_u64(configs.text[0].max_tokens),
            element: to_u64(plan.precision.precision().compute.size()),
        };
        let peak_of = if plan.memory.gradient_checkpointing {
            activations::checkpointed
        } else {
            activations::keeping_all
        };
        let is_resumed = plan.checkpoint.resume_from != ResumeFrom::Fresh;
        let as_read: u64 = networks.iter().map(|(_, elements)| elements.bytes(DType::F32)).sum();
        Self {
            plan,
            controlnet,
            saved: trained,
            gradients: trained,
            accumulated: if plan.optimizer.accumulation_steps.get() > 1 { trained } else { 0 },
            optimizer,
            updating: update_workspace(algorithm, shapes).max(update_workspace(algorithm, &decoder)),
            loading: as_read + if is_resumed { optimizer } else { 0 },
            encoding: encoding_bytes(run, plan),
            step: peak_of(
                &activations::Decoder { unet: &configs.unet, gradients: decoder_bytes },
                &run.controlnet,
                size,
                &|prefix| gradient_bytes(shapes, prefix),
            ),
            validation: validation_bytes(run, plan, size),
            freed: freed_bytes(run, plan, &networks),
            networks,
            vae_weights: configs.vae_weights(plan.precision.precision()),
            cache: cache_bytes(run, plan),
            loader: loader_bytes(plan),
        }
    }

    /// The lines of the plan. What is held from the first step to the last, such as another copy of the weights, is added
    /// here and nowhere else: the phases sum it up.
    pub(super) fn items(&self) -> Vec<Item> {
        let plan = self.plan;
        let frozen = plan.precision.precision().weights;
        let mut items: Vec<Item> = Vec::new();
        let mut item = |holding, what: String, bytes| items.push(Item { holding, what, bytes });
        for (name, elements) in &self.networks {
            let dtype = match *name {
                TRAINED => DType::F32,
                // All of it, though only its decoder is trained.
                UNET if !plan.model.sd_locked => DType::F32,
                VAE => self.vae_weights,
                _ => frozen,
            };
            let while_needed = if *name == TEXT && self.freed > 0 { ", freed" } else { "" };
            let what = format!("{name}, {} in {}{while_needed}", elements.count(), name_of(dtype));
            item(Holding::Parameters, what, elements.bytes(dtype));
        }
        if plan.ema.use_ema {
            item(Holding::Parameters, "average of the ControlNet in f32".to_owned(), self.controlnet);
        }
        let of_two = if self.accumulated > 0 { ", of two micro-batches" } else { "" };
        let with_decoder = if plan.model.sd_locked { "" } else { " and the UNet's decoder" };
        item(
            Holding::Gradients,
            format!("ControlNet{with_decoder}{of_two}"),
            self.gradients + self.accumulated,
        );
        let optimizer = OptimizerSection::of(&plan.optimizer.algorithm).optimizer.name();
        item(Holding::Optimizer, optimizer.to_owned(), self.optimizer);
        let (batch_size, side) = (plan.data.batch_size, plan.data.transform.side.get());
        let how = if plan.memory.gradient_checkpointing { ", checkpointed" } else { "" };
        item(Holding::Activations, format!("batch {batch_size}, {side} px{how}"), self.step.activations);
        let cache = match plan.cache {
            CachePlan::Off => "no",
            CachePlan::Memory => "memory",
            CachePlan::Disk(_) => "disk",
        };
        item(Holding::Caches, format!("{cache} cache"), self.cache);
        item(Holding::Caches, "pictures read ahead".to_owned(), self.loader);
        item(Holding::Program, "code and threads".to_owned(), PROGRAM);
        items
    }
}

/// The parameters of the UNet's decoder, if it is trained.
fn trained_decoder(run: &RunSize, plan: &TrainPlan) -> Shapes {
    let unet = run.frozen_shapes.iter().find(|(name, _)| *name == UNET && !plan.model.sd_locked);
    unet.map_or_else(Shapes::default, |(_, shapes)| shapes.beginning_with(&DECODER))
}

/// What the text encoders take, if every prompt is kept until the end.
fn freed_bytes(run: &RunSize, plan: &TrainPlan, networks: &[(&'static str, Elements)]) -> u64 {
    let keeps_all = |n_captions| keeps_all(&plan.cache, n_captions, run.configs.prompt_bytes());
    if !run.n_captions.is_some_and(keeps_all) {
        return 0;
    }
    let weights = plan.precision.precision().weights;
    let text_encoders = networks.iter().filter(|(name, _)| *name == TEXT);
    text_encoders.map(|(_, elements)| elements.bytes(weights)).sum()
}

/// Elements of a network's parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Elements {
    /// Biases and norms, which are in f32 in any precision.
    vectors: u64,
    others: u64,
}

impl Elements {
    pub(super) fn of(shapes: &Shapes) -> Self {
        let (mut vectors, mut others) = (0, 0);
        for (_, shape) in shapes.iter() {
            *(if shape.len() == 1 { &mut vectors } else { &mut others }) += n_elements(shape);
        }
        Self { vectors, others }
    }

    pub(super) fn bytes(self, dtype: DType) -> u64 {
        F32 * self.vectors + to_u64(dtype.size()) * self.others
    }

    /// In millions.
    fn count(self) -> String {
        let hundred_thousands = (self.vectors + self.others + 50_000) / 100_000;
        format!("{}.{} million", hundred_thousands / 10, hundred_thousands % 10)
    }
}

fn n_elements(shape: &[usize]) -> u64 {
    to_u64(shape.iter().product())
}

fn name_of(dtype: DType) -> &'static str {
    match dtype {
        DType::BF16 => "bf16",
        DType::F16 => "fp16",
        _ => "f32",
    }
}

/// Bytes of the gradients of the parameters below a path.
fn gradient_bytes(shapes: &Shapes, prefix: &str) -> u64 {
    let is_below = |path: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'));
    let of_path = shapes.iter().filter(|(path, _)| is_below(path));
    of_path.map(|(_, shape)| F32 * n_elements(shape)).sum()
}

/// An optimizer without a kernel of its own makes copies of one parameter at a time.
fn update_workspace(algorithm: &OptimizerConfig, shapes: &Shapes) -> u64 {
    const COPIES: u64 = 4;
    if matches!(algorithm, OptimizerConfig::AdamW(_) | OptimizerConfig::AdamW8bit(_)) {
        return 0;
    }
    let largest = shapes.iter().map(|(_, shape)| n_elements(shape)).max();
    COPIES * F32 * largest.unwrap_or(0)
}

/// What is kept in main memory of latents and of prompts, each with its limit. A cache on disk has one in front.
fn cache_bytes(run: &RunSize, plan: &TrainPlan) -> u64 {
    if plan.cache == CachePlan::Off {
        return 0;
    }
    let latents = run.configs.moments_bytes(plan.data.transform.side.get());
    let prompt = run.configs.prompt_bytes();
    let limit = to_u64(MEMORY_BYTES);
    let of = |count: usize, bytes: u64| to_u64(count).saturating_mul(bytes).min(limit);
    let transform = plan.data.transform;
    // Both mirrors of an image are kept, and no crop that is drawn.
    let n_latents = match (transform.crop, transform.flip) {
        (Crop::Random, _) => 0,
        (Crop::Center, Flip::Random) => 2 * run.n_samples,
        (Crop::Center, Flip::Never) => run.n_samples,
    };
    of(n_latents, latents) + of(run.n_captions.unwrap_or(run.n_samples), prompt)
}

/// Image and hint of each sample that is read ahead, and of the batch in use.
fn loader_bytes(plan: &TrainPlan) -> u64 {
    let n_batches = to_u64(plan.data.workers * PREFETCH + 1);
    n_batches * to_u64(plan.data.batch_size.get()) * F32 * to_u64(6 * plan.data.transform.side.get().pow(2))
}

/// One sample in the VAE's encoder, at its finest level: shortcut, norm, convolution, sum.
fn encoding_bytes(run: &RunSize, plan: &TrainPlan) -> u64 {
    4 * F32 * to_u64(run.configs.vae.channels[0] * plan.data.transform.side.get().pow(2))
}

/// The larger of an evaluation's passes and of one picture in UNet and VAE. The VAE's finest level begins with the width
/// of the one below: input, norm, and two tensors of its own width.
fn validation_bytes(run: &RunSize, plan: &TrainPlan, size: BatchSize) -> u64 {
    let BundleConfigs { unet, vae, .. } = &run.configs;
    let evaluation = plan.evaluation.map_or(0, |_| activations::without_gradients(unet, size));
    // A square of as many pixels; classifier-free guidance doubles the batch of one.
    let latents = to_u64(run.picture_pixels.isqrt().div_ceil(vae.pixels_per_latent()));
    let drawing = activations::without_gradients(unet, BatchSize { n_samples: 2, latents, ..size });
    let wider = vae.channels[1.min(vae.channels.len() - 1)];
    let decoding = F32 * to_u64(2 * (vae.channels[0] + wider) * run.picture_pixels);
    evaluation.max(drawing).max(decoding)
}
