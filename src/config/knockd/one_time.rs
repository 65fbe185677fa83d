//! A file of one-time sequences: one per line; the first usable line is in force, and `#` before it
//! uses it up. See `edge::one_time` for writing that `#` durably before anything opens.

use std::collections::BTreeSet;

use crate::core::door::Step;

use super::{SequenceError, list, sequence, trim};

/// The first usable sequence in `text`. `skipped` gets the lines before it that are none.
pub fn first(text: &[u8], door: &str, skipped: &mut dyn FnMut(SequenceError)) -> Option<Vec<Step>> {
    for (_, line) in usable(text) {
        match parse(line, door) {
            Ok(sequence) => return Some(sequence),
            Err(error) => skipped(error),
        }
    }
    None
}

/// Every step that any usable line names, each once.
pub fn steps(text: &[u8]) -> Vec<Step> {
    let mut steps = BTreeSet::new();
    for (_, line) in usable(text) {
        steps.extend(parse(line, "").unwrap_or_default());
    }
    steps.into_iter().collect()
}

/// The place in `text` of the `#` that uses `sequence` up: the first byte of the first usable line
/// that holds it.
pub fn place_of(text: &[u8], sequence: &[Step]) -> Option<usize> {
    for (start, line) in usable(text) {
        if parse(line, "").is_ok_and(|found| found == sequence) {
            return Some(start);
        }
    }
    None
}

/// knockd's message if a file has no usable line left.
pub fn none_left(door: &str) -> String {
    format!(
        "no more sequences left in the one time sequences file for door {door} --> disabling the door"
    )
}

/// knockd's message if a used line cannot be marked.
pub fn not_marked(door: &str) -> String {
    format!("error while disabling used one time sequence for door {door} --> disabling the door")
}

/// A line for `knockd -D`.
pub fn new_sequence(door: &str, sequence: &[Step]) -> String {
    format!("new sequence for door {door}: {}", list(sequence))
}

/// Lines that are neither empty nor comments, without blanks at either end; each with the place of
/// its first byte, blanks included.
fn usable(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    let lines = text.split_inclusive(|b| *b == b'\n').map(move |line| {
        let start = at;
        at += line.len();
        (start, trim(line))
    });
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with(b"#"))
}

fn parse(line: &[u8], door: &str) -> Result<Vec<Step>, SequenceError> {
    sequence(&String::from_utf8_lossy(line), door)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_of(text: &str) -> (Option<String>, Vec<String>) {
        let mut skipped = Vec::new();
        let first = first(text.as_bytes(), "d", &mut |error| skipped.push(error.text));
        (first.map(|sequence| list(&sequence)), skipped)
    }

    #[test]
    fn the_first_line_that_is_not_used_empty_or_wrong_is_in_force() {
        let file = "# comment\r\n\n\t#7001,7002\n 70000,1\n 1:icmp\n  7101 , 7102:udp \r\n 7201";
        let (first, skipped) = first_of(file);
        assert_eq!(first.unwrap(), "7101:tcp,7102:udp");
        assert_eq!(
            skipped,
            ["section d: port 70000 is invalid", "section d: unknown protocol in knock sequence"]
        );
        assert_eq!(first_of(" 7201").0.unwrap(), "7201:tcp", "no final newline");
        assert_eq!(first_of("hello\n").0.unwrap(), "0:tcp", "as knockd reads it");
        assert_eq!(first_of("#1\n\n").0, None);
        assert_eq!(first_of("").0, None);
    }

    #[test]
    fn the_mark_goes_to_the_used_line_and_not_to_a_bad_line_before_it() {
        let mut file = b" 70000,1\n 7101,7102\n 7201,7202\n".to_vec();
        let used = sequence("7101,7102", "d").unwrap();
        let at = place_of(&file, &used).unwrap();
        file[at] = b'#';
        assert_eq!(file, b" 70000,1\n#7101,7102\n 7201,7202\n");
        assert_eq!(place_of(&file, &used), None, "used once");
        assert_eq!(first(&file, "d", &mut |_| ()).unwrap(), sequence("7201,7202", "d").unwrap());
        assert_eq!(steps(&file), [Step::tcp(7201), Step::tcp(7202)]);
    }
}
