//! Whole pictures against `StableDiffusionControlNetPipeline` and `StableDiffusionXLControlNetPipeline`.

use burn::prelude::*;
use burn::tensor::{DType, TensorData};
use pyrograph::backend;
use pyrograph_data::load_hint_for_inference;
use pyrograph_pipeline::{
    BasePreset, Bundle, BundleOptions, Control, ControlMode, Precision, Request, SamplerKind, generate,
    init_base, load_controlnet,
};
use pyrograph_weights::Pickles;
use serde::Deserialize;

use super::cases::{Case, cases};
use crate::tolerance;

#[derive(Deserialize)]
struct Settings {
    prompt: String,
    steps: usize,
    runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    name: String,
    sampler: SamplerKind,
    guidance_scale: f64,
    conditioning_scale: f64,
    guess: bool,
    negative_prompt: Option<String>,
}

/// Every combination of 16 bits for weights and for activations.
fn halves() -> impl Iterator<Item = Precision> {
    [DType::BF16, DType::F16]
        .into_iter()
        .flat_map(|weights| [DType::F32, weights].map(|compute| Precision { weights, compute }))
}

/// The largest difference of two pictures, and the mean one.
fn apart(left: Tensor<4>, right: Tensor<4>) -> [f32; 2] {
    let difference = (left - right).abs();
    [difference.clone().max(), difference.mean()].map(Tensor::into_scalar)
}

#[test]
fn pictures_in_half_precision_are_near_those_in_f32() {
    /// That of diffusers' own tests of pipelines in fp16 (0.42), which look at the largest difference.
    const HALF: f32 = 5e-2;
    /// With 8 bits bf16 moves an edge by a part of a pixel, so that only the mean tells.
    const BF16_ON_AVERAGE: f32 = 5e-3;
    let device = backend::device();
    let dir = tempfile::tempdir().expect("a folder");
    init_base(BasePreset::Tiny, &dir.path().join("base"), &device).expect("the tiny base");
    let draw = |precision: Precision| {
        let options = BundleOptions { precision, ..BundleOptions::default() };
        let bundle = Bundle::open(&dir.path().join("base"), &options, &device).expect("the tiny base");
        let prompts = ["red circle with blue background"];
        let request =
            Request { steps: 10.into(), sampler: SamplerKind::Ddim, ..Request::new(prompts, [128, 128]) };
        generate(&bundle, &request).expect("a picture")
    };
    let whole = draw(Precision::F32);
    for precision in halves() {
        let [largest, mean] = apart(draw(precision), whole.clone());
        let is_near = if precision.weights == DType::F16 { largest < HALF } else { mean < BF16_ON_AVERAGE };
        // The file of this base is in fp16, so that its weights lose nothing.
        let has_effect = mean > 0.0 || precision == Precision { weights: DType::F16, compute: DType::F32 };
        assert!(has_effect && is_near, "{precision:?}: off by {mean}, up to {largest}");
    }
}

#[test]
fn networks_of_random_weights_draw_alike_in_half_precision_with_a_controlnet() {
    // These exaggerate every difference, and guidance does, too.
    const ON_AVERAGE: f32 = 2e-2;
    let device = backend::device();
    for case in cases("generate") {
        let settings: Settings = case.json("case.json");
        let hint = load_hint_for_inference(&case.dir.join("hint.png"), None).expect("a hint");
        let (height, width) = (hint.height as usize, hint.width as usize);
        let hint = Tensor::<4>::from_data(TensorData::new(hint.hint_unit, [1, 3, height, width]), &device);
        let latents = case.tensors("latents.safetensors").float::<4>("latents", &device);
        let draw = |precision: Precision| {
            let options = BundleOptions { precision, ..BundleOptions::default() };
            let bundle = Bundle::open(&case.dir.join("base"), &options, &device).expect("a base folder");
            let (controlnet, _) = load_controlnet(&case.dir.join("controlnet"), Pickles::Refused, &device)
                .expect("a ControlNet folder");
            let controlnet = precision.of_controlnet(controlnet);
            let request = Request {
                controls: vec![Control::new(&controlnet, hint.clone())],
                steps: settings.steps.into(),
                guidance_scale: 1.0,
                sampler: SamplerKind::Ddim,
                latents: Some(latents.clone()),
                ..Request::new(vec![settings.prompt.clone()], [height, width])
            };
            generate(&bundle, &request).expect("a picture")
        };
        let whole = draw(Precision::F32);
        for precision in halves() {
            let [largest, mean] = apart(draw(precision), whole.clone());
            let what = format!("{}: {precision:?}", case.name);
            assert!(0.0 < mean && mean < ON_AVERAGE, "{what}: off by {mean}, up to {largest}");
        }
    }
}

