//! The text encoder.

use burn::nn::{LayerNorm, Linear};
use burn::prelude::*;
use pyrograph_kernels::{layer_norm, linear};

use crate::embeddings::ClipTextEmbeddings;
use crate::layer::{ClipLayer, new_layer_norm, new_projection};
use crate::{ClipTextConfig, TextProjection};

/// What early configs call the end token; it is not.
const WRONG_EOS: u32 = 2;

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
    /// The last hidden state of the end token, projected if the model has a projection: what SDXL is told beside the
    /// context.
    ///
    /// # Shapes
    /// `[batch, pooled_dim]`
    pub pooled: Tensor<2>,
}

impl ClipTextOutput {
    /// The last layer's input: what Stable Diffusion XL attends to.
    ///
    /// # Shapes
    /// `[batch, tokens, d_model]`
    #[must_use]
    pub fn penultimate(&self) -> &Tensor<3> {
        let n_layers = self.hidden_states.len() - 1;
        &self.hidden_states[n_layers - 1]
    }
}

/// CLIP's text transformer (Radford et al. 2021): tokens attend to themselves and to those before them.
///
/// Source: transformers `CLIPTextModel` and `CLIPTextModelWithProjection` (5.23).
#[derive(Module, Debug)]
pub struct ClipTextModel {
    text_model: ClipTextTransformer,
    text_projection: Option<Linear>,
    /// The end token; `None` if it is the one with the largest id.
    #[module(skip)]
    end_token: Option<u32>,
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
            text_projection: match config.projection {
                TextProjection::Absent(_) => None,
                TextProjection::To(width) => Some(new_projection(config.d_model, width, device)),
            },
            end_token: config.eos_token_id.filter(|&id| id != WRONG_EOS),
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
        let mut hidden_states = vec![self.text_model.embeddings.forward(ids.clone())];
        let mut tokens = hidden_states[0].clone();
        for layer in &self.text_model.encoder.layers {
            tokens = layer.forward(tokens);
            hidden_states.push(tokens.clone());
        }
        let last_hidden_state = self.normed(tokens);
        let pooled = at_position(last_hidden_state.clone(), self.end_positions(ids));
        let pooled = match &self.text_projection {
            Some(projection) => linear(projection, pooled),
            None => pooled,
        };
        ClipTextOutput { last_hidden_state, hidden_states, pooled }
    }

    /// A layer's output after the final layer norm: the context of Stable Diffusion 1.x and 2.x that leaves out the last layers ("clip skip").
    ///
    /// # Shapes
    /// - hidden_state and output: `[batch, tokens, d_model]`
    #[must_use]
    pub fn normed(&self, hidden_state: Tensor<3>) -> Tensor<3> {
        let ClipTextTransformer { final_layer_norm, layer_norm_eps, .. } = &self.text_model;
        layer_norm(final_layer_norm, *layer_norm_eps, hidden_state)
    }

    /// Where each sequence has its end token for the first time, `[batch, 1]`.
    ///
    /// Source: transformers `CLIPTextModel.forward` (5.23).
    fn end_positions(&self, ids: Tensor<2, Int>) -> Tensor<2, Int> {
        let (device, [_, n_tokens]) = (ids.device(), ids.dims());
        let n_tokens = i64::try_from(n_tokens).expect("positions fit");
        let rank = match self.end_token {
            Some(id) => ids.equal_elem(id).int(),
            None => ids,
        };
        // Padding may be more of the same token. No two of these numbers are equal, so there is one largest.
        let backwards = Tensor::arange(0..n_tokens, &device).mul_scalar(-1).unsqueeze();
        (rank * n_tokens + backwards).argmax(1)
    }
}

/// The state of one token of each sequence.
///
/// # Shapes
/// - states: `[batch, tokens, d_model]`
/// - positions: `[batch, 1]`
/// - output: `[batch, d_model]`
fn at_position(states: Tensor<3>, positions: Tensor<2, Int>) -> Tensor<2> {
    let [_, _, d_model] = states.dims();
    let indices = positions.unsqueeze_dim::<3>(2).repeat_dim(2, d_model); // [batch, 1, d_model]
    states.gather(1, indices).squeeze_dim(1)
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
    fn the_pooled_state_is_that_of_the_first_end_token() {
        let device = Device::flex();
        let ids = Tensor::from_ints([[18, 3, 7, 7, 7], [18, 3, 4, 7, 0]], &device);
        for (eos_token_id, positions) in
            [(Some(7), [2, 3]), (Some(2), [0, 0]), (None, [0, 0]), (Some(4), [0, 2])]
        {
            let model = ClipTextConfig { eos_token_id, ..small() }.init(&device);
            let output = model.forward(ids.clone());
            for (row, position) in positions.into_iter().enumerate() {
                let expected = output.last_hidden_state.clone().slice([row..row + 1, position..position + 1]);
                let found = output.pooled.clone().narrow(0, row, 1);
                assert_eq!(found.into_data(), expected.squeeze_dim::<2>(1).into_data(), "{eos_token_id:?}");
            }
        }
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
