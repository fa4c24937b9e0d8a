//! PNDM without its Runge-Kutta steps, also known as PLMS.

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

/// Pseudo numerical methods for diffusion models. The second step is made twice: once to look ahead, and then by the mean of both
/// predictions.
///
/// Source: Liu et al. 2022, eq. 9 and 12; diffusers 0.42 `scheduling_pndm.py` with `skip_prk_steps`.
#[derive(Debug)]
pub(super) struct Pndm {
    prediction_type: PredictionType,
    /// Of each call.
    timesteps: Vec<f64>,
    /// `alpha^2` around each call's timestep.
    alphas_cumprod: Vec<Around>,
    /// Calls made for this image.
    n_made: usize,
    /// Predictions, newest first.
    outputs: VecDeque<Tensor<4>>,
    /// The first sample, until the step from it has been made again.
    first: Option<Tensor<4>>,
}

/// `alpha^2` a step before a timestep, there and a step after.
#[derive(Debug, Clone, Copy)]
struct Around {
    before: f64,
    now: f64,
    after: f64,
}

impl Pndm {
    pub(super) fn new(json: &SchedulerJson, n_steps: usize) -> Result<Self, DiffusionError> {
        // This class does not know of zero terminal SNR.
        let json = SchedulerJson { rescale_betas_zero_snr: None, ..json.chosen() };
        if json.skip_prk_steps != Some(true) {
            return Err(unsupported("skip_prk_steps", false, "true"));
        }
        let schedule = NoiseSchedule::new(&ScheduleConfig::try_from(&json)?)?;
        let n_train_timesteps = schedule.n_train_timesteps();
        let mut timesteps = Grid {
            spacing: choice(json.timestep_spacing.as_deref(), TimestepSpacing::Leading)?,
            n_points: n_steps,
            n_steps,
            n_train_timesteps,
            steps_offset: json.steps_offset.unwrap_or(0),
        }
        .timesteps()?;
        if let Some(&second) = timesteps.get(1) {
            timesteps.insert(1, second);
        }
        let table = schedule.alphas_cumprod();
        let after_last = if json.set_alpha_to_one == Some(true) { 1.0 } else { table[0] };
        let stride = n_train_timesteps / n_steps;
        let around = |&timestep: &usize| Around {
            before: table[(timestep + stride).min(n_train_timesteps - 1)],
            now: table[timestep],
            after: timestep.checked_sub(stride).map_or(after_last, |next| table[next]),
        };
        Ok(Self {
            prediction_type: schedule.prediction_type(),
            alphas_cumprod: timesteps.iter().map(around).collect(),
            timesteps: timesteps.into_iter().map(|timestep| timestep as f64).collect(),
            n_made: 0,
            outputs: VecDeque::new(),
            first: None,
        })
    }
}

impl Solver for Pndm {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn noising(&self, call: usize) -> NoiseLevel {
        NoiseLevel::from_alpha_cumprod(self.alphas_cumprod[call].now)
    }

    fn begin(&mut self) {
        self.n_made = 0;
        self.outputs.clear();
    }

    fn step(
        &mut self,
        output: Tensor<4>,
        call: usize,
        sample: Tensor<4>,
        _noise: NoiseSource<'_>,
    ) -> Tensor<4> {
        let (mut output, mut sample) = (output.cast(DType::F32), sample.cast(DType::F32));
        let Around { before, mut now, after: mut next } = self.alphas_cumprod[call];
        if self.n_made == 0 {
            self.first = Some(sample.clone());
        }
        if let Some(first) = self.first.take_if(|_| self.n_made == 1) {
            output = (output + self.outputs[0].clone()) / 2.0;
            sample = first;
            (now, next) = (before, now);
        } else {
            self.outputs.push_front(output);
            self.outputs.truncate(WEIGHTS.len());
            let weighted = self.outputs.iter().zip(WEIGHTS[self.outputs.len() - 1]);
            output = weighted
                .map(|(output, weight)| output.clone() * *weight)
                .reduce(|sum, term| sum + term)
                .expect("the newest prediction is there");
        }
        self.n_made += 1;
        let noise = NoiseLevel::from_alpha_cumprod(now).noise(self.prediction_type, output, sample.clone());
        let scale = now * (1.0 - next).sqrt() + (now * (1.0 - now) * next).sqrt();
        sample * (next / now).sqrt() - noise * ((next - now) / scale)
    }
}
