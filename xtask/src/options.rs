//! `cargo xtask options`.

use anyhow::Result;

use crate::shell::{cargo, run};

/// Writes `docs/options.md` anew: the test that compares it does so if it is asked to.
pub(crate) fn options() -> Result<()> {
    let mut test = cargo("test --release --package pyrograph-tests docs::options");
    run(test.env("UPDATE_EXPECT", "1"))
}
