//! The one integration-test binary: parity with diffusers, training, the command line, resuming and faults.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests are told by variables where cases are, and their helpers fail by panicking"
)]

mod bench;
mod cli;
mod docs;
mod faults;
mod hostile;
mod parity;
mod report;
mod tolerance;
mod train;

use std::path::PathBuf;

/// The committed fixtures; `PYROGRAPH_FIXTURES` says where they are on a machine without the source tree.
fn fixtures() -> PathBuf {
    std::env::var_os("PYROGRAPH_FIXTURES")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures"), PathBuf::from)
}
