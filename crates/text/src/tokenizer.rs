//! CLIP's tokenizer: lower-cased text to byte-level BPE tokens.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tokenizers::models::bpe::{BPE, Merges};
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{self, Lowercase, NFC, Replace};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{SplitDelimiterBehavior, Tokenizer};

use crate::ClipTextConfig;
use crate::error::TextError;
use crate::special_tokens::{AddedTokenJson, SpecialTokens, read_json};

/// What counts as one word, before it is split into tokens.
///
/// Source: transformers `CLIPTokenizer` (5.23).
const WORD: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// What marks a token as the end of a word.
pub(crate) const END_OF_WORD: &str = "</w>";

/// A prompt as the text encoder takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The beginning token, the prompt's tokens, the end token and padding: always
    /// [`ClipTokenizer::model_max_length`] of them.
    pub ids: Vec<u32>,
    /// The end of a prompt that was too long, decoded from the tokens that were left out.
    pub truncated: Option<String>,
}

/// CLIP's tokenizer.
///
/// Source: transformers `CLIPTokenizer` (5.23).
#[derive(Debug, Clone)]
pub struct ClipTokenizer {
    tokenizer: Tokenizer,
    bos_id: u32,
    eos_id: u32,
    pad_id: u32,
    /// The comma at the end of a word.
    comma_id: Option<u32>,
    model_max_length: usize,
}

/// Vocabulary and merges, from either kind of file.
struct Model {
    vocab: HashMap<String, u32>,
    merges: Merges,
    added_tokens: Vec<AddedTokenJson>,
}

impl ClipTokenizer {
    /// Reads a `tokenizer` folder of transformers: `tokenizer.json`, or else `vocab.json` and `merges.txt`; and, as far
    /// as they are there, `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`.
    ///
    /// As in transformers, `tokenizer.json` gives vocabulary, merges and added tokens; how text is normalised and
    /// split is always CLIP's way.
    ///
    /// # Errors
    /// [`TextError`] if a file is missing, cannot be read, or is not a BPE tokenizer.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self, TextError> {
        let dir = dir.as_ref();
        let model = match read_tokenizer_json(&dir.join("tokenizer.json"))? {
            Some(model) => model,
            None => read_vocab_and_merges(dir)?,
        };
        let special = SpecialTokens::read(dir, &model.added_tokens)?;
        if !model.vocab.contains_key(&special.unk.content) {
            return Err(TextError::NoUnknownToken { dir: dir.to_owned(), token: special.unk.content });
        }
        build(model.vocab, model.merges, &special)
            .map_err(|source| TextError::Tokenizer { dir: dir.to_owned(), source })
    }

    /// Turns a prompt into token ids; if it is too long, its end is left out, never the end token.
    ///
    #[must_use]
    pub fn encode(&self, prompt: &str) -> Encoded {
        let ids = self.token_ids(prompt);
        let room = self.model_max_length - 2;
        let (kept, removed) = ids.split_at(room.min(ids.len()));
        let truncated = (!removed.is_empty()).then(|| self.decode(removed));
        Encoded { ids: self.framed(kept), truncated }
    }

    /// The tokens of a text, as many as it has.
    pub(crate) fn token_ids(&self, text: &str) -> Vec<u32> {
        let encoding =
            self.tokenizer.encode_fast(text, false).expect("the unknown token stands for any character");
        encoding.get_ids().to_vec()
    }

    /// How many tokens a text has, without beginning and end: up to [`Self::model_max_length`] less 2 are read.
    #[must_use]
    pub fn count_tokens(&self, text: &str) -> usize {
        self.token_ids(text).len()
    }

    /// The beginning token, the given ones, the end token and padding.
    pub(crate) fn framed(&self, kept: &[u32]) -> Vec<u32> {
        let mut ids = Vec::with_capacity(self.model_max_length);
        ids.push(self.bos_id);
        ids.extend_from_slice(kept);
        ids.push(self.eos_id);
        ids.resize(self.model_max_length, self.pad_id);
        ids
    }

    pub(crate) fn is_comma(&self, id: u32) -> bool {
        self.comma_id == Some(id)
    }

    /// Number of tokens of every encoded prompt.
    #[must_use]
    pub fn model_max_length(&self) -> usize {
        self.model_max_length
    }

    /// Checks that a text encoder has a position and an embedding for every token of every prompt.
    ///
    /// # Errors
    /// [`TextError::TooManyTokens`] or [`TextError::VocabularyTooLarge`] if not.
    pub fn check_fits(&self, model: &ClipTextConfig) -> Result<(), TextError> {
        if self.model_max_length > model.max_tokens {
            return Err(TextError::TooManyTokens {
                found: self.model_max_length,
                supported: model.max_tokens,
            });
        }
        let largest = self.tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
        match usize::try_from(largest) {
            Ok(id) if id < model.vocab_size => Ok(()),
            _ => Err(TextError::VocabularyTooLarge { found: largest, vocab_size: model.vocab_size }),
        }
    }

    fn decode(&self, ids: &[u32]) -> String {
        let text =
            self.tokenizer.decode(ids, false).expect("the byte-level decoder replaces what is not UTF-8");
        text.replace(END_OF_WORD, " ").trim().to_owned()
    }
}

