//! A linear multistep method.

use std::collections::VecDeque;

use burn::prelude::*;
use burn::tensor::DType;

use super::sigmas::SigmaGrid;
use super::{NoiseSource, Solver};
use crate::config::ScheduleConfig;
use crate::diffusers::SchedulerJson;
use crate::error::DiffusionError;
use crate::schedule::NoiseLevel;

/// Slopes that are remembered.
const ORDER: usize = 4;

/// The linear multistep method of Adams and Bashforth on uneven noise levels.
///
/// Source: diffusers 0.42 `scheduling_lms_discrete.py`.
#[derive(Debug)]
pub(super) struct Lms {
    grid: SigmaGrid,
    /// Newest first.
    slopes: VecDeque<Tensor<4>>,
}

impl Lms {
    pub(super) fn new(json: &SchedulerJson, n_steps: usize) -> Result<Self, DiffusionError> {
        // This class does not know of zero terminal SNR, nor of other limits for Karras' sigmas.
        let json =
            SchedulerJson { rescale_betas_zero_snr: None, sigma_min: None, sigma_max: None, ..json.chosen() };
        let grid = SigmaGrid::new(&ScheduleConfig::try_from(&json)?, &json, &n_steps.into())?;
        Ok(Self { grid, slopes: VecDeque::new() })
    }

    /// The integral over a step of the polynomial that is 1 at the sigma of the slope `age` steps ago and 0 at the others'.
    fn coefficient(&self, step: usize, age: usize, order: usize) -> f64 {
        // Gauss and Legendre's three points are exact for polynomials up to the fifth degree.
        const POINTS: [(f64, f64); 3] =
            [(-0.774_596_669_241_483_4, 5.0 / 9.0), (0.0, 8.0 / 9.0), (0.774_596_669_241_483_4, 5.0 / 9.0)];
        let sigmas = &self.grid.sigmas;
        let own = sigmas[step - age];
        let basis = |sigma: f64| -> f64 {
            let others = (0..order).filter(|other| *other != age).map(|other| sigmas[step - other]);
            others.map(|other| (sigma - other) / (own - other)).product()
        };
        let (middle, half) =
            (f64::midpoint(sigmas[step], sigmas[step + 1]), 0.5 * (sigmas[step + 1] - sigmas[step]));
        POINTS.iter().map(|(point, weight)| weight * half * basis(middle + half * point)).sum()
    }
}

impl Solver for Lms {
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

    fn begin(&mut self) {
        self.slopes.clear();
    }

    fn step(
        &mut self,
        output: Tensor<4>,
        call: usize,
        sample: Tensor<4>,
        _noise: NoiseSource<'_>,
    ) -> Tensor<4> {
        let sample = sample.cast(DType::F32);
        self.slopes.push_front(self.grid.derivative(self.grid.sigmas[call], output, &sample));
        self.slopes.truncate(ORDER);
        // As in diffusers, also if the first steps were left out: then slopes are missing that the polynomials count on.
        let order = ORDER.min(call + 1);
        let slopes = self.slopes.iter().enumerate();
        slopes
            .fold(sample, |sample, (age, slope)| sample + slope.clone() * self.coefficient(call, age, order))
    }
}
