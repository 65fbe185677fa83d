//! The line of a configuration that is wrong, with its word marked.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use crate::core::columns::COLUMNS;
use crate::core::diagnostic::SourceText;

/// The text of a configuration. A fault about it shows the line.
pub fn config_text<'a>(label: &'a str, text: &'a str) -> SourceText<'a> {
    SourceText::of_config(label, text, excerpt)
}

/// The line, its number, and marks below these bytes of it, for a terminal of 80 columns: of a
/// longer line the part around them. Control characters are replaced by pictures of them.
pub fn excerpt(line: &str, number: usize, marked: Range<usize>) -> String {
    let end = marked.end.min(line.len());
    // Bytes that are no whole characters of this line would be a panic.
    let marked =
        if line.get(marked.start..end).is_some() { marked.start..end } else { 0..line.len() };
    let annotation = AnnotationKind::Primary.span(marked);
    let snippet = Snippet::source(line).line_start(number).annotation(annotation);
    let report = [Group::with_level(Level::ERROR).element(snippet)];
    Renderer::plain().term_width(COLUMNS).render(&report) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_configuration_is_shown_with_its_word_marked_in_80_columns() {
        let text = "[knock]\n\tprot = 7\n";
        let fault = config_text("a.toml", text).complain(9, "unknown", "");
        assert_eq!(fault.excerpt, "  |\n2 |     prot = 7\n  |     ^^^^\n");
        let long = format!("key = \"{}\" wrong{}", "x".repeat(200), "\u{1b}[31m".repeat(50));
        let shown = excerpt(&long, 1234, 209..214);
        assert!(shown.contains("xx\" wrong") && !shown.contains('\u{1b}'), "{shown}");
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
        let [text, marks] = [1, 2].map(|line| shown.lines().nth(line).unwrap());
        let column = |line: &str, mark| line.find(mark).map(|at| line[..at].chars().count());
        assert_eq!(column(text, "wrong"), column(marks, "^"), "{shown}");
        for split in [1..2, 0..1, 3..4] {
            assert_eq!(excerpt("ü", 9, split), "  |\n9 | ü\n  | ^\n");
        }
        assert_eq!(excerpt("", 9, 0..1), "  |\n9 |\n  | ^\n", "the end of the file");
    }

    #[test]
    fn a_span_that_goes_on_below_is_marked_up_to_the_end_of_its_line() {
        let fault = config_text("a.toml", "ports = [\n 7,\n]\n").complain_serde(Some(8..14), "no");
        assert_eq!(fault.excerpt, "  |\n1 | ports = [\n  |         ^\n");
    }
}
