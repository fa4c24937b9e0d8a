//! A secret that cannot be printed.

use std::fmt;

use serde::{Serialize, Serializer};

/// What is shown instead of a token.
const REDACTED: &str = "(token)";

/// An access token of the Hub. However it is formatted or serialized, its characters are not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token in a text, such as a variable's value or a file's; `None` if there is only white space.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    /// The value of the header that shows it to the Hub; `None` if it has characters that no header may have.
    pub(crate) fn authorization(&self) -> Option<String> {
        self.0.bytes().all(|byte| byte.is_ascii_graphic()).then(|| format!("Bearer {}", self.0))
    }
}

impl From<&str> for Token {
    /// Takes the text as it is: whether it is a token is found out when it is used, where no parser of arguments quotes it.
    fn from(text: &str) -> Self {
        Self(text.trim().to_owned())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Serialize for Token {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_shown() {
        let token = Token::new(" hf_secret\n").unwrap();
        let shown = [format!("{token:?} {token}"), serde_json::to_string(&token).unwrap()].concat();
        assert!(!shown.contains("hf_secret"), "{shown}");
        assert_eq!(token.authorization().unwrap(), "Bearer hf_secret");
    }

    #[test]
    fn white_space_is_no_token_and_a_line_break_is_no_header() {
        assert_eq!(Token::new(" \n"), None);
        assert_eq!(Token::from("hf_a\r\nHost: elsewhere").authorization(), None);
    }
}
