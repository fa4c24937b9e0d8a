//! Noise levels for the samplers that count in `sigma / alpha`.

use burn::prelude::*;
use burn::tensor::DType;

use super::timesteps::{Grid, Steps};
use crate::config::{PredictionType, ScheduleConfig, TimestepSpacing, choice, reject_true, unsupported};
use crate::diffusers::SchedulerJson;
use crate::error::DiffusionError;
use crate::rounding::{round_to_f32, whole_part};
use crate::schedule::{NoiseLevel, NoiseSchedule};

/// `alpha^2` instead of 0 at the last timestep of a schedule with zero terminal SNR, so that sigma is finite.
///
/// Source: diffusers 0.42 `UniPCMultistepScheduler.__init__`, and those of Euler and DPM-Solver.
const ZERO_SNR_ALPHA_CUMPROD: f64 = 1.0 / (1 << 24) as f64;

/// `sigma / alpha` of each training timestep, rising, in f32.
pub(super) fn sigma_table(schedule: &NoiseSchedule) -> Vec<f64> {
    let sigma = |&alpha_cumprod: &f64| {
        let alpha_cumprod = if alpha_cumprod == 0.0 { ZERO_SNR_ALPHA_CUMPROD } else { alpha_cumprod };
        round_to_f32(round_to_f32(round_to_f32(1.0 - alpha_cumprod) / alpha_cumprod).sqrt())
    };
    schedule.alphas_cumprod().iter().map(sigma).collect()
}

/// Signal and noise where their ratio is `sigma_over_alpha` and their squares add up to one.
pub(super) fn level(sigma_over_alpha: f64) -> NoiseLevel {
    let alpha = 1.0 / (sigma_over_alpha.powi(2) + 1.0).sqrt();
    NoiseLevel { alpha, sigma: sigma_over_alpha * alpha }
}

/// The table between two timesteps, which need not be whole.
pub(super) fn interpolate(table: &[f64], timestep: f64) -> f64 {
    let below = timestep.floor();
    let [low, high] = [below, below + 1.0].map(|place| table[whole_part(place).min(table.len() - 1)]);
    low + (high - low) * (timestep - below)
}

/// The timestep, not whole, at which the table would have this sigma.
///
/// Source: diffusers 0.42 `EulerDiscreteScheduler._sigma_to_t`.
pub(super) fn timestep_of(table: &[f64], sigma: f64) -> f64 {
    let log = sigma.max(1e-10).ln();
    let log_at = |place: usize| round_to_f32(table[place].ln());
    let below = table.partition_point(|entry| round_to_f32(entry.ln()) <= log);
    let low = below.saturating_sub(1).min(table.len() - 2);
    let share = ((log_at(low) - log) / (log_at(low) - log_at(low + 1))).clamp(0.0, 1.0);
    (1.0 - share) * low as f64 + share * (low + 1) as f64
}

/// Sigmas that are evenly spaced after a seventh root, from `max` to `min`.
///
/// # Errors
/// If they would not fall, or not be above 0.
///
/// Source: Karras et al. 2022, eq. 5.
pub(super) fn karras(max: f64, min: f64, n_steps: usize) -> Result<Vec<f64>, DiffusionError> {
    const RHO: f64 = 7.0;
    if !(min > 0.0 && (min < max || n_steps == 1)) {
        return Err(unsupported("sigma_min", min, format!("above 0 and below the largest sigma, {max}")));
    }
    let [first, last] = [max, min].map(|sigma| sigma.powf(1.0 / RHO));
    let ramp = |step: usize| step as f64 / n_steps.saturating_sub(1).max(1) as f64;
    Ok((0..n_steps).map(|step| (first + ramp(step) * (last - first)).powf(RHO)).collect())
}

/// The step of a call, and whether it is the second one of the step, for samplers that make two for each step but the last.
pub(super) fn half_step(call: usize) -> (usize, bool) {
    (call / 2, call % 2 == 1)
}

/// What the samplers of Karras et al. 2022 share: samples are `latents + sigma * noise`, and the network is given them
/// scaled to its own kind.
#[derive(Debug, Clone)]
pub(super) struct SigmaGrid {
    prediction_type: PredictionType,
    spacing: TimestepSpacing,
    /// Of each step.
    pub(super) timesteps: Vec<f64>,
    /// Of each step, and after the last.
    pub(super) sigmas: Vec<f64>,
}

