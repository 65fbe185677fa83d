//! The gatekeeper's log: one event per line, control characters escaped, written by a thread.
//! Callers decide what to log; unauthenticated packets never cause one line each.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::classic_log::local;
pub use super::classic_log::stamp as date_time;
use super::{clock, worker};
use crate::config::LogSettings;
use crate::core::event::EventKind;
use crate::core::types::{Fault, Wall};
pub use event::{EventRecord, LogEvent};
use outlet::Outlet;
pub use outlet::{PROGRAM, json_line};

mod event;
mod outlet;

/// The longest line, bytes; longer lines are cut.
const LONGEST: usize = 1024;
const QUEUE: usize = 1024;

/// The log. Events wait in a queue for a thread that writes them: a full disk or an unread pipe
/// loses lines but never delays a packet.
pub struct Log {
    shared: Arc<Shared>,
    /// Until the thread starts.
    outlet: Option<Outlet>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Signals a new entry, or the end of writing the last one.
    changed: Condvar,
}

enum Entry {
    Event(Wall, LogEvent),
    /// Open what these settings name: a file may have been renamed.
    Open(Wall, LogSettings),
}

#[derive(Default)]
struct Queue {
    entries: VecDeque<Entry>,
    /// The number of events that found no room since the last of `entries`.
    lost: u64,
    /// When the last of those was.
    lost_at: Wall,
    /// True while an entry is out of the queue but not written yet.
    is_writing: bool,
}

impl Log {
    /// Fails if nothing can be written there.
    pub fn open(settings: &LogSettings) -> Result<Log, Fault> {
        Ok(Log { outlet: Some(Outlet::open(settings)?), shared: Arc::default() })
    }

    /// Queues one event. Never waits. The thread starts with the first one.
    pub fn event(&mut self, at: Wall, event: LogEvent) {
        self.push(Entry::Event(at, event));
    }

    /// Has the log opened again, as at a rotation, or somewhere else. If that fails it goes on as
    /// before, and says so.
    pub fn reopen(&mut self, at: Wall, settings: LogSettings) {
        self.push(Entry::Open(at, settings));
    }

    fn push(&mut self, entry: Entry) {
        if let Some(outlet) = self.outlet.take() {
            let shared = Arc::clone(&self.shared);
            // Without a thread nothing is logged. The gateway serves all the same.
            let _ = worker::spawn("log", move || shared.write_all_to(outlet));
        }
        self.shared.lock().push(entry);
        self.shared.changed.notify_all();
    }

    /// What other threads log with.
    pub fn handle(&self) -> impl Fn(LogEvent) + Send + 'static {
        let shared = Arc::clone(&self.shared);
        move |event| {
            shared.lock().push(Entry::Event(clock::now().wall, event));
            shared.changed.notify_all();
        }
    }

    /// Waits until all events are written, at most `patience`. For the end of the process.
    pub fn flush(&mut self, patience: Duration) {
        let queue = self.shared.lock();
        let _ = self.shared.changed.wait_timeout_while(queue, patience, |queue| !queue.is_done());
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all_to(&self, mut outlet: Outlet) {
        loop {
            match self.next_entry() {
                Entry::Event(at, event) => outlet.write(at, &event),
                Entry::Open(at, settings) => match Outlet::open(&settings) {
                    Ok(opened) => outlet = opened,
                    Err(fault) => {
                        let event = LogEvent::new(EventKind::Warning, fault.to_string());
                        outlet.write(at, &event.failed());
                    }
                },
            }
        }
    }

    fn next_entry(&self) -> Entry {
        let mut queue = self.lock();
        queue.is_writing = false;
        loop {
            if let Some(entry) = queue.pop() {
                queue.is_writing = true;
                return entry;
            }
            self.changed.notify_all();
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Queue {
    fn push(&mut self, entry: Entry) {
        if self.entries.len() >= QUEUE {
            self.lost = self.lost.saturating_add(1);
            self.lost_at = entry.at();
            if matches!(entry, Entry::Open(..)) {
                // In the place of the last one: a rotation is not forgotten.
                self.entries.pop_back();
                self.entries.push_back(entry);
            }
            return;
        }
        let loss = self.loss();
        self.entries.extend(loss);
        self.entries.push_back(entry);
    }

    fn pop(&mut self) -> Option<Entry> {
        match self.entries.pop_front() {
            None => self.loss(),
            entry => entry,
        }
    }

    /// An event with the number of those lost since the last such event.
    fn loss(&mut self) -> Option<Entry> {
        match std::mem::take(&mut self.lost) {
            0 => None,
            lost => {
                let text = format!("{lost} lines were lost: nobody read the log");
                Some(Entry::Event(self.lost_at, LogEvent::new(EventKind::Limit, text)))
            }
        }
    }

    fn is_done(&self) -> bool {
        self.entries.is_empty() && self.lost == 0 && !self.is_writing
    }
}

impl Entry {
    fn at(&self) -> Wall {
        match self {
            Entry::Event(at, _) | Entry::Open(at, _) => *at,
        }
    }
}

/// Local time of day, `14:03:20`.
pub fn clock_time(at: Wall) -> String {
    local(at).strftime("%H:%M:%S").to_string()
}

/// Local time with date and zone, for programs: `2026-11-28T14:03:20+01:00`.
pub fn zoned_time(at: Wall) -> String {
    local(at).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

/// The text as one line: characters that could forge a second line or move a cursor become
/// `\u{..}`.
fn escaped(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if line.len() >= LONGEST {
            line.push_str("...");
            break;
        }
        match c {
            // Indents the lines that follow.
            '\n' => {
                line.push_str("; ");
                while chars.next_if_eq(&' ').is_some() {}
            }
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => line.extend(c.escape_unicode()),
            c if c.is_control() => line.extend(c.escape_unicode()),
            c => line.push(c),
        }
    }
    line
}

#[cfg(test)]
mod tests;
