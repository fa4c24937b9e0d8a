//! A data set to train on, however it is read.

use std::path::Path;
use std::sync::Arc;

use super::{Dataset, Layout, Sample, Stream};
use crate::error::DataError;

/// A data set to train on: all listed, or read as it comes.
#[derive(Debug, Clone)]
pub enum Data {
    /// Every sample is known.
    Listed(Arc<Dataset>),
    /// Rows are read as they are needed.
    Streamed(Arc<Stream>),
}

impl Data {
    /// The folder or file, as an absolute path.
    #[must_use]
    pub fn dir(&self) -> &Path {
        match self {
            Self::Listed(dataset) => dataset.dir(),
            Self::Streamed(stream) => stream.dir(),
        }
    }

    /// The layout that was found.
    #[must_use]
    pub fn layout(&self) -> Layout {
        match self {
            Self::Listed(dataset) => dataset.layout(),
            Self::Streamed(stream) => stream.layout(),
        }
    }

    /// Samples of an epoch, on all devices.
    #[must_use]
    pub fn n_samples(&self) -> usize {
        match self {
            Self::Listed(dataset) => dataset.samples().len(),
            Self::Streamed(stream) => stream.n_rows(),
        }
    }

    /// Samples of an epoch on this device.
    #[must_use]
    pub fn n_own_samples(&self) -> usize {
        match self {
            Self::Listed(dataset) => dataset.samples().len(),
            Self::Streamed(stream) => stream.n_own_rows(),
        }
    }

    /// All samples; `None` if they are read as they come.
    #[must_use]
    pub fn samples(&self) -> Option<&[Sample]> {
        match self {
            Self::Listed(dataset) => Some(dataset.samples()),
            Self::Streamed(_) => None,
        }
    }

    /// The first samples, in the order of the data set.
    ///
    /// # Errors
    /// If a row of a stream cannot be read.
    pub fn first(&self, n_samples: usize) -> Result<Vec<Sample>, DataError> {
        match self {
            Self::Listed(dataset) => Ok(dataset.samples().iter().take(n_samples).cloned().collect()),
            Self::Streamed(stream) => stream.first(n_samples),
        }
    }

    /// Takes out samples drawn by `seed`; see [`Dataset::hold_out`] and [`Stream::hold_out`].
    ///
    /// # Errors
    /// If a row of a stream cannot be read.
    pub fn hold_out(self, n_held_out: usize, seed: u64) -> Result<(Self, Vec<Sample>), DataError> {
        match self {
            Self::Listed(dataset) => {
                let (rest, held_out) = Arc::unwrap_or_clone(dataset).hold_out(n_held_out, seed);
                Ok((Arc::new(rest).into(), held_out))
            }
            Self::Streamed(stream) => {
                let (rest, held_out) = Arc::unwrap_or_clone(stream).hold_out(n_held_out, seed)?;
                Ok((Arc::new(rest).into(), held_out))
            }
        }
    }

    /// A hash of what decides the run of a sample through training; see [`Dataset::fingerprint`] and
    /// [`Stream::fingerprint`].
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        match self {
            Self::Listed(dataset) => dataset.fingerprint(),
            Self::Streamed(stream) => stream.fingerprint(),
        }
    }
}

impl From<Arc<Dataset>> for Data {
    fn from(dataset: Arc<Dataset>) -> Self {
        Self::Listed(dataset)
    }
}

impl From<Arc<Stream>> for Data {
    fn from(stream: Arc<Stream>) -> Self {
        Self::Streamed(stream)
    }
}
