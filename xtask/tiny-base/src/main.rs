//! `cargo xtask tiny-base`: trains the embedded base model from nothing, on generated pictures.

#![expect(clippy::print_stdout, reason = "a tool of the developer; what it prints is its result")]

mod args;
mod denoiser;
mod draw;
mod export;
mod pixels;
mod scene;
mod training;
mod vae;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use burn::module::Module;
use burn::prelude::*;
use clap::Parser;
use pyrograph_diffusion::{NoiseSchedule, ScheduleConfig};
use pyrograph_pipeline::{TinyBase, TinyModels};
use pyrograph_text::ClipTokenizer;

use crate::args::{Args, Part};
use crate::denoiser::{Denoiser, DenoiserStage, latent_means};
use crate::training::{Recipe, Training};
use crate::vae::{DecoderStage, VaeStage};

fn main() -> Result<()> {
    let args = Args::parse();
    let work = Work { base: TinyBase::new(&scene::words()), device: pyrograph::backend::device(), args };
    if work.args.does(Part::Vae) && !work.train_vae()? {
        return Ok(());
    }
    if work.args.does(Part::Unet)
        && !work.train_denoiser(work.open_denoiser()?, work.args.unet_recipe(), 0)?
    {
        return Ok(());
    }
    if work.args.does(Part::Polish)
        && !work.train_denoiser(work.open_polish()?, work.args.polish_recipe(), work.args.steps_unet)?
    {
        return Ok(());
    }
    if work.args.does(Part::Decoder) && !work.train_decoder()? {
        return Ok(());
    }
    if work.args.does(Part::Export) {
        work.export()?;
    }
    Ok(())
}

/// The parts of the work; each says whether the next may begin.
struct Work {
    args: Args,
    base: TinyBase,
    device: Device,
}

impl Work {
    fn folder(&self, name: &str) -> PathBuf {
        self.args.out.join(name)
    }

    fn train_vae(&self) -> Result<bool> {
        let recipe = self.args.vae_recipe();
        let autodiff = self.device.clone().autodiff();
        let fresh = vae::with_identity_blocks(self.base.vae.init(&autodiff));
        let mut training = Training::open(&self.folder("vae-training"), recipe, fresh, &autodiff)?;
        if training.is_complete() && self.folder("vae").join("config.json").is_file() {
            return Ok(true);
        }
        training.run(&VaeStage { recipe, device: self.device.clone() }, &self.args.pace())?;
        if training.is_complete() {
            vae::finish(&training.model, &self.base.vae, &recipe, &self.folder("vae"), &self.device)?;
        }
        Ok(training.is_complete())
    }

    /// The first cycle of UNet and text encoder.
    fn open_denoiser(&self) -> Result<Training<Denoiser>> {
        let autodiff = self.device.clone().autodiff();
        let fresh = Denoiser::new(&self.base, &autodiff);
        Training::open(&self.folder("unet-training"), self.args.unet_recipe(), fresh, &autodiff)
    }

    /// The second cycle, which goes on from the end of the first.
    fn open_polish(&self) -> Result<Training<Denoiser>> {
        let first = self.open_denoiser()?;
        ensure!(
            first.is_complete(),
            "UNet and text encoder are not trained yet; do so first, with the same flags"
        );
        let autodiff = self.device.clone().autodiff();
        Training::open(&self.folder("unet-polish"), self.args.polish_recipe(), first.model, &autodiff)
    }

    /// Trains one of the cycles, which begins after `first_step` steps of another.
    fn train_denoiser(
        &self,
        mut training: Training<Denoiser>,
        recipe: Recipe,
        first_step: u64,
    ) -> Result<bool> {
        if training.is_complete() {
            return Ok(true);
        }
        let (vae, _) = vae::open(&self.folder("vae"), &self.device)?;
        let tokenizer_dir = self.folder("tokenizer");
        fs::create_dir_all(&tokenizer_dir).with_context(|| tokenizer_dir.display().to_string())?;
        self.base.write_tokenizer(&tokenizer_dir)?;
        let stage = DenoiserStage {
            means: latent_means(&vae, &recipe, &self.folder("vae"), &self.device)?,
            tokenizer: ClipTokenizer::from_dir(&tokenizer_dir)?,
            schedule: NoiseSchedule::new(&ScheduleConfig::try_from(&TinyBase::scheduler())?)?,
            samples: self.folder(&format!("samples-from-{first_step}")),
            device: self.device.clone(),
            first_step,
            recipe,
            vae,
        };
        training.run(&stage, &self.args.pace())?;
        Ok(training.is_complete())
    }

    fn train_decoder(&self) -> Result<bool> {
        let recipe = self.args.decoder_recipe();
        let autodiff = self.device.clone().autodiff();
        let (fresh, config) = vae::open(&self.folder("vae"), &autodiff)?;
        let mut training = Training::open(&self.folder("decoder-training"), recipe, fresh, &autodiff)?;
        let (vae, _) = vae::open(&self.folder("vae"), &self.device)?;
        training.run(&DecoderStage { recipe, vae, device: self.device.clone() }, &self.args.pace())?;
        if training.is_complete() {
            vae::write(&training.model.valid(), &config, &self.folder("vae-tuned"))?;
        }
        Ok(training.is_complete())
    }

    fn export(&self) -> Result<()> {
        let recipe = self.args.unet_recipe();
        let training = self.open_polish()?;
        println!("export: UNet and text encoder after {} steps of the second cycle", training.step());
        let Denoiser { unet, text_encoder } = training.model.valid();
        let (vae, vae_config) = vae::open(&self.folder("vae-tuned"), &self.device)?;
        let base = TinyBase { vae: vae_config, ..self.base.clone() };
        let models = TinyModels { unet: &unet, vae: &vae, text_encoder: &text_encoder };
        export::write(&base, models, &self.args.base)?;
        export::measure(&self.args.base, &recipe, &self.device)
    }
}
