//! Lion: the sign of a momentum.

use burn::prelude::*;

use super::Parameter;
use super::state::State;

/// The constants of Lion.
///
/// Its updates all have the size of the learning rate, so that should be 3 to 10 times smaller than AdamW's, and the
/// weight decay as much larger.
///
/// Source: Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", algorithm 2; lion-pytorch (0.2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LionConfig {
    /// How much of the momentum is in an update.
    pub beta1: f64,
    /// Decay of the momentum.
    pub beta2: f64,
    /// Share of a parameter, times the learning rate, taken off at each step.
    pub weight_decay: f64,
}

pub(super) fn layout(shape: &[usize]) -> Vec<(&'static str, usize)> {
    vec![("momentum", shape.iter().product())]
}

impl LionConfig {
    pub(super) fn update(&self, parameter: Parameter<'_>, state: &mut State) -> Tensor<1> {
        let Self { beta1, beta2, weight_decay } = *self;
        let Parameter { value, gradient, scale, lr, .. } = parameter;
        let gradient = gradient * scale.clone();
        let momentum = state.floats("momentum", || value.zeros_like());
        let direction = (momentum.clone() * beta1 + gradient.clone() * (1.0 - beta1)).sign();
        state.set_floats("momentum", momentum * beta2 + gradient * (1.0 - beta2));
        value * (1.0 - lr * weight_decay) - direction * lr
    }
}
