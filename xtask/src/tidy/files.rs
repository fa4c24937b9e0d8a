//! Rules about the files in git.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::shell::{output, root};

/// Larger files do not belong in git.
const MAX_BYTES: u64 = 1_000_000;

/// Files that may be larger.
const LARGE: [&str; 2] = [
    "crates/pipeline/tiny-base/unet/diffusion_pytorch_model.safetensors",
    "crates/pipeline/tiny-base/vae/diffusion_pytorch_model.safetensors",
];

/// The paths of all files in git and of those that `git add` would take, relative to the repository.
pub(super) fn tracked() -> Result<Vec<String>> {
    let listing = ["ls-files", "--cached", "--others", "--exclude-standard", "-z"];
    let paths = output(Command::new("git").args(listing).current_dir(root()))?;
    let paths = paths.split_terminator('\0').map(str::to_owned);
    Ok(paths.filter(|path| root().join(path).is_file()).collect())
}

pub(super) fn too_large(root: &Path, files: &[String]) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| !LARGE.contains(&file.as_str())) {
        let bytes = fs::metadata(root.join(file))?.len();
        if bytes > MAX_BYTES {
            complaints.push(format!("{file} has {bytes} bytes, at most {MAX_BYTES} are allowed"));
        }
    }
    Ok(complaints)
}
