//! UniPC: a predictor and a corrector of any order from one network call per step.

use std::collections::VecDeque;

use burn::prelude::*;
use burn::tensor::DType;

use super::sigmas::{karras, level, sigma_table, timestep_of};
use super::timesteps::Grid;
use super::{NoiseSource, Solver};
use crate::config::{FinalSigma, SolverType, UniPcConfig};
use crate::error::DiffusionError;
use crate::rounding::{round_to_f32, round_to_timestep};
use crate::schedule::{NoiseLevel, NoiseSchedule};

/// Unified predictor-corrector, for a fixed number of steps.
///
/// Source: Zhao et al. 2023, algorithms 5 to 8; diffusers 0.42 `scheduling_unipc_multistep.py`. Where the last
/// sigma is zero, diffusers gets NaN with `bh1`, with noise prediction and without `lower_order_final`; here the
/// last step gives the predicted clean latents.
#[derive(Debug, Clone)]
pub struct UniPc {
    config: UniPcConfig,
    timesteps: Vec<f64>,
    /// `sigma / alpha` at each timestep and after the last step, in f32.
    sigmas: Vec<f64>,
    /// The latest predictions in the solver's form, newest first.
    outputs: VecDeque<Tensor<4>>,
    /// The step before, unless a new image begins.
    last: Option<LastStep>,
}

#[derive(Debug, Clone)]
struct LastStep {
    step_idx: usize,
    sample: Tensor<4>,
    order: usize,
}

/// One exponential-integrator update between two noise levels, `keep * sample - push * newest_output -
/// residual * (weighted differences of outputs)`.
struct Update {
    keep: f64,
    push: f64,
    residual: f64,
    /// `r_i` of the older outputs, in units of the step in log SNR; the last, 1, is the end of the step.
    ratios: Vec<f64>,
    /// `phi_i(h) * i! / B(h)`.
    moments: Vec<f64>,
}

impl UniPc {
    /// Prepares a sampler of `n_steps` steps.
    ///
    /// # Errors
    /// If the schedule is invalid, or does not allow this number of steps.
    pub fn new(config: &UniPcConfig, n_steps: usize) -> Result<Self, DiffusionError> {
        let schedule = NoiseSchedule::new(&config.schedule)?;
        let grid = Grid {
            spacing: config.timestep_spacing,
            n_points: n_steps.saturating_add(1),
            n_steps,
            n_train_timesteps: schedule.n_train_timesteps(),
            steps_offset: config.steps_offset,
        };
        let mut timesteps = grid.timesteps()?;

        let table = sigma_table(&schedule);
        let mut sigmas: Vec<f64> = timesteps.iter().map(|&timestep| table[timestep]).collect();
        if let Some(limits) = config.karras {
            let [min, max] = [table[0], table[table.len() - 1]];
            sigmas = karras(limits.max.unwrap_or(max), limits.min.unwrap_or(min), n_steps)?;
            timesteps = sigmas.iter().map(|&sigma| round_to_timestep(timestep_of(&table, sigma))).collect();
        }
        let final_sigma = match config.final_sigma {
            FinalSigma::Zero => 0.0,
            FinalSigma::SigmaMin => table[0],
        };
        let sigmas: Vec<f64> = sigmas.into_iter().chain([final_sigma]).map(round_to_f32).collect();
        let falls = sigmas.windows(2).map(|pair| pair[0] > pair[1]);
        if let Some((_, &timestep)) = falls.zip(&timesteps).find(|(falls, _)| !falls) {
            return Err(DiffusionError::NoiseDoesNotFall { timestep, n_steps });
        }
        let timesteps = timesteps.into_iter().map(|timestep| timestep as f64).collect();
        Ok(Self { config: config.clone(), timesteps, sigmas, outputs: VecDeque::new(), last: None })
    }

    /// The timestep of each step, falling.
    #[must_use]
    pub fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    /// One step. Steps of one image follow each other; any other `step_idx` begins a new image there.
    ///
    /// # Shapes
    /// - `model_output`, `sample` and output: `[batch, channels, height, width]`; the output is f32
    ///
    /// # Panics
    /// If `step_idx` is not below the number of timesteps.
    #[must_use]
    pub fn step(&mut self, model_output: Tensor<4>, step_idx: usize, sample: Tensor<4>) -> Tensor<4> {
        let last = self.last.take().filter(|last| last.step_idx + 1 == step_idx);
        if last.is_none() {
            self.outputs.clear();
        }
        let (model_output, sample) = (model_output.cast(DType::F32), sample.cast(DType::F32));
        let output = self.solver_output(model_output, step_idx, sample.clone());
        let sample = match last {
            Some(last) if !self.config.disable_corrector.contains(&last.step_idx) => {
                self.correct(&last, &output)
            }
            _ => sample,
        };

        self.outputs.push_front(output);
        self.outputs.truncate(self.config.solver_order);
        let n_steps_left = self.timesteps.len() - step_idx;
        let highest = if self.config.lower_order_final { n_steps_left } else { self.config.solver_order };
        let order = self.outputs.len().min(highest);
        let next = self.predict(step_idx, order, &sample);
        self.last = Some(LastStep { step_idx, sample, order });
        next
    }

