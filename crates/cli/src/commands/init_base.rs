//! `pyrograph init-base`.

use pyrograph_data::colors::COLORS;
use pyrograph_pipeline::{BasePreset, init_base as write};

use crate::args::{InitBaseArgs, Preset};
use crate::backend;

pub(crate) fn init_base(args: &InitBaseArgs) -> anyhow::Result<()> {
    // Each word of the captions of `data circles` is one token.
    let mut words = vec!["circle", "with", "background"];
    words.extend(COLORS.iter().flat_map(|(name, _)| name.split(' ')));
    let preset = match args.preset {
        Preset::Tiny => BasePreset::Tiny,
        Preset::TinyRandom => BasePreset::TinyRandom { words: &words, seed: args.seed },
    };
    write(preset, &args.out, &backend::open()?)?;
    tracing::info!("the base model is in {}", args.out.display());
    Ok(())
}
