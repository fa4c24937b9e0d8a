//! Evaluation: how well the noise is predicted, and whether the hint matters, on fixed samples, timesteps and noise.

use std::num::NonZeroU64;
use std::ops::Range;

use burn::module::Module;
use burn::prelude::*;
use burn::tensor::{DType, TensorData};
use pyrograph_data::random::{self, Purpose};
use pyrograph_data::{Data, Geometry, LoadedSample, Sample, Size, Transform, Turn};
use pyrograph_diffusion::NoiseSchedule;
use pyrograph_pipeline::{Bundle, Conditioning, DiagonalGaussian, standard_normal};
use pyrograph_unet::{ControlNet, Residuals};
use serde::{Deserialize, Serialize};

use crate::encode::Encoder;
use crate::events::{Evaluation, TimestepBin, ZeroConv};
use crate::group::Ranks;
use crate::loss::Frozen;
use crate::nonfinite::Suspect;
use crate::stop::Stop;
use crate::{TrainError, TrainPlan};

/// Parts of equal length into which the timesteps are cut; each sample is evaluated once in each.
const N_BINS: usize = 4;

/// Held out is at most one sample of so many.
const MIN_SAMPLES_PER_HELD_OUT: usize = 10;

/// The samples that a run is evaluated on.
#[derive(Debug)]
pub(crate) struct EvaluationSet {
    pub(crate) samples: Vec<Sample>,
    /// Whether none of them is trained on.
    pub(crate) is_held_out: bool,
}

impl EvaluationSet {
    /// Takes `n_samples` out of a data set, at most a tenth of it. Where that is less than the two between which hints
    /// are exchanged, the data set stays as it is and its first samples are evaluated.
    ///
    /// # Errors
    /// [`TrainError::Data`] if a row of a stream cannot be read.
    pub(crate) fn split(data: Data, n_samples: usize, seed: u64) -> Result<(Data, Self), TrainError> {
        let n_held_out = n_samples.min(data.n_samples() / MIN_SAMPLES_PER_HELD_OUT);
        let is_held_out = n_held_out >= 2;
        let (data, samples) = if is_held_out {
            data.hold_out(n_held_out, seed)
        } else {
            data.first(n_samples).map(|samples| (data, samples))
        }
        .map_err(TrainError::Data)?;
        Ok((data, Self { samples, is_held_out }))
    }

    /// The set without samples that cannot be used, which are told.
    pub(crate) fn without_unusable(mut self, transform: Transform, turn: Turn) -> Self {
        self.samples.retain(|sample| match transform.load(sample, turn) {
            Ok(_) => true,
            Err(error) => {
                let error = TrainError::Data(error);
                tracing::warn!("the evaluation goes without a sample: {}", error.with_causes());
                false
            }
        });
        self
    }
}

/// What became of an evaluation.
#[derive(Debug)]
pub(crate) enum Outcome {
    Finite(Evaluation),
    /// It says nothing, because of these samples.
    NotFinite(Vec<Suspect>),
}

/// Evaluates a ControlNet.
///
/// An evaluation costs about as much as training on two and a half times the samples: for each sample and bin one pass
/// of the UNet's encoder and two of ControlNet and decoder, with nothing to differentiate.
#[derive(Debug)]
pub(crate) struct Evaluator {
    set: EvaluationSet,
    every_steps: NonZeroU64,
    batch_size: usize,
    transform: Transform,
    seed: u64,
}

impl Evaluator {
    /// An evaluator for the plan, or `None` if it evaluates nothing or there is no second sample to exchange hints with.
    pub(crate) fn new(plan: &TrainPlan, set: EvaluationSet) -> Option<Self> {
        let every_steps = plan.evaluation?.every_steps;
        if set.samples.len() < 2 {
            tracing::warn!("a data set of one sample is not evaluated");
            return None;
        }
        let (batch_size, transform, seed) =
            (plan.data.batch_size.get(), plan.data.transform.square(), plan.seed);
        Some(Self { set, every_steps, batch_size, transform, seed })
    }

    /// What the samples are predicted with.
    pub(crate) fn captions(&self) -> impl Iterator<Item = &str> {
        self.set.samples.iter().map(caption)
    }

    /// Whether an evaluation is due after so many steps.
    pub(crate) fn is_due(&self, step: u64) -> bool {
        step.is_multiple_of(self.every_steps.get())
    }

