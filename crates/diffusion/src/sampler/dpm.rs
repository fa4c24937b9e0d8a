//! DPM-Solver++, of several steps, with and without fresh noise.

use std::collections::VecDeque;

use burn::prelude::*;
use burn::tensor::DType;

use super::sigmas::{interpolate, karras, level, sigma_table, timestep_of};
use super::timesteps::{Grid, Steps};
use super::{NoiseSource, Solver};
use crate::config::{
    BetaSchedule, Choice, FinalSigma, PredictionType, ScheduleConfig, TimestepSpacing, choice, reject_true,
    unsupported,
};
use crate::diffusers::SchedulerJson;
use crate::error::DiffusionError;
use crate::rounding::round_to_f32;
use crate::schedule::{NoiseLevel, NoiseSchedule};

/// Up to this many steps the last ones are of a lower order.
const MANY_STEPS: usize = 15;

/// The formula of second order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SecondOrder {
    Midpoint,
    Heun,
}

impl Choice for SecondOrder {
    const KEY: &'static str = "solver_type";
    // The last three belong to UniPC and DEIS; diffusers' DPM-Solver reads them as midpoint.
    const NAMES: &'static [(&'static str, Self)] = &[
        ("midpoint", Self::Midpoint),
        ("heun", Self::Heun),
        ("bh1", Self::Midpoint),
        ("bh2", Self::Midpoint),
        ("logrho", Self::Midpoint),
    ];
}

/// DPM-Solver++ on predictions of the clean latents, multistep.
///
/// Source: Lu et al. 2022 (DPM-Solver++), algorithm 2 and appendix; diffusers 0.42 `scheduling_dpmsolver_multistep.py`,
/// `dpmsolver++` and `sde-dpmsolver++`.
#[derive(Debug)]
pub(super) struct DpmPlusPlus {
    prediction_type: PredictionType,
    order: usize,
    second_order: SecondOrder,
    lower_order_final: bool,
    euler_at_final: bool,
    is_stochastic: bool,
    timesteps: Vec<f64>,
    sigmas: Vec<f64>,
    /// Predicted clean latents, newest first.
    outputs: VecDeque<Tensor<4>>,
}

impl DpmPlusPlus {
    pub(super) fn new(
        json: &SchedulerJson,
        steps: &Steps,
        is_stochastic: bool,
    ) -> Result<Self, DiffusionError> {
        let config = ScheduleConfig::try_from(json)?;
        let json = json.chosen();
        reject_true("thresholding", json.thresholding)?;
        reject_true("use_exponential_sigmas", json.use_exponential_sigmas)?;
        reject_true("use_beta_sigmas", json.use_beta_sigmas)?;
        reject_true("use_flow_sigmas", json.use_flow_sigmas)?;
        reject_true("use_lu_lambdas", json.other.get("use_lu_lambdas").and_then(serde_json::Value::as_bool))?;
        if let Some(limit) = json.other.get("lambda_min_clipped").filter(|limit| !limit.is_null()) {
            return Err(unsupported("lambda_min_clipped", limit, "null, -Infinity"));
        }
        let order = json.solver_order.unwrap_or(2);
        // The stochastic formula of third order in diffusers 0.42 does not vanish with the step.
        let orders = if is_stochastic { 1..=2 } else { 1..=3 };
        if !orders.contains(&order) {
            return Err(unsupported(
                "solver_order",
                order,
                format!("{} to {}", orders.start(), orders.end()),
            ));
        }
        let schedule = NoiseSchedule::new(&config)?;
        let n_steps = steps.count();
        let timesteps = steps.timesteps(Grid {
            spacing: choice(json.timestep_spacing.as_deref(), TimestepSpacing::Linspace)?,
            n_points: n_steps.saturating_add(1),
            n_steps,
            n_train_timesteps: schedule.n_train_timesteps(),
            steps_offset: json.steps_offset.unwrap_or(0),
        })?;
        let mut timesteps: Vec<f64> = timesteps.into_iter().map(|timestep| timestep as f64).collect();
        let table = sigma_table(&schedule);
        let mut sigmas: Vec<f64> = timesteps.iter().map(|&timestep| interpolate(&table, timestep)).collect();
        if json.use_karras_sigmas == Some(true) {
            steps.check_not_chosen()?;
            let [min, max] = [table[0], table[table.len() - 1]];
            sigmas = karras(json.sigma_max.unwrap_or(max), json.sigma_min.unwrap_or(min), n_steps)?;
            let is_cosine = config.beta_schedule == BetaSchedule::SquaredCosCapV2;
            let whole = |timestep: f64| if is_cosine { timestep.floor() } else { timestep.round_ties_even() };
            timesteps = sigmas.iter().map(|&sigma| whole(timestep_of(&table, sigma))).collect();
        }
        let final_sigma = match choice(json.final_sigmas_type.as_deref(), FinalSigma::Zero)? {
            FinalSigma::Zero => 0.0,
            FinalSigma::SigmaMin => table[0],
        };
        let sigmas: Vec<f64> = sigmas.into_iter().chain([final_sigma]).map(round_to_f32).collect();
        if let Some(step) = sigmas.windows(2).position(|pair| pair[0] <= pair[1]) {
            let timestep = crate::rounding::round_to_timestep(timesteps[step]);
            return Err(DiffusionError::NoiseDoesNotFall { timestep, n_steps });
        }
        Ok(Self {
            prediction_type: config.prediction_type,
            order,
            second_order: choice(json.solver_type.as_deref(), SecondOrder::Midpoint)?,
            lower_order_final: json.lower_order_final.unwrap_or(true),
            euler_at_final: json.other.get("euler_at_final").and_then(serde_json::Value::as_bool)
                == Some(true),
            is_stochastic,
            timesteps,
            sigmas,
            outputs: VecDeque::new(),
        })
    }

