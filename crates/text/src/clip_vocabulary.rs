//! CLIP's own vocabulary, for models that come without a tokenizer's folder.

use std::collections::HashMap;
use std::io::Read;

use flate2::read::GzDecoder;
use serde_json::json;
use tokenizers::AddedToken;

use crate::ClipTokenizer;
use crate::special_tokens::SpecialTokens;
use crate::tokenizer::{END_OF_WORD, build};
use crate::vocabulary::{BOS, EOS, byte_characters};

/// See `clip-vocabulary/README.md`.
const MERGES: &[u8] = include_bytes!("../clip-vocabulary/merges.txt.gz");

/// Tokens of every prompt.
const MAX_LENGTH: usize = 77;

/// What fills a prompt up to its full length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// The end token: Stable Diffusion 1.x and the first encoder of XL.
    EndOfText,
    /// `!`, the token with id 0: Stable Diffusion 2.x and the second encoder of XL.
    ExclamationMark,
}

impl ClipTokenizer {
    /// The tokenizer that all published Stable Diffusion models have, but for what fills a prompt up.
    ///
    /// # Panics
    /// Never: the vocabulary is part of the program.
    #[must_use]
    pub fn clip(padding: Padding) -> Self {
        let merges: Vec<(String, String)> = merges_text()
            .lines()
            .map(|line| line.split_once(' ').expect("two parts a line"))
            .map(|(left, right)| (left.to_owned(), right.to_owned()))
            .collect();
        let vocab: HashMap<String, u32> = tokens().into_iter().zip(0..).collect();

        let token = |content: &str| AddedToken::from(content, true);
        let [bos, eos] = [token(BOS), token(EOS)];
        let pad = match padding {
            Padding::EndOfText => eos.clone(),
            // Stable Diffusion 2.x's tokenizer, too, takes each `!` of a prompt by itself.
            Padding::ExclamationMark => token("!"),
        };
        let mut added = vec![bos.clone(), eos.clone()];
        if padding == Padding::ExclamationMark {
            added.push(pad.clone());
        }
        let special = SpecialTokens { bos, unk: eos.clone(), eos, pad, added, max_length: MAX_LENGTH };
        build(vocab, merges, &special).expect("CLIP's merges make a tokenizer")
    }

    /// The files of a `tokenizer` folder that make this tokenizer: names and contents.
    #[must_use]
    pub fn clip_files(padding: Padding) -> [(&'static str, String); 3] {
        let pad = match padding {
            Padding::EndOfText => EOS,
            Padding::ExclamationMark => "!",
        };
        let config = json!({
            "tokenizer_class": "CLIPTokenizer",
            "bos_token": BOS,
            "eos_token": EOS,
            "unk_token": EOS,
            "pad_token": pad,
            "model_max_length": MAX_LENGTH,
        });
        let vocab: serde_json::Map<String, serde_json::Value> =
            tokens().into_iter().zip(0_u32..).map(|(token, id)| (token, json!(id))).collect();
        [
            ("vocab.json", serde_json::Value::Object(vocab).to_string()),
            ("merges.txt", format!("#version: 0.2\n{}", merges_text())),
            ("tokenizer_config.json", format!("{config:#}\n")),
        ]
    }
}

fn merges_text() -> String {
    let mut text = String::new();
    GzDecoder::new(MERGES).read_to_string(&mut text).expect("packed by us");
    text
}

/// All tokens in the order of their ids.
fn tokens() -> Vec<String> {
    let characters: Vec<String> =
        byte_characters().into_iter().map(|(_, character)| character.to_string()).collect();
    let mut tokens = characters.clone();
    tokens.extend(characters.iter().map(|character| format!("{character}{END_OF_WORD}")));
    tokens.extend(merges_text().lines().map(|line| line.replacen(' ', "", 1)));
    tokens.extend([BOS, EOS].map(str::to_owned));
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_have_clips_tokens() {
        // Tokens as transformers' `CLIPTokenizer` gives them for openai/clip-vit-large-patch14.
        let first = ClipTokenizer::clip(Padding::EndOfText).encode("a photo of a cat");
        assert_eq!(first.ids[..7], [49406, 320, 1125, 539, 320, 2368, 49407]);
        assert_eq!(first.ids[7..], [49407; 70]);
        let second = ClipTokenizer::clip(Padding::ExclamationMark).encode("a photo of a cat");
        assert_eq!(second.ids[..7], first.ids[..7]);
        assert_eq!(second.ids[7..], [0; 70]);
    }
}
