//! Runs that train the UNet's decoder, too.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::TensorData;
use pyrograph::backend;
use pyrograph_train::{TrainConfig, Trainer};
use pyrograph_weights::load_tensors;

use super::{base, circles, plan};

const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

fn train(dir: &Path, out: &str, change: impl FnOnce(&mut TrainConfig)) {
    let plan = plan(dir, &dir.join(out), |config| {
        config.schedule.max_train_steps = Some(3.try_into().expect("not zero"));
        config.checkpoint.checkpointing_steps = 3.try_into().expect("not zero");
        config.evaluation.num_eval_samples = 2;
        config.model.sd_locked = false;
        change(config);
    });
    Trainer::new(plan, &backend::device()).expect("a trainer").run(&mut ()).expect("three steps");
}

fn weights(folder: &Path) -> BTreeMap<String, TensorData> {
    load_tensors(&folder.join(WEIGHTS)).expect("weights")
}

/// Whether a tensor of the UNet is of its decoder.
fn is_of_decoder(name: &str) -> bool {
    ["up_blocks.", "conv_norm_out.", "conv_out."].iter().any(|start| name.starts_with(start))
}

#[test]
fn an_unlocked_run_trains_the_decoder_and_nothing_else_of_the_base_model() {
    let dir = tempfile::tempdir().expect("a folder");
    circles(dir.path());
    train(dir.path(), "out", |_| {});
    let (before, after) = (weights(&base().join("unet")), weights(&dir.path().join("out/unet")));
    assert!(before.keys().eq(after.keys()), "diffusers' names");
    for (name, tensor) in &before {
        assert_eq!(tensor != &after[name], is_of_decoder(name), "{name}");
    }
    for saved in ["checkpoint-3/unet", "best/unet"] {
        assert_eq!(weights(&dir.path().join("out").join(saved)), after, "{saved}");
    }
    let moments = load_tensors(&dir.path().join("out/checkpoint-3/optimizer.safetensors")).expect("moments");
    let of_unet: Vec<&str> =
        moments.keys().filter_map(|name| name.strip_prefix("first_moment.unet.")).collect();
    assert!(!of_unet.is_empty() && of_unet.iter().all(|name| is_of_decoder(name)), "{of_unet:?}");
}

#[test]
fn checkpointing_trains_the_decoder_alike() {
    let dir = tempfile::tempdir().expect("a folder");
    circles(dir.path());
    for (out, gradient_checkpointing) in [("kept", false), ("again", true)] {
        train(dir.path(), out, |config| config.memory.gradient_checkpointing = gradient_checkpointing);
    }
    let [kept, again] = ["kept", "again"].map(|out| weights(&dir.path().join(out).join("unet")));
    // Adam's first steps are the signs of gradients, so that rounding moves a few weights by up to three steps.
    let differences = kept.iter().filter(|(name, _)| is_of_decoder(name)).flat_map(|(name, kept)| {
        let again = again[name].iter::<f32>().collect::<Vec<_>>();
        kept.iter::<f32>().zip(again).map(|(kept, again)| (kept - again).abs()).collect::<Vec<_>>()
    });
    let differences: Vec<f32> = differences.collect();
    let n_far = differences.iter().filter(|difference| **difference > 1e-4).count();
    assert!(n_far * 100 < differences.len(), "{n_far} of {}", differences.len());
}
