//! The training objective: how far predictions are from their targets, and how much each timestep counts.

use burn::prelude::*;
use burn::tensor::{DType, TensorData};
use serde::{Deserialize, Serialize};

use crate::config::PredictionType;
use crate::schedule::NoiseSchedule;

/// How far an element of a prediction is from the target's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Distance {
    /// The squared difference.
    Squared,
    /// Squared for small differences `d`, linear for large ones: `2 c (sqrt(d^2 + c^2) - c)`.
    Huber(HuberScale),
    /// The same over `c`: the absolute difference with a rounded corner.
    SmoothL1(HuberScale),
}

/// What the scale `c`, at which a difference begins to count as large, is at each timestep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HuberScale {
    /// The scale at the last timestep; at all of them, if constant.
    pub c: f64,
    /// How it moves.
    pub schedule: HuberSchedule,
}

/// How the scale moves from 1 at timestep 0 to its end.
///
/// Source: Khrapov et al. 2024, "Improving Diffusion Models' Data-Corruption Resistance using Scheduled
/// Pseudo-Huber Loss", section 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HuberSchedule {
    /// Not at all.
    Constant,
    /// By the same factor at each timestep.
    Exponential,
    /// With the share of the signal.
    Snr,
}

/// What training makes small.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Objective {
    /// How far an element is from its target.
    pub distance: Distance,
    /// The signal-to-noise ratio above which a timestep counts less, `gamma` of min-SNR weighting.
    ///
    /// Source: Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy", eq. 6.
    pub snr_gamma: Option<f64>,
}

impl Objective {
    /// The mean squared error.
    pub const MSE: Self = Self { distance: Distance::Squared, snr_gamma: None };

    /// The loss of a batch in f32: the mean over each sample's elements, weighed by its timestep, then over the samples.
    ///
    /// # Shapes
    /// - prediction and target: `[batch, channels, height, width]`
    /// - output: `[1]`
    ///
    /// # Panics
    /// If there is not one timestep per sample, or one is not below [`NoiseSchedule::n_train_timesteps`].
    ///
    /// Source: diffusers `train_text_to_image.py` (0.42) for the weights; kohya-ss `conditional_loss` for the distances.
    #[must_use]
    pub fn loss(
        &self,
        schedule: &NoiseSchedule,
        prediction: Tensor<4>,
        target: Tensor<4>,
        timesteps: &[usize],
    ) -> Tensor<1> {
        if *self == Self::MSE {
            return mse(prediction, target);
        }
        let difference = prediction.cast(DType::F32) - target.cast(DType::F32);
        let per_sample = |value: &dyn Fn(usize) -> f64| {
            let values: Vec<f64> = timesteps.iter().map(|&timestep| value(timestep)).collect();
            let data = TensorData::new(values, [timesteps.len(), 1, 1, 1]);
            Tensor::<4>::from_data(data, (&difference.device(), DType::F32))
        };
        let distances = match self.distance {
            Distance::Squared => difference.clone().square(),
            Distance::Huber(scale) => {
                let c = per_sample(&|timestep| scale.at(schedule, timestep));
                pseudo_huber(difference.clone(), c.clone()) * c
            }
            Distance::SmoothL1(scale) => {
                let c = per_sample(&|timestep| scale.at(schedule, timestep));
                pseudo_huber(difference.clone(), c)
            }
        };
        match self.snr_gamma {
            None => distances.mean(),
            Some(gamma) => {
                (distances * per_sample(&|timestep| min_snr_weight(schedule, timestep, gamma))).mean()
            }
        }
    }
}

/// Mean squared error over all elements, in f32.
///
/// # Shapes
/// - prediction and target: `[batch, channels, height, width]`
/// - output: `[1]`
#[must_use]
pub fn mse(prediction: Tensor<4>, target: Tensor<4>) -> Tensor<1> {
    (prediction.cast(DType::F32) - target.cast(DType::F32)).square().mean()
}

/// `2 (sqrt(d^2 + c^2) - c)`.
fn pseudo_huber(difference: Tensor<4>, c: Tensor<4>) -> Tensor<4> {
    ((difference.square() + c.clone().square()).sqrt() - c) * 2.0
}

impl HuberScale {
    fn at(self, schedule: &NoiseSchedule, timestep: usize) -> f64 {
        match self.schedule {
            HuberSchedule::Constant => self.c,
            HuberSchedule::Exponential => {
                #[expect(clippy::cast_precision_loss, reason = "timesteps are below 2^52")]
                let share = timestep as f64 / schedule.n_train_timesteps() as f64;
                self.c.powf(share)
            }
            HuberSchedule::Snr => {
                let noise_to_signal = schedule.snr(timestep).sqrt().recip();
                (1.0 - self.c) / (1.0 + noise_to_signal).powi(2) + self.c
            }
        }
    }
}

