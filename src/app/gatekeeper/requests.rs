//! The admin's requests over the control socket, and the replies.
//! See `app::admin` for how they are shown.

use super::Gatekeeper;
use super::events::Output;
use super::guard::GuardWork;
use super::journal::not_writable;
use super::trial::TrialChange;
use crate::app::admin::GatewayStatus;
use crate::config::DEFAULT_ROUTE;
use crate::core::event::EventKind;
use crate::core::replay::{ChallengeReason, ClockFault};
use crate::core::types::{Boot, ClientId, Fault, Now, SECOND};
use crate::edge::control::{ControlRequest, ControlResponse, SessionId};
use crate::edge::log::LogEvent;
use crate::edge::log::date_time;

/// Seconds that a status request waits for the comparison of every rule.
const PATIENCE: u32 = 3;

/// Requests that wait for a reply.
#[derive(Default)]
pub(super) struct Requests {
    /// Status requests that wait for a check of the guard.
    status: Vec<SessionId>,
    /// The deadline of the status requests.
    status_due: Option<Boot>,
    unstored: Vec<UnstoredReply>,
}

/// A reply that waits until the deferred records are durable.
struct UnstoredReply {
    session: SessionId,
    answer: serde_json::Value,
    /// True if the admin gets the fault instead when the disk fails.
    needs_disk: bool,
}

impl Requests {
    /// The moment at which the waiting status requests must be answered.
    pub(super) fn deadline(&self) -> Option<Boot> {
        self.status_due
    }
}

impl Gatekeeper {
    pub(super) fn asked(&mut self, now: Now, session: SessionId, request: &ControlRequest) {
        match request {
            ControlRequest::Status => self.status_asked(now, session),
            ControlRequest::Overview => {
                let overview = self.overview(now);
                self.reply_value(session, serde_json::to_value(overview));
            }
            ControlRequest::Grants { after, most } => {
                self.grants_asked(now, session, after.as_deref(), *most);
            }
            ControlRequest::Close { .. } => self.close_asked(now, session, request),
            ControlRequest::Events { after } => self.events_asked(session, *after),
            ControlRequest::Reload => self.reload_asked(Some(session)),
            ControlRequest::GuardOn { confirm } => {
                let change = TrialChange::asked(now, *confirm);
                self.guard.want(GuardWork::TurnOn(Some(session), change));
            }
            ControlRequest::Trial => {
                let state = serde_json::to_value(self.trial.state(now));
                self.reply_value(session, state);
            }
            ControlRequest::GuardOff => self.guard.want(GuardWork::TurnOff(session)),
            ControlRequest::FindClient { name, after } => {
                let found = self.find_client(name, after.map(ClientId));
                self.reply_value(session, serde_json::to_value(found));
            }
            ControlRequest::ShowClient { id } => {
                let state = self.client_state(now, ClientId(*id));
                self.reply_value(session, serde_json::to_value(state));
            }
            ControlRequest::Revoke { id } => self.revoke_asked(now, session, ClientId(*id)),
            ControlRequest::CanFollow(new) => match self.in_force.check_can_follow(new) {
                Ok(()) => self.out.push(Output::Reply(session, said_response("yes"))),
                Err(fault) => self.out.push(Output::Reply(session, fault.into())),
            },
            ControlRequest::Explain(question) => match self.foresee(now, question) {
                Ok(foreseen) => self.reply_value(session, serde_json::to_value(foreseen)),
                Err(fault) => self.reply_fault(session, fault),
            },
            ControlRequest::Reinitialise => match self.reinitialise(now) {
                Ok(said) => {
                    self.out.log(EventKind::Admin, said.clone());
                    self.reply_when_stored(session, said_value(&said), true);
                }
                Err(fault) => self.reply(session, Err(fault), "not re-initialised"),
            },
        }
    }

