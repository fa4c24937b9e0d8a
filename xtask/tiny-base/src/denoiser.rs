//! The second stage: UNet and text encoder, trained together on the autoencoder's latents.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burn::module::Module;
use burn::prelude::*;
use burn::tensor::TensorData;
use pyrograph_data::random::{self, Purpose};
use pyrograph_data::{grid, save_png};
use pyrograph_diffusion::NoiseSchedule;
use pyrograph_diffusion::mse;
use pyrograph_pipeline::{TinyBase, standard_normal};
use pyrograph_text::{ClipTextModel, ClipTokenizer, encode_prompts};
use pyrograph_unet::Unet;
use pyrograph_vae::AutoencoderKl;
use pyrograph_weights::{SystemDisk, load_tensors, save_tensors};

use crate::draw::Artist;
use crate::pixels::to_signed;
use crate::scene::{HELD_OUT, picture};
use crate::training::{Recipe, Stage};
use crate::vae::LATENT_NOISE;

/// One prompt in so many is replaced by the empty one, which guidance needs.
const EMPTY_PROMPT_EVERY: usize = 10;

/// Prompts of a sheet of samples.
const N_SAMPLES: u64 = 4;

/// Pictures encoded at once.
const ENCODE_BATCH: usize = 8;

/// What is trained together.
#[derive(Module, Debug)]
pub(crate) struct Denoiser {
    pub(crate) unet: Unet,
    pub(crate) text_encoder: ClipTextModel,
}

impl Denoiser {
    pub(crate) fn new(base: &TinyBase, device: &Device) -> Self {
        Self { unet: base.unet.init(device), text_encoder: base.text.init(device) }
    }
}

/// The training of the denoiser.
pub(crate) struct DenoiserStage {
    pub(crate) recipe: Recipe,
    pub(crate) vae: AutoencoderKl,
    pub(crate) tokenizer: ClipTokenizer,
    pub(crate) schedule: NoiseSchedule,
    /// The means of all pictures' latents, unscaled, `[pictures, channels, height, width]`.
    pub(crate) means: Tensor<4>,
    /// Steps made before this stage: its own draw other noise.
    pub(crate) first_step: u64,
    /// Where sheets of samples go.
    pub(crate) samples: PathBuf,
    pub(crate) device: Device,
}

/// The pictures of a step, how noisy each is, and what is said about it.
#[derive(Debug, PartialEq)]
struct Batch {
    picture_idxs: Vec<u64>,
    timesteps: Vec<usize>,
    prompts: Vec<String>,
}

impl Stage for DenoiserStage {
    type Model = Denoiser;
    const NAME: &'static str = "unet";

    fn loss(&self, model: &Denoiser, step: u64) -> Tensor<1> {
        let step = self.first_step + step;
        let Batch { picture_idxs, timesteps, prompts } = draw_batch(&self.recipe, step, &self.schedule);
        let means: Vec<Tensor<4>> =
            picture_idxs.iter().map(|&index| self.means.clone().narrow(0, row(index), 1)).collect();
        let means = Tensor::cat(means, 0);
        let normal = |purpose| {
            let mut rng = random::rng(self.recipe.seed, step, "unet", purpose);
            standard_normal(means.dims(), &mut rng, &self.device)
        };
        let latents = self.vae.scale(means.clone() + normal(Purpose::Latent) * LATENT_NOISE);
        let noise = normal(Purpose::Noise);
        let noisy_latents = self.schedule.add_noise(latents.clone(), noise.clone(), &timesteps);

        let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
        let autodiff = self.device.clone().autodiff();
        let text = encode_prompts(&self.tokenizer, &model.text_encoder, &prompts, &autodiff);
        let conditioning = text.last_hidden_state.into();
        let prediction = model.unet.forward(noisy_latents, &times(&timesteps), &conditioning, None);
        mse(prediction, self.schedule.target(latents, noise, &timesteps))
    }

    fn measure(&self, model: &Denoiser, step: u64) -> Result<String> {
        let model = model.valid();
        let Recipe { seed, scenes, .. } = self.recipe;
        let scenes: Vec<_> = (0..N_SAMPLES).map(|index| scenes.scene(seed, HELD_OUT + index)).collect();
        let prompts: Vec<String> = scenes.iter().map(|scene| scene.caption()).collect();
        let artist =
            Artist { vae: &self.vae, tokenizer: &self.tokenizer, denoiser: &model, device: &self.device };
        let drawn = artist.draw(&prompts, seed)?;
        fs::create_dir_all(&self.samples).with_context(|| self.samples.display().to_string())?;
        let path = self.samples.join(format!("step-{step}.png"));
        save_png(&grid(&[scenes.iter().map(picture).collect(), drawn]), &path)?;
        Ok(format!("{}: {}", path.display(), prompts.join(", ")))
    }
}

