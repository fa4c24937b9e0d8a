//! What happens on the way.

use std::time::Duration;

use crate::error::HubError;
use crate::name::RepoName;

/// Something to tell the user.
#[derive(Debug)]
#[non_exhaustive]
pub enum Notice<'a> {
    /// A transfer begins.
    Begins {
        /// The repository.
        name: &'a RepoName,
        /// Files that are to be transferred.
        n_files: usize,
        /// Their bytes, less those that an earlier attempt has left.
        n_bytes: u64,
    },
    /// Bytes went over the line.
    Bytes {
        /// The file that they are of.
        file: &'a str,
        /// How many since the transfer began; fewer than before, if some had to be thrown away.
        n_done: u64,
    },
    /// All is transferred.
    Ends,
    /// It did not work and is tried again.
    Waits {
        /// Why it did not work.
        why: &'a HubError,
        /// How long is waited.
        wait: Duration,
    },
    /// The Hub cannot be reached, so what is in the cache is used.
    FromCache {
        /// The repository.
        name: &'a RepoName,
        /// Why it cannot be reached.
        why: &'a HubError,
    },
    /// A file of the cache is damaged and downloaded again.
    Damaged {
        /// The file in its repository.
        file: &'a str,
    },
}
