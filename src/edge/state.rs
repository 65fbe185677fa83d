//! Durable storage of used-knock marks, grants and openings: an append-only journal with checksums
//! and one writer.
//!
//! A commit is one write at the end of the file and one fdatasync, then a commit mark, which the
//! next commit syncs. Measured on ext4: writing into preallocated blocks is some 30 % faster than
//! growing the file, and a second sync for the mark doubles the time. Neither is worth its cost, so
//! the file grows and the mark comes late. See `journal` for why that suffices to tell a torn tail
//! from a loss.
//!
//! Only a commit waits for the disk. All other writing is jobs for another thread, and commits go
//! on meanwhile (`jobs`):
//!
//! - Deferred records get their place in the file before the job starts. A commit that comes first
//!   writes the same bytes there once more, before its own.
//! - A grown journal is rewritten in three jobs: its compacted content goes into a second file; the
//!   records committed since then are appended; the second file is renamed. From the second job on
//!   each commit goes to both files, so either file is complete after a crash.

use std::io;
use std::iter::once;
use std::path::Path;
use std::time::Duration;

use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};

use super::files::{self, FileLock, LockFault};
use crate::core::ledger::Ledger;
use crate::core::record::Record;
use crate::core::replay::StateOrigin;
use crate::core::types::{Fault, FaultKind, Wall};

mod disk;
mod jobs;
mod journal;

pub use disk::{Directory, Disk};
use jobs::{Appender, Outcome, Work};
pub use jobs::{StateDone, StateJob};

const JOURNAL: &str = "journal";
const NEXT: &str = "journal.new";
/// The last damaged journal, kept for inspection.
const DAMAGED: &str = "journal.damaged";
/// The file that records that this host has had a journal, so that a missing one is noticed.
const USED: &str = "used";
const LOCK: &str = "lock";
/// Bytes. A journal is rewritten beyond this size, and when it is at least twice its initial size.
const COMPACT: u64 = 4 << 20;
/// Bytes that a journal may grow before it is rewritten, however long it is.
const GROWTH: u64 = 64 << 20;
/// The most records kept for the next journal while it is being written.
const CATCH_UP: usize = 1 << 16;
/// RAMFS_MAGIC from linux/magic.h; nix does not define it.
const RAMFS: FsType = FsType(0x8584_58f6);

#[derive(Debug)]
pub struct Recovered {
    pub ledger: Ledger,
    /// True if certainly no used-knock mark is missing. Otherwise `ledger.lost()` is the time of
    /// the loss.
    pub intact: bool,
    /// The loss and its remedy, for log and status; `None` if intact.
    pub why: Option<Fault>,
    pub standing: StateOrigin,
}

/// The state of one gateway. Its directory is locked while this exists.
pub struct State {
    shown: String,
    journal: Appender,
    /// The next journal, with the same batches or their compacted form. Each commit goes to both.
    next: Option<Appender>,
    /// The records committed since the compaction began; `None` when no journal is being rewritten.
    since: Option<Vec<Record>>,
    /// Records for the next commit or job.
    deferred: Vec<Record>,
    /// Deferred records that have their place in the file but may not be durable yet.
    placed: Vec<Record>,
    is_busy: bool,
    /// The size, in bytes, beyond which the journal is rewritten.
    limit: u64,
    poisoned: bool,
    _lock: Option<FileLock>,
}

impl State {
    /// Opens the state in `directory`, which is created if missing. `now` is the time of a loss
    /// found here; where clients are `enrolled`, a missing journal is one. Waits for the disk.
    /// Fails if another gateway has locked it, or if it is in memory only and `volatile_too` is
    /// false. Lost records are no error: see [`Recovered`].
    pub fn open(
        directory: &Path, now: Wall, volatile_too: bool, enrolled: bool,
    ) -> Result<(State, Recovered), Fault> {
        files::make_directory(directory, 0o700)?;
        files::check_own_directory(directory)?;
        refuse_volatile(directory, volatile_too)?;
        let lock = lock(directory)?;
        let disk = Box::new(Directory::new(directory));
        State::open_on(disk, &directory.display().to_string(), now, enrolled, Some(lock))
    }

