//! The checks of a file's owner and mode, and what else needs Unix. See `files`.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, open, openat};
use nix::sys::stat::Mode;
use nix::unistd::geteuid;

use super::{Fault, FileCheck, io_fault, parent};

/// Opens the directory first, and the file relative to it, so that we read what we checked.
pub(super) fn open_checked(path: &Path, check: FileCheck) -> Result<File, Fault> {
    let Some(name) = path.file_name() else {
        return Err(io_fault(path, &io::ErrorKind::IsADirectory.into()));
    };
    let directory = open_directory(&parent(path), OFlag::empty())
        .map_err(|errno| io_fault(path, &errno.into()))?;
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

fn open_directory(path: &Path, more: OFlag) -> nix::Result<File> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY | more;
    open(path, flags, Mode::empty()).map(File::from)
}

fn is_link(path: &Path) -> Fault {
    let remedy = match path.canonicalize() {
        Ok(real) => format!("name the file itself: {}", real.display()),
        Err(_) => "name the file itself".to_owned(),
    };
    Fault::new(format!("{}: is a symbolic link", path.display()), remedy)
}

fn check_directory(path: &Path, directory: &File) -> Result<(), Fault> {
    let metadata = directory.metadata().map_err(|error| io_fault(path, &error))?;
    let shown = path.display();
    let uid = metadata.uid();
    if !is_trusted(uid) {
        let what = format!("{shown}: belongs to uid {uid}, who could replace the files in it");
        return Err(Fault::new(what, format!("chown {} {shown}", geteuid())));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o002 != 0 && mode & 0o1000 == 0 {
        let what = format!("{shown}: everybody may replace the files in it (mode {mode:04o})");
        return Err(Fault::new(what, format!("chmod o-w {shown}")));
    }
    Ok(())
}

/// Checks that `path` is a directory, not a link, in which only root and we can put anything, and
/// which nobody else can replace. An error names the command that fixes it.
pub fn check_own_directory(path: &Path) -> Result<(), Fault> {
    let above = parent(path);
    let directory = File::open(&above).map_err(|error| io_fault(&above, &error))?;
    check_directory(&above, &directory)?;
    let directory = match open_directory(path, OFlag::O_NOFOLLOW) {
        Ok(directory) => directory,
        Err(Errno::ENOTDIR | Errno::ELOOP) => {
            let what = format!("{}: is a link or not a directory", path.display());
            return Err(Fault::new(what, "name the directory itself"));
        }
        Err(errno) => return Err(io_fault(path, &errno.into())),
    };
    check_directory(path, &directory)?;
    let mode = directory.metadata().map_err(|error| io_fault(path, &error))?.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(Fault::new(
            format!("{}: others may write into it (mode {mode:04o})", path.display()),
            format!("see what was put there, then chmod 700 {}", path.display()),
        ));
    }
    Ok(())
}

/// Checks that an open file can be trusted: a regular file, owned by root or us, that nobody else
/// may write. An error names the first check that failed and the command that fixes it.
pub fn check_open(path: &Path, file: &File) -> Result<(), Fault> {
    check_file(path, file, FileCheck::Trusted)
}

fn check_file(path: &Path, file: &File, check: FileCheck) -> Result<(), Fault> {
    let metadata = file.metadata().map_err(|error| io_fault(path, &error))?;
    let shown = path.display();
    let uid = metadata.uid();
    let mode = metadata.mode() & 0o7777;
    if metadata.is_dir() {
        return Err(io_fault(path, &io::ErrorKind::IsADirectory.into()));
    }
    if !metadata.is_file() {
        return Err(Fault::new(format!("{shown}: not a regular file"), "name a regular file"));
    }
    if !is_trusted(uid) {
        let what = format!("{shown}: belongs to uid {uid}, neither to root nor to you");
        return Err(Fault::new(what, format!("chown {} {shown}", geteuid())));
    }
    match check {
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

fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

pub(super) fn mode(path: &Path) -> Option<u32> {
    std::fs::metadata(path).ok().map(|metadata| metadata.mode() & 0o7777)
}

pub(super) fn make_private(options: &mut OpenOptions) {
    options.mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
}

pub(super) fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(mode))
}

pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

pub(super) fn lock(directory: &Path) -> io::Result<Flock<File>> {
    // The directory itself: a lock file would be one more file that can be tampered with.
    Flock::lock(File::open(directory)?, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
}

pub(super) fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path)
}
