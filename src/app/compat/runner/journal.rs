//! The runner's journal of stop commands, and what runners that were killed left in theirs.

use std::path::Path;

use nix::sys::statvfs::statvfs;

use crate::core::openings::{OpeningEntry, Openings};
use crate::core::record::Record;
use crate::core::types::{Fault, Now};
use crate::edge::state::State;

/// The most daemons with a journal each at the same time.
const SLOTS: u32 = 64;
/// Bytes that a journal needs at least.
const ROOM: u64 = 64 << 10;

pub(super) enum RunnerJournal {
    Open(Box<State>),
    /// The disk is full: until it is not, no door with a stop command opens.
    NoRoom(Fault),
    /// There can be none, for example for an ordinary user: stop commands are kept in memory, as by
    /// knockd.
    Never(Fault),
}

impl RunnerJournal {
    /// Opens a journal of our own below `base`. Also returns what is still to be done.
    pub(super) fn open(base: &Path, now: Now) -> (Self, Vec<OpeningEntry>) {
        match adopt(base, now) {
            Ok((state, entries)) => (RunnerJournal::Open(Box::new(state)), entries),
            Err(fault) if is_full(base) => (RunnerJournal::NoRoom(fault), Vec::new()),
            Err(fault) => (RunnerJournal::Never(fault), Vec::new()),
        }
    }
}

/// True if the disk of `path`, or of its nearest existing parent, has no room for a journal.
fn is_full(path: &Path) -> bool {
    let Some(existing) = path.ancestors().find(|path| path.exists()) else { return false };
    let Ok(disk) = statvfs(existing) else { return false };
    // Some file systems do not count files.
    let no_files = disk.files() > 0 && disk.files_free() == 0;
    no_files || disk.blocks_free().saturating_mul(disk.fragment_size()) < ROOM
}

/// Reads the journal again and removes the openings that have ended. Among these may be one that
/// never began: its write failed, and left a part behind.
pub(super) fn remove_ended(state: &mut State, now: Now, openings: &Openings) -> Result<(), Fault> {
    let recovered = state.reopen(now.wall)?;
    let mut ended = Vec::new();
    for entry in recovered.ledger.openings() {
        if !openings.knows(entry.id) {
            ended.push(Record::Stopped { id: entry.id });
        }
    }
    if ended.is_empty() {
        return Ok(());
    }
    state.commit(&ended)
}

/// Opens the first free journal for us, and moves into it what all other unlocked journals still
/// hold: their runners are dead.
fn adopt(base: &Path, now: Now) -> Result<(State, Vec<OpeningEntry>), Fault> {
    let mut own: Option<(State, Vec<OpeningEntry>)> = None;
    let mut reason =
        Fault::new(format!("{}: no journal is free", base.display()), "too many daemons run");
    for slot in 0..SLOTS {
        let directory = base.join(slot.to_string());
        if own.is_some() && !directory.exists() {
            break;
        }
        let mut opened = State::open(&directory, now.wall, true, false);
        if let Err(fault) = opened {
            if is_full(&directory) {
                return Err(fault);
            }
            // There may be room by now. Left alone, its stop commands would wait for the next
            // start.
            opened = State::open(&directory, now.wall, true, false);
        }
        let (mut state, recovered) = match opened {
            Ok(opened) => opened,
            Err(fault) => {
                reason = fault;
                continue;
            }
        };
        let found: Vec<OpeningEntry> = recovered.ledger.openings().cloned().collect();
        match &mut own {
            None => own = Some((state, found)),
            Some((ours, entries)) => {
                // First into ours, then out of theirs: if we are killed in between, a stop command
                // runs twice, but never not at all.
                let opened: Vec<_> = found.iter().cloned().map(Record::Opened).collect();
                if !opened.is_empty() && ours.commit(&opened).is_ok() {
                    let stopped: Vec<_> =
                        found.iter().map(|entry| Record::Stopped { id: entry.id }).collect();
                    let _ = state.commit(&stopped);
                    entries.extend(found);
                }
            }
        }
    }
    own.ok_or(reason)
}
