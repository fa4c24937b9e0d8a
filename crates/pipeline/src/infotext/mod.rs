//! What a picture was drawn with, as text that other programs read, too.

mod sampler;
mod unit;

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use regex::Regex;

use crate::error::PipelineError;

pub use sampler::ScheduleType;
pub use unit::ControlUnit;

/// The keyword under which PNG files hold an [`Infotext`].
pub const INFOTEXT_KEYWORD: &str = "parameters";

/// With fewer settings on the last line, A1111 takes it for a line of the prompt.
const LEAST_SETTINGS: usize = 3;

const NEGATIVE: &str = "Negative prompt:";

/// Settings of our own, for prompts that the format would change.
const EXACT_PROMPT: &str = "Exact prompt";
const EXACT_NEGATIVE: &str = "Exact negative prompt";

static SETTING_NAME: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\w[\w \-/]+").expect("a valid pattern"));

/// A setting on the last line: its name, a colon, and a value that is quoted or ends at the next comma.
static SETTING: LazyLock<Regex> = LazyLock::new(|| {
    // Python's white space is Unicode's and the four separators of ASCII.
    let pattern = r#"[\s\x1c-\x1f]*(\w[\w \-/]+):[\s\x1c-\x1f]*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)"#;
    Regex::new(pattern).expect("a valid pattern")
});

/// Prompts and settings in the text format of A1111's web UI: lines of the prompt, lines of the negative prompt, and one line of settings.
///
/// ```text
/// a red circle
/// Negative prompt: blurry
/// Steps: 20, Sampler: UniPC, CFG scale: 7.5, Seed: 1, Size: 512x512
/// ```
///
/// Every text can be read ([`From`]): as A1111 does, what has no three settings on its last line is all prompt. What was written
/// ([`Display`](fmt::Display)) with three settings or more is read as it was. The format loses white space around lines and tells the prompts apart by the
/// words "Negative prompt:" alone; prompts that would suffer from that are kept in two more settings, which A1111 does not know and leaves alone.
///
/// Source: AUTOMATIC1111/stable-diffusion-webui 1.10, `modules/infotext_utils.py` and `create_infotext` in `modules/processing.py`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Infotext {
    /// What was drawn.
    pub prompt: String,
    /// What was stayed away from.
    pub negative_prompt: Option<String>,
    settings: Vec<(String, String)>,
}

impl Infotext {
    /// Prompts without settings.
    #[must_use]
    pub fn new(prompt: impl Into<String>, negative_prompt: Option<String>) -> Self {
        Self { prompt: prompt.into(), negative_prompt, settings: Vec::new() }
    }

    /// Names and values of all settings, in their order.
    #[must_use]
    pub fn settings(&self) -> &[(String, String)] {
        &self.settings
    }

    /// The value of a setting.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.settings.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Adds a setting, or gives one that is there another value.
    ///
    /// # Panics
    /// If the name is not two or more letters, digits, underscores and, but for the first, spaces, hyphens and slashes.
    pub fn set(&mut self, name: &str, value: impl fmt::Display) {
        let found = SETTING_NAME.find(name).map(|found| found.len());
        assert_eq!(found, Some(name.len()), "`{name}` is not the name of a setting");
        self.put(name, value.to_string());
    }

