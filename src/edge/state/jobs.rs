//! The writing outside commits, as jobs for another thread, and the reading at a start.

use std::io;

use super::disk::{self, Disk, LIMIT};
use super::journal::{self, Tail};
use super::{DAMAGED, JOURNAL, NEXT, Recovered, USED};
use crate::core::ledger::Ledger;
use crate::core::record::Record;
use crate::core::replay::StateOrigin;
use crate::core::types::{Fault, Wall};

pub(super) struct Appender {
    pub(super) disk: Box<dyn Disk>,
    pub(super) tail: Tail,
    /// The last batches, which may not be durable yet.
    pub(super) unsynced: Vec<u8>,
    from: u64,
}

impl Appender {
    fn new(disk: Box<dyn Disk>, tail: Tail) -> Appender {
        Appender { disk, tail, unsynced: Vec::new(), from: tail.at }
    }

    pub(super) fn duplicate(&self) -> Appender {
        let disk = self.disk.duplicate();
        Appender { disk, tail: self.tail, unsynced: self.unsynced.clone(), from: self.from }
    }

    /// Adds a batch after the ones that are not durable yet. An error adds nothing.
    pub(super) fn add(&mut self, records: &[Record]) -> Result<(), Fault> {
        let (batch, tail) = self.tail.batch(records)?;
        if tail.at > LIMIT {
            return Err(Fault::new(
                format!("the state would be longer than {} MiB", LIMIT >> 20),
                "see in the log why it is not compacted",
            ));
        }
        self.unsynced.extend(batch);
        self.tail = tail;
        Ok(())
    }

    pub(super) fn write(&mut self) -> io::Result<()> {
        self.disk.write_at(self.from, &self.unsynced)?;
        self.disk.sync()
    }

    pub(super) fn synced(&mut self) {
        self.unsynced.clear();
        self.from = self.tail.at;
    }

    /// Writes the commit mark of the last durable batch.
    pub(super) fn mark(&mut self) -> io::Result<()> {
        self.disk.write_at(self.tail.mark_place() as u64, &self.tail.mark())
    }
}

/// Work on the state's files, for a thread that may wait.
pub struct StateJob {
    pub(super) work: Work,
    pub(super) shown: String,
}

pub(super) enum Work {
    Write(Vec<Appender>),
    /// Write the compacted content of this journal, up to its tail, into the next one.
    Sum(Appender),
    Rename(Box<dyn Disk>),
    Reopen {
        disk: Box<dyn Disk>,
        now: Wall,
    },
}

/// The result of a job, for [`super::State::finish`].
pub struct StateDone(pub(super) Box<Outcome>);

pub(super) enum Outcome {
    Written,
    Summed(Appender),
    Renamed,
    Reopened(Appender, Box<Recovered>),
    /// The job failed; the journal is intact.
    Harmless(Fault),
    /// The job failed; the disk's content is unknown.
    Failed(Fault),
}

impl StateJob {
    /// True if it reads a whole journal.
    pub fn reads_all(&self) -> bool {
        matches!(self.work, Work::Sum(_) | Work::Reopen { .. })
    }

    /// Runs the job and waits for the disk.
    pub fn run(self) -> StateDone {
        let shown = self.shown;
        StateDone(Box::new(match self.work {
            Work::Write(files) => match files.into_iter().try_for_each(|mut file| file.write()) {
                Ok(()) => Outcome::Written,
                Err(error) => Outcome::Failed(fault(&shown, "writing", error)),
            },
            Work::Sum(journal) => sum_up(journal, &shown),
            Work::Rename(mut disk) => match rename(&mut *disk) {
                Ok(()) => Outcome::Renamed,
                // A crash now could leave either of the two files.
                Err(error) => Outcome::Failed(fault(&shown, "writing", error)),
            },
            // This process had a state, so it cannot be the first one.
            Work::Reopen { disk, now } => match reopen(disk, now, &shown, true) {
                Ok((journal, recovered)) => Outcome::Reopened(journal, Box::new(recovered)),
                Err(fault) => Outcome::Failed(fault),
            },
        }))
    }
}

