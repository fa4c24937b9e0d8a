//! Validation images: what the ControlNet draws for fixed hints, prompts and noise.

use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::prelude::*;
use burn::tensor::TensorData;
use pyrograph_data::random::{self, Purpose};
use pyrograph_data::{HintPixels, RgbImage, grid, load_hint_for_inference, rgb_from_unit, save_png};
use pyrograph_pipeline::{Bundle, ControlMode, Request, SamplerKind, generate, standard_normal};
use pyrograph_unet::ControlNet;

use crate::TrainError;
use crate::events::validation_dir;
use crate::plan::ValidationPlan;

/// Denoising steps of a validation image.
///
/// Source: diffusers `train_controlnet.py` (0.42), `log_validation`; so are the sampler and the guidance.
const N_STEPS: usize = 20;

/// Classifier-free guidance of a validation image.
const GUIDANCE_SCALE: f64 = 7.5;

/// The hints of all pairs, loaded once so that a bad file is found before the first step.
#[derive(Debug)]
pub(crate) struct Validator {
    validation: ValidationPlan,
    hints: Vec<HintPixels>,
    seed: u64,
}

impl Validator {
    pub(crate) fn new(validation: &ValidationPlan, seed: u64) -> Result<Self, TrainError> {
        let load = |path: &Path| {
            load_hint_for_inference(path, None)
                .map_err(|source| TrainError::ValidationImage { path: path.to_owned(), source })
        };
        let hints = validation.pairs.iter().map(|pair| load(&pair.image)).collect::<Result<_, _>>()?;
        Ok(Self { validation: validation.clone(), hints, seed })
    }

    /// Draws all images and writes them and their grid; returns the grid's path, or `None` without pairs.
    ///
    /// Each row of the grid is one pair: the hint, then its images. The noise depends on the seed, the pair and the
    /// image, not on the step, so grids of different steps can be compared.
    pub(crate) fn run(
        &self,
        bundle: &Bundle,
        controlnet: &ControlNet,
        step: u64,
        output_dir: &Path,
        device: &Device,
    ) -> Result<Option<PathBuf>, TrainError> {
        if self.validation.pairs.is_empty() {
            return Ok(None);
        }
        let dir = validation_dir(output_dir, step);
        fs::create_dir_all(&dir).map_err(TrainError::io(&dir))?;
        let controlnet = controlnet.valid();
        let mut rows = Vec::with_capacity(self.hints.len());
        for (pair_idx, hint) in self.hints.iter().enumerate() {
            let hint_image = image(&hint.hint_unit, hint.width, hint.height)?;
            save(&hint_image, &dir.join(format!("pair-{pair_idx}-hint.png")))?;
            let mut row = vec![hint_image];
            for image_idx in 0..self.validation.images_per_pair.get() {
                let drawn = self.draw(bundle, &controlnet, pair_idx, image_idx, device)?;
                save(&drawn, &dir.join(format!("pair-{pair_idx}-image-{image_idx}.png")))?;
                row.push(drawn);
            }
            rows.push(row);
        }
        let path = dir.join("grid.png");
        save(&grid(&rows), &path)?;
        Ok(Some(path))
    }

    fn draw(
        &self,
        bundle: &Bundle,
        controlnet: &ControlNet,
        pair_idx: usize,
        image_idx: usize,
        device: &Device,
    ) -> Result<RgbImage, TrainError> {
        let HintPixels { hint_unit, width, height } = &self.hints[pair_idx];
        let factor = bundle.vae_config.pixels_per_latent();
        let (rows, columns) = (*height as usize, *width as usize);
        let key = format!("pair {pair_idx} image {image_idx}");
        let mut rng = random::rng(self.seed, 0, &key, Purpose::Validation);
        let latents = standard_normal(
            [1, bundle.unet_config.in_channels, rows / factor, columns / factor],
            &mut rng,
            device,
        );
        let request = Request {
            prompts: vec![self.validation.pairs[pair_idx].prompt.clone()],
            negative_prompt: String::new(),
            hints: Tensor::from_data(TensorData::new(hint_unit.clone(), [1, 3, rows, columns]), device),
            n_steps: N_STEPS,
            guidance_scale: GUIDANCE_SCALE,
            conditioning_scale: 1.0,
            mode: ControlMode::Balanced,
            sampler: SamplerKind::UniPc,
            seed: self.seed,
            latents: Some(latents),
        };
        let picture = generate(bundle, controlnet, &request).map_err(TrainError::Pipeline)?;
        let pixels = picture.try_into_vec_as::<f32>().expect("the device hands out f32");
        image(&pixels, *width, *height)
    }
}

fn image(pixels_unit: &[f32], width: u32, height: u32) -> Result<RgbImage, TrainError> {
    rgb_from_unit(pixels_unit, width, height).map_err(TrainError::Data)
}

fn save(image: &RgbImage, path: &Path) -> Result<(), TrainError> {
    save_png(image, path).map_err(TrainError::Data)
}