impl SigmaGrid {
    /// The grid that diffusers' `EulerDiscreteScheduler` and its kin make of a config.
    ///
    /// # Errors
    /// If the schedule is invalid, or does not allow this number of steps.
    pub(super) fn new(
        schedule: &ScheduleConfig,
        json: &SchedulerJson,
        steps: &Steps,
    ) -> Result<Self, DiffusionError> {
        let n_steps = steps.count();
        reject_true("use_exponential_sigmas", json.use_exponential_sigmas)?;
        reject_true("use_beta_sigmas", json.use_beta_sigmas)?;
        let schedule = NoiseSchedule::new(schedule)?;
        let spacing = choice(json.timestep_spacing.as_deref(), TimestepSpacing::Linspace)?;
        let points = steps.points(Grid {
            spacing,
            n_points: n_steps,
            n_steps,
            n_train_timesteps: schedule.n_train_timesteps(),
            steps_offset: json.steps_offset.unwrap_or(0),
        })?;
        let table = sigma_table(&schedule);
        let mut timesteps: Vec<f64> = points.into_iter().map(round_to_f32).collect();
        let mut sigmas: Vec<f64> = timesteps.iter().map(|&timestep| interpolate(&table, timestep)).collect();
        if json.use_karras_sigmas == Some(true) {
            steps.check_not_chosen()?;
            sigmas = karras(
                json.sigma_max.unwrap_or(sigmas[0]),
                json.sigma_min.unwrap_or(sigmas[n_steps - 1]),
                n_steps,
            )?;
            timesteps = sigmas.iter().map(|&sigma| round_to_f32(timestep_of(&table, sigma))).collect();
        }
        let sigmas = sigmas.into_iter().map(round_to_f32).chain([0.0]).collect();
        Ok(Self { prediction_type: schedule.prediction_type(), spacing, timesteps, sigmas })
    }

    /// Standard deviation of the noise to start from.
    pub(super) fn init_noise_sigma(&self) -> f64 {
        let max = self.sigmas[0];
        match self.spacing {
            TimestepSpacing::Linspace | TimestepSpacing::Trailing => max,
            TimestepSpacing::Leading => (max.powi(2) + 1.0).sqrt(),
        }
    }

    /// The sample as the network knows it.
    pub(super) fn scaled(sigma: f64, sample: Tensor<4>) -> Tensor<4> {
        sample * level(sigma).alpha
    }

    /// `d sample / d sigma` of a prediction.
    pub(super) fn derivative(&self, sigma: f64, output: Tensor<4>, sample: &Tensor<4>) -> Tensor<4> {
        (sample.clone() - self.clean(sigma, output, sample)) / sigma
    }

    /// The clean latents of a prediction.
    pub(super) fn clean(&self, sigma: f64, output: Tensor<4>, sample: &Tensor<4>) -> Tensor<4> {
        let scaled = Self::scaled(sigma, sample.clone());
        level(sigma).clean(self.prediction_type, output.cast(DType::F32), scaled)
    }

    /// Where a call of [`half_step`] begins: the step's begin, or its end.
    pub(super) fn sigma_of_half_step(&self, call: usize) -> f64 {
        let (step, is_second) = half_step(call);
        self.sigmas[step + usize::from(is_second)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sigma_of_the_table_is_at_its_timestep_and_between_two_it_is_between() {
        let table = [0.1, 0.2, 0.4, 0.8];
        assert!((timestep_of(&table, 0.2) - 1.0).abs() < 1e-6);
        assert!((timestep_of(&table, 0.08_f64.sqrt()) - 1.5).abs() < 1e-6);
        assert_eq!([timestep_of(&table, 0.01), timestep_of(&table, 9.0)], [0.0, 3.0]);
        assert!((interpolate(&table, 1.5) - 0.3).abs() < 1e-12);
        assert_eq!(interpolate(&table, 3.0), 0.8);
    }

    #[test]
    fn karras_sigmas_go_from_the_largest_to_the_smallest() {
        let sigmas = karras(14.0, 0.03, 5).unwrap();
        assert!((sigmas[0] - 14.0).abs() < 1e-9 && (sigmas[4] - 0.03).abs() < 1e-9);
        assert!(sigmas.is_sorted_by(|left, right| left > right));
        assert_eq!(karras(14.0, 0.03, 1).unwrap().len(), 1);
    }

    #[test]
    fn karras_sigmas_that_would_not_fall_to_a_number_above_0_are_an_error() {
        for (max, min) in [(14.0, -0.1), (14.0, 0.0), (14.0, 14.0), (0.02, 0.03), (14.0, f64::NAN)] {
            assert!(matches!(
                karras(max, min, 5),
                Err(DiffusionError::UnsupportedValue { key: "sigma_min", .. })
            ));
        }
    }
}
