//! Prompts of any length and with weights, chunk by chunk.

use burn::prelude::*;
use burn::tensor::{DType, TensorData};
use pyrograph_text::{Chunk, parse_weighted};

use super::{PromptSyntax, TextEncoder};

/// The chunks of one prompt.
pub(super) fn chunks(encoder: &TextEncoder, prompt: &str, syntax: PromptSyntax) -> Vec<Chunk> {
    let tokenizer = &encoder.tokenizer;
    match syntax {
        PromptSyntax::Weighted => tokenizer.chunks(&parse_weighted(prompt)),
        PromptSyntax::Plain => {
            let ids = tokenizer.encode_or_warn(prompt);
            vec![Chunk { weights: vec![1.0; ids.len()], ids }]
        }
    }
}

/// What an encoder makes of prompts that have equally many chunks.
pub(super) struct Encoded {
    /// `[prompts, tokens of all chunks, d_model]`
    pub(super) context: Tensor<3>,
    /// Of the first chunk, `[prompts, pooled_dim]`.
    pub(super) pooled: Tensor<2>,
}

/// Encodes prompts; `clip_skip` of the last layers are left out, and one more for SDXL.
///
/// # Panics
/// If there is no prompt, or they have not equally many chunks.
///
/// Source: AUTOMATIC1111 stable-diffusion-webui, `modules/sd_hijack_clip.py`, and `EmphasisOriginal` of `modules/sd_emphasis.py`.
pub(super) fn encode(
    encoder: &TextEncoder,
    prompts: &[Vec<Chunk>],
    clip_skip: usize,
    is_sdxl: bool,
    device: &Device,
) -> Encoded {
    let mut first_pooled = None;
    let contexts = (0..prompts[0].len()).map(|idx| {
        let chunks: Vec<&Chunk> = prompts.iter().map(|chunks| &chunks[idx]).collect();
        let n_tokens = chunks[0].ids.len();
        let ids: Vec<i64> = chunks.iter().flat_map(|chunk| &chunk.ids).copied().map(i64::from).collect();
        let ids = Tensor::from_data(TensorData::new(ids, [chunks.len(), n_tokens]), device);
        let output = encoder.model().forward(ids);
        let last = output.hidden_states.len() - 1;
        let state = match (is_sdxl, clip_skip) {
            (true, _) => output.hidden_states[last - 1 - clip_skip].clone(),
            (false, 0) => output.last_hidden_state,
            (false, _) => encoder.model().normed(output.hidden_states[last - clip_skip].clone()),
        };
        first_pooled.get_or_insert(output.pooled);
        weighted(state.cast(DType::F32), &chunks, device)
    });
    let context = Tensor::cat(contexts.collect(), 1);
    Encoded { context, pooled: first_pooled.expect("every prompt has a chunk") }
}

/// States in f32 times the weights of their tokens, with each chunk's mean as it was.
fn weighted(states: Tensor<3>, chunks: &[&Chunk], device: &Device) -> Tensor<3> {
    if chunks.iter().all(|chunk| chunk.weights.iter().all(|weight| *weight == 1.0)) {
        return states;
    }
    let (n_chunks, n_tokens) = (chunks.len(), chunks[0].weights.len());
    let weights: Vec<f32> = chunks.iter().flat_map(|chunk| chunk.weights.iter().copied()).collect();
    let weights = Tensor::<3>::from_data(TensorData::new(weights, [n_chunks, n_tokens, 1]), device);
    let mean = |states: &Tensor<3>| states.clone().mean_dim(2).mean_dim(1); // [chunks, 1, 1]
    let changed = states.clone() * weights;
    let factors = mean(&states) / mean(&changed); // 1 for a chunk without weights
    // A mean of zero tells nothing.
    let factors = factors.clone().mask_fill(factors.is_finite().bool_not(), 1.0);
    changed * factors
}
