//! What captions are measured with.

use pyrograph_data::Ruler;
use pyrograph_text::ClipTokenizer;

use crate::args::TokenizerArgs;
use crate::hub::Folders;

/// A tokenizer, or nothing but the spaces between words.
pub(super) struct Lengths {
    tokenizer: Option<ClipTokenizer>,
}

impl Lengths {
    pub(super) fn open(args: &TokenizerArgs, folders: &Folders<'_>) -> anyhow::Result<Self> {
        let folder = args.folder().map(|path| folders.tokenizer(&path)).transpose()?;
        Ok(Self { tokenizer: folder.map(ClipTokenizer::from_dir).transpose()? })
    }

    pub(super) fn of(&self, caption: &str) -> usize {
        match &self.tokenizer {
            Some(tokenizer) => tokenizer.count_tokens(caption),
            None => caption.split_whitespace().count(),
        }
    }

    /// `length` is [`Self::of`].
    pub(super) fn ruler<'a>(&self, length: &'a (dyn Fn(&str) -> usize + Sync)) -> Ruler<'a> {
        match &self.tokenizer {
            // Two of them are the beginning and the end.
            Some(tokenizer) => {
                Ruler { unit: "tokens", length, limit: Some(tokenizer.model_max_length().saturating_sub(2)) }
            }
            None => Ruler { unit: "words", length, limit: None },
        }
    }
}
