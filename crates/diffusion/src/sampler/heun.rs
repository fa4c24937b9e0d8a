//! Heun's method: Euler's, corrected by the slope at its end.

use burn::prelude::*;
use burn::tensor::DType;

use super::sigmas::{SigmaGrid, half_step};
use super::timesteps::Steps;
use super::{NoiseSource, Solver};
use crate::config::{ScheduleConfig, reject_true};
use crate::diffusers::SchedulerJson;
use crate::error::DiffusionError;
use crate::schedule::NoiseLevel;

/// Heun's method on the noise level: two calls of the network for each step but the last.
///
/// Source: Karras et al. 2022, algorithm 1; diffusers 0.42 `scheduling_heun_discrete.py`.
#[derive(Debug)]
pub(super) struct Heun {
    grid: SigmaGrid,
    /// Of each call.
    timesteps: Vec<f64>,
    /// Slope and sample where the step began.
    start: Option<(Tensor<4>, Tensor<4>)>,
}

impl Heun {
    pub(super) fn new(json: &SchedulerJson, steps: &Steps) -> Result<Self, DiffusionError> {
        let mut json = json.chosen();
        reject_true("clip_sample", json.clip_sample)?;
        // This class has other defaults, and does not know of zero terminal SNR.
        json.beta_start.get_or_insert(0.00085);
        json.beta_end.get_or_insert(0.012);
        json.rescale_betas_zero_snr = None;
        let grid = SigmaGrid::new(&ScheduleConfig::try_from(&json)?, &json, steps)?;
        let ends = grid.timesteps.iter().skip(1).flat_map(|timestep| [*timestep; 2]);
        let timesteps = grid.timesteps.iter().take(1).copied().chain(ends).collect();
        Ok(Self { grid, timesteps, start: None })
    }
}

impl Solver for Heun {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn order(&self) -> usize {
        2
    }

    fn init_noise_sigma(&self) -> f64 {
        self.grid.init_noise_sigma()
    }

    fn scale_input(&self, sample: Tensor<4>, call: usize) -> Tensor<4> {
        SigmaGrid::scaled(self.grid.sigma_of_half_step(call), sample)
    }

    fn noising(&self, call: usize) -> NoiseLevel {
        NoiseLevel { alpha: 1.0, sigma: self.grid.sigma_of_half_step(call) }
    }

    fn begin(&mut self) {
        self.start = None;
    }

    fn step(
        &mut self,
        output: Tensor<4>,
        call: usize,
        sample: Tensor<4>,
        _noise: NoiseSource<'_>,
    ) -> Tensor<4> {
        let (step, is_end) = half_step(call);
        let (sigma, next) = (self.grid.sigmas[step], self.grid.sigmas[step + 1]);
        let sample = sample.cast(DType::F32);
        match self.start.take().filter(|_| is_end) {
            Some((slope, start)) => {
                let end_slope = self.grid.derivative(next, output, &sample);
                start + (slope + end_slope) * (0.5 * (next - sigma))
            }
            None => {
                let slope = self.grid.derivative(sigma, output, &sample);
                self.start = Some((slope.clone(), sample.clone()));
                sample + slope * (next - sigma)
            }
        }
    }
}
