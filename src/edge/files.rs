//! Files opened with checks (owner, mode, directory, no link, size), and written whole or not at
//! all.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::str::Utf8Error;

use zeroize::Zeroizing;

use crate::core::types::{Fault, FaultKind};

#[cfg(any(windows, test))]
mod access_list;
#[cfg(unix)]
#[path = "files/unix.rs"]
mod platform;
#[cfg(windows)]
#[path = "files/windows.rs"]
mod platform;
#[cfg(all(test, unix))]
mod tests;

#[cfg(unix)]
pub use platform::{
    FileLock, LockFault, check_open, check_own_directory, check_place, check_way, holder, lock,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileCheck {
    /// It holds secrets: only its owner may read or write it.
    Secret,
    /// We trust its content: only its owner may write it.
    Trusted,
}

/// Bytes of the largest file that we read: a clients file with 100,000 lines has 20 MB.
pub const LIMIT: u64 = 64 << 20;

/// Reads a text file. It must be a regular file, not a link, owned by root or us, with a mode as
/// `check` demands, in a directory where nobody else can replace it. The text is wiped when
/// dropped. An error names the first check that failed and the command that fixes it.
pub fn read(path: &Path, check: FileCheck) -> Result<Zeroizing<String>, Fault> {
    text(path, read_bytes(path, check)?)
}

/// The same for a file of the gateway: into its directory nobody else may put anything, and nobody
/// else may be able to replace a directory above it.
#[cfg(unix)]
pub fn read_own(path: &Path, check: FileCheck) -> Result<Zeroizing<String>, Fault> {
    text(path, read_own_bytes(path, check)?)
}

/// The same for a file of the gateway that need not be text.
#[cfg(unix)]
pub fn read_own_bytes(path: &Path, check: FileCheck) -> Result<Zeroizing<Vec<u8>>, Fault> {
    check_place(path)?;
    read_bytes(path, check)
}

/// Reads what may be anybody's, as far as it is text.
#[cfg(unix)]
pub fn read_untrusted(path: &Path) -> io::Result<String> {
    // Not from a FIFO, which could make us wait for ever.
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() || metadata.len() > LIMIT {
        return Err(ErrorKind::InvalidInput.into());
    }
    Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())
}

/// The same as [`read`] for a file that need not be text.
pub fn read_bytes(path: &Path, check: FileCheck) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let file = platform::open_checked(path, check)?;
    let size = file.metadata().map_err(|error| io_fault(path, &error))?.len();
    if size > LIMIT {
        return Err(too_long(path));
    }
    // Room for all at once: a buffer that grows leaves copies of secrets behind.
    let room = usize::try_from(size).map_err(|_| too_long(path))?.saturating_add(1);
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(LIMIT + 1).read_to_end(&mut bytes).map_err(|error| io_fault(path, &error))?;
    if bytes.len() as u64 > LIMIT {
        return Err(too_long(path));
    }
    Ok(bytes)
}

/// The bytes of `path` as text, without a copy. Fails if they are not UTF-8.
pub fn text(path: &Path, mut bytes: Zeroizing<Vec<u8>>) -> Result<Zeroizing<String>, Fault> {
    String::from_utf8(std::mem::take(&mut *bytes)).map(Zeroizing::new).map_err(|error| {
        let fault = not_text(path, error.utf8_error());
        drop(Zeroizing::new(error.into_bytes()));
        fault
    })
}

pub fn not_text(path: &Path, error: Utf8Error) -> Fault {
    let what = format!("{}: byte {} is not UTF-8 text", path.display(), error.valid_up_to());
    Fault::new(what, "is it the right file?")
}

/// Writes a new file of `mode`, completely or not at all. Never replaces an existing one.
pub fn create(path: &Path, content: &[u8], mode: u32) -> Result<(), Fault> {
    if fs::symlink_metadata(path).is_ok() {
        return Err(exists(path));
    }
    let temporary = write_beside(path, content, mode)?;
    match give_name(&temporary, path, |temporary, path| fs::hard_link(temporary, path)) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(exists(path)),
        Err(error) => Err(io_fault(path, &error)),
    }
}

/// Gives a finished file its name, unless that exists. `temporary` is gone afterwards.
fn give_name(
    temporary: &Path, path: &Path, link: impl FnOnce(&Path, &Path) -> io::Result<()>,
) -> io::Result<()> {
    // A hard link, unlike a rename, refuses to replace a file that was made meanwhile.
    let named = match link(temporary, path) {
        Ok(()) => return fs::remove_file(temporary),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(error),
        // FAT has no hard links. There an empty file of ours takes the name first.
        Err(_) => fs::File::create_new(path)
            .and_then(|_| fs::rename(temporary, path).inspect_err(|_| drop(fs::remove_file(path)))),
    };
    if named.is_err() {
        // The reason is in `named`.
        let _ = fs::remove_file(temporary);
    }
    named
}

