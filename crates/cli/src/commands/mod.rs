//! What each verb does.

mod bench;
mod checkpoint;
mod convert;
mod data;
mod demo;
mod eval;
mod generate;
mod init_base;
mod inspect;
mod plan;
mod push;
mod replay;
mod train;
mod train_names;

use pyrograph_data::{DataError, Side};
use pyrograph_pipeline::Bundle;

pub(crate) use bench::bench;
pub(crate) use checkpoint::checkpoint;
pub(crate) use convert::convert;
pub(crate) use data::data;
pub(crate) use demo::demo;
pub(crate) use eval::eval;
pub(crate) use generate::generate;
pub(crate) use init_base::init_base;
pub(crate) use inspect::inspect;
pub(crate) use plan::plan;
pub(crate) use push::push;
pub(crate) use replay::replay;
pub(crate) use train::train;

/// Latents of a UNet whose config does not say for which it was trained: those of Stable Diffusion 1.x.
const DEFAULT_SAMPLE_SIZE: usize = 64;

/// The pictures that the base model was trained for.
fn trained_side(bundle: &Bundle) -> Result<Side, DataError> {
    let sample_size = bundle.unet_config.sample_size.unwrap_or(DEFAULT_SAMPLE_SIZE);
    Side::try_from(sample_size * bundle.vae_config.pixels_per_latent())
}
