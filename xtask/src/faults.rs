//! `cargo xtask faults`.

use anyhow::Result;

use crate::shell::{cargo, run};

pub(crate) fn faults(kills: u32) -> Result<()> {
    let mut test = cargo("test --release --package pyrograph-tests faults:: -- --nocapture");
    run(test.env("PYROGRAPH_KILLS", kills.to_string()))
}
