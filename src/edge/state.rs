//! Marks, grants and openings, durable: an append-only journal with checksums and one writer.
//!
//! A commit is one write at the end of the file and one fdatasync, then its mark, which the next
//! commit syncs. Measured on ext4: a file of blocks written beforehand is some 30 % quicker than
//! one that grows, and the second sync for the mark doubles the time; neither is worth what it
//! costs, so the file grows and the mark comes late (`journal` says why that is enough to tell a
//! torn tail from a loss).
//!
//! Only a commit waits for the disk. All other writing is jobs for another thread, and commits go
//! on meanwhile (`jobs`):
//! - What was deferred gets its place in the file before the job starts. A commit that comes first
//!   writes the same bytes there once more, in front of its own.
//! - A journal that has grown is written anew in three jobs: the sum of it into a second file; what
//!   was committed since then behind that; the second file's name. From the second job on each
//!   commit goes to both files, so whichever of them a crash leaves has all of it.

use std::fs::{File, OpenOptions};
use std::io;
use std::iter::once;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};

use super::files;
use crate::core::ledger::Ledger;
use crate::core::record::Record;
use crate::core::replay::StateOrigin;
use crate::core::types::{Fault, Wall};

mod disk;
mod jobs;
mod journal;

pub use disk::{Directory, Disk};
use jobs::{Appender, Outcome, Work};
pub use jobs::{StateDone, StateJob};

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
/// The most records that are kept for the next journal while it is written.
const CATCH_UP: usize = 1 << 16;
/// RAMFS_MAGIC of linux/magic.h; nix has no name for it.
const RAMFS: i64 = 0x8584_58f6;

#[derive(Debug)]
pub struct Recovered {
    pub ledger: Ledger,
    /// True if it is known that no mark is missing. If not, `ledger.lost()` says since when.
    pub intact: bool,
    /// If it is not intact: what is wrong and what to do, for log and status.
    pub why: Option<Fault>,
    /// For `Replay::restore`.
    pub standing: StateOrigin,
}

/// The state of one gateway. Its directory is locked as long as this lives.
pub struct State {
    shown: String,
    journal: Appender,
    /// The next journal: has the same batches or their sum. Each commit goes to both.
    next: Option<Appender>,
    /// While the next journal is written: what was committed since its sum was made.
    since: Option<Vec<Record>>,
    /// To be written with the next commit or by the next job.
    deferred: Vec<Record>,
    /// Was deferred, has its place in the file, and may not be durable yet.
    placed: Vec<Record>,
    is_busy: bool,
    /// The journal is written anew past this size.
    limit: u64,
    poisoned: bool,
    _lock: Option<Flock<File>>,
}

impl State {
    /// Opens the state in `directory`, which is made if it is not there. `now` names what is found
    /// to be lost. Waits for the disk. Fails if another gateway has it, or if it lies in memory
    /// only and `volatile_too` does not allow that. Lost records are no error: see [`Recovered`].
    pub fn open(
        directory: &Path,
        now: Wall,
        volatile_too: bool,
    ) -> Result<(State, Recovered), Fault> {
        files::make_directory(directory, 0o700)?;
        files::check_own_directory(directory)?;
        refuse_volatile(directory, volatile_too)?;
        let lock = lock(directory)?;
        let disk = Box::new(Directory::new(directory));
        State::open_on(disk, &directory.display().to_string(), now, Some(lock))
    }

    /// Refuses what [`State::open`] would not trust; changes nothing. No directory yet is fine.
    pub fn check(directory: &Path, volatile_too: bool) -> Result<(), Fault> {
        if let Err(error) = directory.symlink_metadata()
            && error.kind() == io::ErrorKind::NotFound
        {
            return Ok(());
        }
        files::check_own_directory(directory)?;
        refuse_volatile(directory, volatile_too)?;
        for name in [JOURNAL, NEXT, DAMAGED, USED, LOCK] {
            disk::check(&directory.join(name))?;
        }
        Ok(())
    }

