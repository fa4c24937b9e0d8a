//! UNet and ControlNet against `UNet2DConditionModel` and `ControlNetModel`, outputs, gradients and training.

use burn::module::{ModuleVisitor, Param};
use burn::prelude::*;
use burn::tensor::TensorData;
use pyrograph::backend;
use pyrograph_diffusion::mse;
use pyrograph_train::{AdamWConfig, Gradients, Optimizer};
use pyrograph_unet::{
    AddedConditioning, Conditioning, ControlMode, ControlNet, ControlNetConfig, ControlNetJson,
    MicroConditioning, RENAMES, Residuals, Unet, UnetConfig, UnetJson,
};
use pyrograph_weights::{LoadOptions, Renames, load};
use serde::Deserialize;

use super::cases::{Case, Tensors, assert_close, cases};
use crate::tolerance;

#[derive(Deserialize)]
struct Settings {
    conditioning_scale: f64,
}

struct Models {
    unet: Unet,
    controlnet: ControlNet,
    pooled: ControlNet,
}

impl Models {
    /// The UNet on the plain device, the ControlNets on `device`.
    fn load(case: &Case, device: &Device) -> Self {
        let options = LoadOptions { renames: Renames::new(RENAMES), ..LoadOptions::default() };
        let unet = UnetConfig::try_from(case.json::<UnetJson>("unet_config.json")).expect("a UNet's config");
        let config = ControlNetConfig::try_from(case.json::<ControlNetJson>("controlnet_config.json"))
            .expect("a ControlNet's config");
        let pooled = ControlNetConfig { pooling: pyrograph_unet::Pooling::Global, ..config.clone() };
        let controlnet = |config: &ControlNetConfig| {
            load(config.init(device), &case.dir.join("controlnet.safetensors"), &options)
                .expect("ControlNet weights")
        };
        Self {
            unet: load(unet.init(&backend::device()), &case.dir.join("unet.safetensors"), &options)
                .expect("UNet weights"),
            controlnet: controlnet(&config),
            pooled: controlnet(&pooled),
        }
    }
}

/// Diffusers' `time_ids`, whole numbers of pixels.
fn sizes(time_ids: &Tensor<2>) -> Vec<MicroConditioning> {
    let numbers = time_ids.clone().try_into_vec_as::<i64>().expect("numbers");
    let numbers: Vec<usize> = numbers.into_iter().map(|number| number.try_into().expect("pixels")).collect();
    let (rows, []) = numbers.as_chunks::<6>() else { panic!("six numbers for each sample") };
    let size = |&[a, b, c, d, e, f]: &[usize; 6]| MicroConditioning {
        original: [a, b],
        crop: [c, d],
        target: [e, f],
    };
    rows.iter().map(size).collect()
}

struct Inputs {
    noisy_latents: Tensor<4>,
    timesteps: Vec<f32>,
    conditioning: Conditioning,
    hint: Tensor<4>,
}

impl Inputs {
    fn of(case: &Case, device: &Device) -> Self {
        let tensors = case.tensors("inputs.safetensors");
        Self {
            noisy_latents: tensors.float("noisy_latents", device),
            timesteps: tensors.float::<1>("timesteps", device).try_into_vec_as::<f32>().expect("f32"),
            conditioning: Conditioning {
                context: tensors.float("context", device),
                added: tensors.0.contains_key("text_embeds").then(|| AddedConditioning {
                    text_embeds: tensors.float("text_embeds", device),
                    sizes: sizes(&tensors.float("time_ids", device)),
                }),
                guidance_scale: None,
            },
            hint: tensors.float("hint", device),
        }
    }

    fn residuals(&self, controlnet: &ControlNet) -> Residuals {
        controlnet.forward(self.noisy_latents.clone(), &self.timesteps, &self.conditioning, self.hint.clone())
    }

    fn predict(&self, unet: &Unet, residuals: Option<Residuals>) -> Tensor<4> {
        unet.forward(self.noisy_latents.clone(), &self.timesteps, &self.conditioning, residuals)
    }
}

fn assert_residuals(case: &Case, mode: &str, residuals: &Residuals, expected: &Tensors) {
    let device = residuals.mid.device();
    for (idx, residual) in residuals.down.iter().enumerate() {
        let name = format!("{mode}.down.{idx}");
        assert_close(
            &format!("{} {name}", case.name),
            residual.clone(),
            expected.float(&name, &device),
            tolerance::OUTPUT,
        );
    }
    let name = format!("{mode}.mid");
    assert_close(
        &format!("{} {name}", case.name),
        residuals.mid.clone(),
        expected.float(&name, &device),
        tolerance::OUTPUT,
    );
}

#[test]
fn every_block_of_the_unet_gives_what_diffusers_gives() {
    let device = backend::device();
    for case in cases("controlnet") {
        let inputs = Inputs::of(&case, &device);
        let blocks = case.tensors("blocks.safetensors");
        let unet = Models::load(&case, &device).unet;
        let encoded = unet.encode(inputs.noisy_latents, &inputs.timesteps, &inputs.conditioning);
        assert_eq!(encoded.skips.len() + 1, blocks.0.len(), "{}: number of blocks", case.name);
        for (idx, skip) in encoded.skips.into_iter().enumerate() {
            let name = format!("skip.{idx}");
            assert_close(
                &format!("{} {name}", case.name),
                skip,
                blocks.float(&name, &device),
                tolerance::OUTPUT,
            );
        }
        assert_close(
            &format!("{} mid", case.name),
            encoded.mid,
            blocks.float("mid", &device),
            tolerance::OUTPUT,
        );
    }
}