    /// True if there is a state in `directory`, or was one.
    pub fn exists(directory: &Path) -> bool {
        [JOURNAL, USED].iter().any(|name| directory.join(name).symlink_metadata().is_ok())
    }

    /// Makes the first state of a gateway that has no clients yet, so that a later start can tell a
    /// new gateway from a lost state. Does nothing if there is or was one.
    pub fn create(directory: &Path, now: Wall) -> Result<(), Fault> {
        if State::exists(directory) {
            return Ok(());
        }
        // The start checks whether it is on a disk.
        State::open(directory, now, true, false).map(drop)
    }

    /// Fails if [`State::open`] would not trust this directory; changes nothing. It need not exist
    /// yet.
    pub fn check(directory: &Path, volatile_too: bool) -> Result<(), Fault> {
        if let Err(error) = directory.symlink_metadata()
            && error.kind() == io::ErrorKind::NotFound
        {
            let existing = directory.ancestors().find(|above| above.exists());
            return refuse_volatile(existing.unwrap_or(Path::new("/")), volatile_too);
        }
        files::check_own_directory(directory)?;
        refuse_volatile(directory, volatile_too)?;
        for name in [JOURNAL, NEXT, DAMAGED, USED, LOCK] {
            disk::check(&directory.join(name))?;
        }
        Ok(())
    }

    /// The records of the state in `directory`, without a lock and without a change; `None` if
    /// there is none. Fails if it cannot be trusted or records are lost.
    pub fn read(directory: &Path) -> Result<Option<Vec<Record>>, Fault> {
        let shown = directory.display().to_string();
        if directory.symlink_metadata().is_err() {
            return Ok(None);
        }
        files::check_own_directory(directory)?;
        let file = Directory::new(directory).read(JOURNAL);
        let Some(file) = file.map_err(|error| jobs::fault(&shown, "reading", error))? else {
            return Ok(None);
        };
        let contents = journal::read(&file);
        match contents.damage {
            None => Ok(Some(contents.records)),
            Some(damage) => Err(Fault::new(
                format!("{shown}/{JOURNAL}: {damage}"),
                "the next start keeps it for inspection",
            )),
        }
    }

    /// The process that has locked the state in `directory`, as text.
    pub fn holder(directory: &Path) -> Option<String> {
        files::holder(&directory.join(LOCK))
    }

    /// The state on another kind of disk, without a lock: for tests.
    pub fn on_disk(
        disk: Box<dyn Disk>, now: Wall, enrolled: bool,
    ) -> Result<(State, Recovered), Fault> {
        State::open_on(disk, "a disk", now, enrolled, None)
    }

