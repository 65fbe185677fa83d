//! Files of one-time sequences: read them, and use a line up durably before anything opens.
//! Which line is in force is left to `config::knockd::one_time`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;

use crate::config::knockd::{SequenceError, one_time};
use crate::core::door::Step;

/// The most that such a file may hold: some 50,000 sequences.
const LIMIT: u64 = 1 << 20;

/// Opens the file for reading and writing, as knockd does, so that one that could not be used up is refused at the start.
///
/// # Errors
/// The reason, as the system words it.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    open(path).and_then(|file| content(&file)).map_err(|error| reason(&error))
}

/// Writes `#` over the first byte of the line that holds `used`, syncs it, and answers the next usable sequence, if there is
/// one. A line that is no longer there is used up already: somebody edited the file.
///
/// # Errors
/// The reason, as the system words it: then nothing may open.
pub fn burn(
    path: &Path,
    used: &[Step],
    door: &str,
    skipped: &mut dyn FnMut(SequenceError),
) -> Result<Option<Vec<Step>>, String> {
    let burn = || -> io::Result<Vec<u8>> {
        let file = open(path)?;
        let mut text = content(&file)?;
        if let Some(at) = one_time::place_of(&text, used) {
            file.write_all_at(b"#", u64::try_from(at).map_err(io::Error::other)?)?;
            file.sync_data()?;
            text.splice(at..=at, *b"#");
        }
        Ok(text)
    };
    let text = burn().map_err(|error| reason(&error))?;
    Ok(one_time::first(&text, door, skipped))
}

/// `No such file or directory`, without the number that Rust adds.
pub fn reason(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |number| Errno::from_raw(number).desc().into())
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

    #[test]
    fn each_line_is_used_up_in_place_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ots");
        std::fs::write(&path, "# doors\n 70000\n 7101,7102\n7201,7202").unwrap();
        let (first, second) = (sequence("7101,7102", "").unwrap(), sequence("7201,7202", "").unwrap());
        let mut skipped = 0;
        assert_eq!(burn(&path, &first, "d", &mut |_| skipped += 1).unwrap(), Some(second.clone()));
        assert_eq!(burn(&path, &second, "d", &mut |_| skipped += 1).unwrap(), None);
        assert_eq!(burn(&path, &second, "d", &mut |_| ()).unwrap(), None, "not there any more");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "# doors\n 70000\n#7101,7102\n#201,7202");
        assert_eq!(skipped, 2);
    }

    #[test]
    fn what_cannot_be_opened_for_writing_is_refused_in_the_systems_words() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(&dir.path().join("none")).unwrap_err(), "No such file or directory");
        assert_eq!(read(dir.path()).unwrap_err(), "Is a directory");
    }
}
