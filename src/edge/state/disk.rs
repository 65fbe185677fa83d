//! What the state asks of a disk, as a seam: the tests have one that tears and fails.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;

use crate::core::types::Fault;
use crate::edge::files;

/// More than any state grows to; a larger file is not ours.
const LIMIT: u64 = 1 << 30;

/// A directory of a disk, and one file in it that is open for writing.
pub trait Disk: Send {
    /// Another handle on the same directory and the same open file, for another thread.
    fn duplicate(&self) -> Box<dyn Disk>;
    /// The whole file; `None` if there is none.
    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>>;
    /// Makes or empties the file, writes and syncs it. See [`Disk::sync_directory`] for its name.
    fn write_new(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Gives the file another name, in one step, over one that may be there.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    /// Makes names durable.
    fn sync_directory(&mut self) -> io::Result<()>;
    /// Opens the file that the next two calls mean. A later rename changes nothing about that.
    fn open(&mut self, name: &str) -> io::Result<()>;
    /// Writes into the open file; durable after the next [`Disk::sync`], in any order before.
    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes all that was written into the open file durable.
    fn sync(&mut self) -> io::Result<()>;
}

#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
    open: Option<Arc<File>>,
}

impl Directory {
    /// The directory at `path`, which must exist.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), open: None }
    }

    fn opened(&self) -> io::Result<&File> {
        self.open.as_deref().ok_or_else(|| io::Error::other("no journal is open"))
    }
}

impl Disk for Directory {
    fn duplicate(&self) -> Box<dyn Disk> {
        Box::new(self.clone())
    }

    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let file = match trusted(OpenOptions::new().read(true), &self.path.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut bytes = Vec::new();
        let length = file.take(LIMIT + 1).read_to_end(&mut bytes)?;
        if length as u64 > LIMIT {
            return Err(io::Error::other("it is larger than any state of ours"));
        }
        Ok(Some(bytes))
    }

    fn write_new(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let file = trusted(&mut options, &self.path.join(name))?;
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
        let file = trusted(OpenOptions::new().write(true), &self.path.join(name))?;
        self.open = Some(Arc::new(file));
        Ok(())
    }

    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.opened()?.write_all_at(bytes, at)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.opened()?.sync_data()
    }
}

/// Refuses a file that we would not trust; none is fine.
pub(super) fn check(path: &Path) -> Result<(), Fault> {
    match trusted(OpenOptions::new().read(true), path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(as_fault(error)),
    }
}

/// Opens what only we can have written: a forged record would open doors, and doors run commands.
fn trusted(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    // O_NONBLOCK: a FIFO put there must not hang us.
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC | nix::libc::O_NONBLOCK;
    let file = options.mode(0o600).custom_flags(flags).open(path)?;
    // A fault keeps its remedy inside the error: see `as_fault`.
    files::check_open(path, &file).map_err(io::Error::other)?;
    Ok(file)
}

/// The fault inside the error of a disk, or one with the remedy for disks.
pub(super) fn as_fault(error: io::Error) -> Fault {
    let remedy = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSPC | Errno::EDQUOT) => {
            "make room on that disk; nothing opens until it can be written"
        }
        _ => "check that disk; nothing opens until it can be read and written",
    };
    match error.downcast::<Fault>() {
        Ok(fault) => fault,
        Err(error) => Fault::new(error.to_string(), remedy),
    }
}
