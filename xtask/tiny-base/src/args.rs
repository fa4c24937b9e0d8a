//! The command line, and the recipes it makes.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::scene::Scenes;
use crate::training::{Pace, Recipe};

/// Which part of the work to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Train the autoencoder.
    Vae,
    /// Train UNet and text encoder; the autoencoder must be there.
    Unet,
    /// Train UNet and text encoder for a second, gentler cycle.
    Polish,
    /// Train the autoencoder's decoder further; the autoencoder must be there.
    Decoder,
    /// Write the model, as far as it is trained, in f16 and measure it.
    Export,
    /// All of these, each continued from where it was.
    All,
}

/// Trains the tiny base model from nothing, on generated pictures: first the autoencoder, then UNet and text encoder
/// in two cycles, then the decoder alone.
///
/// Everything is in the folder `--out`; the same command continues a run that was stopped or killed, with the same
/// result as if it had not been.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask tiny-base")]
pub(crate) struct Args {
    /// Where training is kept.
    #[arg(long, default_value = "target/tiny-base")]
    pub(crate) out: PathBuf,
    /// Where the model is written at the end; what is here is inside the program.
    #[arg(long, default_value = "crates/pipeline/tiny-base")]
    pub(crate) base: PathBuf,
    /// What to do.
    #[arg(long, value_enum, default_value_t = Part::All)]
    pub(crate) stage: Part,
    /// Decides everything that is drawn by chance.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Steps of the autoencoder.
    #[arg(long, default_value_t = 7000)]
    pub(crate) steps_vae: u64,
    /// Steps of UNet and text encoder.
    #[arg(long, default_value_t = 1600)]
    pub(crate) steps_unet: u64,
    /// Steps of their second cycle.
    #[arg(long, default_value_t = 1200)]
    pub(crate) steps_polish: u64,
    /// Steps of the decoder alone.
    #[arg(long, default_value_t = 1200)]
    pub(crate) steps_decoder: u64,
    /// Different pictures for UNet and text encoder, encoded once.
    #[arg(long, default_value_t = 8192)]
    pub(crate) pictures: u64,
    /// What there is to draw.
    #[arg(long, value_enum, default_value_t = Scenes::All)]
    pub(crate) scenes: Scenes,
    /// Stop each stage after so many steps; the same command continues.
    #[arg(long)]
    pub(crate) stop_after: Option<u64>,
    /// Steps between two lines of progress.
    #[arg(long, default_value_t = 20)]
    pub(crate) log_every: u64,
    /// Steps between two measurements and sheets of samples; best a multiple of --log-every.
    #[arg(long, default_value_t = 200)]
    pub(crate) measure_every: u64,
    /// Steps between two checkpoints.
    #[arg(long, default_value_t = 200)]
    pub(crate) save_every: u64,
}

impl Args {
    pub(crate) fn does(&self, part: Part) -> bool {
        self.stage == part || self.stage == Part::All
    }

    pub(crate) fn pace(&self) -> Pace {
        Pace {
            log_every: self.log_every,
            measure_every: self.measure_every,
            save_every: self.save_every,
            stop_after: self.stop_after,
        }
    }

    /// 12 dB after 600 steps, 22 after 2,000 and 27 after 4,000 where the recipe was found.
    pub(crate) fn vae_recipe(&self) -> Recipe {
        Recipe {
            seed: self.seed,
            scenes: self.scenes,
            n_steps: self.steps_vae,
            batch_size: 8,
            lr: 8e-4,
            warmup_steps: 50,
            n_pictures: 0,
        }
    }

    /// The figure's colour, a small part of the picture, is learned last: 79 % after the first cycle.
    pub(crate) fn polish_recipe(&self) -> Recipe {
        Recipe { n_steps: self.steps_polish, lr: 1.5e-3, ..self.unet_recipe() }
    }

    pub(crate) fn decoder_recipe(&self) -> Recipe {
        Recipe { n_steps: self.steps_decoder, batch_size: 4, lr: 5e-4, ..self.vae_recipe() }
    }

    /// 88 % and 100 % of the colours right (figure, ground) after 1,300 steps on circles where it was found.
    pub(crate) fn unet_recipe(&self) -> Recipe {
        Recipe {
            seed: self.seed,
            scenes: self.scenes,
            n_steps: self.steps_unet,
            batch_size: 32,
            lr: 2e-3,
            warmup_steps: 100,
            n_pictures: self.pictures,
        }
    }
}
