//! From prompts to what the UNet is told, with one text encoder or SDXL's two.

mod chunks;
mod prompt;

use burn::prelude::*;
use burn::tensor::DType;
use pyrograph_text::{Chunk, ClipTextConfig, ClipTextModel, ClipTextOutput, ClipTokenizer, encode_prompts};
use pyrograph_unet::{AddedConditioning, Conditioning, MicroConditioning};

pub use self::prompt::{EncodeOptions, Prompt, PromptSyntax};

use crate::error::PipelineError;

/// A text encoder and its tokenizer.
#[derive(Debug)]
pub struct TextEncoder {
    /// Text to tokens.
    pub tokenizer: ClipTokenizer,
    /// Tokens to hidden states; `None` after [`Bundle::free_text_encoders`](crate::Bundle::free_text_encoders).
    pub model: Option<ClipTextModel>,
    /// What the model was made from.
    pub config: ClipTextConfig,
}

impl TextEncoder {
    /// The network.
    ///
    /// # Panics
    /// If it was freed.
    #[must_use]
    pub fn model(&self) -> &ClipTextModel {
        self.model.as_ref().expect("text encoders that were freed are read again before a prompt is encoded")
    }
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
        encode_prompts(&self.tokenizer, self.model(), prompts, device)
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

    /// Embeddings of prompts and of as many negative ones, with as many tokens; those of shorter prompts end with chunks of the empty prompt.
    ///
    /// # Errors
    /// [`PipelineError::ClipSkip`] if there are not so many layers, [`PipelineError::OneEncoder`] for a second text where there is no
    /// second encoder.
    ///
    /// # Panics
    /// If there is no prompt.
    ///
    /// Source: diffusers `encode_prompt` of both ControlNet pipelines (0.42) for plain prompts and `clip_skip`.
    pub fn encode_prompts(
        &self,
        prompts: &[Prompt],
        negative_prompts: &[Prompt],
        options: EncodeOptions,
        device: &Device,
    ) -> Result<(PromptEmbeddings, Option<PromptEmbeddings>), PipelineError> {
        let EncodeOptions { syntax, clip_skip } = options;
        self.check_clip_skip(clip_skip)?;
        let all = || prompts.iter().chain(negative_prompts);
        if self.second.is_none() && all().any(|prompt| prompt.second.is_some()) {
            return Err(PipelineError::OneEncoder);
        }
        let mut chunks: Vec<Vec<Vec<Chunk>>> = self
            .iter()
            .enumerate()
            .map(|(idx, encoder)| {
                all().map(|prompt| chunks::chunks(encoder, prompt.text_for(idx == 1), syntax)).collect()
            })
            .collect();
        let n_chunks = chunks.iter().flatten().map(Vec::len).max().unwrap_or(1);
        for (encoder, prompts) in self.iter().zip(&mut chunks) {
            prompts.iter_mut().for_each(|chunks| chunks.resize(n_chunks, encoder.tokenizer.empty_chunk()));
        }
        let embed = |part: std::ops::Range<usize>, clip_skip: usize| {
            let is_sdxl = self.second.is_some();
            let encoded: Vec<chunks::Encoded> = self
                .iter()
                .zip(&chunks)
                .map(|(encoder, prompts)| {
                    chunks::encode(encoder, &prompts[part.clone()], clip_skip, is_sdxl, device)
                })
                .collect();
            let pooled = encoded[encoded.len() - 1].pooled.clone();
            let contexts = encoded.into_iter().map(|encoded| encoded.context).collect();
            PromptEmbeddings {
                context: Tensor::cat(contexts, 2).cast(DType::F32),
                pooled: is_sdxl.then(|| pooled.cast(DType::F32)),
            }
        };
        let positive = embed(0..prompts.len(), clip_skip);
        let negative = (!negative_prompts.is_empty())
            .then(|| embed(prompts.len()..prompts.len() + negative_prompts.len(), 0));
        Ok((positive, negative))
    }

    /// How many times the encoders read for a prompt and its negative one. [`encode_prompts`](Self::encode_prompts) lengthens all prompts to the longest, so
    /// that those of one number are encoded together as they are alone.
    #[must_use]
    pub fn n_chunks(&self, prompt: &Prompt, negative_prompt: Option<&Prompt>, syntax: PromptSyntax) -> usize {
        if syntax == PromptSyntax::Plain {
            return 1;
        }
        let lengths = self.iter().enumerate().flat_map(|(idx, encoder)| {
            let texts = [Some(prompt), negative_prompt].into_iter().flatten();
            texts.map(move |prompt| chunks::chunks(encoder, prompt.text_for(idx == 1), syntax).len())
        });
        lengths.max().unwrap_or(1)
    }

    fn check_clip_skip(&self, clip_skip: usize) -> Result<(), PipelineError> {
        // SDXL leaves one out in any case.
        let n_others = usize::from(self.second.is_some());
        let n_layers = self.iter().map(|encoder| encoder.config.n_layers).min().unwrap_or(0);
        let largest = n_layers.saturating_sub(n_others);
        if clip_skip > largest { Err(PipelineError::ClipSkip { clip_skip, largest }) } else { Ok(()) }
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