    /// The prediction as clean latents or as noise, whichever the solver works on.
    fn solver_output(&self, model_output: Tensor<4>, step_idx: usize, sample: Tensor<4>) -> Tensor<4> {
        let level = level(self.sigmas[step_idx]);
        let prediction_type = self.config.schedule.prediction_type;
        if self.config.predict_x0 {
            level.clean(prediction_type, model_output, sample)
        } else {
            level.noise(prediction_type, model_output, sample)
        }
    }

    /// UniP: from the sample at `step_idx` to the next one.
    fn predict(&self, step_idx: usize, order: usize, sample: &Tensor<4>) -> Tensor<4> {
        if self.sigmas[step_idx + 1] == 0.0 {
            return self.predicted_clean(step_idx, sample);
        }
        let update = self.update(step_idx, order);
        let n_older = order - 1;
        let weights = match n_older {
            // As in diffusers, the limit of the general formula for small steps.
            1 => vec![0.5],
            _ => solve_vandermonde(&update.ratios[..n_older], &update.moments[..n_older]),
        };
        self.apply(&update, &weights, sample, None)
    }

    /// UniC: the last step again, now that the prediction at its end is known.
    fn correct(&self, last: &LastStep, output: &Tensor<4>) -> Tensor<4> {
        let update = self.update(last.step_idx, last.order);
        let weights = match last.order {
            // As in `predict`.
            1 => vec![0.5],
            _ => solve_vandermonde(&update.ratios, &update.moments),
        };
        self.apply(&update, &weights, &last.sample, Some(output))
    }

    /// The limit of the update for a final sigma of zero: the step in log SNR is infinite.
    fn predicted_clean(&self, step_idx: usize, sample: &Tensor<4>) -> Tensor<4> {
        let output = self.outputs[0].clone();
        if self.config.predict_x0 {
            return output;
        }
        let level = level(self.sigmas[step_idx]);
        (sample.clone() - output * level.sigma) / level.alpha
    }

    /// Coefficients of the update from the level of `step_idx` to the next one.
    fn update(&self, step_idx: usize, order: usize) -> Update {
        // Half the log SNR is -ln(sigma / alpha).
        let start = self.sigmas[step_idx].ln();
        let step = start - self.sigmas[step_idx + 1].ln();
        let older = (1..order).map(|age| (start - self.sigmas[step_idx - age].ln()) / step);
        let ratios: Vec<f64> = older.chain([1.0]).collect();

        let h = if self.config.predict_x0 { -step } else { step };
        let growth = h.exp_m1();
        let b_of_h = match self.config.solver_type {
            SolverType::Bh1 => h,
            SolverType::Bh2 => growth,
        };
        let mut factorial = 1.0;
        let mut phi = growth / h - 1.0;
        let mut moments = Vec::with_capacity(order);
        for i in 1..=order {
            moments.push(phi * factorial / b_of_h);
            factorial *= (i + 1) as f64;
            phi = phi / h - 1.0 / factorial;
        }

        let (from, to) = (level(self.sigmas[step_idx]), level(self.sigmas[step_idx + 1]));
        let (keep, scale) = if self.config.predict_x0 {
            (to.sigma / from.sigma, to.alpha)
        } else {
            (to.alpha / from.alpha, to.sigma)
        };
        Update { keep, push: scale * growth, residual: scale * b_of_h, ratios, moments }
    }

    /// The updated sample. `weights` belong to the older outputs in order and then to `end_output`.
    fn apply(
        &self,
        update: &Update,
        weights: &[f64],
        sample: &Tensor<4>,
        end_output: Option<&Tensor<4>>,
    ) -> Tensor<4> {
        let newest = &self.outputs[0];
        let n_older = update.ratios.len() - 1;
        let others = self.outputs.iter().skip(1).take(n_older).chain(end_output);
        let base = sample.clone() * update.keep - newest.clone() * update.push;
        others.zip(weights).zip(&update.ratios).fold(base, |result, ((other, weight), ratio)| {
            result - (other.clone() - newest.clone()) * (update.residual * weight / ratio)
        })
    }
}

/// Solves `sum_j ratios[j]^i * weights[j] = moments[i]` by elimination. The ratios differ, so every leading
/// minor of the matrix is nonzero and no pivoting is needed.
fn solve_vandermonde(ratios: &[f64], moments: &[f64]) -> Vec<f64> {
    let size = ratios.len();
    let mut powers = vec![1.0; size];
    let mut rows: Vec<Vec<f64>> = Vec::with_capacity(size);
    for moment in moments {
        rows.push(powers.iter().copied().chain([*moment]).collect());
        for (power, ratio) in powers.iter_mut().zip(ratios) {
            *power *= ratio;
        }
    }
    for pivot in 0..size {
        let (done, below) = rows.split_at_mut(pivot + 1);
        let pivot_row = &done[pivot];
        for row in below {
            let factor = row[pivot] / pivot_row[pivot];
            for (entry, pivot_entry) in row.iter_mut().zip(pivot_row) {
                *entry -= factor * pivot_entry;
            }
        }
    }
    let mut weights = vec![0.0; size];
    for row in (0..size).rev() {
        let known: f64 = (row + 1..size).map(|column| rows[row][column] * weights[column]).sum();
        weights[row] = (rows[row][size] - known) / rows[row][row];
    }
    weights
}

