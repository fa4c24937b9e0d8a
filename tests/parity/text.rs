//! CLIPTextModel and CLIPTokenizer against transformers.

use std::collections::BTreeMap;

use pyrograph::backend;
use pyrograph_text::{
    ClipTextConfig, ClipTextJson, ClipTokenizer, IGNORED, OPTIONAL_PREFIX, RENAMES, build_vocabulary,
};
use pyrograph_weights::{LoadOptions, Renames, load};
use serde::Deserialize;

use super::cases::{assert_close, cases};
use crate::tolerance;

#[test]
fn every_layers_hidden_state_and_the_pooled_one_equal_those_of_transformers() {
    let device = backend::device();
    for case in cases("text") {
        let json = case.json::<ClipTextJson>("config.json");
        let config = ClipTextConfig::try_from(json).expect("a text encoder's config");
        let options = LoadOptions {
            renames: Renames::new(RENAMES),
            optional_prefix: Some(OPTIONAL_PREFIX),
            ignore: IGNORED,
            ..LoadOptions::default()
        };
        let model = load(config.init(&device), &case.dir.join("weights.safetensors"), &options)
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let ids = case.tensors("inputs.safetensors").int::<2>("ids", &device);
        let expected = case.tensors("expected.safetensors");
        let output = model.forward(ids);
        assert_eq!(output.hidden_states.len(), config.n_layers + 1, "{}", case.name);
        for (layer, actual) in output.hidden_states.into_iter().enumerate() {
            let name = format!("hidden.{layer}");
            assert_close(
                &format!("{}: {name}", case.name),
                actual,
                expected.float::<3>(&name, &device),
                tolerance::OUTPUT,
            );
        }
        let last = expected.float::<3>("last_hidden_state", &device);
        assert_close(&format!("{}: last", case.name), output.last_hidden_state, last, tolerance::OUTPUT);
        let pooled = expected.float::<2>("pooled", &device);
        assert_close(&format!("{}: pooled", case.name), output.pooled, pooled, tolerance::OUTPUT);
    }
}

#[derive(Deserialize)]
struct TokenizerCase {
    prompts: Vec<String>,
    removed: Vec<Option<String>>,
    words: Vec<String>,
    vocab_size: usize,
}

#[test]
fn token_ids_and_removed_text_equal_those_of_transformers() {
    for case in cases("tokenizer") {
        let expected: TokenizerCase = case.json("case.json");
        let tokenizer = ClipTokenizer::from_dir(case.dir.join("tokenizer"))
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let ids = case.tensors("ids.safetensors").0["ids"].clone().try_into_vec::<i64>().expect("i64");
        let rows = ids.chunks(tokenizer.model_max_length());
        assert_eq!(rows.len(), expected.prompts.len(), "{}: tokens per prompt", case.name);
        for ((prompt, removed), row) in expected.prompts.iter().zip(expected.removed).zip(rows) {
            let encoded = tokenizer.encode(prompt);
            let actual: Vec<i64> = encoded.ids.into_iter().map(i64::from).collect();
            assert_eq!(actual, row, "{}: {prompt:?}", case.name);
            assert_eq!(encoded.truncated, removed, "{}: removed from {prompt:?}", case.name);
        }
        let fitting = ClipTextConfig { vocab_size: expected.vocab_size, ..ClipTextConfig::clip_l() };
        assert!(tokenizer.check_fits(&fitting).is_ok(), "{}", case.name);
        let ignorant = ClipTextConfig { vocab_size: expected.vocab_size - 1, ..fitting };
        assert!(tokenizer.check_fits(&ignorant).is_err(), "{}", case.name);
    }
}

#[test]
fn the_vocabulary_made_from_words_is_the_one_that_transformers_was_given() {
    let mut n_checked = 0;
    for case in cases("tokenizer") {
        let folder = case.dir.join("tokenizer");
        if !folder.join("merges.txt").is_file() {
            continue;
        }
        let words: TokenizerCase = case.json("case.json");
        let words: Vec<&str> = words.words.iter().map(String::as_str).collect();
        let vocabulary = build_vocabulary(&words);
        let ids: BTreeMap<String, u32> = serde_json::from_str(&vocabulary.vocab_json).expect("a map");
        assert_eq!(ids, case.json("tokenizer/vocab.json"), "{}: vocab.json", case.name);
        let merges = std::fs::read_to_string(folder.join("merges.txt")).expect("readable");
        assert_eq!(vocabulary.merges_txt, merges, "{}: merges.txt", case.name);
        n_checked += 1;
    }
    assert!(n_checked > 0, "no case with merges.txt");
}
