//! Signals and locks of real processes.
#![cfg(unix)]

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::cli::{Desk, TRAIN};

const PATIENCE: Duration = Duration::from_secs(60);

/// A training run that is too long to end by itself.
fn start(desk: &Desk, flags: &str) -> Child {
    let line = format!("{TRAIN} --train_data_dir=circles --max_train_steps=100000 {flags}");
    desk.command(&line).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
}

fn signal(process: &Child, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &process.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not in a minute");
        sleep(Duration::from_millis(2));
    }
}

/// The exit code and what was said, of a process that must end soon.
fn end(mut process: Child) -> (Option<i32>, String) {
    let mut code = None;
    wait_until("the end", || {
        code = process.try_wait().unwrap();
        code.is_some()
    });
    let mut stderr = String::new();
    process.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    (code.unwrap().code(), stderr)
}

fn has_event(out: &Path, event: &str) -> bool {
    fs::read_to_string(out.join("metrics.jsonl"))
        .is_ok_and(|text| text.contains(&format!("\"event\":\"{event}\"")))
}

#[test]
fn a_signal_ends_a_run_with_exit_code_3_and_a_word_how_to_go_on() {
    for name in ["TERM", "INT"] {
        let desk = Desk::new();
        let run = start(&desk, "--checkpointing_steps=100000");
        wait_until("a step", || has_event(&desk.path("out"), "progress"));
        signal(&run, name);
        let (code, stderr) = end(run);
        assert_eq!(code, Some(3), "{stderr}");
        assert!(stderr.contains("stopping: what was trained is saved first"), "{stderr}");
        assert!(
            stderr.contains("to go on: the same command with --resume_from_checkpoint latest"),
            "{stderr}"
        );
        assert!(has_event(&desk.path("out"), "stopped"));
        let verified = desk.done("checkpoint verify out");
        assert_eq!(verified.lines().count(), 1, "{verified}");
        assert!(verified.contains(": verified, "), "{verified}");
    }
}

#[test]
fn a_signal_before_the_first_step_is_heard_too() {
    let desk = Desk::new();
    let run = start(&desk, "");
    wait_until("the folder", || desk.path("out/.lock").exists());
    signal(&run, "TERM");
    let (code, stderr) = end(run);
    assert_eq!(code, Some(3), "{stderr}");
    let resumed = format!("{TRAIN} --train_data_dir=circles --max_train_steps=2 --quiet");
    if desk.path("out/checkpoint-0").exists() {
        desk.done(&format!("{resumed} --resume_from_checkpoint=latest"));
    }
}

#[test]
fn a_second_signal_does_not_wait() {
    for (name, expected) in [("TERM", 143), ("INT", 130)] {
        let desk = Desk::new();
        // Steps of seconds, in which no signal can end the run in order.
        let line = TRAIN
            .replace("--resolution=32", "--resolution=640 --train_data_dir=circles --num_eval_samples=0");
        let run = desk.command(&line).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        wait_until("the first step", || has_event(&desk.path("out"), "started"));
        sleep(Duration::from_millis(200));
        signal(&run, name);
        sleep(Duration::from_millis(50));
        signal(&run, name);
        let (code, stderr) = end(run);
        assert_eq!(code, Some(expected), "{stderr}");
    }
}

#[test]
fn a_folder_has_one_run_at_a_time_and_a_dead_one_is_taken_over() {
    let desk = Desk::new();
    let mut first = start(&desk, "--checkpointing_steps=1 --checkpoints_total_limit=2");
    wait_until("a checkpoint", || has_event(&desk.path("out"), "checkpoint"));
    let line = format!("{TRAIN} --quiet --train_data_dir=circles --max_train_steps=100000");
    let second = desk.run(&line);
    assert_eq!(second.code, Some(2), "{}", second.stderr);
    let expected = format!("error: `out` is in use: process {} on ", first.id());
    assert!(second.stderr.starts_with(&expected), "{}", second.stderr);

    first.kill().unwrap();
    first.wait().unwrap();
    let pid = first.id();
    let third =
        start(&desk, "--checkpointing_steps=1 --checkpoints_total_limit=2 --resume_from_checkpoint=latest");
    wait_until("the lock", || {
        fs::read_to_string(desk.path("out/.lock")).is_ok_and(|owner| owner.contains(&third.id().to_string()))
    });
    signal(&third, "TERM");
    let (code, stderr) = end(third);
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.contains(&format!("taking over `out` from process {pid} on ")), "{stderr}");
}

#[test]
fn a_demo_that_is_stopped_can_be_continued() {
    let desk = Desk::new();
    let line = "demo all --count 40 --num-samples 2 --steps 6";
    let run = desk.command(line).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    wait_until("the folder", || desk.path("all/tiny-sd/model_index.json").exists());
    signal(&run, "TERM");
    let (code, stderr) = end(run);
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.contains("to go on: the same command with --resume"), "{stderr}");
    desk.done(&format!("{line} --resume --quiet"));
    assert!(desk.path("all/out/config.json").is_file());
}
