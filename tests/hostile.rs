//! What reads files that others made, on files that are nearly right. `cargo xtask fuzz` goes on from the same files.

use std::fs;
use std::path::Path;

use pyrograph::backend;
use pyrograph_fuzz::{
    NUMBERS, config_json, metadata, pickle, preset_toml, put_number, safetensors, shard, tokenizer,
};
use pyrograph_weights::{WeightsError, load_pickled_tensors};

/// Reads each file of a folder as it is, cut short, and with each number in it exchanged: none may end the process.
fn check(folder: &Path, read: impl Fn(&[u8])) {
    let mut n_files = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        read(&bytes);
        for sixteenths in 0..16 {
            read(&bytes[..bytes.len() * sixteenths / 16]);
        }
        let n_runs_of_digits =
            bytes.split(|byte| !byte.is_ascii_digit()).filter(|run| !run.is_empty()).count();
        for seed in 0..n_runs_of_digits * NUMBERS.len() {
            let mut changed = bytes.clone();
            let room = changed.len() + 32;
            changed.resize(room, 0);
            let size = put_number(&mut changed, bytes.len(), room, seed.try_into().unwrap());
            read(&changed[..size.expect("there is a number, and room")]);
        }
        n_files += 1;
    }
    assert!(n_files > 0);
}

fn seeds(format: &str) -> std::path::PathBuf {
    crate::fixtures().join("hostile").join(format)
}

#[test]
fn configs_with_absurd_numbers_are_refused() {
    let device = backend::device();
    check(&seeds("config_json"), |bytes| config_json(bytes, &device));
}

#[test]
fn presets_with_absurd_numbers_are_refused_or_mean_what_they_say() {
    check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs"), preset_toml);
}

#[test]
fn pickles_cut_off_or_changed_anywhere_are_refused_or_read() {
    check(&seeds("pickle"), pickle);
    for entry in fs::read_dir(seeds("pickle")).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        // All places take a minute.
        for place in (0..bytes.len()).step_by(11) {
            pickle(&bytes[..place]);
            for value in [0x28, 0x52, 0xff] {
                let mut changed = bytes.clone();
                changed[place] = value;
                pickle(&changed);
            }
        }
    }
}

#[test]
fn a_pickle_that_calls_a_program_is_refused_by_its_name() {
    for (file, call) in [("system.bin", "posix.system"), ("eval.bin", "__builtin__.eval")] {
        let error = load_pickled_tensors(&seeds("pickle").join(file)).unwrap_err();
        assert!(matches!(&error, WeightsError::PickleActs { calls, .. } if calls == &[call]), "{error:?}");
        assert!(error.hint().unwrap().contains("do not load it in Python"));
    }
    assert!(!Path::new("pwned").exists());
}

#[test]
fn safetensors_that_lie_are_refused() {
    check(&seeds("safetensors"), safetensors);
}

#[test]
fn tokenizers_with_absurd_numbers_are_refused() {
    check(&seeds("tokenizer"), tokenizer);
}

#[test]
fn rows_of_a_table_lead_to_files_of_its_folder_or_are_refused() {
    check(&seeds("metadata"), metadata);
}

#[test]
fn files_of_many_samples_cut_off_or_changed_anywhere_are_refused_or_read() {
    for entry in fs::read_dir(seeds("shard")).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        shard(&bytes);
        // All places take a minute.
        for place in (0..bytes.len()).step_by(31) {
            shard(&bytes[..place]);
            for value in [0, 0x7f, 0xff] {
                let mut changed = bytes.clone();
                changed[place] = value;
                shard(&changed);
            }
        }
    }
}
