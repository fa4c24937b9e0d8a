//! Which samples make up the next batch: a function of seed, epoch and cursor.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::random::{self, Purpose};

/// The order of the samples in an epoch: a permutation of `0..len`, the same for equal arguments forever.
#[must_use]
pub fn epoch_order(seed: u64, epoch: u64, len: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    random::shuffle(&mut order, &mut random::rng(seed, epoch, "", Purpose::Order));
    order
}

/// Where a run stands in its data: the next batch to use. The whole state of the loader that a checkpoint needs.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// Counted from 0.
    pub epoch: u64,
    /// Batch within the epoch, counted from 0.
    pub batch: usize,
}

impl Cursor {
    /// The cursor behind the batch at this one.
    pub(crate) fn after(self, batches_per_epoch: usize) -> Self {
        if self.batch + 1 < batches_per_epoch {
            Self { batch: self.batch + 1, ..self }
        } else {
            Self { epoch: self.epoch + 1, batch: 0 }
        }
    }

    pub(crate) fn check(self, batches_per_epoch: usize) -> Result<(), DataError> {
        if self.batch < batches_per_epoch {
            Ok(())
        } else {
            Err(DataError::CursorOutOfRange { cursor: self, batches_per_epoch })
        }
    }
}

/// The number of batches of so many samples, the partial one included.
pub(crate) fn batches_of(n_samples: usize, batch_size: NonZeroUsize) -> usize {
    n_samples.div_ceil(batch_size.get())
}

/// Whose part of a batch is meant, where several ranks share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// From 0.
    pub rank: usize,
    /// Parts of each batch.
    pub n_ranks: NonZeroUsize,
}

impl Share {
    /// The whole batch.
    pub const WHOLE: Self = Self { rank: 0, n_ranks: NonZeroUsize::MIN };

    /// A batch of all ranks, of whose parts each has so many samples.
    #[must_use]
    pub fn batch_size_of_all(self, batch_size: NonZeroUsize) -> NonZeroUsize {
        batch_size.saturating_mul(self.n_ranks)
    }

    /// This rank's part: the batches of all ranks one after another are the batch of one rank.
    pub(crate) fn of<T>(self, batch: &[T]) -> &[T] {
        let edge = |rank: usize| batch.len() * rank / self.n_ranks.get();
        &batch[edge(self.rank)..edge(self.rank + 1)]
    }
}

/// Cuts the order of each epoch into batches; the last batch of an epoch, or of each bucket, may be smaller.
#[derive(Debug, Clone)]
pub struct BatchOrder {
    seed: u64,
    n_samples: usize,
    batch_size: NonZeroUsize,
    /// The bucket of each sample.
    buckets: Option<Arc<[usize]>>,
    n_batches: usize,
    /// The epoch asked for last and its batches: they are asked for one after another.
    current: Option<(u64, Batches)>,
}

/// The batches of one epoch.
#[derive(Debug, Clone)]
struct Batches {
    order: Vec<usize>,
    /// Where each batch ends in the order.
    ends: Vec<usize>,
}

impl Batches {
    fn get(&self, batch: usize) -> &[usize] {
        let start = if batch == 0 { 0 } else { self.ends[batch - 1] };
        &self.order[start..self.ends[batch]]
    }
}

impl BatchOrder {
    /// Batches of `batch_size` out of `n_samples` samples.
    #[must_use]
    pub fn new(seed: u64, n_samples: usize, batch_size: NonZeroUsize) -> Self {
        let n_batches = batches_of(n_samples, batch_size);
        Self { seed, n_samples, batch_size, buckets: None, n_batches, current: None }
    }

    /// The same with batches of samples of one bucket each, if there are buckets.
    ///
    /// # Panics
    /// If there are not as many as samples.
    #[must_use]
    pub fn within(self, buckets: Option<Arc<[usize]>>) -> Self {
        let Some(buckets) = buckets else { return self };
        assert_eq!(buckets.len(), self.n_samples, "a bucket for each sample");
        let mut counts: HashMap<usize, usize> = HashMap::new();
        for bucket in buckets.iter() {
            *counts.entry(*bucket).or_default() += 1;
        }
        let n_batches = counts.values().map(|count| count.div_ceil(self.batch_size.get())).sum();
        Self { buckets: Some(buckets), n_batches, ..self }
    }

    /// The number of batches in an epoch, the partial one included.
    #[must_use]
    pub fn batches_per_epoch(&self) -> usize {
        self.n_batches
    }

