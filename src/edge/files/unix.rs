//! The checks of a file's owner and mode, and what else needs Unix. See `files`.

use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, open, openat};
use nix::sys::signal::kill;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, geteuid};

use super::{Fault, FileCheck, exposed, io_fault, parent};
use crate::core::diagnostic::printable;

/// Opens the directory first, and the file relative to it, so that we read what we checked.
pub(super) fn open_checked(path: &Path, check: FileCheck) -> Result<File, Fault> {
    let Some(name) = path.file_name() else {
        return Err(io_fault(path, &io::ErrorKind::IsADirectory.into()));
    };
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
    let directory =
        open(&parent(path), flags, Mode::empty()).map_err(|errno| io_fault(path, &errno.into()))?;
    let directory = File::from(directory);
    check_directory(&parent(path), &directory)?;
    // O_NONBLOCK: a FIFO of this name must not block us.
    let flags = OFlag::O_RDONLY
        | OFlag::O_NOFOLLOW
        | OFlag::O_CLOEXEC
        | OFlag::O_NONBLOCK
        | OFlag::O_NOCTTY;
    match openat(&directory, name, flags, Mode::empty()) {
        Ok(file) => {
            let file = File::from(file);
            check_file(path, &file, check)?;
            Ok(file)
        }
        Err(Errno::ELOOP) => Err(is_link(path)),
        Err(errno) => Err(io_fault(path, &errno.into())),
    }
}

/// Opens an existing file of ours for writing.
pub(super) fn open_for_writing(path: &Path) -> Result<File, Fault> {
    let mut options = OpenOptions::new();
    options.write(true).custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits());
    let file = options.open(path).map_err(|error| io_fault(path, &error))?;
    check_file(path, &file, FileCheck::Trusted)?;
    Ok(file)
}

fn is_link(path: &Path) -> Fault {
    let remedy = match path.canonicalize() {
        Ok(real) => format!("name the file itself: {}", real.display()),
        Err(_) => "name the file itself".to_owned(),
    };
    Fault::new(format!("{}: is a symbolic link", path.display()), remedy)
}

/// Refuses a directory in which another user could replace our files. A sticky bit, as on /tmp,
/// keeps everybody's hands off the files of others.
fn check_directory(path: &Path, directory: &File) -> Result<(), Fault> {
    let metadata = directory.metadata().map_err(|error| io_fault(path, &error))?;
    let others = if metadata.mode() & 0o1000 == 0 { 0o002 } else { 0 };
    check_entry(path, &metadata, others)
}

