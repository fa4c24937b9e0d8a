//! Several processes under `mpirun`: one run, whose end is everybody's.

use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use safetensors::SafeTensors;

use super::{Desk, TRAIN, names};

const DATA: &str = "--train_data_dir=circles --num_eval_samples=2 --learning_rate=1e-3";
const WEIGHTS: &str = "out/diffusion_pytorch_model.safetensors";
/// How long a run may go on after one of its processes has died.
const FAREWELL: Duration = Duration::from_secs(30);

/// The command under `mpirun`.
fn mpirun(desk: &Desk, n_ranks: usize, line: &str) -> Command {
    let alone = desk.command(line);
    let mut command = Command::new("mpirun");
    command.args(["--allow-run-as-root", "--oversubscribe", "-n", &n_ranks.to_string()]);
    command.arg(alone.get_program()).args(alone.get_args());
    command.current_dir(desk.path("")).stdin(Stdio::null());
    for (name, value) in alone.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

fn weights(desk: &Desk) -> Vec<f32> {
    let bytes = fs::read(desk.path(WEIGHTS)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut names = tensors.names();
    names.sort();
    let numbers = names.into_iter().flat_map(|name| {
        let (numbers, _) = tensors.tensor(name).unwrap().data().as_chunks();
        numbers.iter().map(|number| f32::from_le_bytes(*number)).collect::<Vec<_>>()
    });
    numbers.collect()
}

#[track_caller]
fn assert_near(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-3, "{found} is not {expected}");
    }
}

#[test]
fn processes_are_one_run_that_another_number_of_them_continues() {
    let desk = Desk::new();
    let line = |batch: usize, steps: usize| {
        format!("{TRAIN} {DATA} --checkpointing_steps=3 --train_batch_size={batch} --max_train_steps={steps}")
    };
    desk.done(&line(4, 6));
    let expected = weights(&desk);
    fs::remove_dir_all(desk.path("out")).unwrap();

    let told = desk.finish(mpirun(&desk, 2, &line(2, 6)));
    assert_eq!(told.code, Some(0), "{}", told.stderr);
    assert_eq!(told.stderr.matches("memory plan").count(), 1, "one of them speaks: {}", told.stderr);
    assert_near(&weights(&desk), &expected);
    fs::remove_dir_all(desk.path("out")).unwrap();

    assert_eq!(desk.finish(mpirun(&desk, 4, &line(1, 3))).code, Some(0));
    let resumed = line(2, 6) + " --resume_from_checkpoint=latest";
    let told = desk.finish(mpirun(&desk, 2, &resumed));
    assert_eq!(told.code, Some(0), "{}", told.stderr);
    assert_near(&weights(&desk), &expected);
}

/// A run of two processes that has saved a checkpoint.
fn begun(desk: &Desk) -> (Child, Vec<u32>) {
    let line =
        format!("{TRAIN} {DATA} --checkpointing_steps=2 --train_batch_size=2 --max_train_steps=100000");
    let run = mpirun(desk, 2, &line).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let since = Instant::now();
    while !desk.path("out/checkpoint-2").exists() {
        assert!(since.elapsed() < Duration::from_secs(120), "no checkpoint");
        thread::sleep(Duration::from_millis(20));
    }
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", run.id())).unwrap();
    let ranks: Vec<u32> = children.split_whitespace().map(|id| id.parse().unwrap()).collect();
    assert_eq!(ranks.len(), 2, "{children}");
    (run, ranks)
}

fn kill(signal: &str, process: u32) {
    assert!(Command::new("kill").args([signal, &process.to_string()]).status().unwrap().success());
}

/// The exit code and what was told.
fn ended(mut run: Child) -> (Option<i32>, String) {
    let since = Instant::now();
    while run.try_wait().unwrap().is_none() {
        assert!(since.elapsed() < FAREWELL, "the others go on");
        thread::sleep(Duration::from_millis(50));
    }
    let mut told = String::new();
    run.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    (run.wait().unwrap().code(), told)
}

#[test]
fn a_signal_to_any_process_stops_all_with_what_was_trained() {
    for rank in [0, 1] {
        let desk = Desk::new();
        let (run, ranks) = begun(&desk);
        kill("-USR1", ranks[rank]);
        let (code, told) = ended(run);
        assert_eq!(code, Some(3), "{told}");
        let checkpoints = names(&desk.path("out"));
        let newest =
            checkpoints.iter().filter_map(|name| name.strip_prefix("checkpoint-")?.parse::<u64>().ok());
        let next = newest.max().unwrap() + 1;
        let line = format!(
            "{TRAIN} {DATA} --train_batch_size=4 --max_train_steps={next} --resume_from_checkpoint=latest"
        );
        desk.done(&line);
    }
}

#[test]
fn a_process_that_is_killed_ends_all_and_the_run_can_be_continued() {
    for rank in [0, 1] {
        let desk = Desk::new();
        let (run, ranks) = begun(&desk);
        kill("-KILL", ranks[rank]);
        let (code, told) = ended(run);
        assert_ne!(code, Some(0));
        assert!(told.contains("signal 9"), "{told}");
        let told = desk.done("checkpoint list out");
        assert!(told.contains("checkpoint-2"), "{told}");
        let line = format!("{TRAIN} {DATA} --train_batch_size=4 --resume_from_checkpoint=latest");
        let newest = names(&desk.path("out"));
        let newest = newest.iter().filter_map(|name| name.strip_prefix("checkpoint-")?.parse::<u64>().ok());
        desk.done(&format!("{line} --max_train_steps={}", newest.max().unwrap() + 1));
    }
}

#[test]
fn an_error_of_one_process_is_told_and_ends_all() {
    let desk = Desk::new();
    fs::write(desk.path("circles/train/images/00003.png"), "no picture").unwrap();
    let line = format!("{TRAIN} {DATA} --train_batch_size=2 --max_train_steps=100 --max_bad_samples=0");
    let told = desk.finish(mpirun(&desk, 2, &line));
    assert_ne!(told.code, Some(0));
    assert!(told.stderr.contains("00003.png"), "{}", told.stderr);
}
