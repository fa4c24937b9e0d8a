//! `pyrograph`: see the library of the same name.

use std::process::ExitCode;

fn main() -> ExitCode {
    pyrograph::run(std::env::args_os())
}
