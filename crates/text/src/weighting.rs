//! Prompts with weights, breaks and any length, as AUTOMATIC1111's web UI reads them.

use crate::ClipTokenizer;

/// What a round bracket multiplies weights by, and a square one divides them by.
const BRACKET: f64 = 1.1;

/// The largest weight, and with a minus the smallest: no state times it is too large for an f32.
const LARGEST: f64 = 1e30;

/// How many tokens at most move to the next chunk with what follows the last comma.
const COMMA_BACKTRACK: usize = 20;

/// A part of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub enum PromptPiece {
    /// Text and how much of it there is to be.
    Text {
        /// Without the brackets.
        text: String,
        /// 1 if nothing is said.
        weight: f64,
    },
    /// `BREAK`: what follows begins a new chunk.
    Break,
}

/// Tokens that the text encoder reads at once.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// The beginning token, tokens, the end token and padding.
    pub ids: Vec<u32>,
    /// The weight of each of them.
    pub weights: Vec<f32>,
}

/// Reads `(word)`, `[word]`, `(word:1.3)`, any nesting of them, `\(` and its like for the characters themselves, and `BREAK`.
///
/// Brackets that are not closed reach to the end; those that were not opened are text.
///
/// ```
/// use pyrograph_text::{PromptPiece, parse_weighted};
///
/// let text = |text: &str, weight| PromptPiece::Text { text: text.to_owned(), weight };
/// assert_eq!(parse_weighted("a (red:1.5) circle"), [text("a ", 1.0), text("red", 1.5), text(" circle", 1.0)]);
/// ```
///
/// Source: AUTOMATIC1111 stable-diffusion-webui, `modules/prompt_parser.py`, `parse_prompt_attention`. Unlike there, `BREAK` is one inside of brackets, too.
#[must_use]
pub fn parse_weighted(prompt: &str) -> Vec<PromptPiece> {
    let mut pieces = Vec::new();
    let (mut round, mut square) = (Vec::new(), Vec::new());
    let mut rest = prompt;
    while let Some(first) = rest.chars().next() {
        let mut length = first.len_utf8();
        match first {
            '\\' => {
                let escaped = rest[1..].chars().next().filter(|next| "()[]\\".contains(*next));
                length += usize::from(escaped.is_some());
                push_text(&mut pieces, escaped.map_or("", |_| &rest[1..2]));
            }
            '(' => round.push(pieces.len()),
            '[' => square.push(pieces.len()),
            ':' => match weight_and_bracket(rest).filter(|_| !round.is_empty()) {
                Some((weight, n_bytes)) => {
                    length = n_bytes;
                    multiply(&mut pieces, round.pop(), weight);
                }
                None => push_text(&mut pieces, ":"),
            },
            ')' if !round.is_empty() => multiply(&mut pieces, round.pop(), BRACKET),
            ']' if !square.is_empty() => multiply(&mut pieces, square.pop(), 1.0 / BRACKET),
            ')' | ']' => push_text(&mut pieces, &rest[..1]),
            _ => {
                length = rest.find(['\\', '(', ')', '[', ']', ':']).unwrap_or(rest.len());
                push_with_breaks(&mut pieces, &rest[..length]);
            }
        }
        rest = &rest[length..];
    }
    round.into_iter().for_each(|start| multiply(&mut pieces, Some(start), BRACKET));
    square.into_iter().for_each(|start| multiply(&mut pieces, Some(start), 1.0 / BRACKET));
    merged(pieces)
}

/// `:1.3)`: the number and how long all is.
fn weight_and_bracket(rest: &str) -> Option<(f64, usize)> {
    let (inside, _) = rest[1..].split_once(')')?;
    let number = inside.trim();
    let is_number = number.chars().all(|char| char.is_ascii_digit() || "+-.".contains(char));
    let weight: f64 = number.parse().ok().filter(|weight: &f64| is_number && weight.is_finite())?;
    Some((weight, 1 + inside.len() + 1))
}

fn push_text(pieces: &mut Vec<PromptPiece>, text: &str) {
    pieces.push(PromptPiece::Text { text: text.to_owned(), weight: 1.0 });
}

/// Text in which the word `BREAK`, with the spaces around it, is a break.
fn push_with_breaks(pieces: &mut Vec<PromptPiece>, text: &str) {
    const BREAK: &str = "BREAK";
    let is_word = |char: char| char.is_alphanumeric() || char == '_';
    let mut begin = 0;
    for (at, _) in text.match_indices(BREAK) {
        let (before, after) = (&text[begin..at], &text[at + BREAK.len()..]);
        if text[..at].ends_with(is_word) || after.starts_with(is_word) {
            continue;
        }
        push_text(pieces, before.trim_end());
        pieces.push(PromptPiece::Break);
        begin = text.len() - after.trim_start().len();
    }
    push_text(pieces, &text[begin..]);
}

fn multiply(pieces: &mut [PromptPiece], start: Option<usize>, factor: f64) {
    for piece in pieces.iter_mut().skip(start.unwrap_or(usize::MAX)) {
        if let PromptPiece::Text { weight, .. } = piece {
            *weight *= factor;
        }
    }
}

/// Neighbours of equal weight as one, and no empty text.
fn merged(pieces: Vec<PromptPiece>) -> Vec<PromptPiece> {
    let mut merged: Vec<PromptPiece> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match (merged.last_mut(), piece) {
            (_, PromptPiece::Text { text, .. }) if text.is_empty() => {}
            (
                Some(PromptPiece::Text { text: last, weight: last_weight }),
                PromptPiece::Text { text, weight },
            ) if *last_weight == weight => *last += &text,
            (_, piece) => merged.push(piece),
        }
    }
    merged
}

