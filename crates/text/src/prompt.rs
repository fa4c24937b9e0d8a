//! From prompts to what the diffusion model attends to.

use burn::prelude::*;
use burn::tensor::TensorData;

use crate::{ClipTextModel, ClipTextOutput, ClipTokenizer};

/// Embeds prompts.
///
/// A prompt that is too long is cut, with a warning that tells the text that has no effect.
///
/// # Panics
/// If there is no prompt, or if tokenizer and text encoder do not belong together, see
/// [`ClipTokenizer::check_fits`].
///
/// Source: diffusers `StableDiffusionControlNetPipeline.encode_prompt` (0.42).
#[must_use]
pub fn encode_prompts(
    tokenizer: &ClipTokenizer,
    model: &ClipTextModel,
    prompts: &[&str],
    device: &Device,
) -> ClipTextOutput {
    let n_tokens = tokenizer.model_max_length();
    let mut ids: Vec<i64> = Vec::with_capacity(prompts.len() * n_tokens);
    for &prompt in prompts {
        ids.extend(tokenizer.encode_or_warn(prompt).into_iter().map(i64::from));
    }
    let ids = TensorData::new(ids, [prompts.len(), n_tokens]);
    model.forward(Tensor::from_data(ids, device))
}

impl ClipTokenizer {
    /// The tokens of a prompt, with a warning if its end was left out.
    #[must_use]
    pub fn encode_or_warn(&self, prompt: &str) -> Vec<u32> {
        let encoded = self.encode(prompt);
        if let Some(removed) = encoded.truncated {
            let max_tokens = self.model_max_length();
            tracing::warn!(removed, max_tokens, "the prompt is too long, its end has no effect");
        }
        encoded.ids
    }
}
