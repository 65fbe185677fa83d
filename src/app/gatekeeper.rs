//! The privileged process: verifies knocks, decides, journals, and changes the firewall.
//!
//! `Gatekeeper` is a state machine made of parts. It handles one event at a time and produces
//! outputs. It makes only these direct calls to the outside, all of them quick: the journal's
//! commit, the firewall's socket, the clock, and the kernel's entropy. `serve` does everything
//! else; work that may block runs outside the loop (see `tasks`).

use crate::app::admin::TrialState;
use crate::core::event::{EventKind, Level};
use crate::core::grants::Grants;
use crate::core::policy::Policy;
use crate::core::replay::{Replay, clock_jump};
use crate::core::types::{Boot, Fault, Now};
use crate::edge::log::LogEvent;

mod activity;
mod closing;
mod commands;
mod connections;
mod denials;
mod doors;
mod events;
mod foreseeing;
mod guard;
mod in_force;
mod joining;
mod journal;
mod knocks;
mod listener_events;
mod listeners;
mod listing;
mod network;
mod outbox;
mod packets;
mod process;
mod reload;
mod requests;
mod review;
mod rights;
mod ring;
mod serve;
mod start;
mod tasks;
#[cfg(test)]
mod tests;
mod trial;
mod xdp;

use activity::Activity;
use closing::Closing;
use commands::Commands;
use connections::Connections;
use doors::Doors;
use events::{Event, Lane, Output, TaskId, TaskResult};
pub use foreseeing::foresee_without_gateway;
use guard::Guard;
use in_force::InForce;
use joining::Joining;
use journal::Journal;
use listeners::Listeners;
use outbox::Outbox;
use packets::KnockEnds;
use reload::Reload;
use requests::Requests;
use review::Review;
pub use start::{RunFault, StartOptions, run};
use tasks::Tasks;
use trial::Trial;
use xdp::Xdp;

/// Seconds between two periodic checks, which find changes that cause no event.
const CHECK: u32 = 10;
/// Seconds that the shutdown waits for running commands.
const PATIENCE: u32 = 10;

/// Clock and entropy, read while an event is handled.
trait Host {
    fn now(&self) -> Now;
    /// Random bytes; they need not stay secret.
    fn entropy(&mut self) -> Result<[u8; 16], Fault>;
}

/// The state machine. Each part owns its state; `Gatekeeper` passes events to the parts.
struct Gatekeeper {
    host: Box<dyn Host>,
    in_force: InForce,
    policy: Policy,
    replay: Replay,
    grants: Grants,
    journal: Journal,
    guard: Guard,
    trial: Trial,
    connections: Connections,
    review: Review,
    closing: Closing,
    commands: Commands,
    doors: Doors,
    joining: Joining,
    listeners: Listeners,
    xdp: Xdp,
    reload: Reload,
    requests: Requests,
    tasks: Tasks,
    out: Outbox,
    ends: KnockEnds,
    activity: Activity,
    next_check: Boot,
    /// Both clocks at the last event.
    last: Now,
    /// The deadline of the shutdown, once it has begun.
    ending: Option<Boot>,
}

impl Gatekeeper {
    /// Handles one event at the moment `now`.
    fn handle(&mut self, now: Now, event: Event) {
        self.out.begin(now);
        self.follow_clock(now);
        match event {
            Event::Terminate => self.terminate(now),
            Event::CommandEnded { id, end } => self.command_ended(now, id, end),
            Event::TaskDone { id, result } => self.task_done(now, id, result),
            Event::Deadline => self.meet_deadlines(now),
            Event::Network(network) => self.network_changed(now, network),
            // Nothing new starts during the shutdown.
            _ if self.ending.is_some() => {}
            Event::Hangup => self.reload_asked(None),
            Event::Listener { id, messages } => self.listener_messages(now, id, messages),
            Event::ListenerReady { id, ready } => self.listener_ready(now, id, ready),
            Event::ListenerLost { id, why } => self.listener_lost(now, id, why),
            Event::FirewallChanged { who } => self.guard_was_changed(now, &who),
            Event::FirewallUnsure => self.guard_is_unsure(now),
            Event::Asked { session, request } => self.asked(now, session, &request),
        }
        self.settle(now);
    }

