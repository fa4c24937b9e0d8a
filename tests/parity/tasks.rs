//! Image-to-image, inpainting and several ControlNets against diffusers' ControlNet pipelines.

use std::ops::ControlFlow;

use burn::prelude::*;
use burn::tensor::TensorData;
use pyrograph::backend;
use pyrograph_data::load_hint_for_inference;
use pyrograph_pipeline::{
    Bundle, BundleOptions, Control, ControlMode, MicroConditioning, Originals, Prompt, Request, SamplerKind,
    StepEnd, Steps, denoise, generate, generate_with, load_controlnet, standard_normal,
};
use pyrograph_unet::ControlNet;
use pyrograph_weights::Pickles;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use super::cases::{Case, cases};
use crate::tolerance;

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
    unet: String,
    timesteps: Option<Vec<usize>>,
    denoising: [f64; 2],
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
    let bundles = ["base/unet", "inpainting-unet", "distilled-unet"].map(|unet| {
        let unet = case.dir.join(unet);
        let options = BundleOptions { unet: Some(&unet), ..BundleOptions::default() };
        Bundle::open(&base, &options, &device).expect("a base folder")
    });
    let nets = ["controlnet-0", "controlnet-1"].map(|folder| {
        let (net, config) =
            load_controlnet(&case.dir.join(folder), Pickles::Refused, &device).expect("a ControlNet folder");
        for bundle in &bundles {
            bundle.check_controlnet(&config).expect("a ControlNet for the base");
        }
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
    let mut wrong = Vec::new();
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
            negative_prompts: run
                .negative_prompts
                .map(|prompts| prompts.into_iter().map(Prompt::from).collect()),
            controls: controls.collect(),
            mode: if run.guess { ControlMode::Guess } else { ControlMode::Balanced },
            steps: run.timesteps.map_or(Steps::Count(run.steps), Steps::At),
            denoising: run.denoising[0]..run.denoising[1],
            guidance_scale: run.guidance_scale,
            sampler: run.sampler,
            latents: Some(latents.clone().narrow(0, 0, n_pictures)),
            originals,
            sizes: run.sizes.map(sizes),
            negative_sizes: run.negative_sizes.map(sizes),
            ..Request::new(run.prompts, [height, width])
        };
        let [base, inpainting, distilled] = &bundles;
        let bundle = match run.unet.as_str() {
            "unet" => base,
            "inpainting-unet" => inpainting,
            "distilled-unet" => distilled,
            other => panic!("no UNet `{other}`"),
        };
        let pictures = generate(bundle, &request).expect("pictures");
        let off = apart(&pictures, &expected.float::<4>(&run.name, &device));
        if f64::from(off) > tolerance::PICTURE {
            wrong.push(format!("{} off by {off:.2e}", run.name));
        }
    }
    assert!(wrong.is_empty(), "{}: {wrong:#?}", case.name);
}

/// What the tests below draw with.
struct Studio {
    bundle: Bundle,
    controlnet: ControlNet,
    hint: Tensor<4>,
}

impl Studio {
    fn open(family: &str) -> Self {
        let device = backend::device();
        let dir = crate::fixtures().join("parity/tasks").join(family);
        let bundle =
            Bundle::open(&dir.join("base"), &BundleOptions::default(), &device).expect("a base folder");
        let (controlnet, _) = load_controlnet(&dir.join("controlnet-0"), Pickles::Refused, &device)
            .expect("a ControlNet folder");
        let hint = load_hint_for_inference(&dir.join("hint-0.png"), None).expect("a hint");
        let size = [1, 3, hint.height as usize, hint.width as usize];
        let hint = Tensor::from_data(TensorData::new(hint.hint_unit, size), &device);
        Self { bundle, controlnet, hint }
    }

    fn request(&self) -> Request<'_> {
        let [.., height, width] = self.hint.dims();
        Request {
            controls: vec![Control::new(&self.controlnet, self.hint.clone())],
            steps: 4.into(),
            guidance_scale: 6.0,
            seeds: vec![3],
            ..Request::new(vec!["red circle".to_owned()], [height, width])
        }
    }

    fn draw(&self, request: &Request<'_>) -> Tensor<4> {
        generate(&self.bundle, request).expect("a picture")
    }
}

fn apart(left: &Tensor<4>, right: &Tensor<4>) -> f32 {
    (left.clone() - right.clone()).abs().max().into_scalar::<f32>()
}

#[test]
fn latents_come_out_as_they_go_in() {
    for family in ["sd1-like", "sdxl-like"] {
        let studio = Studio::open(family);
        let whole = studio.draw(&studio.request());
        // Drawn by hand: the same seed's noise in, the clean latents out, and decoded.
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let [.., height, width] = studio.hint.dims();
        let noise = standard_normal([1, 4, height / 8, width / 8], &mut rng, &studio.bundle.device());
        let request = Request { latents: Some(noise), seeds: vec![99], ..studio.request() };
        let go_on = &mut |_: StepEnd<'_>| ControlFlow::Continue(());
        let latents = denoise(&studio.bundle, &request, go_on).expect("latents").expect("nobody stops it");
        assert_eq!(apart(&studio.bundle.decode(latents), &whole), 0.0, "{family}");
    }
}

