//! DDIM.

use burn::prelude::*;
use burn::tensor::DType;

use super::timesteps::Grid;
use super::{NoiseSource, Solver};
use crate::config::{DdimConfig, PredictionType};
use crate::error::DiffusionError;
use crate::schedule::{NoiseLevel, NoiseSchedule};

/// Denoising diffusion implicit models, for a fixed number of steps.
///
/// Source: Song et al. 2020, eq. 12; diffusers 0.42 `scheduling_ddim.py`.
#[derive(Debug, Clone)]
pub struct Ddim {
    prediction_type: PredictionType,
    clip_sample_range: Option<f64>,
    timesteps: Vec<f64>,
    /// `alpha^2` at each timestep and after its step.
    alphas_cumprod: Vec<(f64, f64)>,
}

/// Fresh noise for one step.
#[derive(Debug, Clone)]
pub struct VarianceNoise {
    /// Share of the DDPM variance, 0 (deterministic) to 1.
    pub eta: f64,
    /// Standard normal noise, `[batch, channels, height, width]`.
    pub noise: Tensor<4>,
}

impl Ddim {
    /// Prepares a sampler of `n_steps` steps.
    ///
    /// # Errors
    /// If the schedule is invalid or does not allow this number of steps, or if a noise prediction would have to
    /// start from pure noise.
    pub fn new(config: &DdimConfig, n_steps: usize) -> Result<Self, DiffusionError> {
        let schedule = NoiseSchedule::new(&config.schedule)?;
        let n_train_timesteps = schedule.n_train_timesteps();
        let timesteps = Grid {
            spacing: config.timestep_spacing,
            n_points: n_steps,
            n_steps,
            n_train_timesteps,
            steps_offset: config.steps_offset,
        }
        .timesteps()?;

        let table = schedule.alphas_cumprod();
        let prediction_type = schedule.prediction_type();
        if prediction_type == PredictionType::Epsilon
            && let Some(&timestep) = timesteps.iter().find(|timestep| table[**timestep] == 0.0)
        {
            return Err(DiffusionError::NoSignal { timestep });
        }
        // diffusers steps down by this whatever the spacing, not to the next timestep of the list.
        let stride = n_train_timesteps / n_steps;
        let final_alpha_cumprod = if config.set_alpha_to_one { 1.0 } else { table[0] };
        let alphas_cumprod = timesteps
            .iter()
            .map(|&timestep| {
                let next = timestep.checked_sub(stride).map_or(final_alpha_cumprod, |next| table[next]);
                (table[timestep], next)
            })
            .collect();
        let timesteps = timesteps.into_iter().map(|timestep| timestep as f64).collect();
        Ok(Self { prediction_type, clip_sample_range: config.clip_sample_range, timesteps, alphas_cumprod })
    }

    /// The timestep of each step, falling.
    #[must_use]
    pub fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    /// One step, with fresh noise if given.
    ///
    /// # Shapes
    /// - `model_output`, `sample` and output: `[batch, channels, height, width]`; the output is f32
    ///
    /// # Panics
    /// If `step_idx` is not below the number of timesteps.
    #[must_use]
    pub fn step(
        &self,
        model_output: Tensor<4>,
        step_idx: usize,
        sample: Tensor<4>,
        fresh: Option<VarianceNoise>,
    ) -> Tensor<4> {
        let (alpha_cumprod, next_alpha_cumprod) = self.alphas_cumprod[step_idx];
        let (model_output, sample) = (model_output.cast(DType::F32), sample.cast(DType::F32));

        let level = NoiseLevel::from_alpha_cumprod(alpha_cumprod);
        let mut clean = level.clean(self.prediction_type, model_output.clone(), sample.clone());
        if let Some(range) = self.clip_sample_range {
            clean = clean.clamp(-range, range);
        }
        let noise = level.noise(self.prediction_type, model_output, sample);

        let ddpm_variance =
            (1.0 - next_alpha_cumprod) / (1.0 - alpha_cumprod) * (1.0 - alpha_cumprod / next_alpha_cumprod);
        let fresh_variance = fresh.as_ref().map_or(0.0, |fresh| fresh.eta.powi(2) * ddpm_variance);
        let kept_variance = (1.0 - next_alpha_cumprod - fresh_variance).max(0.0);
        let next = clean * next_alpha_cumprod.sqrt() + noise * kept_variance.sqrt();
        match fresh {
            Some(fresh) => next + fresh.noise.cast(DType::F32) * fresh_variance.sqrt(),
            None => next,
        }
    }
}