impl Solver for UniPc {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn noising(&self, call: usize) -> NoiseLevel {
        level(self.sigmas[call])
    }

    fn begin(&mut self) {
        self.last = None;
    }

    fn step(
        &mut self,
        output: Tensor<4>,
        call: usize,
        sample: Tensor<4>,
        _noise: NoiseSource<'_>,
    ) -> Tensor<4> {
        Self::step(self, output, call, sample)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BetaSchedule, PredictionType, ScheduleConfig, TimestepSpacing};

    fn config() -> UniPcConfig {
        UniPcConfig {
            schedule: ScheduleConfig {
                n_train_timesteps: 1000,
                beta_schedule: BetaSchedule::ScaledLinear { beta_start: 0.00085, beta_end: 0.012 },
                rescale_betas_zero_snr: false,
                prediction_type: PredictionType::Epsilon,
            },
            timestep_spacing: TimestepSpacing::Linspace,
            steps_offset: 0,
            solver_order: 2,
            solver_type: SolverType::Bh2,
            predict_x0: true,
            lower_order_final: true,
            disable_corrector: Vec::new(),
            final_sigma: FinalSigma::Zero,
            karras: None,
        }
    }

    /// Samples with the perfect noise prediction for one image.
    fn sample(config: &UniPcConfig, n_steps: usize) -> (Tensor<4>, Tensor<4>) {
        let device = Device::flex();
        let image = Tensor::<4>::from_floats([[[[0.5, -2.0, 0.125]]]], &device);
        let noise = Tensor::<4>::from_floats([[[[-1.5, 0.25, 1.0]]]], &device);
        let schedule = NoiseSchedule::new(&config.schedule).unwrap();
        let mut sampler = UniPc::new(config, n_steps).unwrap();
        let mut latents =
            schedule.add_noise(image.clone(), noise, &[round_to_timestep(sampler.timesteps()[0])]);
        for step_idx in 0..n_steps {
            let level = level(sampler.sigmas[step_idx]);
            let predicted = (latents.clone() - image.clone() * level.alpha) / level.sigma;
            latents = sampler.step(predicted, step_idx, latents);
        }
        (latents, image)
    }

    #[test]
    fn every_variant_ends_at_the_image_without_nan() {
        for solver_order in 1..=3 {
            for solver_type in [SolverType::Bh1, SolverType::Bh2] {
                for (predict_x0, lower_order_final) in
                    [(true, true), (true, false), (false, true), (false, false)]
                {
                    let config =
                        UniPcConfig { solver_order, solver_type, predict_x0, lower_order_final, ..config() };
                    for n_steps in [1, 2, 3, 10] {
                        let (latents, image) = sample(&config, n_steps);
                        let worst = (latents - image).abs().max().into_scalar::<f32>();
                        assert!(worst < 1e-4, "{config:?}, {n_steps} steps: off by {worst}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_second_image_is_not_touched_by_the_first() {
        let device = Device::flex();
        let mut sampler = UniPc::new(&config(), 3).unwrap();
        let noise = Tensor::<4>::from_floats([[[[-1.5, 0.25]]]], &device);
        let mut run = |start: Tensor<4>| {
            (0..3).fold(start, |latents, step_idx| sampler.step(latents.clone() * 0.5, step_idx, latents))
        };
        let first = run(noise.clone());
        let _ = run(noise.clone() * 3.0);
        let again = run(noise);
        again.into_data().assert_eq(&first.into_data(), true);
    }

    #[test]
    fn too_many_steps_for_the_spacing_are_an_error() {
        let leading = UniPcConfig { timestep_spacing: TimestepSpacing::Leading, ..config() };
        assert!(matches!(UniPc::new(&leading, 1000), Err(DiffusionError::NoiseDoesNotFall { .. })));
        assert!(UniPc::new(&leading, 999).is_ok());
    }

    #[test]
    fn vandermonde_weights_satisfy_their_equations() {
        let (ratios, moments) = ([-2.5, -1.1, 1.0], [0.3, -0.2, 0.7]);
        let weights = solve_vandermonde(&ratios, &moments);
        for (i, moment) in (0..).zip(moments) {
            let sum: f64 = ratios.iter().zip(&weights).map(|(ratio, weight)| ratio.powi(i) * weight).sum();
            assert!((sum - moment).abs() < 1e-12);
        }
    }
}
