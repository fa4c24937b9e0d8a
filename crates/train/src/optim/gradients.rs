//! Gradients as one list, and the clipping of their global norm.

use burn::module::{ModuleVisitor, Param};
use burn::prelude::*;
use burn::tensor::TensorData;
use pyrograph_kernels::sum_of_squares;

use super::Shapes;
use crate::TrainError;
use crate::group::Ranks;

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

    /// The sum with those of all other ranks, in buckets of this many numbers. A rank that had no samples has none to give;
    /// `shapes` are those of the module.
    ///
    /// # Errors
    /// [`TrainError::Group`] and [`TrainError::RankFailed`].
    pub(crate) fn summed(
        own: Option<Self>,
        shapes: &Shapes,
        bucket: usize,
        ranks: &Ranks,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let sizes: Vec<usize> = shapes.iter().map(|(_, shape)| shape.iter().product()).collect();
        let mut gradients = own.map_or_else(|| vec![None; sizes.len()], |own| own.into_scaled().collect());
        let mut n_givers: Vec<f32> =
            gradients.iter().map(|gradient| f32::from(u8::from(gradient.is_some()))).collect();
        ranks.sum(&mut n_givers)?;
        let given = (0..sizes.len()).filter(|&place| n_givers[place] > 0.0).collect();
        for bucket in buckets(given, &sizes, bucket) {
            let mut numbers = Vec::with_capacity(bucket.iter().map(|&place| sizes[place]).sum());
            for &place in &bucket {
                match gradients[place].take() {
                    Some(own) => {
                        numbers.extend(own.try_into_vec_as::<f32>().expect("the device hands out f32"));
                    }
                    None => numbers.resize(numbers.len() + sizes[place], 0.0),
                }
            }
            ranks.sum(&mut numbers)?;
            let mut rest = numbers.as_slice();
            for place in bucket {
                let (sum, after) = rest.split_at(sizes[place]);
                let sum = TensorData::new(sum.to_vec(), [sum.len()]);
                gradients[place] = Some(Tensor::from_data(sum, device));
                rest = after;
            }
        }
        Ok(Self { gradients, scale: None })
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

/// Cuts places into runs whose sizes add up to at most `limit`, or that are one place.
fn buckets(places: Vec<usize>, sizes: &[usize], limit: usize) -> Vec<Vec<usize>> {
    let mut buckets: Vec<Vec<usize>> = Vec::new();
    let mut filled = 0;
    for place in places {
        match buckets.last_mut() {
            Some(bucket) if filled + sizes[place] <= limit => bucket.push(place),
            _ => {
                buckets.push(vec![place]);
                filled = 0;
            }
        }
        filled += sizes[place];
    }
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_filled_and_none_is_left_out() {
        let sizes = [3, 3, 9, 1, 1, 5, 2];
        let cut = |limit| buckets((0..7).collect(), &sizes, limit);
        assert_eq!(cut(6), [vec![0, 1], vec![2], vec![3, 4], vec![5], vec![6]]);
        assert_eq!(cut(usize::MAX).len(), 1);
        assert_eq!(cut(0).len(), 7);
        assert!(buckets(Vec::new(), &sizes, 6).is_empty());
    }
}
