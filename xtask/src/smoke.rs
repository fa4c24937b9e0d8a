//! `cargo xtask smoke`: what the README promises first.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell::{root, run};

/// Runs the README's first block of commands in `target/smoke`, emptied before.
///
/// Cargo finds the workspace from there, and what the commands write does not mix with the user's own files.
pub(crate) fn smoke() -> Result<()> {
    let readme = fs::read_to_string(root().join("README.md")).context("README.md")?;
    let commands = first_commands(&readme).context("README.md has no block of sh commands")?;
    let folder = root().join("target/smoke");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    copy_configs(&folder)?;
    run(Command::new("bash").args(["-euxc", &commands]).current_dir(&folder))
}

/// The first `sh` block without the cloning, which has been done.
fn first_commands(readme: &str) -> Option<String> {
    let (_, block) = readme.split_once("```sh\n")?;
    let (block, _) = block.split_once("```")?;
    let is_cloning = |line: &&str| line.starts_with("git clone") || line.starts_with("cd ");
    Some(block.lines().filter(|line| !is_cloning(line)).collect::<Vec<_>>().join("\n"))
}

/// Presets are named relative to the repository.
fn copy_configs(folder: &Path) -> Result<()> {
    let configs = folder.join("configs");
    fs::create_dir_all(&configs)?;
    for preset in fs::read_dir(root().join("configs"))? {
        let preset = preset?.path();
        fs::copy(&preset, configs.join(preset.file_name().expect("an entry has a name")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_block_is_taken_without_cloning() {
        let readme = "# A\n```text\nno\n```\n```sh\ngit clone x\ncd x\ncargo run\n```\n```sh\nsecond\n```\n";
        assert_eq!(first_commands(readme).as_deref(), Some("cargo run"));
        assert_eq!(first_commands("# no commands"), None);
    }
}
