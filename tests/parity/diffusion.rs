//! Noise schedules and samplers against diffusers.

use burn::prelude::*;
use pyrograph::backend;
use pyrograph_diffusion::{
    Ddim, DdimConfig, NoiseSchedule, Sampler, SamplerKind, ScheduleConfig, SchedulerJson, UniPcConfig,
    VarianceNoise,
};
use serde::Deserialize;

use super::cases::{Case, Tensors, assert_close, cases};
use crate::tolerance;

/// Reads a file that may hold Python's `-Infinity`, which is not JSON.
fn scheduler_json(case: &Case, file: &str) -> SchedulerJson {
    std::fs::read_to_string(case.dir.join(file)).unwrap().parse().unwrap()
}

fn scheduler_config(case: &Case) -> SchedulerJson {
    scheduler_json(case, "scheduler_config.json")
}

#[test]
fn diffusion_tables_noisy_latents_and_velocity_equal_diffusers() {
    let device = backend::device();
    for case in cases("schedule") {
        let config = ScheduleConfig::try_from(&scheduler_config(&case)).unwrap();
        let schedule = NoiseSchedule::new(&config).unwrap();
        let tensors = case.tensors("tensors.safetensors");
        // The rescaling for zero terminal SNR starts from PyTorch's square root, which is not always rounded
        // correctly, subtracts nearly equal numbers, and takes a beta as 1 - alpha with the last place of 1.
        let [for_betas, for_products] =
            if config.rescale_betas_zero_snr { [(5e-5, 4.0), (1e-5, 0.0)] } else { [(1e-6, 0.0); 2] };
        for (name, table, (relative, last_places)) in [
            ("betas", schedule.betas(), for_betas),
            ("alphas_cumprod", schedule.alphas_cumprod(), for_products),
        ] {
            let expected = numbers(tensors.float::<1>(name, &device));
            assert_eq!(table.len(), expected.len(), "{}: length of {name}", case.name);
            for (timestep, (actual, expected)) in table.iter().zip(expected).enumerate() {
                let error = (actual - expected).abs();
                let tolerance = relative * expected + last_places * f64::from(f32::EPSILON);
                assert!(error <= tolerance, "{}: {name}[{timestep}] off by {error:e}", case.name);
            }
        }
        for pair in ["ends", "drawn"] {
            let timesteps = integers(&tensors, &format!("{pair}.timesteps"));
            let latents = tensors.float::<4>("latents", &device);
            let noise = tensors.float::<4>("noise", &device);
            let noisy = schedule.add_noise(latents.clone(), noise.clone(), &timesteps);
            let velocity = schedule.velocity(latents, noise, &timesteps);
            for (name, actual) in [("noisy", noisy), ("velocity", velocity)] {
                let expected = tensors.float(&format!("{pair}.{name}"), &device);
                assert_close(&format!("{} {pair} {name}", case.name), actual, expected, tolerance::NOISING);
            }
        }
    }
}

#[derive(Deserialize)]
struct SamplerCase {
    samplers: Vec<SamplerKind>,
    trajectories: Vec<usize>,
}

#[test]
fn diffusion_timesteps_equal_diffusers_for_1_to_50_steps() {
    for case in cases("sampler") {
        let json = scheduler_config(&case);
        let tensors = case.tensors("tensors.safetensors");
        for kind in case.json::<SamplerCase>("case.json").samplers {
            let expected = integers(&tensors, &format!("{kind}.timesteps"));
            let mut expected = expected.as_slice();
            for n_steps in 1..=50 {
                let sampler = Sampler::from_config(kind, &json, n_steps).unwrap();
                let list;
                (list, expected) = expected.split_at(n_steps);
                let timesteps: Vec<f64> = list.iter().map(|timestep| *timestep as f64).collect();
                assert_eq!(sampler.timesteps(), timesteps, "{} {kind}, {n_steps} steps", case.name);
            }
            assert!(expected.is_empty(), "{} {kind}: more timesteps than steps", case.name);
        }
    }
}

#[test]
fn diffusion_trajectories_equal_diffusers() {
    let device = backend::device();
    for case in cases("sampler") {
        let json = scheduler_config(&case);
        let tensors = case.tensors("tensors.safetensors");
        let details = case.json::<SamplerCase>("case.json");
        for kind in details.samplers {
            for &n_steps in &details.trajectories {
                let mut sampler = Sampler::from_config(kind, &json, n_steps).unwrap();
                assert_eq!(sampler.init_noise_sigma(), 1.0);
                let timesteps = sampler.timesteps().to_vec();
                let step = |network: Network<'_>, call, latents: Tensor<4>| {
                    sampler.step(network(latents.clone()), call, latents, &mut || {
                        unreachable!("it draws no noise")
                    })
                };
                let start = tensors.float::<4>("start", &device);
                let actual = trajectory(&tensors, start, &timesteps, step);
                let tensor = format!("{kind}.{n_steps}");
                let expected = tensors.float(&tensor, &device);
                assert_close(&format!("{} {tensor}", case.name), actual, expected, tolerance::SAMPLING);
            }
        }
    }
}

