//! Standard normal noise from a seed, the same on every device.

use burn::prelude::*;
use burn::tensor::TensorData;
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

/// Independent standard normal numbers, drawn on the host so that a seed means the same noise on every device.
///
/// # Shapes
/// - output: `shape`
#[must_use]
pub fn standard_normal<const D: usize>(shape: [usize; D], rng: &mut impl Rng, device: &Device) -> Tensor<D> {
    let count = shape.iter().product();
    let values: Vec<f32> = StandardNormal.sample_iter(rng).take(count).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}
