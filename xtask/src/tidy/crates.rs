//! Rules about packages: who depends on whom, who has features, what a manifest and its folder hold.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// I1: every crate of ours with the crates of ours that it may depend on.
const ARROWS: &[(&str, &[&str])] = &[
    ("pyrograph-kernels", &[]),
    ("pyrograph-unet", &["pyrograph-kernels"]),
    ("pyrograph-vae", &["pyrograph-kernels"]),
    ("pyrograph-text", &["pyrograph-kernels"]),
    ("pyrograph-diffusion", &[]),
    ("pyrograph-weights", &[]),
    ("pyrograph-data", &[]),
    ("pyrograph-report", &[]),
    ("pyrograph-hub", &[]),
    (
        "pyrograph-pipeline",
        &["pyrograph-unet", "pyrograph-vae", "pyrograph-text", "pyrograph-diffusion", "pyrograph-weights"],
    ),
    (
        "pyrograph-train",
        &[
            "pyrograph-pipeline",
            "pyrograph-unet",
            "pyrograph-diffusion",
            "pyrograph-data",
            "pyrograph-weights",
            "pyrograph-kernels",
        ],
    ),
    (
        "pyrograph",
        &[
            "pyrograph-kernels",
            "pyrograph-unet",
            "pyrograph-vae",
            "pyrograph-text",
            "pyrograph-diffusion",
            "pyrograph-weights",
            "pyrograph-data",
            "pyrograph-pipeline",
            "pyrograph-train",
            "pyrograph-report",
            "pyrograph-hub",
        ],
    ),
];

/// Packages outside the arrows: they may use anything, and nothing uses them.
const OUTSIDE: [&str; 3] = ["pyrograph-tests", "tiny-base", "xtask"];

/// I3: only these crates may have features.
const WITH_FEATURES: [&str; 2] = ["pyrograph", "pyrograph-kernels"];

/// I2: crates that do not know tensors.
const WITHOUT_BURN: [&str; 3] = ["pyrograph-data", "pyrograph-report", "pyrograph-hub"];

fn packages(metadata: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages.filter_map(|package| Some((package["name"].as_str()?, package)))
}

/// The names of a package's dependencies that are not for tests or builds.
fn dependencies(package: &Value) -> impl Iterator<Item = &str> {
    let all = package["dependencies"].as_array().into_iter().flatten();
    all.filter(|dependency| dependency["kind"].is_null()).filter_map(|dependency| dependency["name"].as_str())
}

pub(super) fn arrows(metadata: &Value) -> Vec<String> {
    let allowed: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let ours: Vec<&str> = packages(metadata).map(|(name, _)| name).collect();
    let mut complaints = Vec::new();
    for (name, package) in packages(metadata).filter(|(name, _)| !OUTSIDE.contains(name)) {
        let Some(allowed) = allowed.get(name) else {
            complaints
                .push(format!("package `{name}` has no place in the arrows of xtask/src/tidy/crates.rs"));
            continue;
        };
        for dependency in dependencies(package) {
            if ours.contains(&dependency) && !allowed.contains(&dependency) {
                complaints.push(format!("`{name}` may not depend on `{dependency}`"));
            }
            if WITHOUT_BURN.contains(&name) && dependency.starts_with("burn") {
                complaints
                    .push(format!("`{name}` may not depend on `{dependency}`: it does not know tensors"));
            }
        }
    }
    complaints
}

pub(super) fn features(metadata: &Value) -> Vec<String> {
    packages(metadata)
        .filter(|(name, _)| !WITH_FEATURES.contains(name) && !OUTSIDE.contains(name))
        .filter(|(_, package)| package["features"].as_object().is_some_and(|features| !features.is_empty()))
        .map(|(name, _)| format!("`{name}` may not have features, only {} may", WITH_FEATURES.join(" and ")))
        .collect()
}

/// Every crate takes the workspace's lints and has a README.
pub(super) fn manifests(root: &Path, metadata: &Value) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    for (name, package) in packages(metadata).filter(|(name, _)| *name != "xtask") {
        let manifest = Path::new(package["manifest_path"].as_str().context("manifest_path")?);
        let text = fs::read_to_string(manifest).with_context(|| manifest.display().to_string())?;
        if !text.contains("[lints]\nworkspace = true") {
            complaints.push(format!("`{name}` does not take the workspace's lints"));
        }
        let folder = manifest.parent().context("a manifest is in a folder")?;
        if folder.starts_with(root.join("crates")) && !folder.join("README.md").is_file() {
            complaints.push(format!("`{name}` has no README.md"));
        }
    }
    Ok(complaints)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Metadata of two packages, the first of which depends on the second.
    fn metadata(from: &str, to: &str) -> Value {
        json!({ "packages": [
            { "name": from, "features": {}, "dependencies": [{ "name": to, "kind": null }] },
            { "name": to, "features": {}, "dependencies": [] },
        ]})
    }

    #[test]
    fn an_arrow_against_the_plan_is_a_complaint() {
        let complaints = |from, to| arrows(&metadata(from, to)).len();
        assert_eq!(complaints("pyrograph-train", "pyrograph-pipeline"), 0);
        assert_eq!(complaints("pyrograph-pipeline", "pyrograph-train"), 1);
        assert_eq!(complaints("pyrograph-unet", "pyrograph-vae"), 1);
        assert_eq!(complaints("pyrograph-utils", "pyrograph-unet"), 1);
    }

    #[test]
    fn data_knows_burn_in_its_tests_at_most() {
        let data = |kind: Option<&str>| json!({ "packages": [{ "name": "pyrograph-data", "dependencies": [{ "name": "burn", "kind": kind }] }] });
        assert_eq!(arrows(&data(None)).len(), 1);
        assert_eq!(arrows(&data(Some("dev"))).len(), 0);
    }

    #[test]
    fn only_two_crates_have_features() {
        let with_features = |name| json!({ "packages": [{ "name": name, "features": { "cuda": [] } }] });
        assert_eq!(features(&with_features("pyrograph")).len(), 0);
        assert_eq!(features(&with_features("pyrograph-train")).len(), 1);
    }
}
