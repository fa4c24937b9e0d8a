//! Validation images: what the ControlNet draws for fixed hints, prompts and noise.
//!
//! Source: diffusers `train_controlnet.py` (0.42), `log_validation`, for the sampler and the defaults.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::prelude::*;
use burn::tensor::TensorData;
use pyrograph_data::random::{self, Purpose};
use pyrograph_data::{
    HintPixels, RgbImage, Sample, Size, Transform, Turn, grid, load_hint_for_inference, png_bytes,
    rgb_from_unit,
};
use pyrograph_pipeline::{
    Bundle, Control, GivenEmbeddings, NoNegative, Request, generate_with, standard_normal,
};
use pyrograph_unet::ControlNet;
use pyrograph_weights::Disk;

use crate::encode::Encoder;
use crate::events::validation_dir;
use crate::group::Ranks;
use crate::plan::{ValidationPair, ValidationPlan};
use crate::stop::Stop;
use crate::{TrainError, TrainPlan};

/// What the pictures of one row have in common.
#[derive(Debug)]
struct Row {
    prompt: String,
    hint: HintPixels,
    /// What a picture would be at best, where that is known.
    target: Option<RgbImage>,
}

impl Row {
    fn of_pair(pair: &ValidationPair) -> Result<Self, TrainError> {
        let hint = load_hint_for_inference(&pair.image, None)
            .map_err(|source| TrainError::ValidationImage { path: pair.image.clone(), source })?;
        Ok(Self { prompt: pair.prompt.clone(), hint, target: None })
    }

    fn of_sample(sample: &Sample, transform: Transform, turn: Turn) -> Result<Self, TrainError> {
        let pixels = transform.load(sample, turn).map_err(TrainError::Data)?;
        let Size { width, height } = pixels.geometry.size;
        let (width, height) = (width.pixels(), height.pixels());
        let target_unit: Vec<f32> = pixels.image_signed.iter().map(|value| value / 2.0 + 0.5).collect();
        Ok(Self {
            prompt: sample.captions.first().cloned().unwrap_or_default(),
            hint: HintPixels { hint_unit: pixels.hint_unit, width, height },
            target: Some(image(&target_unit, width, height)?),
        })
    }
}

/// Draws the validation images. What they need is loaded once, so that a bad file is found before the first step.
#[derive(Debug)]
pub(crate) struct Validator {
    validation: ValidationPlan,
    rows: Vec<Row>,
    seed: u64,
}

/// What a validation needs of its run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Studio<'a> {
    pub(crate) bundle: &'a Bundle,
    pub(crate) encoder: &'a Encoder,
    pub(crate) device: &'a Device,
    pub(crate) disk: &'a dyn Disk,
    pub(crate) stop: &'a Stop,
    /// The pictures are shared out among them.
    pub(crate) ranks: &'a Ranks,
}

impl Validator {
    /// A row for each pair of the plan or, if there is none, for the first evaluation samples.
    pub(crate) fn new(plan: &TrainPlan, samples: &[Sample]) -> Result<Self, TrainError> {
        let validation = plan.validation.clone();
        let rows = if validation.pairs.is_empty() {
            let samples = samples.iter().take(validation.n_samples);
            let turn = Turn { seed: plan.seed, epoch: 0 };
            samples
                .map(|sample| Row::of_sample(sample, plan.data.transform.undrawn(), turn))
                .collect::<Result<_, _>>()?
        } else {
            validation.pairs.iter().map(Row::of_pair).collect::<Result<_, _>>()?
        };
        Ok(Self { validation, rows, seed: plan.seed })
    }

    /// The prompt of each row.
    pub(crate) fn prompts(&self) -> Vec<String> {
        self.rows.iter().map(|row| row.prompt.clone()).collect()
    }