    /// Sends the outcome to the admin and to the log.
    pub(super) fn reply(&mut self, session: SessionId, outcome: Result<String, Fault>, not: &str) {
        match outcome {
            Ok(said) => {
                self.out.log(EventKind::Admin, said.clone());
                self.out.push(Output::Reply(session, said_response(&said)));
            }
            Err(fault) => {
                let event = LogEvent::new(EventKind::Admin, format!("{not}: {fault}"));
                self.out.tell(event.failed());
                self.out.push(Output::Reply(session, fault.into()));
            }
        }
    }

    /// Sends the reply once all deferred records are durable.
    pub(super) fn reply_when_stored(
        &mut self, session: SessionId, answer: serde_json::Value, needs_disk: bool,
    ) {
        self.requests.unstored.push(UnstoredReply { session, answer, needs_disk });
    }

    pub(super) fn reply_fault(&mut self, session: SessionId, fault: Fault) {
        self.out.push(Output::Reply(session, fault.into()));
    }

    pub(super) fn reply_value(
        &mut self, session: SessionId, value: serde_json::Result<serde_json::Value>,
    ) {
        let response = match value {
            Ok(value) => ControlResponse::Ok(value),
            Err(error) => Fault::new(error.to_string(), "").into(),
        };
        self.out.push(Output::Reply(session, response));
    }

    /// Sends the replies that are due. An admin who revokes is told so when all of it is done.
    pub(super) fn settle_requests(&mut self, now: Now) {
        let is_done = !self.review.is_under_way() && self.connections.are_cut();
        if self.journal.is_settled() && is_done {
            let fault = not_writable();
            self.answer_unstored(Some(&fault).filter(|_| !self.journal.is_writable()));
        }
        if self.requests.status_due.is_some_and(|due| due <= now.boot) {
            let text = "the guard could not be looked at: the nft program does not answer";
            self.out.tell_at_most("status", 60, LogEvent::new(EventKind::Guard, text).failed());
            self.answer_status(now, false);
        }
    }

    /// Sends the replies that wait for the disk. A fault means that their records are not durable.
    pub(super) fn answer_unstored(&mut self, fault: Option<&Fault>) {
        for UnstoredReply { session, answer, needs_disk } in
            std::mem::take(&mut self.requests.unstored)
        {
            let response = match fault {
                Some(fault) if needs_disk => fault.clone().into(),
                _ => ControlResponse::Ok(answer),
            };
            self.out.push(Output::Reply(session, response));
        }
    }

    /// Answers at once if the guard is off. Otherwise waits for a check of the guard, which runs a
    /// process.
    fn status_asked(&mut self, now: Now, session: SessionId) {
        self.requests.status.push(session);
        self.ask_for_counters();
        if self.guard.is_off() {
            self.answer_status(now, false);
        } else {
            self.requests.status_due.get_or_insert(now.boot.plus(PATIENCE));
            self.guard.want_check();
        }
    }

    /// Answers all status requests, with the result of the guard check.
    pub(super) fn answer_status(&mut self, now: Now, guard: bool) {
        self.requests.status_due = None;
        self.guard.looked_at(guard);
        for session in std::mem::take(&mut self.requests.status) {
            let status = GatewayStatus {
                ahead: self.clients_ahead(now),
                open: self.services_with_grants(),
                knocked: self.last_knocks(now),
                ..self.status(now, guard)
            };
            self.reply_value(session, serde_json::to_value(status));
        }
    }

