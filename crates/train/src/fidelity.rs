//! Control fidelity: how well the pictures that a ControlNet draws keep to their hints, as numbers.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use burn::module::Module;
use burn::prelude::*;
use burn::tensor::TensorData;
use pyrograph_data::random::{self, Purpose};
use pyrograph_data::{
    Dataset, EdgeFidelity, HintKind, HintMaker, Interpolation, OutlineFidelity, PixelSample, RgbImage,
    Sample, Side, Transform, Turn, edge_fidelity, grid, outline_fidelity, rgb_from_unit,
};
use pyrograph_pipeline::{Bundle, Control, Request, SamplerKind, generate, standard_normal};
use pyrograph_unet::ControlNet;
use serde::Serialize;

use crate::TrainError;

/// Rows of [`Fidelity::grid`].
const N_GRID_ROWS: usize = 8;

/// What is drawn, and what it is compared with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FidelityOptions {
    /// What the hints show.
    pub kind: HintKind,
    /// Pictures to draw, one for each of the first samples; of a smaller data set one for each sample.
    pub n_samples: NonZeroUsize,
    /// Pictures that are drawn together.
    pub batch_size: NonZeroUsize,
    /// Denoising steps.
    pub n_steps: NonZeroUsize,
    /// Classifier-free guidance; 1 or less turns it off.
    pub guidance_scale: f64,
    /// Factor on the ControlNet's residuals; with 0 the pictures are those of the base model alone.
    pub conditioning_scale: f64,
    /// The sampler.
    pub sampler: SamplerKind,
    /// Draws the first latents of each sample.
    pub seed: u64,
    /// Width and height of the pictures.
    pub side: Side,
    /// How the hints are made of the targets; else they are read.
    pub hint: Option<HintMaker>,
}

/// How well the pictures of some samples keep to their hints.
#[derive(Debug, Clone, Serialize)]
pub struct Fidelity {
    /// Pictures drawn.
    pub n_samples: usize,
    /// Means over the pictures.
    #[serde(flatten)]
    pub scores: FidelityScores,
    /// The first few samples, a row for each: hint, target, drawn picture.
    #[serde(skip)]
    pub grid: RgbImage,
}

/// Means over pictures, by what their hints show.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FidelityScores {
    /// Of [`OutlineFidelity`].
    Outline {
        /// Intersection over union of the drawn figure with the asked one, from 0 to 1.
        mean_iou: f64,
        /// Distance of the figure's colour from the target's in RGB, from 0 to 441.
        figure_color_error: f64,
        /// The same of the ground.
        ground_color_error: f64,
        /// The share of pictures in which both colours are right, from 0 to 1.
        color_accuracy: f64,
    },
    /// Of [`EdgeFidelity`], each from 0 to 1.
    Canny {
        /// The share of a picture's edges that was asked for.
        precision: f64,
        /// The share of the asked edges that was drawn.
        recall: f64,
        /// The harmonic mean of both in each picture.
        f1: f64,
    },
}

/// Draws a picture for the hint and the first caption of each sample and compares it with the hint.
///
/// The first latents depend on the seed and the sample's id alone, so two ControlNets are compared on equal noise.
/// `on_progress` is told how many pictures are drawn, and of how many, and can end it.
///
/// The ControlNet must fit the model: see [`Bundle::check_controlnet`].
///
/// # Errors
/// [`TrainError`] if an image cannot be read or the scheduler cannot make so many steps, [`TrainError::Stopped`] if
/// `on_progress` broke it off.
pub fn measure_fidelity(
    bundle: &Bundle,
    controlnet: &ControlNet,
    dataset: &Dataset,
    options: &FidelityOptions,
    device: &Device,
    on_progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Fidelity, TrainError> {
    let controlnet = controlnet.valid();
    let n_samples = options.n_samples.get().min(dataset.samples().len());
    let samples = &dataset.samples()[..n_samples];
    let mut scores = Scores::new(options.kind);
    let mut grid_rows = Vec::new();
    let mut n_drawn = 0;
    let mut tell = |n_drawn| match on_progress(n_drawn, n_samples) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(TrainError::Stopped),
    };
    tell(n_drawn)?;
    for batch in samples.chunks(options.batch_size.get()) {
        let pixels = load(batch, options)?;
        let pictures = draw(bundle, &controlnet, batch, &pixels, options, device)?;
        for (pixels, drawn) in pixels.iter().zip(pictures) {
            let hint = picture(&pixels.hint_unit, options.side)?;
            let target_unit: Vec<f32> = pixels.image_signed.iter().map(|value| value / 2.0 + 0.5).collect();
            let target = picture(&target_unit, options.side)?;
            scores.add(&drawn, &hint, &target);
            if grid_rows.len() < N_GRID_ROWS {
                grid_rows.push(vec![hint, target, drawn]);
            }
        }
        n_drawn += batch.len();
        tell(n_drawn)?;
    }
    Ok(Fidelity { n_samples, scores: scores.means(), grid: grid(&grid_rows) })
}

