//! Ranks that are threads of one process.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{Group, GroupError};

/// One of the threads of a group.
#[derive(Debug)]
pub struct ThreadGroup {
    rank: usize,
    table: Arc<Table>,
}

/// Where the threads meet.
#[derive(Debug)]
struct Table {
    n_ranks: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What was brought to the meeting in hand, by rank.
    brought: Vec<Option<Vec<u8>>>,
    /// What all brought to the last one.
    taken: Arc<Vec<Vec<u8>>>,
    n_meetings: u64,
    /// Whether one of them has left.
    is_broken: bool,
}

impl ThreadGroup {
    /// A group of `n_ranks`, by rank, for a thread each. One that drops its part ends the group.
    #[must_use]
    pub fn new(n_ranks: usize) -> Vec<Self> {
        let state = State { brought: vec![None; n_ranks], ..State::default() };
        let table = Arc::new(Table { n_ranks, state: Mutex::new(state), changed: Condvar::new() });
        (0..n_ranks).map(|rank| Self { rank, table: Arc::clone(&table) }).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nobody panics with it in hand.
        self.table.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for all, and gives what they brought.
    fn meet(&self, bytes: Vec<u8>) -> Result<Arc<Vec<Vec<u8>>>, GroupError> {
        let mut state = self.state();
        let meeting = state.n_meetings;
        state.brought[self.rank] = Some(bytes);
        if state.brought.iter().all(Option::is_some) {
            state.taken = Arc::new(state.brought.iter_mut().filter_map(Option::take).collect());
            state.n_meetings += 1;
            self.table.changed.notify_all();
        }
        while state.n_meetings == meeting {
            if state.is_broken {
                return Err(GroupError { source: None });
            }
            state = self.table.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(Arc::clone(&state.taken))
    }
}

impl Drop for ThreadGroup {
    fn drop(&mut self) {
        self.state().is_broken = true;
        self.table.changed.notify_all();
    }
}

impl Group for ThreadGroup {
    fn rank(&self) -> usize {
        self.rank
    }

    fn n_ranks(&self) -> usize {
        self.table.n_ranks
    }

    fn sum(&self, numbers: &mut [f32]) -> Result<(), GroupError> {
        let all = self.meet(numbers.iter().flat_map(|number| number.to_le_bytes()).collect())?;
        numbers.fill(0.0);
        for of_rank in all.iter() {
            let (of_rank, _) = of_rank.as_chunks();
            for (sum, number) in numbers.iter_mut().zip(of_rank) {
                *sum += f32::from_le_bytes(*number);
            }
        }
        Ok(())
    }

    fn gather(&self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>, GroupError> {
        self.meet(bytes).map(|all| all.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn all_get_the_sums_and_what_each_gave() {
        let ranks: Vec<_> = ThreadGroup::new(3)
            .into_iter()
            .map(|group| {
                thread::spawn(move || {
                    for round in 0..100_u8 {
                        let rank = u8::try_from(group.rank()).unwrap();
                        let mut numbers = [f32::from(rank), f32::from(round)];
                        group.sum(&mut numbers).unwrap();
                        assert_eq!(numbers, [3.0, 3.0 * f32::from(round)]);
                        assert_eq!(group.gather(vec![rank; 2]).unwrap(), [[0, 0], [1, 1], [2, 2]]);
                    }
                })
            })
            .collect();
        ranks.into_iter().for_each(|rank| rank.join().unwrap());
    }

    #[test]
    fn who_waits_for_one_that_left_is_told() {
        let mut ranks = ThreadGroup::new(2);
        let other = ranks.pop().unwrap();
        let waiting = thread::spawn({
            let group = ranks.pop().unwrap();
            move || group.sum(&mut [1.0]).unwrap_err().to_string()
        });
        drop(other);
        assert_eq!(waiting.join().unwrap(), "another rank is gone");
    }
}
