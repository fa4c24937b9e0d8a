use std::collections::BTreeMap;

use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use super::*;

/// What A1111 1.10 read, before it splits sizes and adds defaults.
#[derive(Deserialize)]
struct Case {
    text: String,
    prompt: String,
    negative_prompt: String,
    settings: BTreeMap<String, String>,
}

#[test]
fn every_text_is_read_as_a1111_reads_it() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("cases.json")).unwrap();
    for Case { text, prompt, negative_prompt, settings } in cases {
        let read = Infotext::from(text.as_str());
        assert_eq!(read.prompt, prompt, "{text:?}");
        assert_eq!(read.negative_prompt.clone().unwrap_or_default(), negative_prompt, "{text:?}");
        let own: BTreeMap<String, String> = read.settings().iter().cloned().collect();
        assert_eq!(own, settings, "{text:?}");
    }
}

#[test]
fn a_picture_is_described_as_a1111_does_it() {
    let mut infotext = Infotext::new("a red circle,\nlarge", Some("blurry".to_owned()));
    infotext.set("Steps", 20);
    infotext.set_sampler(pyrograph_diffusion::SamplerKind::DpmPp2m, ScheduleType::Karras);
    infotext.set("CFG scale", 7.5);
    infotext.set("Seed", 1);
    infotext.set("Size", "512x768");
    infotext.set("Model", "v1, pruned: \"emaonly\"");
    let text = "a red circle,\nlarge\nNegative prompt: blurry\nSteps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, \
                Seed: 1, Size: 512x768, Model: \"v1, pruned: \\\"emaonly\\\"\"";
    assert_eq!(infotext.to_string(), text);
    let read = Infotext::from(text);
    assert_eq!(read, infotext);
    assert_eq!(read.size().unwrap(), Some((512, 768)));
    assert_eq!(read.number::<u64>("Seed").unwrap(), Some(1));
    assert_eq!(read.number::<u64>("Clip skip").unwrap(), None);
}

#[test]
fn numbers_and_sizes_that_are_none_are_named() {
    let read = Infotext::from("a\nSteps: many, Size: large, Seed: 1");
    let errors = [read.number::<u64>("Steps").unwrap_err(), read.size().unwrap_err()];
    assert_eq!(
        errors.map(|error| error.to_string()),
        [
            "`Steps: many` cannot be repeated; supported: a number in the range of its flag",
            "`Size: large` cannot be repeated; supported: two numbers such as 512x512"
        ]
    );
}

/// Text that is made to be mistaken for something else.
fn hostile(rng: &mut ChaCha8Rng) -> String {
    const PIECES: [&str; 28] = [
        "a red circle",
        " ",
        "\n",
        "\n\n",
        "Negative prompt:",
        "\nNegative prompt: ",
        "\"",
        "\\",
        ",",
        ": ",
        "Steps: 20, ",
        "\nSteps: 20, Sampler: Euler, Seed: 1",
        "512x512",
        "\t",
        "\r\n",
        "é",
        "中文",
        "\u{1f600}",
        "\x1c",
        "\u{2028}",
        "\u{85}",
        "(word:1.3)",
        "\"a, b\"",
        "\0",
        "\u{a0}",
        "\\n",
        "Exact prompt: ",
        "\"\"",
    ];
    let n_pieces = rng.random_range(0..8);
    (0..n_pieces).map(|_| *PIECES.choose(rng).unwrap()).collect()
}

#[test]
fn whatever_the_prompts_and_values_are_what_was_written_is_read() {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    for _ in 0..20_000 {
        let negative = if rng.random_bool(0.5) { Some(hostile(&mut rng)) } else { None };
        let mut infotext = Infotext::new(hostile(&mut rng), negative);
        for name in ["Steps", "CFG scale", "ControlNet 0", "A-b/c_d"] {
            infotext.set(name, hostile(&mut rng));
        }
        let text = infotext.to_string();
        assert_eq!(Infotext::from(text.as_str()), infotext, "{text:?}");
    }
}
