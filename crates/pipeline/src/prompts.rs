//! From prompts to what the UNet is told, with one text encoder or SDXL's two.

use burn::prelude::*;
use burn::tensor::DType;
use pyrograph_text::{ClipTextConfig, ClipTextModel, ClipTextOutput, ClipTokenizer, encode_prompts};
use pyrograph_unet::{AddedConditioning, Conditioning, MicroConditioning};

/// A text encoder and its tokenizer.
#[derive(Debug)]
pub struct TextEncoder {
    /// Text to tokens.
    pub tokenizer: ClipTokenizer,
    /// Tokens to hidden states.
    pub model: ClipTextModel,
    /// What the model was made from.
    pub config: ClipTextConfig,
}

/// The text encoders of a base model.
#[derive(Debug)]
pub struct TextEncoders {
    /// The only one of Stable Diffusion 1.x and 2.x, whose last hidden state the UNet attends to.
    pub first: TextEncoder,
    /// SDXL's second one, whose pooled state is added to the timestep's embedding. With it the UNet attends to the
    /// last hidden states but one of both, side by side.
    pub second: Option<TextEncoder>,
}

/// What text encoders make of prompts, in f32.
#[derive(Debug, Clone)]
pub struct PromptEmbeddings {
    /// What the UNet attends to, `[prompts, tokens, context_dim]`.
    pub context: Tensor<3>,
    /// SDXL's pooled state, `[prompts, pooled_dim]`.
    pub pooled: Option<Tensor<2>>,
}

impl TextEncoder {
    fn encode(&self, prompts: &[&str], device: &Device) -> ClipTextOutput {
        encode_prompts(&self.tokenizer, &self.model, prompts, device)
    }
}

impl TextEncoders {
    /// The one or the two.
    pub fn iter(&self) -> impl Iterator<Item = &TextEncoder> {
        std::iter::once(&self.first).chain(&self.second)
    }

    /// Prompt embeddings.
    ///
    /// # Panics
    /// If there is no prompt.
    ///
    /// Source: diffusers `StableDiffusionControlNetPipeline.encode_prompt` and
    /// `StableDiffusionXLControlNetPipeline.encode_prompt` (0.42).
    #[must_use]
    pub fn encode(&self, prompts: &[&str], device: &Device) -> PromptEmbeddings {
        let first = self.first.encode(prompts, device);
        let Some(second) = &self.second else {
            return PromptEmbeddings { context: first.last_hidden_state.cast(DType::F32), pooled: None };
        };
        let second = second.encode(prompts, device);
        let context = Tensor::cat(vec![first.penultimate().clone(), second.penultimate().clone()], 2);
        PromptEmbeddings { context: context.cast(DType::F32), pooled: Some(second.pooled.cast(DType::F32)) }
    }

    /// Tokens of every encoded prompt.
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        self.first.tokenizer.model_max_length()
    }

    /// Width of [`PromptEmbeddings::context`].
    #[must_use]
    pub fn context_dim(&self) -> usize {
        self.iter().map(|encoder| encoder.config.d_model).sum()
    }

    /// Width of [`PromptEmbeddings::pooled`].
    #[must_use]
    pub fn pooled_dim(&self) -> Option<usize> {
        self.second.as_ref().map(|second| second.config.pooled_dim())
    }
}

impl PromptEmbeddings {
    /// The prompts of both one after another.
    ///
    /// # Panics
    /// If only one of them has pooled states.
    #[must_use]
    pub fn followed_by(self, other: Self) -> Self {
        assert_eq!(self.pooled.is_some(), other.pooled.is_some(), "embeddings of one model");
        let pooled = self.pooled.zip(other.pooled);
        Self {
            context: Tensor::cat(vec![self.context, other.context], 0),
            pooled: pooled.map(|(left, right)| Tensor::cat(vec![left, right], 0)),
        }
    }

    /// The same number of embeddings, all zero: SDXL's for a negative prompt that is not given.
    #[must_use]
    pub fn zeros_like(&self) -> Self {
        Self { context: self.context.zeros_like(), pooled: self.pooled.as_ref().map(Tensor::zeros_like) }
    }

    /// With the sizes of the pictures, one for each prompt, which a model without pooled states is not told.
    #[must_use]
    pub fn with_sizes(self, sizes: Vec<MicroConditioning>) -> Conditioning {
        let added = self.pooled.map(|text_embeds| AddedConditioning { text_embeds, sizes });
        Conditioning { context: self.context, added, guidance_scale: None }
    }
}
