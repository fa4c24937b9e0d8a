//! `cargo xtask doc`.

use anyhow::Result;

use crate::shell::{cargo, run};

pub(crate) fn doc() -> Result<()> {
    run(cargo("doc --release --workspace --no-deps").env("RUSTDOCFLAGS", "-D warnings"))
}