/// Refuses what belongs to another user, or what others may write by one of these mode bits.
fn check_entry(path: &Path, metadata: &Metadata, others: u32) -> Result<(), Fault> {
    let shown = path.display();
    let uid = metadata.uid();
    if !is_trusted(uid) {
        let what = match metadata.is_dir() {
            true => format!("{shown}: belongs to uid {uid}, who could replace the files in it"),
            false => format!("{shown}: belongs to uid {uid}, neither to root nor to you"),
        };
        return Err(exposed(what, format!("chown {} {shown}", geteuid())));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & others == 0 {
        return Ok(());
    }
    let what = match metadata.is_dir() {
        true => format!("{shown}: others may write into it (mode {mode:04o})"),
        false => format!("{shown}: others may write it (mode {mode:04o})"),
    };
    let remedy = match (metadata.is_dir(), mode & 0o1000) {
        (false, _) => format!("chmod go-w {shown}"),
        (true, 0) => format!("see what was put there, then chmod go-w {shown}"),
        (true, _) => "use a directory that only root may write".to_owned(),
    };
    Err(exposed(what, remedy))
}

/// Checks every directory and link from / to `path`, and `path` itself: nobody but root and us may
/// be able to put anything else in the place of any of them. Returns what `path` leads to; `None`
/// if it does not exist and nobody else can make it.
///
/// From / on: what was checked cannot be changed by others while we check the next.
pub fn check_way(path: &Path) -> Result<Option<Metadata>, Fault> {
    let start = std::path::absolute(path).map_err(|error| io_fault(path, &error))?;
    let mut ahead: Vec<OsString> = names(&start);
    let mut at = PathBuf::from("/");
    let mut here = std::fs::symlink_metadata(&at).map_err(|error| io_fault(&at, &error))?;
    for _ in 0..STEPS {
        if !here.is_dir() {
            check_entry(&at, &here, 0o022)?;
            return match ahead.is_empty() {
                true => Ok(Some(here)),
                false => Err(io_fault(&at, &io::ErrorKind::NotADirectory.into())),
            };
        }
        // Under a sticky bit others can make new names, but not replace those of root and ours.
        let is_shared = here.mode() & 0o1000 != 0 && here.mode() & 0o022 != 0;
        let Some(name) = ahead.pop() else {
            check_entry(&at, &here, 0o022)?;
            return Ok(Some(here));
        };
        check_entry(&at, &here, if is_shared { 0 } else { 0o022 })?;
        let next = at.join(&name);
        let metadata = match std::fs::symlink_metadata(&next) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Whoever makes it decides what it is.
                check_entry(&at, &here, 0o022)?;
                return Ok(None);
            }
            Err(error) => return Err(io_fault(&next, &error)),
        };
        if metadata.is_symlink() {
            check_entry(&next, &metadata, 0)?;
            let to = std::fs::read_link(&next).map_err(|error| io_fault(&next, &error))?;
            let to = at.join(to);
            ahead.extend(names(&to));
            at = PathBuf::from("/");
            here = std::fs::symlink_metadata(&at).map_err(|error| io_fault(&at, &error))?;
        } else if name == ".." {
            at.pop();
            here = std::fs::symlink_metadata(&at).map_err(|error| io_fault(&at, &error))?;
        } else {
            at = next;
            here = metadata;
        }
    }
    let what = format!("{}: its links lead round in a circle", path.display());
    Err(Fault::new(what, "name the file itself"))
}

/// More steps than any path has: links may lead round in a circle.
const STEPS: usize = 1000;

/// The names of an absolute path, the last one first.
fn names(path: &Path) -> Vec<OsString> {
    let mut names = Vec::new();
    for part in path.components().rev() {
        match part {
            Component::Normal(name) => names.push(name.to_owned()),
            Component::ParentDir => names.push("..".into()),
            _ => {}
        }
    }
    names
}

/// Checks that `path` is a directory, not a link, in which only root and we can put anything, and
/// that nobody else can replace it or a directory above it. An error names the command that fixes
/// it.
pub fn check_own_directory(path: &Path) -> Result<(), Fault> {
    match check_way(path)? {
        None => Err(io_fault(path, &io::ErrorKind::NotFound.into())),
        Some(metadata) if metadata.is_dir() && !path.is_symlink() => Ok(()),
        Some(_) => {
            let what = format!("{}: is a link or not a directory", path.display());
            Err(Fault::new(what, "name the directory itself"))
        }
    }
}

/// Checks that only root and we can put anything into the directory of `path`, or in place of a
/// directory above it. It may be a link.
pub fn check_place(path: &Path) -> Result<(), Fault> {
    check_way(&parent(path)).map(drop)
}

/// Checks that an open file can be trusted: a regular file, owned by root or us, that nobody else
/// may write. An error names the first check that failed and the command that fixes it.
pub fn check_open(path: &Path, file: &File) -> Result<(), Fault> {
    check_file(path, file, FileCheck::Trusted)
}

fn check_file(path: &Path, file: &File, check: FileCheck) -> Result<(), Fault> {
    let metadata = file.metadata().map_err(|error| io_fault(path, &error))?;
    let shown = path.display();
    if metadata.is_dir() {
        return Err(io_fault(path, &io::ErrorKind::IsADirectory.into()));
    }
    if !metadata.is_file() {
        return Err(Fault::new(format!("{shown}: not a regular file"), "name a regular file"));
    }
    let mode = metadata.mode() & 0o7777;
    let others = if check == FileCheck::Secret { 0 } else { 0o022 };
    check_entry(path, &metadata, others)?;
    if check == FileCheck::Secret && mode & 0o077 != 0 {
        let what = format!("{shown}: holds secrets, but others may use it (mode {mode:04o})");
        return Err(exposed(what, format!("chmod 600 {shown}")));
    }
    Ok(())
}

fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

pub(super) fn mode(path: &Path) -> Option<u32> {
    std::fs::metadata(path).ok().map(|metadata| metadata.mode() & 0o7777)
}

/// True if no process has this number.
pub(super) fn has_ended(pid: i32) -> bool {
    pid > 0 && kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH)
}

pub(super) fn create_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
    options.open(path)
}

pub(super) fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(mode))
}

pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// A lock on a file that nobody else can open, so that nobody else can hold it. It ends when this
/// is dropped, and with the process. The file stays: whoever waits for it has it open.
pub struct FileLock {
    file: Flock<File>,
}

impl FileLock {
    /// True if `path` still names the locked file: otherwise nobody else sees the lock.
    pub fn is_still_at(&self, path: &Path) -> bool {
        match (std::fs::symlink_metadata(path), self.file.metadata()) {
            (Ok(named), Ok(held)) => (named.dev(), named.ino()) == (held.dev(), held.ino()),
            _ => false,
        }
    }
}

/// The reason why there is no lock.
pub enum LockFault {
    /// Another process has it: `pid 17 (toctocd)`.
    Held(String),
    Unusable(Fault),
}

impl From<Fault> for LockFault {
    fn from(fault: Fault) -> LockFault {
        LockFault::Unusable(fault)
    }
}

/// Locks the file at `path`, which is made if need be; waits at most `patience` for another holder.
pub fn lock(path: &Path, patience: Duration) -> Result<FileLock, LockFault> {
    let end = Instant::now() + patience;
    // O_NONBLOCK: a FIFO of this name must not block us.
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = options.custom_flags(flags.bits()).open(path);
    let mut file = file.map_err(|error| io_fault(path, &error))?;
    check_file(path, &file, FileCheck::Trusted)?;
    // Whoever may read it can hold its lock.
    set_mode(&file, 0o600).map_err(|error| io_fault(path, &error))?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => return Ok(FileLock { file }),
            Err((back, Errno::EWOULDBLOCK)) if Instant::now() < end => file = back,
            Err((_, Errno::EWOULDBLOCK)) => {
                return Err(LockFault::Held(
                    holder(path).unwrap_or_else(|| "another process".to_owned()),
                ));
            }
            Err((_, errno)) => return Err(io_fault(path, &errno.into()).into()),
        }
        // A blocking flock has no deadline.
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The process that locks this file, as text: `pid 17 (toctocd)`.
pub fn holder(path: &Path) -> Option<String> {
    let file = open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty());
    let file = File::from(file.ok()?);
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let pid = locker(&locks, device(&file).as_deref(), file.metadata().ok()?.ino())?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("pid {pid} ({})", printable(name.trim_end())))
}

/// The process that locks the file with this number on `device`, or on any if that is not known.
/// `locks` is the text of /proc/locks.
pub(super) fn locker<'a>(locks: &'a str, device: Option<&str>, inode: u64) -> Option<&'a str> {
    let inode = inode.to_string();
    for line in locks.lines() {
        // `1: FLOCK  ADVISORY  WRITE 17 08:01:4711 0 EOF`; those who wait have `->`.
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [_, "FLOCK", _, _, pid, place, ..] = words.as_slice()
            && let Some((its_device, its_inode)) = place.rsplit_once(':')
            && its_inode == inode
            && device.is_none_or(|device| device == its_device)
        {
            return Some(pid);
        }
    }
    None
}

/// The device of an open file as /proc/locks has it. With some file systems that is not the one
/// that stat(2) tells.
fn device(file: &File) -> Option<String> {
    let about = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    let mount = about.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    for line in mounts.lines() {
        // `29 1 8:1 / /var rw,relatime ...`.
        let words: Vec<&str> = line.split_whitespace().take(3).collect();
        if let [id, _, device] = words.as_slice()
            && *id == mount
            && let Some((major, minor)) = device.split_once(':')
        {
            let major: u32 = major.parse().ok()?;
            let minor: u32 = minor.parse().ok()?;
            return Some(format!("{major:02x}:{minor:02x}"));
        }
    }
    None
}

pub(super) fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path)
}
