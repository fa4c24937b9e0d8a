//! A run that is interrupted and resumed gives the bits of a run that is not.

use std::fs;
use std::path::{Path, PathBuf};

use pyrograph::backend;
use pyrograph_train::{Checkpoint, Event, Observer, TrainConfig, TrainError, Trainer};

use super::{circles, plan};

const STEPS: u64 = 8;
const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// Fails like a crash when an optimizer step is done.
struct CrashAfter(u64);

impl Observer for CrashAfter {
    fn observe(&mut self, event: &Event) -> Result<(), TrainError> {
        match event {
            Event::Progress(progress) if progress.step == self.0 => {
                Err(TrainError::io(Path::new("crash"))(std::io::Error::other("simulated")))
            }
            _ => Ok(()),
        }
    }
}

fn run(
    dir: &Path,
    out: &Path,
    change: impl Fn(&mut TrainConfig),
    observer: &mut dyn Observer,
) -> Result<(), TrainError> {
    let plan = plan(dir, out, |config| {
        config.schedule.max_train_steps = Some(STEPS.try_into().expect("not zero"));
        config.schedule.lr_scheduler = pyrograph_train::LrScheduler::Cosine;
        config.schedule.lr_warmup_steps = 2;
        config.checkpoint.checkpointing_steps = 1.try_into().expect("not zero");
        change(config);
    });
    Trainer::new(plan, &backend::device())?.run(observer).map(drop)
}

/// Every file that a run's numbers decide.
fn result(out: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let checkpoint = PathBuf::from(format!("checkpoint-{STEPS}"));
    let average = checkpoint.join("controlnet_ema");
    let mut files = [WEIGHTS, "config.json"].map(PathBuf::from).to_vec();
    files.push(checkpoint.join("optimizer.safetensors"));
    files.push(checkpoint.join("controlnet").join(WEIGHTS));
    if out.join("unet").exists() {
        files.extend([PathBuf::from("unet"), checkpoint.join("unet")].map(|unet| unet.join(WEIGHTS)));
    }
    if out.join(&average).exists() {
        files.extend([average.join(WEIGHTS), average.join("config.json")]);
    }
    let read = |file: PathBuf| {
        let bytes = fs::read(out.join(&file)).unwrap_or_else(|_| panic!("{}", file.display()));
        (file, bytes)
    };
    files.into_iter().map(read).collect()
}

/// With 5 samples and batches of 2 an epoch has 3 micro-batches, so accumulation 2 ends each with a short group.
fn check(
    accumulation: usize,
    workers_before: usize,
    workers_after: usize,
    change: impl Fn(&mut TrainConfig),
) {
    let dir = tempfile::tempdir().expect("a folder");
    circles(dir.path());
    check_in(dir.path(), accumulation, workers_before, workers_after, change);
}

fn check_in(
    dir: &Path,
    accumulation: usize,
    workers_before: usize,
    workers_after: usize,
    change: impl Fn(&mut TrainConfig),
) {
    let settings = |workers: usize| {
        let change = &change;
        move |config: &mut TrainConfig| {
            change(config);
            config.optimizer.gradient_accumulation_steps = accumulation.try_into().expect("not zero");
            config.data.dataloader_num_workers = workers;
        }
    };
    let straight = dir.join("straight");
    run(dir, &straight, settings(workers_before), &mut ()).expect("a run");
    let expected = result(&straight);
    for crash_step in 1..STEPS {
        let out = dir.join(format!("crash-{crash_step}"));
        // The crash comes after the step and before its checkpoint, so the step is made again.
        run(dir, &out, settings(workers_before), &mut CrashAfter(crash_step)).expect_err("a crash");
        let resume_from = (crash_step > 1).then(|| PathBuf::from("latest"));
        let resumed = |config: &mut TrainConfig| {
            settings(workers_after)(config);
            config.checkpoint.resume_from_checkpoint = resume_from.clone();
        };
        run(dir, &out, resumed, &mut ()).expect("the rest of the run");
        assert!(result(&out) == expected, "resumed at step {crash_step} with accumulation {accumulation}");
    }
}

#[test]
fn resuming_at_any_step_equals_not_stopping() {
    check(1, 2, 2, |_| {});
}

#[test]
fn resuming_at_any_step_with_accumulation_and_other_workers_equals_not_stopping() {
    check(2, 3, 0, |_| {});
}

#[test]
fn a_trained_decoder_is_continued_at_any_step_as_if_the_run_had_not_stopped() {
    check(1, 0, 0, |config| config.model.sd_locked = false);
}

