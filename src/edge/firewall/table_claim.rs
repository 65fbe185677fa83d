//! One gateway per table and network namespace, by a lock on a file that only root can create.
//!
//! An abstract Unix socket would belong to the namespace and leave no file, but any user could take
//! its name first and so keep the gateway from starting. The lock binds only gateways that see the
//! same /run/toctoc. If two containers share a network but not this directory, each gateway's watch
//! reports that the other changes the table.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::core::types::{Fault, FaultKind};
use crate::edge::files::{self, FileLock, LockFault};

/// /run belongs to root, so only root can create this. A strict unit can write nowhere else in
/// /run.
const PLACE: &str = "/run/toctoc";
/// Another process may hold the lock only to ask who holds it.
const PATIENCE: Duration = Duration::from_millis(50);
const NAMESPACE: &str = "/proc/thread-self/ns/net";

/// Proof that no other gateway uses this table. The lock ends with the process in any case.
pub(super) struct TableClaim {
    _lock: FileLock,
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

    /// The running gateway that holds the lock for `table` in this thread's network namespace, as
    /// text.
    pub(super) fn holder(table: &str) -> Option<String> {
        let namespace = fs::metadata(NAMESPACE).ok()?;
        let path = Path::new(PLACE).join(format!("{table}-{}.lock", namespace.ino()));
        // A question must not make the file.
        match path.exists().then(|| files::lock(&path, Duration::ZERO))? {
            Err(LockFault::Held(by)) => Some(by),
            _ => None,
        }
    }

    fn claim_in(place: &Path, table: &str, namespace: u64) -> Result<TableClaim, Fault> {
        let path = place.join(format!("{table}-{namespace}.lock"));
        loop {
            let lock = match files::lock(&path, PATIENCE) {
                Ok(lock) => lock,
                Err(LockFault::Held(by)) => return Err(taken(table, &by)),
                Err(LockFault::Unusable(fault)) => return Err(unusable(&fault)),
            };
            // A gateway that ended in between may have removed the file: then nobody else sees our
            // lock.
            if lock.is_still_at(&path) {
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

fn taken(table: &str, by: &str) -> Fault {
    Fault::new(
        format!(
            "another toctocd already keeps the table `{table}` in this network namespace: {by}"
        ),
        "stop it, or give this one its own firewall.table",
    )
    .of(FaultKind::Held)
}

fn unusable(fault: &Fault) -> Fault {
    let what = format!("cannot lock the table against a second gateway: {}", fault.what);
    Fault::new(what, format!("{}; run toctocd as root, with a writable {PLACE}", fault.remedy))
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
