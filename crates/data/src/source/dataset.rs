//! A data set of which every sample is listed.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::find::find;
use super::unpack::{passing_folder, unpacked};
use super::{Columns, Layout, Sample, SourceOptions};
use crate::error::DataError;
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
        let dir = dir.canonicalize().map_err(|source| DataError::Read { path: dir.to_owned(), source })?;
        let found = find(&dir, options)?;
        let mut passing = None;
        let shards = if found.shards.iter().any(|shard| shard.is_packed()) {
            let cache_dir = match &options.cache_dir {
                Some(cache_dir) => cache_dir.clone(),
                None => passing.insert(Arc::new(passing_folder()?)).path().to_owned(),
            };
            unpacked(&dir, found.shards, &options.columns, &cache_dir)?
        } else {
            found.shards
        };
        let mut samples = Vec::new();
        for shard in shards {
            for sample in shard.samples(0)? {
                samples.push(sample?);
            }
        }
        if samples.is_empty() {
            return Err(DataError::Empty { dir });
        }
        let samples = with_unique_ids(samples);
        Ok(Self { dir, layout: found.layout, samples, _unpacked: passing })
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
fn with_unique_ids(mut samples: Vec<Sample>) -> Vec<Sample> {
    let mut seen: HashMap<String, usize> = HashMap::with_capacity(samples.len());
    for sample in &mut samples {
        let count = seen.entry(sample.id.clone()).or_default();
        *count += 1;
        if *count > 1 {
            sample.id = format!("{}#{count}", sample.id);
        }
    }
    samples
}
