//! What the gatekeeper wants done, in order, and which lines come too often to be written.

use std::collections::BTreeMap;

use super::events::{ListenerId, Output};
use crate::core::quota::{Bucket, Rate};
use crate::core::types::Boot;
use crate::edge::gatekeeper_pipe::ToListener;

/// Lines about doors: what people's knocks need, and no more. Anybody can cause them.
const DOOR_LINES: Rate = Rate { burst: 256, per_second: 16 };

/// The outputs of the event that is being handled.
#[derive(Default)]
pub(super) struct Outbox {
    outputs: Vec<Output>,
    /// The moment of the event.
    now: Boot,
    /// When a line of each kind was last written, of those that could come often.
    said: BTreeMap<&'static str, Boot>,
    door_lines: Bucket,
    suppressed: u64,
}

impl Outbox {
    /// An event begins to be handled.
    pub(super) fn begin(&mut self, now: Boot) {
        self.now = now;
    }

    /// All outputs since the last call.
    pub(super) fn take(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    pub(super) fn push(&mut self, output: Output) {
        self.outputs.push(output);
    }

    pub(super) fn send(&mut self, listener: ListenerId, message: ToListener) {
        self.push(Output::Send(listener, message));
    }

    /// Writes a line.
    pub(super) fn log(&mut self, text: impl Into<String>) {
        self.push(Output::Log(text.into()));
    }

    /// Writes a line unless one of this `kind` was written less than `seconds` ago.
    pub(super) fn log_at_most(
        &mut self,
        kind: &'static str,
        seconds: u32,
        text: impl Into<String>,
    ) {
        let recent = self.said.get(kind).is_some_and(|last| self.now < last.plus(seconds));
        if !recent {
            self.said.insert(kind, self.now);
            self.log(text);
        }
    }

    /// Writes a line about a door, or only counts it.
    pub(super) fn log_door(&mut self, text: String) {
        if self.door_lines.take(self.now, DOOR_LINES) {
            self.log(text);
        } else {
            self.suppressed = self.suppressed.saturating_add(1);
        }
    }

    /// Tells how many lines about doors were only counted.
    pub(super) fn log_suppressed(&mut self) {
        let suppressed = std::mem::take(&mut self.suppressed);
        if suppressed > 0 {
            self.log(format!("suppressed {suppressed} door messages (rate limit)"));
        }
    }
}
