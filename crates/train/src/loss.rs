//! The objective: how far the controlled UNet's prediction is from the noise, or the velocity.

use burn::prelude::*;
use pyrograph_data::random::{self, Purpose};
use pyrograph_diffusion::NoiseSchedule;
use pyrograph_pipeline::{Bundle, DiagonalGaussian, standard_normal};
use pyrograph_unet::Decoded;

use crate::batch::Batch;
use crate::objective::LossSection;
use crate::optim::Gradients;
use crate::stopwatch::{Phase, Stopwatch};
use crate::trainee::Trainee;

/// The frozen half of the computation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frozen<'a> {
    pub bundle: &'a Bundle,
    pub schedule: &'a NoiseSchedule,
}

/// Which random numbers a micro-batch draws.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draw {
    /// The run's seed.
    pub seed: u64,
    /// Micro-batches made before this one.
    pub micro_step: u64,
}

/// How a micro-batch's loss and gradients are computed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LossOptions {
    /// The loss counts so many times in the gradients: one over the number of micro-batches of an update.
    pub weight: f64,
    /// Keep only the input of each block.
    pub checkpointing: bool,
    /// What is made small.
    pub loss: LossSection,
}

/// The loss of one micro-batch, `[1]` and without autodiff, and its gradients: noise the latents, predict with the
/// ControlNet, compare with the target.
///
/// Only the ControlNet and the UNet's decoder, which may be trained, too, run with autodiff: the residuals join after the encoder, so nothing
/// before them depends on a trainable weight.
///
/// Source: diffusers `examples/controlnet/train_controlnet.py` (0.42); Zhang et al. 2023, eq. 5.
pub(crate) fn control_gradients(
    Frozen { bundle, schedule }: Frozen<'_>,
    trainee: &Trainee,
    batch: &Batch,
    draw: Draw,
    options: LossOptions,
    stopwatch: &mut Stopwatch,
) -> (Tensor<1>, Gradients) {
    let posterior = DiagonalGaussian::from_moments(batch.moments.clone());
    let sample = posterior.sample(normal_like(&posterior.mode(), batch, draw, Purpose::Latent));
    let latents = bundle.vae.scale(sample);
    let noise = noise_like(&latents, batch, draw, options.loss.noise_offset);
    let timesteps = timesteps(&batch.ids, draw, schedule.n_train_timesteps());
    let (controlnet, decoder) = (&trainee.controlnet, trainee.decoder(bundle));
    let compute = bundle.precision.compute;
    let noisy_latents = schedule.add_noise(latents.clone(), noise.clone(), &timesteps).cast(compute);
    let conditioning = &batch.conditioning.clone().cast(compute);
    let (context, hint) = (&conditioning.context, batch.hint.clone().cast(compute));

    #[expect(clippy::cast_precision_loss, reason = "timesteps are below 2^24")]
    let times: Vec<f32> = timesteps.iter().map(|&timestep| timestep as f32).collect();
    stopwatch.lap(Phase::Encode);
    let encoded = bundle.unet.encode(noisy_latents.clone(), &times, conditioning);
    stopwatch.lap(Phase::Unet);
    let target = schedule.target(latents, noise, &timesteps);
    let (objective, only_mid) = (options.loss.objective(), options.loss.only_mid_control);
    if options.checkpointing {
        let (residuals, tape) = controlnet.forward_checkpointed(noisy_latents, &times, conditioning, hint);
        stopwatch.lap(Phase::ControlNet);
        let residuals = if only_mid { residuals.only_mid() } else { residuals };
        let loss = |prediction| objective.loss(schedule, prediction, target, &timesteps) * options.weight;
        let Decoded { loss, towards, gradients: of_decoder } =
            decoder.decode_checkpointed(encoded, context, &residuals, loss);
        let towards = if only_mid { towards.only_mid() } else { towards };
        stopwatch.lap(Phase::Unet);
        let mut gradients = None;
        for backward in of_decoder.into_iter().filter(|_| trainee.unet.is_some()) {
            accumulate(&mut gradients, Gradients::take(trainee, backward));
        }
        tape.backward(controlnet, towards, &mut |backward| {
            accumulate(&mut gradients, Gradients::take(trainee, backward));
        });
        (loss / options.weight, gradients.expect("a ControlNet has blocks"))
    } else {
        let residuals = controlnet.forward(noisy_latents, &times, conditioning, hint);
        let residuals = if only_mid { residuals.only_mid() } else { residuals };
        stopwatch.lap(Phase::ControlNet);
        let prediction = decoder.decode(encoded, context, Some(residuals));
        let loss = objective.loss(schedule, prediction, target, &timesteps);
        stopwatch.lap(Phase::Unet);
        let backward = (loss.clone() * options.weight).backward();
        (loss.inner(), Gradients::take(trainee, backward))
    }
}

