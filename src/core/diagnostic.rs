//! An error at a place in a text: `path:line:column: what`, with a remedy and a guess at what was
//! meant.

use super::types::{Fault, FaultKind};

/// Characters of a line that an excerpt shows.
const SHOWN: usize = 68;

/// A text and the name that people know it by.
#[derive(Clone, Copy)]
pub struct SourceText<'a> {
    /// Its path, or `-` for standard input.
    pub label: &'a str,
    pub text: &'a str,
    /// True for a configuration: a fault shows the line. Other files hold secrets.
    is_public: bool,
}

impl<'a> SourceText<'a> {
    pub fn new(label: &'a str, text: &'a str) -> Self {
        Self { label, text, is_public: false }
    }

    /// The text of a configuration, whose lines a fault may show.
    pub fn of_config(label: &'a str, text: &'a str) -> Self {
        Self { is_public: true, ..Self::new(label, text) }
    }

    pub fn complain(
        &self, offset: usize, what: impl AsRef<str>, remedy: impl Into<String>,
    ) -> Fault {
        let (line, column) = self.place(offset);
        let what = format!("{}:{line}:{column}: {}", self.label, what.as_ref());
        let mut fault = Fault::new(what, remedy).of(FaultKind::Input);
        if self.is_public {
            let text = self.text.lines().nth(line - 1).unwrap_or_default();
            fault.excerpt = excerpt(text, line, column);
        }
        fault
    }

    /// The error of a serde format, in words for people; `span` as that format gives it.
    pub fn complain_serde(&self, span: Option<std::ops::Range<usize>>, message: &str) -> Fault {
        let offset = span.map_or(0, |span| span.start);
        let first = message.lines().next().unwrap_or("not readable");
        match unknown_field(first) {
            Some((key, known)) => self.complain_unknown(offset, "key", key, known),
            None if is_quoted_number(first) => {
                self.complain(offset, "a number in quotes", "write it without the quotes")
            }
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

/// The line with marks below the word at `column`, for a terminal of 80 columns. Of a longer line
/// the part around the word.
pub fn excerpt(text: &str, line: usize, column: usize) -> String {
    let before = column.saturating_sub(1);
    let skipped = before.saturating_sub(SHOWN / 2);
    let skipped = if text.chars().count() > SHOWN { skipped } else { 0 };
    // One column for each character, also for a hostile one.
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let shown: String = text.chars().skip(skipped).take(SHOWN).map(plain).collect();
    let ends_word = |c: &char| c.is_whitespace() || *c == '=';
    let word = shown.chars().skip(before - skipped).take_while(|c| !ends_word(c)).count();
    let marks = "^".repeat(word.max(1));
    let number = line.to_string();
    let margin = number.len();
    format!(
        "  {number} | {}\n  {:margin$} | {:place$}{marks}\n",
        shown.trim_end(),
        "",
        "",
        place = before - skipped
    )
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
    fn the_line_of_a_configuration_is_shown_with_its_word_marked_in_80_columns() {
        let text = "[knock]\n\tprot = 7\n";
        let fault = SourceText::of_config("a.toml", text).complain(9, "unknown", "");
        assert_eq!(fault.excerpt, "  2 |  prot = 7\n    |  ^^^^\n");
        let long = format!("key = \"{}\" wrong{}", "x".repeat(200), "\u{1b}[31m".repeat(50));
        let shown = excerpt(&long, 1234, 210);
        assert!(shown.contains("xx\" wrong") && !shown.contains('\u{1b}'), "{shown}");
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
        let [text, marks] = [0, 1].map(|line| shown.lines().nth(line).unwrap());
        assert_eq!(text.find("wrong"), marks.find('^'), "{shown}");
        assert_eq!(excerpt("", 9, 1), "  9 | \n    | ^\n", "the end of the file");
    }

    #[test]
    fn hostile_words_are_escaped_and_cut() {
        assert_eq!(printable("a\u{1b}[31m"), "a\\u{1b}[31m");
        assert!(printable(&"x".repeat(500)).chars().count() < 70);
    }
}