    /// Evaluates a ControlNet after `step` steps, each rank some of the batches. Equal weights give equal numbers at any step.
    ///
    /// # Errors
    /// [`TrainError`] if an image cannot be read, [`TrainError::Stopped`] between two passes.
    pub(crate) fn run(
        &self,
        frozen: Frozen<'_>,
        controlnet: &ControlNet,
        encoder: &Encoder,
        step: u64,
        stop: &Stop,
        ranks: &Ranks,
    ) -> Result<Outcome, TrainError> {
        let controlnet = controlnet.valid();
        let bins = bins(frozen.schedule.n_train_timesteps());
        let n_samples = self.set.samples.len();
        let mut own = Vec::new();
        let batches = (0..n_samples).step_by(self.batch_size).enumerate();
        for (_, first) in batches.filter(|(batch_idx, _)| ranks.is_mine(*batch_idx)) {
            let batch = self.batch(first, frozen.bundle, encoder)?;
            for (bin_idx, bin) in bins.iter().enumerate() {
                stop.check()?;
                let noised = self.noised(frozen.schedule, &batch, bin_idx, bin);
                let timesteps = noised.timesteps.clone();
                let (losses, residuals) = paired_losses(frozen.bundle, &controlnet, &batch, noised);
                let suspects = losses.not_finite(&batch.ids, &timesteps);
                own.push(Pass {
                    first,
                    bin_idx,
                    losses,
                    suspects,
                    strengths: Strengths::of_batch(&residuals),
                });
            }
        }
        // In one order, whoever has made them.
        let mut passes: Vec<Pass> = ranks.gather(own)?.into_iter().flatten().collect();
        passes.sort_by_key(|pass| (pass.first, pass.bin_idx));
        let mut losses = vec![PairedLosses::default(); bins.len()];
        let (mut strengths, mut suspects) = (Strengths::default(), Vec::new());
        for pass in passes {
            suspects.extend(pass.suspects);
            losses[pass.bin_idx].extend(pass.losses);
            strengths.add(&pass.strengths);
        }
        if !suspects.is_empty() {
            return Ok(Outcome::NotFinite(suspects));
        }
        Ok(Outcome::Finite(self.summary(step, &bins, &losses, strengths.of(&controlnet))))
    }

    /// Latents, prompts and hints of the samples from `first` on.
    fn batch(&self, first: usize, bundle: &Bundle, encoder: &Encoder) -> Result<EvalBatch, TrainError> {
        let samples = &self.set.samples;
        let batch_size = self.batch_size.min(samples.len() - first);
        let places = with_successor(first, batch_size, samples.len());
        // The same at each evaluation.
        let turn = Turn { seed: self.seed, epoch: 0 };
        let load =
            |&place: &usize| self.transform.load_unless_encoded(&samples[place], encoder.images(), turn);
        let loaded: Vec<LoadedSample> =
            places.iter().map(load).collect::<Result<_, _>>().map_err(TrainError::Data)?;
        let geometries: Vec<Geometry> = loaded.iter().map(|loaded| loaded.geometry).collect();
        let (targets, hints): (Vec<_>, Vec<_>) =
            loaded.into_iter().map(|loaded| (loaded.target, loaded.hint_unit)).unzip();

        let size = Size::square(self.transform.side);
        let side = self.transform.side.get();
        let members = &samples[first..first + batch_size];
        let targets = targets.into_iter().take(batch_size);
        let moments = targets.map(|target| Ok(encoder.moments(bundle, target, size)?.tensor));
        let moments = moments.collect::<Result<_, TrainError>>()?;
        let captions = members.iter().map(caption);
        let prompts = captions
            .zip(&geometries)
            .map(|(caption, geometry)| Ok(encoder.prompt(bundle, caption, geometry)?.conditioning))
            .collect::<Result<_, TrainError>>()?;
        let hints = TensorData::new(hints.concat(), [batch_size + 1, 3, side, side]);
        let hints = Tensor::from_data(hints, encoder.device());
        Ok(EvalBatch {
            ids: members.iter().map(|sample| sample.id.clone()).collect(),
            latents: bundle.vae.scale(DiagonalGaussian::from_moments(Tensor::cat(moments, 0)).mode()),
            conditioning: Conditioning::cat(prompts),
            hint: hints.clone().narrow(0, 0, batch_size),
            shuffled_hint: hints.narrow(0, 1, batch_size),
        })
    }

