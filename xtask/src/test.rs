//! `cargo xtask test`.

use anyhow::Result;

use crate::shell::{Backend, cargo, run};

pub(crate) fn test(backend: Backend) -> Result<()> {
    match backend {
        Backend::Cpu => run(&mut cargo("test --release --workspace")),
        // The crates' own unit tests run on the CPU; parity, resuming and the command line on the device.
        other => run(cargo("test --release --package pyrograph-tests --no-default-features --features")
            .arg(other.feature())),
    }
}
