use std::num::NonZeroUsize;

use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::{Linear, LinearConfig};
use burn::prelude::*;
use burn::tensor::DType;
use pyrograph_pipeline::{BundleConfigs, TinyBase};
use pyrograph_unet::ControlNetConfig;

use super::activations::to_u64;
use super::needs::{Elements, PROGRAM};
use super::*;
use crate::choice::Choice;
use crate::optim::{Gradients, Optimizer, OptimizerKind, Shapes, state_bytes};
use crate::precision::{Compute, MixedPrecision, PrecisionSection};
use crate::{TrainConfig, TrainPlan};

const GB: u64 = 1_000_000_000;

/// As it is on the CPU.
const BF16: PrecisionSection =
    PrecisionSection { mixed_precision: MixedPrecision::Bf16, compute: Some(Compute::F32) };

fn plan(change: impl FnOnce(&mut TrainConfig)) -> TrainPlan {
    let mut config = TrainConfig::default();
    config.model.pretrained_model_name_or_path = Some("base".into());
    config.data.train_data_dir = Some("circles".into());
    config.validation.num_validation_samples = 0;
    config.evaluation.num_eval_samples = 0;
    change(&mut config);
    TrainPlan::try_from(config).expect("a valid plan")
}

fn sd15() -> RunSize {
    let configs = BundleConfigs::sd15();
    let controlnet = ControlNetConfig::for_unet(&configs.unet);
    RunSize::without_data(configs, controlnet, &Device::flex())
}

fn tiny() -> RunSize {
    let TinyBase { unet, vae, text, .. } = TinyBase::new(&["circle"]);
    let controlnet = ControlNetConfig::for_unet(&unet);
    RunSize::without_data(BundleConfigs { unet, vae, text: vec![text] }, controlnet, &Device::flex())
}

fn of(budget: &Budget, holding: Holding) -> Vec<u64> {
    budget.items.iter().filter(|item| item.holding == holding).map(|item| item.bytes).collect()
}

/// What a step that is measured goes through.
fn is_measured(phase: Phase) -> bool {
    phase != Phase::Saving
}

#[test]
fn parameters_are_those_of_stable_diffusion() {
    let budget = Budget::new(&sd15(), &plan(|_| {}), DeviceMemory::Main);
    let counts = [361_279_120, 859_520_964, 83_653_863, 123_060_480];
    assert_eq!(of(&budget, Holding::Parameters), counts.map(|count| 4 * count));
    assert_eq!(of(&budget, Holding::Optimizer), [8 * counts[0]]);
}

#[test]
fn both_text_encoders_of_sdxl_are_counted() {
    let configs = BundleConfigs::sdxl();
    let controlnet = ControlNetConfig::for_unet(&configs.unet);
    let run = RunSize::without_data(configs, controlnet, &Device::flex());
    let parameters = of(&Budget::new(&run, &plan(|_| {}), DeviceMemory::Main), Holding::Parameters);
    assert_eq!(parameters[1], 4 * 2_567_463_684);
    assert_eq!(parameters[3..], [4 * 123_060_480, 4 * 694_659_840]);
}

#[test]
fn a_decoder_that_is_trained_is_counted_like_the_controlnet() {
    let run = tiny();
    let n_decoder = to_u64(run.configs.unet.init(&Device::flex()).n_decoder_params());
    assert!(n_decoder > 0);
    let budget = |sd_locked: bool, gradient_checkpointing: bool| {
        let plan = plan(|config| {
            config.precision = BF16;
            config.model.sd_locked = sd_locked;
            config.memory.gradient_checkpointing = gradient_checkpointing;
        });
        Budget::new(&run, &plan, DeviceMemory::Main)
    };
    for is_checkpointed in [false, true] {
        let [locked, unlocked] = [true, false].map(|sd_locked| budget(sd_locked, is_checkpointed));
        let more = |holding| of(&unlocked, holding)[0] - of(&locked, holding)[0];
        assert_eq!(more(Holding::Gradients), 4 * n_decoder);
        assert_eq!(more(Holding::Optimizer), 8 * n_decoder);
        assert!(more(Holding::Activations) > 0 || is_checkpointed);
        // The UNet stays in f32.
        let unet = Elements::of(&run.frozen_shapes[0].1).bytes(DType::F32);
        assert_eq!(of(&unlocked, Holding::Parameters)[1], unet);
        let peak = |budget: &Budget| budget.peak_of(|phase| phase == Phase::Backward);
        assert!(peak(&unlocked) >= peak(&locked) + 8 * n_decoder);
    }
}