    /// Draws a timestep in the bin and noise for each sample, and adds it; the draw depends on no training step.
    fn noised(
        &self,
        schedule: &NoiseSchedule,
        batch: &EvalBatch,
        bin_idx: usize,
        bin: &Range<usize>,
    ) -> Noised {
        let [_, channels, height, width] = batch.latents.dims();
        let device = batch.latents.device();
        let draw = |id: &String| {
            let mut rng = random::rng(self.seed, bin_idx as u64, id, Purpose::Evaluation);
            let timestep = bin.start + random::below(&mut rng, bin.len());
            (timestep, standard_normal([1, channels, height, width], &mut rng, &device))
        };
        let (timesteps, noise): (Vec<usize>, Vec<Tensor<4>>) = batch.ids.iter().map(draw).unzip();
        let (latents, noise) = (batch.latents.clone(), Tensor::cat(noise, 0));
        #[expect(clippy::cast_precision_loss, reason = "timesteps are below 2^24")]
        Noised {
            latents: schedule.add_noise(latents.clone(), noise.clone(), &timesteps),
            target: schedule.target(latents, noise, &timesteps),
            times: timesteps.iter().map(|&timestep| timestep as f32).collect(),
            timesteps,
        }
    }

    fn summary(
        &self,
        step: u64,
        bins: &[Range<usize>],
        losses: &[PairedLosses],
        zero_convs: Vec<ZeroConv>,
    ) -> Evaluation {
        let bins: Vec<TimestepBin> = bins
            .iter()
            .zip(losses)
            .map(|(bin, losses)| TimestepBin {
                first: bin.start,
                last: bin.end - 1,
                loss: mean(&losses.own),
                shuffled_loss: mean(&losses.shuffled),
            })
            .collect();
        let over_bins = |of: fn(&TimestepBin) -> f64| mean(&bins.iter().map(of).collect::<Vec<_>>());
        let (loss, shuffled_loss) = (over_bins(|bin| bin.loss), over_bins(|bin| bin.shuffled_loss));
        let sample_gap =
            |sample_idx: usize| mean(&losses.iter().map(|losses| losses.gap(sample_idx)).collect::<Vec<_>>());
        let n_samples = self.set.samples.len();
        let (_, control_gap_error) = mean_and_error(&(0..n_samples).map(sample_gap).collect::<Vec<_>>());
        Evaluation {
            step,
            n_samples,
            is_held_out: self.set.is_held_out,
            loss,
            bins,
            shuffled_loss,
            control_gap: shuffled_loss - loss,
            control_gap_error,
            zero_convs,
        }
    }
}

/// What a sample is predicted with.
fn caption(sample: &Sample) -> &str {
    sample.captions.first().map_or("", String::as_str)
}

/// What some samples are evaluated with, on the device.
struct EvalBatch {
    ids: Vec<String>,
    /// The most likely latents, `[batch, latent_channels, height, width]`.
    latents: Tensor<4>,
    /// Of each sample's first caption.
    conditioning: Conditioning,
    /// `[batch, 3, side, side]` in [0, 1].
    hint: Tensor<4>,
    /// The same of other samples.
    shuffled_hint: Tensor<4>,
}

/// Latents with noise, and what is to be predicted from them, each `[batch, latent_channels, height, width]`.
struct Noised {
    latents: Tensor<4>,
    target: Tensor<4>,
    times: Vec<f32>,
    timesteps: Vec<usize>,
}

/// The losses of samples with their own hint and with that of another sample, in the same order.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct PairedLosses {
    own: Vec<f64>,
    shuffled: Vec<f64>,
}

impl PairedLosses {
    fn extend(&mut self, more: Self) {
        self.own.extend(more.own);
        self.shuffled.extend(more.shuffled);
    }

    /// The samples of a batch with a loss that is not finite.
    fn not_finite(&self, ids: &[String], timesteps: &[usize]) -> Vec<Suspect> {
        let is_finite = |place: usize| self.own[place].is_finite() && self.shuffled[place].is_finite();
        let places = (0..ids.len()).filter(|&place| !is_finite(place));
        places.map(|place| Suspect { id: ids[place].clone(), timestep: timesteps[place] }).collect()
    }

    fn gap(&self, sample_idx: usize) -> f64 {
        self.shuffled[sample_idx] - self.own[sample_idx]
    }
}

/// Predicts with both hints; the UNet's encoder, which sees neither, runs once. The residuals are those of the true hint.
fn paired_losses(
    bundle: &Bundle,
    controlnet: &ControlNet,
    batch: &EvalBatch,
    noised: Noised,
) -> (PairedLosses, Residuals) {
    let Noised { latents, target, times, .. } = noised;
    let compute = bundle.precision.compute;
    let (latents, conditioning) = (latents.cast(compute), &batch.conditioning.clone().cast(compute));
    let encoded = bundle.unet.encode(latents.clone(), &times, conditioning);
    let residuals = |hint: &Tensor<4>| {
        controlnet.forward(latents.clone(), &times, conditioning, hint.clone().cast(compute))
    };
    let losses = |residuals| {
        let prediction = bundle.unet.decode(encoded.clone(), &conditioning.context, Some(residuals));
        sample_losses(prediction, target.clone())
    };
    let own = residuals(&batch.hint);
    let paired = PairedLosses { own: losses(own.clone()), shuffled: losses(residuals(&batch.shuffled_hint)) };
    (paired, own)
}

