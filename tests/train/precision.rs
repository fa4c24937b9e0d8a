//! Half precision: frozen weights of 16 bits, activations of 16 or 32, and a ControlNet of 32.

use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::prelude::*;
use burn::tensor::DType;
use pyrograph::backend;
use pyrograph_train::{
    Compute, Event, Gradients, MixedPrecision, Observer, Tap, TrainConfig, TrainError, Trainer,
};

use super::{circles_of, plan};

const N_STEPS: u64 = 4;

#[derive(Default)]
struct Seen {
    losses: Vec<f64>,
    gaps: Vec<f64>,
    n_skipped: usize,
}

impl Observer for Seen {
    fn observe(&mut self, event: &Event) -> Result<(), TrainError> {
        match event {
            Event::Progress(progress) => self.losses.push(progress.loss),
            Event::Evaluation(evaluation) => self.gaps.push(evaluation.control_gap),
            Event::Skipped(_) => self.n_skipped += 1,
            _ => {}
        }
        Ok(())
    }
}

/// Trains some steps; returns what was observed and the trainer at the end.
fn train(dir: &Path, name: &str, change: impl FnOnce(&mut TrainConfig)) -> (Seen, Trainer) {
    let plan = plan(dir, &dir.join(name), |config| {
        config.schedule.max_train_steps = N_STEPS.try_into().ok();
        config.checkpoint.checkpointing_steps = 2.try_into().expect("not zero");
        config.evaluation.num_eval_samples = 2;
        change(config);
    });
    let mut trainer = Trainer::new(plan, &backend::device()).expect("a trainer");
    let mut seen = Seen::default();
    trainer.run(&mut seen).expect("four steps");
    (seen, trainer)
}

/// The element types of a module's matrices and kernels, and of its vectors.
pub(crate) fn types<M: Module>(module: &M) -> [Vec<DType>; 2] {
    #[derive(Default)]
    struct Types([Vec<DType>; 2]);
    impl ModuleVisitor for Types {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let types = &mut self.0[usize::from(D == 1)];
            types.push(param.val().dtype());
            types.dedup();
        }
    }
    let mut types = Types::default();
    module.visit(&mut types);
    types.0
}

fn check(mixed_precision: MixedPrecision, compute: Compute, largest_difference: f64) {
    let dir = tempfile::tempdir().expect("a folder");
    circles_of(dir.path(), 20);
    let (whole, _) = train(dir.path(), "whole", |_| {});
    for gradient_checkpointing in [false, true] {
        let (half, mut trainer) = train(dir.path(), "half", |config| {
            config.precision.mixed_precision = mixed_precision;
            config.precision.compute = Some(compute);
            config.memory.gradient_checkpointing = gradient_checkpointing;
        });
        assert_eq!(half.losses.len(), 4);
        assert_ne!(half.losses, whole.losses, "half precision has an effect");
        for (half, whole) in half.losses.iter().zip(&whole.losses) {
            assert!((half - whole).abs() < largest_difference * whole, "{half} {whole}");
        }
        assert!(half.gaps.iter().all(|gap| gap.is_finite()) && !half.gaps.is_empty());
        let expected = match mixed_precision {
            MixedPrecision::Bf16 => DType::BF16,
            _ => DType::F16,
        };
        assert_eq!(types(&trainer.bundle().unet), [vec![expected], vec![DType::F32]]);
        assert_eq!(types(&trainer.bundle().vae)[0], [expected]);
        let bundle = trainer.complete_bundle().expect("the base");
        assert_eq!(types(bundle.text.first.model())[0], [expected]);
        assert_eq!(types(trainer.controlnet()), [vec![DType::F32], vec![DType::F32]]);
    }
}

#[test]
fn frozen_weights_in_bf16_train_like_those_in_f32() {
    check(MixedPrecision::Bf16, Compute::F32, 0.02);
}

#[test]
fn frozen_weights_in_fp16_train_like_those_in_f32() {
    check(MixedPrecision::Fp16, Compute::F32, 0.003);
}

#[test]
fn activations_in_bf16_train_like_those_in_f32() {
    check(MixedPrecision::Bf16, Compute::Half, 0.05);
}

#[test]
fn activations_in_fp16_train_like_those_in_f32() {
    check(MixedPrecision::Fp16, Compute::Half, 0.02);
}

/// Overflows in the first step.
#[derive(Debug)]
struct Overflow {
    n_left: u32,
}

impl Tap for Overflow {
    fn gradients(&mut self, step: u64, gradients: Gradients) -> Gradients {
        if step == 0 && std::mem::take(&mut self.n_left) > 0 {
            gradients.scaled(f32::INFINITY)
        } else {
            gradients
        }
    }
}

#[test]
fn an_overflow_in_fp16_halves_the_scale_of_the_loss_and_is_no_fault() {
    let dir = tempfile::tempdir().expect("a folder");
    circles_of(dir.path(), 20);
    let plan = plan(dir.path(), &dir.path().join("out"), |config| {
        config.schedule.max_train_steps = N_STEPS.try_into().ok();
        config.checkpoint.checkpointing_steps = 2.try_into().expect("not zero");
        config.evaluation.num_eval_samples = 0;
        config.precision.mixed_precision = MixedPrecision::Fp16;
    });
    let overflow = Overflow { n_left: 1 };
    let mut trainer =
        Trainer::new(plan, &backend::device()).expect("a trainer").tapped_by(Box::new(overflow));
    let mut seen = Seen::default();
    trainer.run(&mut seen).expect("four steps");
    assert_eq!((seen.losses.len(), seen.n_skipped), (4, 0));
    let state = std::fs::read(dir.path().join("out/checkpoint-4/state.json")).expect("a checkpoint");
    let state: serde_json::Value = serde_json::from_slice(&state).expect("JSON");
    assert_eq!(state["record"]["loss_scale"]["factor"], 32768.0);
    assert_eq!(state["record"]["loss_scale"]["n_steps"], 4);
    assert_eq!(state["position"]["micro_step"], 5, "one batch was lost");
}

#[test]
fn a_run_in_bf16_resumes_with_the_same_bits() {
    let dir = tempfile::tempdir().expect("a folder");
    circles_of(dir.path(), 20);
    let bf16 = |config: &mut TrainConfig| {
        config.precision.mixed_precision = MixedPrecision::Bf16;
        config.precision.compute = Some(Compute::F32);
    };
    train(dir.path(), "straight", bf16);
    train(dir.path(), "resumed", |config| {
        bf16(config);
        config.schedule.max_train_steps = Some(2.try_into().expect("not zero"));
    });
    train(dir.path(), "resumed", |config| {
        bf16(config);
        config.checkpoint.resume_from_checkpoint = Some("latest".into());
    });
    let weights =
        |name: &str| std::fs::read(dir.path().join(name).join("diffusion_pytorch_model.safetensors"));
    assert!(weights("straight").expect("weights") == weights("resumed").expect("weights"));
}
