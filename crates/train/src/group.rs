//! Ranks that train one ControlNet together.
//!
//! Every rank has all parameters and a part of each batch. Before an update the gradients are summed over all of them, in the same
//! order on each, so that the parameters stay equal, bit for bit, without being sent. Rank 0 alone writes.

mod ranks;
mod threads;

use std::fmt::Debug;

pub(crate) use self::ranks::Ranks;
pub use self::threads::ThreadGroup;

/// How ranks reach each other.
///
/// All of them call the same methods in the same order; each call waits for all.
pub trait Group: Debug + Send + Sync {
    /// Which one this is, from 0.
    fn rank(&self) -> usize;

    /// How many they are.
    fn n_ranks(&self) -> usize;

    /// Replaces numbers, of which each rank has as many, by their sums over all ranks: the same bits on each.
    ///
    /// # Errors
    /// [`GroupError`] if not all are there any more.
    fn sum(&self, numbers: &mut [f32]) -> Result<(), GroupError>;

    /// What each rank gives, by rank.
    ///
    /// # Errors
    /// [`GroupError`] if not all are there any more.
    fn gather(&self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>, GroupError>;
}

/// A rank is gone, and with it what only all can do.
#[derive(Debug, thiserror::Error)]
#[error("another rank is gone")]
pub struct GroupError {
    /// What was said of it, if anything was.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}
