//! Files opened checked (owner, mode, parent, no link, size) and written whole or not at all.
//! What stands in them is left to `keys` and `config`.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::core::types::Fault;

/// How careful a file's owner must have been with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileCheck {
    /// Holds secrets: nobody but its owner may read or write it.
    Secret,
    /// Is believed: nobody but its owner may write it.
    Trusted,
}

/// The most that any file of ours may hold: a clients file with 100,000 lines is 20 MB.
pub const LIMIT: u64 = 64 << 20;

/// Reads a file that is what it should be: a regular file, reached through no link at its end,
/// owned by root or us, with a mode as `care` asks, in a directory where a stranger cannot have put
/// it. The text is wiped when dropped.
///
/// # Errors
/// What is not as it should be, with the command that mends it.
pub fn read(path: &Path, care: FileCheck) -> Result<Zeroizing<String>, Fault> {
    text(path, read_bytes(path, care)?)
}

/// The same for a file that need not be text.
///
/// # Errors
/// As [`read`].
pub fn read_bytes(path: &Path, care: FileCheck) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let file = unix_or_windows::open_checked(path, care)?;
    let size = file.metadata().map_err(|e| trouble(path, &e))?.len();
    if size > LIMIT {
        return Err(too_long(path));
    }
    // Room for all at once: a buffer that grows leaves copies of secrets behind.
    let room = usize::try_from(size).map_err(|_| too_long(path))?.saturating_add(1);
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(LIMIT + 1).read_to_end(&mut bytes).map_err(|e| trouble(path, &e))?;
    if u64::try_from(bytes.len()).is_ok_and(|n| n > LIMIT) {
        return Err(too_long(path));
    }
    Ok(bytes)
}

/// The bytes of `path` as text, without a copy.
pub fn text(path: &Path, mut bytes: Zeroizing<Vec<u8>>) -> Result<Zeroizing<String>, Fault> {
    String::from_utf8(std::mem::take(&mut *bytes)).map(Zeroizing::new).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        drop(Zeroizing::new(e.into_bytes()));
        Fault::new(
            format!("{}: byte {at} is not UTF-8 text", path.display()),
            "is it the right file?",
        )
    })
}

/// Writes a new file of `mode`, complete or not at all; an existing one is left alone.
///
/// # Errors
/// The path exists, or cannot be written.
pub fn create(path: &Path, content: &[u8], mode: u32) -> Result<(), Fault> {
    if fs::symlink_metadata(path).is_ok() {
        return Err(exists(path));
    }
    let temporary = write_beside(path, content, mode)?;
    // A hard link, unlike a rename, refuses to replace what came into being meanwhile.
    let linked = fs::hard_link(&temporary, path);
    let removed = fs::remove_file(&temporary);
    match linked {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Err(exists(path)),
        other => other.and(removed).map_err(|e| trouble(path, &e))?,
    }
    unix_or_windows::sync_directory(&parent(path)).map_err(|e| trouble(path, &e))
}

/// Replaces a file, or makes it, with `mode`: whoever reads it sees all of the old content or all
/// of the new.
///
/// # Errors
/// The path cannot be written; the old content then still stands.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), Fault> {
    let temporary = write_beside(path, content, mode)?;
    fs::rename(&temporary, path).map_err(|e| {
        let _ = fs::remove_file(&temporary);
        trouble(path, &e)
    })?;
    unix_or_windows::sync_directory(&parent(path)).map_err(|e| trouble(path, &e))
}

/// Makes a directory of `mode`, and those above it, unless it is there. Answers whether it was
/// made.
///
/// # Errors
/// It cannot be made, or something else has its name.
pub fn make_directory(path: &Path, mode: u32) -> Result<bool, Fault> {
    if path.is_dir() {
        return Ok(false);
    }
    unix_or_windows::make_directory(path, mode).map_err(|e| trouble(path, &e))?;
    Ok(true)
}

/// Whether `path` is a directory in which only root and we can put anything: no link, ours, in a
/// directory where a stranger cannot exchange it.
///
/// # Errors
/// What is not as it should be, with the command that mends it.
#[cfg(unix)]
pub fn check_own_directory(path: &Path) -> Result<(), Fault> {
    unix_or_windows::check_own_directory(path)
}

/// Whether an open file is one that we may believe: regular, owned by root or us, written by nobody
/// else.
///
/// # Errors
/// What is not as it should be, with the command that mends it.
#[cfg(unix)]
pub fn check_open(path: &Path, file: &fs::File) -> Result<(), Fault> {
    unix_or_windows::check_file(path, file, FileCheck::Trusted)
}

/// The mode of a file that others than its owner can read.
pub fn readable_by_others(path: &Path) -> Option<u32> {
    unix_or_windows::mode(path).filter(|mode| mode & 0o044 != 0)
}

