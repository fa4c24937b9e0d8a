//! `pyrograph init-base`.

use std::path::Path;

use pyrograph_data::colors::COLORS;
use pyrograph_pipeline::{BasePreset, init_base as write};

use crate::args::{InitBaseArgs, Preset};
use crate::backend;

pub(crate) fn init_base(args: &InitBaseArgs) -> anyhow::Result<()> {
    let Preset::Tiny = args.preset;
    tiny(args.seed, &args.out)?;
    tracing::info!("the base model is in {}", args.out.display());
    Ok(())
}

/// Writes the tiny base with a tokenizer to which each word of the circle captions is one token.
pub(crate) fn tiny(seed: u64, out: &Path) -> anyhow::Result<()> {
    let mut words = vec!["circle", "with", "background"];
    words.extend(COLORS.iter().flat_map(|(name, _)| name.split(' ')));
    write(BasePreset::Tiny, &words, seed, out, &backend::device())?;
    Ok(())
}
