//! AdamW, with moments of 32 or of 8 bits.

use burn::prelude::*;
use pyrograph_kernels::{AdamW8bitState, AdamWState, AdamWStep, BLOCK, Quantized, adamw, adamw8bit};

use super::Parameter;
use super::state::State;

/// Parameters with fewer elements keep moments of 32 bits: there is little to save, and biases and norms are sensitive.
///
/// Source: bitsandbytes `AdamW8bit` (0.50), `min_8bit_size`.
const MIN_8BIT_SIZE: usize = 4096;

/// The constants of AdamW: decoupled weight decay and bias correction.
///
/// Source: Loshchilov and Hutter 2019, algorithm 2; `torch.optim.AdamW`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the mean of the gradients.
    pub beta1: f64,
    /// Decay of the mean of their squares.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Share of a parameter, times the learning rate, taken off at each step.
    pub weight_decay: f64,
}

pub(super) fn layout(shape: &[usize]) -> Vec<(&'static str, usize)> {
    let n = shape.iter().product();
    vec![("first_moment", n), ("second_moment", n)]
}

pub(super) fn layout_8bit(shape: &[usize]) -> Vec<(&'static str, usize)> {
    let n: usize = shape.iter().product();
    if n < MIN_8BIT_SIZE {
        return layout(shape);
    }
    let n_blocks = n.div_ceil(BLOCK);
    vec![("first_codes", n), ("first_scales", n_blocks), ("second_codes", n), ("second_scales", n_blocks)]
}

impl AdamWConfig {
    fn step(&self, lr: f64, steps: u32) -> AdamWStep {
        let Self { beta1, beta2, epsilon, weight_decay } = *self;
        let steps = f64::from(steps);
        AdamWStep {
            beta1,
            beta2,
            epsilon,
            kept: 1.0 - lr * weight_decay,
            step_size: lr / (1.0 - beta1.powf(steps)),
            root_correction: (1.0 - beta2.powf(steps)).sqrt(),
        }
    }

    pub(super) fn update(&self, parameter: Parameter<'_>, state: &mut State) -> Tensor<1> {
        let Parameter { value, gradient, scale, lr, steps, .. } = parameter;
        let before = AdamWState {
            first_moment: state.floats("first_moment", || value.zeros_like()),
            second_moment: state.floats("second_moment", || value.zeros_like()),
            value,
        };
        let after = adamw(before, gradient, scale, &self.step(lr, steps));
        state.set_floats("first_moment", after.first_moment);
        state.set_floats("second_moment", after.second_moment);
        after.value
    }

    pub(super) fn update_8bit(&self, parameter: Parameter<'_>, state: &mut State) -> Tensor<1> {
        if parameter.value.dims()[0] < MIN_8BIT_SIZE {
            return self.update(parameter, state);
        }
        let Parameter { value, gradient, scale, lr, steps, .. } = parameter;
        let mut moment = |codes, scales| {
            let codes = state.codes(codes)?;
            let n_blocks = codes.dims()[0].div_ceil(BLOCK);
            let device = codes.device();
            Some(Quantized { codes, scales: state.floats(scales, || Tensor::zeros([n_blocks], &device)) })
        };
        let moments = (moment("first_codes", "first_scales"), moment("second_codes", "second_scales"));
        let before = match moments {
            (Some(first_moment), Some(second_moment)) => {
                AdamW8bitState { value, first_moment, second_moment }
            }
            _ => AdamW8bitState::new(value),
        };
        let after = adamw8bit(before, gradient, scale, &self.step(lr, steps));
        state.set_codes("first_codes", after.first_moment.codes);
        state.set_floats("first_scales", after.first_moment.scales);
        state.set_codes("second_codes", after.second_moment.codes);
        state.set_floats("second_scales", after.second_moment.scales);
        after.value
    }
}
