//! Checkpoints on disk: which are kept, and that a run survives being killed at any moment.

use std::fs;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use expect_test::expect;

use super::{Desk, TRAIN, names};

/// The steps of the checkpoints in `out`, in order.
fn checkpoints(desk: &Desk) -> Vec<u32> {
    let names = names(&desk.path("out"));
    let mut steps: Vec<u32> = names
        .iter()
        .filter_map(|name| name.strip_prefix("checkpoint-"))
        .map(|step| step.parse().unwrap())
        .collect();
    steps.sort_unstable();
    steps
}

fn train(desk: &Desk, flags: &str) {
    desk.done(&format!(
        "{TRAIN} --train_data_dir=circles --train_batch_size=1 --checkpointing_steps=2 {flags}"
    ));
}

/// Source: diffusers 0.42.1, `examples/controlnet/test_controlnet.py`.
#[test]
fn the_newest_checkpoints_up_to_the_limit_are_kept() {
    let desk = Desk::new();
    train(&desk, "--max_train_steps=6 --checkpoints_total_limit=2");
    assert_eq!(checkpoints(&desk), [4, 6]);
}

/// Source: diffusers 0.42.1, `examples/controlnet/test_controlnet.py`.
#[test]
fn a_resumed_run_trims_the_checkpoints_of_the_first() {
    let desk = Desk::new();
    train(&desk, "--max_train_steps=6");
    assert_eq!(checkpoints(&desk), [2, 4, 6]);
    train(&desk, "--max_train_steps=8 --resume_from_checkpoint=checkpoint-6 --checkpoints_total_limit=2");
    assert_eq!(checkpoints(&desk), [6, 8]);
}

#[test]
fn what_a_killed_run_was_writing_or_deleting_is_cleared_away() {
    let desk = Desk::new();
    desk.write("out/.checkpoint-9.incomplete/state.json", "{");
    desk.write("out/.checkpoint-7.deleted/state.json", "{");
    desk.write("out/.checkpoint-notes/mine.txt", "");
    train(&desk, "--max_train_steps=2");
    let hidden: Vec<_> = names(&desk.path("out")).into_iter().filter(|name| name.starts_with('.')).collect();
    assert_eq!(hidden, [".checkpoint-notes", ".lock"]);
}

#[test]
fn a_damaged_checkpoint_is_refused_by_name_and_skipped_as_the_latest() {
    let desk = Desk::new();
    train(&desk, "--max_train_steps=4");
    let optimizer = "out/checkpoint-4/optimizer.safetensors";
    let bytes = fs::read(desk.path(optimizer)).unwrap();
    desk.write(optimizer, &bytes[..bytes.len() - 1]);

    let line = format!("{TRAIN} --train_data_dir=circles --train_batch_size=1 --max_train_steps=4 --quiet");
    desk.refuses(
        &format!("{line} --resume_from_checkpoint=checkpoint-4"),
        expect![[r#"
            error: `out/checkpoint-4` is not a complete checkpoint: `optimizer.safetensors` is damaged: it has 3493215 bytes, expected 3493216

            hint: give a folder `checkpoint-N` that a run has written, or `latest` for the newest complete one
        "#]],
    );
    let stdout = desk.done(&format!("{line} --resume_from_checkpoint=latest --log-format=json"));
    assert!(stdout.lines().next().unwrap().contains("\"resumed_at\":2"), "{stdout}");
}

#[test]
fn a_checkpoint_of_other_settings_is_refused() {
    let desk = Desk::new();
    train(&desk, "--max_train_steps=2");
    desk.refuses(
        &format!("{TRAIN} --train_data_dir=circles --train_batch_size=2 --resume_from_checkpoint=latest"),
        expect![[r#"
            error: `out/checkpoint-2` belongs to another run: `train_batch_size` was 1 and is 2

            hint: resume with the settings of that run, start a new one in another --output_dir, or continue all the same with --force_resume
        "#]],
    );
}

#[test]
fn a_run_killed_at_any_moment_ends_as_if_it_had_not_been() {
    let line = format!(
        "{TRAIN} --train_data_dir=circles --train_batch_size=2 --gradient_accumulation_steps=2 --learning_rate=1e-3 \
         --max_train_steps=40 --checkpointing_steps=1 --checkpoints_total_limit=3 --quiet"
    );
    let uninterrupted = Desk::new();
    uninterrupted.done(&line);

    let desk = Desk::new();
    // So many new checkpoints, then a pause that ends anywhere between two of them.
    for (n_checkpoints, pause_ms) in [(2, 3), (9, 11), (5, 26), (1, 0)] {
        let first = checkpoints_so_far(&desk);
        let resume = if first == 0 { "" } else { "--resume_from_checkpoint=latest" };
        let mut run = desk.command(&format!("{line} {resume}")).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while checkpoints_so_far(&desk) < first + n_checkpoints {
            assert!(run.try_wait().unwrap().is_none(), "the run ended before it could be killed");
            assert!(Instant::now() < deadline, "no checkpoint in a minute");
            sleep(Duration::from_millis(1));
        }
        sleep(Duration::from_millis(pause_ms));
        run.kill().unwrap();
        run.wait().unwrap();
    }
    let killed_at = checkpoints_so_far(&desk);
    assert!(killed_at < 40, "the run was never interrupted");
    desk.done(&format!("{line} --resume_from_checkpoint=latest"));

    assert_eq!(names(&desk.path("out")), names(&uninterrupted.path("out")));
    for file in ["diffusion_pytorch_model.safetensors", "checkpoint-40/optimizer.safetensors"] {
        let bytes = |desk: &Desk| fs::read(desk.path("out").join(file)).unwrap();
        assert!(bytes(&desk) == bytes(&uninterrupted), "{file} differs after a kill at step {killed_at}");
    }
}

/// The newest checkpoint of a run that may be writing another one.
fn checkpoints_so_far(desk: &Desk) -> u32 {
    if desk.path("out").exists() { checkpoints(desk).last().copied().unwrap_or(0) } else { 0 }
}
