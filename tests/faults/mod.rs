//! What goes wrong on the way, and that nothing is lost by it: `docs/reliability.md` says what is promised.
//!
//! Faults are injected through the seams that a program has, too: a [`Disk`](pyrograph_weights::Disk) that dies, a
//! [`Tap`](pyrograph_train::Tap) on the steps, a [`Stop`](pyrograph_train::Stop). Where a process must really end, one is
//! started.

mod contents;
mod disk;
mod kill;
mod numbers;
mod phases;
mod power;
mod replay;
mod signals;
mod space;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use pyrograph::backend;
use pyrograph_train::{Event, Observer, RunEnd, TrainConfig, TrainError, Trainer};
use serde_json::Value;

/// A folder with five pairs of circles, in which runs are made.
struct Bench {
    /// Deletes the folder at the end.
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        crate::train::circles(dir.path());
        Self { path: dir.path().to_owned(), _dir: dir }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A run of some steps with a checkpoint after each, of which `limit` are kept.
    fn trainer(
        &self,
        out: &str,
        steps: u64,
        change: impl FnOnce(&mut TrainConfig),
    ) -> Result<Trainer, TrainError> {
        let plan = crate::train::plan(&self.path, &self.out(out), |config| {
            config.schedule.max_train_steps = Some(steps.try_into().unwrap());
            config.schedule.lr_scheduler = pyrograph_train::LrScheduler::Cosine;
            config.schedule.lr_warmup_steps = 2;
            config.checkpoint.checkpointing_steps = 1.try_into().unwrap();
            config.data.dataloader_num_workers = 0;
            config.evaluation.num_eval_samples = 0;
            change(config);
        });
        Trainer::new(plan, &backend::device())
    }

    fn run(&self, out: &str, steps: u64, change: impl FnOnce(&mut TrainConfig)) -> RunEnd {
        self.trainer(out, steps, change).unwrap().run(&mut ()).unwrap()
    }

    /// Everything that the numbers of a run of `steps` steps decide.
    fn result(&self, out: &str, steps: u64) -> BTreeMap<String, Vec<u8>> {
        let checkpoint = format!("checkpoint-{steps}");
        [
            "diffusion_pytorch_model.safetensors".to_owned(),
            format!("{checkpoint}/controlnet/diffusion_pytorch_model.safetensors"),
            format!("{checkpoint}/optimizer.safetensors"),
        ]
        .into_iter()
        .map(|name| {
            let bytes = fs::read(self.out(out).join(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
            (name, bytes)
        })
        .collect()
    }
}

/// Lets a run continue, or start if there is nothing to continue from.
fn latest(config: &mut TrainConfig) {
    let is_there = pyrograph_train::Checkpoint::latest(&config.run.output_dir).is_ok();
    config.checkpoint.resume_from_checkpoint = is_there.then(|| "latest".into());
}

/// The lines of `metrics.jsonl`, without what differs between two runs of the same numbers.
fn metrics(out: &Path) -> Vec<Value> {
    let text = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let is_of_numbers = |line: &Value| {
        !["started", "checkpoint", "stopped", "best", "finished"].contains(&line["event"].as_str().unwrap())
    };
    lines
        .filter(is_of_numbers)
        .map(|mut line| {
            for key in ["seconds", "memory_bytes", "images_per_second", "grid"] {
                line.as_object_mut().unwrap().remove(key);
            }
            line
        })
        .collect()
}

/// Keeps the events, and does something at some of them.
struct Watch<F: FnMut(&Event)> {
    events: Vec<Event>,
    at: F,
}

impl<F: FnMut(&Event)> Watch<F> {
    fn new(at: F) -> Self {
        Self { events: Vec::new(), at }
    }

    fn warnings(&self) -> Vec<&str> {
        self.events
            .iter()
            .filter_map(|event| match event {
                Event::Warning { message, .. } => Some(message.as_str()),
                _ => None,
            })
            .collect()
    }
}

impl<F: FnMut(&Event)> Observer for Watch<F> {
    fn observe(&mut self, event: &Event) -> Result<(), TrainError> {
        (self.at)(event);
        self.events.push(event.clone());
        Ok(())
    }
}
