//! The UNet with its ControlNets and classifier-free guidance.

use burn::prelude::*;
use burn::tensor::DType;
use pyrograph_unet::{Conditioning, ControlMode, MicroConditioning, Residuals};

use super::request::{Control, GivenEmbeddings, Request};
use crate::bundle::{Bundle, NoNegative};
use crate::error::PipelineError;
use crate::prompts::{Prompt, PromptEmbeddings};

/// Predicts for a batch of pictures. With guidance the negative prompts' half of the UNet's batch comes first.
pub(super) struct Denoiser<'a> {
    bundle: &'a Bundle,
    nets: Vec<Net<'a>>,
    mode: ControlMode,
    /// Of the prompts.
    positive: Conditioning,
    /// Of the negative prompts, then of the prompts; `None` without guidance.
    both: Option<Conditioning>,
    /// What an inpainting UNet is given beside the latents: mask and latents of what is kept.
    extra: Option<Tensor<4>>,
}

/// A ControlNet with what does not change from step to step.
struct Net<'a> {
    control: &'a Control<'a>,
    hint_embedding: Tensor<4>,
    residual_scales: Vec<f64>,
}

/// Where in the steps a prediction is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) call: usize,
    /// Of the way without an early end.
    pub(super) n_calls: usize,
    pub(super) timestep: f32,
}

impl<'a> Denoiser<'a> {
    pub(super) fn new(
        bundle: &'a Bundle,
        request: &'a Request<'_>,
        extra: Option<Tensor<4>>,
        device: &Device,
    ) -> Result<Self, PipelineError> {
        let compute = bundle.precision.compute;
        let [height, width] = request.size;
        let sizes = request.sizes.unwrap_or_else(|| MicroConditioning::uncropped(height, width));
        // A distilled model is told the guidance scale instead.
        let is_told = bundle.unet_config.guidance_dim.is_some();
        let is_guided = request.guidance_scale > 1.0 && !is_told;
        let (positive, negative) = embeddings(bundle, request, is_guided, device)?;
        let with_sizes = |embeddings: PromptEmbeddings, sizes: MicroConditioning| {
            let conditioning = embeddings.with_sizes(vec![sizes; request.n_pictures()]).cast(compute);
            Conditioning { guidance_scale: is_told.then_some(request.guidance_scale), ..conditioning }
        };
        let positive = with_sizes(positive, sizes);
        let both = negative.map(|negative| {
            let negative = with_sizes(negative, request.negative_sizes.unwrap_or(sizes));
            Conditioning::cat(vec![negative, positive.clone()])
        });

        let mode = match request.controls.first() {
            Some(first) => first.controlnet.effective_mode(request.mode),
            None => request.mode,
        };
        let nets = request.controls.iter().map(|control| Net {
            control,
            hint_embedding: control.controlnet.embed_hint(control.hints.clone().cast(compute)),
            residual_scales: control.controlnet.residual_scales(mode, control.scale),
        });
        Ok(Self {
            bundle,
            nets: nets.collect(),
            mode,
            positive,
            both,
            extra: extra.map(|extra| extra.cast(compute)),
        })
    }

    /// The prediction for noisy latents, in f32.
    pub(super) fn predict(&self, latents: Tensor<4>, moment: Moment, guidance_scale: f64) -> Tensor<4> {
        let [n_pictures, ..] = latents.dims();
        let latents = latents.cast(self.bundle.precision.compute);
        let Some(both) = self.both.as_ref().filter(|_| guidance_scale > 1.0) else {
            let residuals = self.residuals(&latents, moment, &self.positive);
            return self.controlled(latents, moment, &self.positive, residuals);
        };
        let doubled = latents.clone().repeat_dim(0, 2);
        let residuals = match self.mode {
            ControlMode::Balanced => self.residuals(&doubled, moment, both),
            // The hint alone decides: only the prompt's half is controlled.
            ControlMode::Guess => self.residuals(&latents, moment, &self.positive).map(after_zeros),
        };
        let prediction = self.controlled(doubled, moment, both, residuals);
        let negative = prediction.clone().narrow(0, 0, n_pictures);
        let positive = prediction.narrow(0, n_pictures, n_pictures);
        negative.clone() + (positive - negative) * guidance_scale
    }

    fn controlled(
        &self,
        latents: Tensor<4>,
        moment: Moment,
        conditioning: &Conditioning,
        residuals: Option<Residuals>,
    ) -> Tensor<4> {
        let [n_samples, ..] = latents.dims();
        let input = match &self.extra {
            Some(extra) => Tensor::cat(vec![latents, repeated(extra, n_samples)], 1),
            None => latents,
        };
        let timesteps = vec![moment.timestep; n_samples];
        self.bundle.unet.forward(input, &timesteps, conditioning, residuals).cast(DType::F32)
    }

    /// The sum of what the ControlNets that act now add to latents that are the pictures' once, or twice in a row.
    fn residuals(
        &self,
        latents: &Tensor<4>,
        moment: Moment,
        conditioning: &Conditioning,
    ) -> Option<Residuals> {
        let [n_samples, ..] = latents.dims();
        let acting = self.nets.iter().filter(|net| net.control.acts_at(moment.call, moment.n_calls));
        let residuals = acting.map(|net| {
            let hint_embedding = repeated(&net.hint_embedding, n_samples);
            let timesteps = vec![moment.timestep; n_samples];
            net.control
                .controlnet
                .forward_embedded(latents.clone(), &timesteps, conditioning, hint_embedding)
                .scaled(&net.residual_scales)
        });
        residuals.reduce(Residuals::plus)
    }
}

/// The embeddings of the prompts and, if there is to be guidance, of the negative ones.
fn embeddings(
    bundle: &Bundle,
    request: &Request<'_>,
    is_guided: bool,
    device: &Device,
) -> Result<(PromptEmbeddings, Option<PromptEmbeddings>), PipelineError> {
    if let Some(GivenEmbeddings { positive, negative }) = request.embeddings.clone() {
        let negative = is_guided.then(|| negative.unwrap_or_else(|| positive.zeros_like()));
        return Ok((positive, negative));
    }
    let empty = || vec![Prompt::default(); request.n_pictures()];
    let negative = match (&request.negative_prompts, bundle.no_negative) {
        _ if !is_guided => Vec::new(),
        (Some(prompts), _) => prompts.clone(),
        (None, NoNegative::EmptyPrompt) => empty(),
        (None, NoNegative::Zeros) => Vec::new(),
    };
    let (positive, negative) =
        bundle.text.encode_prompts(&request.prompts, &negative, request.encoding, device)?;
    let negative = negative.or_else(|| is_guided.then(|| positive.zeros_like()));
    Ok((positive, negative))
}

/// What there is for each picture, for as many samples: as often as the batch holds the pictures.
fn repeated(tensor: &Tensor<4>, n_samples: usize) -> Tensor<4> {
    let [n_pictures, ..] = tensor.dims();
    tensor.clone().repeat_dim(0, n_samples / n_pictures)
}

/// Residuals that are zero for the first half of a batch of twice the size.
fn after_zeros(residuals: Residuals) -> Residuals {
    let pad = |residual: Tensor<4>| Tensor::cat(vec![residual.zeros_like(), residual], 0);
    Residuals { down: residuals.down.into_iter().map(pad).collect(), mid: pad(residuals.mid) }
}
