//! What can be wrong with a text encoder's config or a tokenizer's files.

use std::path::PathBuf;

/// Why a text encoder or a tokenizer cannot be made, or the two do not belong together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A feature that is not implemented, or a model of another kind.
    #[error("`{key}` is {found}, but only {supported} is supported")]
    Unsupported {
        /// Key of `config.json`.
        key: &'static str,
        /// Its value, as JSON.
        found: String,
        /// The value or values that work.
        supported: &'static str,
    },
    /// A count that must not be zero is.
    #[error("`{key}` must not be zero")]
    Zero {
        /// Key of `config.json`.
        key: &'static str,
    },
    /// A number is beyond every model's: the file is damaged, or made to exhaust the memory.
    #[error("`{key}` is {found}, more than {max}")]
    TooLarge {
        /// Key of `config.json`.
        key: &'static str,
        /// Its value.
        found: usize,
        /// The largest one allowed.
        max: usize,
    },
    /// The heads do not divide the model's width.
    #[error("`num_attention_heads` is {n_heads}, which does not divide `hidden_size`, {d_model}")]
    HeadsDoNotDivide {
        /// `num_attention_heads`.
        n_heads: usize,
        /// `hidden_size`.
        d_model: usize,
    },
    /// A file without a config lacks a tensor from which the config would be read.
    #[error("there is no tensor `{name}`, or it has not two dimensions")]
    NoTensor {
        /// The tensor's name.
        name: String,
    },
    /// A folder without a tokenizer.
    #[error("`{dir}` has neither `tokenizer.json` nor both of `vocab.json` and `merges.txt`")]
    NoTokenizer {
        /// The folder.
        dir: PathBuf,
    },
    /// A file that cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A file that cannot be written.
    #[error("cannot write `{path}`")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A file that is not the JSON that it should be.
    #[error("`{path}` is not valid")]
    Json {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// A tokenizer of another kind.
    #[error("`{path}` is a tokenizer of type {found}, but only BPE is supported")]
    NotBpe {
        /// `tokenizer.json`.
        path: PathBuf,
        /// Type of its model.
        found: String,
    },
    /// A line that is not two parts with a space between them.
    #[error("line {line} of `{path}` is not a merge of two parts: {found:?}")]
    BadMerge {
        /// `merges.txt` or `tokenizer.json`.
        path: PathBuf,
        /// Number of the line, or of the merge, from 1.
        line: usize,
        /// The line.
        found: String,
    },
    /// Too few tokens to hold even the two that begin and end a prompt.
    #[error("`model_max_length` is {found}, but at least 2 is needed")]
    ModelMaxLengthTooSmall {
        /// `model_max_length`.
        found: usize,
    },
    /// Vocabulary and merges that do not fit together.
    #[error("the tokenizer in `{dir}` cannot be built")]
    Tokenizer {
        /// The tokenizer's folder.
        dir: PathBuf,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Characters that are not in the vocabulary have no token to stand for them.
    #[error("the unknown token `{token}` is not in the vocabulary in `{dir}`")]
    NoUnknownToken {
        /// The tokenizer's folder.
        dir: PathBuf,
        /// The token, `unk_token`.
        token: String,
    },
    /// The tokenizer does not belong to the text encoder: it makes more tokens than the encoder has positions.
    #[error("the tokenizer makes {found} tokens, but the text encoder has positions for {supported}")]
    TooManyTokens {
        /// `model_max_length` of the tokenizer.
        found: usize,
        /// `max_position_embeddings` of the text encoder.
        supported: usize,
    },
    /// The tokenizer does not belong to the text encoder: it knows tokens that the encoder does not.
    #[error(
        "the tokenizer has a token with the id {found}, but the text encoder knows only {vocab_size} tokens"
    )]
    VocabularyTooLarge {
        /// Largest id of the tokenizer.
        found: u32,
        /// `vocab_size` of the text encoder.
        vocab_size: usize,
    },
}
