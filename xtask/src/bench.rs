//! `cargo xtask bench`: how fast we are, alone and beside diffusers.

use std::env;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::shell::{Backend, cargo, output, root, run, target_dir};

const NEEDS_PYTHON: &str =
    "it needs torch, torchvision, diffusers and transformers; set PYROGRAPH_PYTHON to a Python that has them";

#[derive(Args)]
pub(crate) struct BenchArgs {
    /// Measure diffusers' training step in turns with ours, on a random full-size Stable Diffusion 1.5.
    ///
    /// The interpreter is `$PYROGRAPH_PYTHON`, or `python3`; it needs torch, diffusers and transformers.
    #[arg(long, conflicts_with = "kernels")]
    vs_diffusers: bool,
    /// Measure single operations and the loading of pictures, ours and then PyTorch's and torchvision's.
    #[arg(long)]
    kernels: bool,
    /// Measure from the command to the first step on the tiny base, ours and diffusers' in turns.
    ///
    /// Its Python needs accelerate, datasets and torchvision besides.
    #[arg(long, conflicts_with_all = ["vs_diffusers", "kernels"])]
    startup: bool,
    /// Measure a picture of a random full-size Stable Diffusion 1.5 with a ControlNet, ours and diffusers' in turns.
    #[arg(long, conflicts_with_all = ["vs_diffusers", "kernels", "startup"])]
    generate: bool,
    /// Measure the loading of a random full-size Stable Diffusion 1.5 from f16 files, ours and diffusers' in turns.
    #[arg(long, conflicts_with_all = ["vs_diffusers", "kernels", "startup", "generate"])]
    load: bool,
    /// The backend to measure.
    #[arg(long, value_enum, default_value_t = Backend::Cpu)]
    backend: Backend,
    /// Passed on to `pyrograph bench` or, with --vs-diffusers, --startup, --generate or --load, to its script in `tests/reference`.
    #[arg(last = true)]
    args: Vec<String>,
}

pub(crate) fn bench(args: &BenchArgs) -> Result<()> {
    let feature = args.backend.feature();
    let python = env::var_os("PYROGRAPH_PYTHON").unwrap_or_else(|| "python3".into());
    if args.kernels {
        let tests =
            format!("test --release --package pyrograph-tests --no-default-features --features {feature}");
        let ours =
            output(cargo(&tests).args(["bench::", "--", "--ignored", "--nocapture", "--test-threads=1"]))?;
        let path = target_dir().join("bench-kernels.jsonl");
        fs::write(&path, ours)?;
        return run(Command::new(python).arg(root().join("tests/reference/bench_kernels.py")).arg(path))
            .context(NEEDS_PYTHON);
    }
    run(&mut cargo(&format!(
        "build --release --package pyrograph --no-default-features --features {feature}"
    )))?;
    let program = target_dir().join("release").join(format!("pyrograph{}", env::consts::EXE_SUFFIX));
    let script = match (args.vs_diffusers, args.startup, args.generate, args.load) {
        (true, ..) => "bench_vs_diffusers.py",
        (_, true, ..) => "bench_startup.py",
        (_, _, true, _) => "bench_generate.py",
        (.., true) => "bench_load.py",
        _ => return run(Command::new(program).arg("bench").args(&args.args)),
    };
    let script = root().join("tests/reference").join(script);
    run(Command::new(python).arg(script).arg("--pyrograph").arg(program).args(&args.args))
        .context(NEEDS_PYTHON)
}
