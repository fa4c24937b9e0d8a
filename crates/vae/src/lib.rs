//! AutoencoderKL as a Burn module, equal to diffusers' own.
//!
//! A model is made in two steps: its `config.json` ([`VaeJson`]) becomes a typed config ([`VaeConfig`]), and that
//! makes the module. Weights are loaded by whoever composes the models; [`RENAMES`] and [`LEGACY_ALIASES`] say how a
//! module's paths are spelt in diffusers' files.

mod autoencoder;
mod blocks;
mod config;
mod decoder;
mod diffusers;
mod encoder;
mod error;
mod gaussian;
mod keys;
mod ldm;
mod tiling;

pub use autoencoder::AutoencoderKl;
pub use config::VaeConfig;
pub use decoder::Decoder;
pub use diffusers::VaeJson;
pub use encoder::Encoder;
pub use error::ConfigError;
pub use gaussian::DiagonalGaussian;
pub use keys::{LEGACY_ALIASES, RENAMES};
pub use tiling::{Passes, Tiling};
