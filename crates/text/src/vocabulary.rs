//! A small vocabulary in CLIP's format, made from a list of words.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde_json::json;

use crate::error::TextError;
use crate::tokenizer::END_OF_WORD;

/// The files of a small tokenizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    /// `vocab.json`: every token and its id.
    pub vocab_json: String,
    /// `merges.txt`: which tokens join, first merges first.
    pub merges_txt: String,
    /// Number of tokens.
    pub vocab_size: usize,
    /// The token that begins a prompt.
    pub bos_id: u32,
    /// The token that ends a prompt and fills it up.
    pub eos_id: u32,
}

pub(crate) const BOS: &str = "<|startoftext|>";
pub(crate) const EOS: &str = "<|endoftext|>";

/// Makes a vocabulary in which each word, lower-cased, is one token, and in which any other text has some tokens too.
///
/// It holds all bytes, all bytes at the end of a word, what joining them to the words gives, and the two tokens that
/// begin and end a prompt, in this order, as CLIP's own. A word is extended from left to right by merges of its own
/// after all merges of the words before it, so that no later word changes how an earlier one is split.
#[must_use]
pub fn build_vocabulary(words: &[&str]) -> Vocabulary {
    let bytes = byte_characters();
    let characters: HashMap<u8, char> = bytes.iter().copied().collect();
    let mut tokens: Vec<String> = bytes.iter().map(|(_, character)| character.to_string()).collect();
    tokens.extend(bytes.iter().map(|(_, character)| format!("{character}{END_OF_WORD}")));
    let mut known: HashSet<String> = tokens.iter().cloned().collect();
    let mut merges = MergeList::default();
    for word in words.iter().flat_map(|words| words.split_whitespace()) {
        let mut parts: Vec<String> =
            word.to_lowercase().bytes().map(|byte| characters[&byte].to_string()).collect();
        if let Some(last) = parts.last_mut() {
            last.push_str(END_OF_WORD);
        }
        while parts.len() > 1 {
            let at = merges.first_merge(&parts);
            let joined = format!("{}{}", parts[at], parts[at + 1]);
            parts.splice(at..at + 2, [joined.clone()]);
            if known.insert(joined.clone()) {
                tokens.push(joined);
            }
        }
    }
    tokens.extend([BOS.to_owned(), EOS.to_owned()]);
    let ids: serde_json::Map<String, serde_json::Value> =
        (0_u32..).zip(&tokens).map(|(id, token)| (token.clone(), json!(id))).collect();
    let eos_id = u32::try_from(tokens.len() - 1).expect("a list of words has fewer than 2^32 letters");
    Vocabulary {
        vocab_json: serde_json::Value::Object(ids).to_string(),
        merges_txt: merges.into_text(),
        vocab_size: tokens.len(),
        bos_id: eos_id - 1,
        eos_id,
    }
}

impl Vocabulary {
    /// Writes a `tokenizer` folder: `vocab.json`, `merges.txt` and `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`TextError::Write`] if a file cannot be written.
    pub fn save(&self, dir: &Path, model_max_length: usize) -> Result<(), TextError> {
        let config = json!({
            "tokenizer_class": "CLIPTokenizer",
            "bos_token": BOS,
            "eos_token": EOS,
            "unk_token": EOS,
            "pad_token": EOS,
            "model_max_length": model_max_length,
        });
        for (name, text) in [
            ("vocab.json", &self.vocab_json),
            ("merges.txt", &self.merges_txt),
            ("tokenizer_config.json", &format!("{config:#}\n")),
        ] {
            let path = dir.join(name);
            std::fs::write(&path, text).map_err(|source| TextError::Write { path, source })?;
        }
        Ok(())
    }
}

/// The merges learned so far, and their ranks.
#[derive(Default)]
struct MergeList {
    pairs: Vec<(String, String)>,
    ranks: HashMap<(String, String), usize>,
}

impl MergeList {
    /// Where the tokenizer would join two parts first; if nowhere, the first two become a new merge.
    fn first_merge(&mut self, parts: &[String]) -> usize {
        let pair_at = |at: usize| (parts[at].clone(), parts[at + 1].clone());
        let ranked = (0..parts.len() - 1).filter_map(|at| Some((*self.ranks.get(&pair_at(at))?, at)));
        if let Some((_, at)) = ranked.min() {
            return at;
        }
        self.ranks.insert(pair_at(0), self.pairs.len());
        self.pairs.push(pair_at(0));
        0
    }

    fn into_text(self) -> String {
        let mut text = "#version: 0.2\n".to_owned();
        for (left, right) in self.pairs {
            text.push_str(&format!("{left} {right}\n"));
        }
        text
    }
}

/// All bytes with the printable characters that stand for them, in the order of CLIP's vocabulary: bytes that are
/// printable themselves come first and keep their place, the others get the characters from U+0100 on.
///
/// Source: `bytes_to_unicode` of GPT-2.
pub(crate) fn byte_characters() -> Vec<(u8, char)> {
    let is_printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let printable = (0..=u8::MAX).filter(is_printable).map(|byte| (byte, char::from(byte)));
    let others = (0..=u8::MAX).filter(|byte| !is_printable(byte)).zip('\u{100}'..);
    printable.chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClipTokenizer;

    #[test]
    fn every_word_is_one_token_whatever_came_before_it() {
        // Words that share beginnings, ends and repeated letters, so that merges of one apply inside another.
        let words =
            ["rod", "od", "golden", "goldenrod", "papa", "pa", "aaaaa", "aa", "papaya", "whip", "Rose", "é"];
        let vocabulary = build_vocabulary(&words);
        let dir = tempfile::tempdir().unwrap();
        vocabulary.save(dir.path(), 5).unwrap();
        let tokenizer = ClipTokenizer::from_dir(dir.path()).unwrap();
        let eos = vocabulary.eos_id;
        for word in words {
            let ids = tokenizer.encode(word).ids;
            assert_eq!(ids[0], vocabulary.bos_id);
            assert_eq!(ids[2..], [eos, eos, eos], "{word}");
            assert!(ids[1] < vocabulary.bos_id);
        }
    }

    #[test]
    fn the_alphabet_is_clips() {
        let characters = byte_characters();
        assert_eq!(characters.len(), 256);
        assert_eq!(characters[0], (b'!', '!'));
        assert_eq!(characters[188], (0, '\u{100}'));
        assert!(characters.contains(&(b' ', '\u{120}')));
    }

    #[test]
    fn equal_words_give_equal_vocabularies() {
        assert_eq!(build_vocabulary(&["red circle", "red"]), build_vocabulary(&["red", "CIRCLE"]));
        assert_eq!(build_vocabulary(&[]).vocab_size, 514);
    }
}
