//! Image-to-image, inpainting and several ControlNets against diffusers' ControlNet pipelines.

use burn::prelude::*;
use burn::tensor::TensorData;
use pyrograph::backend;
use pyrograph_data::load_hint_for_inference;
use pyrograph_pipeline::{
    Bundle, BundleOptions, Control, ControlMode, MicroConditioning, Originals, Request, SamplerKind,
    generate, load_controlnet,
};
use serde::Deserialize;

use super::cases::{Case, cases};

#[derive(Deserialize)]
struct Settings {
    runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    name: String,
    task: Task,
    strength: f64,
    steps: usize,
    guidance_scale: f64,
    guess: bool,
    inpainting_unet: bool,
    prompts: Vec<String>,
    negative_prompts: Option<Vec<String>>,
    sampler: SamplerKind,
    controls: Vec<ControlOf>,
    sizes: Option<[[usize; 2]; 3]>,
    negative_sizes: Option<[[usize; 2]; 3]>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Task {
    Noise,
    Images,
    Masked,
}

#[derive(Deserialize)]
struct ControlOf {
    net: usize,
    scale: f64,
    start: f64,
    end: f64,
}

#[test]
fn every_task_draws_the_pictures_that_diffusers_draws() {
    for case in cases("tasks") {
        check(&case);
    }
}

fn check(case: &Case) {
    let device = backend::device();
    let base = case.dir.join("base");
    let unet = case.dir.join("inpainting-unet");
    let bundle = Bundle::open(&base, &BundleOptions::default(), &device).expect("a base folder");
    let options = BundleOptions { unet: Some(&unet), ..BundleOptions::default() };
    let inpainting_bundle = Bundle::open(&base, &options, &device).expect("a base folder");
    let nets = ["controlnet-0", "controlnet-1"].map(|folder| {
        let (net, config) = load_controlnet(&case.dir.join(folder), &device).expect("a ControlNet folder");
        bundle.check_controlnet(&config).expect("a ControlNet for the base");
        inpainting_bundle.check_controlnet(&config).expect("a ControlNet for the inpainting base");
        net
    });
    let load = |file: &str| -> Tensor<4> {
        let pixels = load_hint_for_inference(&case.dir.join(file), None).expect("a picture");
        let size = [1, 3, pixels.height as usize, pixels.width as usize];
        Tensor::from_data(TensorData::new(pixels.hint_unit, size), &device)
    };
    let (image, masks, hints) =
        (load("image.png"), load("mask.png").narrow(1, 0, 1), ["hint-0.png", "hint-1.png"].map(load));
    let [.., height, width] = image.dims();
    let latents = case.tensors("latents.safetensors").float::<4>("latents", &device);
    let expected = case.tensors("expected.safetensors");
    let settings: Settings = case.json("case.json");
    for run in settings.runs {
        let n_pictures = run.prompts.len();
        let originals = (!matches!(run.task, Task::Noise)).then(|| Originals {
            images: image.clone(),
            masks: matches!(run.task, Task::Masked).then(|| masks.clone()),
            strength: run.strength,
        });
        let controls = run.controls.iter().map(|control| Control {
            controlnet: &nets[control.net],
            hints: hints[control.net].clone().repeat_dim(0, n_pictures),
            scale: control.scale,
            start: control.start,
            end: control.end,
        });
        let sizes = |sizes: [[usize; 2]; 3]| MicroConditioning {
            original: sizes[0],
            crop: sizes[1],
            target: sizes[2],
        };
        let request = Request {
            negative_prompts: run.negative_prompts,
            controls: controls.collect(),
            mode: if run.guess { ControlMode::Guess } else { ControlMode::Balanced },
            n_steps: run.steps,
            guidance_scale: run.guidance_scale,
            sampler: run.sampler,
            latents: Some(latents.clone().narrow(0, 0, n_pictures)),
            originals,
            sizes: run.sizes.map(sizes),
            negative_sizes: run.negative_sizes.map(sizes),
            ..Request::new(run.prompts, [height, width])
        };
        let bundle = if run.inpainting_unet { &inpainting_bundle } else { &bundle };
        let pictures = generate(bundle, &request).expect("pictures");
        let difference =
            (pictures - expected.float::<4>(&run.name, &device)).abs().max().into_scalar::<f32>();
        assert!(difference <= 1.0 / 255.0, "{} {}: off by {difference:.2e}", case.name, run.name);
    }
}
