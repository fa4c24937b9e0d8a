//! `metrics.jsonl`: one line for each event of a run.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::events::Event;
use crate::{Observer, TrainError};

/// Writes events as lines of JSON.
#[derive(Debug)]
pub(crate) struct MetricsFile {
    path: PathBuf,
    file: File,
}

#[derive(Deserialize)]
struct Line {
    step: Option<u64>,
    resumed_at: Option<u64>,
}

impl MetricsFile {
    /// Opens `metrics.jsonl` in the output folder to continue after `resumed_at` steps.
    ///
    /// What an interrupted run reported after its last checkpoint is dropped, since those steps are made again.
    ///
    /// # Errors
    /// [`TrainError::OutputDir`] if the file cannot be read or written.
    pub(crate) fn open(output_dir: &Path, resumed_at: u64) -> Result<Self, TrainError> {
        let path = output_dir.join("metrics.jsonl");
        let previous = if resumed_at > 0 && path.exists() {
            fs::read_to_string(&path).map_err(TrainError::output_dir(&path))?
        } else {
            String::new()
        };
        let is_before = |line: &&str| {
            serde_json::from_str::<Line>(line)
                .is_ok_and(|line| line.step.or(line.resumed_at).is_some_and(|step| step <= resumed_at))
        };
        // Not a filter: an event may be about an earlier step than the one at which it was told.
        let kept: String = previous.lines().take_while(is_before).flat_map(|line| [line, "\n"]).collect();
        fs::write(&path, kept).map_err(TrainError::output_dir(&path))?;
        let file = OpenOptions::new().append(true).open(&path).map_err(TrainError::output_dir(&path))?;
        Ok(Self { path, file })
    }
}

impl Observer for MetricsFile {
    fn observe(&mut self, event: &Event) -> Result<(), TrainError> {
        let mut line = serde_json::to_string(event).expect("events hold only numbers, strings and paths");
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(TrainError::io(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(step: u64) -> Event {
        Event::Checkpoint { step, path: PathBuf::from(format!("checkpoint-{step}")) }
    }

    #[test]
    fn a_resumed_run_drops_what_was_reported_after_its_checkpoint() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut metrics = MetricsFile::open(dir.path(), 0).expect("a new file");
        for step in [2, 4, 6] {
            metrics.observe(&checkpoint(step)).expect("written");
        }
        metrics.observe(&Event::TookHold { step: 4 }).expect("written, after step 6");
        let mut metrics = MetricsFile::open(dir.path(), 4).expect("continued");
        metrics.observe(&checkpoint(5)).expect("written");
        let text = fs::read_to_string(dir.path().join("metrics.jsonl")).expect("text");
        let steps: Vec<_> = text
            .lines()
            .map(|line| serde_json::from_str::<Line>(line).expect("json").step.expect("a step"))
            .collect();
        assert_eq!(steps, [2, 4, 5]);
    }

    #[test]
    fn a_fresh_run_starts_a_new_file() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join("metrics.jsonl"), "{\"step\":1}\n").expect("written");
        MetricsFile::open(dir.path(), 0).expect("a new file");
        assert_eq!(fs::read_to_string(dir.path().join("metrics.jsonl")).expect("text"), "");
    }
}
