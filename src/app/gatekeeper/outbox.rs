//! The gatekeeper's outputs, in order, and the rate limits of log lines.

use std::collections::{BTreeMap, BTreeSet};

use super::events::{ListenerId, Output};
use super::ring::Ring;
use crate::core::event::{EventKind, KnockId};
use crate::core::quota::{Bucket, Rate};
use crate::core::types::{Boot, ClientId, Now};
use crate::edge::gatekeeper_pipe::ToListener;
use crate::edge::log::LogEvent;

/// The rate limit on door messages. It is enough for real knocks; anyone can cause such messages.
const DOOR_LINES: Rate = Rate { burst: 256, per_second: 16 };

/// The most alarms that are logged in a minute.
const ALARMS: usize = 100;

/// The outputs of the current event.
#[derive(Default)]
pub(super) struct Outbox {
    outputs: Vec<Output>,
    ring: Ring,
    now: Now,
    /// The time of the last line of each rate-limited kind. Nobody outside can add a kind.
    said: BTreeMap<String, Boot>,
    door_lines: Bucket,
    suppressed: u64,
    /// The alarms of this minute, each by its subject, client and knock, and the minute's end.
    alarms: (BTreeSet<AboutClient>, Boot),
    suppressed_alarms: u64,
}

/// What a line about a client is about.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct AboutClient {
    subject: &'static str,
    client: ClientId,
    id: Option<KnockId>,
}

impl Outbox {
    /// Begins an event.
    pub(super) fn begin(&mut self, now: Now) {
        self.now = now;
    }

    /// The outputs since the last call.
    pub(super) fn take(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    pub(super) fn push(&mut self, output: Output) {
        self.outputs.push(output);
    }

    pub(super) fn send(&mut self, listener: ListenerId, message: ToListener) {
        self.push(Output::Send(listener, message));
    }

    pub(super) fn log(&mut self, kind: EventKind, text: impl Into<String>) {
        self.tell(LogEvent::new(kind, text));
    }

    pub(super) fn ring(&self) -> &Ring {
        &self.ring
    }

    pub(super) fn tell(&mut self, event: LogEvent) {
        self.ring.push(self.now.wall, event.clone());
        self.push(Output::Log(event));
    }

    /// Logs an event unless one about this `subject` was logged less than `seconds` ago.
    pub(super) fn tell_at_most(&mut self, subject: &str, seconds: u32, event: LogEvent) {
        let recent = self.said.get(subject).is_some_and(|last| self.now.boot < last.plus(seconds));
        if !recent {
            self.said.insert(subject.to_owned(), self.now.boot);
            self.tell(event);
        }
    }

    /// Logs an event about a client, at most one about each subject a minute. Whoever causes one
    /// about one client must not hide another one, and with those of many must not fill the log.
    pub(super) fn tell_of_client(
        &mut self, subject: &'static str, client: ClientId, event: LogEvent,
    ) {
        self.tell_of_knock(subject, client, None, event);
    }

    /// The same for each of the client's knocks.
    pub(super) fn tell_of_knock(
        &mut self, subject: &'static str, client: ClientId, id: Option<KnockId>, event: LogEvent,
    ) {
        if self.alarms.1 <= self.now.boot {
            self.alarms = (BTreeSet::new(), self.now.boot.plus(60));
        }
        if self.alarms.0.len() < ALARMS && self.alarms.0.insert(AboutClient { subject, client, id })
        {
            self.tell(event);
        } else {
            self.suppressed_alarms = self.suppressed_alarms.saturating_add(1);
        }
    }

    /// Logs an event of a door, or only counts it if there are too many.
    pub(super) fn tell_of_door(&mut self, event: LogEvent) {
        if self.door_lines.take(self.now.boot, DOOR_LINES) {
            self.tell(event);
        } else {
            self.suppressed = self.suppressed.saturating_add(1);
        }
    }

    /// So many events at doors were not even told.
    pub(super) fn suppress_door_lines(&mut self, count: u64) {
        self.suppressed = self.suppressed.saturating_add(count);
    }

    pub(super) fn log_suppressed(&mut self) {
        let alarms = std::mem::take(&mut self.suppressed_alarms);
        if alarms > 0 {
            let text = format!("suppressed {alarms} more lines about clients (rate limit)");
            self.log(EventKind::Limit, text);
        }
        let suppressed = std::mem::take(&mut self.suppressed);
        if suppressed > 0 {
            let text = format!("suppressed {suppressed} door messages (rate limit)");
            self.log(EventKind::Limit, text);
        }
    }
}
