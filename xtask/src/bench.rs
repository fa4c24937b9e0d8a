//! `cargo xtask bench`: how fast we are, alone and beside diffusers.

use std::env;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::shell::{Backend, cargo, root, run, target_dir};

#[derive(Args)]
pub(crate) struct BenchArgs {
    /// Measure diffusers' training step in turns with ours, on a random full-size Stable Diffusion 1.5.
    ///
    /// The interpreter is `$PYROGRAPH_PYTHON`, or `python3`; it needs torch, diffusers and transformers.
    #[arg(long)]
    vs_diffusers: bool,
    /// The backend to measure.
    #[arg(long, value_enum, default_value_t = Backend::Cpu)]
    backend: Backend,
    /// Passed on to `pyrograph bench` or, with --vs-diffusers, to `tests/reference/bench_vs_diffusers.py`.
    #[arg(last = true)]
    args: Vec<String>,
}

pub(crate) fn bench(args: &BenchArgs) -> Result<()> {
    let feature = args.backend.feature();
    run(&mut cargo(&format!("build --release --package pyrograph --no-default-features --features {feature}")))?;
    let program = target_dir().join("release").join(format!("pyrograph{}", env::consts::EXE_SUFFIX));
    if !args.vs_diffusers {
        return run(Command::new(program).arg("bench").args(&args.args));
    }
    let python = env::var_os("PYROGRAPH_PYTHON").unwrap_or_else(|| "python3".into());
    let script = root().join("tests/reference/bench_vs_diffusers.py");
    run(Command::new(python).arg(script).arg("--pyrograph").arg(program).args(&args.args))
        .context("it needs torch, diffusers and transformers; set PYROGRAPH_PYTHON to a Python that has them")
}
