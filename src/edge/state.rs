//! Marks and leases, durable: an append-only journal with checksums, one writer, group commit.
//! What the records mean is left to `core`.
//!
//! A commit is one write at the end of the file and one fdatasync, then its mark, which the next
//! commit syncs. Measured on ext4: a file of blocks written beforehand is some 30 % quicker than
//! one that grows, and the second sync for the mark doubles the time; neither is worth what it
//! costs, so the file grows and the mark comes late (`journal` says why that is enough to tell a
//! torn tail from a loss).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use blake2::{Blake2s256, Digest};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};

use super::files;
use crate::core::ledger::Ledger;
use crate::core::record::Record;
use crate::core::replay::StateOrigin;
use crate::core::types::{Fault, Wall};

mod disk;
mod journal;

pub use disk::{Directory, Disk};
use journal::Tail;

const JOURNAL: &str = "journal";
/// The next journal while it is written.
const NEXT: &str = "journal.new";
/// The last journal that was found damaged, kept for people.
const DAMAGED: &str = "journal.damaged";
/// Says that this host has had a journal, so that one that is missing is missed.
const USED: &str = "used";
const LOCK: &str = "lock";
/// The journal is written anew when it is this large, and at least twice what it started with.
const COMPACT: u64 = 4 << 20;
/// RAMFS_MAGIC of linux/magic.h; nix has no name for it.
const RAMFS: i64 = 0x8584_58f6;

/// What a start found.
#[derive(Debug)]
pub struct Recovered {
    /// All that still counts.
    pub ledger: Ledger,
    /// Whether it is known that no mark is missing. If not, `ledger.lost()` says since when.
    pub intact: bool,
    /// If it is not intact: what is wrong and what to do, for log and status.
    pub why: Option<Fault>,
    /// For `Replay::restore`.
    pub standing: StateOrigin,
}

/// The state of one gateway. Its directory is locked as long as this lives.
pub struct State<D = Directory> {
    disk: D,
    shown: String,
    tail: Tail,
    /// The journal is compacted past this size.
    limit: u64,
    poisoned: bool,
    _lock: Option<Flock<File>>,
}

impl State {
    /// Opens the state in `directory`, which is made if it is not there. `now` names what is found
    /// to be lost.
    ///
    /// # Errors
    /// If another gateway has it, if it lies in memory only and `volatile_too` does not allow that,
    /// or if it cannot be read or written. Lost records are not an error: the gateway then runs on
    /// challenges, see [`Recovered`].
    pub fn open(
        directory: &Path,
        now: Wall,
        volatile_too: bool,
    ) -> Result<(State, Recovered), Fault> {
        files::make_directory(directory, 0o700)?;
        files::check_own_directory(directory)?;
        refuse_volatile(directory, volatile_too)?;
        let lock = lock(directory)?;
        State::open_on(Directory::new(directory), &directory.display().to_string(), now, Some(lock))
    }

    /// Whether [`State::open`] would believe what is there; changes nothing. A directory that is
    /// not there yet is fine.
    ///
    /// # Errors
    /// Somebody else could have written it, or it lies in memory only.
    pub fn check(directory: &Path, volatile_too: bool) -> Result<(), Fault> {
        if directory.symlink_metadata().is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            return Ok(());
        }
        files::check_own_directory(directory)?;
        refuse_volatile(directory, volatile_too)?;
        [JOURNAL, NEXT, DAMAGED, USED, LOCK]
            .iter()
            .try_for_each(|name| disk::check(&directory.join(name)))
    }
}

impl<D: Disk> State<D> {
    /// The state on another kind of disk, without a lock: for those who try what a disk can do to
    /// it.
    ///
    /// # Errors
    /// As for [`State::open`].
    pub fn on_disk(disk: D, now: Wall) -> Result<(State<D>, Recovered), Fault> {
        State::open_on(disk, "a disk", now, None)
    }

    fn open_on(
        disk: D,
        shown: &str,
        now: Wall,
        lock: Option<Flock<File>>,
    ) -> Result<(State<D>, Recovered), Fault> {
        let (_, tail) = journal::fresh([0; 16], &[])?;
        let mut state =
            State { disk, shown: shown.to_owned(), tail, limit: 0, poisoned: true, _lock: lock };
        let recovered = state.reopen(now)?;
        Ok((state, recovered))
    }

    /// Makes `records` durable, all or none: one write, one sync.
    ///
    /// # Errors
    /// After an error nothing of it may be acted upon, and no commit succeeds before
    /// [`State::reopen`]: what the disk then holds cannot be known.
    pub fn commit(&mut self, records: &[Record]) -> Result<(), Fault> {
        if self.poisoned {
            return Err(self.fault(
                "an earlier write failed",
                "see the log for its reason; the gateway tries again by itself",
            ));
        }
        let (batch, tail) = self.tail.batch(records)?;
        self.poisoned = true;
        let written = self.disk.write_at(self.tail.at, &batch).and_then(|()| self.disk.sync());
        let marked =
            written.and_then(|()| self.disk.write_at(as_u64(tail.mark_place()), &tail.mark()));
        marked.map_err(|error| self.io("writing", &error))?;
        self.tail = tail;
        self.poisoned = false;
        if self.tail.at > self.limit {
            self.compact();
        }
        Ok(())
    }