/// Adds to a sum of gradients.
pub(crate) fn accumulate(sum: &mut Option<Gradients>, gradients: Gradients) {
    *sum = Some(match sum.take() {
        Some(sum) => sum.plus(gradients),
        None => gradients,
    });
}

/// Standard normal numbers of the latents' shape, each sample's from its own key.
fn normal_like(latents: &Tensor<4>, batch: &Batch, draw: Draw, purpose: Purpose) -> Tensor<4> {
    let [_, channels, height, width] = latents.dims();
    let sample = |id: &String| {
        let mut rng = random::rng(draw.seed, draw.micro_step, id, purpose);
        standard_normal([1, channels, height, width], &mut rng, &latents.device())
    };
    Tensor::cat(batch.ids.iter().map(sample).collect(), 0)
}

/// The noise to add, with a share that is the same over a channel.
///
/// Source: diffusers `train_text_to_image.py` (0.42), `noise_offset`.
fn noise_like(latents: &Tensor<4>, batch: &Batch, draw: Draw, offset: f64) -> Tensor<4> {
    let noise = normal_like(latents, batch, draw, Purpose::Noise);
    if offset == 0.0 {
        return noise;
    }
    let [_, channels, ..] = latents.dims();
    let channel = latents.clone().slice([0..batch.ids.len(), 0..channels, 0..1, 0..1]);
    noise + normal_like(&channel, batch, draw, Purpose::NoiseOffset) * offset
}

/// One timestep for each sample, uniform over the schedule.
pub(crate) fn timesteps(ids: &[String], draw: Draw, n_train_timesteps: usize) -> Vec<usize> {
    let timestep = |id: &String| {
        let mut rng = random::rng(draw.seed, draw.micro_step, id, Purpose::Timestep);
        random::below(&mut rng, n_train_timesteps)
    };
    ids.iter().map(timestep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_of_noise_is_one_number_for_each_channel_of_each_sample() {
        let device = Device::flex();
        let latents = Tensor::<4>::zeros([2, 3, 4, 5], &device);
        let batch = Batch {
            moments: latents.clone(),
            hint: latents.clone(),
            conditioning: Tensor::zeros([2, 1, 1], &device).into(),
            ids: vec!["one".to_owned(), "other".to_owned()],
            non_finite: None,
        };
        let draw = Draw { seed: 1, micro_step: 2 };
        let offset = noise_like(&latents, &batch, draw, 0.1) - noise_like(&latents, &batch, draw, 0.0);
        let of_channel = offset.clone().slice([0..2, 0..3, 0..1, 0..1]);
        let spread = (offset - of_channel.clone()).abs().max().into_scalar::<f32>();
        assert!(spread < 1e-6, "{spread}");
        let mut values = of_channel.try_into_vec_as::<f32>().expect("f32");
        assert!(values.iter().all(|value| value.abs() < 0.5));
        values.dedup();
        assert_eq!(values.len(), 6, "all differ: {values:?}");
    }
}
