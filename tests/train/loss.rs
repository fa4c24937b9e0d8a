//! What the options of the loss do to a run.

use std::fs;
use std::path::Path;

use image::RgbImage;
use pyrograph::backend;
use pyrograph_train::{Event, LossSection, LossType, Observer, TrainConfig, TrainError, Trainer};

use super::{circles, plan};

#[derive(Default)]
struct Losses(Vec<f64>);

impl Observer for Losses {
    fn observe(&mut self, event: &Event) -> Result<(), TrainError> {
        if let Event::Progress(progress) = event {
            self.0.push(progress.loss);
        }
        Ok(())
    }
}

/// The losses of three steps, and the trainer after them.
fn train(dir: &Path, change: impl FnOnce(&mut TrainConfig)) -> (Vec<f64>, Trainer) {
    let plan = plan(dir, &dir.join("out"), |config| {
        config.schedule.max_train_steps = Some(3.try_into().expect("not zero"));
        config.evaluation.num_eval_samples = 0;
        change(config);
    });
    let mut trainer = Trainer::new(plan, &backend::device()).expect("a trainer");
    let mut losses = Losses::default();
    trainer.run(&mut losses).expect("three steps");
    (losses.0, trainer)
}

#[test]
fn every_option_changes_the_loss_from_the_first_step_on() {
    let dir = tempfile::tempdir().expect("a folder");
    circles(dir.path());
    let plain = LossSection::default();
    let mut seen = vec![train(dir.path(), |_| {}).0[0]];
    for (option, loss) in [
        ("snr_gamma", LossSection { snr_gamma: Some(0.1), ..plain }),
        ("huber", LossSection { loss_type: LossType::Huber, ..plain }),
        ("huber_c", LossSection { loss_type: LossType::Huber, huber_c: 0.5, ..plain }),
        ("smooth_l1", LossSection { loss_type: LossType::SmoothL1, ..plain }),
        ("noise_offset", LossSection { noise_offset: 0.1, ..plain }),
        ("rescale_betas_zero_snr", LossSection { rescale_betas_zero_snr: true, ..plain }),
    ] {
        let found = train(dir.path(), |config| config.loss = loss).0[0];
        assert!(found.is_finite() && !seen.contains(&found), "{option}: {found} of {seen:?}");
        seen.push(found);
    }
}

#[test]
fn dropped_hints_are_blank_ones() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = circles(dir.path());
    // Zero convolutions hide the hint in the first two steps.
    let losses = |proportion_empty_hints| {
        let of_six = |config: &mut TrainConfig| {
            config.loss.proportion_empty_hints = proportion_empty_hints;
            config.schedule.max_train_steps = Some(6.try_into().expect("not zero"));
        };
        train(dir.path(), of_six).0
    };
    let [plain, half, dropped] = [0.0, 0.5, 1.0].map(&losses);
    for entry in fs::read_dir(data.join("train/conditioning_images")).expect("hints") {
        RgbImage::new(32, 32).save(entry.expect("an entry").path()).expect("a black hint");
    }
    let blank = losses(0.0);
    assert_eq!(dropped, blank);
    assert!(half != plain && half != blank && plain != blank, "{half:?}");
}

#[test]
fn only_the_middle_is_trained_to_control() {
    let dir = tempfile::tempdir().expect("a folder");
    circles(dir.path());
    for (only_mid_control, gradient_checkpointing) in [(true, false), (true, true), (false, false)] {
        let (_, trainer) = train(dir.path(), |config| {
            config.loss.only_mid_control = only_mid_control;
            config.memory.gradient_checkpointing = gradient_checkpointing;
        });
        let sizes: Vec<f32> = trainer
            .controlnet()
            .zero_convs()
            .map(|conv| conv.weight.val().inner().abs().max().into_scalar::<f32>())
            .collect();
        let (mid, down) = sizes.split_last().expect("the middle's");
        assert!(*mid > 0.0);
        assert!(down.iter().all(|size| (*size == 0.0) == only_mid_control), "{sizes:?}");
    }
}