#[test]
fn controlled_and_uncontrolled_predictions_equal_diffusers() {
    let device = backend::device();
    for case in cases("controlnet") {
        let scale = case.json::<Settings>("case.json").conditioning_scale;
        let inputs = Inputs::of(&case, &device);
        let models = Models::load(&case, &device);
        let expected = case.tensors("expected.safetensors");

        let plain = inputs.predict(&models.unet, None);
        assert_close(
            &format!("{} plain", case.name),
            plain,
            expected.float("uncontrolled", &device),
            tolerance::OUTPUT,
        );
        for (mode, name) in [(ControlMode::Balanced, "balanced"), (ControlMode::Guess, "guess")] {
            let scales = models.controlnet.residual_scales(mode, scale);
            let residuals = inputs.residuals(&models.controlnet).scaled(&scales);
            assert_residuals(&case, name, &residuals, &expected);
            let controlled = inputs.predict(&models.unet, Some(residuals));
            let expected = expected.float(&format!("{name}.controlled"), &device);
            assert_close(&format!("{} {name}", case.name), controlled, expected, tolerance::OUTPUT);
        }
        let scales = models.pooled.residual_scales(ControlMode::Guess, 1.0);
        assert_residuals(&case, "pooled", &inputs.residuals(&models.pooled).scaled(&scales), &expected);
    }
}

/// Parameters in visiting order with their names in diffusers' spelling and layout.
fn named_parameters(controlnet: &ControlNet) -> Vec<(String, usize)> {
    #[derive(Default)]
    struct Names {
        path: Vec<String>,
        names: Vec<(String, usize)>,
    }
    impl ModuleVisitor for Names {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let path = self.path.join(".").replace(".gamma", ".weight").replace(".beta", ".bias");
            self.names.push((Renames::new(RENAMES).to_file(&path), param.dims().len()));
        }
    }
    let mut visitor = Names::default();
    controlnet.visit(&mut visitor);
    visitor.names
}

/// A reference parameter as we store it, flattened: the weights of linear layers are transposed.
fn flattened(tensors: &Tensors, name: &str, rank: usize, device: &Device) -> Tensor<1> {
    if rank == 2 {
        tensors.float::<2>(name, device).transpose().flatten(0, 1)
    } else {
        let data = tensors.0.get(name).unwrap_or_else(|| panic!("no tensor `{name}`"));
        let values = data.try_to_vec::<f32>().expect("f32");
        let size = values.len();
        Tensor::from_data(TensorData::new(values, [size]), device)
    }
}

/// `|actual - expected| / |expected|`, in the L2 norm.
fn relative_error(actual: Tensor<1>, expected: Tensor<1>) -> f64 {
    let norm = |tensor: Tensor<1>| f64::from(tensor.square().sum().sqrt().into_scalar::<f32>());
    norm(actual - expected.clone()) / norm(expected).max(1e-12)
}

#[test]
fn gradients_and_three_optimizer_steps_equal_pytorch() {
    let device = backend::device();
    for case in cases("controlnet") {
        let inputs = Inputs::of(&case, &device);
        let Models { unet, mut controlnet, .. } = Models::load(&case, &device.clone().autodiff());
        let names = named_parameters(&controlnet);
        let expected_gradients = case.tensors("gradients.safetensors");
        assert_eq!(names.len(), expected_gradients.0.len(), "{}: number of parameters", case.name);
        let training = case.tensors("training.safetensors");
        let losses = training.float::<1>("losses", &device).try_into_vec_as::<f32>().expect("f32");
        let norms = training.float::<1>("norms", &device).try_into_vec_as::<f32>().expect("f32");
        let config = AdamWConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 1e-2 };
        let mut optimizer = Optimizer::new(config);

        for step in 0..losses.len() {
            let target = training.float::<5>("targets", &device).narrow(0, step, 1).squeeze_dim::<4>(0);
            let encoded = unet.encode(inputs.noisy_latents.clone(), &inputs.timesteps, &inputs.conditioning);
            let prediction =
                unet.decode(encoded, &inputs.conditioning.context, Some(inputs.residuals(&controlnet)));
            let loss = mse(prediction, target);
            let gradients = Gradients::take(&controlnet, loss.backward());
            let close = |what: &str, actual: f32, expected: f32| {
                let error = f64::from((actual - expected).abs() / expected);
                assert!(
                    error < tolerance::TRAINING,
                    "{} step {step}: {what} {actual}, expected {expected}",
                    case.name
                );
            };
            close("loss", loss.into_scalar::<f32>(), losses[step]);
            if step == 0 {
                for ((name, rank), gradient) in names.iter().zip(gradients.iter()) {
                    let gradient =
                        gradient.unwrap_or_else(|| panic!("{}: no gradient for {name}", case.name));
                    let expected = flattened(&expected_gradients, name, *rank, &device);
                    let error = relative_error(gradient.clone(), expected);
                    assert!(
                        error <= tolerance::TRAINING,
                        "{}: gradient of {name} is off by {error:.2e}",
                        case.name
                    );
                }
            }
            let (clipped, norm) = gradients.clipped(0.05);
            close("norm", norm.expect("gradients").into_scalar::<f32>(), norms[step]);
            controlnet = optimizer.step(controlnet, clipped, 1e-3);
        }

        let after = case.tensors("after.safetensors");
        struct Values(Vec<Tensor<1>>);
        impl ModuleVisitor for Values {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                self.0.push(param.val().inner().flatten(0, -1));
            }
        }
        let mut values = Values(Vec::new());
        controlnet.visit(&mut values);
        for ((name, rank), value) in names.iter().zip(values.0) {
            let error = relative_error(value, flattened(&after, name, *rank, &device));
            assert!(
                error <= tolerance::TRAINING,
                "{}: {name} after three steps is off by {error:.2e}",
                case.name
            );
        }
    }
}