#[test]
fn an_average_is_continued_at_any_step_as_if_the_run_had_not_stopped() {
    check(1, 0, 0, |config| {
        config.ema.use_ema = true;
        config.ema.ema_decay = 0.3;
    });
}

/// Rows come from a buffer of two, one of them cannot be decoded, and captions are not known before they come.
#[test]
fn a_stream_is_continued_at_any_step_as_if_the_run_had_not_stopped() {
    let dir = tempfile::tempdir().expect("a folder");
    let circles = circles(dir.path());
    fs::write(circles.join("train/images/00003.png"), "not a picture").expect("a bad picture");
    check_in(dir.path(), 1, 2, 0, |config| {
        config.data.streaming = true;
        config.data.shuffle_buffer = 2.try_into().expect("not zero");
    });
}

#[test]
fn a_sample_that_cannot_be_decoded_is_left_out_and_told_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let circles = circles(dir.path());
    fs::write(circles.join("train/images/00003.png"), "not a picture").expect("a bad picture");
    let mut warnings = Warnings::default();
    let settings = |config: &mut TrainConfig| config.data.train_batch_size = 1.try_into().expect("not zero");
    run(dir.path(), &dir.path().join("out"), settings, &mut warnings).expect("a run");
    let Warnings(warnings) = warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("without a sample (1 left out so far)"), "{warnings:?}");
    assert!(warnings[0].contains("metadata.jsonl:4: cannot decode"), "{warnings:?}");

    let none = |config: &mut TrainConfig| config.data.max_bad_samples = Some(0);
    let error = run(dir.path(), &dir.path().join("strict"), none, &mut ()).expect_err("none may be left out");
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert_eq!(cause, "1 of 5 samples cannot be used, 0 may be left out");
}

#[derive(Default)]
struct Warnings(Vec<String>);

impl Observer for Warnings {
    fn observe(&mut self, event: &Event) -> Result<(), TrainError> {
        if let Event::Warning { message, .. } = event {
            self.0.extend(message.contains("without a sample").then(|| message.clone()));
        }
        Ok(())
    }
}

#[test]
fn only_the_newest_checkpoints_are_kept_and_foreign_folders_are_left_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    circles(dir.path());
    let out = dir.path().join("out");
    for foreign in ["checkpoint-best", "checkpoint-900"] {
        fs::create_dir_all(out.join(foreign)).expect("a folder");
    }
    let limited = |config: &mut TrainConfig| {
        config.checkpoint.checkpoints_total_limit = Some(2.try_into().expect("not zero"));
        config.checkpoint.checkpointing_steps = 2.try_into().expect("not zero");
    };
    run(dir.path(), &out, limited, &mut ()).expect("a run");
    let mut names: Vec<String> = fs::read_dir(&out)
        .expect("the output folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("checkpoint"))
        .collect();
    names.sort();
    assert_eq!(names, ["checkpoint-6", "checkpoint-8", "checkpoint-900", "checkpoint-best"]);
    let latest = Checkpoint::latest(&out).expect("the newest complete one");
    assert_eq!(latest.position().optimizer_step, 8);
}

#[test]
fn a_damaged_checkpoint_is_skipped_by_latest_and_refused_by_name() {
    let dir = tempfile::tempdir().expect("a folder");
    circles(dir.path());
    let out = dir.path().join("out");
    run(dir.path(), &out, |_| {}, &mut ()).expect("a run");
    let weights = out.join("checkpoint-8/controlnet/diffusion_pytorch_model.safetensors");
    let mut bytes = fs::read(&weights).expect("weights");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&weights, bytes).expect("one flipped bit");
    assert_eq!(Checkpoint::latest(&out).expect("the one before").position().optimizer_step, 7);
    let error = Checkpoint::open(&out.join("checkpoint-8")).expect_err("damaged").to_string();
    assert!(error.contains("diffusion_pytorch_model.safetensors` is damaged"), "{error}");
}

#[test]
fn a_checkpoint_of_other_settings_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    circles(dir.path());
    let out = dir.path().join("out");
    run(dir.path(), &out, |_| {}, &mut ()).expect("a run");
    let other_seed = |config: &mut TrainConfig| {
        config.run.seed = 8;
        config.checkpoint.resume_from_checkpoint = Some("latest".into());
    };
    let error = run(dir.path(), &out, other_seed, &mut ()).expect_err("another seed").to_string();
    assert!(error.contains("`seed` was 7 and is 8"), "{error}");
}