    /// The batches of an epoch. Those of buckets are cut from the epoch's order, and shuffled, so that the small ones are not
    /// the last ones of each epoch.
    fn batches(&self, epoch: u64) -> Batches {
        let order = epoch_order(self.seed, epoch, self.n_samples);
        let batch_size = self.batch_size.get();
        let Some(buckets) = &self.buckets else {
            let ends = (1..=self.n_batches).map(|batch| (batch * batch_size).min(self.n_samples)).collect();
            return Batches { order, ends };
        };
        let mut open: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut batches = Vec::with_capacity(self.n_batches);
        for sample_idx in order {
            let batch = open.entry(buckets[sample_idx]).or_default();
            batch.push(sample_idx);
            if batch.len() == batch_size {
                batches.push(std::mem::take(batch));
            }
        }
        batches.extend(open.into_values().filter(|batch| !batch.is_empty()));
        random::shuffle(&mut batches, &mut random::rng(self.seed, epoch, "buckets", Purpose::Order));
        let mut end = 0;
        let ends = batches.iter().map(|batch| {
            end += batch.len();
            end
        });
        Batches { ends: ends.collect(), order: batches.concat() }
    }

    /// The sample indices of the batch at `cursor`.
    ///
    /// # Errors
    /// [`DataError::CursorOutOfRange`] if an epoch has no such batch.
    pub fn batch(&mut self, cursor: Cursor) -> Result<&[usize], DataError> {
        self.check(cursor)?;
        if self.current.as_ref().is_none_or(|(epoch, _)| *epoch != cursor.epoch) {
            self.current = Some((cursor.epoch, self.batches(cursor.epoch)));
        }
        let (_, batches) = self.current.as_ref().expect("set above");
        Ok(batches.get(cursor.batch))
    }

    /// The cursor behind the batch at `cursor`.
    #[must_use]
    pub fn after(&self, cursor: Cursor) -> Cursor {
        cursor.after(self.batches_per_epoch())
    }

    pub(crate) fn check(&self, cursor: Cursor) -> Result<(), DataError> {
        cursor.check(self.batches_per_epoch())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch_size(value: usize) -> NonZeroUsize {
        NonZeroUsize::new(value).unwrap()
    }

    #[test]
    fn order_of_an_epoch_never_changes() {
        assert_eq!(epoch_order(42, 3, 10), [7, 0, 9, 2, 6, 8, 4, 1, 5, 3]);
    }

    #[test]
    fn order_is_a_permutation_that_depends_on_seed_and_epoch() {
        let order = epoch_order(1, 0, 100);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert_ne!(order, epoch_order(1, 1, 100));
        assert_ne!(order, epoch_order(2, 0, 100));
    }

    #[test]
    fn the_parts_of_a_batch_are_all_of_it_in_its_order() {
        for n_samples in 0..9 {
            let batch: Vec<usize> = (0..n_samples).collect();
            for n_ranks in 1..5 {
                let share = |rank| Share { rank, n_ranks: batch_size(n_ranks) };
                let parts: Vec<&[usize]> = (0..n_ranks).map(|rank| share(rank).of(&batch)).collect();
                assert_eq!(parts.concat(), batch);
                assert!(parts.iter().all(|part| part.len().abs_diff(n_samples / n_ranks) <= 1), "{parts:?}");
            }
        }
    }

    #[test]
    fn last_partial_batch_is_kept_and_the_next_epoch_follows() {
        let mut batches = BatchOrder::new(5, 7, batch_size(3));
        assert_eq!(batches.batches_per_epoch(), 3);
        let mut cursor = Cursor::default();
        let mut epoch = Vec::new();
        for expected_len in [3, 3, 1] {
            let batch = batches.batch(cursor).unwrap().to_vec();
            assert_eq!(batch.len(), expected_len);
            epoch.extend(batch);
            cursor = batches.after(cursor);
        }
        assert_eq!(epoch, epoch_order(5, 0, 7));
        assert_eq!(cursor, Cursor { epoch: 1, batch: 0 });
    }

    #[test]
    fn cursor_behind_the_end_of_an_epoch_is_refused() {
        let mut batches = BatchOrder::new(0, 4, batch_size(2));
        let error = batches.batch(Cursor { epoch: 0, batch: 2 }).unwrap_err();
        assert_eq!(error.to_string(), "batch 2 of an epoch was asked for, an epoch has 2");
    }
}
