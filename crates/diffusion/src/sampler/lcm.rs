//! The sampler of latent consistency models.

use burn::prelude::*;
use burn::tensor::DType;

use super::timesteps::{Steps, checked};
use super::{NoiseSource, Solver};
use crate::config::{PredictionType, ScheduleConfig, reject_true};
use crate::diffusers::SchedulerJson;
use crate::error::DiffusionError;
use crate::schedule::{NoiseLevel, NoiseSchedule};

/// The data's standard deviation in the boundary condition.
const SIGMA_DATA: f64 = 0.5;

/// Multistep consistency sampling: each step goes to the clean latents, and all but the last add noise again.
///
/// Source: Luo et al. 2023 (LCM), algorithm 3; diffusers 0.42 `scheduling_lcm.py`.
#[derive(Debug)]
pub(super) struct Lcm {
    prediction_type: PredictionType,
    clip_sample_range: Option<f64>,
    timestep_scaling: f64,
    timesteps: Vec<f64>,
    /// `alpha^2` at each timestep.
    alphas_cumprod: Vec<f64>,
}

impl Lcm {
    pub(super) fn new(json: &SchedulerJson, steps: &Steps) -> Result<Self, DiffusionError> {
        let mut json = json.chosen();
        reject_true("thresholding", json.thresholding)?;
        // This class has other defaults.
        json.beta_start.get_or_insert(0.00085);
        json.beta_end.get_or_insert(0.012);
        json.beta_schedule.get_or_insert_with(|| "scaled_linear".to_owned());
        let schedule = NoiseSchedule::new(&ScheduleConfig::try_from(&json)?)?;
        let number = |key: &str| json.other.get(key).and_then(serde_json::Value::as_f64);
        let n_original = json.other.get("original_inference_steps").and_then(serde_json::Value::as_u64);
        let n_original = n_original.and_then(|count| usize::try_from(count).ok()).unwrap_or(50);
        let n_train_timesteps = schedule.n_train_timesteps();
        let n_original = n_original.min(n_train_timesteps);
        let timesteps = match steps {
            Steps::At(timesteps) => checked(timesteps, n_train_timesteps)?,
            Steps::Count(n_steps) => distilled_timesteps(*n_steps, n_original, n_train_timesteps)?,
        };
        let table = schedule.alphas_cumprod();
        Ok(Self {
            prediction_type: schedule.prediction_type(),
            clip_sample_range: (json.clip_sample == Some(true))
                .then_some(json.clip_sample_range.unwrap_or(1.0)),
            timestep_scaling: number("timestep_scaling").unwrap_or(10.0),
            alphas_cumprod: timesteps.iter().map(|&timestep| table[timestep]).collect(),
            timesteps: timesteps.into_iter().map(|timestep| timestep as f64).collect(),
        })
    }
}

/// Evenly spaced among the timesteps that were distilled.
fn distilled_timesteps(
    n_steps: usize,
    n_original: usize,
    n_train_timesteps: usize,
) -> Result<Vec<usize>, DiffusionError> {
    if !(1..=n_original).contains(&n_steps) {
        return Err(DiffusionError::StepCount { n_steps, n_train_timesteps: n_original });
    }
    let stride = n_train_timesteps / n_original;
    Ok((0..n_steps).map(|step| (n_original - step * n_original / n_steps) * stride - 1).collect())
}

impl Solver for Lcm {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn noising(&self, call: usize) -> NoiseLevel {
        NoiseLevel::from_alpha_cumprod(self.alphas_cumprod[call])
    }

    fn step(
        &mut self,
        output: Tensor<4>,
        call: usize,
        sample: Tensor<4>,
        noise: NoiseSource<'_>,
    ) -> Tensor<4> {
        let (output, sample) = (output.cast(DType::F32), sample.cast(DType::F32));
        let level = NoiseLevel::from_alpha_cumprod(self.alphas_cumprod[call]);
        let mut clean = level.clean(self.prediction_type, output, sample.clone());
        if let Some(range) = self.clip_sample_range {
            clean = clean.clamp(-range, range);
        }
        let time = self.timesteps[call] * self.timestep_scaling;
        let norm = time.powi(2) + SIGMA_DATA.powi(2);
        let clean = clean * (time / norm.sqrt()) + sample * (SIGMA_DATA.powi(2) / norm);
        let Some(&next) = self.alphas_cumprod.get(call + 1) else { return clean };
        let next = NoiseLevel::from_alpha_cumprod(next);
        clean * next.alpha + noise() * next.sigma
    }
}
