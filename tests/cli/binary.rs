//! The command line as a binary of this package, for the tests of it; see `crates/cli/src/main.rs`.

use std::process::ExitCode;

fn main() -> ExitCode {
    pyrograph::run(std::env::args_os())
}
