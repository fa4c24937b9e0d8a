//! Steps that are made again.

use std::fs;

use pyrograph::backend;
use pyrograph_train::{Event, Replay, TrainConfig, TrainError, Trainer};

use super::{Bench, Watch};
use crate::cli::{Desk, TRAIN};

/// A checkpoint after the third and sixth step, two micro-batches in a step.
fn settings(config: &mut TrainConfig) {
    config.checkpoint.checkpointing_steps = 3.try_into().unwrap();
    config.optimizer.gradient_accumulation_steps = 2.try_into().unwrap();
}

#[test]
fn a_step_made_again_has_the_samples_the_loss_and_the_gradients_of_the_first_time() {
    let bench = Bench::new();
    let mut watch = Watch::new(|_| {});
    bench.trainer("out", 6, settings).unwrap().run(&mut watch).unwrap();
    let made = |step: u64| {
        let mut progress = watch.events.iter().filter_map(|event| match event {
            Event::Progress(progress) => Some(progress),
            _ => None,
        });
        progress.find(|progress| progress.step == step).unwrap()
    };
    for step in [4, 5, 6] {
        let plan = Replay::plan(&bench.out("out"), step, None).unwrap();
        let seen = bench.path.join(format!("seen-{step}"));
        let mut trainer = Trainer::new(plan, &backend::device()).unwrap();
        let replay = trainer.replay(step, Some(&seen)).unwrap();
        assert!(replay.checkpoint.ends_with("checkpoint-3"), "{replay:?}");
        assert_eq!(replay.lr, made(step).lr);
        let [attempt] = replay.attempts.as_slice() else { panic!("{replay:?}") };
        assert_eq!(attempt.grad_norm, made(step).grad_norm, "step {step}");
        let batches = &attempt.micro_batches;
        assert!((mean(batches.iter().map(|batch| batch.loss)) - made(step).loss).abs() < 1e-6, "step {step}");
        for batch in batches {
            let of_samples = mean(batch.samples.iter().map(|sample| sample.loss));
            assert!((of_samples - batch.loss).abs() < 1e-5 * batch.loss, "{batch:?}");
        }
        assert_eq!(fs::read_dir(seen).unwrap().count(), batches.len());
    }
    let first_checkpoint = bench.out("out/checkpoint-3");
    let error = Replay::plan(&bench.out("out"), 3, Some(&first_checkpoint)).expect_err("it is too late");
    assert!(matches!(error, TrainError::ReplayAfter { at: 3, step: 3, .. }), "{error}");
}

/// The mean of one number or two.
fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    sum / count
}

#[test]
fn a_replay_names_samples_and_timesteps_and_changes_nothing() {
    let desk = Desk::new();
    desk.done(&format!(
        "{TRAIN} --train_data_dir=circles --max_train_steps=3 --checkpointing_steps=1 --num_eval_samples=0"
    ));
    let before = fs::read(desk.path("out/metrics.jsonl")).unwrap();
    let told = desk.done("replay out --step 3");
    assert!(
        told.starts_with("step 3 from out/checkpoint-2, learning rate 5.00e-6\ngradient norm "),
        "{told}"
    );
    // Batches of four and of one.
    assert_eq!(told.matches(".png at timestep ").count(), 4, "{told}");
    let json = desk.done("replay out --step 2 --log-format json");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["attempts"][0]["micro_batches"][0]["samples"].as_array().unwrap().len(), 1);
    assert_eq!(fs::read(desk.path("out/metrics.jsonl")).unwrap(), before);
    assert_eq!(desk.run("replay out --step 1").code, Some(2), "there is no checkpoint of step 0");
}