    /// What the overview has of the status.
    pub(super) fn status(&mut self, now: Now, guard: bool) -> GatewayStatus {
        self.end_spent(now);
        let challenges = self.replay.challenge_reason(now);
        let settings = self.in_force.settings();
        let listener = self.listeners.at_work();
        GatewayStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            since: date_time(self.in_force.started().wall),
            started: self.in_force.started().wall.0 / SECOND,
            knock_port: settings.knock.port,
            interfaces: listener.map(|listener| listener.interfaces.clone()).unwrap_or_default(),
            guard,
            guard_off: self.guard.is_off(),
            trial: self.trial.state(now),
            state: self.journal.describe().to_owned(),
            clock: challenges.map_or_else(|| "sure".to_owned(), challenge_text),
            ahead: Vec::new(),
            xdp: self.xdp.status(),
            xdp_dropped: self.listeners.packets().xdp(),
            degraded: self.limitations(now),
            break_glass: settings.firewall.break_glass.iter().map(ToString::to_string).collect(),
            services: settings.services.len(),
            clients: self.in_force.clients().len(),
            doors: settings.doors.len(),
            grants: self.grants.count(),
            packets: self.ends.counts(&self.listeners.packets()),
            open: Vec::new(),
            knocked: Vec::new(),
        }
    }

    /// The clients with used-knock marks in the future, and the time of the last mark.
    fn clients_ahead(&self, now: Now) -> Vec<(String, String)> {
        let mut ahead = Vec::new();
        for (id, until) in self.replay.ahead(now) {
            if let Some(client) = self.in_force.clients().get(id) {
                ahead.push((client.name.to_string(), date_time(until)));
            }
        }
        ahead.sort();
        ahead
    }

    /// Everything that does not work on this machine, or not at the moment.
    pub(super) fn limitations(&self, now: Now) -> Vec<String> {
        let mut all = Vec::from_iter(self.listeners.describe_losses(now));
        let Some(listener) = self.listeners.at_work() else {
            all.push("no listener is running: knocks are not received".to_owned());
            return all;
        };
        all.extend(listener.limitations.iter().cloned());
        all.extend(self.guard.limitations());
        all.extend(self.in_force.rights().limitation());
        for name in &listener.missing {
            all.push(match name == DEFAULT_ROUTE {
                true => "there is no default route: no knock is heard by it".to_owned(),
                false => format!("interface {name} is not there: no knock is heard on it"),
            });
        }
        all.extend(self.xdp.limitations());
        let barred = self.barred();
        if barred > 0 {
            all.push(format!(
                "{barred} revoked but still in the clients file: repeat `toctocd client revoke` \
                 before this gateway ends"
            ));
        }
        if self.listeners.hold_first_steps {
            let what = "a flood of first steps at doors: until it is over, the kernel holds them, \
                        and the first step counts as made by everybody";
            all.push(what.to_owned());
        }
        let lost = self.listeners.packets().lost();
        if lost > 0 {
            all.push(format!("{lost} packets were lost for want of room"));
        }
        all
    }
}

fn said_response(said: &str) -> ControlResponse {
    ControlResponse::Ok(said_value(said))
}

/// An answer for an admin to read.
pub(super) fn said_value(said: &str) -> serde_json::Value {
    serde_json::json!({ "said": said })
}

/// The reason why every knock needs a challenge, for the log and the status.
pub(super) fn challenge_text(reason: ChallengeReason) -> String {
    match reason {
        ChallengeReason::Lost(_) => {
            "marks of used knocks were lost; `toctocd reinitialise` accepts that".to_owned()
        }
        ChallengeReason::Clock(ClockFault::Behind(nanos)) => {
            format!("the clock shows {} s less than it did before", nanos.div_ceil(SECOND))
        }
        ChallengeReason::Clock(ClockFault::Jumped(nanos)) => {
            let seconds = nanos.unsigned_abs().div_ceil(SECOND);
            let way = if nanos > 0 { "forward" } else { "back" };
            format!(
                "the clock jumped {seconds} s {way}; it is trusted again once it has run evenly for ten minutes"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_is_told_by_how_much_and_which_way_the_clock_is_wrong() {
        let words = |fault| challenge_text(ChallengeReason::Clock(fault));
        assert!(words(ClockFault::Behind(7 * SECOND)).contains("shows 7 s less"));
        assert!(words(ClockFault::Jumped(7_000_000_000)).contains("jumped 7 s forward"));
        assert!(words(ClockFault::Jumped(-7_000_000_000)).contains("jumped 7 s back"));
    }
}
