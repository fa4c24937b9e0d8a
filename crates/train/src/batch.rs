//! Host to device: what one micro-batch of training needs.

use burn::prelude::*;
use burn::tensor::TensorData;
use pyrograph_data::{HostBatch, random, random::Purpose};
use pyrograph_pipeline::{Bundle, Conditioning};

use crate::TrainError;
use crate::encode::{Encoded, EncodedPrompt, Encoder};
use crate::nonfinite::NonFinite;

/// One micro-batch on the device, without autodiff.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    /// Mean and logarithm of the variance of the images' latents, `[batch, 2 * latent_channels, height, width]`.
    pub moments: Tensor<4>,
    /// Hints in [0, 1], or -1 where they are to be painted; `[batch, 3, height, width]`.
    pub hint: Tensor<4>,
    /// Prompt embeddings, and what SDXL is told beside.
    pub conditioning: Conditioning,
    /// The samples' ids, which key their random numbers.
    pub ids: Vec<String>,
    /// What of it is not finite, and in which of its samples; looked for on the way, in what is on the host anyway.
    pub non_finite: Option<(NonFinite, Vec<usize>)>,
}

impl Batch {
    /// Encodes images and captions and moves the hints to the device.
    ///
    /// The caption, and whether it or the hint is dropped, are drawn anew for each step.
    ///
    /// # Errors
    /// [`TrainError`] if encoders that were freed are needed and cannot be read again.
    pub(crate) fn new(
        host: HostBatch,
        bundle: &Bundle,
        encoder: &Encoder,
        dropout: &Dropout,
    ) -> Result<Self, TrainError> {
        let device = encoder.device().clone();
        let size = host.size;
        let batch_size = host.samples.len();
        let captions = host.samples.iter().map(|sample| {
            let mut rng = random::rng(dropout.seed, dropout.micro_step, &sample.id, Purpose::Caption);
            sample.caption(&mut rng, dropout.empty_prompts)
        });
        let prompts: Vec<EncodedPrompt> = captions
            .zip(&host.geometries)
            .map(|(caption, geometry)| encoder.prompt(bundle, caption, geometry))
            .collect::<Result<_, _>>()?;
        let latents = host.targets.into_iter().map(|target| encoder.moments(bundle, target, size));
        let latents: Vec<Encoded<4>> = latents.collect::<Result<_, _>>()?;
        let non_finite = not_finite(latents.iter().map(|latents| latents.is_finite))
            .map(|samples| (NonFinite::Latents, samples))
            .or_else(|| {
                Some((NonFinite::Prompt, not_finite(prompts.iter().map(|prompt| prompt.is_finite))?))
            });
        let ids: Vec<String> = host.samples.iter().map(|sample| sample.id.clone()).collect();
        let shape = [batch_size, 3, size.height.get(), size.width.get()];
        let mut hint_unit = host.hint_unit;
        for (hint, id) in hint_unit.chunks_exact_mut(3 * size.n_pixels()).zip(&ids) {
            if dropout.drops_hint(id) {
                hint.fill(0.0);
            }
        }
        Ok(Self {
            moments: Tensor::cat(latents.into_iter().map(|latents| latents.tensor).collect(), 0),
            hint: Tensor::from_data(TensorData::new(hint_unit, shape), &device),
            conditioning: Conditioning::cat(prompts.into_iter().map(|prompt| prompt.conditioning).collect()),
            ids,
            non_finite,
        })
    }
}

impl Batch {
    /// One of its samples alone.
    pub(crate) fn only(&self, place: usize) -> Self {
        Self {
            moments: self.moments.clone().narrow(0, place, 1),
            hint: self.hint.clone().narrow(0, place, 1),
            conditioning: self.conditioning.narrow(place, 1),
            ids: vec![self.ids[place].clone()],
            non_finite: None,
        }
    }
}

/// The places of those that are not finite, if there are any.
fn not_finite(are_finite: impl Iterator<Item = bool>) -> Option<Vec<usize>> {
    let places = are_finite.enumerate().filter(|(_, is_finite)| !is_finite);
    let places: Vec<usize> = places.map(|(place, _)| place).collect();
    (!places.is_empty()).then_some(places)
}

/// What decides at a step which caption a sample has, and what of it is dropped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dropout {
    /// The run's seed.
    pub seed: u64,
    /// Micro-batches made before this one.
    pub micro_step: u64,
    /// Probability of an empty caption.
    pub empty_prompts: f64,
    /// Probability of a blank hint.
    pub empty_hints: f64,
}

impl Dropout {
    fn drops_hint(&self, id: &str) -> bool {
        let mut rng = random::rng(self.seed, self.micro_step, id, Purpose::HintDropout);
        random::unit(&mut rng) < self.empty_hints
    }
}
