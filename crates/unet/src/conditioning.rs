//! What a prediction depends on beside the latents, the timestep and the hint.

use burn::prelude::*;
use burn::tensor::DType;

use crate::UnetConfig;

/// The prompts of a batch, and what SDXL is told beside.
#[derive(Debug, Clone)]
pub struct Conditioning {
    /// Prompt embeddings, `[batch, prompt tokens, context_dim]`.
    pub context: Tensor<3>,
    /// What a model with [`UnetConfig::added`] needs; `None` for all others.
    pub added: Option<AddedConditioning>,
    /// The guidance scale that a model with [`UnetConfig::guidance_dim`] is to act as if guided with; all others ignore it.
    ///
    /// Source: Meng et al. 2022; diffusers `timestep_cond` (0.42), which is made of this number less 1.
    pub guidance_scale: Option<f64>,
}

/// What SDXL adds to the embedding of the timestep.
///
/// Source: Podell et al. 2023, section 2; diffusers `added_cond_kwargs` (0.42), `addition_embed_type="text_time"`.
#[derive(Debug, Clone)]
pub struct AddedConditioning {
    /// Pooled prompt embeddings, `[batch, pooled_dim]`, in f32.
    pub text_embeds: Tensor<2>,
    /// One for each sample.
    pub sizes: Vec<MicroConditioning>,
}

/// How a picture came to its size, in pixels, each as height and width or top and left.
///
/// Source: Podell et al. 2023, section 2.2; diffusers' `time_ids`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MicroConditioning {
    /// Height and width of the file.
    pub original: [usize; 2],
    /// Where the crop began, after resizing.
    pub crop: [usize; 2],
    /// Height and width that the model sees.
    pub target: [usize; 2],
}

/// A [`Conditioning`] that a model cannot take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConditioningError {
    /// Prompt embeddings of another text encoder.
    #[error("the prompt embeddings have {found} features, but the model reads {expected}")]
    ContextDim {
        /// `context_dim` of the config.
        expected: usize,
        /// Of the tensor.
        found: usize,
    },
    /// An SDXL model without what it needs.
    #[error("the model needs pooled prompt embeddings and sizes beside the prompt embeddings")]
    AddedMissing,
    /// Another model with what only SDXL takes.
    #[error("the model takes no pooled prompt embeddings and sizes")]
    AddedUnexpected,
    /// Pooled prompt embeddings of another text encoder.
    #[error("the pooled prompt embeddings have {found} features, but the model reads {expected}")]
    PooledDim {
        /// `pooled_dim` of the config.
        expected: usize,
        /// Of the tensor.
        found: usize,
    },
    /// Not as many of one as of the other.
    #[error("{n_pooled} pooled prompt embeddings and {n_sizes} sizes for {n_prompts} prompt embeddings")]
    BatchSize {
        /// Rows of `context`.
        n_prompts: usize,
        /// Rows of `text_embeds`.
        n_pooled: usize,
        /// Entries of `sizes`.
        n_sizes: usize,
    },
}

impl MicroConditioning {
    /// How many numbers it is.
    pub const LEN: usize = 6;

    /// A picture that is drawn at its size, or trained on as it is.
    #[must_use]
    pub fn uncropped(height: usize, width: usize) -> Self {
        Self { original: [height, width], crop: [0, 0], target: [height, width] }
    }

    /// The numbers in the order of diffusers' `time_ids`.
    #[expect(clippy::cast_precision_loss, reason = "sizes in pixels are below 2^24")]
    pub(crate) fn numbers(&self) -> [f32; Self::LEN] {
        let [[original_height, original_width], [top, left], [height, width]] =
            [self.original, self.crop, self.target];
        [original_height, original_width, top, left, height, width].map(|pixels| pixels as f32)
    }
}

impl From<Tensor<3>> for Conditioning {
    /// Prompt embeddings alone.
    fn from(context: Tensor<3>) -> Self {
        Self { context, added: None, guidance_scale: None }
    }
}

impl Conditioning {
    /// The samples of all parts one after another.
    ///
    /// # Panics
    /// If there is no part, or some have what SDXL is told beside and others have not, or other guidance scales.
    #[must_use]
    pub fn cat(parts: Vec<Self>) -> Self {
        let n_parts = parts.len();
        let guidance_scale = parts[0].guidance_scale;
        assert!(parts.iter().all(|part| part.guidance_scale == guidance_scale), "one guidance scale");
        let (contexts, added): (Vec<_>, Vec<_>) =
            parts.into_iter().map(|part| (part.context, part.added)).unzip();
        let added: Vec<AddedConditioning> = added.into_iter().flatten().collect();
        assert!(added.is_empty() || added.len() == n_parts, "all parts are of one model");
        let added = (!added.is_empty()).then(|| AddedConditioning {
            sizes: added.iter().flat_map(|part| part.sizes.iter().copied()).collect(),
            text_embeds: Tensor::cat(added.into_iter().map(|part| part.text_embeds).collect(), 0),
        });
        Self { context: Tensor::cat(contexts, 0), added, guidance_scale }
    }

