//! Several processes that train one ControlNet, started by `mpirun` or `srun`.

use std::sync::Arc;

use pyrograph_train::{Event, Group, Observer, TrainError};

/// Several processes were started, and none knows of the others.
#[derive(Debug, thiserror::Error)]
#[error(
    "{n_ranks} processes were started together, but this build has no MPI: each would train alone, all in one folder; \
     build it with `cargo build --release --features mpi`"
)]
#[cfg(not(feature = "mpi"))]
struct NoMpi {
    n_ranks: usize,
}

/// The ranks that this process is one of; if it is alone, nobody.
pub(crate) struct Ranks {
    group: Option<Arc<dyn Group>>,
    /// Ends MPI when it goes, together with all others.
    #[cfg(feature = "mpi")]
    _universe: Option<mpi::environment::Universe>,
}

impl Ranks {
    /// Meets the other processes, if there are others.
    #[cfg(feature = "mpi")]
    pub(crate) fn meet() -> anyhow::Result<Self> {
        use mpi::Threading;
        if n_launched() <= 1 {
            return Ok(Self { group: None, _universe: None });
        }
        // Only the thread that trains speaks to the others.
        let (universe, _) = mpi::initialize_with_threading(Threading::Funneled)
            .ok_or_else(|| anyhow::anyhow!("MPI is running already"))?;
        let group: Arc<dyn Group> = Arc::new(of_mpi::World::new(&universe.world())?);
        Ok(Self { group: Some(group), _universe: Some(universe) })
    }

    /// Refuses to be one of several.
    #[cfg(not(feature = "mpi"))]
    pub(crate) fn meet() -> anyhow::Result<Self> {
        match n_launched() {
            0 | 1 => Ok(Self { group: None }),
            n_ranks => Err(NoMpi { n_ranks }.into()),
        }
    }

    pub(crate) fn group(&self) -> Option<Arc<dyn Group>> {
        self.group.clone()
    }

    /// Whether this process is the one that writes.
    pub(crate) fn writes(&self) -> bool {
        self.group.as_ref().is_none_or(|group| group.rank() == 0)
    }

    /// Ends all processes after an error that the others do not know of; one that is alone gets it back.
    pub(crate) fn ended_by(&self, error: anyhow::Error) -> anyhow::Error {
        #[cfg(feature = "mpi")]
        if self.group.is_some() {
            use mpi::traits::Communicator;
            let outcome = crate::report::print(&error);
            mpi::topology::SimpleCommunicator::world().abort(outcome.code().into());
        }
        error
    }
}

/// Tells warnings of a process that writes nothing.
pub(crate) struct Warnings {
    pub(crate) rank: usize,
}

impl Observer for Warnings {
    fn observe(&mut self, event: &Event) -> Result<(), TrainError> {
        if let Event::Warning { message, .. } = event {
            tracing::warn!("rank {}: {message}", self.rank);
        }
        Ok(())
    }
}

/// The number of processes that were started together.
fn n_launched() -> usize {
    // Of Open MPI, of MPICH and its kin, of `srun`.
    ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"].into_iter().find_map(number).unwrap_or(1)
}

/// Whether another process tells what all have in common.
pub(crate) fn is_follower() -> bool {
    let rank = ["OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"].into_iter().find_map(number);
    n_launched() > 1 && rank.is_some_and(|rank| rank > 0)
}

#[expect(clippy::disallowed_methods, reason = "the command line may read the environment")]
fn number(variable: &str) -> Option<usize> {
    std::env::var(variable).ok()?.parse().ok()
}

#[cfg(feature = "mpi")]
mod of_mpi {
    use mpi::collective::SystemOperation;
    use mpi::datatype::PartitionMut;
    use mpi::topology::SimpleCommunicator;
    use mpi::traits::{Communicator, CommunicatorCollectives};
    use pyrograph_train::{Group, GroupError};

    /// All processes of an MPI program. A process that dies ends the others: that is MPI's way, so nothing here fails.
    #[derive(Debug)]
    pub(super) struct World {
        rank: usize,
        n_ranks: usize,
    }

    impl World {
        pub(super) fn new(world: &SimpleCommunicator) -> anyhow::Result<Self> {
            Ok(Self { rank: world.rank().try_into()?, n_ranks: world.size().try_into()? })
        }
    }

    /// More than 2^31 numbers at once are none of MPI's.
    fn too_large(error: std::num::TryFromIntError) -> GroupError {
        GroupError { source: Some(error.into()) }
    }

    impl Group for World {
        fn rank(&self) -> usize {
            self.rank
        }

        fn n_ranks(&self) -> usize {
            self.n_ranks
        }

        fn sum(&self, numbers: &mut [f32]) -> Result<(), GroupError> {
            i32::try_from(numbers.len()).map_err(too_large)?;
            let own = numbers.to_vec();
            SimpleCommunicator::world().all_reduce_into(&own[..], numbers, SystemOperation::sum());
            Ok(())
        }

        fn gather(&self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>, GroupError> {
            let world = SimpleCommunicator::world();
            let own = i32::try_from(bytes.len()).map_err(too_large)?;
            let mut counts = vec![0_i32; self.n_ranks];
            world.all_gather_into(&own, &mut counts[..]);
            let mut end = 0_i32;
            let mut starts = Vec::with_capacity(counts.len());
            for count in &counts {
                starts.push(end);
                end = end.checked_add(*count).ok_or(GroupError { source: None })?;
            }
            let mut all = vec![0_u8; usize::try_from(end).map_err(too_large)?];
            world.all_gather_varcount_into(
                &bytes[..],
                &mut PartitionMut::new(&mut all[..], counts.as_slice(), starts.as_slice()),
            );
            let mut rest = all.as_slice();
            let mut parts = Vec::with_capacity(counts.len());
            for count in counts {
                let (part, after) = rest.split_at(usize::try_from(count).map_err(too_large)?);
                parts.push(part.to_vec());
                rest = after;
            }
            Ok(parts)
        }
    }
}
