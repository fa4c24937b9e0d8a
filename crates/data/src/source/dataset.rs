//! A data set of which every sample is listed.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::find::find_all;
use super::paired_folders::Lacking;
use super::unpack::{passing_folder, unpacked};
use super::{Columns, Layout, Sample, SourceOptions};
use crate::error::DataError;
use crate::quarantine::Quarantine;
use crate::random::{self, Purpose};

/// A data set: at least one sample, every file of which was there when it was opened.
#[derive(Debug, Clone)]
pub struct Dataset {
    dir: PathBuf,
    layout: Layout,
    samples: Vec<Sample>,
    /// What was unpacked, if it goes with the data set.
    _unpacked: Option<Arc<tempfile::TempDir>>,
}

/// Every row of a data set.
#[derive(Debug)]
pub struct Survey {
    /// The folder or file, as an absolute path.
    pub dir: PathBuf,
    /// The layout that was found.
    pub layout: Layout,
    /// The sample of each row, or why it is none.
    pub rows: Vec<Result<Sample, DataError>>,
    /// What was unpacked, if it goes with the survey.
    unpacked: Option<Arc<tempfile::TempDir>>,
}

impl Dataset {
    /// Finds out the layout of a folder or file and lists its samples of the split `train`; no image is decoded yet.
    ///
    /// # Errors
    /// As [`Self::open_with`].
    pub fn open(dir: &Path, columns: &Columns) -> Result<Self, DataError> {
        Self::open_with(dir, &SourceOptions { columns: columns.clone(), ..SourceOptions::default() })
    }

    /// Finds out the layout of a folder or file and lists its samples; no image is decoded yet.
    ///
    /// Compressed pictures are unpacked, unless an earlier run did so.
    ///
    /// # Errors
    /// When no layout fits, and for the first row that cannot be used: a missing column or file, a path that
    /// leaves the folder, an image without its hint.
    pub fn open_with(dir: &Path, options: &SourceOptions) -> Result<Self, DataError> {
        Self::open_without(dir, options, &Quarantine::default())
    }

    /// The same without the samples and rows of a list.
    ///
    /// # Errors
    /// As [`Self::open_with`], but not for rows that are in the list.
    pub fn open_without(dir: &Path, options: &SourceOptions, list: &Quarantine) -> Result<Self, DataError> {
        let (Survey { dir, layout, rows, unpacked }, lacking) = surveyed(dir, options, !list.is_empty())?;
        if let Some(error) = lacking.error(list) {
            return Err(error);
        }
        let is_listed = |row: &Result<Sample, DataError>| list.contains(&row_name(row, &dir));
        let samples: Vec<Sample> =
            rows.into_iter().filter(|row| !is_listed(row)).collect::<Result<_, _>>()?;
        if samples.is_empty() {
            return Err(DataError::Empty { dir });
        }
        Ok(Self { dir, layout, samples, _unpacked: unpacked })
    }

    /// Finds out the layout of a folder or file and lists its rows, those that cannot be used among them.
    ///
    /// Of a file with pictures in its rows, one of which cannot be used, all are kept in memory.
    ///
    /// # Errors
    /// When no layout fits, or a file or folder with rows cannot be read.
    pub fn survey(dir: &Path, options: &SourceOptions) -> Result<Survey, DataError> {
        let (mut survey, lacking) = surveyed(dir, options, true)?;
        survey.rows.extend(lacking.errors().map(Err));
        Ok(survey)
    }

