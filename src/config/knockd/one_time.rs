//! A file of one-time sequences: one a line, the first usable line is in force, `#` in front of a
//! line uses it up. Writing that `#` durably, before anything opens, is left to `edge::one_time`.

use crate::core::door::Step;

use super::{SequenceError, list, sequence, trim};

/// The first usable sequence in `text`. Lines that are none are told of, each time.
pub fn first(text: &[u8], door: &str, skipped: &mut dyn FnMut(SequenceError)) -> Option<Vec<Step>> {
    usable(text).find_map(|(_, line)| match parse(line, door) {
        Ok(sequence) => Some(sequence),
        Err(error) => {
            skipped(error);
            None
        }
    })
}

/// Every step that any usable line names, each once.
pub fn steps(text: &[u8]) -> Vec<Step> {
    let all = usable(text).filter_map(|(_, line)| parse(line, "").ok()).flatten();
    all.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

/// Where in `text` the `#` belongs that uses `sequence` up: at the first byte of the first usable
/// line that holds it.
pub fn place_of(text: &[u8], sequence: &[Step]) -> Option<usize> {
    usable(text)
        .find(|(_, line)| parse(line, "").is_ok_and(|found| found == sequence))
        .map(|(at, _)| at)
}

/// knockd's message when a file has no usable line left.
pub fn none_left(door: &str) -> String {
    format!(
        "no more sequences left in the one time sequences file for door {door} --> disabling the door"
    )
}

/// knockd's message when a used line can not be marked.
pub fn not_marked(door: &str) -> String {
    format!("error while disabling used one time sequence for door {door} --> disabling the door")
}

/// A line for `knockd -D`.
pub fn new_sequence(door: &str, sequence: &[Step]) -> String {
    format!("new sequence for door {door}: {}", list(sequence))
}

/// Lines that are neither empty nor comments, trimmed, with the place of their first byte, blanks
/// included.
fn usable(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    let lines = text.split_inclusive(|b| *b == b'\n').map(move |line| {
        let place = at;
        at += line.len();
        (place, trim(line))
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
        let first = first(text.as_bytes(), "d", &mut |error| skipped.push(error.text()));
        (first.map(|sequence| list(&sequence)), skipped)
    }

    #[test]
    fn the_first_line_that_is_neither_used_nor_empty_nor_wrong_is_in_force() {
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
    fn the_mark_goes_to_the_used_line_not_to_a_bad_one_before_it() {
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
