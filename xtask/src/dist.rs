//! `cargo xtask dist`: a bundle for a machine that has a device but no Rust.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::shell::{Backend, cargo, output, root, run, target_dir};

/// Runs the tests of the bundle, wherever it was unpacked.
const RUN_SH: &str = r#"#!/usr/bin/env bash
# Runs the bundled tests on this machine's device; arguments go to the test binary.
set -eu
here="$(cd "$(dirname "$0")" && pwd)"
export PYROGRAPH_FIXTURES="$here/fixtures" PYROGRAPH_BIN="$here/pyrograph"
exec "$here/tests" "$@"
"#;

/// Times training beside diffusers, wherever the bundle was unpacked.
const BENCH_SH: &str = r#"#!/usr/bin/env bash
# Times training on this machine's device in turns with diffusers'; writes bench-report.md and bench-report.json here.
# $PYROGRAPH_PYTHON, or python3, needs torch and diffusers to time diffusers, too: on CUDA in bf16 where PyTorch finds it.
# Arguments go to bench_vs_diffusers.py and win over these.
set -eu
here="$(cd "$(dirname "$0")" && pwd)"
exec "${PYROGRAPH_PYTHON:-python3}" "$here/bench/bench_vs_diffusers.py" --pyrograph "$here/pyrograph" \
  --resolution 512 --batch-size 1 4 8 16 --steps 10 --theirs="--device auto --mixed-precision auto" \
  --report bench-report.md --json bench-report.json "$@"
"#;

pub(crate) fn dist(backend: Backend) -> Result<()> {
    let name = format!("pyrograph-{}", backend.feature());
    let dist = target_dir().join("dist");
    let bundle = dist.join(&name);
    if bundle.exists() {
        fs::remove_dir_all(&bundle)?;
    }
    fs::create_dir_all(&bundle)?;

    let features = |command: &str| {
        let mut command = cargo(command);
        command.args([
            "--no-default-features",
            "--features",
            backend.feature(),
            "--message-format",
            "json-render-diagnostics",
        ]);
        command
    };
    let binary = executable(&output(&mut features("build --release --package pyrograph"))?, "pyrograph")?;
    let tests =
        executable(&output(&mut features("test --release --no-run --package pyrograph-tests"))?, "all")?;
    for (built, name) in [(binary, "pyrograph"), (tests, "tests")] {
        let copy = bundle.join(name);
        fs::copy(built, &copy)?;
        // Names of functions are a third of a GPU build.
        run(Command::new("strip").arg(copy))?;
    }
    copy_folder(&root().join("tests/fixtures"), &bundle.join("fixtures"))?;
    let bench = bundle.join("bench");
    fs::create_dir_all(&bench)?;
    for script in ["bench_diffusers.py", "bench_vs_diffusers.py"] {
        fs::copy(root().join("tests/reference").join(script), bench.join(script))?;
    }
    write_script(&bundle.join("run.sh"), RUN_SH)?;
    write_script(&bundle.join("bench.sh"), BENCH_SH)?;

    let archive = dist.join(format!("{name}.tar.xz"));
    run(Command::new("tar").arg("-cJf").arg(&archive).arg("-C").arg(&dist).arg(&name))?;
    eprintln!("{}: unpack it and run {name}/run.sh, then {name}/bench.sh", archive.display());
    Ok(())
}

/// The path of an executable, from the messages of the cargo that built it.
fn executable(messages: &str, target: &str) -> Result<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == target)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo built no executable `{target}`"))
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn write_script(path: &Path, script: &str) -> Result<()> {
    fs::write(path, script)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_found_among_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"all"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"all"},"executable":"/target/release/deps/all-1"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages, "all").unwrap(), Path::new("/target/release/deps/all-1"));
        assert!(executable(messages, "pyrograph").is_err());
    }
}
