//! The listener's messages: stages, timeouts, opened doors, and the traces of `-D`.

use std::net::IpAddr;

use super::Knockd;
use super::interface::{addresses, trace_filter};
use crate::app::listener_process::Progress;
use crate::config::knockd::one_time;
use crate::core::address::as_text;
use crate::core::door::{Step, TcpFlags};
use crate::edge::classic_log::{ClassicLine, print_line, stamp};
use crate::edge::gatekeeper_pipe::{PipeError, ToGatekeeper, ToListener};
use crate::edge::link::{self, LinkError};
use crate::edge::one_time::SequenceUse;
use crate::edge::runner_pipe::RunRequest;
use crate::edge::{clock, one_time as one_time_file};

/// What the log says when the kernel begins to hold first steps, or no longer does.
fn flood_text(begins: bool) -> &'static str {
    match begins {
        true => {
            "a flood of first steps has begun: until it is over, the kernel holds them, and the \
             first step counts as made by everybody"
        }
        false => "the flood of first steps is over",
    }
}

impl Knockd {
    pub(super) fn receive(&mut self) {
        let Some(listener) = &mut self.listener else { return };
        let (messages, end) = match listener.advance() {
            Ok(Progress::Messages { messages, end }) => (messages, end),
            Ok(_) => return,
            Err(fault) => return self.on_listener_lost(&fault.what),
        };
        for message in messages {
            self.handle(message);
        }
        if let Some(listener) = &mut self.listener
            && let Some(error) = end
        {
            let how = listener.ended();
            self.on_listener_lost(&end_text(how, &error));
        }
    }

