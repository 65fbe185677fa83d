//! Sealed knocks. The order is fixed: signature, decision, one commit for all, firewall, verdicts.
//! See `core` for the rules of each step.

use super::Gatekeeper;
use super::events::ListenerId;
use super::trial::TrialGrant;
use crate::core::authentic::{Authentic, AuthenticEnrolment, Handshake};
use crate::core::event::{EventKind, KnockId};
use crate::core::grants::{ActiveGrant, Change, Element, GrantEnd, GrantKey, Grants};
use crate::core::keyring::{Day, GateKey};
use crate::core::knock::{HandedKnock, RECEIPT_BODY, Status};
use crate::core::openings::JournalledOpening;
use crate::core::policy::{Committed, Decision, commit_with};
use crate::core::replay::Alarm;
use crate::core::reply::Reply;
use crate::core::types::{ClientId, Fault, Now, Reject, SECOND, Source, Wall};
use crate::edge::gatekeeper_pipe::ToListener;
use crate::edge::log::{LogEvent, clock_time, date_time};

struct Decided {
    ticket: u64,
    decision: Decision,
}

/// Whose knock it is, as the listener says. Proven once its signature is.
#[derive(Clone, Copy)]
struct KnockOrigin {
    client: ClientId,
    source: Source,
    id: KnockId,
}

/// A reply that is ready, the element that it depends on, if any, and whether it waits until
/// connections are cut.
struct PendingVerdict {
    ticket: u64,
    reply: Reply,
    element: Option<Element>,
    cuts: bool,
}

impl Gatekeeper {
    /// Decides on knocks that arrived together. One commit serves them all.
    pub(super) fn handle_knocks(
        &mut self, now: Now, listener: ListenerId, knocks: Vec<HandedKnock>,
    ) {
        let mut decided = Vec::new();
        for knock in knocks {
            let HandedKnock { ticket, client, source, .. } = knock;
            match self.decide(now, knock) {
                Ok(decision) => decided.push(Decided { ticket, decision }),
                Err(reject) => {
                    let name = self.in_force.client_name(client);
                    self.activity.rejected(now, name, source, reject);
                    self.silence(listener, ticket, reject, reject == Reject::Replayed);
                }
            }
        }
        if !decided.is_empty() {
            self.commit_knocks(now, listener, decided);
        }
    }

    fn decide(&mut self, now: Now, knock: HandedKnock) -> Result<Decision, Reject> {
        if !self.journal.is_writable() {
            return Err(Reject::State);
        }
        if self.policy.is_invitation(self.replay.latest(now), knock.client) {
            return self.decide_enrolment(now, &knock);
        }
        // A client that a reload removed is unknown, even if a listener still reports its knocks.
        let Some(client) = self.policy.client(self.replay.latest(now), knock.client) else {
            self.log_bad_key(knock.client);
            self.log_expired(now, knock.client);
            return Err(Reject::Policy);
        };
        let gate = self.gate_key(now, client.id, knock.day).ok_or(Reject::Clock)?;
        let origin = KnockOrigin::of(&knock);
        // Use our own id: `h` is bound to a gateway key too, but it comes from the listener.
        let verified = Authentic::verify(knock, client, self.in_force.gateway(), &gate);
        let authentic = self.watched(origin, verified)?;
        let entropy = self.host.entropy().map_err(|_| Reject::State)?;
        let decision =
            self.policy.decide(now, authentic, &mut self.replay, &mut self.grants, entropy);
        self.unless_refused(origin, decision)
    }

    /// Decides on a knock under the id of an invitation. Which ids are invitations is known from
    /// the table of clients, never from the listener.
    fn decide_enrolment(&mut self, now: Now, knock: &HandedKnock) -> Result<Decision, Reject> {
        let gate = self.gate_key(now, knock.client, knock.day).ok_or(Reject::Clock)?;
        let verified = AuthenticEnrolment::verify(knock, self.in_force.gateway(), &gate);
        let origin = KnockOrigin::of(knock);
        let enrolment = self.watched(origin, verified)?;
        let entropy = self.host.entropy().map_err(|_| Reject::State)?;
        let decision = self.policy.decide_enrolment(now, enrolment, &mut self.replay, entropy);
        self.unless_refused(origin, decision)
    }

