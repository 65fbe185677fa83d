//! An error at a place in a text: `path:line:column: what`, with a remedy and a guess at what was
//! meant.

use std::ops::Range;

use strsim::osa_distance;

use super::types::{Fault, FaultKind};

/// Draws a line, its number, and marks below these bytes of it: `config::excerpt`.
pub type DrawExcerpt = fn(line: &str, number: usize, marked: Range<usize>) -> String;

/// A text and the name that people know it by.
#[derive(Clone, Copy)]
pub struct SourceText<'a> {
    /// Its path, or `-` for standard input.
    pub label: &'a str,
    pub text: &'a str,
    /// Set for a configuration: a fault shows the line. Other files hold secrets.
    draw: Option<DrawExcerpt>,
}

impl<'a> SourceText<'a> {
    pub fn new(label: &'a str, text: &'a str) -> Self {
        Self { label, text, draw: None }
    }

    /// The text of a configuration, whose lines a fault may show.
    pub fn of_config(label: &'a str, text: &'a str, draw: DrawExcerpt) -> Self {
        Self { draw: Some(draw), ..Self::new(label, text) }
    }

    /// A fault about the word at byte `offset`.
    pub fn complain(
        &self, offset: usize, what: impl AsRef<str>, remedy: impl Into<String>,
    ) -> Fault {
        self.complain_about(offset..offset, what, remedy)
    }

    /// A fault about these bytes, as far as they are on one line; if there are none, about the word
    /// that begins there.
    fn complain_about(
        &self, bytes: Range<usize>, what: impl AsRef<str>, remedy: impl Into<String>,
    ) -> Fault {
        let (number, column) = self.place(bytes.start);
        let what = format!("{}:{number}:{column}: {}", self.label, what.as_ref());
        let mut fault = Fault::new(what, remedy).of(FaultKind::Input);
        if let Some(draw) = self.draw {
            let line = self.text.lines().nth(number - 1).unwrap_or_default();
            let start = line.chars().take(column - 1).map(char::len_utf8).sum();
            let marked =
                if bytes.is_empty() { word_at(line, start) } else { start..start + bytes.len() };
            fault.excerpt = draw(line, number, marked);
        }
        fault
    }

    /// The error of a serde format, in words for people; `span` as that format gives it.
    pub fn complain_serde(&self, span: Option<Range<usize>>, message: &str) -> Fault {
        let span = span.unwrap_or_default();
        let first = message.lines().next().unwrap_or("not readable");
        match unknown_field(first) {
            Some((key, known)) => self.complain_unknown(span.start, "key", key, known),
            None if is_quoted_number(first) => {
                self.complain_about(span, "a number in quotes", "write it without the quotes")
            }
            None => self.complain_about(
                span,
                plain_words(first),
                "see the comments in the file that `toctocd init` writes",
            ),
        }
    }

    /// An unknown word where only some `known` ones make sense.
    pub fn complain_unknown<'k>(
        &self, offset: usize, sort: &str, word: &str, known: impl IntoIterator<Item = &'k str>,
    ) -> Fault {
        let known: Vec<&str> = known.into_iter().collect();
        let remedy = match nearest(word, known.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if known.is_empty() => "nothing can stand here; remove it".to_owned(),
            None => format!("known here: {}", known.join(", ")),
        };
        self.complain(offset, format!("unknown {sort} `{}`", printable(word)), remedy)
    }

    /// Line and column of byte `offset`, both from 1, the column in characters.
    pub fn place(&self, offset: usize) -> (usize, usize) {
        let mut line = 1;
        let mut column = 1;
        for (_, c) in self.text.char_indices().take_while(|(at, _)| *at < offset) {
            column += 1;
            if c == '\n' {
                line += 1;
                column = 1;
            }
        }
        (line, column)
    }
}