/// Timesteps as the network takes them.
#[expect(clippy::cast_precision_loss, reason = "timesteps are below 2^24")]
fn times(timesteps: &[usize]) -> Vec<f32> {
    timesteps.iter().map(|&timestep| timestep as f32).collect()
}

fn row(index: u64) -> usize {
    usize::try_from(index).expect("all pictures are in memory")
}

/// Pictures are drawn with replacement, timesteps uniformly.
fn draw_batch(recipe: &Recipe, step: u64, schedule: &NoiseSchedule) -> Batch {
    let draw = |purpose, bound: usize| -> Vec<usize> {
        let mut rng = random::rng(recipe.seed, step, "unet", purpose);
        (0..recipe.batch_size).map(|_| random::below(&mut rng, bound)).collect()
    };
    let picture_idxs: Vec<u64> =
        draw(Purpose::Order, row(recipe.n_pictures)).into_iter().map(|index| index as u64).collect();
    let caption = |(&index, drop): (&u64, usize)| match drop {
        0 => String::new(),
        _ => recipe.scenes.scene(recipe.seed, index).caption(),
    };
    let prompts = picture_idxs.iter().zip(draw(Purpose::Caption, EMPTY_PROMPT_EVERY)).map(caption).collect();
    Batch { picture_idxs, timesteps: draw(Purpose::Timestep, schedule.n_train_timesteps()), prompts }
}

/// The means of the latents of the recipe's pictures, kept in the autoencoder's folder for the next time.
///
/// # Shapes
/// - output: `[pictures, channels, height, width]`
pub(crate) fn latent_means(
    vae: &AutoencoderKl,
    recipe: &Recipe,
    vae_dir: &Path,
    device: &Device,
) -> Result<Tensor<4>> {
    const NAME: &str = "means";
    let Recipe { seed, scenes, n_pictures, .. } = recipe;
    let path = vae_dir.join(format!("latents-{scenes:?}-{seed}-{n_pictures}.safetensors"));
    if path.is_file() {
        let data = load_tensors(&path)?.remove(NAME).context("the latents' file has no means")?;
        return Ok(Tensor::from_data(data, device));
    }
    let n_pictures = row(recipe.n_pictures);
    println!("unet: encoding {n_pictures} pictures");
    let mut values: Vec<f32> = Vec::new();
    let mut shape = [0; 4];
    let pictures: Vec<u64> = (0..recipe.n_pictures).collect();
    for batch in pictures.chunks(ENCODE_BATCH) {
        let drawn: Vec<_> = batch.iter().map(|&index| recipe.scenes.picture(recipe.seed, index)).collect();
        let means = vae.encode(to_signed(&drawn, device)).mode();
        shape = means.dims();
        values.extend(means.try_into_vec_as::<f32>()?);
    }
    shape[0] = n_pictures;
    let data = TensorData::new(values, shape);
    save_tensors(&path, &BTreeMap::from([(NAME.to_owned(), data.clone())]), &BTreeMap::new(), &SystemDisk)?;
    Ok(Tensor::from_data(data, device))
}

#[cfg(test)]
mod tests {
    use pyrograph_diffusion::ScheduleConfig;

    use super::*;
    use crate::scene::Scenes;

    const RECIPE: Recipe = Recipe {
        seed: 1,
        scenes: Scenes::All,
        n_steps: 9,
        batch_size: 400,
        lr: 0.1,
        warmup_steps: 0,
        n_pictures: 50,
    };

    #[test]
    fn a_batch_is_a_function_of_its_step_and_one_prompt_in_ten_is_empty() {
        let config = ScheduleConfig::try_from(&TinyBase::scheduler()).unwrap();
        let schedule = NoiseSchedule::new(&config).unwrap();
        let batch = draw_batch(&RECIPE, 3, &schedule);
        assert_eq!(batch, draw_batch(&RECIPE, 3, &schedule));
        assert_ne!(batch, draw_batch(&RECIPE, 4, &schedule));
        let empty = batch.prompts.iter().filter(|prompt| prompt.is_empty()).count();
        assert!((20..=60).contains(&empty), "{empty}");
        assert!(batch.picture_idxs.iter().all(|&index| index < 50));
        assert!(batch.timesteps.iter().any(|&timestep| timestep > 950));
    }
}
