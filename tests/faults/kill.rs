//! Processes that are killed at moments nobody has chosen.

use std::fs;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use pyrograph_data::random::{self, Purpose};

use crate::cli::{Desk, TRAIN};

/// Kills in a run of the whole suite; `PYROGRAPH_KILLS` asks for more.
const N_KILLS: u64 = 12;

/// The longest that a process may live: starting takes a third of it.
const MAX_LIFE_MS: usize = 900;

#[test]
fn a_run_killed_at_random_moments_ends_as_if_it_had_not_been() {
    let n_kills = std::env::var("PYROGRAPH_KILLS").map_or(N_KILLS, |count| count.parse().unwrap());
    // More than are made between the kills, which would otherwise find a run that has ended.
    let n_steps = 14 * n_kills;
    let line = format!(
        "{TRAIN} --train_data_dir=circles --train_batch_size=2 --gradient_accumulation_steps=2 --learning_rate=1e-3 \
         --max_train_steps={n_steps} --checkpointing_steps=1 --checkpoints_total_limit=2 --num_eval_samples=0 --quiet"
    );
    let uninterrupted = Desk::new();
    uninterrupted.done(&line);

    let desk = Desk::new();
    // Other moments each time; what fails can be found by its seed.
    let seed = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let (mut n_killed, mut furthest) = (0, 0);
    for kill in 0..n_kills {
        let resume = if newest(&desk) == 0 { "" } else { "--resume_from_checkpoint=latest" };
        let mut run = desk.command(&format!("{line} {resume}")).stderr(Stdio::null()).spawn().unwrap();
        let life = random::below(&mut random::rng(seed, kill, "", Purpose::Order), MAX_LIFE_MS);
        sleep(Duration::from_millis(life as u64));
        n_killed += u64::from(run.try_wait().unwrap().is_none());
        run.kill().unwrap();
        run.wait().unwrap();
        let verified = desk.run("checkpoint verify out");
        assert!(
            newest(&desk) == 0 || verified.code == Some(0),
            "seed {seed}, kill {kill}: {}",
            verified.stdout
        );
        assert!(newest(&desk) >= furthest, "seed {seed}, kill {kill}: a checkpoint is lost");
        furthest = newest(&desk);
    }
    assert!(n_killed > n_kills / 2, "seed {seed}: only {n_killed} were alive");
    let resume = if newest(&desk) == 0 { "" } else { "--resume_from_checkpoint=latest" };
    desk.done(&format!("{line} {resume}"));
    for file in
        ["diffusion_pytorch_model.safetensors", &format!("checkpoint-{n_steps}/optimizer.safetensors")]
    {
        let bytes = |desk: &Desk| fs::read(desk.path("out").join(file)).unwrap();
        assert!(
            bytes(&desk) == bytes(&uninterrupted),
            "seed {seed}: {file} differs, killed {n_killed} times up to step {furthest}"
        );
    }
    println!("killed {n_killed} times, the last time after step {furthest} of {n_steps}");
}

/// The step of the newest checkpoint; 0 if there is none.
fn newest(desk: &Desk) -> u64 {
    let names = fs::read_dir(desk.path("out")).into_iter().flatten().map(|entry| entry.unwrap().file_name());
    let step = |name: &std::ffi::OsString| name.to_str()?.strip_prefix("checkpoint-")?.parse().ok();
    names.filter_map(|name| step(&name)).max().unwrap_or(0)
}
