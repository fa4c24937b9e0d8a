//! A run that keeps an average of its ControlNet.

use std::fs;
use std::path::Path;

use pyrograph::backend;
use pyrograph_train::{
    Compute, Evaluation, Event, Gradients, MixedPrecision, Observer, Tap, TrainConfig, TrainError, Trainer,
};
use serde_json::Value;

use super::{circles_of, plan};

const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

#[derive(Default)]
struct Evaluations(Vec<Evaluation>);

impl Observer for Evaluations {
    fn observe(&mut self, event: &Event) -> Result<(), TrainError> {
        if let Event::Evaluation(evaluation) = event {
            self.0.push(evaluation.clone());
        }
        Ok(())
    }
}

/// A trainer of four steps, with a checkpoint after the last.
fn trainer(dir: &Path, out: &Path, change: impl FnOnce(&mut TrainConfig)) -> Trainer {
    let plan = plan(dir, out, |config| {
        config.schedule.max_train_steps = Some(4.try_into().expect("not zero"));
        config.checkpoint.checkpointing_steps = 4.try_into().expect("not zero");
        config.evaluation.num_eval_samples = 2;
        config.data.dataloader_num_workers = 0;
        change(config);
    });
    Trainer::new(plan, &backend::device()).expect("a trainer")
}

fn config_of(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("config.json")).expect("a config")).expect("json")
}

#[test]
fn a_run_is_judged_by_its_average_and_ends_with_it() {
    let dir = tempfile::tempdir().expect("a folder");
    circles_of(dir.path(), 20);
    let out = dir.path().join("out");
    let with_pictures = |config: &mut TrainConfig| {
        config.validation.num_validation_samples = 1;
        config.validation.num_validation_images = 1.try_into().expect("not zero");
        config.validation.validation_inference_steps = 2.try_into().expect("not zero");
    };
    let mut seen = Evaluations::default();
    let mut averaged = trainer(dir.path(), &out, |config| {
        with_pictures(config);
        config.ema.use_ema = true;
        config.optimizer.learning_rate = Some(1e-2);
    });
    averaged.run(&mut seen).expect("a run");

    let weights = |folder: &str| fs::read(out.join(folder).join(WEIGHTS)).expect("weights");
    assert!(weights("") == weights("checkpoint-4/controlnet_ema"), "the final ControlNet is the average");
    assert!(weights("best") == weights(""), "so is the best");
    assert!(weights("checkpoint-4/controlnet") != weights(""), "what was trained stays in the checkpoint");
    let state = config_of(&out.join("checkpoint-4/controlnet_ema"));
    assert_eq!((&state["optimization_step"], &state["decay"]), (&4.into(), &0.9999.into()));

    // Another run that begins with that ControlNet finds in it what this one found at its end.
    let mut again = Evaluations::default();
    let other = dir.path().join("other");
    let mut from_it = trainer(dir.path(), &other, |config| {
        with_pictures(config);
        config.model.controlnet_model_name_or_path = Some(out.clone());
        config.schedule.max_train_steps = Some(1.try_into().expect("not zero"));
    });
    from_it.run(&mut again).expect("a run");
    let (last, first) = (seen.0.last().expect("one"), again.0.first().expect("one"));
    assert_eq!(Evaluation { step: 0, ..last.clone() }, *first);
    let grid = |out: &Path, step: &str| {
        fs::read(out.join("validation").join(step).join("grid.png")).expect("a grid")
    };
    assert!(grid(&out, "step-000004") == grid(&other, "step-000000"));
}

/// Makes the gradients of the second step infinite.
#[derive(Debug)]
struct Overflow {
    is_done: bool,
}

impl Tap for Overflow {
    fn gradients(&mut self, step: u64, gradients: Gradients) -> Gradients {
        let is_due = step == 1 && !std::mem::replace(&mut self.is_done, step == 1);
        if is_due { gradients.scaled(f32::INFINITY) } else { gradients }
    }
}

#[test]
fn a_step_that_is_not_made_is_not_averaged() {
    let dir = tempfile::tempdir().expect("a folder");
    circles_of(dir.path(), 20);
    for (name, mixed_precision) in [("skipped", MixedPrecision::No), ("rescaled", MixedPrecision::Fp16)] {
        let out = dir.path().join(name);
        let trainer = trainer(dir.path(), &out, |config| {
            config.ema.use_ema = true;
            config.precision.mixed_precision = mixed_precision;
            config.precision.compute = Some(Compute::Half);
        });
        trainer.tapped_by(Box::new(Overflow { is_done: false })).run(&mut ()).expect("a run");
        let checkpoint = out.join("checkpoint-4");
        let state: Value =
            serde_json::from_slice(&fs::read(checkpoint.join("state.json")).expect("a state")).expect("json");
        assert_eq!(state["position"]["micro_step"], 5, "{name}: one step was made twice");
        assert_eq!(config_of(&checkpoint.join("controlnet_ema"))["optimization_step"], 4, "{name}");
    }
}

#[test]
fn an_average_may_begin_with_a_resumed_run() {
    let dir = tempfile::tempdir().expect("a folder");
    circles_of(dir.path(), 20);
    let out = dir.path().join("out");
    trainer(dir.path(), &out, |_| {}).run(&mut ()).expect("a run");
    let mut resumed = trainer(dir.path(), &out, |config| {
        config.ema.use_ema = true;
        config.schedule.max_train_steps = Some(8.try_into().expect("not zero"));
        config.checkpoint.resume_from_checkpoint = Some("latest".into());
    });
    resumed.run(&mut ()).expect("the rest");
    assert_eq!(config_of(&out.join("checkpoint-8/controlnet_ema"))["optimization_step"], 4);
}
