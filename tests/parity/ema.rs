//! The moving average against diffusers' `EMAModel`.

use burn::module::{Module, Param};
use burn::prelude::*;
use pyrograph::backend;
use pyrograph_train::{Ema, EmaSection};
use serde::Deserialize;

use super::cases::{Tensors, assert_close, cases};

#[derive(Deserialize)]
struct Settings {
    n_steps: usize,
    ema_decay: f64,
    ema_update_after_step: u32,
    use_ema_warmup: bool,
    ema_inv_gamma: f64,
    ema_power: f64,
}

#[derive(Module, Debug)]
struct Parameters {
    kernel: Param<Tensor<4>>,
    bias: Param<Tensor<1>>,
}

impl Parameters {
    /// What the parameters were after a step.
    fn after(tensors: &Tensors, step: usize, device: &Device) -> Self {
        let (kernel, bias) = (format!("kernel.{step}"), format!("bias.{step}"));
        Self {
            kernel: Param::from_tensor(tensors.float::<4>(&kernel, device).autodiff()),
            bias: Param::from_tensor(tensors.float::<1>(&bias, device).autodiff()),
        }
    }
}

#[test]
fn an_average_equals_that_of_diffusers_after_every_step() {
    let device = backend::device();
    for case in cases("ema") {
        let settings: Settings = case.json("case.json");
        let (parameters, averages) =
            (case.tensors("parameters.safetensors"), case.tensors("averages.safetensors"));
        let section = EmaSection {
            use_ema: true,
            ema_decay: settings.ema_decay,
            ema_update_after_step: settings.ema_update_after_step,
            use_ema_warmup: settings.use_ema_warmup,
            ema_inv_gamma: settings.ema_inv_gamma,
            ema_power: settings.ema_power,
        };
        let mut ema = Ema::new(section, &Parameters::after(&parameters, 0, &device));
        for step in 1..=settings.n_steps {
            ema = ema.updated(&Parameters::after(&parameters, step, &device));
            let (kernel, bias) = (format!("kernel.{step}"), format!("bias.{step}"));
            let average = ema.average();
            assert_close(&kernel, average.kernel.val(), averages.float::<4>(&kernel, &device), 1e-6);
            assert_close(&bias, average.bias.val(), averages.float::<1>(&bias, &device), 1e-6);
        }
    }
}
