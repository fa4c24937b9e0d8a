//! `cargo xtask parity`.

use std::env;
use std::fs;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::shell::{cargo, root, run, target_dir};

pub(crate) fn parity(seed: Option<u64>) -> Result<()> {
    let seed = match seed {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    };
    let cases = target_dir().join("parity").join(format!("seed-{seed}"));
    if cases.exists() {
        fs::remove_dir_all(&cases)?;
    }
    let python = env::var_os("PYROGRAPH_PYTHON").unwrap_or_else(|| "python3".into());
    let script = root().join("tests/reference/make_goldens.py");
    run(Command::new(python).arg(script).args(["--seed", &seed.to_string(), "--out"]).arg(&cases))
        .context("parity cases need torch, diffusers, transformers and pillow; set PYROGRAPH_PYTHON to a Python that has them")?;
    run(cargo("test --release --package pyrograph-tests parity").env("PYROGRAPH_PARITY_DIR", &cases))
        .with_context(|| format!("the cases of seed {seed} are kept in {}", cases.display()))
}
