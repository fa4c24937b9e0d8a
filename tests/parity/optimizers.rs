//! Optimizers against PyTorch, bitsandbytes, transformers, lion-pytorch and prodigyopt.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::prelude::*;
use pyrograph::backend;
use pyrograph_train::{
    AdafactorConfig, AdamWConfig, Gradients, LionConfig, Optimizer, OptimizerConfig, ProdigyConfig,
};
use serde::Deserialize;

use super::cases::{Case, Tensors, cases};

#[derive(Module, Debug)]
struct Parameters {
    kernel: Param<Tensor<4>>,
    matrix: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
}

impl Parameters {
    fn new(tensors: &Tensors, device: &Device) -> Self {
        Self {
            kernel: Param::from_tensor(tensors.float::<4>("kernel", device).autodiff()),
            matrix: Param::from_tensor(tensors.float::<2>("matrix", device).autodiff()),
            bias: Param::from_tensor(tensors.float::<1>("bias", device).autodiff()),
        }
    }

    /// These gradients, by a loss that has them.
    fn gradients(&self, tensors: &Tensors, step: usize, device: &Device) -> Gradients {
        fn dot<const D: usize>(
            param: &Param<Tensor<D>>,
            (tensors, name): (&Tensors, String),
            device: &Device,
        ) -> Tensor<1> {
            (param.val() * tensors.float::<D>(&name, device).autodiff()).sum()
        }
        let loss = dot(&self.kernel, (tensors, format!("kernel.{step}")), device)
            + dot(&self.matrix, (tensors, format!("matrix.{step}")), device)
            + dot(&self.bias, (tensors, format!("bias.{step}")), device);
        Gradients::take(self, loss.backward())
    }

    fn values(&self) -> [(&'static str, Tensor<1>); 3] {
        [
            ("kernel", self.kernel.val().inner().flatten(0, -1)),
            ("matrix", self.matrix.val().inner().flatten(0, -1)),
            ("bias", self.bias.val().inner()),
        ]
    }
}

#[derive(Deserialize)]
struct Settings {
    n_steps: usize,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    weight_decay: f64,
    learning_rates: BTreeMap<String, f64>,
}

impl Settings {
    fn config(&self, name: &str) -> OptimizerConfig {
        let &Self { beta1, beta2, epsilon, weight_decay, .. } = self;
        let adamw = AdamWConfig { beta1, beta2, epsilon, weight_decay };
        match name {
            "adamw" => OptimizerConfig::AdamW(adamw),
            "adamw8bit" => OptimizerConfig::AdamW8bit(adamw),
            "adafactor" => OptimizerConfig::Adafactor(AdafactorConfig { weight_decay }),
            "lion" => OptimizerConfig::Lion(LionConfig { beta1, beta2, weight_decay }),
            "prodigy" => OptimizerConfig::Prodigy(ProdigyConfig { beta1, beta2, epsilon, weight_decay }),
            other => panic!("no optimizer `{other}`"),
        }
    }
}

/// The difference over the movement from the start, both in the L2 norm.
fn check(case: &Case, name: &str, largest_error: f64) {
    let device = backend::device();
    let settings: Settings = case.json("case.json");
    let (start, gradients) = (case.tensors("start.safetensors"), case.tensors("gradients.safetensors"));
    let expected = case.tensors(&format!("{name}.safetensors"));
    let mut parameters = Parameters::new(&start, &device);
    let before = parameters.values();
    let config = settings.config(name);
    let mut optimizer = Optimizer::new(config);
    for step in 0..settings.n_steps {
        let gradients = parameters.gradients(&gradients, step, &device);
        parameters = optimizer.step(parameters, gradients, settings.learning_rates[name]);
        // As after an interruption.
        let saved = optimizer.state(&parameters);
        let resumed = Optimizer::resumed(config, optimizer.steps(), saved, &parameters, &device);
        optimizer = resumed.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    for ((what, found), (_, before)) in parameters.values().into_iter().zip(before) {
        let expected = match what {
            "kernel" => expected.float::<4>(what, &device).flatten(0, -1),
            "matrix" => expected.float::<2>(what, &device).flatten(0, -1),
            _ => expected.float::<1>(what, &device),
        };
        let norm = |difference: Tensor<1>| f64::from(difference.square().sum().sqrt().into_scalar::<f32>());
        let error = norm(found - expected.clone()) / norm(expected - before);
        assert!(error < largest_error, "{}: {what} by {name} is off by {error:.2e} of its way", case.name);
    }
}

#[test]
fn every_optimizer_moves_as_its_reference_and_resumes_from_what_it_saved() {
    for case in cases("optimizers") {
        check(&case, "adamw", 1e-5);
        check(&case, "adafactor", 1e-5);
        check(&case, "lion", 1e-5);
        check(&case, "prodigy", 1e-4);
        // A moment halfway between two codes may become either.
        check(&case, "adamw8bit", 1e-2);
    }
}
