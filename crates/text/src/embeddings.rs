//! Token and position embeddings.

use burn::nn::{Embedding, EmbeddingConfig, Initializer};
use burn::prelude::*;
use burn::tensor::DType;

use crate::ClipTextConfig;

/// The sum of what a token is and where it stands.
///
/// # Shapes
/// - ids: `[batch, tokens]`
/// - output: `[batch, tokens, d_model]`
///
/// Source: transformers `CLIPTextEmbeddings` (5.23).
#[derive(Module, Debug)]
pub(crate) struct ClipTextEmbeddings {
    token_embedding: Embedding,
    position_embedding: Embedding,
}

impl ClipTextEmbeddings {
    pub(crate) fn new(config: &ClipTextConfig, device: &Device) -> Self {
        let embedding = |n_embedding| {
            EmbeddingConfig::new(n_embedding, config.d_model)
                .with_initializer(Initializer::Normal { mean: 0.0, std: 0.02 })
                .init(device)
        };
        Self {
            token_embedding: embedding(config.vocab_size),
            position_embedding: embedding(config.max_tokens),
        }
    }

    pub(crate) fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let [_, n_tokens] = ids.dims();
        let positions = self.position_embedding.weight.val().narrow(0, 0, n_tokens); // [tokens, d_model]
        // Tables in half precision are as good as their rounding, but what is computed from them is not.
        self.token_embedding.forward(ids).cast(DType::F32) + positions.cast(DType::F32).unsqueeze()
    }
}