    /// Some of the samples.
    ///
    /// # Panics
    /// If there are not so many.
    #[must_use]
    pub fn narrow(&self, start: usize, n_samples: usize) -> Self {
        let added = self.added.as_ref().map(|added| AddedConditioning {
            text_embeds: added.text_embeds.clone().narrow(0, start, n_samples),
            sizes: added.sizes[start..start + n_samples].to_vec(),
        });
        Self {
            context: self.context.clone().narrow(0, start, n_samples),
            added,
            guidance_scale: self.guidance_scale,
        }
    }

    /// With prompt embeddings in the element type in which a network computes. What is added to the embedding of the
    /// timestep stays in f32, as that does.
    #[must_use]
    pub fn cast(self, dtype: DType) -> Self {
        Self { context: self.context.cast(dtype), ..self }
    }
}

impl UnetConfig {
    /// Whether a UNet or ControlNet of this config can take a conditioning.
    ///
    /// # Errors
    /// [`ConditioningError`] tells the first thing that does not fit.
    pub fn check_conditioning(&self, conditioning: &Conditioning) -> Result<(), ConditioningError> {
        let [n_prompts, _, found] = conditioning.context.dims();
        let expected = self.context_dim;
        if found != expected {
            return Err(ConditioningError::ContextDim { expected, found });
        }
        let (config, added) = match (&self.added, &conditioning.added) {
            (Some(config), Some(added)) => (config, added),
            (None, None) => return Ok(()),
            (Some(_), None) => return Err(ConditioningError::AddedMissing),
            (None, Some(_)) => return Err(ConditioningError::AddedUnexpected),
        };
        let ([n_pooled, found], n_sizes) = (added.text_embeds.dims(), added.sizes.len());
        if n_pooled != n_prompts || n_sizes != n_prompts {
            return Err(ConditioningError::BatchSize { n_prompts, n_pooled, n_sizes });
        }
        let expected = config.pooled_dim;
        if found != expected {
            return Err(ConditioningError::PooledDim { expected, found });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditioning(context_dim: usize, added: Option<[usize; 3]>) -> Conditioning {
        let device = Device::flex();
        Conditioning {
            context: Tensor::zeros([2, 3, context_dim], &device),
            added: added.map(|[n_pooled, pooled_dim, n_sizes]| AddedConditioning {
                text_embeds: Tensor::zeros([n_pooled, pooled_dim], &device),
                sizes: vec![MicroConditioning::uncropped(512, 512); n_sizes],
            }),
            guidance_scale: None,
        }
    }

    #[test]
    fn a_conditioning_of_another_model_is_refused() {
        use ConditioningError::{AddedMissing, AddedUnexpected, BatchSize, ContextDim, PooledDim};
        let (sd15, sdxl) = (UnetConfig::sd15(), UnetConfig::sdxl());
        for (config, context_dim, added, expected) in [
            (&sd15, 768, None, Ok(())),
            (&sd15, 1024, None, Err(ContextDim { expected: 768, found: 1024 })),
            (&sd15, 768, Some([2, 1280, 2]), Err(AddedUnexpected)),
            (&sdxl, 2048, Some([2, 1280, 2]), Ok(())),
            (&sdxl, 2048, None, Err(AddedMissing)),
            (&sdxl, 2048, Some([2, 768, 2]), Err(PooledDim { expected: 1280, found: 768 })),
            (&sdxl, 2048, Some([2, 1280, 1]), Err(BatchSize { n_prompts: 2, n_pooled: 2, n_sizes: 1 })),
            (&sdxl, 2048, Some([1, 1280, 2]), Err(BatchSize { n_prompts: 2, n_pooled: 1, n_sizes: 2 })),
        ] {
            assert_eq!(config.check_conditioning(&conditioning(context_dim, added)), expected);
        }
    }

    #[test]
    fn parts_that_are_joined_come_apart_again() {
        let sizes = [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]].map(|[a, b, c, d, e, f]| MicroConditioning {
            original: [a, b],
            crop: [c, d],
            target: [e, f],
        });
        let part = |idx: usize| Conditioning {
            context: Tensor::full([1, 2, 3], sizes[idx].original[0] as f64, &Device::flex()),
            added: Some(AddedConditioning {
                text_embeds: Tensor::full([1, 4], sizes[idx].original[1] as f64, &Device::flex()),
                sizes: vec![sizes[idx]],
            }),
            guidance_scale: None,
        };
        let second = Conditioning::cat(vec![part(0), part(1)]).narrow(1, 1);
        assert_eq!(second.context.into_data(), part(1).context.into_data());
        let (found, expected) = (second.added.unwrap(), part(1).added.unwrap());
        assert_eq!(found.text_embeds.into_data(), expected.text_embeds.into_data());
        assert_eq!(found.sizes[0].numbers(), [7.0, 8.0, 9.0, 10.0, 11.0, 12.0]);
    }
}
