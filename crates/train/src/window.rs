//! Loss and speed since the last report.

use std::time::Instant;

use burn::prelude::*;

/// The losses stay on the device until the report.
pub(crate) struct Window {
    loss_sum: Option<Tensor<1>>,
    n_batches: u32,
    n_images: usize,
    seconds: f64,
    since: Instant,
}

impl Window {
    pub(crate) fn new() -> Self {
        Self { loss_sum: None, n_batches: 0, n_images: 0, seconds: 0.0, since: Instant::now() }
    }

    pub(crate) fn add(&mut self, loss: Tensor<1>, n_images: usize) {
        self.loss_sum = Some(match self.loss_sum.take() {
            Some(sum) => sum + loss,
            None => loss,
        });
        self.n_batches += 1;
        self.n_images += n_images;
        self.seconds += self.since.elapsed().as_secs_f64();
        self.since = Instant::now();
    }

    /// Leaves out what was not training: checkpoints and validation.
    pub(crate) fn resume(&mut self) {
        self.since = Instant::now();
    }

    /// Mean loss over the micro-batches, and images per second; starts the next window.
    pub(crate) fn report(&mut self) -> (f64, f64) {
        let finished = std::mem::replace(self, Self::new());
        let sum = finished.loss_sum.map_or(f64::NAN, |sum| f64::from(sum.into_scalar::<f32>()));
        let seconds = finished.seconds + finished.since.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "an image count is small")]
        let n_images = finished.n_images as f64;
        (sum / f64::from(finished.n_batches), n_images / seconds.max(1e-9))
    }
}
