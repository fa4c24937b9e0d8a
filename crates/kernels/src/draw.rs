//! Random numbers for tests, the same in every run. Burn's own generator is one for all threads, so that a seed would mean
//! something else whenever tests run side by side.

use std::cell::RefCell;

use burn::prelude::*;
use burn::tensor::{Distribution, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, Normal, StandardUniform};

thread_local! {
    // Each test has a thread of its own.
    static RNG: RefCell<ChaCha8Rng> = RefCell::new(ChaCha8Rng::seed_from_u64(0));
}

/// Independent numbers, normal or, by default, from [0, 1).
pub(crate) fn draw<const D: usize>(
    shape: [usize; D],
    distribution: Distribution,
    device: &Device,
) -> Tensor<D> {
    let count = shape.iter().product();
    let values: Vec<f64> = RNG.with_borrow_mut(|rng| match distribution {
        Distribution::Default => StandardUniform.sample_iter(rng).take(count).collect(),
        Distribution::Normal(mean, deviation) => {
            Normal::new(mean, deviation).unwrap().sample_iter(rng).take(count).collect()
        }
        other => panic!("no test draws {other:?}"),
    });
    Tensor::from_data(TensorData::new(values, shape), device)
}
