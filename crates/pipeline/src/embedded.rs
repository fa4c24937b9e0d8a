//! The tiny base that was trained: a Stable Diffusion folder inside the program.

use std::fs;
use std::path::Path;

use crate::error::PipelineError;

/// Names the files of the folder, and holds them.
macro_rules! files {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_bytes!(concat!("../tiny-base/", $name)).as_slice())),*]
    };
}

/// Made by `cargo xtask tiny-base`.
const FILES: [(&str, &[u8]); 11] = files![
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
];

/// Writes the folder as it was trained, in half precision.
///
/// # Errors
/// [`PipelineError::Io`] if a file cannot be written.
pub(crate) fn write(out: &Path) -> Result<(), PipelineError> {
    for (name, bytes) in FILES {
        let path = out.join(name);
        let folder = path.parent().expect("a file's path has a folder");
        let failed = |source| PipelineError::Io { path: path.clone(), source };
        fs::create_dir_all(folder).map_err(failed)?;
        fs::write(&path, bytes).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_complete_and_at_most_eight_megabytes() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tiny-base");
        let mut found: Vec<String> = Vec::new();
        let mut folders = vec![source.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(&source).expect("inside").to_string_lossy();
                    found.push(name.replace('\\', "/"));
                }
            }
        }
        found.sort();
        assert_eq!(found, FILES.map(|(name, _)| name));
        assert!(FILES.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() <= 8 << 20);
    }
}
