//! `cargo xtask tidy`: the invariants of ARCHITECTURE.md that no lint knows.
//!
//! Every rule looks at the whole repository and returns all its complaints, so that one run shows everything.

mod crates;
mod files;
mod source;

use anyhow::{Result, bail};

use crate::shell::{cargo, output, root};
use crate::tidy::source::Source;

pub(crate) fn tidy() -> Result<()> {
    let metadata = serde_json::from_str(&output(&mut cargo("metadata --no-deps --format-version 1"))?)?;
    let files = files::tracked()?;
    let sources = source::read(root(), &files)?;
    let complaints: Vec<String> = [
        crates::arrows(&metadata),
        crates::features(&metadata),
        crates::manifests(root(), &metadata)?,
        files::too_large(root(), &files)?,
        too_long(&sources),
        device_choices(&sources),
        impure_modules(&sources),
    ]
    .concat();
    for complaint in &complaints {
        eprintln!("tidy: {complaint}");
    }
    if !complaints.is_empty() {
        bail!("{} complaints of tidy", complaints.len());
    }
    eprintln!("tidy: {} files, {} of them Rust", files.len(), sources.len());
    Ok(())
}

/// A file of 600 lines is two ideas.
const MAX_LINES: usize = 600;

fn too_long(sources: &[Source]) -> Vec<String> {
    let long = sources.iter().map(|source| (&source.path, source.text.lines().count()));
    long.filter(|(_, lines)| *lines > MAX_LINES)
        .map(|(path, lines)| format!("{path} has {lines} lines, at most {MAX_LINES} are allowed"))
        .collect()
}

/// I3: one file chooses the backend.
fn device_choices(sources: &[Source]) -> Vec<String> {
    const ALLOWED: &str = "crates/cli/src/backend.rs";
    const CONSTRUCTORS: [&str; 8] = ["flex", "cuda", "wgpu", "vulkan", "metal", "webgpu", "rocm", "default"];
    let product = sources.iter().filter(|source| source.is_product() && source.path != ALLOWED);
    product
        .flat_map(|source| {
            let found = CONSTRUCTORS.map(|name| format!("Device::{name}("));
            let found = found.into_iter().filter(|call| source.product.contains(call.as_str()));
            found.map(|call| format!("{} calls `{call}..)`, only {ALLOWED} may", source.path))
        })
        .collect()
}

/// I5: a file with a Burn module holds tensors and shapes; paths, serde and key strings are elsewhere.
fn impure_modules(sources: &[Source]) -> Vec<String> {
    const MODEL_CRATES: [&str; 3] = ["crates/unet/src/", "crates/vae/src/", "crates/text/src/"];
    const FOREIGN: [&str; 4] = ["serde", "std::path", "std::fs", "PathBuf"];
    let is_module = |source: &&Source| {
        MODEL_CRATES.iter().any(|folder| source.path.starts_with(folder))
            && source.product.contains("derive(Module")
    };
    let mut complaints = Vec::new();
    for source in sources.iter().filter(is_module) {
        let foreign = FOREIGN.iter().filter(|word| source.product.contains(**word));
        complaints
            .extend(foreign.map(|word| format!("{} is a model file and mentions `{word}`", source.path)));
        let keys = source.literals().filter(|literal| is_key(literal));
        complaints
            .extend(keys.map(|key| format!("{} is a model file and has the key \"{key}\"", source.path)));
    }
    complaints
}

/// Whether a string looks like the name of a tensor: `to_out.0`.
fn is_key(literal: &str) -> bool {
    let is_part =
        |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    literal.contains('.') && literal.split('.').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asserts how many complaints a rule has of one file.
    fn check(rule: fn(&[Source]) -> Vec<String>, path: &str, text: &str, expected: usize) {
        let complaints = rule(&[Source::new(path.to_owned(), text.to_owned())]);
        assert_eq!(complaints.len(), expected, "{path}: {complaints:?}");
    }

    #[test]
    fn a_file_of_two_ideas_is_too_long() {
        check(too_long, "crates/unet/src/unet.rs", &"\n".repeat(600), 0);
        check(too_long, "crates/unet/src/unet.rs", &"\n".repeat(601), 1);
    }

    #[test]
    fn only_one_file_and_tests_choose_a_device() {
        let call = "fn f() { Device::flex(); }\n";
        check(device_choices, "crates/train/src/step.rs", call, 1);
        check(device_choices, "crates/cli/src/backend.rs", call, 0);
        check(device_choices, "tests/parity/unet.rs", call, 0);
        check(
            device_choices,
            "crates/train/src/step.rs",
            &format!("#[cfg(test)]\nmod tests {{\n{call}}}"),
            0,
        );
        check(device_choices, "crates/train/src/step.rs", &format!("/// {call}"), 0);
    }

    #[test]
    fn a_model_file_has_no_serde_path_or_key() {
        let module = "#[derive(Module, Debug)]\nstruct Unet;\n";
        check(impure_modules, "crates/unet/src/unet.rs", module, 0);
        check(impure_modules, "crates/unet/src/unet.rs", &format!("use serde::Serialize;\n{module}"), 1);
        check(
            impure_modules,
            "crates/unet/src/unet.rs",
            &format!("{module}const K: &str = \"to_out.0\";"),
            1,
        );
        check(
            impure_modules,
            "crates/unet/src/unet.rs",
            &format!("{module}const K: &str = \"wrong state.\";"),
            0,
        );
        check(impure_modules, "crates/unet/src/keys.rs", "const K: &str = \"to_out.0\";", 0);
    }
}