#[derive(Deserialize)]
struct SolverCase {
    samplers: Vec<SamplerKind>,
    steps: Vec<usize>,
}

#[test]
fn diffusion_every_other_sampler_equals_diffusers_step_for_step() {
    let device = backend::device();
    for case in cases("solver") {
        let json = scheduler_config(&case);
        let tensors = case.tensors("tensors.safetensors");
        let details = case.json::<SolverCase>("case.json");
        for (kind, &n_steps) in
            details.samplers.iter().flat_map(|kind| details.steps.iter().map(move |n| (kind, n)))
        {
            let tensor = format!("{kind}.{n_steps}");
            let name = format!("{} {tensor}", case.name);
            let mut sampler = Sampler::from_config(*kind, &json, n_steps).unwrap();
            let expected = numbers(tensors.float::<1>(&format!("{tensor}.timesteps"), &device));
            assert_eq!(sampler.timesteps().len(), expected.len(), "{name}: timesteps");
            for (timestep, expected) in sampler.timesteps().iter().zip(expected) {
                assert!(
                    (timestep - expected).abs() < 1e-3,
                    "{name}: timestep {timestep}, expected {expected}"
                );
            }
            let sigma = numbers(tensors.float::<1>(&format!("{tensor}.sigma"), &device))[0];
            assert!((sampler.init_noise_sigma() / sigma - 1.0).abs() < 1e-6, "{name}: first noise");

            let fresh = tensors.float::<4>("fresh", &device);
            let mut n_drawn = 0;
            let mut noise = || {
                n_drawn += 1;
                rolled(fresh.clone(), n_drawn - 1)
            };
            let start = tensors.float::<4>("start", &device) * sampler.init_noise_sigma();
            let timesteps = sampler.timesteps().to_vec();
            let step = |network: Network<'_>, call, latents: Tensor<4>| {
                let output = network(sampler.scale_input(latents.clone(), call));
                sampler.step(output, call, latents, &mut noise)
            };
            let actual = trajectory(&tensors, start, &timesteps, step);
            // Noise of a sigma of 4096, with zero terminal SNR, is rounded to 24 bits before it is taken away again.
            let tolerance = tolerance::SOLVING.max(1e-7 * sigma);
            assert_close(&name, actual, tensors.float(&tensor, &device), tolerance);
        }
    }
}

#[derive(Deserialize)]
struct StrengthCase {
    samplers: Vec<SamplerKind>,
    steps: Vec<usize>,
    strengths: Vec<f64>,
}

#[test]
fn diffusion_image_to_image_begins_and_goes_on_as_in_diffusers_with_every_sampler() {
    for case in cases("strength") {
        let json = scheduler_config(&case);
        let tensors = case.tensors("tensors.safetensors");
        let StrengthCase { samplers, steps, strengths } = case.json("case.json");
        for kind in samplers {
            for &n_steps in &steps {
                for &strength in &strengths {
                    let sampler = Sampler::from_config(kind, &json, n_steps).unwrap();
                    let name = format!("{kind}.{n_steps}.{strength:?}");
                    check_image_to_image(&case, &name, &tensors, sampler.with_strength(strength).unwrap());
                }
            }
        }
    }
}

fn check_image_to_image(case: &Case, name: &str, tensors: &Tensors, mut sampler: Sampler) {
    let device = backend::device();
    let label = |what: &str| format!("{} {name}: {what}", case.name);
    let timesteps = sampler.timesteps().to_vec();
    let expected = numbers(tensors.float::<1>(&format!("{name}.timesteps"), &device));
    assert_eq!(timesteps.len(), expected.len(), "{}", label("timesteps"));
    for (timestep, expected) in timesteps.iter().zip(expected) {
        assert!((timestep - expected).abs() < 1e-3, "{}: {timestep}, expected {expected}", label("timestep"));
    }

    let [clean, noise, bias, fresh] =
        ["clean", "noise", "bias", "fresh"].map(|name| tensors.float::<4>(name, &device));
    let mut n_drawn = 0;
    let mut latents = sampler.add_noise(clean.clone(), noise.clone(), 0);
    let (mut kept, mut put_back) = (vec![latents.clone()], Vec::new());
    for (call, &timestep) in timesteps.iter().enumerate() {
        if call > 0 {
            put_back.push(sampler.add_noise(clean.clone(), noise.clone(), call));
        }
        let output = network(sampler.scale_input(latents.clone(), call), timestep, &bias);
        latents = sampler.step(output, call, latents, &mut || {
            n_drawn += 1;
            rolled(fresh.clone(), n_drawn - 1)
        });
        kept.push(latents.clone());
    }
    for (what, actual, tolerance) in
        [("latents", kept, tolerance::SOLVING), ("put_back", put_back, tolerance::NOISING)]
    {
        if !actual.is_empty() {
            let expected = tensors.float(&format!("{name}.{what}"), &device);
            assert_close(&label(what), Tensor::cat(actual, 0), expected, tolerance);
        }
    }
}

