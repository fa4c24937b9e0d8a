//! `cargo xtask fuzz`.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell::{root, run};

#[derive(clap::Args)]
pub(crate) struct FuzzArgs {
    /// For each target.
    #[arg(long, default_value_t = 600)]
    seconds: u32,
    /// Which of `fuzz/fuzz_targets` [default: all, one after another].
    targets: Vec<String>,
}

/// Runs libFuzzer over each target, from the files of the tests on; `fuzz/corpus` is what earlier runs found.
pub(crate) fn fuzz(args: &FuzzArgs) -> Result<()> {
    let targets = if args.targets.is_empty() { all_targets()? } else { args.targets.clone() };
    for target in targets {
        let corpus = root().join("fuzz/corpus").join(&target);
        fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
        let seeds = match target.as_str() {
            "preset_toml" => root().join("configs"),
            _ => root().join("tests/fixtures/hostile").join(&target),
        };
        // None of the sanitizers finds anything where no code is unsafe.
        let mut fuzzer = Command::new("rustup");
        fuzzer.args(["run", "nightly", "cargo", "fuzz", "run", "--sanitizer", "none", target.as_str()]);
        fuzzer.args([corpus, seeds]).arg("--").arg(format!("-max_total_time={}", args.seconds));
        fuzzer.args(["-timeout=60", "-rss_limit_mb=3000"]).current_dir(root());
        run(&mut fuzzer)?;
    }
    Ok(())
}

fn all_targets() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root().join("fuzz/fuzz_targets")).context("cannot read fuzz/fuzz_targets")? {
        names.extend(entry?.path().file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}
