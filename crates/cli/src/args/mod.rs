//! What can be typed.

mod bench;
mod choice;
mod data;
mod ema;
mod eval;
mod generate;
mod hub;
mod loss;
mod memory;
mod optimizer;
mod origin;
mod plan;
mod reference;
mod small;
mod trackers;
mod train;

use std::ffi::OsString;

use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

pub(crate) use bench::{BenchArgs, BenchModel};
pub(crate) use data::{
    BuildArgs, CheckArgs, CirclesArgs, DataArgs, DataCommand, HintArgs, RowArgs, StatsArgs, TokenizerArgs,
};
pub(crate) use eval::EvalArgs;
pub(crate) use generate::{CanvasArgs, ControlArgs, FileArgs, GenerateArgs, PromptArgs};
pub(crate) use hub::{HubArgs, PushArgs, PushVerbArgs, TokenArgs};
pub(crate) use origin::Origin;
pub(crate) use plan::PlanArgs;
pub(crate) use reference::{Limit, UsageError};
pub(crate) use small::{
    CheckpointArgs, CheckpointCommand, ConvertArgs, DemoArgs, FileType, InitBaseArgs, InspectArgs, Names,
    Preset, ReplayArgs,
};
pub(crate) use train::TrainArgs;

const AFTER_HELP: &str = "\
Every flag can also be written with underscores, as the reference scripts do: --train_data_dir.

Examples:
  pyrograph demo
  pyrograph data circles --count 500 --size 128 circles
  pyrograph init-base --preset tiny tiny-sd
  pyrograph train configs/quickstart.toml --output-dir out
  pyrograph inspect out
  pyrograph convert out my-controlnet.safetensors --dtype f16";

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the run failed
  2  a wrong flag, preset, data set, model or checkpoint
  3  stopped on request (SIGINT, SIGTERM) after saving; --resume_from_checkpoint latest continues
128 + signal: the second signal, which does not wait";

/// Train ControlNets for Stable Diffusion, without Python.
#[derive(Debug, Parser)]
#[command(name = "pyrograph", version, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Train(Box<TrainArgs>),
    Plan(Box<PlanArgs>),
    Checkpoint(CheckpointArgs),
    Replay(ReplayArgs),
    Generate(Box<GenerateArgs>),
    Eval(EvalArgs),
    Inspect(InspectArgs),
    Convert(ConvertArgs),
    Push(PushVerbArgs),
    InitBase(InitBaseArgs),
    Data(DataArgs),
    Demo(DemoArgs),
    Bench(BenchArgs),
}

/// How much is said, and how.
#[derive(Debug, Clone, Args)]
pub(crate) struct OutputArgs {
    /// How progress and results are written: for people, or as one JSON object per line on standard output.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    pub(crate) log_format: LogFormat,
    /// Say less: errors only.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more; twice for everything.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

impl OutputArgs {
    /// The directives of the log: our own crates, and the warnings of others.
    pub(crate) fn log_filter(&self) -> &'static str {
        match (self.quiet, self.verbose) {
            (true, _) => "error",
            (false, 0) => "warn,pyrograph=info",
            (false, 1) => "info,pyrograph=debug",
            // With more, the HTTP client writes headers down, and a token with them.
            (false, _) => "trace,ureq=info,ureq_proto=info,rustls=info",
        }
    }
}

/// Parses a command line.
///
/// # Errors
/// The help or version that was asked for, or what is wrong with the command line.
pub(crate) fn parse(argv: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut command = with_exit_codes(with_underscores(command()));
    let matches = command.try_get_matches_from_mut(argv)?;
    let mut cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    if let (Command::Generate(args), Some((_, matches))) = (&mut cli.command, matches.subcommand()) {
        args.note_given(matches);
    }
    Ok(cli)
}

/// All verbs with their flags, as they are defined.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}

/// Gives every flag with a dash in its name the underscore spelling of the reference scripts, too.
fn with_underscores(command: clap::Command) -> clap::Command {
    command
        .mut_args(|arg| {
            match arg.get_long().filter(|long| long.contains('-')).map(|long| long.replace('-', "_")) {
                Some(underscored) => arg.alias(underscored),
                None => arg,
            }
        })
        .mut_subcommands(with_underscores)
}

/// Ends the help of every verb with what the process can exit with.
fn with_exit_codes(command: clap::Command) -> clap::Command {
    let text = match command.get_after_help() {
        Some(before) => format!("{before}\n\n{EXIT_CODES}"),
        None => EXIT_CODES.to_owned(),
    };
    command.after_help(text).mut_subcommands(with_exit_codes)
}

/// Replaces a setting by the flag, if it was given.
fn set<T: Clone>(setting: &mut T, flag: &Option<T>) {
    if let Some(value) = flag {
        setting.clone_from(value);
    }
}

/// The same for a setting that may be left out.
fn set_some<T: Clone>(setting: &mut Option<T>, flag: &Option<T>) {
    if flag.is_some() {
        setting.clone_from(flag);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        with_underscores(Cli::command()).debug_assert();
    }

    #[test]
    fn flags_may_be_spelled_with_underscores_and_equals_signs() {
        let parsed =
            |argv: &[&str]| parse(argv.iter().map(OsString::from)).map(|cli| format!("{cli:?}")).ok();
        let dashed = parsed(&["pyrograph", "train", "--train-data-dir", "my_data", "--log-format", "json"]);
        assert!(dashed.is_some());
        assert_eq!(parsed(&["pyrograph", "train", "--train_data_dir=my_data", "--log_format=json"]), dashed);
    }
}