    /// The folder or file, as an absolute path.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The layout that was found.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// All samples, in the order of the rows or, after [`Self::take`], of the draw.
    #[must_use]
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// A hash of what decides the run of a sample through training: ids, captions and the lengths of both files, in order.
    ///
    /// Their contents are not read, which would take minutes for a large data set: a picture that is replaced by another of
    /// as many bytes is not noticed.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for Sample { image, hint, captions, id, .. } in &self.samples {
            // A file that is gone has no length; reading it fails with its name.
            let lengths = [image, hint].map(|content| content.len().unwrap_or(0));
            let texts = [id].into_iter().chain(captions);
            let texts: Vec<_> = texts.map(|text| (text.len(), text)).collect();
            hasher.update(format!("{lengths:?} {texts:?}\n").as_bytes());
        }
        *hasher.finalize().as_bytes()
    }

    /// Keeps `n_samples` samples drawn by `seed` (`--max_train_samples`).
    ///
    /// # Errors
    /// [`DataError::TooFewSamples`] if there are not as many.
    ///
    /// Source: diffusers, `dataset.shuffle(seed).select(range(n))`; our draw is another than numpy's.
    pub fn take(mut self, n_samples: NonZeroUsize, seed: u64) -> Result<Self, DataError> {
        let (requested, available) = (n_samples.get(), self.samples.len());
        if requested > available {
            return Err(DataError::TooFewSamples { requested, available });
        }
        random::shuffle(&mut self.samples, &mut random::rng(seed, 0, "", Purpose::Subset));
        self.samples.truncate(requested);
        Ok(self)
    }

    /// Takes out `n_held_out` samples drawn by `seed`, in the order of the draw. The others keep their order, and
    /// one always stays.
    #[must_use]
    pub fn hold_out(mut self, n_held_out: usize, seed: u64) -> (Self, Vec<Sample>) {
        let mut order: Vec<usize> = (0..self.samples.len()).collect();
        random::shuffle(&mut order, &mut random::rng(seed, 0, "", Purpose::HeldOut));
        order.truncate(n_held_out.min(self.samples.len() - 1));
        let held_out: Vec<Sample> =
            order.iter().map(|&sample_idx| self.samples[sample_idx].clone()).collect();
        let ids: HashSet<&str> = held_out.iter().map(|sample| sample.id.as_str()).collect();
        self.samples.retain(|sample| !ids.contains(sample.id.as_str()));
        (self, held_out)
    }
}

/// Appends `#2`, `#3`, ... to ids that came before, so that two rows with one image draw different noise.
fn with_unique_ids(mut rows: Vec<Result<Sample, DataError>>) -> Vec<Result<Sample, DataError>> {
    let mut seen: HashMap<String, usize> = HashMap::with_capacity(rows.len());
    for sample in rows.iter_mut().flatten() {
        let count = seen.entry(sample.id.clone()).or_default();
        *count += 1;
        if *count > 1 {
            sample.id = format!("{}#{count}", sample.id);
        }
    }
    rows
}

/// All rows, and files without their counterparts. A row that cannot be used is an error, unless it is to be told.
fn surveyed(dir: &Path, options: &SourceOptions, tells_rows: bool) -> Result<(Survey, Lacking), DataError> {
    let dir = dir.canonicalize().map_err(|source| DataError::Read { path: dir.to_owned(), source })?;
    let found = find_all(&dir, options)?;
    let mut passing = None;
    let mut rows = Vec::new();
    for shard in found.shards {
        let mut shards = vec![Arc::clone(&shard)];
        if shard.is_packed() {
            let cache_dir = match (&options.cache_dir, &passing) {
                (Some(cache_dir), _) => cache_dir.clone(),
                (None, Some(folder)) => Arc::<tempfile::TempDir>::clone(folder).path().to_owned(),
                (None, None) => passing.insert(Arc::new(passing_folder()?)).path().to_owned(),
            };
            match unpacked(&dir, vec![shard], &options.columns, &cache_dir) {
                Ok(unpacked) => shards = unpacked,
                Err(DataError::Row { .. }) if tells_rows => {}
                Err(error) => return Err(error),
            }
        }
        for shard in shards {
            for row in shard.samples(0)? {
                match row {
                    // A wrong column is wrong in all of them.
                    Err(error) if !tells_rows => return Err(error),
                    row => rows.push(row),
                }
            }
        }
    }
    let rows = with_unique_ids(rows);
    Ok((Survey { dir, layout: found.layout, rows, unpacked: passing }, found.lacking))
}

/// What a row is called in a [`Quarantine`]: the sample's id, the name that lacks its counterpart, or the file within the data
/// set's folder and the row in it.
pub(crate) fn row_name(row: &Result<Sample, DataError>, dir: &Path) -> String {
    match row {
        Ok(sample) => sample.id.clone(),
        Err(DataError::Row { at, .. }) => {
            let file = at.file.strip_prefix(dir).unwrap_or(&at.file);
            format!("{}:{}", file.display(), at.row)
        }
        Err(DataError::Unpaired { without_hint, without_image, without_caption }) => {
            [without_hint, without_image, without_caption].map(|names| names.join(", ")).concat()
        }
        Err(error) => error.to_string(),
    }
}