/// The bytes of the word that begins at byte `start` of a line.
pub fn word_at(line: &str, start: usize) -> Range<usize> {
    let rest = line.get(start..).unwrap_or_default();
    let ends_word = |c: char| c.is_whitespace() || c == '=';
    start..start + rest.find(ends_word).unwrap_or(rest.len())
}

/// `word` with control characters escaped and cut to a readable length: it may come from a hostile
/// file.
pub fn printable(word: &str) -> String {
    let mut text: String = word.chars().take(64).flat_map(char::escape_debug).collect();
    if word.chars().nth(64).is_some() {
        text.push('…');
    }
    text
}

/// The known word that `word` most likely means, if one is close enough.
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // The distance takes quadratic time, and nobody mistypes a word into a longer one.
    if word.len() > 64 {
        return None;
    }
    let normal = word.to_lowercase().replace('-', "_");
    let best = known.into_iter().min_by_key(|known| osa_distance(&normal, known))?;
    let close_enough = best.chars().count().div_ceil(3).min(3);
    if osa_distance(&normal, best) <= close_enough { Some(best) } else { None }
}

/// Parses serde's "unknown field `x`, expected one of `a`, `b`".
fn unknown_field(message: &str) -> Option<(&str, Vec<&str>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let (key, rest) = rest.split_once('`')?;
    Some((key, rest.split('`').skip(1).step_by(2).collect()))
}

/// True for text where a number must stand, if the text is one.
fn is_quoted_number(message: &str) -> bool {
    let Some(rest) = message.strip_prefix("invalid type: string \"") else { return false };
    match rest.split_once('"') {
        Some((text, expected)) => text.parse::<i64>().is_ok() && expected == ", expected i64",
        None => false,
    }
}

/// Replaces serde's and Rust's names for shapes by words that a reader of a config file knows.
fn plain_words(message: &str) -> String {
    let wrong = message.strip_prefix("invalid type: ").or(message.strip_prefix("invalid value: "));
    let mut words = match wrong.and_then(|rest| rest.rsplit_once(", expected ")) {
        Some((found, wanted)) => format!("{wanted} must stand here, not {found}"),
        None => message.to_owned(),
    };
    for (theirs, ours) in [
        ("not string ", "not the text "),
        ("not integer ", "not the number "),
        ("not boolean ", "not "),
        ("a sequence", "a list"),
        ("sequence", "a list"),
        ("not map", "not a section"),
        ("a boolean", "true or false"),
        ("i64", "a whole number"),
        ("a map", "a section"),
        ("struct ", "section "),
        ("missing field ", "missing: "),
        ("duplicate field ", "given twice: "),
    ] {
        words = words.replace(theirs, ours);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_from_one_and_in_characters() {
        let text = SourceText::new("f", "ab\nüx\n");
        for (offset, place) in
            [(0, (1, 1)), (1, (1, 2)), (3, (2, 1)), (5, (2, 2)), (7, (3, 1)), (99, (3, 1))]
        {
            assert_eq!(text.place(offset), place, "{offset}");
        }
    }

    #[test]
    fn near_words_are_guessed_and_far_ones_are_not() {
        let known = ["interfaces", "port", "max_age"];
        assert_eq!(nearest("interfaec", known), Some("interfaces"));
        assert_eq!(nearest("prot", known), Some("port"));
        assert_eq!(nearest("Max-Age", known), Some("max_age"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(nearest(&"p".repeat(1000), known), None);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place() {
        let fault = SourceText::new("a.toml", "x = 1\nprot = 2\n")
            .complain_serde(Some(6..10), "unknown field `prot`, expected one of `port`, `seconds`");
        assert_eq!(fault.what, "a.toml:2:1: unknown key `prot`");
        assert_eq!(fault.remedy, "did you mean `port`?");
        assert_eq!(fault.excerpt, "", "the file may hold secrets");
    }

    #[test]
    fn hostile_words_are_escaped_and_cut() {
        assert_eq!(printable("a\u{1b}[31m"), "a\\u{1b}[31m");
        assert!(printable(&"x".repeat(500)).chars().count() < 70);
    }
}
