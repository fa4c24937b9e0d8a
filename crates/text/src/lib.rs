//! CLIP text encoder and tokenizer, equal to transformers' own.
//!
//! The encoder is made in two steps: its `config.json` ([`ClipTextJson`]) becomes a typed config
//! ([`ClipTextConfig`]), and that makes the module. Weights are loaded by whoever composes the models;
//! [`OPTIONAL_PREFIX`] and [`IGNORED`] say how names in files differ from module paths.

mod clip;
mod clip_vocabulary;
mod config;
mod embeddings;
mod error;
mod keys;
mod layer;
mod ldm;
mod prompt;
mod special_tokens;
mod tokenizer;
mod transformers;
mod vocabulary;
mod weighting;

pub use clip::{ClipTextModel, ClipTextOutput};
pub use clip_vocabulary::Padding;
pub use config::{Activation, ClipTextConfig, TextProjection};
pub use error::TextError;
pub use keys::{IGNORED, OPTIONAL_PREFIX, RENAMES};
pub use ldm::{OriginalPart, TextFamily, open_clip_name};
pub use prompt::encode_prompts;
pub use tokenizer::{ClipTokenizer, Encoded};
pub use transformers::ClipTextJson;
pub use vocabulary::{Vocabulary, build_vocabulary};
pub use weighting::{Chunk, PromptPiece, parse_weighted};
