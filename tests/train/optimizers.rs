//! Training with every optimizer: each learns, resumes with the same bits, and heeds the factors on its learning rate.

use std::collections::BTreeSet;
use std::fs;

use pyrograph::backend;
use pyrograph_train::{Choice, OptimizerKind, TrainConfig, Trainer};
use tempfile::TempDir;

use super::{circles, plan};

/// Trains into a folder of this name; returns the trainer and the bytes of the ControlNet.
fn train(dir: &TempDir, name: &str, change: impl FnOnce(&mut TrainConfig)) -> (Trainer, Vec<u8>) {
    let plan = plan(dir.path(), &dir.path().join(name), |config| {
        config.schedule.max_train_steps = Some(4.try_into().expect("not zero"));
        config.checkpoint.checkpointing_steps = 2.try_into().expect("not zero");
        config.evaluation.num_eval_samples = 0;
        config.optimizer.learning_rate = None;
        change(config);
    });
    let mut trainer = Trainer::new(plan, &backend::device()).expect("a trainer");
    trainer.run(&mut ()).expect("a run");
    let weights = dir.path().join(name).join("diffusion_pytorch_model.safetensors");
    (trainer, fs::read(weights).expect("the ControlNet"))
}

#[test]
fn every_optimizer_resumes_with_the_same_bits() {
    let dir = tempfile::tempdir().expect("a folder");
    circles(dir.path());
    let mut different = BTreeSet::new();
    for (name, optimizer) in OptimizerKind::NAMES {
        let (_, straight) = train(&dir, name, |config| config.optimizer.optimizer = *optimizer);
        let resumed_name = format!("{name}-resumed");
        train(&dir, &resumed_name, |config| {
            config.optimizer.optimizer = *optimizer;
            config.schedule.max_train_steps = Some(2.try_into().expect("not zero"));
        });
        let (_, resumed) = train(&dir, &resumed_name, |config| {
            config.optimizer.optimizer = *optimizer;
            config.checkpoint.resume_from_checkpoint = Some("latest".into());
        });
        assert!(straight == resumed, "{name}");
        different.insert(straight);
    }
    assert_eq!(different.len(), OptimizerKind::NAMES.len(), "no two optimizers do the same");
}

#[test]
fn the_state_of_another_optimizer_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    circles(dir.path());
    train(&dir, "out", |config| config.optimizer.optimizer = OptimizerKind::Adamw);
    let lion = plan(dir.path(), &dir.path().join("out"), |config| {
        config.schedule.max_train_steps = Some(6.try_into().expect("not zero"));
        config.evaluation.num_eval_samples = 0;
        config.optimizer.optimizer = OptimizerKind::Lion;
        config.checkpoint.resume_from_checkpoint = Some("latest".into());
    });
    let error = Trainer::new(lion, &backend::device()).expect_err("AdamW's moments are no momentum");
    assert!(error.to_string().contains("optimizer"), "{error}");
}

#[test]
fn factors_on_the_learning_rate_reach_their_parameters_and_no_other() {
    let dir = tempfile::tempdir().expect("a folder");
    circles(dir.path());
    let largest_zero_conv = |trainer: &Trainer| {
        let sizes = trainer.controlnet().zero_convs().map(|conv| conv.weight.val().inner().abs().max());
        sizes.map(|size| size.into_scalar::<f32>()).fold(0.0, f32::max)
    };
    let first_step = |config: &mut TrainConfig| {
        config.schedule.max_train_steps = Some(1.try_into().expect("not zero"));
        config.optimizer.learning_rate = Some(1e-3);
    };
    let (whole, _) = train(&dir, "whole", first_step);
    let (half, _) = train(&dir, "half", |config| {
        first_step(config);
        config.optimizer.zero_conv_lr_factor = 0.5;
    });
    let ratio = largest_zero_conv(&half) / largest_zero_conv(&whole);
    assert!((ratio - 0.5).abs() < 1e-5, "{ratio}");

    let (_, plain) = train(&dir, "plain", |_| {});
    let (_, without_hint) =
        train(&dir, "without hint", |config| config.optimizer.hint_embedding_lr_factor = 0.0);
    assert!(plain != without_hint);
}
