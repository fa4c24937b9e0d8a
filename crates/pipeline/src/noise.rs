//! Standard normal noise from a seed, the same on every device.

use burn::prelude::*;
use burn::tensor::TensorData;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
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

/// A stream of noise for each picture of a batch, so that a picture does not depend on the others.
pub(crate) struct PictureNoise(Vec<ChaCha8Rng>);

impl PictureNoise {
    pub(crate) fn new(seeds: &[u64]) -> Self {
        Self(seeds.iter().map(|&seed| ChaCha8Rng::seed_from_u64(seed)).collect())
    }

    /// # Shapes
    /// - shape and output: `[pictures, channels, height, width]`
    pub(crate) fn draw(&mut self, [_, channels, height, width]: [usize; 4], device: &Device) -> Tensor<4> {
        let parts = self.0.iter_mut().map(|rng| standard_normal([1, channels, height, width], rng, device));
        Tensor::cat(parts.collect(), 0)
    }
}
