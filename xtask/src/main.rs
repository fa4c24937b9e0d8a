//! `cargo xtask <verb>`: everything that is done with this repository, on any system with Rust.

#![expect(clippy::disallowed_methods, reason = "only libraries are forbidden to read the environment")]

mod bench;
mod check;
mod ci;
mod dist;
mod doc;
mod faults;
mod fuzz;
#[cfg(target_os = "linux")]
mod llvm;
mod mpi;
mod options;
mod parity;
mod shell;
mod smoke;
mod test;
mod tidy;

use std::ffi::OsString;

use clap::{Parser, Subcommand};

use crate::shell::Backend;

/// Checks, tests and bundles of Pyrograph.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Everything a merge needs, cheapest first.
    Ci,
    /// Formatting, lints and tidy.
    Check,
    /// The rules of the house that no lint knows: crate arrows, features, file sizes.
    Tidy,
    /// All tests; on another backend than the CPU, those of the package `tests`.
    Test {
        #[arg(long, value_enum, default_value_t = Backend::Cpu)]
        backend: Backend,
    },
    /// The fault suite with more kills at random moments than `test` has.
    Faults {
        #[arg(long, default_value_t = 100)]
        kills: u32,
    },
    /// Several processes under `mpirun`; installs Open MPI and libclang where apt can.
    Mpi,
    /// Runs the readers of foreign files under libFuzzer; needs `cargo install cargo-fuzz`, a nightly compiler and a C++ one.
    Fuzz(fuzz::FuzzArgs),
    /// Makes fresh parity cases with PyTorch and diffusers, and runs the parity tests over them.
    ///
    /// The interpreter is `$PYROGRAPH_PYTHON`, or `python3`; it needs torch, diffusers, transformers and pillow.
    Parity {
        /// Draws models and inputs [default: the time].
        #[arg(long)]
        seed: Option<u64>,
    },
    /// How fast training is: `cargo xtask bench -- --preset sd15 --resolution 256`.
    Bench(bench::BenchArgs),
    /// Writes `docs/options.md` anew.
    Options,
    /// The rustdoc of all crates, without warnings.
    Doc,
    /// The README's first command, in an empty folder.
    Smoke,
    /// Trains the embedded base model from nothing; `cargo xtask tiny-base --help` tells more.
    #[command(disable_help_flag = true)]
    TinyBase {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// A bundle for a machine without Rust: binary, tests and fixtures in `target/dist/pyrograph-BACKEND.tar.xz`.
    Dist {
        #[arg(long, value_enum)]
        backend: Backend,
    },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().verb {
        Verb::Ci => ci::ci(),
        Verb::Check => check::check(),
        Verb::Tidy => tidy::tidy(),
        Verb::Test { backend } => test::test(backend),
        Verb::Faults { kills } => faults::faults(kills),
        Verb::Mpi => mpi::mpi(),
        Verb::Fuzz(args) => fuzz::fuzz(&args),
        Verb::Parity { seed } => parity::parity(seed),
        Verb::Bench(args) => bench::bench(&args),
        Verb::Options => options::options(),
        Verb::Doc => doc::doc(),
        Verb::Smoke => smoke::smoke(),
        Verb::TinyBase { args } => {
            shell::run(shell::cargo("run --release --package tiny-base --").args(args))
        }
        Verb::Dist { backend } => dist::dist(backend),
    }
}