fn load(samples: &[Sample], options: &FidelityOptions) -> Result<Vec<PixelSample>, TrainError> {
    let transform =
        Transform { hint: options.hint, ..Transform::new(options.side, Interpolation::default()) };
    let turn = Turn { seed: options.seed, epoch: 0 };
    samples
        .iter()
        .map(|sample| transform.load(sample, turn))
        .collect::<Result<_, _>>()
        .map_err(TrainError::Data)
}

/// A picture for each sample.
fn draw(
    bundle: &Bundle,
    controlnet: &ControlNet,
    samples: &[Sample],
    pixels: &[PixelSample],
    options: &FidelityOptions,
    device: &Device,
) -> Result<Vec<RgbImage>, TrainError> {
    let side = options.side.get();
    let hints: Vec<f32> = pixels.iter().flat_map(|pixels| pixels.hint_unit.iter().copied()).collect();
    let latent_side = side / bundle.vae_config.pixels_per_latent();
    let latents = samples.iter().map(|sample| {
        let mut rng = random::rng(options.seed, 0, &sample.id, Purpose::Validation);
        standard_normal([1, bundle.unet_config.in_channels, latent_side, latent_side], &mut rng, device)
    });
    let prompts = samples.iter().map(|sample| sample.captions.first().cloned().unwrap_or_default());
    let hints = Tensor::from_data(TensorData::new(hints, [samples.len(), 3, side, side]), device);
    let request = Request {
        controls: vec![Control { scale: options.conditioning_scale, ..Control::new(controlnet, hints) }],
        steps: options.n_steps.get().into(),
        guidance_scale: options.guidance_scale,
        sampler: options.sampler,
        seeds: (0..).take(samples.len()).map(|idx: u64| options.seed.wrapping_add(idx)).collect(),
        latents: Some(Tensor::cat(latents.collect(), 0)),
        ..Request::new(prompts, [side, side])
    };
    let pictures = generate(bundle, &request).map_err(TrainError::Pipeline)?;
    let pictures = pictures.try_into_vec_as::<f32>().expect("the device hands out f32");
    pictures.chunks(3 * side * side).map(|pixels| picture(pixels, options.side)).collect()
}

fn picture(pixels_unit: &[f32], side: Side) -> Result<RgbImage, TrainError> {
    rgb_from_unit(pixels_unit, side.pixels(), side.pixels()).map_err(TrainError::Data)
}

/// What is known of each picture.
enum Scores {
    Outline(Vec<OutlineFidelity>),
    Canny(Vec<EdgeFidelity>),
}

impl Scores {
    fn new(kind: HintKind) -> Self {
        match kind {
            HintKind::Outline => Self::Outline(Vec::new()),
            HintKind::Canny => Self::Canny(Vec::new()),
        }
    }

    fn add(&mut self, drawn: &RgbImage, hint: &RgbImage, target: &RgbImage) {
        match self {
            Self::Outline(scores) => scores.push(outline_fidelity(drawn, hint, target)),
            Self::Canny(scores) => scores.push(edge_fidelity(drawn, hint)),
        }
    }

    fn means(&self) -> FidelityScores {
        match self {
            Self::Outline(scores) => {
                let both_right =
                    |score: &OutlineFidelity| score.colors_right.figure && score.colors_right.ground;
                FidelityScores::Outline {
                    mean_iou: mean(scores, |score| score.iou),
                    figure_color_error: mean(scores, |score| score.figure_color_error),
                    ground_color_error: mean(scores, |score| score.ground_color_error),
                    color_accuracy: mean(scores, |score| f64::from(u8::from(both_right(score)))),
                }
            }
            Self::Canny(scores) => FidelityScores::Canny {
                precision: mean(scores, |score| score.precision),
                recall: mean(scores, |score| score.recall),
                f1: mean(scores, |score| score.f1),
            },
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of pictures are far below 2^53")]
fn mean<S>(scores: &[S], of: impl Fn(&S) -> f64) -> f64 {
    scores.iter().map(of).sum::<f64>() / scores.len() as f64
}

#[cfg(test)]
mod tests {
    use pyrograph_data::ColorsRight;

    use super::*;

    #[test]
    fn a_picture_counts_as_right_if_both_its_colors_are() {
        let score = |iou, figure, ground| OutlineFidelity {
            iou,
            figure_color_error: 10.0 * iou,
            ground_color_error: 0.0,
            colors_right: ColorsRight { figure, ground },
        };
        let scores = Scores::Outline(vec![
            score(1.0, true, true),
            score(0.5, true, false),
            score(0.5, false, true),
            score(0.0, false, false),
        ]);
        let expected = FidelityScores::Outline {
            mean_iou: 0.5,
            figure_color_error: 5.0,
            ground_color_error: 0.0,
            color_accuracy: 0.25,
        };
        assert_eq!(scores.means(), expected);
    }

    #[test]
    fn scores_are_told_by_name_in_one_flat_object() {
        let scores = FidelityScores::Canny { precision: 0.5, recall: 1.0, f1: 0.6 };
        let fidelity = Fidelity { n_samples: 3, scores, grid: RgbImage::new(1, 1) };
        let json = serde_json::to_string(&fidelity).unwrap();
        assert_eq!(json, r#"{"n_samples":3,"kind":"canny","precision":0.5,"recall":1.0,"f1":0.6}"#);
    }
}
