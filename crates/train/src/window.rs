//! Loss and speed since the last report, of all ranks.

use std::time::Instant;

use burn::prelude::*;

use crate::TrainError;
use crate::group::Ranks;

/// The losses stay on the device until the report.
pub(crate) struct Window {
    loss_sum: Option<Tensor<1>>,
    /// This rank's shares of the batches.
    n_batches: f64,
    n_images: usize,
    seconds: f64,
    since: Instant,
}

impl Window {
    pub(crate) fn new() -> Self {
        Self { loss_sum: None, n_batches: 0.0, n_images: 0, seconds: 0.0, since: Instant::now() }
    }

    /// Adds a micro-batch of which a rank had this share, 1 if it is alone.
    pub(crate) fn add(&mut self, loss: Tensor<1>, share: f64, n_images: usize) {
        let loss = if share < 1.0 { loss * share } else { loss };
        self.loss_sum = Some(match self.loss_sum.take() {
            Some(sum) => sum + loss,
            None => loss,
        });
        self.n_batches += share;
        self.n_images += n_images;
        self.seconds += self.since.elapsed().as_secs_f64();
        self.since = Instant::now();
    }

    /// Leaves out what was not training: checkpoints and validation.
    pub(crate) fn resume(&mut self) {
        self.since = Instant::now();
    }

    /// Mean loss over the micro-batches, and images per second; starts the next window.
    pub(crate) fn report(&mut self, ranks: &Ranks) -> Result<(f64, f64), TrainError> {
        let finished = std::mem::replace(self, Self::new());
        let sum = finished.loss_sum.map(|sum| sum.into_scalar::<f32>());
        let seconds = finished.seconds + finished.since.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "an image count is small")]
        let n_images = finished.n_images as f32;
        #[expect(clippy::cast_possible_truncation, reason = "a number that is shown")]
        let mut sums = [sum.unwrap_or(0.0), finished.n_batches as f32, n_images];
        ranks.sum(&mut sums)?;
        let [loss, n_batches, n_images] = sums.map(f64::from);
        Ok((loss / n_batches, n_images / seconds.max(1e-9)))
    }
}
