//! Running other programs, visibly.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

/// A backend, which is a feature of the packages `pyrograph` and `pyrograph-tests`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    Cpu,
    /// Any GPU, and Mesa's software device; nothing is tuned.
    Wgpu,
    /// A GPU with a Vulkan driver of its own.
    Vulkan,
    Cuda,
}

impl Backend {
    pub(crate) fn feature(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Wgpu => "wgpu",
            Self::Vulkan => "vulkan",
            Self::Cuda => "cuda",
        }
    }
}

/// The repository's folder.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the repository")
}

/// The cargo that runs us, with arguments separated by spaces.
pub(crate) fn cargo(args: &str) -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(args.split_whitespace()).current_dir(root());
    command
}

/// Cargo's output folder.
pub(crate) fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Whether there is a program of this name.
pub(crate) fn has(program: &str) -> bool {
    let folders = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&folders).any(|folder| folder.join(program).is_file())
}

/// Prints a command and runs it.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    print(command);
    let status = command.status().with_context(|| format!("cannot start {:?}", command.get_program()))?;
    ensure!(status.success(), "{} failed: {status}", words(command));
    Ok(())
}

/// Prints a command, runs it and returns its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    print(command);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {:?}", command.get_program()))?;
    ensure!(output.status.success(), "{} failed: {}", words(command), output.status);
    Ok(String::from_utf8(output.stdout)?)
}

fn print(command: &Command) {
    eprintln!("$ {}", words(command));
}

/// A command as it would be typed, with the variables set for it in front.
fn words(command: &Command) -> String {
    let variables = command.get_envs().filter_map(|(key, value)| Some((key, value?)));
    let variables = variables.map(|(key, value)| format!("{}='{}'", key.display(), value.display()));
    let program = Path::new(command.get_program()).file_stem().unwrap_or_default().display().to_string();
    let args = command.get_args().map(|arg| arg.display().to_string());
    variables.chain([program]).chain(args).collect::<Vec<_>>().join(" ")
}
