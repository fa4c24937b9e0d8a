//! TensorBoard event files, written while a run goes on.

mod framing;
mod proto;

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::ReportError;
use crate::picture::{Kind, Picture, PictureName};
use crate::record::{Evaluation, Progress, Record, Validation};
use crate::tensorboard::proto::{Event, Summary, Value};

/// Writes the records of a run to a TensorBoard event file of its own.
///
/// The scalars are `train/loss`, `train/lr`, `train/grad_norm`, `train/images_per_second`, `train/memory_bytes`,
/// `eval/loss`, `eval/shuffled_loss`, `eval/control_gap`, `eval/control_gap_error`, `eval/took_hold_step`, for each range of timesteps
/// `eval/loss_t0-249`, and for each zero convolution `zero_conv/weight_norm/down_0` and `zero_conv/residual_rms/down_0`.
/// The pictures are `validation/pair-0` for the first of a pair, `validation/pair-0-image-1` for others, and once
/// `validation/pair-0-hint` and `validation/pair-0-target`.
///
/// The file can be read at any time: every record is written at once, without a buffer.
#[derive(Debug)]
pub struct TensorBoard {
    path: PathBuf,
    file: File,
    resumed_at: u64,
    has_hints: bool,
}

impl TensorBoard {
    /// Starts a new event file in a folder, which is created if needed, to continue after `resumed_at` steps.
    ///
    /// Earlier files stay as they are. The new one tells TensorBoard to forget what they say of later steps, since
    /// those steps are made again; of a run from the start that is everything.
    ///
    /// # Errors
    /// [`ReportError::Write`] if the folder or the file cannot be written.
    pub fn create(log_dir: &Path, resumed_at: u64) -> Result<Self, ReportError> {
        fs::create_dir_all(log_dir).map_err(ReportError::write(log_dir))?;
        let (path, file) = new_file(log_dir)?;
        let mut tensorboard = Self { path, file, resumed_at, has_hints: false };
        tensorboard.write(&Event::file_version(wall_time()))?;
        let first_step = if resumed_at == 0 { 0 } else { resumed_at + 1 };
        tensorboard.write(&Event::session_start(wall_time(), first_step))?;
        Ok(tensorboard)
    }

    /// Writes what a record says; records of steps that the resumed run had made already are ignored.
    ///
    /// Pictures are read from the folder of the validation's grid; those that are missing or damaged are left out.
    ///
    /// # Errors
    /// [`ReportError::Write`] if the file cannot be written, for example because the disk is full.
    pub fn record(&mut self, record: &Record) -> Result<(), ReportError> {
        let Some(step) = record.step() else { return Ok(()) };
        if self.resumed_at > 0 && step <= self.resumed_at {
            return Ok(());
        }
        let values = match record {
            Record::Progress(progress) => progress_values(progress),
            Record::Evaluation(evaluation) => evaluation_values(evaluation),
            Record::Validation(validation) => self.pictures(validation),
            Record::TookHold { step } => vec![scalar("eval/took_hold_step", Some(*step as f64))],
            _ => Vec::new(),
        };
        let values: Vec<Value> = values.into_iter().flatten().collect();
        if values.is_empty() {
            return Ok(());
        }
        self.write(&Event::summary(wall_time(), step, Summary { values }))
    }

    fn pictures(&mut self, validation: &Validation) -> Vec<Option<Value>> {
        let Some(dir) = validation.grid.as_deref().and_then(Path::parent) else { return Vec::new() };
        let mut values = Vec::new();
        for name in PictureName::list(dir) {
            let tag = match name.kind {
                Kind::Hint | Kind::Target if self.has_hints => continue,
                Kind::Drawn(0) => format!("validation/pair-{}", name.pair_idx),
                _ => format!("validation/{name}"),
            };
            values.push(Picture::read(dir, name).and_then(|picture| Value::picture(tag, picture)));
        }
        self.has_hints = true;
        values
    }

    fn write(&mut self, event: &Event) -> Result<(), ReportError> {
        self.file.write_all(&framing::frame(&event.encode())).map_err(ReportError::write(&self.path))
    }
}

/// TensorBoard reads the files of a folder in the order of their names, so these begin with the time.
fn new_file(log_dir: &Path) -> Result<(PathBuf, File), ReportError> {
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut n_before = 0;
    loop {
        let path = log_dir.join(format!("events.out.tfevents.{seconds:010}.pyrograph.{n_before:03}"));
        match File::create_new(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => n_before += 1,
            Err(source) => return Err(ReportError::Write { path, source }),
        }
    }
}

/// Seconds since 1970.
fn wall_time() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// A value that is known and finite.
fn scalar(tag: impl Into<String>, value: Option<f64>) -> Option<Value> {
    value.filter(|value| value.is_finite()).map(|value| Value::scalar(tag.into(), value))
}

fn progress_values(progress: &Progress) -> Vec<Option<Value>> {
    vec![
        scalar("train/loss", progress.loss),
        scalar("train/lr", progress.lr),
        scalar("train/grad_norm", progress.grad_norm),
        scalar("train/images_per_second", progress.images_per_second),
        scalar("train/memory_bytes", progress.memory_bytes.map(|bytes| bytes as f64)),
    ]
}

fn evaluation_values(evaluation: &Evaluation) -> Vec<Option<Value>> {
    let mut values = vec![
        scalar("eval/loss", evaluation.loss),
        scalar("eval/shuffled_loss", evaluation.shuffled_loss),
        scalar("eval/control_gap", evaluation.control_gap),
        scalar("eval/control_gap_error", evaluation.control_gap_error),
    ];
    for bin in &evaluation.bins {
        values.push(scalar(format!("eval/loss_t{}-{}", bin.first, bin.last), bin.loss));
    }
    for conv in &evaluation.zero_convs {
        let name = conv.name.replace(' ', "_");
        values.push(scalar(format!("zero_conv/weight_norm/{name}"), conv.weight_norm));
        values.push(scalar(format!("zero_conv/residual_rms/{name}"), conv.residual_rms));
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_that_tensorboard_writes() {
        // Written by TensorBoard 2.21: its protocol classes and its `RecordWriter`.
        let theirs = include_bytes!("tensorboard/by-tensorboard.tfevents");
        let picture = Picture { png: b"\x89PNG".to_vec(), width: 2, height: 1 };
        let values = vec![
            Value::scalar("train/loss".to_owned(), 0.25),
            Value::scalar("eval/took_hold_step".to_owned(), 0.0),
            Value::picture("validation/pair-0".to_owned(), picture).expect("small"),
        ];
        let events = [
            Event::file_version(1.5),
            Event::session_start(2.5, 8),
            Event::summary(3.5, 300, Summary { values }),
        ];
        let ours: Vec<u8> = events.iter().flat_map(|event| framing::frame(&event.encode())).collect();
        assert_eq!(ours, theirs);
    }

    #[test]
    fn every_session_has_a_file_that_sorts_after_the_earlier_ones() {
        let dir = tempfile::tempdir().expect("a folder");
        let logs = dir.path().join("logs");
        let paths = [0, 3, 3].map(|resumed_at| TensorBoard::create(&logs, resumed_at).expect("a file").path);
        assert!(paths.is_sorted_by(|a, b| a < b), "{paths:?}");
    }
}