    fn open_on(
        disk: Box<dyn Disk>, shown: &str, now: Wall, enrolled: bool, lock: Option<FileLock>,
    ) -> Result<(State, Recovered), Fault> {
        let (journal, recovered) = jobs::reopen(disk, now, shown, enrolled)?;
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

    /// Makes the deferred records and then `records` durable, all or none: one write, one sync.
    /// After an error the disk's content is unknown: act on none of them. No commit succeeds then
    /// before a [`State::reopen_job`]. A record that is too long fails without that consequence.
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

    /// Queues `records` for the next commit or job; they survive faults. Never waits.
    pub fn defer(&mut self, records: &[Record]) {
        for record in records {
            match record {
                // Only the newest time counts.
                Record::Newest { .. } => {
                    self.deferred.retain(|other| !matches!(other, Record::Newest { .. }));
                }
                // A record that is too long would fail every commit.
                record if record.encode(&mut Vec::new()).is_err() => continue,
                _ => {}
            }
            self.deferred.push(record.clone());
        }
    }

    /// True if a deferred record is not durable yet.
    pub fn is_deferred(&self) -> bool {
        let mut files = once(&self.journal).chain(&self.next);
        !self.deferred.is_empty() || files.any(|file| !file.unsynced.is_empty())
    }

    /// True if no commit can succeed before a [`State::reopen_job`].
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    /// The job that is due now, if any. None while another one runs, or while poisoned.
    pub fn job(&mut self) -> Option<StateJob> {
        if self.poisoned || self.is_busy {
            return None;
        }
        // Deferred records have no place only if the journal is as long as it may be. Then it must
        // be rewritten.
        let work = if self.is_deferred() && self.place(&[]).is_ok() {
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

    /// The job that reads everything again after a fault. None while another one runs.
    pub fn reopen_job(&mut self, now: Wall) -> Option<StateJob> {
        if self.is_busy {
            return None;
        }
        self.is_busy = true;
        self.poisoned = true;
        let work = Work::Reopen { disk: self.journal.disk.duplicate(), now };
        Some(StateJob { work, shown: self.shown.clone() })
    }

    /// Takes the result of a job, however late. Returns `Some` after a reopen: commits succeed
    /// again.
    pub fn finish(&mut self, done: StateDone) -> Result<Option<Recovered>, Fault> {
        self.is_busy = false;
        match *done.0 {
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
                return Ok(Some(*recovered));
            }
            // The old journal stays in use until the rename.
            Outcome::Harmless(fault) => {
                self.since = None;
                self.limit = limit_for(&self.journal);
                return Err(fault);
            }
            Outcome::Failed(fault) => {
                self.poisoned = true;
                return Err(fault);
            }
        }
        Ok(None)
    }

    /// Runs every due job in place. For a process that may wait.
    pub fn maintain_now(&mut self) -> Result<(), Fault> {
        while let Some(job) = self.job() {
            self.finish(job.run())?;
        }
        Ok(())
    }

    /// Reads everything again in place after a failed commit. After an error no commit can succeed.
    pub fn reopen(&mut self, now: Wall) -> Result<Recovered, Fault> {
        let busy = || Fault::new("a job for the state is under way", "try again when it has ended");
        let job = self.reopen_job(now).ok_or_else(busy)?;
        self.finish(job.run())?.ok_or_else(busy)
    }

    /// Gives the deferred records, then `records`, their places at the ends of the files.
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

    /// Writes and syncs everything that has a place, then writes the commit marks.
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

    /// Notes that everything that has a place is durable.
    fn synced(&mut self) {
        for file in once(&mut self.journal).chain(&mut self.next) {
            file.synced();
        }
        self.placed.clear();
    }

    /// Appends the records committed since the compaction began.
    fn catch_up(&mut self, mut next: Appender) -> Result<(), Fault> {
        match self.since.take() {
            // After a fault the journal is rewritten in any case.
            _ if self.poisoned => {}
            Some(since) => {
                if !since.is_empty() {
                    next.add(&since)?;
                }
                self.next = Some(next);
            }
            // Too many records came in the meantime: retry later.
            None => self.limit = limit_for(&self.journal),
        }
        Ok(())
    }
}

/// The size beyond which this journal is rewritten: twice its own, or as much as a long one may
/// grow.
fn limit_for(journal: &Appender) -> u64 {
    let at = journal.tail.at;
    COMPACT.max(at.saturating_mul(2).min(at.saturating_add(GROWTH)))
}

/// Refuses a directory in memory: a reboot would lose every used-knock mark, and recorded knocks
/// would open again.
fn refuse_volatile(directory: &Path, volatile_too: bool) -> Result<(), Fault> {
    let shown = directory.display();
    let kind = statfs(directory)
        .map_err(|error| Fault::new(format!("{shown}: {error}"), "make it readable"))?
        .filesystem_type();
    if volatile_too || (kind != TMPFS_MAGIC && kind != RAMFS) {
        return Ok(());
    }
    let what = format!(
        "{shown}: lies in memory (tmpfs), so a reboot would make recorded knocks usable again"
    );
    Err(Fault::new(what, "set state_dir to a directory on a disk"))
}

fn lock(directory: &Path) -> Result<FileLock, Fault> {
    let path = directory.join(LOCK);
    match files::lock(&path, Duration::ZERO) {
        Ok(lock) => Ok(lock),
        Err(LockFault::Unusable(fault)) => Err(fault),
        Err(LockFault::Held(by)) => Err(Fault::new(
            format!("{}: another gateway uses this state: {by}", path.display()),
            "stop it, or set another state_dir",
        )
        .of(FaultKind::Held)),
    }
}

#[cfg(test)]
mod tests;