fn sum_up(journal: Appender, shown: &str) -> Outcome {
    let mut disk = journal.disk;
    let file = match disk.read(JOURNAL) {
        Ok(file) => file.unwrap_or_default(),
        Err(error) => return Outcome::Harmless(fault(shown, "reading", error)),
    };
    let Some(records) = journal::read_up_to(&file, &journal.tail) else {
        let what = format!("state in {shown}: {JOURNAL} cannot be read back as it was written");
        return Outcome::Failed(Fault::new(
            what,
            "check that disk; the gateway reads it again by itself",
        ));
    };
    let ledger = Ledger::of(&records);
    match write_next(&mut *disk, &ledger, &file, ledger.newest()) {
        Ok(tail) => match disk.open(NEXT) {
            Ok(()) => Outcome::Summed(Appender::new(disk, tail)),
            Err(error) => Outcome::Harmless(fault(shown, "writing", error)),
        },
        Err(error) => Outcome::Harmless(fault(shown, "writing", error)),
    }
}

/// Writes a journal with the content of `ledger` under the name of the next one.
fn write_next(disk: &mut dyn Disk, ledger: &Ledger, before: &[u8], now: Wall) -> io::Result<Tail> {
    let (file, tail) =
        journal::fresh(salt(before, now), &ledger.records()).map_err(io::Error::other)?;
    if tail.at > LIMIT {
        return Err(io::Error::other("it would be longer than any state may be"));
    }
    disk.write_new(NEXT, &file)?;
    Ok(tail)
}

fn rename(disk: &mut dyn Disk) -> io::Result<()> {
    disk.rename(NEXT, JOURNAL)?;
    disk.sync_directory()
}

/// Reads the journal, keeps a copy if it is damaged, and rewrites it. Clients that are `enrolled`
/// have had a journal: without it, what they have used is lost.
///
/// Every start rewrites it. So later reads return the disk's content, not a cache's from before a
/// failed sync, and a torn tail is gone.
pub(super) fn reopen(
    mut disk: Box<dyn Disk>, now: Wall, shown: &str, enrolled: bool,
) -> Result<(Appender, Recovered), Fault> {
    let reading = |error| fault(shown, "reading", error);
    let writing = |error| fault(shown, "writing", error);
    let was_used = disk.read(USED).map_err(reading)?.is_some();
    let file = disk.read(JOURNAL).map_err(reading)?;
    let (mut ledger, damage) = match &file {
        Some(file) => {
            let reading = journal::read(file);
            (Ledger::of(&reading.records), reading.damage)
        }
        None if was_used => (Ledger::default(), Some("it is missing, and this host had one")),
        None if enrolled => (Ledger::default(), Some(NONE_YET)),
        None => (Ledger::default(), None),
    };
    // A journal that no start has used yet counts as none.
    let is_first = damage.is_none() && !enrolled && ledger == Ledger::default();
    if damage.is_some() {
        if let Some(file) = &file {
            let keeping = |error| fault(shown, "keeping the damaged journal", error);
            disk.write_new(DAMAGED, file).map_err(keeping)?;
        }
        ledger.apply(&Record::Lost { at: now });
    }
    let before = file.as_deref().unwrap_or_default();
    let tail = write_next(&mut *disk, &ledger, before, now).map_err(writing)?;
    rename(&mut *disk).map_err(writing)?;
    disk.open(JOURNAL).map_err(writing)?;
    if !was_used {
        let text = b"This host has had a state: if it is missing, marks are lost.\n";
        disk.write_new(USED, text).map_err(writing)?;
        disk.sync_directory().map_err(writing)?;
    }
    let why = ledger.lost().map(|_| loss(shown, damage));
    let standing = if is_first { StateOrigin::First } else { StateOrigin::Found };
    let recovered = Recovered { intact: why.is_none(), why, standing, ledger };
    Ok((Appender::new(disk, tail), recovered))
}

/// What is wrong if there is no trace of an earlier state although clients are enrolled.
const NONE_YET: &str = "there is none although clients are enrolled";

/// A salt that no earlier file has: it depends on the whole content of the last file, and on the
/// time.
fn salt(before: &[u8], now: Wall) -> [u8; 16] {
    journal::sum(&[&now.0.to_be_bytes(), before])
}

fn loss(shown: &str, damage: Option<&str>) -> Fault {
    let how = damage.unwrap_or("records were lost, and nobody has accepted that yet");
    let what = format!("{shown}/{JOURNAL}: {how}: knocks open by challenge only");
    let remedy = match damage {
        Some(NONE_YET) => {
            "put state_dir on a disk or volume that outlives the gateway; on a new host accept it \
             with `toctocd reinitialise`"
        }
        _ => "find out how it came to that, then accept the loss with `toctocd reinitialise`",
    };
    Fault::new(what, remedy)
}

/// A disk's fault, with the operation that failed.
pub(super) fn fault(shown: &str, doing: &str, error: io::Error) -> Fault {
    let fault = disk::as_fault(error);
    Fault { what: format!("state in {shown}: {doing}: {}", fault.what), ..fault }
}
