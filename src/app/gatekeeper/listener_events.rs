//! What happens to listeners: their messages, starts, ends and replacements. See `knocks` and
//! `doors` for the effects of their messages.

use crate::core::event::EventKind;
use crate::edge::log::LogEvent;
use std::sync::Arc;

use super::Gatekeeper;
use super::events::{ListenerId, ListenerLoss, Output};
use super::listeners::{Days, StartReason, StartingListener};
use crate::app::listener_process::ListenerReady;
use crate::app::prepare::Prepared;
use crate::core::types::{Fault, Now};
use crate::edge::gatekeeper_pipe::{ToGatekeeper, ToListener};

impl Gatekeeper {
    /// Handles the messages of one listener. Its knocks are decided together, so that one sync
    /// serves them all. If the listener was replaced or is not current yet, only its knocks count:
    /// the current one watches the doors too, and a door would open twice.
    pub(super) fn listener_messages(
        &mut self, now: Now, id: ListenerId, messages: Vec<ToGatekeeper>,
    ) {
        let mut knocks = Vec::new();
        for message in messages {
            let Some(listener) = self.listeners.find_mut(id) else { break };
            match message {
                ToGatekeeper::Knock(knock) => {
                    listener.packets.knock();
                    knocks.push(knock);
                }
                ToGatekeeper::Counters(tally) => {
                    listener.packets.report(tally);
                    self.first_steps_held(id, tally.holds);
                }
                other if self.listeners.is_current(id) => self.other_message(now, id, other),
                _ => {}
            }
        }
        self.begin_prepared(now);
        self.handle_knocks(now, id, knocks);
    }

    fn other_message(&mut self, now: Now, id: ListenerId, message: ToGatekeeper) {
        match message {
            ToGatekeeper::Completed { door, source } => self.completed(now, id, door, source),
            ToGatekeeper::Stage { door, source, stage } => {
                self.log_door_step(id, door, source, &format!("Stage {stage}"));
            }
            ToGatekeeper::TimedOut { door, source, stage } => {
                let what = format!("sequence timeout (stage {stage})");
                self.log_door_step(id, door, source, &what);
            }
            ToGatekeeper::Alarm { client, first, again } => {
                self.log_alarm(client, first, again, None);
            }
            ToGatekeeper::Suppressed { count } => self.out.suppress_door_lines(count),
            ToGatekeeper::Down { capture } => self.interface_down(now, capture),
            _ => {}
        }
    }

    /// Logs when the kernel begins to hold first steps for the current listener, and when it ends.
    fn first_steps_held(&mut self, id: ListenerId, holds: bool) {
        if !self.listeners.is_current(id) || holds == self.listeners.hold_first_steps {
            return;
        }
        self.listeners.hold_first_steps = holds;
        let (subject, text) = match holds {
            true => (
                "first steps held",
                "a flood of first steps at doors has begun: until it is over, the kernel holds \
                 them, and the first step counts as made by everybody",
            ),
            false => ("first steps pass", "the flood of first steps at doors is over"),
        };
        self.out.tell_at_most(subject, 60, LogEvent::new(EventKind::Limit, text));
    }

    /// Handles a listener that got ready: it is confined and captures.
    pub(super) fn listener_ready(&mut self, now: Now, id: ListenerId, ready: ListenerReady) {
        let Some(mut starting) = self.listeners.starting.take_if(|one| one.listener.id == id)
        else {
            return;
        };
        starting.listener.ready = ready;
        self.listeners.start_failed = false;
        let heard = starting.listener.ready.interfaces.join(", ");
        match &starting.why {
            StartReason::Reload => {
                starting.is_ready = true;
                self.listeners.starting = Some(starting);
                return self.reload_listener_ready();
            }
            StartReason::Restart => self.out.log(EventKind::Listener, "a new listener listens"),
            StartReason::Interfaces { moved: true, .. } => {
                self.out.log(
                    EventKind::Network,
                    format!("the default route has changed: knocks are heard on {heard}"),
                );
            }
            StartReason::Interfaces { back, .. } => {
                self.out.log(
                    EventKind::Network,
                    format!("interface {} is back: knocks are heard there", back.join(", ")),
                );
            }
        }
        self.exchange(now, starting);
    }

    /// Makes the reload's listener the current one, if the reload has one.
    pub(super) fn exchange_listener(&mut self, now: Now) {
        let of_reload = |one: &mut StartingListener| one.why == StartReason::Reload;
        if let Some(starting) = self.listeners.starting.take_if(of_reload) {
            self.exchange(now, starting);
        }
    }

    fn exchange(&mut self, now: Now, starting: StartingListener) {
        self.listeners.exchange(now, starting, self.in_force.network(), &mut self.out);
        // They may have changed while the listener started.
        self.listeners.tell_clients(self.in_force.clients(), &mut self.out);
    }

