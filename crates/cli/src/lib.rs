//! The `pyrograph` command line: verbs, flags, progress and exit codes.
//!
//! Everything that can be used without a terminal lives in the library crates; this one chooses the
//! backend and talks to the user.

pub mod allocator;
mod args;
pub mod backend;
mod commands;
mod hub;
mod model_card;
mod options;
mod progress;
mod ranks;
mod report;
mod run_report;
mod signals;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

use crate::args::{Command, OutputArgs};
use crate::report::Outcome;

pub use crate::options::options_reference;

/// Runs the command line `argv`, the program's name first; returns what the process should exit with.
///
/// Results go to standard output, everything else to standard error.
pub fn run(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match args::parse(argv) {
        Ok(cli) => cli,
        Err(help_or_error) => {
            // Nothing is left to tell, and nobody to tell it to, if standard error is closed.
            let _ = help_or_error.print();
            return if help_or_error.use_stderr() { Outcome::BadInput } else { Outcome::Done }.into();
        }
    };
    log_to_stderr(&cli.output);
    allocator::keep_freed_memory();
    let result = match &cli.command {
        Command::Train(args) => commands::train(args, &cli.output),
        Command::Plan(args) => commands::plan(args, &cli.output).map(done),
        Command::Checkpoint(args) => commands::checkpoint(args, &cli.output),
        Command::Replay(args) => commands::replay(args, &cli.output).map(done),
        Command::Generate(args) => commands::generate(args, &cli.output).map(done),
        Command::Eval(args) => commands::eval(args, &cli.output).map(done),
        Command::Inspect(args) => commands::inspect(args, &cli.output).map(done),
        Command::Convert(args) => commands::convert(args, &cli.output).map(done),
        Command::Push(args) => commands::push(args, &cli.output).map(done),
        Command::InitBase(args) => commands::init_base(args).map(done),
        Command::Data(args) => commands::data(args, &cli.output).map(done),
        Command::Demo(args) => commands::demo(args, &cli.output),
        Command::Bench(args) => commands::bench(args, &cli.output).map(done),
    };
    match result {
        Ok(outcome) => outcome.into(),
        Err(error) => report::print(&error).into(),
    }
}

fn done((): ()) -> Outcome {
    Outcome::Done
}

fn log_to_stderr(output: &OutputArgs) {
    // Of what all processes say alike, one says it.
    let filter = if ranks::is_follower() { "warn" } else { output.log_filter() };
    let filter = EnvFilter::new(filter);
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .without_time();
    // A second call in the same process keeps the first one's subscriber.
    let _ = subscriber.try_init();
}
