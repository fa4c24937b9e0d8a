//! Prompt embeddings against diffusers' `encode_prompt`, and weighted prompts against AUTOMATIC1111's way.

use burn::prelude::*;
use pyrograph::backend;
use pyrograph_pipeline::{Bundle, BundleOptions, EncodeOptions, PipelineError, Prompt, PromptSyntax};
use serde::Deserialize;

use super::cases::{Case, assert_close, cases};
use crate::tolerance;

#[derive(Deserialize)]
struct Settings {
    base: String,
    prompts: Vec<String>,
    plain: Vec<Plain>,
    weighted: Vec<String>,
}

#[derive(Deserialize)]
struct Plain {
    clip_skip: usize,
    second: Option<String>,
}

/// Every case with its base.
fn opened(device: &Device) -> impl Iterator<Item = (Case, Settings, Bundle)> {
    cases("prompts").into_iter().map(|case| {
        let settings: Settings = case.json("case.json");
        let base = case.dir.join(&settings.base);
        let bundle = Bundle::open(&base, &BundleOptions::default(), device).expect("a base folder");
        (case, settings, bundle)
    })
}

#[test]
fn plain_prompts_with_clip_skip_and_a_second_prompt_are_encoded_as_by_diffusers() {
    let device = backend::device();
    for (case, settings, bundle) in opened(&device) {
        let expected = case.tensors("expected.safetensors");
        for (idx, plain) in settings.plain.iter().enumerate() {
            let prompt = |text: &str, second: Option<&str>| Prompt {
                text: text.to_owned(),
                second: plain.second.as_ref().and(second).map(str::to_owned),
            };
            let prompts: Vec<Prompt> =
                settings.prompts.iter().map(|text| prompt(text, plain.second.as_deref())).collect();
            let negatives = vec![prompt("cle", Some("a b")); prompts.len()];
            let options = EncodeOptions { syntax: PromptSyntax::Plain, clip_skip: plain.clip_skip };
            let (positive, negative) =
                bundle.text.encode_prompts(&prompts, &negatives, options, &device).expect("embeddings");
            let negative = negative.expect("negative embeddings");
            let what = format!("{} plain-{idx}", case.name);
            let context = |name: &str| expected.float::<3>(&format!("plain-{idx}{name}"), &device);
            assert_close(&what, positive.context, context(""), tolerance::OUTPUT);
            assert_close(&what, negative.context, context("-negative"), tolerance::OUTPUT);
            let pooled = |name: &str| expected.float::<2>(&format!("plain-{idx}{name}"), &device);
            if let (Some(positive), Some(negative)) = (positive.pooled, negative.pooled) {
                assert_close(&what, positive, pooled("-pooled"), tolerance::OUTPUT);
                assert_close(&what, negative, pooled("-negative-pooled"), tolerance::OUTPUT);
            }
        }
    }
}

#[test]
fn weighted_and_long_prompts_are_encoded_as_by_a1111() {
    let device = backend::device();
    for (case, settings, bundle) in opened(&device) {
        let expected = case.tensors("expected.safetensors");
        for (idx, text) in settings.weighted.iter().enumerate() {
            for clip_skip in [0, 1] {
                let options = EncodeOptions { syntax: PromptSyntax::Weighted, clip_skip };
                let (found, _) = bundle
                    .text
                    .encode_prompts(&[text.as_str().into()], &[], options, &device)
                    .expect("embeddings");
                let expected = expected.float::<3>(&format!("weighted-{idx}-{clip_skip}"), &device);
                assert_close(&format!("{}: {text}", case.name), found.context, expected, tolerance::OUTPUT);
            }
        }
    }
}

#[test]
fn a_prompt_is_encoded_alike_beside_a_longer_one_and_without_brackets_in_both_syntaxes() {
    let device = backend::device();
    for (case, _, bundle) in opened(&device) {
        let encode = |prompts: &[&str], negatives: &[&str], syntax| {
            let all = |texts: &[&str]| texts.iter().map(|text| Prompt::from(*text)).collect::<Vec<_>>();
            let options = EncodeOptions { syntax, clip_skip: 0 };
            bundle.text.encode_prompts(&all(prompts), &all(negatives), options, &device).expect("embeddings")
        };
        let (alone, _) = encode(&["red circle"], &[], PromptSyntax::Plain);
        let (weighted, _) = encode(&["red circle"], &[], PromptSyntax::Weighted);
        assert_eq!(alone.context.to_data(), weighted.context.into_data(), "{}", case.name);
        let long =
            "red circle, blue, red, blue circle, aa, cle, circle circle circle circle, red red red red";
        let (beside, negative) = encode(&["red circle"], &[long], PromptSyntax::Weighted);
        let n_tokens = bundle.text.n_tokens();
        let [_, n_tokens_beside, _] = beside.context.dims();
        assert!(n_tokens_beside > n_tokens && n_tokens_beside % n_tokens == 0, "{n_tokens_beside}");
        assert_eq!(negative.expect("negative embeddings").context.dims(), beside.context.dims());
        let first = beside.context.narrow(1, 0, n_tokens);
        assert_close(&case.name, first, alone.context, tolerance::OUTPUT);
    }
}

#[test]
fn what_a_base_cannot_read_is_refused() {
    let device = backend::device();
    for (_, _, bundle) in opened(&device) {
        let options = |clip_skip| EncodeOptions { clip_skip, ..EncodeOptions::default() };
        let encode = |prompt: Prompt, clip_skip| {
            bundle.text.encode_prompts(&[prompt], &[], options(clip_skip), &device).map(|_| ())
        };
        assert!(matches!(encode("red".into(), 3), Err(PipelineError::ClipSkip { clip_skip: 3, .. })));
        let both = Prompt { text: "red".to_owned(), second: Some("blue".to_owned()) };
        let found = encode(both, 0);
        match bundle.text.second {
            Some(_) => assert!(found.is_ok()),
            None => assert!(matches!(found, Err(PipelineError::OneEncoder))),
        }
    }
}
