//! The few things that the state asks of a disk, as a seam: the real one here, one that tears and
//! fails in the tests. In which order they are asked is left to `state`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::core::types::Fault;
use crate::edge::files;

/// More than any state grows to; a larger file is not ours.
const LIMIT: u64 = 1 << 30;

/// One directory of a disk.
pub trait Disk {
    /// The whole file; `None` if there is none.
    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>>;
    /// Makes the file, or empties it, writes all of `bytes` and syncs it. Its name is not durable
    /// before [`Disk::sync_directory`].
    fn write_new(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Gives the file another name, in one step, over one that may be there.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    /// Makes names durable.
    fn sync_directory(&mut self) -> io::Result<()>;
    /// Opens the file that the next two calls mean.
    fn open(&mut self, name: &str) -> io::Result<()>;
    /// Writes into the open file; durable after the next [`Disk::sync`], in any order with other
    /// writes before it.
    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes all that was written into the open file durable.
    fn sync(&mut self) -> io::Result<()>;
}

/// A directory of a real disk.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    open: Option<File>,
}

impl Directory {
    /// The directory at `path`, which must exist.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), open: None }
    }

    fn opened(&self) -> io::Result<&File> {
        self.open.as_ref().ok_or_else(|| io::Error::other("no journal is open"))
    }
}

impl Disk for Directory {
    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let file = match believed(OpenOptions::new().read(true), &self.path.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut bytes = Vec::new();
        let length = file.take(LIMIT + 1).read_to_end(&mut bytes)?;
        if u64::try_from(length).is_ok_and(|length| length <= LIMIT) {
            Ok(Some(bytes))
        } else {
            Err(io::Error::other("it is larger than any state of ours"))
        }
    }

    fn write_new(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let file = believed(
            OpenOptions::new().write(true).create(true).truncate(false),
            &self.path.join(name),
        )?;
        file.set_len(0)?;
        file.write_all_at(bytes, 0)?;
        file.sync_all()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn open(&mut self, name: &str) -> io::Result<()> {
        self.open = None;
        self.open = Some(believed(OpenOptions::new().write(true), &self.path.join(name))?);
        Ok(())
    }

    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.opened()?.write_all_at(bytes, at)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.opened()?.sync_data()
    }
}

/// Whether the file is one that we would believe; none is fine.
pub(super) fn check(path: &Path) -> Result<(), Fault> {
    match believed(OpenOptions::new().read(true), path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map(drop).map_err(|error| {
            Fault::new(
                error.to_string(),
                format!("see how it came to that, then mend or remove {}", path.display()),
            )
        }),
    }
}

/// Opens what only we can have written: a forged record would open doors, and doors run commands.
fn believed(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    // O_NONBLOCK: a FIFO put there must not hang us.
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC | nix::libc::O_NONBLOCK;
    let file = options.mode(0o600).custom_flags(flags).open(path)?;
    files::check_open(path, &file).map_err(|fault| io::Error::other(fault.what))?;
    Ok(file)
}