    fn put(&mut self, name: &str, value: String) {
        match self.settings.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.settings.push((name.to_owned(), value)),
        }
    }

    /// The value of a setting as a number.
    ///
    /// # Errors
    /// [`PipelineError::Infotext`] if it is something else.
    pub fn number<T: FromStr>(&self, name: &'static str) -> Result<Option<T>, PipelineError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        text.trim()
            .parse()
            .map(Some)
            .map_err(|_| not_supported(name, text, "a number in the range of its flag"))
    }

    /// The value of a setting as numbers with spaces between them; none if there is no such setting.
    ///
    /// # Errors
    /// [`PipelineError::Infotext`] if one is something else.
    pub fn numbers<T: FromStr>(&self, name: &'static str) -> Result<Vec<T>, PipelineError> {
        let Some(text) = self.get(name) else { return Ok(Vec::new()) };
        let numbers = text.split_whitespace().map(str::parse).collect::<Result<_, _>>();
        numbers.map_err(|_| not_supported(name, text, "numbers with spaces between them"))
    }

    /// Width and height in pixels.
    ///
    /// # Errors
    /// [`PipelineError::Infotext`] if they are no numbers.
    pub fn size(&self) -> Result<Option<(usize, usize)>, PipelineError> {
        const SIZE: &str = "Size";
        let Some(text) = self.get(SIZE) else { return Ok(None) };
        let sides = text
            .split_once('x')
            .and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
        sides.map(Some).ok_or_else(|| not_supported(SIZE, text, "two numbers such as 512x512"))
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let place = self.settings.iter().position(|(known, _)| known == name)?;
        Some(self.settings.remove(place).1)
    }

    /// As A1111 writes it.
    fn plain(&self) -> String {
        let mut text = self.prompt.clone();
        if let Some(negative) = self.negative_prompt.as_deref().filter(|negative| !negative.is_empty()) {
            text.extend(["\n", NEGATIVE, " ", negative]);
        }
        text.push('\n');
        let settings: Vec<String> =
            self.settings.iter().map(|(name, value)| format!("{name}: {}", quoted(value))).collect();
        text.push_str(&settings.join(", "));
        text.trim_matches(is_space).to_owned()
    }
}

impl fmt::Display for Infotext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.plain();
        let read = Self::from(text.as_str());
        if (&read.prompt, &read.negative_prompt) == (&self.prompt, &self.negative_prompt) {
            return formatter.write_str(&text);
        }
        let mut exact = self.clone();
        exact.set(EXACT_PROMPT, &self.prompt);
        if let Some(negative) = &self.negative_prompt {
            exact.set(EXACT_NEGATIVE, negative);
        }
        formatter.write_str(&exact.plain())
    }
}

impl From<&str> for Infotext {
    fn from(text: &str) -> Self {
        let text = text.trim_matches(is_space);
        let (prompts, last_line) = match text.rsplit_once('\n').unwrap_or(("", text)) {
            (_, last_line) if SETTING.find_iter(last_line).count() < LEAST_SETTINGS => (text, ""),
            parts => parts,
        };
        let mut infotext = read_prompts(prompts);
        for setting in SETTING.captures_iter(last_line) {
            let value = unquoted(&setting[2]);
            // A1111 skips settings without a value; an empty one that is quoted has one.
            if !setting[2].is_empty() {
                infotext.put(&setting[1], value);
            }
        }
        if let Some(prompt) = infotext.take(EXACT_PROMPT) {
            infotext.prompt = prompt;
            infotext.negative_prompt = infotext.take(EXACT_NEGATIVE);
        }
        infotext
    }
}

/// The lines before the settings.
fn read_prompts(lines: &str) -> Infotext {
    let (mut prompt, mut negative) = (String::new(), None);
    for line in lines.split('\n') {
        let mut line = line.trim_matches(is_space);
        if let Some(rest) = line.strip_prefix(NEGATIVE) {
            negative.get_or_insert_with(String::new);
            line = rest.trim_matches(is_space);
        }
        let text = negative.as_mut().unwrap_or(&mut prompt);
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(line);
    }
    Infotext::new(prompt, negative.filter(|negative| !negative.is_empty()))
}

/// As JSON where A1111 would quote the value, and also where it would not read it as it is.
fn quoted(value: &str) -> String {
    let is_plain = !value.is_empty()
        && !value.contains([',', ':', '\n'])
        && !value.starts_with('"')
        && !value.starts_with(is_space)
        && !value.ends_with(is_space);
    if is_plain { value.to_owned() } else { serde_json::Value::from(value).to_string() }
}

fn unquoted(value: &str) -> String {
    if value.len() > 1 && value.starts_with('"') && value.ends_with('"') {
        serde_json::from_str(value).unwrap_or_else(|_| value.to_owned())
    } else {
        value.to_owned()
    }
}

/// White space as Python has it.
fn is_space(letter: char) -> bool {
    letter.is_whitespace() || ('\x1c'..='\x1f').contains(&letter)
}

fn not_supported(name: &str, value: &str, supported: impl Into<String>) -> PipelineError {
    PipelineError::Infotext { name: name.to_owned(), value: value.to_owned(), supported: supported.into() }
}

#[cfg(test)]
mod tests;
