//! Files of one-time sequences: read them, and use a line up durably before anything opens.
//! Which line is in force is left to `config::knockd::one_time`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;

use crate::config::knockd::{SequenceError, one_time};
use crate::core::door::{Door, Step};

/// The most that such a file may hold: some 50,000 sequences.
const LIMIT: u64 = 1 << 20;

/// Opens the file for reading and writing, as knockd does, so that one that could not be used up is
/// refused at the start.
///
/// # Errors
/// The reason, as the system words it.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    open(path).and_then(|file| content(&file)).map_err(|error| reason(&error))
}

/// What became of a sequence that was to be used up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SequenceUse {
    /// Whether this call used the line up. If not, it was gone before: used up through another
    /// listener, as happens around a reload, or edited away. Then nothing may open.
    pub ours: bool,
    /// The next usable sequence, if there is one; to be taken over in either case.
    pub next: Option<Vec<Step>>,
}

/// Writes `#` over the first byte of the line that holds the sequence of `door`, and syncs it. A
/// sequence that stands in the configuration itself ([`Door::fixed_first`]) is used up without
/// that: from here on the file counts.
///
/// # Errors
/// The reason, as the system words it: then nothing may open.
pub fn use_up(
    path: &Path,
    door: &Door,
    skipped: &mut dyn FnMut(SequenceError),
) -> Result<SequenceUse, String> {
    let burn = || -> io::Result<(bool, Vec<u8>)> {
        let file = open(path)?;
        let mut text = content(&file)?;
        let place = one_time::place_of(&text, &door.sequence);
        if let (Some(at), false) = (place, door.fixed_first) {
            file.write_all_at(b"#", u64::try_from(at).map_err(io::Error::other)?)?;
            file.sync_data()?;
            text.splice(at..=at, *b"#");
        }
        Ok((place.is_some() || door.fixed_first, text))
    };
    let (ours, text) = burn().map_err(|error| reason(&error))?;
    Ok(SequenceUse { ours, next: one_time::first(&text, &door.name, skipped) })
}

/// `No such file or directory`, without the number that Rust adds.
pub fn reason(error: &io::Error) -> String {
    error
        .raw_os_error()
        .map_or_else(|| error.to_string(), |number| Errno::from_raw(number).desc().into())
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

    #[test]
    fn each_line_is_used_up_in_place_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ots");
        std::fs::write(&path, "# doors\n 70000\n 7101,7102\n7201,7202").unwrap();
        let (first, second) = (door("7101,7102"), door("7201,7202"));
        let mut skipped = 0;
        let mut count = |_| skipped += 1;
        let after_first = use_up(&path, &first, &mut count).unwrap();
        assert_eq!(after_first, SequenceUse { ours: true, next: Some(second.sequence.clone()) });
        assert_eq!(
            use_up(&path, &second, &mut count).unwrap(),
            SequenceUse { ours: true, next: None }
        );
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "# doors\n 70000\n#7101,7102\n#201,7202"
        );
        assert_eq!(skipped, 2);
    }

    #[test]
    fn a_line_that_two_listeners_saw_completed_is_ours_once_and_both_learn_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ots");
        std::fs::write(&path, "7101,7102\n7201,7202\n").unwrap();
        let (first, second) = (door("7101,7102"), door("7201,7202"));
        let told = [(); 2].map(|()| use_up(&path, &first, &mut |_| ()).unwrap());
        assert_eq!(
            told,
            [true, false].map(|ours| SequenceUse { ours, next: Some(second.sequence.clone()) })
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "#101,7102\n7201,7202\n");
        let shut = Door { sequence: Vec::new(), ..door("1") };
        assert!(
            !use_up(&path, &shut, &mut |_| ()).unwrap().ours,
            "a door without a sequence has nothing to use up"
        );
    }

    #[test]
    fn a_sequence_of_the_configuration_opens_once_and_then_the_file_counts_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ots");
        std::fs::write(&path, " 7101,7102\n").unwrap();
        let fixed = |ports| Door { fixed_first: true, ..door(ports) };
        let next = Some(door("7101,7102").sequence);
        assert_eq!(
            use_up(&path, &fixed("7001,7002"), &mut |_| ()).unwrap(),
            SequenceUse { ours: true, next: next.clone() }
        );
        assert_eq!(
            use_up(&path, &fixed("7101,7102"), &mut |_| ()).unwrap(),
            SequenceUse { ours: true, next }
        );
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            " 7101,7102\n",
            "also where its ports are the same"
        );
    }

    #[test]
    fn what_cannot_be_opened_for_writing_is_refused_in_the_systems_words() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(&dir.path().join("none")).unwrap_err(), "No such file or directory");
        assert_eq!(read(dir.path()).unwrap_err(), "Is a directory");
    }
}
