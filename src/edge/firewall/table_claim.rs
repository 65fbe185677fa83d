//! One gateway per table and network namespace, by a lock on a file that only root can create.
//!
//! An abstract Unix socket would belong to the namespace and leave no file, but any user could take
//! its name first and so keep the gateway from starting. The lock binds only gateways that see the
//! same /run/toctoc. If two containers share a network but not this directory, each gateway's watch
//! reports that the other changes the table.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::core::types::Fault;
use crate::edge::files;

/// /run belongs to root, so only root can create this. A strict unit can write nowhere else in
/// /run.
const PLACE: &str = "/run/toctoc";
const NAMESPACE: &str = "/proc/thread-self/ns/net";

/// Proof that no other gateway uses this table. The lock ends with the process in any case.
pub(super) struct TableClaim {
    _lock: Flock<File>,
    path: PathBuf,
}

impl TableClaim {
    /// Takes the lock for `table` in this thread's network namespace.
    pub(super) fn claim(table: &str) -> Result<TableClaim, Fault> {
        let namespace = fs::metadata(NAMESPACE).map_err(|error| {
            let what = format!("{NAMESPACE}: {error}");
            Fault::new(what, "is /proc mounted, and this a Linux with namespaces?")
        })?;
        files::make_directory(Path::new(PLACE), 0o700)?;
        files::check_own_directory(Path::new(PLACE))?;
        TableClaim::claim_in(Path::new(PLACE), table, namespace.ino())
    }

    fn claim_in(place: &Path, table: &str, namespace: u64) -> Result<TableClaim, Fault> {
        let path = place.join(format!("{table}-{namespace}.lock"));
        loop {
            let file = open(&path).map_err(|error| unusable(&path, &error))?;
            files::check_open(&path, &file)?;
            let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => lock,
                Err((_, Errno::EWOULDBLOCK)) => return Err(taken(&path, table)),
                Err((_, error)) => return Err(unusable(&path, &error.into())),
            };
            // A gateway that ended in between may have removed the file: then nobody else sees our
            // lock.
            if is_still(&path, &lock) {
                return Ok(TableClaim { _lock: lock, path });
            }
        }
    }
}

impl Drop for TableClaim {
    fn drop(&mut self) {
        // Still under the lock. A file left behind after SIGKILL does no harm.
        let _ = fs::remove_file(&self.path);
    }
}

fn open(path: &Path) -> io::Result<File> {
    // O_NONBLOCK: opening a FIFO in its place must not block.
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    options.custom_flags(flags).open(path)
}

/// True if `path` still names this file.
fn is_still(path: &Path, file: &File) -> bool {
    match (fs::symlink_metadata(path), file.metadata()) {
        (Ok(named), Ok(held)) => (named.dev(), named.ino()) == (held.dev(), held.ino()),
        _ => false,
    }
}

fn taken(path: &Path, table: &str) -> Fault {
    Fault::new(
        format!("another toctocd already keeps the table `{table}` in this network namespace"),
        format!(
            "stop it, or give this one its own firewall.table; `fuser {}` shows who it is",
            path.display()
        ),
    )
}

fn unusable(path: &Path, error: &io::Error) -> Fault {
    Fault::new(
        format!("{}: cannot lock the table against a second gateway: {error}", path.display()),
        "run toctocd as root, with a writable /run/toctoc",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn one_gateway_a_table_and_namespace_and_the_next_one_when_it_ends() {
        let place = tempfile::tempdir().unwrap();
        let first = TableClaim::claim_in(place.path(), "toctoc", 1).unwrap();
        let second = TableClaim::claim_in(place.path(), "toctoc", 1).err().unwrap();
        assert!(
            second.what.contains("another toctocd already keeps the table `toctoc`"),
            "{second}"
        );
        let _other_table = TableClaim::claim_in(place.path(), "other", 1).unwrap();
        let _other_namespace = TableClaim::claim_in(place.path(), "toctoc", 2).unwrap();
        drop(first);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2, "and nothing is left of it");
        TableClaim::claim_in(place.path(), "toctoc", 1).unwrap();
    }

    #[test]
    fn what_a_killed_gateway_left_is_in_nobodys_way() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("toctoc-1.lock"), "").unwrap();
        TableClaim::claim_in(place.path(), "toctoc", 1).unwrap();
    }

    #[test]
    fn what_a_stranger_could_have_put_there_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("toctoc-1.lock");
        let refused = || TableClaim::claim_in(place.path(), "toctoc", 1).is_err();
        let target = place.path().join("shadow");
        fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(refused(), "a link");
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        assert!(refused(), "a FIFO");
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(refused(), "a file that others can write");
    }
}