    /// The proof, or a line in the log: an alarm if somebody without the client's gate key has
    /// tried to make one.
    fn watched<T>(
        &mut self, origin: KnockOrigin, verified: Result<T, Reject>,
    ) -> Result<T, Reject> {
        match &verified {
            Err(Reject::Gate) => self.log_forgery(origin),
            Err(reject) => self.log_ignored(origin, *reject),
            Ok(_) => {}
        }
        verified
    }

    /// The decision, if it leads to a reply.
    fn unless_refused(
        &mut self, origin: KnockOrigin, decision: Decision,
    ) -> Result<Decision, Reject> {
        match decision {
            Decision::Refuse(refused) => {
                match refused.alarm {
                    Some(Alarm { client, first, again }) => {
                        self.log_alarm(client, first, again, Some(origin.id));
                    }
                    None => self.log_ignored(origin, refused.reject),
                }
                Err(refused.reject)
            }
            decision => Ok(decision),
        }
    }

    /// The client's gate key of this day. `None` if it is not near the client's working day: no
    /// listener has keys of such a day, so this one keeps old ones.
    fn gate_key(&self, now: Now, id: ClientId, day: Day) -> Option<GateKey> {
        let secrets = self.in_force.client_secrets(id);
        if let Day::Number(number) = day
            && number.abs_diff(self.replay.working_day(now, id, secrets.first_day())) > 1
        {
            return None;
        }
        secrets.gate(day)
    }

    fn commit_knocks(&mut self, now: Now, listener: ListenerId, decided: Vec<Decided>) {
        let mut tickets = Vec::new();
        let mut decisions = Vec::new();
        for Decided { ticket, decision } in decided {
            tickets.push(ticket);
            decisions.push(decision);
        }
        let openings = self.openings_for(now, &decisions);
        match commit_with(decisions, openings, |records| self.journal.commit(records)) {
            Ok((committed, openings)) => self.act_on(listener, tickets, committed, openings),
            Err(fault) => self.give_up(listener, &tickets, &fault),
        }
    }

    /// Acts on committed decisions: the marks are on disk, so the firewall may change.
    fn act_on(
        &mut self, listener: ListenerId, tickets: Vec<u64>, committed: Vec<Committed>,
        openings: Vec<JournalledOpening>,
    ) {
        // The commit may have taken long; grants have less time left.
        let now = self.host.now();
        let mut changes = Vec::new();
        let mut pending = Vec::new();
        for (ticket, committed) in tickets.into_iter().zip(committed) {
            match committed {
                Committed::Join(applicant) => self.join_later(now, listener, ticket, applicant),
                other => pending.extend(self.change_grants(now, ticket, other, &mut changes)),
            }
        }
        let applied = self.apply(now, &changes);
        if let Err(fault) = &applied {
            self.log_firewall_refusal(fault);
            self.take_back(now, &pending);
        }
        for one in pending {
            self.conclude(now, listener, one, applied.is_ok(), &changes);
        }
        self.begin(now, openings);
    }

    fn change_grants(
        &mut self, now: Now, ticket: u64, committed: Committed, changes: &mut Vec<Change>,
    ) -> Option<PendingVerdict> {
        Some(match committed {
            Committed::Open(grant) => {
                let (mine, reply) = self.grants.open(now, grant);
                changes.extend(mine);
                let element = reply.granted.as_ref().and_then(ActiveGrant::element);
                PendingVerdict { ticket, reply, element, cuts: false }
            }
            Committed::Close(keys, how, reply) => {
                let (mine, records) = self.grants.end(now, &keys, how);
                let cuts = mine.iter().any(|change| matches!(change, Change::Cut { .. }));
                if cuts {
                    // The commit remembers grants whose connections might have gone on.
                    self.journal.defer(&records);
                }
                changes.extend(mine);
                PendingVerdict { ticket, reply, element: None, cuts }
            }
            Committed::Tell(reply) => PendingVerdict { ticket, reply, element: None, cuts: false },
            Committed::Join(_) => return None,
        })
    }

