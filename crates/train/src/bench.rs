//! How fast a plan trains, where the time goes, and what it takes.

use std::time::Instant;

use burn::prelude::*;
use burn::tensor::Distribution;
use pyrograph_unet::PassSize;

use crate::stopwatch::{PhaseSeconds, Stopwatch};
use crate::trainer::Trainer;
use crate::window::Window;
use crate::{TrainError, memory};

/// What [`Trainer::bench`] measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Measurement {
    /// The first step, which also encodes, allocates and compiles; it is not among `steps`.
    pub first_step: PhaseSeconds,
    /// Each measured step.
    pub steps: Vec<PhaseSeconds>,
    /// Images in a step.
    pub images_per_step: usize,
    /// Floating-point operations of a step, see `ControlNetConfig::training_flops`.
    pub flops_per_step: u64,
    /// Operations per second of a large matrix product on the same device, before and after the steps.
    pub matmul_flops_per_second: [f64; 2],
    /// The most main memory that the process had held after the second step, where the system tells.
    pub peak_bytes: Option<u64>,
    /// What the process holds after the last step over what it held after step 100, if there were at least twice as
    /// many: more than 1 for a leak.
    pub resident_growth: Option<f64>,
    /// What the device's allocator holds, where it tells.
    pub device_bytes: Option<u64>,
}

/// By then all caches are full and all buffers are there.
const EARLY_STEP: usize = 100;

impl Trainer {
    /// Makes two training steps to warm up and `n_steps` to measure; nothing is written. The second is the first that needs memory beside
    /// the optimizer's.
    ///
    /// # Errors
    /// [`TrainError`] if data cannot be read.
    pub fn bench(&mut self, n_steps: usize) -> Result<Measurement, TrainError> {
        let n_warmup = 2;
        self.encode_prompts_ahead((n_warmup + n_steps) as u64)?;
        let mut loader = self.loader()?;
        let mut window = Window::new();
        let mut stopwatch = Stopwatch::running(self.device());
        let mut step = |trainer: &mut Self| -> Result<PhaseSeconds, TrainError> {
            let lr = trainer.plan().optimizer.learning_rate;
            trainer.optimizer_step(&mut loader, lr, &mut window, &mut stopwatch)?;
            Ok(stopwatch.take())
        };
        let first_step = step(self)?;
        step(self)?;
        // The probe's own memory would count as the step's; the steps after it take what the second took.
        let peak_bytes = memory::peak_bytes();
        let before = matmul_flops_per_second(self.device());
        let mut early_bytes = None;
        let mut steps = Vec::with_capacity(n_steps);
        for step_idx in 0..n_steps {
            if step_idx == EARLY_STEP {
                early_bytes = memory::current_bytes();
            }
            steps.push(step(self)?);
        }
        let late_bytes = memory::current_bytes().filter(|_| n_steps >= 2 * EARLY_STEP);
        let resident_growth = early_bytes.zip(late_bytes).map(|(early, late)| late as f64 / early as f64);
        let device_bytes = self.device().memory_pool_usage().map(|usage| usage.bytes_reserved);
        let after = matmul_flops_per_second(self.device());

        let (batch_size, accumulation) =
            (self.plan().data.batch_size.get(), self.plan().optimizer.accumulation_steps.get());
        let images_per_step = batch_size * accumulation;
        let latents = self.plan().data.transform.side.get() / self.bundle().vae_config.pixels_per_latent();
        let size = PassSize { latents: [latents; 2], n_tokens: self.bundle().text.n_tokens() };
        let flops = self.controlnet_config().training_flops(&self.bundle().unet_config, size);
        Ok(Measurement {
            first_step,
            steps,
            images_per_step,
            flops_per_step: flops * images_per_step as u64,
            matmul_flops_per_second: [before, after],
            peak_bytes,
            resident_growth,
            device_bytes,
        })
    }
}

/// The best of several products of square matrices that are large enough to keep the device busy.
fn matmul_flops_per_second(device: &Device) -> f64 {
    const N_PRODUCTS: usize = 5;
    /// A product this long hides what starting it costs.
    const LONG_SECONDS: f64 = 0.02;
    let (mut size, mut flops) = (1024, 2.0 * 1024_f64.powi(3));
    loop {
        let random = || Tensor::<2>::random([size, size], Distribution::Default, device);
        let (left, right) = (random(), random());
        let product = || {
            let start = Instant::now();
            // Reading one number waits for the whole product.
            let product = left.clone().matmul(right.clone());
            let _ = product.slice([0..1, 0..1]).into_data();
            start.elapsed().as_secs_f64()
        };
        product();
        let seconds = (0..N_PRODUCTS).map(|_| product()).fold(f64::INFINITY, f64::min);
        if seconds >= LONG_SECONDS || size == 8192 {
            return flops / seconds;
        }
        (size, flops) = (size * 2, flops * 8.0);
    }
}
