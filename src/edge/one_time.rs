//! Files of one-time sequences: reads them, and marks a line as used durably before a door opens.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;

use crate::config::knockd::{SequenceError, one_time};
use crate::core::door::{Door, Step};

/// The largest file, bytes: some 50,000 sequences.
const LIMIT: u64 = 1 << 20;

/// Reads the file. Refuses one that cannot be written, as knockd does. The error is the reason.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    let text = open(path).and_then(|file| content(&file));
    text.map_err(|error| reason(&error))
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SequenceUse {
    /// True if this call used the line up. Otherwise another listener did, as around a reload, or
    /// an admin edited the line away: nothing may open.
    pub by_us: bool,
    /// The next usable sequence, if any; it takes effect in either case.
    pub next: Option<Vec<Step>>,
    pub skipped: Vec<SequenceError>,
}

/// Writes `#` over the first byte of the line with the current sequence of `door`, and syncs it.
/// The file need not have a line for a sequence from the configuration itself
/// ([`Door::fixed_first`]); if it has one, that is used too. After an error, the system's reason,
/// nothing may open.
pub fn use_up(path: &Path, door: &Door) -> Result<SequenceUse, String> {
    let mut used = SequenceUse::default();
    let text = mark_used(path, door, &mut used.by_us).map_err(|error| reason(&error))?;
    let mut skipped = Vec::new();
    used.next = one_time::first(&text, &door.name, &mut |error| skipped.push(error));
    Ok(SequenceUse { skipped, ..used })
}

/// Returns the text of the file afterwards.
fn mark_used(path: &Path, door: &Door, by_us: &mut bool) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let mut text = content(&file)?;
    let place = one_time::place_of(&text, &door.sequence);
    *by_us = place.is_some() || door.fixed_first;
    if let Some(at) = place {
        file.write_all_at(b"#", u64::try_from(at).map_err(io::Error::other)?)?;
        file.sync_data()?;
        text.splice(at..=at, *b"#");
    }
    Ok(text)
}

/// The error's text without the number that Rust adds, such as `No such file or directory`.
pub fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().into(),
        None => error.to_string(),
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn content(file: &File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut text)?;
    match u64::try_from(text.len()) {
        Ok(length) if length <= LIMIT => Ok(text),
        _ => Err(io::Error::other("more than 1 MiB of one-time sequences")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::knockd::sequence;

    fn door(ports: &str) -> Door {
        Door {
            name: "d".into(),
            sequence: sequence(ports, "").unwrap_or_default(),
            ..Door::default()
        }
    }

    fn file(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ots");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    /// True if this call used the line up, and the next sequence.
    fn used(path: &Path, door: &Door) -> (bool, Option<Vec<Step>>) {
        let used = use_up(path, door).unwrap();
        (used.by_us, used.next)
    }

    #[test]
    fn each_line_is_used_up_in_place_and_once() {
        let (_dir, path) = file("# doors\n 70000\n 7101,7102\n7201,7202");
        let (first, second) = (door("7101,7102"), door("7201,7202"));
        let after_first = use_up(&path, &first).unwrap();
        assert_eq!((after_first.by_us, after_first.skipped.len()), (true, 1));
        assert_eq!(after_first.next, Some(second.sequence.clone()));
        assert_eq!(used(&path, &second), (true, None));
        let left = std::fs::read_to_string(&path).unwrap();
        assert_eq!(left, "# doors\n 70000\n#7101,7102\n#201,7202");
    }

    #[test]
    fn a_line_that_two_listeners_saw_completed_is_ours_once_and_both_learn_the_next() {
        let (_dir, path) = file("7101,7102\n7201,7202\n");
        let (first, second) = (door("7101,7102"), door("7201,7202"));
        assert_eq!(used(&path, &first), (true, Some(second.sequence.clone())));
        assert_eq!(used(&path, &first), (false, Some(second.sequence)));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "#101,7102\n7201,7202\n");
        let shut = Door { sequence: Vec::new(), ..door("1") };
        assert!(!used(&path, &shut).0, "a door without a sequence has nothing to use up");
    }

    #[test]
    fn a_sequence_of_the_configuration_opens_once_and_then_the_file_counts_untouched() {
        let (_dir, path) = file(" 7101,7102\n7101,7102,7103\n");
        let fixed = |ports| Door { fixed_first: true, ..door(ports) };
        let next = Some(door("7101,7102").sequence);
        assert_eq!(used(&path, &fixed("7001,7002")), (true, next));
        let left = std::fs::read_to_string(&path).unwrap();
        assert_eq!(left, " 7101,7102\n7101,7102,7103\n");
    }

    #[test]
    fn a_sequence_of_the_configuration_that_the_file_has_too_opens_once_all_the_same() {
        let (_dir, path) = file("7101,7102,7103\n 7101,7102\n7201,7202\n");
        let fixed = Door { fixed_first: true, ..door("7101,7102") };
        let next = Some(door("7101,7102,7103").sequence);
        assert_eq!(used(&path, &fixed), (true, next));
        let left = std::fs::read_to_string(&path).unwrap();
        assert_eq!(left, "7101,7102,7103\n#7101,7102\n7201,7202\n");
    }

    #[test]
    fn what_cannot_be_opened_for_writing_is_refused_in_the_systems_words() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(&dir.path().join("none")).unwrap_err(), "No such file or directory");
        assert_eq!(read(dir.path()).unwrap_err(), "Is a directory");
    }
}
