//! Gradients as one list, and the clipping of their global norm.

use burn::module::{ModuleVisitor, Param};
use burn::prelude::*;
use pyrograph_kernels::sum_of_squares;

/// One flattened gradient for each parameter of a module, in the order in which the module is visited.
///
/// A parameter that had no part in the loss has none.
#[derive(Debug, Clone)]
pub struct Gradients {
    pub(super) gradients: Vec<Option<Tensor<1>>>,
    /// A factor on all of them, `[1]`, that the optimizer's pass over memory applies.
    pub(super) scale: Option<Tensor<1>>,
}

impl Gradients {
    /// Takes the gradients of `module`'s parameters out of a backward pass.
    #[must_use]
    pub fn take<M: Module>(module: &M, backward: burn::tensor::Gradients) -> Self {
        struct Taker {
            backward: burn::tensor::Gradients,
            taken: Vec<Option<Tensor<1>>>,
        }
        impl ModuleVisitor for Taker {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let gradient = param.val().grad_remove(&mut self.backward);
                self.taken.push(gradient.map(|gradient| gradient.inner().flatten(0, -1)));
            }
        }
        let mut taker = Taker { backward, taken: Vec::new() };
        module.visit(&mut taker);
        Self { gradients: taker.taken, scale: None }
    }

    /// The sum with another micro-batch's gradients, in the memory of one of the two where nobody else holds it.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let sum = |(left, right): (Option<Tensor<1>>, Option<Tensor<1>>)| match (left, right) {
            (Some(left), Some(right)) => Some(left + right),
            (one, None) | (None, one) => one,
        };
        Self { gradients: self.into_scaled().zip(other.into_scaled()).map(sum).collect(), scale: None }
    }

    /// All of them times a number.
    #[must_use]
    pub fn scaled(self, factor: f32) -> Self {
        let gradients =
            self.into_scaled().map(|gradient| gradient.map(|gradient| gradient * factor)).collect();
        Self { gradients, scale: None }
    }

    /// The L2 norm over all gradients, `[1]`, left on the device. `None` if there is no gradient at all.
    #[must_use]
    pub fn norm(&self) -> Option<Tensor<1>> {
        let squares = self.gradients.iter().flatten().map(|gradient| sum_of_squares(gradient.clone()));
        let norm = squares.reduce(|left, right| left + right)?.sqrt();
        Some(match &self.scale {
            Some(scale) => norm * scale.clone(),
            None => norm,
        })
    }

    /// Scales all gradients down together so that their norm is at most `max_norm`; returns the norm before.
    ///
    /// Source: `torch.nn.utils.clip_grad_norm_`, with its 1e-6.
    #[must_use]
    pub fn clipped(self, max_norm: f64) -> (Self, Option<Tensor<1>>) {
        let norm = self.norm();
        let coefficient = |norm: Tensor<1>| ((norm + 1e-6).recip() * max_norm).clamp_max(1.0);
        let scale = match (self.scale, norm.clone().map(coefficient)) {
            (Some(scale), Some(coefficient)) => Some(scale * coefficient),
            (one, None) | (None, one) => one,
        };
        (Self { gradients: self.gradients, scale }, norm)
    }

    /// The flattened gradients in visiting order.
    pub fn iter(&self) -> impl Iterator<Item = Option<Tensor<1>>> {
        self.clone().into_scaled()
    }

    fn into_scaled(self) -> impl Iterator<Item = Option<Tensor<1>>> {
        let Self { gradients, scale } = self;
        let scaled = move |gradient: Tensor<1>| match &scale {
            Some(scale) => gradient * scale.clone(),
            None => gradient,
        };
        gradients.into_iter().map(move |gradient| gradient.map(&scaled))
    }
}
