//! The sampler of the process that models are trained on.

use burn::prelude::*;
use burn::tensor::DType;

use super::timesteps::{Grid, Steps};
use super::{NoiseSource, Solver};
use crate::config::{Choice, PredictionType, ScheduleConfig, TimestepSpacing, choice, reject_true};
use crate::diffusers::SchedulerJson;
use crate::error::DiffusionError;
use crate::schedule::{NoiseLevel, NoiseSchedule};

/// Variance of the fresh noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variance {
    /// That of the posterior.
    Small,
    /// That of the forward step.
    Large,
}

impl Choice for Variance {
    const KEY: &'static str = "variance_type";
    const NAMES: &'static [(&'static str, Self)] =
        &[("fixed_small", Self::Small), ("fixed_small_log", Self::Small), ("fixed_large", Self::Large)];
}

/// Ancestral sampling of denoising diffusion models.
///
/// Source: Ho et al. 2020, algorithm 2; diffusers 0.42 `scheduling_ddpm.py`.
#[derive(Debug)]
pub(super) struct Ddpm {
    prediction_type: PredictionType,
    clip_sample_range: Option<f64>,
    variance: Variance,
    timesteps: Vec<f64>,
    /// `alpha^2` at each timestep and after its step.
    alphas_cumprod: Vec<(f64, f64)>,
}

impl Ddpm {
    pub(super) fn new(json: &SchedulerJson, steps: &Steps) -> Result<Self, DiffusionError> {
        let schedule = NoiseSchedule::new(&ScheduleConfig::try_from(json)?)?;
        let json = json.chosen();
        reject_true("thresholding", json.thresholding)?;
        let n_steps = steps.count();
        let timesteps = steps.timesteps(Grid {
            spacing: choice(json.timestep_spacing.as_deref(), TimestepSpacing::Leading)?,
            n_points: n_steps,
            n_steps,
            n_train_timesteps: schedule.n_train_timesteps(),
            steps_offset: json.steps_offset.unwrap_or(0),
        })?;
        let table = schedule.alphas_cumprod();
        let prediction_type = schedule.prediction_type();
        if prediction_type == PredictionType::Epsilon
            && let Some(&timestep) = timesteps.iter().find(|timestep| table[**timestep] == 0.0)
        {
            return Err(DiffusionError::NoSignal { timestep });
        }
        let after = timesteps.iter().skip(1).map(|&timestep| table[timestep]).chain([1.0]);
        Ok(Self {
            prediction_type,
            clip_sample_range: json
                .clip_sample
                .unwrap_or(true)
                .then_some(json.clip_sample_range.unwrap_or(1.0)),
            variance: choice(json.variance_type.as_deref(), Variance::Small)?,
            alphas_cumprod: timesteps.iter().map(|&timestep| table[timestep]).zip(after).collect(),
            timesteps: timesteps.into_iter().map(|timestep| timestep as f64).collect(),
        })
    }
}

impl Solver for Ddpm {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn noising(&self, call: usize) -> NoiseLevel {
        NoiseLevel::from_alpha_cumprod(self.alphas_cumprod[call].0)
    }

    fn step(
        &mut self,
        output: Tensor<4>,
        call: usize,
        sample: Tensor<4>,
        noise: NoiseSource<'_>,
    ) -> Tensor<4> {
        let (now, after) = self.alphas_cumprod[call];
        let (output, sample) = (output.cast(DType::F32), sample.cast(DType::F32));
        let mut clean =
            NoiseLevel::from_alpha_cumprod(now).clean(self.prediction_type, output, sample.clone());
        if let Some(range) = self.clip_sample_range {
            clean = clean.clamp(-range, range);
        }
        let alpha = now / after;
        let beta = 1.0 - alpha;
        let posterior = (1.0 - after) / (1.0 - now);
        let mean = clean * (after.sqrt() * beta / (1.0 - now)) + sample * (alpha.sqrt() * posterior);
        if self.timesteps[call] == 0.0 {
            return mean;
        }
        let variance = match self.variance {
            Variance::Small => posterior * beta,
            Variance::Large => beta,
        };
        mean + noise() * variance.max(1e-20).sqrt()
    }
}
