//! `cargo xtask mpi`.

use std::process::Command;

use anyhow::{Context, Result};

use crate::shell::{cargo, has, run};

/// What the crate `mpi` is built with and the tests run with, as Debian calls it.
const PACKAGES: [&str; 3] = ["libopenmpi-dev", "openmpi-bin", "libclang-dev"];

/// Installs Open MPI where it is missing and apt can, builds the program with it, and runs several processes of it.
pub(crate) fn mpi() -> Result<()> {
    install()?;
    // Each test starts several processes, which have threads enough.
    run(&mut cargo("test --release --package pyrograph-tests --features mpi cli::mpi -- --test-threads=1"))
}

/// The same where there is an MPI or can be one.
pub(crate) fn mpi_if_there() -> Result<()> {
    match install() {
        Ok(()) => mpi(),
        Err(error) => {
            eprintln!("warning: {error:#}; several processes are not tested");
            Ok(())
        }
    }
}

fn install() -> Result<()> {
    if has("mpicc") && has("mpirun") {
        return Ok(());
    }
    let mut install = Command::new("apt-get");
    install.args(["install", "--yes", "--no-install-recommends"]).args(PACKAGES);
    run(Command::new("apt-get").arg("update")).and_then(|()| run(&mut install)).with_context(|| {
        format!("Open MPI and libclang cannot be installed; in Debian they are {PACKAGES:?}")
    })
}