    /// Reads everything again after a commit failed, and goes on if that succeeds.
    ///
    /// # Errors
    /// As for [`State::open`]; the state stays as it was, without commits.
    pub fn reopen(&mut self, now: Wall) -> Result<Recovered, Fault> {
        self.poisoned = true;
        let used = self.disk.read(USED).map_err(|error| self.io("reading", &error))?.is_some();
        let file = self.disk.read(JOURNAL).map_err(|error| self.io("reading", &error))?;
        let first = file.is_none() && !used;
        let (mut ledger, damage) = match &file {
            Some(file) => read(file),
            None => (Ledger::default(), used.then_some("it is missing, and this host had one")),
        };
        if let (Some(_), Some(file)) = (damage, &file) {
            self.disk
                .write_new(DAMAGED, file)
                .map_err(|error| self.io("keeping the damaged journal", &error))?;
        }
        if damage.is_some() {
            ledger.apply(&Record::Lost { at: now });
        }
        // Written anew at every start: so what is read from here on is what the disk has, not what
        // a cache had before a sync failed; and a torn tail is gone for good.
        self.replace(&ledger, file.as_deref().unwrap_or_default(), now)
            .map_err(|error| self.io("writing", &error))?;
        if !used {
            self.disk
                .write_new(USED, b"This host has had a state: if it is missing, marks are lost.\n")
                .and_then(|()| self.disk.sync_directory())
                .map_err(|error| self.io("writing", &error))?;
        }
        self.poisoned = false;
        let why = ledger.lost().map(|_| self.loss(damage));
        let standing = if first { StateOrigin::First } else { StateOrigin::Found };
        Ok(Recovered { intact: why.is_none(), why, standing, ledger })
    }

    /// Whether no commit can succeed before [`State::reopen`].
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    /// Writes the journal anew without what no longer counts. Nothing is lost if it fails: until
    /// the rename the old file goes on; after it, both names mean a file that holds every mark, but
    /// which one a crash would leave is open: so no commits.
    fn compact(&mut self) {
        self.limit = self.tail.at.saturating_mul(2);
        let Ok(Some(file)) = self.disk.read(JOURNAL) else { return };
        let (ledger, damage) = read(&file);
        if damage.is_some() {
            self.poisoned = true;
        } else if self.replace(&ledger, &file, ledger.newest()).is_ok() {
            self.poisoned = false;
        }
    }

    /// Puts a journal of `ledger` in the place of the present one.
    fn replace(&mut self, ledger: &Ledger, before: &[u8], now: Wall) -> io::Result<()> {
        let salt = salt(before, now);
        let (file, tail) = journal::fresh(salt, &ledger.records())
            .map_err(|fault| io::Error::other(fault.what))?;
        self.disk.write_new(NEXT, &file)?;
        self.poisoned = true;
        self.disk.rename(NEXT, JOURNAL)?;
        self.disk.sync_directory()?;
        self.disk.open(JOURNAL)?;
        self.tail = tail;
        self.limit = COMPACT.max(tail.at.saturating_mul(2));
        Ok(())
    }

    fn loss(&self, damage: Option<&str>) -> Fault {
        let how = damage.unwrap_or("records were lost, and nobody has accepted that yet");
        let what = format!("{}/{JOURNAL}: {how}: knocks open by challenge only", self.shown);
        Fault::new(
            what,
            "find out how it came to that, then accept the loss with `toctocd reinitialise`",
        )
    }

    fn io(&self, doing: &str, error: &io::Error) -> Fault {
        let remedy = match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOSPC | Errno::EDQUOT) => {
                "make room on that disk; nothing opens until it can be written"
            }
            _ => "look after that disk; nothing opens until it can be read and written",
        };
        self.fault(&format!("{doing}: {error}"), remedy)
    }

    fn fault(&self, what: &str, remedy: &str) -> Fault {
        Fault::new(format!("state in {}: {what}", self.shown), remedy)
    }
}

fn read(file: &[u8]) -> (Ledger, Option<&'static str>) {
    let reading = journal::read(file);
    (Ledger::of(&reading.records), reading.damage)
}

/// Differs from every earlier file's: it depends on all that the one before held, and on the time.
fn salt(before: &[u8], now: Wall) -> [u8; 16] {
    let sum = Blake2s256::new().chain_update(now.0.to_be_bytes()).chain_update(before).finalize();
    let mut salt = [0; 16];
    salt.iter_mut().zip(sum).for_each(|(to, from)| *to = from);
    salt
}

fn as_u64(place: usize) -> u64 {
    u64::try_from(place).unwrap_or(u64::MAX)
}

/// What lies in memory only forgets every mark at a reboot: then recorded knocks would open again.
fn refuse_volatile(directory: &Path, volatile_too: bool) -> Result<(), Fault> {
    let shown = directory.display();
    let kind = statfs(directory)
        .map_err(|error| Fault::new(format!("{shown}: {error}"), "make it readable"))?;
    let kind = kind.filesystem_type();
    if volatile_too || (kind != TMPFS_MAGIC && kind != FsType(RAMFS)) {
        return Ok(());
    }
    let what = format!(
        "{shown}: lies in memory (tmpfs), so a reboot would make recorded knocks usable again"
    );
    Err(Fault::new(what, "set state_dir to a directory on a disk"))
}

fn lock(directory: &Path) -> Result<Flock<File>, Fault> {
    let path = directory.join(LOCK);
    let shown = path.display();
    let mut options = OpenOptions::new();
    options
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW);
    let file = options
        .open(&path)
        .map_err(|e| Fault::new(format!("{shown}: {e}"), "make its directory writable"))?;
    files::check_open(&path, &file)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        Errno::EWOULDBLOCK => Fault::new(
            format!("{shown}: another gateway uses this state"),
            "stop it, or set another state_dir",
        ),
        error => {
            Fault::new(format!("{shown}: {error}"), "put the state on a disk that can lock files")
        }
    })
}

#[cfg(test)]
mod tests;