#[test]
fn generate_draws_the_picture_that_diffusers_draws() {
    let device = backend::device();
    for case in cases("generate") {
        let settings: Settings = case.json("case.json");
        let bundle =
            Bundle::open(&case.dir.join("base"), &BundleOptions::default(), &device).expect("a base folder");
        let (controlnet, _) = load_controlnet(&case.dir.join("controlnet"), Pickles::Refused, &device)
            .expect("a ControlNet folder");
        let hint = load_hint_for_inference(&case.dir.join("hint.png"), None).expect("a hint");
        let (height, width) = (hint.height as usize, hint.width as usize);
        let hint = Tensor::<4>::from_data(TensorData::new(hint.hint_unit, [1, 3, height, width]), &device);
        let latents = case.tensors("latents.safetensors").float("latents", &device);
        let expected = case.tensors("expected.safetensors");
        for run in settings.runs {
            let control =
                Control { scale: run.conditioning_scale, ..Control::new(&controlnet, hint.clone()) };
            let request = Request {
                negative_prompts: run.negative_prompt.map(|prompt| vec![prompt.into()]),
                controls: vec![control],
                mode: if run.guess { ControlMode::Guess } else { ControlMode::Balanced },
                steps: settings.steps.into(),
                guidance_scale: run.guidance_scale,
                sampler: run.sampler,
                latents: Some(latents.clone()),
                ..Request::new(vec![settings.prompt.clone()], [height, width])
            };
            let picture = generate(&bundle, &request).expect("a picture");
            let difference =
                (picture - expected.float::<4>(&run.name, &device)).abs().mean().into_scalar::<f32>();
            assert!(
                difference <= 1.0 / 255.0,
                "{} {}: mean difference {difference:.2e}",
                case.name,
                run.name
            );
        }
    }
}

#[test]
fn pictures_of_a_batch_are_those_drawn_alone() {
    for case in cases("generate") {
        check_batch(&case);
    }
}

fn check_batch(case: &Case) {
    let device = backend::device();
    let bundle =
        Bundle::open(&case.dir.join("base"), &BundleOptions::default(), &device).expect("a base folder");
    let (controlnet, _) = load_controlnet(&case.dir.join("controlnet"), Pickles::Refused, &device)
        .expect("a ControlNet folder");
    let hint = load_hint_for_inference(&case.dir.join("hint.png"), None).expect("a hint");
    let (height, width) = (hint.height as usize, hint.width as usize);
    let hint = Tensor::<4>::from_data(TensorData::new(hint.hint_unit, [1, 3, height, width]), &device);
    let latents = case.tensors("latents.safetensors").float::<4>("latents", &device);
    let draw = |prompts: &[&str], hints: Vec<Tensor<4>>, latents: Vec<Tensor<4>>, mode| {
        let prompts: Vec<String> = prompts.iter().map(|prompt| (*prompt).to_owned()).collect();
        let request = Request {
            negative_prompts: Some(vec!["blue".into(); prompts.len()]),
            controls: vec![Control::new(&controlnet, Tensor::cat(hints, 0))],
            mode,
            steps: 3.into(),
            guidance_scale: 4.0,
            latents: Some(Tensor::cat(latents, 0)),
            ..Request::new(prompts, [height, width])
        };
        generate(&bundle, &request).expect("pictures")
    };
    for mode in [ControlMode::Balanced, ControlMode::Guess] {
        let (other_hint, other_latents) = (hint.clone() * 0.5, latents.clone().flip([3]));
        let first = draw(&["red"], vec![hint.clone()], vec![latents.clone()], mode);
        let second = draw(&["green circle"], vec![other_hint.clone()], vec![other_latents.clone()], mode);
        let apart = (first.clone() - second.clone()).abs().max().into_scalar::<f32>();
        assert!(apart > 0.01, "{mode:?}: the two pictures differ by {apart:.2e} only");
        let both = draw(
            &["red", "green circle"],
            vec![hint.clone(), other_hint],
            vec![latents.clone(), other_latents],
            mode,
        );
        let difference = (both - Tensor::cat(vec![first, second], 0)).abs().max().into_scalar::<f32>();
        assert!(f64::from(difference) < 10.0 * tolerance::BATCHING, "{mode:?}: {difference:.2e}");
    }
}