impl ClipTokenizer {
    /// The chunks of a prompt, at least one. A chunk that is full ends after its last comma, if there is one among its last 20 tokens.
    ///
    /// Source: AUTOMATIC1111 stable-diffusion-webui, `modules/sd_hijack_clip.py`, `tokenize_line`.
    #[must_use]
    pub fn chunks(&self, pieces: &[PromptPiece]) -> Vec<Chunk> {
        let room = self.model_max_length() - 2;
        let mut chunks = vec![Vec::new()];
        for piece in pieces {
            let PromptPiece::Text { text, weight } = piece else {
                chunks.push(Vec::new());
                continue;
            };
            for id in self.token_ids(text) {
                let chunk = chunks.last_mut().expect("there is a first one");
                if chunk.len() == room {
                    let next = if self.is_comma(id) { Vec::new() } else { self.after_last_comma(chunk) };
                    chunks.push(next);
                }
                #[expect(clippy::cast_possible_truncation, reason = "embeddings are f32")]
                let token = (id, weight.clamp(-LARGEST, LARGEST) as f32);
                chunks.last_mut().expect("there is a first one").push(token);
            }
        }
        // What follows a break at the very end is nothing.
        if chunks.len() > 1 && chunks.last().is_some_and(Vec::is_empty) {
            chunks.pop();
        }
        chunks.into_iter().map(|tokens| self.chunk(tokens)).collect()
    }

    /// The chunk of the empty prompt.
    #[must_use]
    pub fn empty_chunk(&self) -> Chunk {
        self.chunk(Vec::new())
    }

    /// Takes what follows the last comma out of a full chunk, if that is little.
    fn after_last_comma(&self, chunk: &mut Vec<(u32, f32)>) -> Vec<(u32, f32)> {
        match chunk.iter().rposition(|(id, _)| self.is_comma(*id)) {
            Some(comma) if chunk.len() - comma <= COMMA_BACKTRACK => chunk.split_off(comma + 1),
            _ => Vec::new(),
        }
    }

    fn chunk(&self, tokens: Vec<(u32, f32)>) -> Chunk {
        let (ids, mut weights): (Vec<u32>, Vec<f32>) = tokens.into_iter().unzip();
        weights.insert(0, 1.0);
        weights.resize(self.model_max_length(), 1.0);
        Chunk { ids: self.framed(&ids), weights }
    }
}

#[cfg(test)]
mod tests {
    use rand::seq::IndexedRandom;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn read(prompt: &str) -> Vec<(String, f64)> {
        let pieces = parse_weighted(prompt).into_iter().map(|piece| match piece {
            PromptPiece::Text { text, weight } => (text, weight),
            PromptPiece::Break => ("<break>".to_owned(), 0.0),
        });
        pieces.collect()
    }

    #[track_caller]
    fn check(prompt: &str, expected: &[(&str, f64)]) {
        let found = read(prompt);
        let texts: Vec<&str> = found.iter().map(|(text, _)| text.as_str()).collect();
        assert_eq!(texts, expected.iter().map(|(text, _)| *text).collect::<Vec<_>>(), "{found:?}");
        for ((_, found), (text, expected)) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{text}: {found}");
        }
    }

    #[test]
    fn the_examples_of_the_web_ui_are_read_as_there() {
        check("normal text", &[("normal text", 1.0)]);
        check("an (important) word", &[("an ", 1.0), ("important", 1.1), (" word", 1.0)]);
        check("(unbalanced", &[("unbalanced", 1.1)]);
        check(r"\(literal\]", &[("(literal]", 1.0)]);
        check("(unnecessary)(parens)", &[("unnecessaryparens", 1.1)]);
        check(
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            &[
                ("a ", 1.0),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
                (".", 1.1),
            ],
        );
    }

    #[test]
    fn breaks_are_words_and_numbers_are_numbers() {
        check("a BREAK b", &[("a", 1.0), ("<break>", 0.0), ("b", 1.0)]);
        check("(a BREAK b:2)", &[("a", 2.0), ("<break>", 0.0), ("b", 2.0)]);
        check("aBREAK BREAKs OUTBREAK", &[("aBREAK BREAKs OUTBREAK", 1.0)]);
        check("(a:1.2.3)", &[("a:1.2.3", 1.1)]);
        check("(a:nan) (b:inf)", &[("a:nan", 1.1), (" ", 1.0), ("b:inf", 1.1)]);
        check("(a: -0.5 )", &[("a", -0.5)]);
        check("a:1.3) ]b", &[("a:1.3) ]b", 1.0)]);
        check("", &[]);
        check("()[]\\", &[]);
    }

    /// Texts of the given parts in any order.
    fn texts(parts: &[&str]) -> impl Iterator<Item = String> {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        (0..3000).map(move |_| {
            let n_parts = rng.random_range(0..30);
            (0..n_parts).map(|_| *parts.choose(&mut rng).unwrap()).collect()
        })
    }

    #[test]
    fn every_text_is_read_and_no_letter_gets_lost() {
        let letters = |text: &str| text.chars().filter(|char| char.is_lowercase() || *char == '🙂').count();
        for prompt in texts(&["a", "ü", "🙂", " ", "(", ")", "[", "]", ":", "\\", "1.5", " BREAK "]) {
            let kept: usize =
                read(&prompt).iter().map(|(text, _)| letters(&text.replace("<break>", ""))).sum();
            assert_eq!(kept, letters(&prompt), "{prompt}");
        }
    }

    #[test]
    fn a_text_without_signs_is_one_piece_of_weight_one() {
        for prompt in texts(&["a", "Zürich", "🙂", " ", ",", ".", "-", "12"]).filter(|text| !text.is_empty())
        {
            assert_eq!(parse_weighted(&prompt), [PromptPiece::Text { text: prompt, weight: 1.0 }]);
        }
    }
}
