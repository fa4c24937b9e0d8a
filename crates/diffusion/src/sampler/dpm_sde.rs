//! DPM-Solver++ for the stochastic equation, in single steps.

use burn::prelude::*;
use burn::tensor::DType;

use super::sigmas::{SigmaGrid, half_step, sigma_table, timestep_of};
use super::{NoiseSource, Solver};
use crate::config::ScheduleConfig;
use crate::diffusers::SchedulerJson;
use crate::error::DiffusionError;
use crate::schedule::{NoiseLevel, NoiseSchedule};

/// DPM-Solver++ of second order for the stochastic equation: "DPM++ SDE". Each step but the last asks the network at its beginning and at
/// its midpoint in log sigma, and then goes from the beginning to the end by the second answer.
///
/// Both moves take their noise from one Brownian path over sigma. The path is only ever asked for from a step's beginning on, so it is drawn as it
/// is walked: the second move's noise is that of the first, and what the path adds from the midpoint to the end.
///
/// Source: Lu et al. 2022 (DPM-Solver++); diffusers 0.42 `scheduling_dpmsolver_sde.py`, whose path is a Brownian tree.
#[derive(Debug)]
pub(super) struct DpmSde {
    grid: SigmaGrid,
    /// Of each call.
    timesteps: Vec<f64>,
    /// The sample where the step began and the path's increment from there to the midpoint.
    start: Option<(Tensor<4>, Tensor<4>)>,
}

impl DpmSde {
    pub(super) fn new(json: &SchedulerJson, n_steps: usize) -> Result<Self, DiffusionError> {
        // This class has other defaults, and does not know of zero terminal SNR, nor of other limits for Karras' sigmas.
        let mut json =
            SchedulerJson { rescale_betas_zero_snr: None, sigma_min: None, sigma_max: None, ..json.chosen() };
        json.beta_start.get_or_insert(0.00085);
        json.beta_end.get_or_insert(0.012);
        let schedule = ScheduleConfig::try_from(&json)?;
        let grid = SigmaGrid::new(&schedule, &json, &n_steps.into())?;
        let table = sigma_table(&NoiseSchedule::new(&schedule)?);
        let midpoints = grid.sigmas.windows(2).map(|pair| timestep_of(&table, midpoint(pair[0], pair[1])));
        let mut timesteps: Vec<f64> =
            grid.timesteps.iter().zip(midpoints).flat_map(|(&begin, midpoint)| [begin, midpoint]).collect();
        timesteps.pop();
        Ok(Self { grid, timesteps, start: None })
    }

    /// Goes from one sigma to another: with as much noise as the stochastic equation adds, `path_unit` standard normal, and to so much below
    /// the end as makes up for it.
    fn go(from: f64, to: f64, sample: Tensor<4>, clean: Tensor<4>, path_unit: Tensor<4>) -> Tensor<4> {
        let up = to.min((to.powi(2) * (from.powi(2) - to.powi(2)) / from.powi(2)).sqrt());
        let down = (to.powi(2) - up.powi(2)).sqrt();
        let keep = down / from;
        sample * keep + clean * (1.0 - keep) + path_unit * up
    }
}

/// The middle in log sigma.
fn midpoint(sigma: f64, next: f64) -> f64 {
    (sigma * next).sqrt()
}

impl Solver for DpmSde {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn order(&self) -> usize {
        2
    }

    fn init_noise_sigma(&self) -> f64 {
        self.grid.init_noise_sigma()
    }

    fn noising(&self, call: usize) -> NoiseLevel {
        // As in diffusers, that of the step's end for the midpoint, too.
        NoiseLevel { alpha: 1.0, sigma: self.grid.sigma_of_half_step(call) }
    }

    fn begin(&mut self) {
        self.start = None;
    }

    fn scale_input(&self, sample: Tensor<4>, call: usize) -> Tensor<4> {
        let (step, is_second) = half_step(call);
        let sigma = self.grid.sigmas[step];
        let sigma = if is_second { midpoint(sigma, self.grid.sigmas[step + 1]) } else { sigma };
        SigmaGrid::scaled(sigma, sample)
    }

    fn step(
        &mut self,
        output: Tensor<4>,
        call: usize,
        sample: Tensor<4>,
        noise: NoiseSource<'_>,
    ) -> Tensor<4> {
        let (step, is_second) = half_step(call);
        let (sigma, next) = (self.grid.sigmas[step], self.grid.sigmas[step + 1]);
        let middle = midpoint(sigma, next);
        let sample = sample.cast(DType::F32);
        match self.start.take().filter(|_| is_second) {
            Some((start, first_half)) => {
                let clean = self.grid.clean(middle, output, &sample);
                let path = first_half + noise() * (middle - next).sqrt();
                Self::go(sigma, next, start, clean, path / (sigma - next).sqrt())
            }
            None => {
                let clean = self.grid.clean(sigma, output, &sample);
                if next == 0.0 {
                    return clean;
                }
                let path_unit = noise();
                self.start = Some((sample.clone(), path_unit.clone() * (sigma - middle).sqrt()));
                Self::go(sigma, middle, sample, clean, path_unit)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_moves_of_a_step_take_their_noise_from_one_path_of_the_right_variance() {
        let device = Device::flex();
        let mut sampler = DpmSde::new(&SchedulerJson::default(), 3).unwrap();
        let (sigma, next) = (sampler.grid.sigmas[0], sampler.grid.sigmas[1]);
        let middle = midpoint(sigma, next);
        // Each draw is 1 at its own place, and all clean latents are 0: so the sample says how much of which draw is in it.
        let mut draws =
            [[1.0, 0.0], [0.0, 1.0]].map(|draw| Tensor::<4>::from_floats([[[draw]]], &device)).into_iter();
        let mut draw = || draws.next().expect("a draw for each move");
        let zeros = Tensor::<4>::zeros([1, 1, 1, 2], &device);
        let first = sampler.step(zeros.clone(), 0, zeros, &mut draw);
        let second = sampler.step(first.clone() / middle, 1, first.clone(), &mut draw);

        let shares = |moved: Tensor<4>, to: f64| -> Vec<f64> {
            let up = (to.powi(2) * (sigma.powi(2) - to.powi(2)) / sigma.powi(2)).sqrt();
            moved.into_data().iter::<f64>().map(|number| number / up).collect()
        };
        let [first, second] = [shares(first, middle), shares(second, next)];
        let covariance = |one: &[f64], other: &[f64]| one.iter().zip(other).map(|(a, b)| a * b).sum::<f64>();
        assert!((covariance(&first, &first) - 1.0).abs() < 1e-6);
        assert!((covariance(&second, &second) - 1.0).abs() < 1e-6);
        // What two stretches of a path have in common is the variance of the shorter one.
        let shared = covariance(&first, &second) * ((sigma - middle) * (sigma - next)).sqrt();
        assert!((shared / (sigma - middle) - 1.0).abs() < 1e-6);
    }
}
