//! The readers under test.

use std::cell::OnceCell;
use std::fs;
use std::path::Path;

use burn::tensor::Device;
use pyrograph_data::{Dataset, SourceOptions};
use pyrograph_diffusion::{Sampler, SamplerKind, SchedulerJson};
use pyrograph_text::{ClipTextConfig, ClipTextJson, ClipTokenizer, parse_weighted};
use pyrograph_train::{TrainConfig, TrainPlan};
use pyrograph_unet::{ControlNetConfig, ControlNetJson, UnetConfig, UnetJson};
use pyrograph_vae::{VaeConfig, VaeJson};
use pyrograph_weights::{Pickles, Renames, inspect, load_pickled_tensors, load_tensors, names_and_shapes};
use serde::de::DeserializeOwned;
use tempfile::TempDir;

/// The `config.json` of each model and of the scheduler, up to the module and the sampler that they ask for. The first
/// byte says whose it is, so that a mutation stays in one family.
pub fn config_json(bytes: &[u8], device: &Device) {
    let Some((kind, json)) = bytes.split_first() else { return };
    let names = &Renames::NONE;
    match kind % 5 {
        0 => {
            if let Some(config) = config::<UnetJson, UnetConfig>(json) {
                names_and_shapes(&config.init(device), names);
            }
        }
        1 => {
            if let Some(config) = config::<ControlNetJson, ControlNetConfig>(json) {
                names_and_shapes(&config.init(device), names);
            }
        }
        2 => {
            if let Some(config) = config::<VaeJson, VaeConfig>(json) {
                names_and_shapes(&config.init(device), names);
            }
        }
        3 => {
            if let Some(config) = config::<ClipTextJson, ClipTextConfig>(json) {
                names_and_shapes(&config.init(device), names);
            }
        }
        _ => {
            if let Ok(config) = serde_json::from_slice::<SchedulerJson>(json) {
                for kind in SamplerKind::ALL {
                    let _ = Sampler::from_config(kind, &config, 4);
                }
            }
        }
    }
}

fn config<J: DeserializeOwned, C: TryFrom<J>>(json: &[u8]) -> Option<C> {
    serde_json::from_slice::<J>(json).ok().and_then(|json| json.try_into().ok())
}

/// The text of a preset, the plan that it makes, and its way back to text.
///
/// # Panics
/// If what is written is not read as what it was.
pub fn preset_toml(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(config) = TrainConfig::parse(text, Path::new("preset.toml")) else { return };
    if let Ok(written) = config.to_toml() {
        let again = TrainConfig::parse(&written, Path::new("written.toml")).expect("what is written is read");
        assert_eq!(again, config);
    }
    let _ = TrainPlan::try_from(config);
}

/// A safetensors file: header, offsets, shapes, and what `inspect` says of it.
pub fn safetensors(bytes: &[u8]) {
    with_files(&[("model.safetensors", bytes)], |folder| {
        let path = folder.join("model.safetensors");
        let _ = load_tensors(&path);
        let _ = inspect(&path, Pickles::Refused);
    });
}

/// A pickled file of PyTorch, in any of its containers, and its tensors as far as they are small.
pub fn pickle(bytes: &[u8]) {
    with_files(&[("model.bin", bytes)], |folder| {
        let path = folder.join("model.bin");
        let report = inspect(&path, Pickles::Allowed);
        // Views may repeat what is stored any number of times. Who loads a model knows how large its tensors are.
        if report.is_ok_and(|report| report.bytes < 1 << 24) {
            let _ = load_pickled_tensors(&path);
        }
    });
}

/// The files of a tokenizer, and a prompt in the tokenizer that they make. Prompt and files are parted by bytes of zero; an
/// empty file is one that is not there.
pub fn tokenizer(bytes: &[u8]) {
    const FILES: [&str; 4] = ["tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json"];
    let mut parts = bytes.splitn(FILES.len() + 1, |byte| *byte == 0);
    let prompt = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let files = FILES.map(|name| (name, parts.next().unwrap_or_default()));
    let (there, absent): (Vec<_>, Vec<_>) = files.into_iter().partition(|(_, bytes)| !bytes.is_empty());
    with_files(&there, |folder| {
        for (name, _) in absent {
            let _ = fs::remove_file(folder.join(name));
        }
        let Ok(tokenizer) = ClipTokenizer::from_dir(folder) else { return };
        // Nobody encodes with a tokenizer that does not fit the text encoder.
        if tokenizer.check_fits(&ClipTextConfig::clip_l()).is_ok() {
            let _ = tokenizer.encode(&prompt);
            let _ = tokenizer.chunks(&parse_weighted(&prompt));
        }
    });
}

/// The rows of a table: JSON lines, comma-separated values, fill50k's `prompt.json`. Beside it are the pictures `a.png` and `b.png`, and
/// what a row leads to out of the folder must not be among its samples.
///
/// # Panics
/// If a sample is a file of another folder.
pub fn metadata(bytes: &[u8]) {
    const PICTURE: &[u8] = b"not decoded";
    for table in ["rows.jsonl", "rows.csv", "metadata.jsonl", "metadata.csv", "prompt.json"] {
        with_files(&[("a.png", PICTURE), ("b.png", PICTURE), (table, bytes)], |folder| {
            let path = if table.starts_with("rows") { folder.join(table) } else { folder.to_owned() };
            let survey = Dataset::survey(&path, &SourceOptions::default());
            let real = folder.canonicalize().expect("the folder is there");
            for sample in survey.iter().flat_map(|survey| &survey.rows).flatten() {
                for file in [&sample.image, &sample.hint].into_iter().filter_map(|content| content.file()) {
                    let file = file.canonicalize().expect("the file of a sample is there");
                    assert!(file.starts_with(&real), "{} is not in {}", file.display(), real.display());
                }
            }
            fs::remove_file(folder.join(table)).expect("the file can be deleted");
        });
    }
}

/// A file of many samples: Parquet, Arrow, zip or tar, by its first bytes. What is found in it is read, but not decoded.
pub fn shard(bytes: &[u8]) {
    let name = match bytes {
        [b'P', b'A', b'R', b'1', ..] => "rows.parquet",
        [0xff, 0xff, 0xff, 0xff, ..] | [b'A', b'R', b'R', b'O', b'W', ..] => "rows.arrow",
        [b'P', b'K', ..] => "rows.zip",
        _ => "rows.tar",
    };
    with_files(&[(name, bytes)], |folder| {
        let survey = Dataset::survey(&folder.join(name), &SourceOptions::default());
        for sample in survey.iter().flat_map(|survey| &survey.rows).flatten() {
            let _ = sample.image.read();
            let _ = sample.hint.read();
        }
    });
}

/// Writes files into a folder of this thread and gives it to `read`; what is of the same name is written over. With
/// `TMPDIR=/dev/shm` nothing reaches a disk.
fn with_files<T>(files: &[(&str, &[u8])], read: impl FnOnce(&Path) -> T) -> T {
    thread_local! {
        static FOLDER: OnceCell<TempDir> = const { OnceCell::new() };
    }
    FOLDER.with(|folder| {
        let folder = folder.get_or_init(|| tempfile::tempdir().expect("a folder can be made")).path();
        for (name, bytes) in files {
            fs::write(folder.join(name), bytes).expect("the file can be written");
        }
        read(folder)
    })
}