#[test]
fn what_is_called_after_each_step_sees_it_and_can_change_it() {
    let studio = Studio::open("sdxl-like");
    let request = studio.request();
    let mut seen = Vec::new();
    let zeroed = generate_with(&studio.bundle, &request, &mut |end| {
        seen.push((end.call, end.n_calls, end.timestep));
        if end.call + 1 == end.n_calls {
            *end.latents = end.latents.zeros_like();
        }
        ControlFlow::Continue(())
    });
    let timesteps: Vec<f64> = seen.iter().map(|(_, _, timestep)| *timestep).collect();
    assert_eq!(
        seen.iter().map(|(call, n_calls, _)| (*call, *n_calls)).collect::<Vec<_>>(),
        [(0, 4), (1, 4), (2, 4), (3, 4)]
    );
    assert!(timesteps.is_sorted_by(|left, right| left > right), "{timesteps:?}");
    let [.., height, width] = studio.hint.dims();
    let nothing = Tensor::zeros([1, 4, height / 8, width / 8], &studio.bundle.device());
    assert_eq!(apart(&zeroed.expect("a picture").expect("a picture"), &studio.bundle.decode(nothing)), 0.0);

    // Guidance that ends early saves work and draws another picture; stopping draws none.
    let early = generate_with(&studio.bundle, &request, &mut |end| {
        *end.guidance_scale = 1.0;
        ControlFlow::Continue(())
    });
    let (early, whole) = (early.expect("a picture").expect("a picture"), studio.draw(&request));
    assert!(apart(&early, &whole) > 1e-3);
    let mut in_part = Vec::new();
    let part = Request { denoising: 0.0..0.5, ..studio.request() };
    let latents = denoise(&studio.bundle, &part, &mut |end| {
        in_part.push((end.call, end.n_calls));
        ControlFlow::Continue(())
    });
    assert!(latents.expect("no error").is_some());
    assert_eq!(in_part, [(0, 2), (1, 2)]);
    let stopped = generate_with(&studio.bundle, &request, &mut |_| ControlFlow::Break(()));
    assert!(stopped.expect("no error").is_none());
}

#[test]
fn a_control_net_that_adds_nothing_leaves_the_guess_mode_without_effect() {
    let studio = Studio::open("sdxl-like");
    let silent = |mode| {
        let control = Control { scale: 0.0, ..Control::new(&studio.controlnet, studio.hint.clone()) };
        studio.draw(&Request { controls: vec![control], mode, ..studio.request() })
    };
    let uncontrolled = studio.draw(&Request { controls: Vec::new(), ..studio.request() });
    assert!(apart(&silent(ControlMode::Guess), &uncontrolled) < 1e-5);
    assert!(apart(&silent(ControlMode::Balanced), &uncontrolled) < 1e-5);
}

#[test]
fn windows_of_guidance_draw_other_pictures_than_the_whole() {
    let studio = Studio::open("sd1-like");
    let drawn = |windows: &[(f64, f64)]| {
        let control = |&(start, end): &(f64, f64)| Control {
            start,
            end,
            scale: 10.0,
            ..Control::new(&studio.controlnet, studio.hint.clone())
        };
        studio.draw(&Request { controls: windows.iter().map(control).collect(), ..studio.request() })
    };
    let (one, two) = (drawn(&[(0.0, 1.0)]), drawn(&[(0.0, 1.0); 2]));
    for window in [(0.1, 0.2), (0.25, 0.75), (0.0, 0.5)] {
        assert!(apart(&drawn(&[window]), &one) > 1e-3, "{window:?}");
    }
    assert!(apart(&drawn(&[(0.1, 0.2), (0.3, 0.7)]), &two) > 1e-3);
    assert!(apart(&drawn(&[(0.4, 0.5), (0.4, 0.8)]), &two) > 1e-3);
}

#[test]
fn negative_sizes_and_the_guidance_scale_change_a_picture_of_sdxl() {
    let studio = Studio::open("sdxl-like");
    let whole = studio.draw(&studio.request());
    let small = MicroConditioning { original: [8, 8], crop: [0, 0], target: [64, 64] };
    let negative = studio.draw(&Request { negative_sizes: Some(small), ..studio.request() });
    assert!(apart(&negative, &whole) > 1e-4);
    // Without guidance there is nothing negative.
    let unguided =
        |negative_sizes| studio.draw(&Request { guidance_scale: 1.0, negative_sizes, ..studio.request() });
    assert_eq!(apart(&unguided(Some(small)), &unguided(None)), 0.0);
    assert!(apart(&unguided(None), &whole) > 1e-3);
}

#[test]
fn every_sampler_draws_with_and_without_karras_sigmas() {
    for family in ["sd1-like", "sdxl-like"] {
        let mut studio = Studio::open(family);
        for karras in [false, true] {
            studio.bundle.scheduler.use_karras_sigmas = Some(karras);
            for sampler in SamplerKind::ALL {
                let picture = studio.draw(&Request { sampler, ..studio.request() });
                assert_eq!(picture.dims(), studio.hint.dims(), "{family} {sampler}");
                assert!(!picture.is_nan().any().into_scalar::<bool>(), "{family} {sampler} {karras}");
            }
        }
    }
}