/// CLIP's pipeline around a vocabulary.
pub(crate) fn build(
    vocab: HashMap<String, u32>,
    merges: Merges,
    special: &SpecialTokens,
) -> tokenizers::Result<ClipTokenizer> {
    let model = BPE::builder()
        .vocab_and_merges(vocab.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges)
        .unk_token(special.unk.content.clone())
        .end_of_word_suffix(END_OF_WORD.to_owned())
        .build()?;
    let spaces = Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ")?;
    let words = Split::new(SplitPattern::Regex(WORD.to_owned()), SplitDelimiterBehavior::Removed, true)?;
    let bytes = ByteLevel::new(false, true, true);
    let mut tokenizer = Tokenizer::new(model);
    tokenizer
        .with_normalizer(Some(normalizers::Sequence::new(vec![NFC.into(), spaces.into(), Lowercase.into()])))?
        .with_pre_tokenizer(Some(PreTokenizers::new(vec![words.into(), bytes.into()])))
        .with_decoder(Some(bytes));
    tokenizer.add_tokens(special.added.iter().cloned())?;
    let id = |token: &tokenizers::AddedToken| {
        tokenizer.token_to_id(&token.content).ok_or_else(|| format!("`{}` has no id", token.content))
    };
    let (bos_id, eos_id, pad_id) = (id(&special.bos)?, id(&special.eos)?, id(&special.pad)?);
    let comma_id = tokenizer.token_to_id(&format!(",{END_OF_WORD}"));
    Ok(ClipTokenizer { tokenizer, bos_id, eos_id, pad_id, comma_id, model_max_length: special.max_length })
}

/// `tokenizer.json`, as far as it matters here.
#[derive(Deserialize)]
struct TokenizerJson {
    #[serde(default)]
    added_tokens: Vec<AddedTokenJson>,
    model: ModelJson,
}

#[derive(Deserialize)]
struct ModelJson {
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Of another type than a map in tokenizers of another kind.
    vocab: serde_json::Value,
    #[serde(default)]
    merges: Vec<MergeJson>,
}

/// Old files have `"a b"`, new files `["a", "b"]`.
#[derive(Deserialize)]
#[serde(untagged)]
enum MergeJson {
    Line(String),
    Pair(String, String),
}

fn read_tokenizer_json(path: &Path) -> Result<Option<Model>, TextError> {
    let Some(json) = read_json::<TokenizerJson>(path)? else {
        return Ok(None);
    };
    // Files of old versions name no type.
    if let Some(found) = json.model.kind.filter(|kind| kind != "BPE") {
        return Err(TextError::NotBpe { path: path.to_owned(), found });
    }
    let vocab = serde_json::from_value(json.model.vocab)
        .map_err(|source| TextError::Json { path: path.to_owned(), source })?;
    let merges = json.model.merges.into_iter().enumerate().map(|(idx, merge)| match merge {
        MergeJson::Pair(left, right) => Ok((left, right)),
        MergeJson::Line(line) => parse_merge(path, idx + 1, &line),
    });
    Ok(Some(Model { vocab, merges: merges.collect::<Result<_, _>>()?, added_tokens: json.added_tokens }))
}

