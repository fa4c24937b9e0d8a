//! Checkpoints that were changed since they were written, and folders that are none.

use std::fs;
use std::path::{Path, PathBuf};

use pyrograph_train::{Checkpoint, TrainError};

use super::{Bench, latest};

/// Every file below a folder.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() { found.extend(files(&entry.path())) } else { found.push(entry.path()) }
    }
    found
}

#[test]
fn a_flipped_bit_in_any_file_of_a_checkpoint_is_named_and_the_one_before_is_used() {
    let bench = Bench::new();
    bench.run("out", 2, |_| {});
    let newest = bench.out("out/checkpoint-2");
    let files = files(&newest);
    let names: Vec<_> =
        files.iter().map(|path| path.strip_prefix(&newest).unwrap().to_str().unwrap()).collect();
    assert_eq!(names.len(), 5, "{names:?}");
    for (path, name) in files.iter().zip(&names) {
        let good = fs::read(path).unwrap();
        for place in [0, good.len() / 3, good.len() / 2, good.len() - 2] {
            let mut bytes = good.clone();
            bytes[place] ^= 1;
            fs::write(path, &bytes).unwrap();
            let error = Checkpoint::open(&newest).expect_err(name);
            let TrainError::NotACheckpoint { problem, .. } = &error else { panic!("{error}") };
            // A flipped hash in the manifest looks as if its file were damaged.
            assert!(problem.contains(name) || *name == "manifest.json", "{name} at {place}: {problem}");
            let used = Checkpoint::latest(&bench.out("out")).unwrap().position();
            assert_eq!(used.optimizer_step, 1, "{name} at {place}");
        }
        fs::write(path, good).unwrap();
    }
    assert_eq!(Checkpoint::latest(&bench.out("out")).unwrap().position().optimizer_step, 2);
}

#[test]
fn foreign_folders_are_passed_over_and_left_alone() {
    let bench = Bench::new();
    bench.run("out", 2, |_| {});
    let foreign = [
        "checkpoint-abc",
        "checkpoint-12-tmp",
        "checkpoint-999",
        "checkpoint-",
        "checkpoint-18446744073709551616",
    ];
    for name in foreign {
        fs::create_dir(bench.out("out").join(name)).unwrap();
    }
    #[cfg(unix)]
    std::os::unix::fs::symlink("checkpoint-7", bench.out("out/checkpoint-7")).unwrap();
    assert_eq!(Checkpoint::latest(&bench.out("out")).unwrap().position().optimizer_step, 2);
    bench.run("out", 3, |config| {
        latest(config);
        config.checkpoint.checkpoints_total_limit = Some(1.try_into().unwrap());
    });
    assert_eq!(Checkpoint::latest(&bench.out("out")).unwrap().position().optimizer_step, 3);
    assert!(foreign.iter().all(|name| bench.out("out").join(name).is_dir()));
    assert!(!bench.out("out/checkpoint-1").exists() && !bench.out("out/checkpoint-2").exists());
}

#[test]
fn another_run_is_refused_with_every_difference_and_continued_if_forced() {
    let bench = Bench::new();
    bench.run("out", 1, |_| {});
    let other = |config: &mut pyrograph_train::TrainConfig| {
        latest(config);
        config.run.seed = 8;
        config.data.train_batch_size = 1.try_into().unwrap();
    };
    let error = bench.trainer("out", 2, other).map(drop).expect_err("another run").to_string();
    for part in ["`seed` was 7 and is 8", "`train_batch_size` was 2 and is 1"] {
        assert!(error.contains(part), "{error}");
    }
    bench.run("out", 2, |config| {
        other(config);
        config.checkpoint.force_resume = true;
    });
    assert_eq!(Checkpoint::latest(&bench.out("out")).unwrap().position().optimizer_step, 2);
}

#[test]
fn another_base_model_or_data_set_is_refused() {
    let bench = Bench::new();
    bench.run("out", 1, |_| {});
    let base = bench.path.join("other-base");
    crate::cli::copy(&crate::train::base(), &base);
    let unet = base.join("unet/diffusion_pytorch_model.safetensors");
    let mut bytes = fs::read(&unet).unwrap();
    let header = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    // The sign of the first weight.
    bytes[8 + header + 3] ^= 0x80;
    fs::write(&unet, bytes).unwrap();
    let refused = bench.trainer("out", 2, |config| {
        latest(config);
        config.model.pretrained_model_name_or_path = Some(base.clone());
    });
    let error = refused.map(drop).expect_err("another base").to_string();
    assert!(error.contains("belongs to another run: `base model` was "), "{error}");

    let metadata = bench.path.join("circles/train/metadata.jsonl");
    let text = fs::read_to_string(&metadata).unwrap();
    fs::write(&metadata, text.replacen("circle", "square", 1)).unwrap();
    let error = bench.trainer("out", 2, latest).map(drop).expect_err("other captions").to_string();
    assert!(error.contains("belongs to another run: `data set` was "), "{error}");
}

#[test]
fn more_steps_another_log_and_another_length_of_the_learning_rate_are_the_same_run() {
    let bench = Bench::new();
    bench.run("out", 1, |_| {});
    bench.run("out", 3, |config| {
        latest(config);
        config.run.log_every = 2.try_into().unwrap();
        config.checkpoint.checkpointing_steps = 3.try_into().unwrap();
        config.optimizer.learning_rate = Some(1e-4);
    });
    assert_eq!(Checkpoint::latest(&bench.out("out")).unwrap().position().optimizer_step, 3);
}
