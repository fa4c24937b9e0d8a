//! Which tokens begin, end and fill up a prompt, from the several places where transformers keeps that.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tokenizers::AddedToken;

use crate::error::TextError;

/// CLIP's context length, used where a tokenizer names none.
const DEFAULT_MAX_LENGTH: usize = 77;

/// A token with its matching rules, spelt as a plain string or as an object.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum TokenJson {
    Content(String),
    Token(TokenObject),
}

#[derive(Debug, Clone, Deserialize)]
struct TokenObject {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    normalized: Option<bool>,
    special: Option<bool>,
}

impl TokenObject {
    fn to_added_token(&self, special: bool) -> AddedToken {
        AddedToken::from(self.content.clone(), special)
            .normalized(self.normalized.unwrap_or(!special))
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
    }
}

impl TokenJson {
    fn to_special_token(&self) -> AddedToken {
        match self {
            Self::Content(content) => AddedToken::from(content.clone(), true),
            Self::Token(token) => token.to_added_token(true),
        }
    }
}

/// The four tokens with a name, as far as a file has them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NamedTokens {
    bos_token: Option<TokenJson>,
    eos_token: Option<TokenJson>,
    unk_token: Option<TokenJson>,
    pad_token: Option<TokenJson>,
}

/// `tokenizer_config.json`, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TokenizerConfigJson {
    #[serde(flatten)]
    named: NamedTokens,
    added_tokens_decoder: Option<BTreeMap<String, TokenObject>>,
    #[serde(deserialize_with = "length")]
    model_max_length: Option<usize>,
}

/// A length; transformers writes the float 1e30 for none.
fn length<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    let number = Value::deserialize(deserializer)?;
    Ok(number.as_u64().and_then(|length| usize::try_from(length).ok()))
}

/// One entry of `added_tokens` in `tokenizer.json`.
#[derive(Debug, Deserialize)]
pub(crate) struct AddedTokenJson {
    id: u32,
    #[serde(flatten)]
    token: TokenObject,
}

/// The tokens that have a meaning of their own.
#[derive(Debug)]
pub(crate) struct SpecialTokens {
    pub(crate) bos: AddedToken,
    pub(crate) eos: AddedToken,
    pub(crate) unk: AddedToken,
    pub(crate) pad: AddedToken,
    /// Every token that is matched in the text before it is split, in the order of their ids.
    pub(crate) added: Vec<AddedToken>,
    /// Tokens of every encoded prompt.
    pub(crate) max_length: usize,
}

impl SpecialTokens {
    /// Reads `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`, as far as they are there;
    /// `from_tokenizer_json` is `added_tokens` of `tokenizer.json`.
    ///
    /// # Errors
    /// If a file cannot be read or parsed.
    ///
    /// Source: transformers `PreTrainedTokenizerBase._from_pretrained` (5.23).
    pub(crate) fn read(dir: &Path, from_tokenizer_json: &[AddedTokenJson]) -> Result<Self, TextError> {
        let config: TokenizerConfigJson = read_json(&dir.join("tokenizer_config.json"))?.unwrap_or_default();
        let mut map = NamedTokens::default();
        let mut added: BTreeMap<u32, AddedToken> = BTreeMap::new();
        let object_to_token = |token: &TokenObject| token.to_added_token(token.special.unwrap_or(false));
        if let Some(decoder) = &config.added_tokens_decoder {
            // A file written since `added_tokens_decoder` exists has everything; the others are leftovers.
            let by_id =
                decoder.iter().filter_map(|(id, token)| Some((id.parse().ok()?, object_to_token(token))));
            added.extend(by_id);
        } else {
            map = read_json(&dir.join("special_tokens_map.json"))?.unwrap_or_default();
            let learned: BTreeMap<String, u32> =
                read_json(&dir.join("added_tokens.json"))?.unwrap_or_default();
            added.extend(learned.into_iter().map(|(content, id)| (id, AddedToken::from(content, false))));
            added.extend(from_tokenizer_json.iter().map(|entry| (entry.id, object_to_token(&entry.token))));
        }
        let choose = |map: Option<TokenJson>, config: Option<TokenJson>, default: &str| {
            let token = map
                .or(config)
                .map_or_else(|| AddedToken::from(default, true), |token| token.to_special_token());
            let known = added.values().find(|known| known.content == token.content);
            known.map_or(token, |known| known.clone().special(true))
        };
        let named = config.named;
        let bos = choose(map.bos_token, named.bos_token, "<|startoftext|>");
        let eos = choose(map.eos_token, named.eos_token, "<|endoftext|>");
        let unk = choose(map.unk_token, named.unk_token, "<|endoftext|>");
        let pad = choose(map.pad_token, named.pad_token, "<|endoftext|>");
        let max_length = config.model_max_length.unwrap_or(DEFAULT_MAX_LENGTH);
        if max_length < 2 {
            return Err(TextError::ModelMaxLengthTooSmall { found: max_length });
        }
        let mut added: Vec<AddedToken> = added.into_values().collect();
        for token in [&bos, &eos, &unk, &pad] {
            if !added.iter().any(|known| known == token) {
                added.push(token.clone());
            }
        }
        Ok(Self { bos, eos, unk, pad, added, max_length })
    }
}

/// Reads a JSON file; a file that is not there is `None`.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, TextError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(TextError::Read { path: path.to_owned(), source }),
    };
    match serde_json::from_str(&text) {
        Ok(value) => Ok(Some(value)),
        Err(source) => Err(TextError::Json { path: path.to_owned(), source }),
    }
}