    /// The order of a step: as many predictions as there are, and fewer at the end.
    fn order_of(&self, step: usize) -> usize {
        let n_left = self.timesteps.len() - step;
        let is_lowered = self.lower_order_final && self.timesteps.len() < MANY_STEPS;
        let highest = match n_left {
            1 if self.euler_at_final || is_lowered || self.sigmas[step + 1] == 0.0 => 1,
            2 if is_lowered => 2,
            _ => self.order,
        };
        highest.min(self.outputs.len())
    }

    /// Half the log SNR.
    fn lambda(&self, step: usize) -> f64 {
        -self.sigmas[step].ln()
    }

    /// Slope and curvature of the predictions against half the log SNR, in units of this step, as far as the order goes.
    fn derivatives(&self, step: usize, order: usize) -> (Option<Tensor<4>>, Option<Tensor<4>>) {
        let difference = |age: usize| {
            let h = self.lambda(step + 1) - self.lambda(step);
            let ratio = (self.lambda(step - age) - self.lambda(step - age - 1)) / h;
            ((self.outputs[age].clone() - self.outputs[age + 1].clone()) / ratio, ratio)
        };
        match order {
            1 => (None, None),
            2 => (Some(difference(0).0), None),
            _ => {
                let ((newer, r0), (older, r1)) = (difference(0), difference(1));
                let bend = newer.clone() - older;
                (Some(newer + bend.clone() * (r0 / (r0 + r1))), Some(bend / (r0 + r1)))
            }
        }
    }
}

impl Solver for DpmPlusPlus {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn noising(&self, call: usize) -> NoiseLevel {
        level(self.sigmas[call])
    }

    fn begin(&mut self) {
        self.outputs.clear();
    }

    fn step(
        &mut self,
        output: Tensor<4>,
        call: usize,
        sample: Tensor<4>,
        noise: NoiseSource<'_>,
    ) -> Tensor<4> {
        let sample = sample.cast(DType::F32);
        let (from, to) = (level(self.sigmas[call]), level(self.sigmas[call + 1]));
        let clean = from.clean(self.prediction_type, output.cast(DType::F32), sample.clone());
        self.outputs.push_front(clean.clone());
        self.outputs.truncate(self.order);
        let order = self.order_of(call);
        let (slope, bend) = self.derivatives(call, order);

        // The stochastic equation removes twice as much noise and adds half of that again.
        let step = self.lambda(call + 1) - self.lambda(call);
        let h = if self.is_stochastic { 2.0 * step } else { step };
        let gone = -(-h).exp_m1();
        let keep = to.sigma / from.sigma * if self.is_stochastic { (-step).exp() } else { 1.0 };
        let mut next = sample * keep + clean * (to.alpha * gone);
        if let Some(slope) = slope {
            let weight = if order == 2 && self.second_order == SecondOrder::Midpoint {
                0.5 * gone
            } else {
                1.0 - gone / h
            };
            next = next + slope * (to.alpha * weight);
        }
        if let Some(bend) = bend {
            next = next - bend * (to.alpha * ((h - gone) / h.powi(2) - 0.5));
        }
        if self.is_stochastic {
            next = next + noise() * (to.sigma * gone.sqrt());
        }
        next
    }
}
