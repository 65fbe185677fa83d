//! Prose in lines of 80 columns, for a terminal.

/// Columns that every terminal has.
pub const COLUMNS: usize = 80;

/// Where a line has a gap of two blanks up to here, what follows is a column of its own.
const LABEL: usize = 40;

/// The same text with line breaks at blanks, so that each line fits. What stands in backticks stays
/// on one line, and so does a command of ours: people paste it.
pub fn fitted(text: &str) -> String {
    let mut fitted = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        match line.trim_end().chars().count() > COLUMNS && !is_row(line) {
            true => add_broken(line, &mut fitted),
            false => fitted.push_str(line),
        }
    }
    fitted
}

/// A line of a table: it has two gaps at least, and broken it could not be read.
fn is_row(line: &str) -> bool {
    line.trim().split("  ").filter(|cell| !cell.is_empty()).count() > 2
}

fn add_broken(line: &str, fitted: &mut String) {
    let indent = indent(line);
    let mut column = 0;
    for piece in pieces(line) {
        let width = piece.trim_end().chars().count();
        if column > indent && column + width > COLUMNS {
            let length = fitted.trim_end_matches(' ').len();
            fitted.truncate(length);
            fitted.push('\n');
            fitted.push_str(&" ".repeat(indent));
            column = indent;
        }
        fitted.push_str(&piece);
        column += piece.chars().count();
    }
}

/// Blanks before a line that goes on: as before its text, or before its second column.
fn indent(line: &str) -> usize {
    let text = line.trim_start();
    let before = line.len() - text.len();
    let start: String = line.chars().take(LABEL).collect();
    match start.trim_end().rfind("  ") {
        Some(gap) if gap >= before => gap + 2,
        _ if text.starts_with("- ") => before + 2,
        _ => before,
    }
}

/// The words of a line, each with the blanks behind it. What must not be broken is one word.
fn pieces(line: &str) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    let mut is_quoted = false;
    let mut is_command = false;
    for word in line.split_inclusive(' ') {
        match pieces.last_mut() {
            Some(last) if is_quoted || is_command && last.len() < COLUMNS / 2 => {
                last.push_str(word)
            }
            _ => pieces.push(word.to_owned()),
        }
        is_quoted ^= word.matches('`').count() % 2 == 1;
        is_command = match word.trim_end() {
            "toctoc" | "toctocd" => true,
            "" | "#" => false,
            bare => is_command && !bare.ends_with([',', ';', ':', '.', ')']),
        };
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_fits_and_only_line_breaks_are_added() {
        let words = "word, other words; and a long one: ".repeat(9);
        for before in ["", "  ", "  - ", "ok    ", "  degraded    ", "warning: "] {
            let text = format!("{before}{words}\nshort\n{before}{words}");
            let fitted = fitted(&text);
            assert!(fitted.lines().all(|line| line.chars().count() <= COLUMNS), "{fitted}");
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(words(&fitted), words(&text));
            let second = fitted.lines().nth(1).unwrap();
            let indent = second.len() - second.trim_start().len();
            assert_eq!(indent, if before == "warning: " { 0 } else { before.len() }, "{fitted}");
        }
    }

    #[test]
    fn what_fits_and_what_has_no_blank_stays_as_it_is() {
        let token = "A".repeat(300);
        for text in ["", "\n", "a  b\n\n", &token, "x\r\n"] {
            assert_eq!(fitted(text), text);
        }
    }

    #[test]
    fn a_command_stays_on_one_line() {
        let start = "a sentence that comes close to the end of the line, which has eighty, ";
        for command in ["`systemctl start toctocd`", "toctoc ssh-config home --install"] {
            let fitted = fitted(&format!("{start}{command}; and goes on\n"));
            assert!(fitted.contains(command), "{fitted}");
            assert_eq!(fitted.lines().count(), 2, "{fitted}");
        }
    }

    #[test]
    fn what_stands_behind_a_label_breaks_below_itself_and_a_row_of_a_table_does_not() {
        let labelled = format!("{:14}{}\n", "  serves", "one service, ".repeat(8));
        let shown = fitted(&labelled);
        assert!(shown.lines().skip(1).all(|line| line.starts_with(&" ".repeat(14))), "{shown}");
        let row = format!("NAME  SERVICES  KEY      {}\n", "column ".repeat(12));
        assert_eq!(fitted(&row), row);
    }
}