#[test]
fn the_vae_of_sdxl_is_counted_in_f32_whatever_the_precision() {
    let configs = BundleConfigs::sdxl();
    let controlnet = ControlNetConfig::for_unet(&configs.unet);
    let run = RunSize::without_data(configs, controlnet, &Device::flex());
    let half = plan(|config| config.precision.mixed_precision = MixedPrecision::Bf16);
    let parameters = of(&Budget::new(&run, &half, DeviceMemory::Main), Holding::Parameters);
    assert!(parameters[1] < 3 * 2_567_463_684);
    assert_eq!(parameters[2], 4 * 83_653_863);
}

#[test]
fn parameters_are_as_many_as_the_loaded_modules_hold() {
    struct Held(u64);
    impl ModuleVisitor for Held {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0 += to_u64(param.val().into_data().as_bytes().len());
        }
    }
    let (run, device) = (tiny(), Device::flex());
    let mut held = Held(0);
    run.controlnet.init(&device).visit(&mut held);
    assert_eq!(Elements::of(&run.controlnet_shapes).bytes(DType::F32), held.0);
    held.0 = 0;
    run.configs.unet.init(&device).visit(&mut held);
    assert_eq!(Elements::of(&run.frozen_shapes[0].1).bytes(DType::F32), held.0);
}

#[test]
fn the_optimizers_bytes_are_those_of_its_state() {
    let gradients = |module: &Linear| {
        let output = module.forward(Tensor::<2>::ones([3, 100], &Device::flex().autodiff()));
        Gradients::take(module, output.sum().backward())
    };
    for kind in OptimizerKind::NAMES.iter().map(|(_, kind)| *kind) {
        // The weight is large enough for moments of 8 bits, the bias is not.
        let module: Linear = LinearConfig::new(100, 50).init(&Device::flex().autodiff());
        let algorithm = plan(|config| config.optimizer.optimizer = kind).optimizer.algorithm;
        let mut optimizer = Optimizer::new(algorithm);
        let found = gradients(&module);
        let module = optimizer.step(module, found, 1e-3);
        // Prodigy's three numbers are not of a parameter.
        let state = optimizer.state(&module);
        let held = state.iter().filter(|(name, _)| name.contains('.')).map(|(_, data)| data.as_bytes().len());
        assert_eq!(state_bytes(&algorithm, &Shapes::of(&module)), to_u64(held.sum()), "{kind:?}");
    }
}

/// Asserts that the prediction for Stable Diffusion 1.5 is good to 15 %.
#[track_caller]
fn check_measured(measured_mb: u64, side: usize, batch_size: usize, change: impl FnOnce(&mut TrainConfig)) {
    let plan = plan(|config| {
        config.data.resolution = side;
        config.data.train_batch_size = NonZeroUsize::new(batch_size).expect("not zero");
        change(config);
    });
    let budget = Budget::new(&sd15(), &plan, DeviceMemory::Main);
    let ratio = budget.peak_of(is_measured) as f64 / 1e6 / measured_mb as f64;
    assert!((0.85..=1.15).contains(&ratio), "{ratio:.3}\n{budget}");
}

#[test]
fn peaks_are_those_that_were_measured() {
    // By `pyrograph bench`, see docs/memory.md.
    check_measured(10_205, 256, 1, |_| {});
    check_measured(8_128, 256, 1, |config| config.precision = BF16);
    check_measured(8_012, 256, 1, |config| config.optimizer.optimizer = OptimizerKind::Adamw8bit);
    check_measured(5_909, 256, 1, |config| {
        config.precision = BF16;
        config.memory.gradient_checkpointing = true;
        config.optimizer.optimizer = OptimizerKind::Adamw8bit;
    });
    check_measured(11_647, 256, 1, |config| {
        config.optimizer.gradient_accumulation_steps = NonZeroUsize::MIN.saturating_add(1);
    });
    check_measured(11_153, 256, 4, |_| {});
    check_measured(10_515, 256, 4, |config| config.memory.gradient_checkpointing = true);
    check_measured(10_636, 512, 1, |_| {});
    check_measured(14_600, 512, 4, |_| {});
    check_measured(11_700, 512, 4, |config| config.memory.gradient_checkpointing = true);
}