    fn conclude(
        &mut self, now: Now, listener: ListenerId, pending: PendingVerdict, applied: bool,
        changes: &[Change],
    ) {
        let PendingVerdict { ticket, mut reply, element, cuts } = pending;
        if cuts {
            return self.reply_when_cut(listener, ticket, reply);
        }
        if reply.granted.is_some() && element.is_none() {
            return self.reply_later(now, listener, ticket, reply);
        }
        if let Some(element) = element {
            // A receipt reports what the kernel took, not what we asked for.
            let over = reply.granted.is_some_and(|grant| grant.seconds_left(now) == 0);
            if over || !applied || !self.guard.took(&element, changes) {
                self.ends.reject(Reject::Firewall);
                reply = reply.trouble();
            }
        }
        self.give_verdict(now, listener, ticket, &reply);
    }

    /// Ends grants that the firewall refused. The disk comes first, so that a crash in between does
    /// not bring them back.
    fn take_back(&mut self, now: Now, pending: &[PendingVerdict]) {
        let mut keys: Vec<GrantKey> = Vec::new();
        for one in pending.iter().filter(|one| one.element.is_some()) {
            keys.extend(one.reply.granted.map(|grant| grant.key));
        }
        if let Err(fault) = self.journal.commit(&Grants::endings(&keys)) {
            self.commit_failed(&fault);
        }
        self.grants.end(now, &keys, GrantEnd::Revoked);
    }

    /// Drops all knocks of a failed commit: nothing is durable, so nothing opens and no receipt is
    /// sent.
    fn give_up(&mut self, listener: ListenerId, tickets: &[u64], fault: &Fault) {
        self.grants.give_up();
        self.commit_failed(fault);
        for ticket in tickets {
            self.silence(listener, *ticket, Reject::State, true);
        }
    }

    /// Ends a knock with a reply: sends its receipt if there is one, then logs it.
    pub(super) fn give_verdict(
        &mut self, now: Now, listener: ListenerId, ticket: u64, reply: &Reply,
    ) {
        self.send_verdict(now, listener, ticket, reply);
        self.log_knock(now, reply);
        self.try_to_confirm(reply);
    }

    /// The same without a line in the log.
    pub(super) fn send_verdict(
        &mut self, now: Now, listener: ListenerId, ticket: u64, reply: &Reply,
    ) {
        self.ends.answered(reply);
        self.activity.answered(now, self.in_force.client_name(reply.client), reply);
        let receipt = self.receipt(now, reply);
        let spent = reply.status != Status::Address;
        self.out.send(listener, ToListener::Verdict { ticket, spent, receipt });
    }

    /// The receipt with its MAC, if the client wants one. The listener gets the keys of the working
    /// day that it names.
    fn receipt(&mut self, now: Now, reply: &Reply) -> Option<[u8; RECEIPT_BODY]> {
        let secrets = self.in_force.client_secrets(reply.client);
        let working_day = self.replay.working_day(now, reply.client, secrets.first_day());
        let receipt = reply.receipt(now, working_day)?;
        if matches!(reply.status, Status::Clock | Status::Challenge) {
            // The client goes on with the keys of that day.
            self.listeners.tell_working_day(reply.client, working_day, &mut self.out);
        }
        let Handshake { day, h } = reply.handshake;
        Some(receipt.with_mac(&secrets.gate(day)?, self.in_force.gateway(), &h))
    }

    /// Ends a knock without a reply.
    fn silence(&mut self, listener: ListenerId, ticket: u64, reject: Reject, spent: bool) {
        self.ends.reject(reject);
        self.out.send(listener, ToListener::Verdict { ticket, spent, receipt: None });
    }

