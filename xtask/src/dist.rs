//! `cargo xtask dist`: a bundle for a machine that has a device but no Rust.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::shell::{Backend, cargo, output, root, run, target_dir};

/// Tests and times, wherever the bundle was unpacked.
const RUN_SH: &str = include_str!("dist/run.sh");

/// Times training beside diffusers, wherever the bundle was unpacked.
const BENCH_SH: &str = include_str!("dist/bench.sh");

pub(crate) fn dist(backend: Backend) -> Result<()> {
    let name = format!("pyrograph-{}", backend.feature());
    let dist = target_dir().join("dist");
    let bundle = dist.join(&name);
    if bundle.exists() {
        fs::remove_dir_all(&bundle)?;
    }
    fs::create_dir_all(&bundle)?;

    // One build, so that Burn is compiled with one set of features.
    let mut build =
        cargo("build --release --package pyrograph --package pyrograph-tests --bin pyrograph --test all");
    build.args(["--no-default-features", "--features", backend.feature()]);
    build.args(["--message-format", "json-render-diagnostics"]);
    #[cfg(target_os = "linux")]
    if backend == Backend::Cuda {
        build.envs(crate::llvm::variables()?);
    }
    let messages = output(&mut build)?;
    let (binary, tests) = (executable(&messages, "pyrograph")?, executable(&messages, "all")?);
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
    // As diffusers is timed where PyTorch finds CUDA; other devices may lack the format.
    let ours = if backend == Backend::Cuda { r#"--ours="--mixed_precision bf16""# } else { "" };
    write_script(&bundle.join("run.sh"), &RUN_SH.replace("@BACKEND@", backend.feature()))?;
    write_script(&bundle.join("bench.sh"), &BENCH_SH.replace("@OURS@", ours))?;

    let archive = dist.join(format!("{name}.tar.xz"));
    let mut tar = Command::new("tar");
    tar.arg("-cJf").arg(&archive).arg("-C").arg(&dist).arg(&name);
    // The two programs share most of their code, LLVM's for one: a window that holds both stores it once.
    run(tar.env("XZ_OPT", "--lzma2=preset=6,dict=256MiB"))?;
    let mib = fs::metadata(&archive)?.len() >> 20;
    eprintln!("{} ({mib} MiB): unpack it and run {name}/run.sh", archive.display());
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