#[test]
fn a_gpu_has_its_tensors_and_main_memory_the_rest() {
    let (run, plan) = (sd15(), plan(|_| {}));
    let [main, own] = [DeviceMemory::Main, DeviceMemory::Own].map(|memory| Budget::new(&run, &plan, memory));
    assert!(own.device_bytes < main.device_bytes - PROGRAM);
    assert_eq!(main.device_bytes, main.main_bytes);
    assert!(own.to_string().contains("device memory needed: "), "{own}");
}

fn check_fit(
    limit_bytes: u64,
    pinned: &[Knob],
    change: impl FnOnce(&mut TrainConfig),
) -> Result<String, String> {
    let (half, plan) = (Some(BF16), plan(change));
    let effective = |plan: &TrainPlan| plan.data.batch_size.get() * plan.optimizer.accumulation_steps.get();
    let fitted = fit(&sd15(), &plan, DeviceMemory::Main, Fit { limit_bytes, pinned, half });
    let said = |fitted: &Fitted| {
        assert_eq!(effective(&fitted.plan), effective(&plan), "the effective batch stays");
        assert_eq!(fitted.budget, Budget::new(&sd15(), &fitted.plan, DeviceMemory::Main));
        fitted.flags.join(" ")
    };
    match fitted {
        Ok(fitted) => {
            assert!(fitted.budget.device_bytes <= limit_bytes);
            Ok(said(&fitted))
        }
        Err(fitted) => {
            assert!(fitted.budget.device_bytes > limit_bytes);
            Err(said(&fitted))
        }
    }
}

#[test]
fn what_fits_is_left_alone() {
    assert_eq!(check_fit(20 * GB, &[], |_| {}).as_deref(), Ok(""));
}

#[test]
fn the_cheapest_change_that_is_enough_is_chosen() {
    let bf16 = "--mixed_precision=bf16";
    for (limit, flags) in [
        (13 * GB, bf16),
        (11 * GB, "--mixed_precision=bf16 --gradient_checkpointing"),
        (8 * GB, "--mixed_precision=bf16 --gradient_checkpointing --optimizer=adamw8bit"),
    ] {
        assert_eq!(check_fit(limit, &[], |_| {}).as_deref(), Ok(flags), "{limit}");
    }
}

#[test]
fn what_was_given_stays() {
    let all = [Knob::Precision, Knob::Checkpointing, Knob::MicroBatch, Knob::Optimizer];
    assert_eq!(check_fit(5 * GB, &all, |_| {}), Err(String::new()));
    for (knob, flag) in all.into_iter().zip(["precision", "checkpointing", "batch", "optimizer"]) {
        let Err(flags) = check_fit(GB, &[knob], |_| {}) else { panic!("it fits in 1 GB") };
        assert!(!flags.contains(flag), "{flag}: {flags}");
    }
    let lion = check_fit(GB, &[], |config| config.optimizer.optimizer = OptimizerKind::Lion);
    assert!(!lion.expect_err("too little").contains("optimizer"), "lion is a choice already");
}

#[test]
fn a_smaller_micro_batch_keeps_the_effective_batch() {
    let pinned = [Knob::Precision, Knob::Checkpointing, Knob::Optimizer];
    let large = |config: &mut TrainConfig| {
        config.data.train_batch_size = NonZeroUsize::new(12).expect("not zero");
        config.optimizer.gradient_accumulation_steps = NonZeroUsize::new(3).expect("not zero");
    };
    // `check_fit` compares the effective batch.
    let flags = check_fit(16 * GB, &pinned, large);
    assert_eq!(flags.as_deref(), Ok("--train_batch_size=4 --gradient_accumulation_steps=9"));
}

#[test]
fn the_format_that_a_preset_computes_in_stays() {
    let computed = |config: &mut TrainConfig| config.precision.compute = Some(Compute::Half);
    let options = Fit { limit_bytes: 13 * GB, pinned: &[], half: Some(BF16) };
    let fitted = fit(&sd15(), &plan(computed), DeviceMemory::Main, options).expect("it fits");
    assert_eq!(fitted.flags, ["--mixed_precision=bf16"]);
    // As with the flag alone.
    assert_eq!(fitted.plan.precision, PrecisionSection { compute: Some(Compute::Half), ..BF16 });
}
