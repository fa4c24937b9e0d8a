//! PNDM, with and without its Runge-Kutta steps; without them also known as PLMS.

use std::collections::VecDeque;

use burn::prelude::*;
use burn::tensor::DType;

use super::timesteps::Grid;
use super::{NoiseSource, Solver};
use crate::config::{PredictionType, ScheduleConfig, TimestepSpacing, choice, unsupported};
use crate::diffusers::SchedulerJson;
use crate::error::DiffusionError;
use crate::schedule::{NoiseLevel, NoiseSchedule};

/// Weights of the latest predictions, newest first, by how many there are.
const WEIGHTS: [&[f64]; 4] = [
    &[1.0],
    &[3.0 / 2.0, -1.0 / 2.0],
    &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
    &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
];

/// Weights of the four predictions of a Runge-Kutta step.
const RUNGE_KUTTA: [f64; 4] = [1.0 / 6.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 6.0];

/// Steps made by Runge and Kutta, so that the multistep formula has enough predictions.
const N_RUNGE_KUTTA: usize = WEIGHTS.len() - 1;

/// Pseudo numerical methods for diffusion models.
///
/// The first three steps are made with four predictions each. With `skip_prk_steps` the multistep formula begins with what
/// it has, and the second step is made twice: once to look ahead, and then by the mean of both predictions.
///
/// Source: Liu et al. 2022, eq. 9, 12 and 13; diffusers 0.42 `scheduling_pndm.py`.
#[derive(Debug)]
pub(super) struct Pndm {
    prediction_type: PredictionType,
    /// Of each call.
    timesteps: Vec<f64>,
    /// The same, whole.
    places: Vec<usize>,
    /// Training timesteps between two steps.
    stride: usize,
    /// Calls made by Runge and Kutta.
    n_runge_kutta_calls: usize,
    /// `alpha^2` of each training timestep.
    alphas_cumprod: Vec<f64>,
    /// `alpha^2` after the last step.
    final_alpha_cumprod: f64,
    /// Calls made for this image.
    n_made: usize,
    /// Predictions, newest first; of a Runge-Kutta step its first one.
    outputs: VecDeque<Tensor<4>>,
    /// The sample where a step of several calls began.
    start: Option<Tensor<4>>,
    /// The weighted predictions of a Runge-Kutta step.
    sum: Option<Tensor<4>>,
}

/// A move of the sample by a prediction, from one `alpha^2` to another.
struct Move {
    from: f64,
    to: f64,
    sample: Tensor<4>,
    output: Tensor<4>,
}

impl Pndm {
    pub(super) fn new(json: &SchedulerJson, n_steps: usize) -> Result<Self, DiffusionError> {
        // This class does not know of zero terminal SNR.
        let json = SchedulerJson { rescale_betas_zero_snr: None, ..json.chosen() };
        let schedule = NoiseSchedule::new(&ScheduleConfig::try_from(&json)?)?;
        let n_train_timesteps = schedule.n_train_timesteps();
        let mut places = Grid {
            spacing: choice(json.timestep_spacing.as_deref(), TimestepSpacing::Leading)?,
            n_points: n_steps,
            n_steps,
            n_train_timesteps,
            steps_offset: json.steps_offset.unwrap_or(0),
        }
        .timesteps()?;
        let stride = n_train_timesteps / n_steps;
        let n_runge_kutta_calls = if json.skip_prk_steps == Some(true) {
            if let Some(&second) = places.get(1) {
                places.insert(1, second);
            }
            0
        } else {
            places = with_midpoints(&places, stride / 2).ok_or_else(|| {
                unsupported("skip_prk_steps", false, format!("true, or more than {N_RUNGE_KUTTA} steps"))
            })?;
            N_RUNGE_KUTTA * RUNGE_KUTTA.len()
        };
        let table = schedule.alphas_cumprod();
        Ok(Self {
            prediction_type: schedule.prediction_type(),
            timesteps: places.iter().map(|&place| place as f64).collect(),
            places,
            stride,
            n_runge_kutta_calls,
            final_alpha_cumprod: if json.set_alpha_to_one == Some(true) { 1.0 } else { table[0] },
            alphas_cumprod: table.to_vec(),
            n_made: 0,
            outputs: VecDeque::new(),
            start: None,
            sum: None,
        })
    }

    /// `alpha^2` so many training timesteps after the place of a call.
    fn alpha_cumprod_after(&self, call: usize, n_timesteps: usize) -> f64 {
        let after = self.places[call].checked_sub(n_timesteps);
        after.map_or(self.final_alpha_cumprod, |place| self.alphas_cumprod[place])
    }