    /// Logs one event for each knock with a valid signature.
    fn log_knock(&mut self, now: Now, reply: &Reply) {
        let (client, from, service) =
            (self.in_force.client_name(reply.client), reply.source, reply.service);
        let event = match (reply.status, reply.granted) {
            (Status::Granted, Some(grant)) => {
                let (who, seconds) = (grant.key.who(), grant.seconds_left(now));
                let until = clock_time(now.wall.plus(seconds));
                let elsewhere = match grant.key.span.of(from) == grant.key.source {
                    true => String::new(),
                    false => format!(", asked from {from}"),
                };
                let text = format!(
                    "{client}: {service} granted to {who} for {seconds} s, until {until}{elsewhere}"
                );
                let kind = match reply.extends {
                    true => EventKind::Extended,
                    false => EventKind::Granted,
                };
                LogEvent::new(kind, text).address(who).seconds(seconds)
            }
            (Status::Closed, _) => {
                let text = format!("{client}: {service} closed, asked from {from}");
                LogEvent::new(EventKind::Closed, text).address(from)
            }
            (Status::Observed, _) => {
                LogEvent::new(EventKind::Probe, format!("{client}: probe from {from}"))
                    .address(from)
            }
            (Status::Clock, _) if reply.handshake.day == Day::Unknown => {
                let text = format!("{client}: asked for the time, from {from}");
                LogEvent::new(EventKind::Time, text).address(from)
            }
            (status, _) => {
                let why = match status {
                    Status::Address if reply.address == from => NEVER_GRANTED.to_owned(),
                    Status::Denied => self.why_denied(now, reply),
                    status => reason(status).to_owned(),
                };
                let text = format!("{client}: refused from {from}: {why}");
                LogEvent::new(EventKind::Refused, text).address(from).reason(status.word())
            }
        };
        self.out.tell(event.of(reply.id()).client(client).service(service));
    }

    /// Logs that a knock opens nothing and is not answered: its client asks why. Somebody who
    /// repeats packets must not fill the log.
    fn log_ignored(&mut self, origin: KnockOrigin, reject: Reject) {
        let why = match reject {
            Reject::Replayed => "it was used before, or is older than one that was",
            Reject::Clock => "its timestamp is outside the window",
            Reject::Address => "it names another address than it came from, and was told so before",
            Reject::Signature => "its signature is not of the enrolled key, or lacks the touch",
            // Never made by a client of ours; counted.
            _ => return,
        };
        let KnockOrigin { client, source, id } = origin;
        let name = self.in_force.client_name(client);
        let text = format!("{name}: a knock from {source} is not answered: {why}");
        let event = LogEvent::new(EventKind::Ignored, text).of(id).client(name);
        let event = event.address(source).reason(reject.name());
        // An unsigned one proves nothing, so whoever makes many gets one line for all.
        let signed = Some(id).filter(|_| reject != Reject::Signature);
        self.out.tell_of_knock(reject.name(), client, signed, event);
    }

    pub(super) fn log_firewall_refusal(&mut self, fault: &Fault) {
        let text = format!("the firewall refused a grant: {fault}");
        self.out.tell(LogEvent::new(EventKind::Guard, text).failed());
    }

    /// Confirms the trial of the guard, if the grant's source is another machine.
    fn try_to_confirm(&mut self, reply: &Reply) {
        let Some(grant) = reply.granted.filter(|_| reply.status == Status::Granted) else { return };
        let source = grant.key.source;
        if !source.ip().is_loopback() && !self.in_force.is_own(source) {
            let client = self.in_force.client_name(reply.client);
            let by = format!("{client}: {} for {source}", reply.service);
            let v6 = source.ip().is_ipv6();
            self.confirm_trial(TrialGrant { by, service: reply.service, v6 });
        }
    }

    /// Logs that a client's key is not one that may be enrolled. In a long clients file that is
    /// found out when the client knocks.
    fn log_bad_key(&mut self, id: ClientId) {
        if let Some(fault) = self.policy.clients().key_fault(id) {
            let name = self.in_force.client_name(id);
            let text = format!("{name}: its knocks open nothing: {fault}");
            self.out.tell_of_client("key", id, ignored(text, name, "policy"));
        }
    }

