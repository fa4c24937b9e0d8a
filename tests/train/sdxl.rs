//! Training on an SDXL base: two text encoders, pooled prompts and sizes.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::DType;
use pyrograph::backend;
use pyrograph_data::Interpolation;
use pyrograph_train::{Event, MixedPrecision, Observer, TrainConfig, TrainError, Trainer};

use super::precision::types;
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

#[test]
fn the_vae_stays_in_f32_unless_its_config_says_that_it_need_not() {
    let dir = tempfile::tempdir().expect("a folder");
    circles(dir.path());
    let vae = dir.path().join("vae");
    crate::cli::copy(&base().join("vae"), &vae);
    let check = |expected: DType| {
        let plan = plan(dir.path(), &dir.path().join("out"), |config| {
            config.model.pretrained_model_name_or_path = Some(base());
            config.model.pretrained_vae_model_name_or_path = Some(vae.clone());
            config.precision.mixed_precision = MixedPrecision::Bf16;
        });
        let trainer = Trainer::new(plan, &backend::device()).expect("a trainer");
        assert_eq!(types(&trainer.bundle().vae)[0], [expected]);
        assert_eq!(types(&trainer.bundle().unet)[0], [DType::BF16]);
    };
    check(DType::F32);
    let config = fs::read_to_string(vae.join("config.json")).expect("a config");
    fs::write(vae.join("config.json"), config.replace("\"force_upcast\": true", "\"force_upcast\": false"))
        .expect("another config");
    check(DType::BF16);
}

#[test]
fn pictures_are_resized_as_by_the_script_of_the_bases_family() {
    let dir = tempfile::tempdir().expect("a folder");
    let interpolation = |change: fn(&mut TrainConfig)| {
        plan(dir.path(), &dir.path().join("out"), change).data.transform.interpolation
    };
    assert_eq!(interpolation(|_| {}), Interpolation::Bilinear);
    let of_xl = |config: &mut TrainConfig| config.model.pretrained_model_name_or_path = Some(base());
    assert_eq!(interpolation(of_xl), Interpolation::Lanczos);
    let given = |config: &mut TrainConfig| {
        config.model.pretrained_model_name_or_path = Some(base());
        config.data.image_interpolation_mode = Some(Interpolation::Box);
    };
    assert_eq!(interpolation(given), Interpolation::Box);
}
