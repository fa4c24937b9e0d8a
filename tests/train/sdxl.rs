//! Training on an SDXL base: two text encoders, pooled prompts and sizes.

use std::fs;
use std::path::{Path, PathBuf};

use pyrograph::backend;
use pyrograph_train::{Event, Observer, TrainConfig, TrainError, Trainer};

use super::{circles, plan};

fn base() -> PathBuf {
    crate::fixtures().join("parity/generate/sdxl-like/base")
}

/// The losses of a run, which breaks off after some step.
struct Losses {
    losses: Vec<f64>,
    n_steps: Option<usize>,
}

impl Observer for Losses {
    fn observe(&mut self, event: &Event) -> Result<(), TrainError> {
        if let Event::Progress(progress) = event {
            self.losses.push(progress.loss);
            if self.n_steps == Some(self.losses.len()) {
                return Err(TrainError::io(Path::new("crash"))(std::io::Error::other("simulated")));
            }
        }
        Ok(())
    }
}

/// Trains for four steps, or breaks off, and returns the losses.
fn run(dir: &Path, out: &str, n_steps: Option<usize>, change: impl FnOnce(&mut TrainConfig)) -> Vec<f64> {
    let plan = plan(dir, &dir.join(out), |config| {
        config.model.pretrained_model_name_or_path = Some(base());
        config.schedule.max_train_steps = Some(4.try_into().expect("not zero"));
        config.checkpoint.checkpointing_steps = 1.try_into().expect("not zero");
        change(config);
    });
    let mut losses = Losses { losses: Vec::new(), n_steps };
    let result = Trainer::new(plan, &backend::device()).expect("a trainer").run(&mut losses);
    assert_eq!(result.is_err(), n_steps.is_some());
    losses.losses
}

#[test]
fn a_resumed_run_equals_one_that_was_not_interrupted_wherever_prompts_are_kept() {
    let dir = tempfile::tempdir().expect("a folder");
    circles(dir.path());
    let whole = run(dir.path(), "whole", None, |_| {});
    let on_disk = |config: &mut TrainConfig| config.cache.cache_dir = Some(dir.path().join("cache"));
    let mut parts = run(dir.path(), "parts", Some(2), on_disk);
    parts.extend(run(dir.path(), "parts", None, |config| {
        on_disk(config);
        config.checkpoint.resume_from_checkpoint = Some("latest".into());
        config.validation.num_validation_samples = 1;
    }));
    assert_eq!(parts, whole);
    let file = "diffusion_pytorch_model.safetensors";
    let [whole, parts] =
        ["whole", "parts"].map(|out| fs::read(dir.path().join(out).join(file)).expect("a ControlNet"));
    assert!(whole == parts, "the ControlNets differ");
}

#[test]
fn checkpointing_changes_no_loss() {
    let dir = tempfile::tempdir().expect("a folder");
    circles(dir.path());
    let plain = run(dir.path(), "plain", None, |_| {});
    let checkpointed =
        run(dir.path(), "checkpointed", None, |config| config.memory.gradient_checkpointing = true);
    for (plain, checkpointed) in plain.into_iter().zip(checkpointed) {
        assert!((plain - checkpointed).abs() < 1e-3 * plain, "{plain} {checkpointed}");
    }
}

#[test]
fn sizes_and_crops_matter_from_the_first_step_on() {
    let dir = tempfile::tempdir().expect("a folder");
    circles(dir.path());
    let first = |out: &str, change: fn(&mut TrainConfig)| run(dir.path(), out, Some(1), change)[0];
    let real = first("real", |_| {});
    let same = first("same", |config| config.data.crops_coords_top_left_h = Some(0));
    let cropped = first("cropped", |config| config.data.crops_coords_top_left_h = Some(500));
    // These pictures have the size of the training.
    assert_eq!(real, same);
    assert_ne!(real, cropped);
}