/// Keeps other writers of ours out of the directory that holds `path` until it is dropped.
pub struct DirectoryLock {
    _held: unix_or_windows::Lock,
}

/// Waits for the lock on the directory that holds `path`.
///
/// # Errors
/// There is no such directory, or it cannot be locked.
pub fn lock_directory(path: &Path) -> Result<DirectoryLock, Fault> {
    let directory = parent(path);
    unix_or_windows::lock(&directory)
        .map(|held| DirectoryLock { _held: held })
        .map_err(|e| trouble(&directory, &e))
}

/// The directory that holds `path`.
pub fn parent(path: &Path) -> PathBuf {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

/// Writes and syncs a temporary file in the same directory, created with no more than its final
/// rights.
fn write_beside(path: &Path, content: &[u8], mode: u32) -> Result<PathBuf, Fault> {
    let name = path
        .file_name()
        .ok_or_else(|| Fault::new(format!("{}: names no file", path.display()), ""))?;
    // One name per process: a writer that died leaves one file at most, which the next with that id
    // replaces.
    let temporary =
        parent(path).join(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
    let _ = fs::remove_file(&temporary);
    let written = write_synced(&temporary, content, mode);
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.map(|()| temporary).map_err(|e| trouble(path, &e))
}

fn write_synced(temporary: &Path, content: &[u8], mode: u32) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    unix_or_windows::private(&mut options);
    let mut file = options.open(temporary)?;
    file.write_all(content)?;
    unix_or_windows::set_mode(&file, mode)?;
    file.sync_all()
}

fn exists(path: &Path) -> Fault {
    Fault::new(
        format!("{}: exists already; left as it is", path.display()),
        "name another path, or move it away first",
    )
}

fn too_long(path: &Path) -> Fault {
    Fault::new(
        format!("{}: longer than {} MiB", path.display(), LIMIT >> 20),
        "is it the right file?",
    )
}

/// The kernel's complaint about a path, with the remedy that usually helps.
fn trouble(path: &Path, error: &std::io::Error) -> Fault {
    use std::io::ErrorKind::*;
    let shown = path.display();
    match error.kind() {
        NotFound => Fault::new(format!("{shown}: no such file"), "check the path"),
        PermissionDenied => {
            Fault::new(format!("{shown}: permission denied"), "run this as its owner, or as root")
        }
        IsADirectory => Fault::new(format!("{shown}: is a directory"), "name a file"),
        ReadOnlyFilesystem => {
            Fault::new(format!("{shown}: the file system is read-only"), "choose another place")
        }
        StorageFull => {
            Fault::new(format!("{shown}: the disk is full"), "make room; nothing was changed")
        }
        _ => Fault::new(format!("{shown}: {error}"), "check the path, its rights and the disk"),
    }
}

#[cfg(unix)]
mod unix_or_windows {
    use std::fs::{File, OpenOptions, Permissions};
    use std::io;
    use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
    use std::path::Path;

    use nix::errno::Errno;
    use nix::fcntl::{OFlag, open, openat};
    use nix::sys::stat::Mode;
    use nix::unistd::geteuid;

    use super::{Fault, FileCheck, parent, trouble};

    /// Opens the directory first and the file by it, so that what was checked is what is read.
    pub(super) fn open_checked(path: &Path, care: FileCheck) -> Result<File, Fault> {
        let directory = parent(path);
        let name =
            path.file_name().ok_or_else(|| trouble(path, &io::ErrorKind::IsADirectory.into()))?;
        let at = open(
            &directory,
            OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY,
            Mode::empty(),
        )
        .map_err(|e| trouble(path, &e.into()))?;
        let at = File::from(at);
        check_directory(&directory, &at)?;
        // O_NONBLOCK: a FIFO put there must not hang us.
        let flags = OFlag::O_RDONLY
            | OFlag::O_NOFOLLOW
            | OFlag::O_CLOEXEC
            | OFlag::O_NONBLOCK
            | OFlag::O_NOCTTY;
        let file = openat(&at, name, flags, Mode::empty()).map_err(|e| match e {
            Errno::ELOOP => Fault::new(
                format!("{}: is a symbolic link", path.display()),
                match path.canonicalize() {
                    Ok(real) => format!("name the file itself: {}", real.display()),
                    Err(_) => "name the file itself".to_owned(),
                },
            ),
            other => trouble(path, &other.into()),
        })?;
        let file = File::from(file);
        check_file(path, &file, care)?;
        Ok(file)
    }

    fn check_directory(directory: &Path, at: &File) -> Result<(), Fault> {
        let metadata = at.metadata().map_err(|e| trouble(directory, &e))?;
        let shown = directory.display();
        if !ours(metadata.uid()) {
            return Err(Fault::new(
                format!(
                    "{shown}: belongs to uid {}, who could exchange the files in it",
                    metadata.uid()
                ),
                format!("chown {} {shown}", geteuid()),
            ));
        }
        let everybody_may_write = metadata.mode() & 0o002 != 0 && metadata.mode() & 0o1000 == 0;
        if everybody_may_write {
            return Err(Fault::new(
                format!(
                    "{shown}: everybody may exchange the files in it (mode {:04o})",
                    metadata.mode() & 0o7777
                ),
                format!("chmod o-w {shown}"),
            ));
        }
        Ok(())
    }

    pub(super) fn check_own_directory(path: &Path) -> Result<(), Fault> {
        let above = parent(path);
        check_directory(&above, &File::open(&above).map_err(|e| trouble(&above, &e))?)?;
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
        let at = open(path, flags, Mode::empty()).map_err(|e| match e {
            Errno::ENOTDIR | Errno::ELOOP => Fault::new(
                format!("{}: is a link or no directory", path.display()),
                "name the directory itself",
            ),
            other => trouble(path, &other.into()),
        })?;
        let at = File::from(at);
        check_directory(path, &at)?;
        let mode = at.metadata().map_err(|e| trouble(path, &e))?.mode() & 0o7777;
        if mode & 0o022 != 0 {
            return Err(Fault::new(
                format!("{}: others may write into it (mode {mode:04o})", path.display()),
                format!("see what was put there, then chmod 700 {}", path.display()),
            ));
        }
        Ok(())
    }

    pub(super) fn mode(path: &Path) -> Option<u32> {
        std::fs::metadata(path).ok().map(|metadata| metadata.mode() & 0o7777)
    }

    pub(super) fn check_file(path: &Path, file: &File, care: FileCheck) -> Result<(), Fault> {
        let metadata = file.metadata().map_err(|e| trouble(path, &e))?;
        let shown = path.display();
        if metadata.is_dir() {
            return Err(trouble(path, &io::ErrorKind::IsADirectory.into()));
        }
        if !metadata.is_file() {
            return Err(Fault::new(format!("{shown}: not a regular file"), "name a regular file"));
        }
        if !ours(metadata.uid()) {
            return Err(Fault::new(
                format!("{shown}: belongs to uid {}, neither to root nor to you", metadata.uid()),
                format!("chown {} {shown}", geteuid()),
            ));
        }
        let mode = metadata.mode() & 0o7777;
        match care {
            FileCheck::Secret if mode & 0o077 != 0 => Err(Fault::new(
                format!("{shown}: holds secrets, but others may use it (mode {mode:04o})"),
                format!("chmod 600 {shown}"),
            )),
            FileCheck::Trusted if mode & 0o022 != 0 => Err(Fault::new(
                format!("{shown}: others may write it (mode {mode:04o})"),
                format!("chmod go-w {shown}"),
            )),
            _ => Ok(()),
        }
    }

    fn ours(uid: u32) -> bool {
        uid == 0 || uid == geteuid().as_raw()
    }

    pub(super) fn private(options: &mut OpenOptions) {
        options.mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
    }

    pub(super) fn set_mode(file: &File, mode: u32) -> io::Result<()> {
        file.set_permissions(Permissions::from_mode(mode))
    }

    pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }

    pub(super) type Lock = nix::fcntl::Flock<File>;

    pub(super) fn lock(directory: &Path) -> io::Result<Lock> {
        // The directory itself: a lock file would be one more thing to lie about.
        Lock::lock(File::open(directory)?, nix::fcntl::FlockArg::LockExclusive)
            .map_err(|(_, e)| e.into())
    }

    pub(super) fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(mode).create(path)
    }
}

