//! An error at a place in a text: `path:line:column: what`, with a remedy and a guess at what was
//! meant.

use super::types::Fault;

/// A text and the name that people know it by.
#[derive(Clone, Copy)]
pub struct SourceText<'a> {
    /// Its path, or `-` for standard input.
    pub label: &'a str,
    pub text: &'a str,
}

impl<'a> SourceText<'a> {
    pub fn new(label: &'a str, text: &'a str) -> Self {
        Self { label, text }
    }

    pub fn complain(
        &self, offset: usize, what: impl AsRef<str>, remedy: impl Into<String>,
    ) -> Fault {
        let (line, column) = self.place(offset);
        Fault::new(format!("{}:{line}:{column}: {}", self.label, what.as_ref()), remedy)
    }

    /// The error of a serde format, in words for people; `span` as that format gives it.
    pub fn complain_serde(&self, span: Option<std::ops::Range<usize>>, message: &str) -> Fault {
        let offset = span.map_or(0, |span| span.start);
        let first = message.lines().next().unwrap_or("not readable");
        match unknown_field(first) {
            Some((key, known)) => self.complain_unknown(offset, "key", key, known),
            None => self.complain(
                offset,
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
    let best = known.into_iter().min_by_key(|known| distance(&normal, known))?;
    let close_enough = best.chars().count().div_ceil(3).min(3);
    if distance(&normal, best) <= close_enough { Some(best) } else { None }
}

/// Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut rows = vec![vec![0_usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut best =
                (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

/// Parses serde's "unknown field `x`, expected one of `a`, `b`".
fn unknown_field(message: &str) -> Option<(&str, Vec<&str>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let (key, rest) = rest.split_once('`')?;
    Some((key, rest.split('`').skip(1).step_by(2).collect()))
}

/// Replaces serde's and Rust's names for shapes by words that a reader of a config file knows.
fn plain_words(message: &str) -> String {
    let mut words = message.to_owned();
    for (theirs, ours) in [
        ("invalid type: ", "the wrong kind of value: "),
        ("invalid value: ", "a value that does not fit: "),
        ("expected a sequence", "expected a list"),
        ("sequence", "list"),
        ("a boolean", "true or false"),
        ("expected i64", "expected a whole number"),
        ("expected a map", "expected a section"),
        ("expected struct ", "expected section "),
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
    }

    #[test]
    fn hostile_words_are_escaped_and_cut() {
        assert_eq!(printable("a\u{1b}[31m"), "a\\u{1b}[31m");
        assert!(printable(&"x".repeat(500)).chars().count() < 70);
    }
}
