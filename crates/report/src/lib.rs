//! A training run as one self-contained HTML page and as TensorBoard event files.
//!
//! Both are made of the run's records: the lines of its `metrics.jsonl`, a [`Record`] each. [`write_report`] reads them
//! from the run's folder and writes `report.html` beside them; call it whenever there is something new to see.
//! A [`TensorBoard`] is told each record while the run goes on.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use pyrograph_report::{Record, RunFacts, Section, TensorBoard, write_report};
//!
//! let run_dir = Path::new("runs/circles");
//! let mut tensorboard = TensorBoard::create(&run_dir.join("logs"), 0)?;
//! if let Some(record) = Record::parse(br#"{"event":"progress","step":1,"loss":0.42}"#) {
//!     tensorboard.record(&record)?;
//! }
//!
//! let facts = RunFacts {
//!     title: "Circles".to_owned(),
//!     sections: vec![Section { title: "Data".to_owned(), rows: vec![("pairs".to_owned(), "1,000".to_owned())] }],
//!     config_toml: "seed = 0".to_owned(),
//! };
//! let path = write_report(run_dir, &facts)?;
//! # Ok::<(), pyrograph_report::ReportError>(())
//! ```

mod bench;
mod chart;
mod error;
mod format;
mod gallery;
mod page;
mod picture;
mod record;
mod run;
mod tensorboard;
mod verdict;

use std::fs;
use std::path::{Path, PathBuf};

use crate::gallery::{Gallery, LIMITS};
use crate::run::Run;

pub use crate::{
    bench::{BatchPoint, write_bench},
    error::ReportError,
    record::{Bin, Evaluation, Progress, Record, Started, Validation, ZeroConv, read_metrics},
    tensorboard::TensorBoard,
};

/// What the page says of a run that its records do not know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunFacts {
    /// What was trained on what: `Circles on the tiny base`.
    pub title: String,
    /// Tables of facts: data set, hardware, versions, hashes.
    pub sections: Vec<Section>,
    /// The resolved config.
    pub config_toml: String,
}

/// A table of names and values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Section {
    /// What the facts are about.
    pub title: String,
    /// Names and values.
    pub rows: Vec<(String, String)>,
}

/// Writes `report.html` into a run's folder and returns its path.
///
/// The page is complete or the earlier one: it is written beside and renamed. Records and pictures that are missing or
/// damaged are left out.
///
/// # Errors
/// [`ReportError::Read`] if the run has no `metrics.jsonl`, [`ReportError::Write`] if the page cannot be written.
pub fn write_report(run_dir: &Path, facts: &RunFacts) -> Result<PathBuf, ReportError> {
    let run = Run::from_records(read_metrics(run_dir)?);
    let gallery = Gallery::read(run_dir, &run, LIMITS);
    let page = page::page(facts, &run, &gallery);
    let path = run_dir.join("report.html");
    let beside = run_dir.join(".report.html.part");
    fs::write(&beside, page).map_err(ReportError::write(&beside))?;
    fs::rename(&beside, &path).map_err(ReportError::write(&path))?;
    Ok(path)
}
