//! The disk operations of the state, as a trait: the tests use a disk that tears and fails.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;

use crate::core::types::Fault;
use crate::edge::files;

/// The most bytes of a journal: nothing longer is read, so nothing longer is written.
///
/// What compaction leaves is shorter. A clients file has at most 64 MiB, which is half a million
/// lines; the marks of each client take at most 1,674 bytes, and those of clients that are gone are
/// dropped (`core::replay`).
pub(super) const LIMIT: u64 = 1 << 30;

/// A directory on a disk, with one file in it open for writing.
pub trait Disk: Send {
    /// A second handle on the same directory and open file, for another thread.
    fn duplicate(&self) -> Box<dyn Disk>;
    /// The content of the file; `None` if it does not exist.
    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>>;
    /// Creates or truncates the file, writes and syncs it. See [`Disk::sync_directory`] for its
    /// name.
    fn write_new(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Renames the file atomically and replaces an existing one.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    fn sync_directory(&mut self) -> io::Result<()>;
    /// Opens the file for [`Disk::write_at`] and [`Disk::sync`]. A later rename does not affect it.
    fn open(&mut self, name: &str) -> io::Result<()>;
    /// Writes into the open file; durable after the next [`Disk::sync`], in any order before that.
    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes everything written into the open file durable.
    fn sync(&mut self) -> io::Result<()>;
}

#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
    open: Option<Arc<File>>,
}

impl Directory {
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
            return Err(io::Error::other("it is longer than any state of ours"));
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

/// Fails if we would not trust the file; a missing file is fine.
pub(super) fn check(path: &Path) -> Result<(), Fault> {
    match trusted(OpenOptions::new().read(true), path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(as_fault(error)),
    }
}

/// Opens a file that only we can have written: a forged record would open doors, and doors run
/// commands.
fn trusted(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    // O_NONBLOCK: opening a FIFO in its place must not block.
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC | nix::libc::O_NONBLOCK;
    let file = options.mode(0o600).custom_flags(flags).open(path)?;
    // The error carries a fault with its remedy: see `as_fault`.
    files::check_open(path, &file).map_err(io::Error::other)?;
    Ok(file)
}

/// The fault inside a disk error, or a fault with the general remedy for disks.
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