    /// Logs that a client whose enrolment is over knocks: its user gets no answer, and asks why.
    fn log_expired(&mut self, now: Now, id: ClientId) {
        let latest = self.replay.latest(now).0 / SECOND;
        let Some(client) = self.in_force.clients().get(id) else { return };
        let Some(expires) = client.expires.filter(|expires| *expires <= latest) else { return };
        let (name, ended) = (&client.name, date_time(Wall(expires.saturating_mul(SECOND))));
        let text = format!(
            "{name}: its knocks open nothing: its enrolment ended at {ended}. To renew it, change \
             `expires` in its line of the clients file, then `toctocd reload`"
        );
        self.out.tell_of_client("expired", id, ignored(text, name.to_string(), "expired"));
    }

    /// Logs that the listener handed over a knock that its client did not make.
    fn log_forgery(&mut self, origin: KnockOrigin) {
        let name = self.in_force.client_name(origin.client);
        let text = format!(
            "ALARM: somebody has the keys that the listener has of {name}, but not {name}'s profile, \
             and made a knock with them. It opened nothing. Was the listener taken over, now or \
             earlier? See SECURITY.md"
        );
        let event = LogEvent::new(EventKind::Alarm, text).of(origin.id).client(name);
        let event = event.address(origin.source).reason("gate");
        self.out.tell_of_client("gate", origin.client, event);
    }

    /// Logs a used knock that came again from another source. Its id is known if the gatekeeper
    /// noticed it.
    pub(super) fn log_alarm(
        &mut self, client: ClientId, first: Source, again: Source, id: Option<KnockId>,
    ) {
        // A listener that somebody took over may name anybody.
        let Some(client) = self.in_force.clients().get(client) else { return };
        let name = &client.name;
        let text = format!(
            "ALARM: a used knock of {name}, first from {first}, came again from {again}: somebody is on the path"
        );
        let event = LogEvent { id, ..LogEvent::new(EventKind::Alarm, text).client(name.as_str()) };
        self.out.tell_of_client("used", client.id, event.address(again).reason("replayed"));
    }
}

impl KnockOrigin {
    fn of(knock: &HandedKnock) -> KnockOrigin {
        KnockOrigin { client: knock.client, source: knock.source, id: KnockId::of(&knock.h) }
    }
}

/// A client's knocks are not answered, whatever is in them.
fn ignored(text: String, client: String, reason: &'static str) -> LogEvent {
    LogEvent::new(EventKind::Ignored, text).client(client).reason(reason)
}

/// The reason why an address that was named truthfully is not granted.
pub(super) const NEVER_GRANTED: &str = "this is not the address of one other machine, or a device \
    in front of this one may give it to everybody (docs/firewall.md, `also_grant`)";

pub(super) fn reason(status: Status) -> &'static str {
    match status {
        Status::Granted | Status::Closed | Status::Observed | Status::Enrolled => {
            "nothing was wrong"
        }
        Status::Address => "it names another address than it came from",
        Status::Clock => "its timestamp is outside the window",
        Status::Denied => "not allowed to this client",
        Status::Full => "too many live grants",
        Status::Challenge => "it needs a challenge",
        Status::Trouble => "the firewall did not take the grant, or its start command failed",
        Status::Pending => "its key waits for approval",
        Status::Taken => "another key has used this invitation",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_refusal_has_words_of_its_own() {
        let refusals = [
            Status::Address,
            Status::Clock,
            Status::Denied,
            Status::Full,
            Status::Challenge,
            Status::Trouble,
        ];
        let words: BTreeSet<&str> = refusals.into_iter().map(reason).collect();
        assert_eq!(words.len(), refusals.len(), "{words:?}");
        assert!(
            reason(Status::Denied).contains("not allowed")
                && reason(Status::Clock).contains("window")
        );
    }
}
