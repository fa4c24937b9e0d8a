//! What every layout is behind its door: shards in a fixed order, each with rows that are read one after another.

use std::fmt::Debug;
use std::path::Path;

use super::sample::Sample;
use crate::error::DataError;

/// The rows of a shard from some row on.
///
/// A row that cannot be used is a [`DataError::Row`], after which the next one follows. After any other error there is
/// nothing more.
pub(crate) type Samples = Box<dyn Iterator<Item = Result<Sample, DataError>> + Send>;

/// A part of a data set: one file or folder. Its rows are read one after another, in bounded memory, from any row on; the
/// pictures are left where they are, unless they are compressed with their rows.
pub(crate) trait Shard: Debug + Send + Sync {
    /// The file or folder.
    fn path(&self) -> &Path;

    /// The number of its rows, each of which [`Self::samples`] gives once. Takes a look at the whole file if that
    /// stands nowhere in it.
    fn count(&self) -> Result<usize, DataError>;

    /// The rows from `first` on, counted from 0.
    fn samples(&self, first: usize) -> Result<Samples, DataError>;

    /// Whether pictures have to be unpacked to be found again.
    fn is_packed(&self) -> bool {
        false
    }
}

/// Samples that are all known.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) path: Box<Path>,
    pub(crate) samples: Vec<Sample>,
}

impl Shard for Listed {
    fn path(&self) -> &Path {
        &self.path
    }

    fn count(&self) -> Result<usize, DataError> {
        Ok(self.samples.len())
    }

    fn samples(&self, first: usize) -> Result<Samples, DataError> {
        let rest = self.samples.get(first..).unwrap_or_default().to_vec();
        Ok(Box::new(rest.into_iter().map(Ok)))
    }
}
