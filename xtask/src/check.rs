//! `cargo xtask check`, and its parts.

use anyhow::Result;

use crate::shell::{cargo, run};
use crate::tidy::tidy;

pub(crate) fn check() -> Result<()> {
    fmt()?;
    tidy()?;
    clippy()
}

pub(crate) fn fmt() -> Result<()> {
    run(&mut cargo("fmt --all --check"))
}

/// In the release profile, like everything else, so that dependencies are checked once.
pub(crate) fn clippy() -> Result<()> {
    run(&mut cargo("clippy --release --workspace --all-targets -- -D warnings"))
}
