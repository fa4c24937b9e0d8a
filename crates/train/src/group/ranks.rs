//! What a run asks of its group.

use std::num::NonZeroUsize;
use std::sync::Arc;

use pyrograph_data::Share;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Group, GroupError};
use crate::TrainError;

/// The ranks of a run; one that is alone asks nobody.
///
/// Before each exchange all say whether they can go on: a rank that cannot says so in place of what the others are about to
/// exchange, whatever that is, and all end.
#[derive(Debug, Clone)]
pub(crate) struct Ranks(Option<Arc<dyn Group>>);

impl Ranks {
    pub(crate) const ALONE: Self = Self(None);

    pub(crate) fn new(group: Arc<dyn Group>) -> Self {
        Self((group.n_ranks() > 1).then_some(group))
    }

    pub(crate) fn share(&self) -> Share {
        let Some(group) = &self.0 else { return Share::WHOLE };
        let n_ranks = NonZeroUsize::new(group.n_ranks()).expect("there is at least this one");
        Share { rank: group.rank(), n_ranks }
    }

    pub(crate) fn is_alone(&self) -> bool {
        self.0.is_none()
    }

    /// Whether this is the one that writes.
    pub(crate) fn writes(&self) -> bool {
        self.share().rank == 0
    }

    /// Whether something is for this rank to do, of what is counted from 0.
    pub(crate) fn is_mine(&self, place: usize) -> bool {
        place % self.share().n_ranks == self.share().rank
    }

    /// Waits until all are here.
    pub(crate) fn meet(&self) -> Result<(), TrainError> {
        self.0.as_deref().map_or(Ok(()), |group| check_in(group, 0.0))
    }

    pub(crate) fn sum(&self, numbers: &mut [f32]) -> Result<(), TrainError> {
        let Some(group) = self.0.as_deref() else { return Ok(()) };
        check_in(group, 0.0)?;
        group.sum(numbers).map_err(TrainError::Group)
    }

    /// What each rank gives, by rank.
    pub(crate) fn gather<T: Serialize + DeserializeOwned>(&self, mine: T) -> Result<Vec<T>, TrainError> {
        let Some(group) = self.0.as_deref() else { return Ok(vec![mine]) };
        check_in(group, 0.0)?;
        // Not JSON, which has no number that is not finite.
        let bytes = rmp_serde::to_vec(&mine).map_err(unreadable)?;
        let all = group.gather(bytes).map_err(TrainError::Group)?;
        all.iter().map(|bytes| rmp_serde::from_slice(bytes).map_err(unreadable)).collect()
    }

    /// The same for bytes.
    pub(crate) fn gather_bytes(&self, mine: Vec<u8>) -> Result<Vec<Vec<u8>>, TrainError> {
        let Some(group) = self.0.as_deref() else { return Ok(vec![mine]) };
        check_in(group, 0.0)?;
        group.gather(mine).map_err(TrainError::Group)
    }

    /// Tells the others that this rank ends with an error that they do not have.
    pub(crate) fn leave(&self) {
        if let Some(group) = self.0.as_deref() {
            // Who is gone needs not be told.
            let _ = check_in(group, 1.0);
        }
    }
}

fn check_in(group: &dyn Group, n_failed: f32) -> Result<(), TrainError> {
    let mut failed = [n_failed];
    group.sum(&mut failed).map_err(TrainError::Group)?;
    if failed[0] > 0.0 { Err(TrainError::RankFailed) } else { Ok(()) }
}

/// Only if the ranks are not of one build.
fn unreadable(error: impl std::error::Error + Send + Sync + 'static) -> TrainError {
    TrainError::Group(GroupError { source: Some(error.into()) })
}