    /// Draws all images and writes them and their grid; returns the grid's path, or `None` if there is no row.
    ///
    /// Each row of the grid is the hint, the target if it is known, then the images. The noise depends on the seed, the
    /// row and the image, not on the step, so grids of different steps can be compared.
    ///
    /// # Errors
    /// [`TrainError::Stopped`] between two denoising steps; [`TrainError::Io`] if a picture cannot be written.
    pub(crate) fn run(
        &self,
        studio: Studio<'_>,
        controlnet: &ControlNet,
        step: u64,
        output_dir: &Path,
    ) -> Result<Option<PathBuf>, TrainError> {
        if self.rows.is_empty() {
            return Ok(None);
        }
        let mut pictures = self.drawn_by_all(studio, &controlnet.valid())?.into_iter();
        let dir = validation_dir(output_dir, step);
        let path = dir.join("grid.png");
        if !studio.ranks.writes() {
            return Ok(Some(path));
        }
        studio.disk.create_dir(&dir).map_err(TrainError::io(&dir))?;
        let mut grid_rows = Vec::with_capacity(self.rows.len());
        for (row_idx, row) in self.rows.iter().enumerate() {
            let hint = image(&row.hint.hint_unit, row.hint.width, row.hint.height)?;
            let mut images = vec![("hint".to_owned(), hint)];
            images.extend(row.target.clone().map(|target| ("target".to_owned(), target)));
            let drawn = pictures.by_ref().take(self.validation.images_per_pair.get()).enumerate();
            images.extend(drawn.map(|(image_idx, drawn)| (format!("image-{image_idx}"), drawn)));
            for (name, image) in &images {
                save(studio.disk, image, &dir.join(format!("pair-{row_idx}-{name}.png")))?;
            }
            grid_rows.push(images.into_iter().map(|(_, image)| image).collect());
        }
        save(studio.disk, &grid(&grid_rows), &path)?;
        Ok(Some(path))
    }

    /// The images of all rows, one after another, each drawn by one of the ranks.
    fn drawn_by_all(&self, studio: Studio<'_>, controlnet: &ControlNet) -> Result<Vec<RgbImage>, TrainError> {
        let n_images = self.validation.images_per_pair.get();
        let places = 0..self.rows.len() * n_images;
        let mut own = Vec::new();
        for place in places.clone().filter(|&place| studio.ranks.is_mine(place)) {
            own.extend(self.draw(studio, controlnet, place / n_images, place % n_images)?.into_raw());
        }
        let mut of_ranks = studio.ranks.gather_bytes(own)?;
        let take = |place: usize| {
            let HintPixels { width, height, .. } = self.rows[place / n_images].hint;
            let of_rank = &mut of_ranks[place % studio.ranks.share().n_ranks];
            let rest = of_rank.split_off(3 * width as usize * height as usize);
            let pixels = std::mem::replace(of_rank, rest);
            RgbImage::from_raw(width, height, pixels).expect("as many bytes as were split off")
        };
        Ok(places.map(take).collect())
    }

    fn draw(
        &self,
        Studio { bundle, encoder, device, stop, .. }: Studio<'_>,
        controlnet: &ControlNet,
        row_idx: usize,
        image_idx: usize,
    ) -> Result<RgbImage, TrainError> {
        let Row { prompt, hint: HintPixels { hint_unit, width, height }, .. } = &self.rows[row_idx];
        let factor = bundle.vae_config.pixels_per_latent();
        let (rows, columns) = (*height as usize, *width as usize);
        let key = format!("pair {row_idx} image {image_idx}");
        let mut rng = random::rng(self.seed, 0, &key, Purpose::Validation);
        let latents = standard_normal(
            [1, bundle.unet_config.in_channels, rows / factor, columns / factor],
            &mut rng,
            device,
        );
        let hint = Tensor::from_data(TensorData::new(hint_unit.clone(), [1, 3, rows, columns]), device);
        let embeddings = GivenEmbeddings {
            positive: encoder.embeddings(bundle, prompt)?,
            negative: match bundle.no_negative {
                NoNegative::EmptyPrompt => Some(encoder.embeddings(bundle, "")?),
                NoNegative::Zeros => None,
            },
        };
        let request = Request {
            embeddings: Some(embeddings),
            controls: vec![Control::new(controlnet, hint)],
            steps: self.validation.inference_steps.get().into(),
            guidance_scale: self.validation.guidance_scale,
            seeds: vec![self.seed],
            latents: Some(latents),
            ..Request::new(vec![prompt.clone()], [rows, columns])
        };
        let picture = generate_with(bundle, &request, &mut |_| match stop.is_requested() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        });
        let picture = picture.map_err(TrainError::Pipeline)?.ok_or(TrainError::Stopped)?;
        let pixels = picture.try_into_vec_as::<f32>().expect("the device hands out f32");
        image(&pixels, *width, *height)
    }
}

fn image(pixels_unit: &[f32], width: u32, height: u32) -> Result<RgbImage, TrainError> {
    rgb_from_unit(pixels_unit, width, height).map_err(TrainError::Data)
}

fn save(disk: &dyn Disk, image: &RgbImage, path: &Path) -> Result<(), TrainError> {
    let write = || disk.create(path)?.write_all(&png_bytes(image));
    write().map_err(TrainError::io(path))
}