    /// True if no listener runs because the last start failed, and the reason is in the log.
    pub(super) fn knows_why_nobody_listens(&self) -> bool {
        self.listeners.current.is_none() && self.listeners.start_failed
    }

    /// Asks for newer counters than those of the last heartbeat.
    pub(super) fn ask_for_counters(&mut self) {
        if let Some(current) = &self.listeners.current {
            self.out.send(current.id, ToListener::AskCounters);
        }
    }

    /// Handles a listener that ended or sent an invalid message.
    pub(super) fn listener_lost(&mut self, now: Now, id: ListenerId, why: ListenerLoss) {
        if let Some(reason) = self.listeners.lose_starting(id) {
            return self.start_failed(now, reason, why.into_fault());
        }
        let how = why.in_words();
        if self.listeners.lose(now, id, &how) {
            let next = match self.listeners.schedule_restart(now) {
                0 => "the next one starts now".to_owned(),
                pause => format!("the next one starts in {pause} s"),
            };
            let text = format!("the listener was lost ({how}); {next}");
            self.out.tell(LogEvent::new(EventKind::Listener, text).failed());
        }
    }

    fn start_failed(&mut self, now: Now, why: StartReason, fault: Fault) {
        match why {
            StartReason::Reload => self.reload_failed(&fault),
            StartReason::Restart => {
                self.listeners.schedule_restart(now);
                self.listeners.start_failed = true;
                let event = LogEvent::new(EventKind::Listener, format!("no listener: {fault}"));
                self.out.tell_at_most("no listener", 60, event.failed());
            }
            StartReason::Interfaces { .. } => {
                let event = LogEvent::new(EventKind::Listener, fault.to_string());
                self.out.tell_at_most("back", 10, event.failed());
            }
        }
    }

    pub(super) fn start_reload_listener(&mut self, now: Now, prepared: &Arc<Prepared>) {
        self.listeners.start(
            now,
            StartReason::Reload,
            prepared,
            &prepared.config.clients,
            self.in_force.network(),
            &mut self.out,
        );
    }

    pub(super) fn start_listener(&mut self, now: Now, why: StartReason) {
        self.listeners.start(
            now,
            why,
            self.in_force.prepared(),
            self.in_force.clients(),
            self.in_force.network(),
            &mut self.out,
        );
    }

    /// Starts listeners that are due and ends those that take too long. Gives the current one the
    /// keys of a new day.
    pub(super) fn look_after_listeners(&mut self, now: Now) {
        let (in_force, replay) = (&self.in_force, &self.replay);
        let working_day = |id| replay.working_day(now, id, in_force.first_day());
        // What a client showed before the clock was set back still counts.
        let days = Days { wall: now.wall.day(), newest: replay.latest(now).day() };
        self.listeners.tell_day(now, days, working_day, &mut self.out);
        if let Some((old, until)) = &self.listeners.retiring
            && *until <= now.boot
        {
            let id = old.id;
            self.listeners.lose(now, id, "");
            // Kill it if it does not end by itself: its clients and sequences are out of date.
            self.out.push(Output::EndListener(id));
        }
        let late = self.listeners.starting.take_if(|one| !one.is_ready && one.deadline <= now.boot);
        if let Some(late) = late {
            self.out.push(Output::EndListener(late.listener.id));
            let fault =
                Fault::new("the listener did not get ready in time", "is this machine overloaded?");
            self.start_failed(now, late.why, fault);
        }
        if self.listeners.starting.is_some() {
            return;
        }
        if self.listeners.restart_at.take_if(|at| *at <= now.boot).is_some() {
            self.start_listener(now, StartReason::Restart);
        } else if self.listeners.current.is_none() && self.listeners.restart_at.is_none() {
            // The restart gave way to the listener of a reload, and the reload failed.
            self.listeners.schedule_restart(now);
        }
    }

    /// The periodic check.
    pub(super) fn check_listeners(&mut self) {
        self.out.push(Output::LookAtNetwork);
        self.listeners.check();
    }
}

impl ListenerLoss {
    fn in_words(&self) -> String {
        match self {
            ListenerLoss::NotReady(fault) => fault.to_string(),
            ListenerLoss::Ended(how) => how.clone(),
            ListenerLoss::Nonsense => "it sent what no listener sends".to_owned(),
        }
    }

    fn into_fault(self) -> Fault {
        match self {
            ListenerLoss::NotReady(fault) => fault,
            other => Fault::new(
                format!("the listener did not start: {}", other.in_words()),
                "`dmesg` may say why: no memory left, or a kernel that forbids a system call",
            ),
        }
    }
}
