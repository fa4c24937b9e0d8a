//! From prompts to pictures, without a ControlNet.

use anyhow::Result;
use burn::prelude::*;
use pyrograph_data::RgbImage;
use pyrograph_data::random::{self, Purpose};
use pyrograph_diffusion::{Ddim, DdimConfig};
use pyrograph_pipeline::{TinyBase, standard_normal};
use pyrograph_text::{ClipTokenizer, encode_prompts};
use pyrograph_vae::AutoencoderKl;

use crate::denoiser::Denoiser;
use crate::pixels::from_signed;
use crate::scene::SIDE;

const N_STEPS: usize = 20;
const GUIDANCE_SCALE: f64 = 3.0;

/// Pictures drawn at once.
const BATCH: usize = 8;

/// A complete model on a plain device.
pub(crate) struct Artist<'a> {
    pub(crate) vae: &'a AutoencoderKl,
    pub(crate) tokenizer: &'a ClipTokenizer,
    pub(crate) denoiser: &'a Denoiser,
    pub(crate) device: &'a Device,
}

impl Artist<'_> {
    /// One picture for each prompt, each from its own noise.
    pub(crate) fn draw(&self, prompts: &[String], seed: u64) -> Result<Vec<RgbImage>> {
        let mut pictures = Vec::with_capacity(prompts.len());
        for (batch_idx, batch) in prompts.chunks(BATCH).enumerate() {
            let mut rng = random::rng(seed, batch_idx as u64, "sheet", Purpose::Validation);
            let prompts: Vec<&str> = batch.iter().map(String::as_str).collect();
            let side = SIDE as usize / 8;
            let latents = standard_normal([batch.len(), 4, side, side], &mut rng, self.device);
            let latents = self.denoise(latents, &prompts)?;
            pictures.extend(from_signed(self.vae.decode(self.vae.unscale(latents)))?);
        }
        Ok(pictures)
    }

    /// DDIM with classifier-free guidance: the empty prompts' half of the batch comes first.
    fn denoise(&self, mut latents: Tensor<4>, prompts: &[&str]) -> Result<Tensor<4>> {
        let n_pictures = prompts.len();
        let both: Vec<&str> = std::iter::repeat_n("", n_pictures).chain(prompts.iter().copied()).collect();
        let text = encode_prompts(self.tokenizer, &self.denoiser.text_encoder, &both, self.device);
        let conditioning = text.last_hidden_state.into();
        let sampler = Ddim::new(&DdimConfig::try_from(&TinyBase::scheduler())?, N_STEPS)?;
        for (step_idx, timestep) in sampler.timesteps().iter().enumerate() {
            let pair = latents.clone().repeat_dim(0, 2);
            #[expect(clippy::cast_possible_truncation, reason = "a whole number below 2^24")]
            let times = vec![*timestep as f32; 2 * n_pictures];
            let prediction = self.denoiser.unet.forward(pair, &times, &conditioning, None);
            let empty = prediction.clone().narrow(0, 0, n_pictures);
            let prompted = prediction.narrow(0, n_pictures, n_pictures);
            let guided = empty.clone() + (prompted - empty) * GUIDANCE_SCALE;
            latents = sampler.step(guided, step_idx, latents, None);
        }
        Ok(latents)
    }
}