    /// The state on another kind of disk, without a lock: for tests.
    pub fn on_disk(disk: Box<dyn Disk>, now: Wall) -> Result<(State, Recovered), Fault> {
        State::open_on(disk, "a disk", now, None)
    }

    fn open_on(
        disk: Box<dyn Disk>,
        shown: &str,
        now: Wall,
        lock: Option<Flock<File>>,
    ) -> Result<(State, Recovered), Fault> {
        let (journal, recovered) = jobs::reopen(disk, now, shown)?;
        let state = State {
            shown: shown.to_owned(),
            limit: limit_for(&journal),
            journal,
            next: None,
            since: None,
            deferred: Vec::new(),
            placed: Vec::new(),
            is_busy: false,
            poisoned: false,
            _lock: lock,
        };
        Ok((state, recovered))
    }

    /// Makes `records` durable, and what was deferred before them, all or none: one write, one
    /// sync. After an error nothing of it may be acted upon, and no commit succeeds before a
    /// [`State::reopen_job`]: what the disk holds is unknown. A too long record spoils nothing.
    pub fn commit(&mut self, records: &[Record]) -> Result<(), Fault> {
        if self.poisoned {
            let what = format!("state in {}: an earlier write failed", self.shown);
            return Err(Fault::new(
                what,
                "see the log for its reason; the gateway tries again by itself",
            ));
        }
        self.place(records)?;
        self.poisoned = true;
        self.write().map_err(|error| jobs::fault(&self.shown, "writing", error))?;
        self.poisoned = false;
        Ok(())
    }

    /// Queues `records` for the next commit or job, also over faults of these. Never waits.
    pub fn defer(&mut self, records: &[Record]) {
        for record in records {
            match record {
                // The newest time alone counts.
                Record::Newest { .. } => {
                    self.deferred.retain(|other| !matches!(other, Record::Newest { .. }));
                }
                // One that is too long would spoil every commit.
                record if record.encode(&mut Vec::new()).is_err() => continue,
                _ => {}
            }
            self.deferred.push(record.clone());
        }
    }

    /// True if something that was deferred is not durable yet.
    pub fn is_deferred(&self) -> bool {
        let mut files = once(&self.journal).chain(&self.next);
        !self.deferred.is_empty() || files.any(|file| !file.unsynced.is_empty())
    }

    /// True if no commit can succeed before a [`State::reopen_job`].
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    /// The job that is due now, if any. None while one is under way, or while poisoned.
    pub fn job(&mut self) -> Option<StateJob> {
        if self.poisoned || self.is_busy {
            return None;
        }
        let work = if self.is_deferred() {
            // What can be deferred can be encoded.
            self.place(&[]).ok()?;
            Work::Write(once(&self.journal).chain(&self.next).map(Appender::duplicate).collect())
        } else if self.next.is_some() {
            Work::Rename(self.journal.disk.duplicate())
        } else if self.journal.tail.at > self.limit {
            self.since = Some(Vec::new());
            Work::Sum(self.journal.duplicate())
        } else {
            return None;
        };
        self.is_busy = true;
        Some(StateJob { work, shown: self.shown.clone() })
    }

    /// The job that reads everything again after a fault. None while a job is under way.
    pub fn reopen_job(&mut self, now: Wall) -> Option<StateJob> {
        if self.is_busy {
            return None;
        }
        self.is_busy = true;
        self.poisoned = true;
        let work = Work::Reopen { disk: self.journal.disk.duplicate(), now };
        Some(StateJob { work, shown: self.shown.clone() })
    }