/// Windows has no modes: a file below the user's profile is the user's, and that is where ours lie.
#[cfg(not(unix))]
mod unix_or_windows {
    use std::fs::{File, OpenOptions};
    use std::io;
    use std::path::Path;

    use super::{Fault, FileCheck, trouble};

    pub(super) fn open_checked(path: &Path, _: FileCheck) -> Result<File, Fault> {
        let metadata = std::fs::symlink_metadata(path).map_err(|e| trouble(path, &e))?;
        if !metadata.is_file() {
            return Err(Fault::new(
                format!("{}: not a regular file", path.display()),
                "name the file itself",
            ));
        }
        File::open(path).map_err(|e| trouble(path, &e))
    }

    pub(super) fn mode(_: &Path) -> Option<u32> {
        None
    }

    pub(super) fn private(_: &mut OpenOptions) {}

    pub(super) fn set_mode(_: &File, _: u32) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn sync_directory(_: &Path) -> io::Result<()> {
        Ok(())
    }

    pub(super) struct Lock;

    pub(super) fn lock(_: &Path) -> io::Result<Lock> {
        Ok(Lock)
    }

    pub(super) fn make_directory(path: &Path, _: u32) -> io::Result<()> {
        std::fs::create_dir_all(path)
    }
}

#[cfg(all(test, unix))]
mod tests;
