//! Where samples come from: the folder layouts that are read, and what they have in common.

mod fill50k;
mod imagefolder;
mod paired_folders;
mod root;
mod rows;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand_chacha::rand_core::Rng;
use serde::{Deserialize, Serialize};

use crate::content::Content;
use crate::error::DataError;
use crate::random::{self, Purpose};

/// One training example: a target image, the hint that controls it, and its captions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The target image.
    pub image: Content,
    /// The conditioning image, or the target image if hints are made of it.
    pub hint: Content,
    /// At least one caption; one is drawn per step.
    pub captions: Vec<String>,
    /// Names the sample in its data set and in the keys of random numbers: the image's relative path, with
    /// `#2`, `#3`, ... if several rows share an image.
    pub id: String,
    /// The row it comes from.
    pub origin: Origin,
}

impl Sample {
    /// The caption of one step: empty with `empty_probability`, else one of the captions, all equally likely.
    ///
    /// Source: diffusers 0.42.1, `examples/controlnet/train_controlnet.py`, `tokenize_captions`.
    pub fn caption(&self, rng: &mut impl Rng, empty_probability: f64) -> &str {
        let is_dropped = random::unit(rng) < empty_probability;
        if is_dropped || self.captions.is_empty() {
            return "";
        }
        &self.captions[random::below(rng, self.captions.len())]
    }
}

/// The row of a metadata file that a sample comes from, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The metadata file, or the folder of images where there is none.
    pub file: Arc<Path>,
    /// Line of the file, or place in the folder by name; counted from 1.
    pub row: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.row)
    }
}

/// The names of the columns that are used. Defaults: those of diffusers' `train_controlnet.py`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Columns {
    /// Target images: `--image_column`.
    pub image: String,
    /// Conditioning images: `--conditioning_image_column`. `None` if hints are made, and then none is looked for.
    pub hint: Option<String>,
    /// Captions: `--caption_column`.
    pub caption: String,
}

impl Default for Columns {
    fn default() -> Self {
        Self {
            image: "image".to_owned(),
            hint: Some("conditioning_image".to_owned()),
            caption: "text".to_owned(),
        }
    }
}

impl Columns {
    /// The column that hints are read from or made of.
    pub(crate) fn hint_or_image(&self) -> &str {
        self.hint.as_deref().unwrap_or(&self.image)
    }
}

/// How a data set's folder is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Layout {
    /// Images beside or below a `metadata.jsonl` or `metadata.csv` (Hugging Face `imagefolder`).
    ImageFolder,
    /// The original fill50k: `prompt.json` with one row per line, `source/`, `target/`.
    Fill50k,
    /// Two folders of images with equal stems, and `.txt` captions beside the target images.
    PairedFolders,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ImageFolder => "imagefolder with metadata",
            Self::Fill50k => "fill50k with prompt.json",
            Self::PairedFolders => "paired folders with .txt captions",
        })
    }
}

/// A data set: at least one sample, every file of which was there when it was opened.
#[derive(Debug, Clone)]
pub struct Dataset {
    dir: PathBuf,
    layout: Layout,
    samples: Vec<Sample>,
}

impl Dataset {
    /// Finds out the layout of `dir` and lists its samples; no image is decoded yet.
    ///
    /// A metadata file wins over `prompt.json`, and that over a pair of folders. Only the split `train` is
    /// read, from `dir` itself or from `dir/train`.
    ///
    /// # Errors
    /// When no layout fits, and for the first row that cannot be used: a missing column or file, a path that
    /// leaves the folder, an image without its hint.
    pub fn open(dir: &Path, columns: &Columns) -> Result<Self, DataError> {
        let dir = dir.canonicalize().map_err(|source| DataError::Read { path: dir.to_owned(), source })?;
        let (layout, samples) = if let Some(metadata) = imagefolder::find(&dir)? {
            (Layout::ImageFolder, imagefolder::read(&metadata, columns)?)
        } else if let Some(prompts) = fill50k::find(&dir) {
            (Layout::Fill50k, fill50k::read(&prompts, columns)?)
        } else if let Some(folders) = paired_folders::find(&dir, columns)? {
            (Layout::PairedFolders, paired_folders::read(&folders)?)
        } else {
            return Err(DataError::UnknownLayout { dir });
        };
        if samples.is_empty() {
            return Err(DataError::Empty { dir });
        }
        Ok(Self { dir, layout, samples: with_unique_ids(samples) })
    }

    /// The folder, as an absolute path.
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

#[cfg(test)]
mod tests;
