//! Adafactor: a second moment of rows and columns instead of elements.

use burn::prelude::*;

use super::Parameter;
use super::state::State;

/// Added to the squares of gradients.
///
/// Source: the paper's section 9, as the others here.
const EPSILON: f64 = 1e-30;

/// An update's root mean square is at most this.
const CLIP_THRESHOLD: f64 = 1.0;

/// The exponent of the second moment's decay, `1 - steps^DECAY_RATE`.
const DECAY_RATE: f64 = -0.8;

/// The constants of Adafactor, without momentum and with the learning rate of the schedule.
///
/// The moments of a kernel are factored over its last two dimensions, as in the reference.
///
/// Source: Shazeer and Stern 2018, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", algorithms 4 and 5;
/// transformers `Adafactor` (5.23) with `scale_parameter=False, relative_step=False`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdafactorConfig {
    /// Share of a parameter, times the learning rate, taken off at each step.
    pub weight_decay: f64,
}

/// `[all before the last two, rows, columns]` of a parameter of two dimensions or more.
fn matrix(shape: &[usize]) -> Option<[usize; 3]> {
    let [before @ .., rows, columns] = shape else { return None };
    Some([before.iter().product(), *rows, *columns])
}

pub(super) fn layout(shape: &[usize]) -> Vec<(&'static str, usize)> {
    match matrix(shape) {
        Some([before, rows, columns]) => {
            vec![("row_moment", before * rows), ("column_moment", before * columns)]
        }
        None => vec![("second_moment", shape.iter().product())],
    }
}

impl AdafactorConfig {
    pub(super) fn update(&self, parameter: Parameter<'_>, state: &mut State) -> Tensor<1> {
        let Parameter { value, gradient, scale, shape, lr, steps } = parameter;
        let gradient = gradient * scale.clone();
        let squares = gradient.clone().square() + EPSILON;
        let decay = 1.0 - f64::from(steps).powf(DECAY_RATE);
        let mut moment = |name, squares: Tensor<1>| {
            let moment = state.floats(name, || squares.zeros_like());
            let moment = moment * decay + squares * (1.0 - decay);
            state.set_floats(name, moment.clone());
            moment
        };
        let update = match matrix(&shape) {
            Some([before, rows, columns]) => {
                let squares = squares.reshape([before, rows, columns]);
                let row = moment("row_moment", squares.clone().mean_dim(2).flatten(0, 2));
                let column = moment("column_moment", squares.mean_dim(1).flatten(0, 2));
                let row = row.reshape([before, rows, 1]);
                let row = row.clone() / row.mean_dim(1);
                let root = row.sqrt().recip() * column.sqrt().recip().reshape([before, 1, columns]);
                (gradient.reshape([before, rows, columns]) * root).flatten(0, 2)
            }
            None => gradient / moment("second_moment", squares).sqrt(),
        };
        let rms = update.clone().square().mean().sqrt();
        let update = update / (rms / CLIP_THRESHOLD).clamp_min(1.0);
        value * (1.0 - lr * self.weight_decay) - update * lr
    }
}