/// Writes or replaces a file. A reader, and we after an error, see all of the old or all of the
/// new.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), Fault> {
    let temporary = write_beside(path, content, mode)?;
    if let Err(error) = fs::rename(&temporary, path) {
        let _ = fs::remove_file(&temporary);
        return Err(io_fault(path, &error));
    }
    sync_parent(path)
}

/// Writes content over that of an existing file of the same length, in its place, so that no room
/// is needed. Not for a change that must be seen whole or not at all.
#[cfg(unix)]
pub fn overwrite(path: &Path, content: &[u8]) -> Result<(), Fault> {
    let file = platform::open_for_writing(path)?;
    let length = file.metadata().map_err(|error| io_fault(path, &error))?.len();
    if length != content.len() as u64 {
        return Err(Fault::new(format!("{}: has changed meanwhile", path.display()), "try again"));
    }
    let written = std::io::copy(&mut &content[..], &mut &file).and_then(|_| file.sync_data());
    written.map_err(|error| io_fault(path, &error))
}

/// Makes a directory of `mode`, and those above it. False if it exists already.
pub fn make_directory(path: &Path, mode: u32) -> Result<bool, Fault> {
    if path.is_dir() {
        return Ok(false);
    }
    platform::make_directory(path, mode).map_err(|error| io_fault(path, &error))?;
    Ok(true)
}

/// Removes a file. One that is gone already is no error.
pub fn remove(path: &Path) -> Result<(), Fault> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io_fault(path, &error)),
        _ => sync_parent(path),
    }
}

/// The mode of a file; `None` if there is none, or no such thing as a mode.
pub fn mode(path: &Path) -> Option<u32> {
    platform::mode(path)
}

/// The mode of a file that others than its owner can read; `None` if nobody else can.
pub fn readable_by_others(path: &Path) -> Option<u32> {
    platform::mode(path).filter(|mode| mode & 0o044 != 0)
}

pub fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Writes and syncs a temporary file beside `path`, never readable by more users than allowed.
fn write_beside(path: &Path, content: &[u8], mode: u32) -> Result<PathBuf, Fault> {
    let Some(name) = path.file_name() else {
        return Err(Fault::new(format!("{}: not the name of a file", path.display()), ""));
    };
    // One name per process: two that write at once do not write into one file.
    let begin = format!(".{}.", name.to_string_lossy());
    let temporary = parent(path).join(format!("{begin}{}{TEMPORARY}", std::process::id()));
    let _ = fs::remove_file(&temporary);
    remove_abandoned(&parent(path), &begin);
    if let Err(error) = write_synced(&temporary, content, mode) {
        let _ = fs::remove_file(&temporary);
        return Err(io_fault(path, &error));
    }
    Ok(temporary)
}

/// The end of the names of temporary files.
const TEMPORARY: &str = ".tmp";

/// Removes what writers left who were killed: it may hold secrets, and nobody would miss it.
fn remove_abandoned(directory: &Path, begin: &str) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(begin))
            && let Some(pid) = rest.strip_suffix(TEMPORARY)
            && let Ok(pid) = pid.parse()
            && platform::has_ended(pid)
        {
            // A writer in another container, whom we cannot see, then fails and says so.
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn write_synced(temporary: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = platform::create_private(temporary)?;
    file.write_all(content)?;
    platform::set_mode(&file, mode)?;
    file.sync_all()
}

fn sync_parent(path: &Path) -> Result<(), Fault> {
    platform::sync_directory(&parent(path)).map_err(|error| io_fault(path, &error))
}

fn exists(path: &Path) -> Fault {
    let what = format!("{}: exists already; not changed", path.display());
    Fault::new(what, "name another path, or move it away first").of(FaultKind::Name)
}

/// Others may read or replace the file.
fn exposed(what: String, remedy: String) -> Fault {
    Fault::new(what, remedy).of(FaultKind::Exposed)
}

fn too_long(path: &Path) -> Fault {
    let what = format!("{}: longer than {} MiB", path.display(), LIMIT >> 20);
    Fault::new(what, "is it the right file?")
}

/// The kernel's error about a path, with the remedy that usually helps.
fn io_fault(path: &Path, error: &io::Error) -> Fault {
    let reason = error.to_string();
    let (what, remedy) = match error.kind() {
        ErrorKind::NotFound => ("no such file", "check the path"),
        ErrorKind::PermissionDenied => ("permission denied", "run this as its owner, or as root"),
        ErrorKind::IsADirectory => ("is a directory", "name a file"),
        ErrorKind::ReadOnlyFilesystem => ("the file system is read-only", "choose another place"),
        ErrorKind::StorageFull => ("the disk is full", "make room; nothing was changed"),
        _ => (reason.as_str(), "check the path, its rights and the disk"),
    };
    Fault::new(format!("{}: {what}", path.display()), remedy)
}