    fn handle(&mut self, message: ToGatekeeper) {
        match message {
            ToGatekeeper::Completed { door, source } => self.completed(door, source),
            ToGatekeeper::Stage { door, source, stage } => {
                if !self.admits_line() {
                    return;
                }
                if stage == 1 {
                    self.names.begin(source);
                }
                self.knock_line(door, source, &format!("Stage {stage}"), false);
            }
            ToGatekeeper::TimedOut { door, source, stage } => {
                if !self.admits_line() {
                    return;
                }
                let what = format!("sequence timeout (stage {stage})");
                self.knock_line(door, source, &what, true);
            }
            ToGatekeeper::Suppressed { count } => self.line_throttle.suppress(count),
            ToGatekeeper::Counters(tally) if tally.holds != self.holds => {
                self.holds = tally.holds;
                if self.admits_line() {
                    self.line(ClassicLine::shown(flood_text(tally.holds)));
                }
            }
            ToGatekeeper::Down { .. }
                if link::inspect(&self.interface) == Err(LinkError::Missing) =>
            {
                self.on_listener_lost("the interface disappeared");
            }
            ToGatekeeper::Refused { .. }
                if self.line_throttle.admit(clock::now().boot).is_some() =>
            {
                eprintln!("IPv6 is not supported under this link-layer type");
            }
            ToGatekeeper::Seen { source, source_port, destination, step, length } => {
                let length = u32::from(length) + self.link.kind.header();
                let packet = match step {
                    Step::Port(port) => format!(
                        "{}: {}:{source_port} -> {}:{} {length} bytes",
                        port.proto.name(),
                        as_text(source),
                        as_text(destination),
                        port.number
                    ),
                    Step::Echo { .. } => format!("icmp: {source} -> {destination} {length} bytes"),
                };
                print_line(&format!("{}: {packet}", stamp(clock::now().wall)));
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

    /// True if one more log line that packets cause may be written: forged packets must not fill
    /// the log.
    fn admits_line(&mut self) -> bool {
        let Some(suppressed) = self.line_throttle.admit(clock::now().boot) else { return false };
        if suppressed > 0 {
            self.line(ClassicLine::shown(&format!(
                "{suppressed} lines about knocks left out: too many at once"
            )));
        }
        true
    }

    fn knock_line(&mut self, door: u16, source: IpAddr, what: &str, gap: bool) {
        let Some(door) = self.conf.doors.get(usize::from(door)) else { return };
        let text = format!("{}: {}: {what}", self.names.shown(source), door.name);
        self.line(ClassicLine { gap, ..ClassicLine::shown(&text) });
    }

    /// Opens a door for `source`. A one-time sequence is used up durably before anything runs.
    fn completed(&mut self, index: u16, source: IpAddr) {
        // Whoever knows a sequence can complete it from any number of addresses. People need few.
        let Some(suppressed) = self.opening_throttle.admit(clock::now().boot) else {
            // The sequence was sent in cleartext. It opened nothing now, and must not open the door
            // for an eavesdropper later.
            if let Some(door) = self.conf.doors.get(usize::from(index))
                && !door.sequence.is_empty()
            {
                self.use_up(index);
            }
            return;
        };
        if suppressed > 0 {
            self.line(ClassicLine::shown(&format!(
                "{suppressed} knocks opened nothing: too many at once"
            )));
        }
        let Some(door) = self.conf.doors.get(usize::from(index)) else { return };
        let who = self.names.shown(source);
        let text = format!("{who}: {}: OPEN SESAME", door.name);
        let order = door.commands(source).map(|commands| RunRequest {
            door: door.name.clone(),
            source,
            who,
            start: commands.start.into(),
            stop: commands.stop.map(Into::into),
            timeout: door.cmd_timeout,
        });
        self.line(ClassicLine::shown(&text));
        if !self.use_up(index) {
            return;
        }
        if let Some(order) = order
            && !self.commands.open(order)
        {
            self.complain("error: command fork failed!");
        }
    }

    /// Uses up a one-time sequence and puts the next one in force. True if the door may open.
    fn use_up(&mut self, index: u16) -> bool {
        let Some(door) = self.conf.doors.get_mut(usize::from(index)) else { return false };
        let Some(path) = &door.one_time_sequences else { return true };
        let used = one_time_file::use_up(path, door);
        let is_marked = used.is_ok();
        let SequenceUse { by_us, next, skipped } = used.unwrap_or_default();
        door.fixed_first = false;
        let name = door.name.clone();
        let complaint = match &next {
            _ if !is_marked => Some(one_time::not_marked(&name)),
            None => Some(one_time::none_left(&name)),
            Some(_) => None,
        };
        let next = next.unwrap_or_default();
        let is_known =
            next.iter().all(|step| door.later_steps.contains(step) || door.sequence.contains(step));
        door.sequence.clone_from(&next);
        for error in skipped {
            eprintln!("config: {}", error.text);
            if let Some(text) = error.logged() {
                self.line(ClassicLine::quiet(&text).gap());
            }
        }
        match complaint {
            Some(text) => {
                eprintln!("{text}");
                self.line(ClassicLine::quiet(&text).gap());
            }
            None => self.trace_next(index, &next),
        }
        if let Some(listener) = &mut self.listener {
            // A broken pipe is noticed when it is read.
            let _ = listener.pipe.send(ToListener::Sequence { door: index, steps: next });
        }
        if !is_known {
            // Lines were added since the start: the kernel's filter does not know their ports.
            self.renew_listener();
        }
        by_us
    }

    /// COMPAT: knockd renews its filter for IPv4 only, and prints only that. Ours lets IPv6 through
    /// as well.
    fn trace_next(&self, index: u16, steps: &[Step]) {
        if let Some(door) = self.conf.doors.get(usize::from(index))
            && self.options.debug
        {
            print_line(&one_time::new_sequence(&door.name, steps));
            let doors = std::slice::from_ref(door);
            let addresses = addresses(&self.options, &self.link);
            trace_filter(&self.options, doors, addresses.filter(IpAddr::is_ipv4));
        }
    }
}

/// How the listener ended: by its exit status if it has one.
fn end_text(how: Option<String>, error: &PipeError) -> String {
    match how {
        Some(how) => how,
        None => format!("the listener ended ({error})"),
    }
}
