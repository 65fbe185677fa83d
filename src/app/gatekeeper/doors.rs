//! Classic doors: from a completed sequence to the end of its stop command. When what runs is left
//! to `core::openings`, running it to `edge::command`, services of commands to `commands`.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Gatekeeper;
use crate::app::listener_process::ListenerProcess;
use crate::app::warnings::NEXT_IS_SHIPPED;
use crate::core::door::{Door, is_shipped};
use crate::core::grants::GrantEnd;
use crate::core::knock::Status;
use crate::core::openings::OpeningAction;
use crate::core::quota::Rate;
use crate::core::record::Record;
use crate::core::types::{Boot, Now};
use crate::edge::gatekeeper_pipe::ToListener;
use crate::edge::log::clock_time;
use crate::edge::{clock, one_time};

use std::os::fd::AsFd;

/// Lines about doors: what people's knocks need, and no more.
const LINES: Rate = Rate { burst: 256, per_second: 16 };
/// Openings of all doors together.
const OPENINGS: Rate = Rate { burst: 256, per_second: 16 };
/// How long the end waits for stop commands that are running.
const PATIENCE: Duration = Duration::from_secs(10);

impl Gatekeeper {
    /// The listener says that `source` completed the sequence of `door`.
    pub(super) fn completed(
        &mut self,
        now: Now,
        child: &mut ListenerProcess,
        door: u16,
        source: IpAddr,
    ) {
        let Some(at) = child.doors.get(usize::from(door)).cloned() else { return };
        // Whoever owns the listener can claim any number of completed sequences; people need few.
        if !self.openings.take(now.boot, OPENINGS) {
            // It crossed the network in the clear: what opened nothing now must not open for
            // somebody else later.
            if !at.sequence.is_empty() {
                self.use_up(child, door);
            }
            return self.say_at_most(
                "openings",
                10,
                "a door is not opened: too many openings at once",
            );
        }
        // Never left out: this is what opened.
        self.say(&format!("{source}: {}: OPEN SESAME", at.name));
        if self.broken || !self.use_up(child, door) {
            return;
        }
        if at.service.is_some() {
            return self.grant_through(now, &at, source);
        }
        let opening = match self.leases.prepare(now, &at, source) {
            Ok(opening) => opening,
            Err(refused) => {
                if let Some(text) = refused.text() {
                    self.say(text);
                }
                return;
            }
        };
        match opening.commit(|opened| self.state.commit(&[Record::Opened(opened.clone())])) {
            Ok(journalled) => {
                let mut work = Vec::new();
                self.leases.begin(now, journalled, &mut work);
                self.carry_out(now, work);
            }
            Err(fault) => self.state_failed(&fault),
        }
    }

    /// A door that grants a service: the firewall first, so that the knocker waits for no disk,
    /// then the record.
    fn grant_through(&mut self, now: Now, door: &Door, source: IpAddr) {
        let grant = match self.policy.through_door(now, door, source, &self.grants) {
            Ok(grant) => grant,
            Err(status) => {
                return self.say(&format!(
                    "{source}: {}: not granted: {}",
                    door.name,
                    why_not(status)
                ));
            }
        };
        let (changes, live) = self.grants.open_for_door(now, grant);
        if let Err(fault) = self.firewall.apply(&changes) {
            self.say(&format!("the firewall refused a grant: {fault}"));
            self.grants.end(now, &[live.key], GrantEnd::Revoked);
            return self.try_restore_firewall();
        }
        self.store(&[Record::Granted(live)]);
        let until = clock_time(now.wall.plus(live.seconds_left(now)));
        self.say(&format!("{}: {} granted to {source} until {until}", door.name, live.key.service));
    }

