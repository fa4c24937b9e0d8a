//! Encoders are in memory as long as something is to be encoded.

use std::collections::BTreeSet;

use pyrograph_data::Cursor;
use pyrograph_pipeline::Bundle;

use super::Trainer;
use crate::TrainError;
use crate::encode::keeps_all;
use crate::plan::CachePlan;

impl Trainer {
    /// Encodes every prompt that the run to `total_steps` will use, then frees the text encoders; unless they are not kept
    /// somewhere until it ends, or the captions of a stream are not known before they come.
    ///
    /// # Errors
    /// [`TrainError::Stopped`] between two prompts.
    pub(crate) fn encode_prompts_ahead(&mut self, total_steps: u64) -> Result<(), TrainError> {
        let Some(prompts) = self.prompts_to_come(total_steps) else { return Ok(()) };
        let bytes_each = self.bundle.configs().prompt_bytes();
        if !keeps_all(&self.plan.cache, prompts.len(), bytes_each) {
            return Ok(());
        }
        tracing::debug!("{} prompts are encoded before the first step", prompts.len());
        let stop = self.stop_between();
        // What the others encode is found in the cache that all share, if it is on a disk.
        for is_mine in [true, false] {
            for (place, prompt) in prompts.iter().enumerate() {
                if self.ranks.is_mine(place) == is_mine {
                    stop.check()?;
                    self.encoder.keep_prompt(&self.bundle, prompt)?;
                }
            }
            self.ranks.meet()?;
        }
        self.encoder.free_text_encoders(&mut self.bundle);
        Ok(())
    }

    /// All captions of the samples to come, since which of a sample's is taken is drawn at each step; those of evaluation and
    /// validation; and the empty one, which takes the place of others.
    fn prompts_to_come(&self, total_steps: u64) -> Option<BTreeSet<String>> {
        let samples = self.data.samples()?;
        let of_samples = self
            .samples_to_come(samples.len(), total_steps)
            .into_iter()
            .flat_map(|idx| &samples[idx].captions);
        let of_evaluation = self.evaluator.iter().flat_map(|evaluator| evaluator.captions());
        let mut prompts: BTreeSet<String> = of_samples.cloned().collect();
        prompts.extend(of_evaluation.map(str::to_owned));
        prompts.extend(self.validator.prompts());
        prompts.insert(String::new());
        Some(prompts)
    }

    /// Places in the data set.
    fn samples_to_come(&self, n_samples: usize, total_steps: u64) -> BTreeSet<usize> {
        let mut order = self.batch_order();
        let n_steps = total_steps.saturating_sub(self.step());
        let n_batches = n_steps.saturating_mul(self.plan.optimizer.accumulation_steps.get() as u64);
        if n_batches >= order.batches_per_epoch() as u64 {
            return (0..n_samples).collect();
        }
        let mut cursor = self.position.cursor;
        let mut places = BTreeSet::new();
        for _ in 0..n_batches {
            places.extend(order.batch(cursor).into_iter().flatten());
            cursor = order.after(cursor);
        }
        places
    }

    /// The first epoch that is trained on from its first batch on.
    pub(super) fn next_whole_epoch(&self) -> u64 {
        let Cursor { epoch, batch } = self.position.cursor;
        if batch == 0 { epoch } else { epoch + 1 }
    }

    /// Frees the VAE's encoder when all pictures were seen in an epoch, unless their latents are not kept, or a later epoch
    /// may have a mirror or crop of one that was not seen yet.
    pub(super) fn free_vae_encoder_after(&mut self, epoch: u64) {
        let is_over = self.position.cursor.epoch > epoch;
        let n_evaluated = self.plan.evaluation.map_or(0, |evaluation| evaluation.n_samples.get());
        let n_samples = self.data.n_samples() + n_evaluated;
        let side = self.plan.data.transform.side.get();
        // Another rank may have had a picture that comes to this one in a later epoch.
        let is_shared = self.ranks.is_alone() || matches!(self.plan.cache, CachePlan::Disk(_));
        let is_kept =
            || is_shared && keeps_all(&self.plan.cache, n_samples, self.bundle.configs().moments_bytes(side));
        let is_fixed = self.plan.data.transform.is_fixed();
        if is_over && is_fixed && !self.encoder.has_freed_vae() && is_kept() {
            self.encoder.free_vae_encoder(&mut self.bundle);
        }
    }

    /// The base model with all of its parts: a run frees encoders that it needs no more, and here they are read again.
    ///
    /// # Errors
    /// [`TrainError::Pipeline`] if they are not there any more.
    pub fn complete_bundle(&mut self) -> Result<&Bundle, TrainError> {
        self.encoder.complete(&mut self.bundle)?;
        Ok(&self.bundle)
    }
}
