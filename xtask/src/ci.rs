//! `cargo xtask ci`: everything a merge needs, cheapest first.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::check::{clippy, fmt};
use crate::doc::doc;
use crate::mpi::mpi_if_there;
use crate::shell::{Backend, cargo, has, run};
use crate::smoke::smoke;
use crate::test::test;
use crate::tidy::tidy;

type Step = (&'static str, fn() -> Result<()>);

const STEPS: [Step; 10] = [
    ("fmt", fmt),
    ("tidy", tidy),
    ("clippy", clippy),
    ("browser", browser),
    ("test", || test(Backend::Cpu)),
    ("mpi", mpi_if_there),
    ("doc", doc),
    ("check wgpu", || check_backend(Backend::Wgpu)),
    ("check cuda", || check_backend(Backend::Cuda)),
    ("smoke", smoke),
];

pub(crate) fn ci() -> Result<()> {
    let mut times = Vec::new();
    for (name, step) in STEPS {
        eprintln!("\n== {name}");
        let start = Instant::now();
        let result = step();
        times.push((name, start.elapsed()));
        if result.is_err() {
            summarise(&times);
        }
        result.with_context(|| format!("step `{name}`"))?;
    }
    summarise(&times);
    eprintln!("all {} steps passed", STEPS.len());
    Ok(())
}

/// Installs Chromium, in which the tests open the report, where it is missing and apt can; without it they skip that.
fn browser() -> Result<()> {
    if ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"].into_iter().any(has) {
        return Ok(());
    }
    if !has("apt-get") {
        eprintln!(
            "warning: no Chromium and no apt to install it with; the report is not opened in a browser"
        );
        return Ok(());
    }
    let installed = run(Command::new("apt-get").arg("update")).and_then(|()| {
        let mut install = Command::new("apt-get");
        run(install.args(["install", "--yes", "--no-install-recommends", "chromium"]))
    });
    if let Err(error) = installed {
        eprintln!("warning: Chromium cannot be installed ({error:#}); the report is not opened in a browser");
    }
    Ok(())
}

/// Type-checks the program for a backend.
///
/// Burn's CUDA backend links LLVM, and its build script downloads that unless it believes to be building
/// documentation. A check links nothing, so it works on a machine that reaches only the crates' registry.
fn check_backend(backend: Backend) -> Result<()> {
    let mut check = cargo("check --release --package pyrograph --no-default-features --features");
    run(check.arg(backend.feature()).env("DOCS_RS", "1"))
}

fn summarise(times: &[(&str, Duration)]) {
    eprintln!();
    let total = times.iter().map(|(_, time)| *time).sum();
    for (name, time) in times.iter().copied().chain([("total", total)]) {
        eprintln!("{name:<12}{:>8.1} s", time.as_secs_f64());
    }
}