    /// Grants and openings end by whichever clock ends them first.
    fn follow_clock(&mut self, now: Now) {
        let by = clock_jump(self.last, now);
        self.last = now;
        if let Ok(by @ 1..) = u64::try_from(by) {
            self.review_clock(now);
            self.commands.openings().clock_jumped(by);
        }
    }

    /// The outputs since the last call, in order.
    fn take_outputs(&mut self) -> Vec<Output> {
        self.out.take()
    }

    /// True if the next turn goes on with long work.
    fn has_more(&self) -> bool {
        self.review.is_under_way() || self.closing.is_under_way() || self.guard.comparison.is_some()
    }

    /// The moment at which [`Event::Deadline`] is due.
    fn deadline(&self) -> Boot {
        if self.has_more() {
            return self.last.boot;
        }
        let repairs = self.ending.is_none() && self.tasks.is_free(Lane::Guard);
        let deadlines = [
            self.grants.deadline(),
            self.commands.deadline(),
            self.listeners.deadline(),
            self.guard.deadline().filter(|_| repairs),
            self.trial.deadline().filter(|_| self.ending.is_none()),
            self.connections.deadline().filter(|_| self.tasks.is_free(Lane::Connections)),
            self.tasks.deadline(),
            self.requests.deadline(),
            self.ending,
        ];
        let all = deadlines.into_iter().flatten();
        all.min().unwrap_or(self.next_check).min(self.next_check)
    }

    /// True if the shutdown is complete or its deadline has passed.
    fn is_over(&self, now: Now) -> bool {
        let done =
            self.commands.are_idle() && self.journal.is_settled() && self.connections.are_cut();
        self.ending.is_some_and(|until| done || until <= now.boot)
    }

    /// Starts whatever has become possible. Runs after every event.
    fn settle(&mut self, now: Now) {
        if self.ending.is_none() {
            self.settle_commands(now);
            self.look_after_listeners(now);
            self.start_reload(now);
            self.start_guard_work(now);
            self.start_sequence_use(now);
            self.start_joining(now);
            self.start_xdp_work(now);
        }
        self.start_connection_work(now);
        self.journal.maintain(now, &mut self.tasks, &mut self.out);
        self.settle_requests(now);
        self.settle_closing();
    }

    fn meet_deadlines(&mut self, now: Now) {
        for lane in self.tasks.expire(now) {
            self.task_late(now, lane);
        }
        let changes = self.grants.expire(now);
        self.change_firewall(now, &changes);
        self.journal.defer(&self.grants.trim_past());
        self.review_some(now);
        self.close_some(now);
        self.compare(now);
        self.run_due_commands(now);
        self.end_due_trial(now);
        if self.next_check <= now.boot {
            self.next_check = now.boot.plus(CHECK);
            self.check(now);
        }
    }

    /// The periodic check: finds changes that cause no event.
    fn check(&mut self, now: Now) {
        if let Some(reason) = self.replay.challenge_reason(now) {
            let text =
                format!("every knock needs a challenge: {}", requests::challenge_text(reason));
            let event = LogEvent { level: Level::Warning, ..LogEvent::new(EventKind::Clock, text) };
            self.out.tell_at_most("challenge", 3600, event);
        }
        self.look_after_journal(now);
        self.check_listeners();
        self.xdp.look_again();
        self.end_spent(now);
        self.look_after_guard(now);
        self.look_after_connections();
        self.log_refused_openings();
        self.out.log_suppressed();
    }

    /// Brings the next periodic check forward to one second from now.
    fn check_soon(&mut self, now: Now) {
        self.next_check = self.next_check.min(now.boot.plus(1));
    }

