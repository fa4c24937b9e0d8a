//! Whole pictures against `StableDiffusionControlNetPipeline`.

use burn::prelude::*;
use burn::tensor::TensorData;
use pyrograph::backend;
use pyrograph_data::load_hint_for_inference;
use pyrograph_pipeline::{
    Bundle, BundleOptions, ControlMode, Request, SamplerKind, generate, load_controlnet,
};
use serde::Deserialize;

use super::cases::cases;

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
}

#[test]
fn generate_draws_the_picture_that_diffusers_draws() {
    let device = backend::device();
    for case in cases("generate") {
        let settings: Settings = case.json("case.json");
        let bundle =
            Bundle::open(&case.dir.join("base"), &BundleOptions::default(), &device).expect("a base folder");
        let (controlnet, _) =
            load_controlnet(&case.dir.join("controlnet"), &device).expect("a ControlNet folder");
        let hint = load_hint_for_inference(&case.dir.join("hint.png"), None).expect("a hint");
        let size = [1, 3, hint.height as usize, hint.width as usize];
        let latents = case.tensors("latents.safetensors").float("latents", &device);
        let expected = case.tensors("expected.safetensors");
        for run in settings.runs {
            let request = Request {
                prompt: settings.prompt.clone(),
                negative_prompt: String::new(),
                hint: Tensor::from_data(TensorData::new(hint.hint_unit.clone(), size), &device),
                n_steps: settings.steps,
                guidance_scale: run.guidance_scale,
                conditioning_scale: run.conditioning_scale,
                mode: if run.guess { ControlMode::Guess } else { ControlMode::Balanced },
                sampler: run.sampler,
                seed: 0,
                latents: Some(latents.clone()),
            };
            let picture = generate(&bundle, &controlnet, &request).expect("a picture");
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