    /// Takes the result of a job, however late. `Some` after a reopen: commits succeed again.
    pub fn finish(&mut self, done: StateDone) -> Result<Option<Recovered>, Fault> {
        self.is_busy = false;
        match done.0 {
            Outcome::Written => self.synced(),
            Outcome::Summed(next) => self.catch_up(next)?,
            Outcome::Renamed => {
                if let Some(next) = self.next.take() {
                    self.limit = limit_for(&next);
                    self.journal = next;
                }
            }
            Outcome::Reopened(journal, recovered) => {
                self.limit = limit_for(&journal);
                self.journal = journal;
                self.next = None;
                self.since = None;
                self.deferred.splice(..0, self.placed.drain(..));
                self.poisoned = false;
                return Ok(Some(recovered));
            }
            // Until the rename the old journal goes on.
            Outcome::Harmless(fault) => {
                self.since = None;
                self.limit = self.journal.tail.at.saturating_mul(2);
                return Err(fault);
            }
            Outcome::Failed(fault) => {
                self.poisoned = true;
                return Err(fault);
            }
        }
        Ok(None)
    }

    /// Does every job that is due, in place. For a process in which nobody waits.
    pub fn maintain_now(&mut self) -> Result<(), Fault> {
        while let Some(job) = self.job() {
            self.finish(job.run())?;
        }
        Ok(())
    }

    /// Reads everything again after a commit failed, in place. An error leaves it without commits.
    pub fn reopen(&mut self, now: Wall) -> Result<Recovered, Fault> {
        let busy = || Fault::new("a job for the state is under way", "try again when it has ended");
        let job = self.reopen_job(now).ok_or_else(busy)?;
        self.finish(job.run())?.ok_or_else(busy)
    }

    /// Gives what was deferred, and `records` after it, their places at the ends of the files.
    fn place(&mut self, records: &[Record]) -> Result<(), Fault> {
        let all = [&self.deferred, records].concat();
        if all.is_empty() {
            return Ok(());
        }
        self.journal.add(&all)?;
        if let Some(next) = &mut self.next {
            next.add(&all)?;
        }
        self.placed.append(&mut self.deferred);
        if let Some(since) = &mut self.since {
            since.extend(all);
            if since.len() > CATCH_UP {
                self.since = None;
            }
        }
        Ok(())
    }

    /// Writes and syncs all that has a place; then the marks.
    fn write(&mut self) -> io::Result<()> {
        for file in once(&mut self.journal).chain(&mut self.next) {
            file.write()?;
        }
        for file in once(&mut self.journal).chain(&mut self.next) {
            file.mark()?;
        }
        self.synced();
        Ok(())
    }

    /// All that has a place is durable.
    fn synced(&mut self) {
        for file in once(&mut self.journal).chain(&mut self.next) {
            file.synced();
        }
        self.placed.clear();
    }

    /// The sum is written; what was committed since then is to follow it.
    fn catch_up(&mut self, mut next: Appender) -> Result<(), Fault> {
        match self.since.take() {
            // After a fault the journal is written anew in any case.
            _ if self.poisoned => {}
            Some(since) => {
                if !since.is_empty() {
                    next.add(&since)?;
                }
                self.next = Some(next);
            }
            // It took too long: later, then.
            None => self.limit = self.journal.tail.at.saturating_mul(2),
        }
        Ok(())
    }
}

/// The size past which a journal is written anew.
fn limit_for(journal: &Appender) -> u64 {
    COMPACT.max(journal.tail.at.saturating_mul(2))
}

/// What lies in memory only forgets every mark at a reboot: then recorded knocks would open again.
fn refuse_volatile(directory: &Path, volatile_too: bool) -> Result<(), Fault> {
    let shown = directory.display();
    let kind = statfs(directory)
        .map_err(|error| Fault::new(format!("{shown}: {error}"), "make it readable"))?
        .filesystem_type();
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
    options.create(true).truncate(false).write(true).mode(0o600);
    let file = options
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(&path)
        .map_err(|error| Fault::new(format!("{shown}: {error}"), "make its directory writable"))?;
    files::check_open(&path, &file)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, Errno::EWOULDBLOCK)) => Err(Fault::new(
            format!("{shown}: another gateway uses this state"),
            "stop it, or set another state_dir",
        )),
        Err((_, error)) => Err(Fault::new(
            format!("{shown}: {error}"),
            "put the state on a disk that can lock files",
        )),
    }
}

#[cfg(test)]
mod tests;