impl Solver for Ddim {
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
        _noise: NoiseSource<'_>,
    ) -> Tensor<4> {
        Self::step(self, output, call, sample, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BetaSchedule, ScheduleConfig, TimestepSpacing};
    use crate::rounding::round_to_timestep;

    fn config(prediction_type: PredictionType) -> DdimConfig {
        DdimConfig {
            schedule: ScheduleConfig {
                n_train_timesteps: 1000,
                beta_schedule: BetaSchedule::ScaledLinear { beta_start: 0.00085, beta_end: 0.012 },
                rescale_betas_zero_snr: true,
                prediction_type,
            },
            timestep_spacing: TimestepSpacing::Trailing,
            steps_offset: 0,
            clip_sample_range: None,
            set_alpha_to_one: true,
        }
    }

    #[test]
    fn noise_prediction_cannot_start_from_pure_noise() {
        assert!(matches!(
            Ddim::new(&config(PredictionType::Epsilon), 10),
            Err(DiffusionError::NoSignal { timestep: 999 })
        ));
        let leading =
            DdimConfig { timestep_spacing: TimestepSpacing::Leading, ..config(PredictionType::Epsilon) };
        assert!(Ddim::new(&leading, 10).is_ok());
    }

    #[test]
    fn a_perfect_velocity_leads_from_pure_noise_to_the_image() {
        let device = Device::flex();
        let config = config(PredictionType::VPrediction);
        let sampler = Ddim::new(&config, 10).unwrap();
        let schedule = NoiseSchedule::new(&config.schedule).unwrap();
        let image = Tensor::<4>::from_floats([[[[0.5, -2.0]]]], &device);
        let noise = Tensor::<4>::from_floats([[[[-1.5, 0.25]]]], &device);
        let last =
            sampler.timesteps().iter().enumerate().fold(noise.clone(), |latents, (step_idx, &timestep)| {
                let velocity = schedule.target(image.clone(), noise.clone(), &[round_to_timestep(timestep)]);
                sampler.step(velocity, step_idx, latents, None)
            });
        assert!((last - image).abs().max().into_scalar::<f32>() < 1e-5);
    }

    #[test]
    fn fresh_noise_replaces_part_of_the_predicted_noise() {
        let device = Device::flex();
        let sampler = Ddim::new(&config(PredictionType::VPrediction), 10).unwrap();
        let zeros = Tensor::<4>::zeros([1, 1, 1, 1], &device);
        let fresh = VarianceNoise { eta: 1.0, noise: zeros.ones_like() };
        let next: f32 = sampler.step(zeros.clone(), 4, zeros, Some(fresh)).into_scalar();
        let (now, then) = sampler.alphas_cumprod[4];
        let expected = ((1.0 - then) / (1.0 - now) * (1.0 - now / then)).sqrt();
        assert!((f64::from(next) - expected).abs() < 1e-6);
    }

    #[test]
    fn half_precision_predictions_give_f32_latents() {
        let device = Device::flex();
        let sampler = Ddim::new(&config(PredictionType::VPrediction), 3).unwrap();
        let half = Tensor::<4>::ones([1, 1, 1, 1], (&device, DType::F16));
        assert_eq!(sampler.step(half.clone(), 1, half, None).dtype(), DType::F32);
    }
}