/// Mean squared error of each sample, in f32.
fn sample_losses(prediction: Tensor<4>, target: Tensor<4>) -> Vec<f64> {
    let squares = (prediction.cast(DType::F32) - target.cast(DType::F32)).square();
    let means = squares.flatten::<2>(1, 3).mean_dim(1);
    means.try_into_vec_as::<f32>().expect("the device hands out f32").into_iter().map(f64::from).collect()
}

/// What was found in one part of the timesteps of one batch.
#[derive(Serialize, Deserialize)]
struct Pass {
    /// The first of the samples.
    first: usize,
    bin_idx: usize,
    losses: PairedLosses,
    suspects: Vec<Suspect>,
    strengths: Strengths,
}

/// Mean squares of the residuals, from batches of any sizes.
#[derive(Default, Serialize, Deserialize)]
struct Strengths {
    sums: Vec<f64>,
    n_samples: usize,
}

impl Strengths {
    fn of_batch(residuals: &Residuals) -> Self {
        let [n_samples, ..] = residuals.mid.dims();
        let sum = |residual: &Tensor<4>| {
            scalar(residual.clone().cast(DType::F32).square().mean()) * as_f64(n_samples)
        };
        Self { sums: residuals.down.iter().chain([&residuals.mid]).map(sum).collect(), n_samples }
    }

    fn add(&mut self, other: &Self) {
        self.sums.resize(other.sums.len(), 0.0);
        for (sum, other) in self.sums.iter_mut().zip(&other.sums) {
            *sum += other;
        }
        self.n_samples += other.n_samples;
    }

    fn of(self, controlnet: &ControlNet) -> Vec<ZeroConv> {
        let last = self.sums.len() - 1;
        let zero_convs = controlnet.zero_convs().zip(self.sums).enumerate();
        zero_convs
            .map(|(idx, (conv, sum))| ZeroConv {
                name: if idx == last { "mid".to_owned() } else { format!("down {idx}") },
                weight_norm: scalar(conv.weight.val().square().sum()).sqrt(),
                residual_rms: (sum / as_f64(self.n_samples)).sqrt(),
            })
            .collect()
    }
}

/// The timesteps in parts of equal length.
fn bins(n_timesteps: usize) -> Vec<Range<usize>> {
    let edge = |bin_idx: usize| bin_idx * n_timesteps / N_BINS;
    (0..N_BINS).map(|bin_idx| edge(bin_idx)..edge(bin_idx + 1)).filter(|bin| !bin.is_empty()).collect()
}

/// The places from `first` on and the one after them, around the end: moved by one, each sample has its successor's hint,
/// so that no sample has its own and each hint is used once.
fn with_successor(first: usize, batch_size: usize, n_samples: usize) -> Vec<usize> {
    (first..=first + batch_size).map(|place| place % n_samples).collect()
}

/// Mean and its standard error, of at least two values.
pub(crate) fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let (mean, n_values) = (mean(values), as_f64(values.len()));
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (n_values - 1.0) / n_values).sqrt())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / as_f64(values.len())
}

fn scalar(tensor: Tensor<1>) -> f64 {
    f64::from(tensor.into_scalar::<f32>())
}

#[expect(clippy::cast_precision_loss, reason = "counts of samples are far below 2^53")]
fn as_f64(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_cover_every_timestep_once() {
        assert_eq!(bins(1000), [0..250, 250..500, 500..750, 750..1000]);
        assert_eq!(bins(10), [0..2, 2..5, 5..7, 7..10]);
        assert_eq!(bins(2), [0..1, 1..2], "an empty bin is none");
    }

    #[test]
    fn every_hint_goes_to_another_sample_once() {
        for n_samples in 2..9 {
            for batch_size in 1..=n_samples {
                let mut partners: Vec<(usize, usize)> = Vec::new();
                for first in (0..n_samples).step_by(batch_size) {
                    let places = with_successor(first, batch_size.min(n_samples - first), n_samples);
                    partners.extend(places.iter().copied().zip(places[1..].iter().copied()));
                }
                assert!(partners.iter().all(|(sample, partner)| sample != partner), "{partners:?}");
                let mut hints: Vec<usize> = partners.iter().map(|(_, partner)| *partner).collect();
                hints.sort_unstable();
                assert_eq!(hints, (0..n_samples).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn the_error_of_a_mean_is_that_of_statistics() {
        let (mean, error) = mean_and_error(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(mean, 2.5);
        assert!((error - (5.0_f64 / 3.0 / 4.0).sqrt()).abs() < 1e-15);
    }
}
