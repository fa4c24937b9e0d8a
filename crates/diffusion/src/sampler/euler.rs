//! Euler's method, and with fresh noise in each step.

use burn::prelude::*;
use burn::tensor::DType;

use super::sigmas::SigmaGrid;
use super::timesteps::Steps;
use super::{NoiseSource, Solver};
use crate::config::{ScheduleConfig, unsupported};
use crate::diffusers::SchedulerJson;
use crate::error::DiffusionError;
use crate::schedule::NoiseLevel;

/// Euler's method on the noise level.
///
/// Source: Karras et al. 2022, algorithm 2 without churn; diffusers 0.42 `scheduling_euler_discrete.py` and
/// `scheduling_euler_ancestral_discrete.py`.
#[derive(Debug)]
pub(super) struct Euler {
    grid: SigmaGrid,
    is_ancestral: bool,
}

impl Euler {
    pub(super) fn new(json: &SchedulerJson, steps: &Steps) -> Result<Self, DiffusionError> {
        let schedule = ScheduleConfig::try_from(json)?;
        let json = json.chosen();
        supported("interpolation_type", json.interpolation_type.as_deref(), "linear")?;
        supported("timestep_type", json.timestep_type.as_deref(), "discrete")?;
        supported("final_sigmas_type", json.final_sigmas_type.as_deref(), "zero")?;
        Ok(Self { grid: SigmaGrid::new(&schedule, &json, steps)?, is_ancestral: false })
    }

    /// With as much fresh noise as the step's own variance.
    pub(super) fn ancestral(json: &SchedulerJson, n_steps: usize) -> Result<Self, DiffusionError> {
        let schedule = ScheduleConfig::try_from(json)?;
        // This class does not know of Karras sigmas.
        let json = SchedulerJson { use_karras_sigmas: None, ..json.chosen() };
        Ok(Self { grid: SigmaGrid::new(&schedule, &json, &n_steps.into())?, is_ancestral: true })
    }
}

fn supported(key: &'static str, value: Option<&str>, only: &str) -> Result<(), DiffusionError> {
    value.filter(|value| *value != only).map_or(Ok(()), |value| Err(unsupported(key, value, only)))
}

impl Solver for Euler {
    fn timesteps(&self) -> &[f64] {
        &self.grid.timesteps
    }

    fn init_noise_sigma(&self) -> f64 {
        self.grid.init_noise_sigma()
    }

    fn scale_input(&self, sample: Tensor<4>, call: usize) -> Tensor<4> {
        SigmaGrid::scaled(self.grid.sigmas[call], sample)
    }

    fn noising(&self, call: usize) -> NoiseLevel {
        NoiseLevel { alpha: 1.0, sigma: self.grid.sigmas[call] }
    }

    fn step(
        &mut self,
        output: Tensor<4>,
        call: usize,
        sample: Tensor<4>,
        noise: NoiseSource<'_>,
    ) -> Tensor<4> {
        let (sigma, next) = (self.grid.sigmas[call], self.grid.sigmas[call + 1]);
        let sample = sample.cast(DType::F32);
        let derivative = self.grid.derivative(sigma, output, &sample);
        if !self.is_ancestral {
            return sample + derivative * (next - sigma);
        }
        let up = (next.powi(2) * (sigma.powi(2) - next.powi(2)) / sigma.powi(2)).sqrt();
        let down = (next.powi(2) - up.powi(2)).sqrt();
        sample + derivative * (down - sigma) + noise() * up
    }
}
