//! The last stage: the model in diffusers' layout in f16, and how good it is.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use burn::prelude::*;
use pyrograph_data::{Palette, colors_right};
use pyrograph_pipeline::{Bundle, BundleOptions, TextEncoder, TinyBase, TinyModels};
use pyrograph_weights::SaveDtype;

use crate::denoiser::Denoiser;
use crate::draw::Artist;
use crate::scene::HELD_OUT;
use crate::training::Recipe;
use crate::vae::reconstruction_psnr;

/// Prompts that the colours are measured on.
const N_PROMPTS: u64 = 200;

/// Held-out scenes before this one have been looked at in training.
const FIRST_PROMPT: u64 = HELD_OUT + 1000;

/// Writes the model in f16 and prints the sizes of its files.
pub(crate) fn write(base: &TinyBase, models: TinyModels<'_>, out: &Path) -> Result<()> {
    base.write(models, SaveDtype::F16, out)?;
    let bytes = list_files(out, out)?;
    println!("{bytes:>9} bytes in {}", out.display());
    Ok(())
}

/// Prints the size of every file below a folder; returns their sum.
fn list_files(dir: &Path, root: &Path) -> Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            total += list_files(&path, root)?;
            continue;
        }
        let bytes = fs::metadata(&path)?.len();
        println!("{bytes:>9} bytes  {}", path.strip_prefix(root)?.display());
        total += bytes;
    }
    Ok(total)
}

/// Reads the folder back and prints how good what is in it is.
pub(crate) fn measure(folder: &Path, recipe: &Recipe, device: &Device) -> Result<()> {
    let bundle = Bundle::open(folder, &BundleOptions::default(), device)?;
    println!("quality: PSNR {:.2} dB", reconstruction_psnr(&bundle.vae, recipe, device)?);
    let Bundle { vae, unet, text, .. } = bundle;
    let TextEncoder { tokenizer, model: text_encoder, .. } = text.first;
    let text_encoder = text_encoder.expect("nobody has freed it");
    let denoiser = Denoiser { unet, text_encoder };
    let artist = Artist { vae: &vae, tokenizer: &tokenizer, denoiser: &denoiser, device };

    let scenes =
        (FIRST_PROMPT..FIRST_PROMPT + N_PROMPTS).map(|index| recipe.scenes.scene(recipe.seed, index));
    let scenes: Vec<_> = scenes.collect();
    let prompts: Vec<String> = scenes.iter().map(|scene| scene.caption()).collect();
    let drawn = artist.draw(&prompts, recipe.seed)?;
    let right: Vec<_> = drawn
        .iter()
        .zip(&scenes)
        .map(|(picture, scene)| colors_right(picture, scene, Palette::Distinct))
        .collect();
    let count = |is_right: &dyn Fn(&pyrograph_data::ColorsRight) -> bool| {
        right.iter().filter(|right| is_right(right)).count()
    };
    println!(
        "quality: of {N_PROMPTS} prompts, the figure's colour is right in {}, the ground's in {}, both in {}",
        count(&|right| right.figure),
        count(&|right| right.ground),
        count(&|right| right.figure && right.ground),
    );
    Ok(())
}