/// How much a timestep counts: the network predicts noise, or velocity, but should be right about the clean latents.
fn min_snr_weight(schedule: &NoiseSchedule, timestep: usize, gamma: f64) -> f64 {
    let snr = schedule.snr(timestep);
    match schedule.prediction_type() {
        // As a minimum of ratios, since without signal both are 0.
        PredictionType::Epsilon => (gamma / snr).min(1.0),
        PredictionType::VPrediction => snr.min(gamma) / (snr + 1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BetaSchedule, ScheduleConfig};

    fn schedule(prediction_type: PredictionType, rescale_betas_zero_snr: bool) -> NoiseSchedule {
        NoiseSchedule::new(&ScheduleConfig {
            n_train_timesteps: 1000,
            beta_schedule: BetaSchedule::ScaledLinear { beta_start: 0.00085, beta_end: 0.012 },
            prediction_type,
            rescale_betas_zero_snr,
        })
        .expect("Stable Diffusion's schedule")
    }

    /// The loss of two samples of one element each, 3 and -0.5 away from their targets.
    fn loss(objective: Objective, schedule: &NoiseSchedule, timesteps: [usize; 2]) -> f64 {
        let device = Device::flex();
        let prediction = Tensor::<1>::from_floats([4.0, 0.5], &device).reshape([2, 1, 1, 1]);
        let target = Tensor::<1>::from_floats([1.0, 1.0], &device).reshape([2, 1, 1, 1]);
        f64::from(objective.loss(schedule, prediction, target, &timesteps).into_scalar::<f32>())
    }

    fn check(objective: Objective, prediction_type: PredictionType, expected: impl Fn(f64, usize) -> f64) {
        let schedule = schedule(prediction_type, false);
        for timesteps in [[0, 999], [17, 500], [300, 301]] {
            let expected = 0.5 * (expected(3.0, timesteps[0]) + expected(-0.5, timesteps[1]));
            let found = loss(objective, &schedule, timesteps);
            assert!(
                (found - expected).abs() < 1e-5 * expected,
                "{objective:?} {timesteps:?}: {found} {expected}"
            );
        }
    }

    #[test]
    fn the_plain_objective_is_the_mean_squared_error() {
        check(Objective::MSE, PredictionType::Epsilon, |difference, _| difference * difference);
    }

    #[test]
    fn min_snr_weights_are_those_of_the_paper() {
        let objective = Objective { snr_gamma: Some(5.0), ..Objective::MSE };
        for prediction_type in [PredictionType::Epsilon, PredictionType::VPrediction] {
            let table = schedule(prediction_type, false);
            check(objective, prediction_type, |difference, timestep| {
                let alpha_cumprod = table.alphas_cumprod()[timestep];
                let snr = alpha_cumprod / (1.0 - alpha_cumprod);
                let of_clean = snr.min(5.0);
                let weight = match prediction_type {
                    PredictionType::Epsilon => of_clean / snr,
                    PredictionType::VPrediction => of_clean / (snr + 1.0),
                };
                difference * difference * weight
            });
        }
    }

    #[test]
    fn a_timestep_without_signal_has_a_weight() {
        let objective = Objective { snr_gamma: Some(5.0), ..Objective::MSE };
        let found = loss(objective, &schedule(PredictionType::Epsilon, true), [999, 999]);
        assert!((found - 0.5 * (9.0 + 0.25)).abs() < 1e-5, "{found}");
    }

    #[test]
    fn huber_distances_are_those_of_the_paper() {
        let table = schedule(PredictionType::Epsilon, false);
        for huber_schedule in [HuberSchedule::Constant, HuberSchedule::Exponential, HuberSchedule::Snr] {
            let scale = HuberScale { c: 0.1, schedule: huber_schedule };
            let c = |timestep: usize| match huber_schedule {
                HuberSchedule::Constant => 0.1,
                HuberSchedule::Exponential => (0.1_f64.ln() / 1000.0 * timestep as f64).exp(),
                HuberSchedule::Snr => {
                    let alpha_cumprod = table.alphas_cumprod()[timestep];
                    let sigma = ((1.0 - alpha_cumprod) / alpha_cumprod).sqrt();
                    0.9 / (1.0 + sigma).powi(2) + 0.1
                }
            };
            let root = |difference: f64, c: f64| 2.0 * ((difference * difference + c * c).sqrt() - c);
            let huber = Objective { distance: Distance::Huber(scale), snr_gamma: None };
            check(huber, PredictionType::Epsilon, |difference, timestep| {
                c(timestep) * root(difference, c(timestep))
            });
            let smooth = Objective { distance: Distance::SmoothL1(scale), snr_gamma: None };
            check(smooth, PredictionType::Epsilon, |difference, timestep| root(difference, c(timestep)));
        }
    }
}