    /// Burns a one-time sequence, durably, before anything runs; whether the door may open. Around
    /// a reload the old and the new listener both tell of one knock: it opens for the first of
    /// them.
    fn use_up(&mut self, child: &mut ListenerProcess, index: u16) -> bool {
        let Some(door) = child.doors.get_mut(usize::from(index)) else { return false };
        let Some(path) = door.one_time_sequences.clone() else { return true };
        match one_time::use_up(&path, door) {
            Ok(burned) => {
                door.fixed_first = false;
                let next = burned.next.unwrap_or_default();
                let barred = is_shipped(&next);
                door.sequence = if barred { Vec::new() } else { next };
                let (name, steps) = (door.name.clone(), door.sequence.clone());
                if barred {
                    self.say(&format!(
                        "door {name} stays shut from now on: {NEXT_IS_SHIPPED} in {}",
                        path.display()
                    ));
                } else if steps.is_empty() {
                    self.say(&format!(
                        "no more sequences left in the one time sequences file for door {name} --> disabling the door"
                    ));
                }
                // A pipe that is of no use is noticed when it is read.
                let _ = child.pipe.send(ToListener::Sequence { door: index, steps });
                if !burned.by_us {
                    self.say(&format!(
                        "door {name}: its one-time sequence was used up before, so it stays shut"
                    ));
                }
                burned.by_us
            }
            Err(reason) => {
                let name = door.name.clone();
                self.say(&format!("door {name}: its one-time sequence cannot be used up, so it stays shut: {reason}"));
                false
            }
        }
    }

    /// Does what the leases ask for, in order.
    pub(super) fn carry_out(&mut self, now: Now, work: Vec<OpeningAction>) {
        let mut todo = std::collections::VecDeque::from(work);
        while let Some(work) = todo.pop_front() {
            let mut more = Vec::new();
            match work {
                OpeningAction::Run(job) => {
                    if let Some(finished) = self.runner.run(&job) {
                        self.leases.ended(now, finished.id, finished.how, &mut more);
                    }
                }
                OpeningAction::Kill(id) => self.runner.kill(id),
                // If this is lost, the stop command runs once more at the next start: late twice is
                // better than never.
                OpeningAction::Forget(id) => drop(self.store(&[Record::Stopped { id }])),
                OpeningAction::Note(note) => self.say(&note.text(|_, ip| ip.to_string())),
            }
            todo.extend(more);
        }
    }

    /// Some process of ours has ended.
    pub(super) fn reap(&mut self, now: Now) {
        let mut work = Vec::new();
        for finished in self.runner.reap() {
            self.leases.ended(now, finished.id, finished.how, &mut work);
        }
        self.carry_out(now, work);
    }

    /// At the end: those that wait run now instead of later, for a door that nobody watches is
    /// better shut.
    pub(super) fn run_all_stop_commands(&mut self) {
        let now = clock::now();
        let mut work = Vec::new();
        self.leases.release(|_| false, &mut work);
        self.leases.due(Now { boot: Boot(u64::MAX), ..now }, &mut work);
        self.carry_out(now, work);
    }

    /// At the end: waits for commands that run, not for ever.
    pub(super) fn wait_for_commands(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.runner.running() > 0 && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            let _ = poll(&mut [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)], timeout);
            while let Ok(Some(_)) = self.signals.read_signal() {}
            self.reap(clock::now());
            // Those whose start command has ended just now.
            self.run_all_stop_commands();
        }
        if self.runner.running() > 0 {
            self.say("a command still runs: if a stop command is to follow it is killed, and that one runs at the next start");
        }
    }

    /// A log line in knockd's words about a door that exists. Beyond [`LINES`] they are only
    /// counted.
    pub(super) fn door_line(
        &mut self,
        child: &ListenerProcess,
        door: u16,
        text: impl FnOnce(&str) -> String,
    ) {
        let Some(door) = child.doors.get(usize::from(door)) else { return };
        if self.door_lines.take(clock::now().boot, LINES) {
            let text = text(&door.name);
            self.say(&text);
        } else {
            self.unsaid = self.unsaid.saturating_add(1);
        }
    }
}

fn why_not(status: Status) -> &'static str {
    match status {
        Status::Address => "this address can never be granted",
        Status::Full => "too many live grants",
        _ => "its service is not configured",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_is_told_why_a_door_grants_nothing() {
        assert!(why_not(Status::Address).contains("address"));
        assert!(why_not(Status::Full).contains("too many"));
        assert!(why_not(Status::Denied).contains("not configured"));
    }
}
