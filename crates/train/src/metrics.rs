//! `metrics.jsonl`: one line for each event of a run.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pyrograph_weights::Disk;
use serde::Deserialize;

use crate::TrainError;
use crate::events::Event;

/// Lines that are kept for a disk that takes none; at one for each step, hours of training.
const MAX_WAITING: usize = 10_000;

/// Writes events as lines of JSON. A disk that is full or gone never ends a run: lines wait for it.
#[derive(Debug)]
pub(crate) struct MetricsFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    waiting: VecDeque<String>,
    /// Whether the file may end in the middle of a line.
    is_torn: bool,
    n_lost: usize,
}

#[derive(Deserialize)]
struct Line {
    event: String,
    step: Option<u64>,
    resumed_at: Option<u64>,
}

impl MetricsFile {
    /// Begins `metrics.jsonl` in the output folder, or continues that of a run resumed at this step.
    ///
    /// What an interrupted run reported after its last checkpoint is dropped, since those steps are made again.
    ///
    /// # Errors
    /// [`TrainError::OutputDir`] if the file cannot be read or written: before the first step, somebody can still name
    /// another folder.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        output_dir: &Path,
        resumed_at: Option<u64>,
    ) -> Result<Self, TrainError> {
        let path = output_dir.join("metrics.jsonl");
        let kept = match resumed_at {
            Some(step) if path.exists() => {
                before(&fs::read_to_string(&path).map_err(TrainError::output_dir(&path))?, step)
            }
            _ => String::new(),
        };
        // Beside it first: a run that is killed here loses nothing of the earlier one.
        let beside = output_dir.join(".metrics.jsonl.part");
        let write = || {
            let mut file = disk.create(&beside)?;
            file.write_all(kept.as_bytes())?;
            drop(file);
            disk.rename(&beside, &path)
        };
        write().map_err(TrainError::output_dir(&path))?;
        Ok(Self { disk, path, waiting: VecDeque::new(), is_torn: false, n_lost: 0 })
    }

    /// Writes the event, and those that could not be written before.
    pub(crate) fn record(&mut self, event: &Event) {
        let line = serde_json::to_string(event).expect("events hold only numbers, strings and paths");
        let was_waiting = !self.waiting.is_empty();
        if self.waiting.len() == MAX_WAITING {
            self.waiting.pop_front();
            self.n_lost += 1;
        }
        self.waiting.push_back(line);
        let written = self.write();
        let path = self.path.display();
        match written {
            Ok(()) if was_waiting => {
                tracing::info!("`{path}` can be written again; {} of its lines are lost", self.n_lost);
            }
            Ok(()) => {}
            Err(_) if was_waiting => {}
            Err(error) => tracing::warn!("`{path}` cannot be written, its lines wait: {error}"),
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let mut file = self.disk.append(&self.path)?;
        while let Some(line) = self.waiting.front() {
            let start = if self.is_torn { "\n" } else { "" };
            self.is_torn = true;
            file.write_all(format!("{start}{line}\n").as_bytes())?;
            self.is_torn = false;
            self.waiting.pop_front();
        }
        Ok(())
    }
}

/// The lines of a run up to the checkpoint of `resumed_at` steps; torn ones are left out.
fn before(text: &str, resumed_at: u64) -> String {
    let mut kept = String::new();
    for line in text.lines() {
        let Ok(Line { event, step, resumed_at: started_at }) = serde_json::from_str(line) else { continue };
        // Not a filter: an event may be about an earlier step than the one at which it was told.
        if step.or(started_at).is_none_or(|step| step > resumed_at) {
            break;
        }
        kept.extend([line, "\n"]);
        if event == "checkpoint" && step == Some(resumed_at) {
            break;
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use pyrograph_weights::SystemDisk;

    use super::*;

    fn open(dir: &Path, resumed_at: Option<u64>) -> MetricsFile {
        MetricsFile::open(Arc::new(SystemDisk), dir, resumed_at).expect("a file")
    }

    fn checkpoint(step: u64) -> Event {
        Event::Checkpoint { step, path: PathBuf::from(format!("checkpoint-{step}")) }
    }

    fn steps(dir: &Path) -> Vec<u64> {
        let text = fs::read_to_string(dir.join("metrics.jsonl")).expect("text");
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
        lines.map(|line| line.step.expect("a step")).collect()
    }

    #[test]
    fn a_resumed_run_drops_what_was_reported_after_its_checkpoint() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut metrics = open(dir.path(), None);
        for step in [2, 4, 6] {
            metrics.record(&checkpoint(step));
        }
        // Told late, after step 6.
        metrics.record(&Event::TookHold { step: 4 });
        open(dir.path(), Some(4)).record(&checkpoint(5));
        assert_eq!(steps(dir.path()), [2, 4, 5]);
    }

    #[test]
    fn what_was_reported_between_a_checkpoint_and_the_next_step_is_reported_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut metrics = open(dir.path(), None);
        metrics.record(&checkpoint(2));
        metrics.record(&Event::Warning { step: 2, message: "after it".to_owned() });
        drop(open(dir.path(), Some(2)));
        assert_eq!(steps(dir.path()), [2]);
    }

    #[test]
    fn a_torn_line_costs_no_other() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut metrics = open(dir.path(), None);
        metrics.record(&checkpoint(2));
        metrics.disk.append(&metrics.path).expect("there").write_all(b"{\"event\":").expect("written");
        metrics.is_torn = true;
        metrics.record(&checkpoint(4));
        metrics.record(&checkpoint(6));
        assert_eq!(steps(dir.path()), [2, 4, 6]);
        drop(open(dir.path(), Some(6)));
        assert_eq!(steps(dir.path()), [2, 4, 6]);
    }

    #[test]
    fn a_fresh_run_starts_a_new_file() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join("metrics.jsonl"), "{\"step\":1}\n").expect("written");
        open(dir.path(), None);
        assert_eq!(fs::read_to_string(dir.path().join("metrics.jsonl")).expect("text"), "");
    }
}