fn read_vocab_and_merges(dir: &Path) -> Result<Model, TextError> {
    let merges_path = dir.join("merges.txt");
    let vocab = read_json(&dir.join("vocab.json"))?;
    let (Some(vocab), true) = (vocab, merges_path.is_file()) else {
        return Err(TextError::NoTokenizer { dir: dir.to_owned() });
    };
    let text = std::fs::read_to_string(&merges_path)
        .map_err(|source| TextError::Read { path: merges_path.clone(), source })?;
    let merges = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.starts_with("#version"))
        .map(|(idx, line)| parse_merge(&merges_path, idx + 1, line))
        .collect::<Result<_, _>>()?;
    Ok(Model { vocab, merges, added_tokens: Vec::new() })
}

fn parse_merge(path: &Path, line: usize, text: &str) -> Result<(String, String), TextError> {
    match text.split_once(' ') {
        Some((left, right)) if !right.contains(' ') => Ok((left.to_owned(), right.to_owned())),
        _ => Err(TextError::BadMerge { path: PathBuf::from(path), line, found: text.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build_vocabulary;

    fn circle_tokenizer(max_length: usize) -> ClipTokenizer {
        let dir = tempfile::tempdir().unwrap();
        build_vocabulary(&["red", "circle", "with", "blue", "background"])
            .save(dir.path(), max_length)
            .unwrap();
        ClipTokenizer::from_dir(dir.path()).unwrap()
    }

    #[test]
    fn a_known_word_is_one_token_and_case_and_spaces_do_not_matter() {
        let tokenizer = circle_tokenizer(8);
        let encoded = tokenizer.encode("red circle");
        assert_eq!(encoded, tokenizer.encode("  RED\n\tCircle "));
        let [bos, eos] = [tokenizer.bos_id, tokenizer.eos_id];
        assert_eq!(encoded.ids[0], bos);
        assert_eq!(encoded.ids[3..], [eos; 5]);
        assert_eq!(encoded.truncated, None);
    }

    #[test]
    fn a_long_prompt_keeps_the_end_token_and_tells_what_was_removed() {
        let tokenizer = circle_tokenizer(6);
        let encoded = tokenizer.encode("red circle with blue background, red");
        assert_eq!(encoded.ids.len(), 6);
        assert_eq!(encoded.ids[5], tokenizer.eos_id);
        assert_eq!(encoded.truncated.as_deref(), Some("background , red"));
        let fits = tokenizer.encode("red circle with blue");
        assert_eq!((fits.ids, fits.truncated), (encoded.ids, None));
    }

    #[test]
    fn a_text_encoder_that_is_too_small_is_refused() {
        let tokenizer = circle_tokenizer(6);
        let vocab_size = usize::try_from(tokenizer.eos_id).unwrap() + 1;
        let fitting = ClipTextConfig { vocab_size, max_tokens: 6, ..ClipTextConfig::clip_l() };
        assert!(tokenizer.check_fits(&fitting).is_ok());
        let ignorant = ClipTextConfig { vocab_size: vocab_size - 1, ..fitting };
        assert!(matches!(tokenizer.check_fits(&ignorant), Err(TextError::VocabularyTooLarge { .. })));
        let short = ClipTextConfig { max_tokens: 5, ..fitting };
        assert!(matches!(
            tokenizer.check_fits(&short),
            Err(TextError::TooManyTokens { found: 6, supported: 5 })
        ));
    }

    #[test]
    fn broken_folders_are_named() {
        let check = |files: &[(&str, &str)], message: &str| {
            let dir = tempfile::tempdir().unwrap();
            for (name, text) in files {
                std::fs::write(dir.path().join(name), text).unwrap();
            }
            let error = ClipTokenizer::from_dir(dir.path()).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        };
        let vocab = ("vocab.json", r#"{"a": 0, "b": 1, "<|endoftext|>": 2}"#);
        check(&[], "neither `tokenizer.json` nor both");
        check(&[vocab], "neither `tokenizer.json` nor both");
        check(&[("vocab.json", "{"), ("merges.txt", "")], "vocab.json` is not valid");
        check(&[vocab, ("merges.txt", "#version: 0.2\na b c\n")], "line 2 of");
        check(&[vocab, ("merges.txt", "a b\n")], "cannot be built");
        check(&[("vocab.json", "{}"), ("merges.txt", "")], "the unknown token `<|endoftext|>`");
        check(&[("tokenizer.json", r#"{"model": {"type": "Unigram", "vocab": []}}"#)], "of type Unigram");
        check(
            &[vocab, ("merges.txt", ""), ("tokenizer_config.json", r#"{"model_max_length": 1}"#)],
            "`model_max_length` is 1",
        );
    }
}
