//! What somebody writes, and how it is read.

/// A prompt for one picture.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prompt {
    /// The text.
    pub text: String,
    /// What SDXL's second encoder reads instead (`prompt_2`).
    pub second: Option<String>,
}

/// How prompts are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EncodeOptions {
    /// Whether brackets mean something.
    pub syntax: PromptSyntax,
    /// How many of the encoder's last layers are left out, beyond those that always are. Negative prompts never leave out more.
    pub clip_skip: usize,
}

/// Whether brackets mean something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PromptSyntax {
    /// Every character is text, and what is too long is cut, with a warning: as in diffusers.
    #[default]
    Plain,
    /// Weights, breaks and any length, see [`parse_weighted`](pyrograph_text::parse_weighted).
    Weighted,
}

impl Prompt {
    /// What the first encoder reads, and what the second.
    pub(super) fn text_for(&self, is_second: bool) -> &str {
        match &self.second {
            Some(second) if is_second => second,
            _ => &self.text,
        }
    }
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<String> for Prompt {
    fn from(text: String) -> Self {
        Self { text, second: None }
    }
}
