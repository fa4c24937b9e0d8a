//! The text encoder.

use burn::nn::LayerNorm;
use burn::prelude::*;
use pyrograph_kernels::layer_norm;

use crate::ClipTextConfig;
use crate::embeddings::ClipTextEmbeddings;
use crate::layer::{ClipLayer, new_layer_norm};

/// What the text encoder makes of a batch of token sequences.
#[derive(Debug, Clone)]
pub struct ClipTextOutput {
    /// The last layer's output after the final layer norm: the context of Stable Diffusion 1.x and 2.x.
    ///
    /// # Shapes
    /// `[batch, tokens, d_model]`
    pub last_hidden_state: Tensor<3>,
    /// The embeddings and each layer's output, `n_layers + 1` tensors, all before the final layer norm.
    ///
    /// # Shapes
    /// each `[batch, tokens, d_model]`
    pub hidden_states: Vec<Tensor<3>>,
}

/// CLIP's text transformer (Radford et al. 2021): tokens attend to themselves and to those before them.
///
/// Source: transformers `CLIPTextModel` (5.23).
#[derive(Module, Debug)]
pub struct ClipTextModel {
    text_model: ClipTextTransformer,
}

/// The level of nesting that gives tensors the prefix `text_model`.
#[derive(Module, Debug)]
struct ClipTextTransformer {
    embeddings: ClipTextEmbeddings,
    encoder: ClipEncoder,
    final_layer_norm: LayerNorm,
    layer_norm_eps: f64,
}

/// The layers.
#[derive(Module, Debug)]
struct ClipEncoder {
    layers: Vec<ClipLayer>,
}

impl ClipTextModel {
    pub(crate) fn new(config: &ClipTextConfig, device: &Device) -> Self {
        let layers = (0..config.n_layers).map(|_| ClipLayer::new(config, device)).collect();
        Self {
            text_model: ClipTextTransformer {
                embeddings: ClipTextEmbeddings::new(config, device),
                encoder: ClipEncoder { layers },
                final_layer_norm: new_layer_norm(config, device),
                layer_norm_eps: config.layer_norm_eps,
            },
        }
    }

    /// Encodes token sequences.
    ///
    /// # Shapes
    /// - ids: `[batch, tokens]`
    ///
    /// # Panics
    /// If an id is not below the config's `vocab_size` or there are more than `max_tokens` tokens;
    /// [`ClipTokenizer::check_fits`](crate::ClipTokenizer::check_fits) finds that out beforehand.
    #[must_use]
    pub fn forward(&self, ids: Tensor<2, Int>) -> ClipTextOutput {
        let mut hidden_states = vec![self.text_model.embeddings.forward(ids)];
        let mut tokens = hidden_states[0].clone();
        for layer in &self.text_model.encoder.layers {
            tokens = layer.forward(tokens);
            hidden_states.push(tokens.clone());
        }
        let ClipTextTransformer { final_layer_norm, layer_norm_eps, .. } = &self.text_model;
        ClipTextOutput {
            last_hidden_state: layer_norm(final_layer_norm, *layer_norm_eps, tokens),
            hidden_states,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> ClipTextConfig {
        let published = ClipTextConfig::clip_l();
        ClipTextConfig {
            vocab_size: 20,
            max_tokens: 6,
            d_model: 8,
            d_ff: 12,
            n_layers: 2,
            n_heads: 2,
            ..published
        }
    }

    #[test]
    fn a_token_changes_nothing_before_it() {
        let device = Device::flex();
        let model = small().init(&device);
        let encode = |ids: [i64; 4]| {
            let states =
                model.forward(Tensor::<1, Int>::from_ints(ids, &device).unsqueeze()).last_hidden_state;
            (states.clone().narrow(1, 0, 3).into_data(), states.narrow(1, 3, 1).into_data())
        };
        let (before, last) = encode([3, 1, 4, 1]);
        let (before_other, last_other) = encode([3, 1, 4, 19]);
        assert_eq!(before, before_other);
        assert_ne!(last, last_other);
    }

    #[test]
    fn a_model_allocates_nothing_before_its_first_use() {
        let model = small().init(&Device::flex());
        let norm = |model: &ClipTextModel| model.text_model.final_layer_norm.gamma.is_initialized();
        assert!(!norm(&model));
        let _ = model.forward(Tensor::zeros([1, 2], &Device::flex()));
        assert!(norm(&model));
    }
}
