//! One training example, and what is said of where it comes from.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rand_chacha::rand_core::Rng;
use serde::{Deserialize, Serialize};

use crate::content::Content;
use crate::random;

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
    /// `#2`, `#3`, ... if several rows share an image, or file and row where images have no file of their own.
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
    /// The file with the row, or the folder of images where there is none.
    pub file: Arc<Path>,
    /// Line of a text file, row of a table, sample of an archive, or place in the folder by name; counted from 1.
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
    pub(super) fn hint_or_image(&self) -> &str {
        self.hint.as_deref().unwrap_or(&self.image)
    }

    pub(super) fn all(&self) -> [&str; 3] {
        [&self.image, self.hint_or_image(), &self.caption]
    }
}
