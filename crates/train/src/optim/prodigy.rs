//! Prodigy: Adam that finds its learning rate from how far the parameters have come.

use std::collections::BTreeMap;

use burn::module::{ModuleVisitor, Param};
use burn::prelude::*;
use burn::tensor::{DType, TensorData};

use super::state::State;
use super::{Gradients, Parameter};
use crate::TrainError;

/// The first guess of the distance.
///
/// Source: prodigyopt (1.1), `d0`.
const FIRST_DISTANCE: f64 = 1e-6;

/// The name of the distance in a checkpoint.
const NAME: &str = "prodigy";

/// The constants of Prodigy; the learning rate is a factor on the one it finds and should be 1.
///
/// Source: Mishchenko and Defazio 2023, "Prodigy: An Expeditiously Adaptive Parameter-Free Learner", algorithm 4;
/// prodigyopt (1.1) with its defaults, decoupled weight decay and no bias correction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProdigyConfig {
    /// Decay of the mean of the gradients.
    pub beta1: f64,
    /// Decay of the mean of their squares.
    pub beta2: f64,
    /// Added to the root of the second moment, times the distance.
    pub epsilon: f64,
    /// Share of a parameter, times the learning rate, taken off at each step.
    pub weight_decay: f64,
}

pub(super) fn layout(shape: &[usize]) -> Vec<(&'static str, usize)> {
    let n = shape.iter().product();
    vec![("first_moment", n), ("second_moment", n), ("gradient_sum", n), ("start", n)]
}

/// What Prodigy knows of the distance from the start to the end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Distance {
    estimate: f64,
    largest: f64,
    numerator: f64,
}

impl Default for Distance {
    fn default() -> Self {
        Self { estimate: FIRST_DISTANCE, largest: FIRST_DISTANCE, numerator: 0.0 }
    }
}

/// What a step needs of the whole module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    /// The distance before the step, by which updates are scaled.
    before: f64,
    /// The distance after it.
    after: f64,
}

impl Distance {
    /// Renews the moments and the distance.
    pub(super) fn step<M: Module>(
        &mut self,
        config: ProdigyConfig,
        module: &M,
        gradients: &Gradients,
        states: &mut [State],
        lr: impl Fn(usize) -> f64,
    ) -> Step {
        let before = self.estimate;
        let beta3 = config.beta2.sqrt();
        let mut accumulate = Accumulate {
            config,
            beta3,
            distance: before,
            lr: &lr,
            remaining: gradients.iter().zip(states).enumerate(),
            numerator: 0.0,
            denominator: 0.0,
        };
        module.visit(&mut accumulate);
        let Accumulate { numerator, denominator, .. } = accumulate;
        self.numerator = self.numerator * beta3 + numerator;
        // Without gradients nothing is learned of the distance.
        if denominator > 0.0 {
            let found = self.numerator / denominator;
            if self.estimate == FIRST_DISTANCE {
                self.estimate = self.estimate.max(found);
            }
            self.largest = self.largest.max(found);
            self.estimate = self.largest;
        }
        Step { before, after: self.estimate }
    }

    pub(super) fn save(&self, saved: &mut BTreeMap<String, TensorData>) {
        let Self { estimate, largest, numerator } = *self;
        saved.insert(NAME.to_owned(), TensorData::from([estimate, largest, numerator]));
    }

    pub(super) fn take(saved: &mut BTreeMap<String, TensorData>) -> Result<Self, TrainError> {
        let problem = |problem| TrainError::OptimizerState { tensor: NAME.to_owned(), problem };
        let data = saved.remove(NAME).ok_or_else(|| problem("is missing"))?;
        match data.convert_dtype(DType::F64).as_slice::<f64>() {
            Ok(&[estimate, largest, numerator]) => Ok(Self { estimate, largest, numerator }),
            _ => Err(problem("has the wrong size")),
        }
    }
}

/// Renews the moments of each parameter, and adds up what the distance is found from.
struct Accumulate<'l, I> {
    config: ProdigyConfig,
    beta3: f64,
    distance: f64,
    lr: &'l dyn Fn(usize) -> f64,
    remaining: I,
    numerator: f64,
    denominator: f64,
}

impl<'a, I> ModuleVisitor for Accumulate<'_, I>
where
    I: Iterator<Item = (usize, (Option<Tensor<1>>, &'a mut State))>,
{
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let (idx, (gradient, state)) = self.remaining.next().expect("one entry for each parameter");
        let Some(gradient) = gradient else { return };
        let ProdigyConfig { beta1, beta2, .. } = self.config;
        let (distance, lr) = (self.distance, (self.lr)(idx) * self.distance);
        // As in a warmup, which teaches nothing.
        if lr == 0.0 {
            return;
        }
        let value: Tensor<1> = param.val().inner().flatten(0, -1);
        let start = state.floats("start", || value.clone());
        let weight = distance / FIRST_DISTANCE * lr;
        self.numerator += weight * sum(gradient.clone() * (start.clone() - value));
        let mut renew = |name, factor: f64, addition: Tensor<1>| {
            let renewed = state.floats(name, || addition.zeros_like()) * factor + addition;
            state.set_floats(name, renewed.clone());
            renewed
        };
        renew("first_moment", beta1, gradient.clone() * (distance * (1.0 - beta1)));
        renew("second_moment", beta2, gradient.clone().square() * (distance * distance * (1.0 - beta2)));
        self.denominator += sum(renew("gradient_sum", self.beta3, gradient * weight).abs());
        state.set_floats("start", start);
    }
}

fn sum(values: Tensor<1>) -> f64 {
    f64::from(values.sum().into_scalar::<f32>())
}

impl ProdigyConfig {
    pub(super) fn update(&self, parameter: Parameter<'_>, state: &mut State, step: &Step) -> Tensor<1> {
        let Parameter { value, lr, .. } = parameter;
        let lr = lr * step.before;
        let first_moment = state.floats("first_moment", || value.zeros_like());
        let second_moment = state.floats("second_moment", || value.zeros_like());
        let root = second_moment.clone().sqrt() + step.after * self.epsilon;
        let update = first_moment.clone() / root * lr;
        state.set_floats("first_moment", first_moment);
        state.set_floats("second_moment", second_moment);
        value * (1.0 - self.weight_decay * lr) - update
    }
}
