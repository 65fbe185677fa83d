//! What the listener tells: stages, timeouts, opened doors; and what `-D` shows of it.
//! Commands are left to the runner.

use std::net::IpAddr;

use super::interface::trace_filter;
use super::{Knockd, TURN};
use crate::config::knockd::one_time;
use crate::core::address::as_text;
use crate::core::door::{Step, TcpFlags};
use crate::edge::classic_log::{ClassicLine, print_line, stamp};
use crate::edge::gatekeeper_pipe::{PipeError, ToGatekeeper, ToListener};
use crate::edge::one_time::SequenceUse;
use crate::edge::runner_pipe::RunRequest;
use crate::edge::{clock, link};

impl Knockd {
    /// Takes what the listener has sent.
    pub(super) fn hear(&mut self) {
        for _ in 0..TURN {
            let Some(listener) = &mut self.listener else { return };
            let came = listener.pipe.flush().and_then(|()| listener.pipe.receive());
            match came {
                Ok(Some(message)) => self.take(message),
                Ok(None) => return,
                Err(broken) => return self.lost(&broken),
            }
        }
    }

    fn take(&mut self, message: ToGatekeeper) {
        match message {
            ToGatekeeper::Completed { door, source } => self.completed(door, source),
            ToGatekeeper::Stage { door, source, stage } => {
                if stage == 1 {
                    self.names.begin(source);
                }
                self.knock_line(door, source, &format!("Stage {stage}"), false);
            }
            ToGatekeeper::TimedOut { door, source, stage } => {
                self.knock_line(door, source, &format!("sequence timeout (stage {stage})"), true);
            }
            ToGatekeeper::Down { .. }
                if link::inspect(&self.interface) == Err(link::LinkError::Missing) =>
            {
                self.lose_listener("the interface disappeared");
            }
            ToGatekeeper::Refused { .. } if self.throttle.admit(clock::now().boot).is_some() => {
                eprintln!("IPv6 is not supported under this link-layer type");
            }
            ToGatekeeper::Seen { source, source_port, destination, step, length } => {
                let length = u32::from(length) + self.link.kind.header();
                let what = match step {
                    Step::Port(port) => format!(
                        "{}: {}:{source_port} -> {}:{} {length} bytes",
                        port.proto.name(),
                        as_text(source),
                        as_text(destination),
                        port.number
                    ),
                    Step::Echo { .. } => format!("icmp: {source} -> {destination} {length} bytes"),
                };
                print_line(&format!("{}: {what}", stamp(clock::now().wall)));
            }
            ToGatekeeper::Removed { source, success } => {
                let how = if success { "successful" } else { "failed" };
                print_line(&format!("removing {how} knock attempt ({})", as_text(source)));
            }
            ToGatekeeper::Ignored { flag, wanted } => {
                let name = TcpFlags::NAMES.get(usize::from(flag)).copied().unwrap_or("?");
                print_line(&format!(
                    "packet is not {}{name}, ignoring...",
                    if wanted { "" } else { "!" }
                ));
            }
            _ => {}
        }
    }

    fn lost(&mut self, broken: &PipeError) {
        let how =
            self.listener.as_mut().and_then(crate::app::listener_process::ListenerProcess::ended);
        self.lose_listener(&how.unwrap_or_else(|| format!("the listener ended ({broken:?})")));
    }

    /// A line that packets cause: forged ones must not fill the log.
    fn knock_line(&mut self, door: u16, source: IpAddr, what: &str, gap: bool) {
        let Some(left_out) = self.throttle.admit(clock::now().boot) else { return };
        if left_out > 0 {
            self.line(ClassicLine::shown(&format!(
                "{left_out} lines about knocks left out: too many at once"
            )));
        }
        let Some(door) = self.conf.doors.get(usize::from(door)) else { return };
        let text = format!("{}: {}: {what}", self.names.shown(source), door.name);
        self.line(ClassicLine { gap, ..ClassicLine::shown(&text) });
    }

    /// A door is open for `source`. A one-time sequence is used up durably before anything runs.
    /// Whoever knows a sequence, or needs none because it has one step, can complete it from any
    /// number of addresses: people need few.
    fn completed(&mut self, index: u16, source: IpAddr) {
        let Some(left_out) = self.openings.admit(clock::now().boot) else {
            // It crossed the network in the clear: what opened nothing now must not open for
            // somebody else later.
            if self.conf.doors.get(usize::from(index)).is_some_and(|door| !door.sequence.is_empty())
            {
                self.use_up(index);
            }
            return;
        };
        if left_out > 0 {
            self.line(ClassicLine::shown(&format!(
                "{left_out} knocks opened nothing: too many at once"
            )));
        }
        let Some(door) = self.conf.doors.get(usize::from(index)) else { return };
        let text = format!("{}: {}: OPEN SESAME", self.names.shown(source), door.name);
        let order = door.commands(source).map(|commands| RunRequest {
            door: door.name.clone(),
            source,
            who: self.names.shown(source),
            start: commands.start.into(),
            stop: commands.stop.map(Into::into),
            timeout: door.cmd_timeout,
        });
        self.line(ClassicLine::shown(&text));
        if !self.use_up(index) {
            return;
        }
        if order.is_some_and(|order| !self.commands.open(order)) {
            self.complain("error: command fork failed!");
        }
    }

    /// Uses the sequence up, if it is a one-time one, and puts the next one in force. Whether the
    /// door may open.
    fn use_up(&mut self, index: u16) -> bool {
        let Some(door) = self.conf.doors.get_mut(usize::from(index)) else { return false };
        let Some(path) = &door.one_time_sequences else { return true };
        let used = crate::edge::one_time::use_up(path, door);
        let is_marked = used.is_ok();
        let SequenceUse { by_us, next, skipped } = used.unwrap_or_default();
        door.fixed_first = false;
        let name = door.name.clone();
        let known = next
            .iter()
            .flatten()
            .all(|step| door.later_steps.contains(step) || door.sequence.contains(step));
        door.sequence = next.clone().unwrap_or_default();
        for error in skipped {
            eprintln!("config: {}", error.text());
            if let Some(text) = error.logged() {
                self.line(ClassicLine::quiet(&text).gap());
            }
        }
        match &next {
            _ if !is_marked => self.complain_gap(&one_time::not_marked(&name)),
            None => self.complain_gap(&one_time::none_left(&name)),
            Some(steps) => self.trace_next(index, steps),
        }
        if let Some(listener) = &mut self.listener {
            // A pipe that is of no use is noticed when it is read.
            let _ = listener
                .pipe
                .send(ToListener::Sequence { door: index, steps: next.unwrap_or_default() });
        }
        if !known {
            // Lines were added since the start: the kernel's filter does not know their ports.
            self.renew_listener();
        }
        by_us
    }

    /// COMPAT: knockd renews its filter for IPv4 alone, and shows only that. Ours lets IPv6 through
    /// as well.
    fn trace_next(&self, index: u16, steps: &[Step]) {
        let Some(door) = self.conf.doors.get(usize::from(index)).filter(|_| self.options.debug)
        else {
            return;
        };
        print_line(&one_time::new_sequence(&door.name, steps));
        trace_filter(&self.options, std::slice::from_ref(door), &self.link, [false]);
    }

    /// A line for the log and for standard error.
    pub(super) fn complain(&mut self, text: &str) {
        eprintln!("{text}");
        self.line(ClassicLine::quiet(text));
    }

    fn complain_gap(&mut self, text: &str) {
        eprintln!("{text}");
        self.line(ClassicLine::quiet(text).gap());
    }
}