    /// One of the four calls of a Runge-Kutta step: to the midpoint twice, and to the end twice.
    fn runge_kutta(&mut self, output: Tensor<4>, call: usize, sample: Tensor<4>) -> Move {
        let stage = self.n_made % RUNGE_KUTTA.len();
        let weighted = output.clone() * RUNGE_KUTTA[stage];
        let sum = match self.sum.take() {
            Some(sum) => sum + weighted,
            None => weighted,
        };
        if stage == 0 {
            self.outputs.push_front(output.clone());
            self.start = Some(sample.clone());
        }
        let is_last = stage + 1 == RUNGE_KUTTA.len();
        let output = if is_last { sum.clone() } else { output };
        self.sum = Some(sum).filter(|_| !is_last);
        // The second and fourth calls are at the end of their move, the others half a step before it.
        let distance = if stage.is_multiple_of(2) { self.stride / 2 } else { 0 };
        Move {
            // As in diffusers, counted from the first call of all, also if that was left out.
            from: self.alphas_cumprod[self.places[self.n_made - stage]],
            to: self.alpha_cumprod_after(call, distance),
            sample: self.start.clone().unwrap_or(sample),
            output,
        }
    }

    fn multistep(&mut self, output: Tensor<4>, call: usize, sample: Tensor<4>) -> Move {
        let now = self.alphas_cumprod[self.places[call]];
        if self.n_made == 0 {
            self.start = Some(sample.clone());
        }
        if let Some(start) = self.start.take_if(|_| self.n_made == 1) {
            let before = (self.places[call] + self.stride).min(self.alphas_cumprod.len() - 1);
            let output = (output + self.outputs[0].clone()) / 2.0;
            return Move { from: self.alphas_cumprod[before], to: now, sample: start, output };
        }
        self.outputs.push_front(output);
        self.outputs.truncate(WEIGHTS.len());
        let weighted = self.outputs.iter().zip(WEIGHTS[self.outputs.len() - 1]);
        let output = weighted
            .map(|(output, weight)| output.clone() * *weight)
            .reduce(|sum, term| sum + term)
            .expect("the newest prediction is there");
        Move { from: now, to: self.alpha_cumprod_after(call, self.stride), sample, output }
    }
}

/// The calls of a way whose first three steps are by Runge and Kutta: at the beginning, twice at the midpoint and at the end. `None` if there
/// are too few steps.
fn with_midpoints(places: &[usize], half: usize) -> Option<Vec<usize>> {
    let first = places.get(..=N_RUNGE_KUTTA)?;
    let steps = first.windows(2).flat_map(|step| [step[0], step[1] + half, step[1] + half, step[1]]);
    Some(steps.chain(places[N_RUNGE_KUTTA..].iter().copied()).collect())
}

impl Solver for Pndm {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn noising(&self, call: usize) -> NoiseLevel {
        NoiseLevel::from_alpha_cumprod(self.alphas_cumprod[self.places[call]])
    }

    fn begin(&mut self) {
        self.n_made = 0;
        self.outputs.clear();
        self.start = None;
        self.sum = None;
    }

    fn step(
        &mut self,
        output: Tensor<4>,
        call: usize,
        sample: Tensor<4>,
        _noise: NoiseSource<'_>,
    ) -> Tensor<4> {
        let (output, sample) = (output.cast(DType::F32), sample.cast(DType::F32));
        let made = if self.n_made < self.n_runge_kutta_calls {
            self.runge_kutta(output, call, sample)
        } else {
            self.multistep(output, call, sample)
        };
        self.n_made += 1;
        let Move { from, to, sample, output } = made;
        let noise = NoiseLevel::from_alpha_cumprod(from).noise(self.prediction_type, output, sample.clone());
        let scale = from * (1.0 - to).sqrt() + (from * (1.0 - from) * to).sqrt();
        sample * (to / from).sqrt() - noise * ((to - from) / scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runge_kutta_steps_need_more_than_three() {
        let json = SchedulerJson { skip_prk_steps: Some(false), ..Default::default() };
        for n_steps in 1..=3 {
            assert!(matches!(
                Pndm::new(&json, n_steps),
                Err(DiffusionError::UnsupportedValue { key: "skip_prk_steps", .. })
            ));
        }
        assert_eq!(Pndm::new(&json, 4).unwrap().timesteps.len(), 13);
    }
}