    /// Handles the result of a task. A late result counts only where it still states a fact: the
    /// enrolled clients, the state files, the rules in the guard, a used sequence.
    fn task_done(&mut self, now: Now, id: TaskId, result: TaskResult) {
        let Some((lane, late)) = self.tasks.ended(id) else { return };
        match result {
            TaskResult::State(done) => self.journal_task_done(done),
            TaskResult::Clients(Ok(read)) => self.clients_read(now, Ok(read)),
            TaskResult::Guard(_) if late && lane == Lane::Guard => self.guard.restore_rules(),
            TaskResult::UsedUp(door, result) if late => self.late_sequence_used(&door, result),
            _ if late => {}
            TaskResult::Clients(result) => self.clients_read(now, result),
            TaskResult::Loaded(result) => self.config_loaded(now, result),
            TaskResult::Guard(result) if lane == Lane::Connections => {
                self.connection_work_done(now, result)
            }
            TaskResult::Guard(result) => self.guard_work_done(now, result),
            TaskResult::LookedAtFirewall(result) => self.grant_looked_at(result),
            TaskResult::UsedUp(_, result) => self.sequence_used(now, result),
            TaskResult::Joined(result) => self.join_done(now, result),
            TaskResult::Xdp(target, states) => self.xdp_done(target, states),
        }
    }

    /// Handles a task that missed its deadline: the work that waits for it fails.
    fn task_late(&mut self, now: Now, lane: Lane) {
        let fault = lane.late();
        match lane {
            Lane::Clients => self.clients_read(now, Err(fault)),
            Lane::Config => self.config_loaded(now, Err(fault)),
            Lane::Guard => self.guard_work_done(now, Err(fault)),
            Lane::Connections => self.connection_work_done(now, Err(fault)),
            Lane::State => self.journal_task_late(&fault),
            Lane::Files => self.sequence_used(now, Err(fault.what)),
            Lane::Joining => self.join_done(now, Err(fault)),
            Lane::Xdp => self.xdp_late(),
        }
    }

    /// Logs the state of the gateway and reports ready to the service manager.
    fn announce(&mut self, now: Now) {
        self.out.begin(now);
        self.record_time(now, 60);
        self.journal.maintain(now, &mut self.tasks, &mut self.out);
        if let Some(damage) = self.journal.damage() {
            self.out.tell(LogEvent::new(EventKind::State, format!("state: {damage}")).failed());
        }
        for limitation in self.limitations(now) {
            self.out.log(EventKind::Warning, format!("degraded: {limitation}"));
        }
        for warning in &self.in_force.prepared().warnings {
            self.out.log(EventKind::Warning, format!("warning: {warning}"));
        }
        self.out.log(EventKind::Start, self.ready_line());
        self.announce_trial(now);
        self.start_xdp_work(now);
        self.out.push(Output::TellReady);
    }

    fn ready_line(&self) -> String {
        use crate::app::output::count;
        let settings = self.in_force.settings();
        let interfaces = self.listeners.at_work().map(|listener| listener.interfaces.join(", "));
        format!(
            "ready: sealed knocks on udp/{} of {}; {}, {}, {}",
            settings.knock.port,
            interfaces.unwrap_or_default(),
            count(settings.services.len(), "service"),
            count(self.in_force.clients().len(), "client"),
            count(settings.doors.len(), "door"),
        )
    }

    /// Begins the shutdown: ends the listeners, fails the reload, and runs the stop commands that
    /// are still due.
    fn terminate(&mut self, now: Now) {
        if self.ending.is_none() {
            self.ending = Some(now.boot.plus(PATIENCE));
            self.reload_failed(&Fault::new(
                "toctocd is shutting down",
                "start it again: it reads everything then",
            ));
            self.listeners.end_all(&mut self.out);
            self.record_time(now, 0);
            self.stop_all_commands(now);
        }
    }

    /// The last line of the log.
    fn last_line(&self, now: Now) -> String {
        let stands = match (self.guard.is_off(), self.trial.state(now)) {
            (true, TrialState::Over) => {
                "the guard is off, and stays off until `toctocd guard on`".to_owned()
            }
            (true, _) => "the guard stays off until the next start".to_owned(),
            (false, TrialState::Running { seconds_left, .. }) => format!(
                "the guard stays up until its trial ends in {seconds_left} s, and is open for an \
                 hour then, unless the gateway runs again; to turn it off now: toctocd guard off"
            ),
            (false, _) => "the guard stays up, and the kernel ends its grants".to_owned(),
        };
        format!("shutting down; {stands}")
    }
}