/// The numbers of a tensor, moved by some places; those past the end come in at the front.
fn rolled(tensor: Tensor<4>, places: usize) -> Tensor<4> {
    let shape = tensor.dims();
    let flat: Tensor<1> = tensor.flatten(0, 3);
    let [len] = flat.dims();
    let places = places % len;
    let rolled = if places == 0 {
        flat
    } else {
        Tensor::cat(vec![flat.clone().narrow(0, len - places, places), flat.narrow(0, 0, len - places)], 0)
    };
    rolled.reshape(shape)
}

#[test]
fn diffusion_ddim_with_fresh_noise_equals_diffusers() {
    let device = backend::device();
    for case in cases("sampler") {
        let tensors = case.tensors("tensors.safetensors");
        if !case.json::<SamplerCase>("case.json").samplers.contains(&SamplerKind::Ddim) {
            continue;
        }
        let sampler = Ddim::new(&DdimConfig::try_from(&scheduler_config(&case)).unwrap(), 10).unwrap();
        let noise = tensors.float::<4>("fresh", &device);
        let step = |network: Network<'_>, call, latents: Tensor<4>| {
            let fresh = VarianceNoise { eta: 0.7, noise: noise.clone() };
            sampler.step(network(latents.clone()), call, latents, Some(fresh))
        };
        let actual = trajectory(&tensors, tensors.float("start", &device), sampler.timesteps(), step);
        let expected = tensors.float("ddim.fresh", &device);
        assert_close(&format!("{} ddim.fresh", case.name), actual, expected, tolerance::SAMPLING);
    }
}

#[test]
fn diffusion_configs_resolve_and_are_written_as_diffusers_does() {
    for case in cases("sampler") {
        let json = scheduler_config(&case);
        for kind in case.json::<SamplerCase>("case.json").samplers {
            let resolved = scheduler_json(&case, &format!("{kind}.json"));
            let written = match kind {
                SamplerKind::Ddim => {
                    let config = DdimConfig::try_from(&json).unwrap();
                    assert_eq!(config, DdimConfig::try_from(&resolved).unwrap(), "{} {kind}", case.name);
                    SchedulerJson::from(&config)
                }
                SamplerKind::UniPc => {
                    let config = UniPcConfig::try_from(&json).unwrap();
                    assert_eq!(config, UniPcConfig::try_from(&resolved).unwrap(), "{} {kind}", case.name);
                    SchedulerJson::from(&config)
                }
                other => panic!("no config of {other} is written"),
            };
            let [resolved, written] = [resolved, written].map(|json| serde_json::to_value(json).unwrap());
            for (key, value) in written.as_object().unwrap() {
                assert_eq!(Some(value), resolved.get(key), "{} {kind}: `{key}`", case.name);
            }
        }
    }
}

/// The network of the generator's trajectories at one timestep.
type Network<'a> = &'a dyn Fn(Tensor<4>) -> Tensor<4>;

/// Follows the generator's `trajectory`: every latents that it kept.
fn trajectory(
    tensors: &Tensors,
    start: Tensor<4>,
    timesteps: &[f64],
    mut step: impl FnMut(Network<'_>, usize, Tensor<4>) -> Tensor<4>,
) -> Tensor<4> {
    let bias = tensors.float::<4>("bias", &backend::device());
    let mut latents = start;
    let mut kept = Vec::new();
    for (call, &timestep) in timesteps.iter().enumerate() {
        latents = step(&|scaled| network(scaled, timestep, &bias), call, latents);
        if timesteps.len() < 10 || (call + 1) % 10 == 0 {
            kept.push(latents.clone());
        }
    }
    Tensor::cat(kept, 0)
}

/// The generator's made-up network.
fn network(scaled: Tensor<4>, timestep: f64, bias: &Tensor<4>) -> Tensor<4> {
    scaled * (0.3 * (timestep / 1000.0).cos()) + bias.clone() * 0.5
}

fn numbers(tensor: Tensor<1>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

fn integers(tensors: &Tensors, name: &str) -> Vec<usize> {
    let values = tensors.0[name].iter::<i64>();
    values.map(|value| usize::try_from(value).expect("no negative timestep")).collect()
}
