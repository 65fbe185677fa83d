//! What becomes of sealed knocks: signature, decision, one commit for all, firewall, verdicts. In
//! this order, always. How each step is decided is left to `core`.

use super::Gatekeeper;
use crate::app::listener_process::ListenerProcess;
use crate::core::authentic::{Authentic, Claim};
use crate::core::grants::{Change, Element, GrantEnd, GrantKey, Grants, Holder};
use crate::core::knock::{BODY, Status};
use crate::core::policy::{Committed, Decision, commit_with};
use crate::core::replay::{Alarm, Refused};
use crate::core::reply::Reply;
use crate::core::types::{ClientId, Fault, Now, Reject, Source};
use crate::edge::gatekeeper_pipe::ToListener;
use crate::edge::log::clock_time;
use crate::edge::{clock, entropy};

/// What the listener handed up. Nothing of it is proven.
pub(super) struct HandedKnock {
    /// For the verdict.
    pub(super) ticket: u64,
    /// Whose it seems to be.
    pub(super) row: u32,
    /// The handshake hash.
    pub(super) h: [u8; 32],
    /// The body, signature included.
    pub(super) body: [u8; BODY],
    /// Where it came from.
    pub(super) source: Source,
    /// And from which port.
    pub(super) source_port: u16,
}

/// An answer that is ready, and the grant in the firewall that it depends on.
struct PendingVerdict {
    ticket: u64,
    answer: Reply,
    grant: Option<GrantKey>,
}

impl Gatekeeper {
    /// Judges what came in one turn.
    pub(super) fn judge(
        &mut self,
        now: Now,
        child: &mut ListenerProcess,
        knocks: Vec<HandedKnock>,
    ) {
        let mut tickets = Vec::new();
        let mut decisions = Vec::new();
        for knock in knocks {
            let ticket = knock.ticket;
            match self.decide(now, child, knock) {
                Ok(decision) => {
                    tickets.push(ticket);
                    decisions.push(decision);
                }
                Err(reject) => {
                    self.counters.count(reject);
                    silence(child, ticket, reject == Reject::Replayed);
                }
            }
        }
        if decisions.is_empty() {
            return;
        }
        let openings = self.openings_for(now, &decisions);
        match commit_with(decisions, openings, |records| self.state.commit(records)) {
            // The commit may have taken long, and what a grant has left is less by that.
            Ok((done, journalled)) => {
                self.carry_out_knocks(clock::now(), child, tickets, done);
                self.begin(clock::now(), journalled);
            }
            Err(fault) => self.lost_commit(child, &tickets, &fault),
        }
    }

    fn decide(
        &mut self,
        now: Now,
        child: &ListenerProcess,
        knock: HandedKnock,
    ) -> Result<Decision, Reject> {
        if self.broken {
            return Err(Reject::State);
        }
        let row = usize::try_from(knock.row).ok().and_then(|row| child.rows.get(row));
        // A client that a reload has removed is unknown, whatever an old listener still says.
        let client = row.and_then(|id| self.policy.client(now, *id)).ok_or(Reject::Policy)?;
        let HandedKnock { h, body, source, source_port, .. } = knock;
        let claim = Claim { client: client.id, h, body, source, source_port };
        // Our own name: `h` names the gateway too, but it is the listener's word.
        let authentic = Authentic::verify(claim, client, self.loaded.keys.gateway)?;
        let entropy = entropy::bytes().map_err(|_| Reject::State)?;
        match self.policy.decide(now, authentic, &mut self.replay, &mut self.grants, entropy) {
            Decision::Refuse(refused) => Err(self.refused(refused)),
            decision => Ok(self.counted(decision)),
        }
    }

    fn refused(&mut self, refused: Refused) -> Reject {
        if let Some(Alarm { client, first, again }) = refused.alarm {
            self.say_alarm(client, first, again);
        }
        refused.reject
    }

    /// Counts what is answered although it was refused.
    fn counted(&mut self, decision: Decision) -> Decision {
        if let Decision::Tell(told) = &decision {
            told.reject().into_iter().for_each(|reject| self.counters.count(reject));
        }
        decision
    }

    /// The marks are on disk: now the firewall may know.
    fn carry_out_knocks(
        &mut self,
        now: Now,
        child: &mut ListenerProcess,
        tickets: Vec<u64>,
        done: Vec<Committed>,
    ) {
        let mut changes = Vec::new();
        let mut pending = Vec::new();
        for (ticket, done) in tickets.into_iter().zip(done) {
            let (answer, grant) = match done {
                Committed::Open(grant) => {
                    let (mine, answer) = self.grants.open(now, grant);
                    changes.extend(mine);
                    (
                        answer,
                        answer.granted.filter(|live| live.place().is_none()).map(|live| live.key),
                    )
                }
                Committed::Close(keys, how, answer) => {
                    changes.extend(self.grants.end(now, &keys, how));
                    (answer, None)
                }
                Committed::Tell(answer) => (answer, None),
            };
            pending.push(PendingVerdict { ticket, answer, grant });
        }
        let applied = self.firewall.apply(&changes);
        if let Err(fault) = &applied {
            self.say(&format!("the firewall refused a grant: {fault}"));
            self.take_back(now, &pending);
            self.cut_again(&changes);
        }
        self.say_cuts(&changes);
        for one in pending {
            if one.answer.granted.is_some() && one.grant.is_none() {
                self.answer_later(now, child, one.ticket, one.answer);
                continue;
            }
            let over = one.answer.granted.is_some_and(|live| live.seconds_left(now) == 0);
            let failed =
                one.grant.is_some() && (over || applied.is_err() || !self.stands(&changes, &one));
            let answer = if failed { one.answer.trouble() } else { one.answer };
            if failed {
                self.counters.count(Reject::Firewall);
            }
            self.tell_of(now, &answer);
            let receipt = answer.receipt(now, None).map(|receipt| receipt.encode());
            let spent = answer.status != Status::Address;
            // A pipe that is of no use is noticed when it is read.
            let _ = child.pipe.send(ToListener::Verdict { ticket: one.ticket, spent, receipt });
        }
    }

    /// Reads the grant's elements back: a receipt says what the kernel holds, not what we hoped.
    fn stands(&mut self, changes: &[Change], one: &PendingVerdict) -> bool {
        let whose = |element: &Element| (element.source, element.source_port, element.span);
        let mine = changes.iter().filter_map(|change| match change {
            Change::Set { element, .. }
                if one.grant.is_some_and(|key| {
                    whose(element) == (key.source, key.source_port, key.span)
                }) =>
            {
                Some(*element)
            }
            _ => None,
        });
        let elements: Vec<_> = mine.collect();
        !elements.is_empty()
            && elements
                .iter()
                .all(|element| matches!(self.firewall.remaining(element), Ok(Some(_))))
    }

    /// The firewall does not have these grants, so nobody has them.
    fn take_back(&mut self, now: Now, pending: &[PendingVerdict]) {
        let keys: Vec<GrantKey> = pending.iter().filter_map(|one| one.grant).collect();
        // First on disk: a crash in between must not bring them back.
        self.store(&Grants::endings(&keys));
        self.grants.end(now, &keys, GrantEnd::Revoked);
        self.try_restore_firewall();
    }

    /// Nothing is durable, so nothing is opened and nobody is told.
    fn lost_commit(&mut self, child: &mut ListenerProcess, tickets: &[u64], fault: &Fault) {
        self.grants.give_up();
        self.state_failed(fault);
        for ticket in tickets {
            self.counters.count(Reject::State);
            silence(child, *ticket, true);
        }
    }

    /// One line for each knock with a good signature.
    pub(super) fn tell_of(&mut self, now: Now, answer: &Reply) {
        let (client, from, service) = (self.name(answer.client), answer.source, answer.service);
        let text = match (answer.status, answer.granted) {
            (Status::Granted, Some(live)) => {
                let seconds = live.seconds_left(now);
                let until = clock_time(now.wall.plus(seconds));
                let who = live.key.who();
                let elsewhere = if live.key.span.of(from) == live.key.source {
                    String::new()
                } else {
                    format!(", asked from {from}")
                };
                format!(
                    "{client}: {service} granted to {who} for {seconds} s, until {until}{elsewhere}"
                )
            }
            (Status::Closed, _) => format!("{client}: {service} closed, asked from {from}"),
            (Status::Observed, _) => format!("{client}: probe from {from}"),
            (status, _) => format!("{client}: refused from {from}: {}", reason(status)),
        };
        self.say(&text);
        self.record_remote_grant(answer);
    }

    /// The listener saw a used packet come from elsewhere.
    pub(super) fn alarm(
        &mut self,
        child: &ListenerProcess,
        row: u32,
        first: Source,
        again: Source,
    ) {
        let id = usize::try_from(row).ok().and_then(|row| child.rows.get(row)).copied();
        if let Some(id) = id {
            self.say_alarm(id, first, again);
        }
    }

    /// At most one line a second: whoever replays packets must not fill the log.
    fn say_alarm(&mut self, client: ClientId, first: Source, again: Source) {
        let name = self.name(client);
        self.say_at_most(
            "alarm",
            1,
            &format!(
                "ALARM: a used knock of {name}, first from {first}, came again from {again}: somebody is on the path"
            ),
        );
    }

    /// What people call a client.
    pub(super) fn name(&self, id: ClientId) -> String {
        let known = self.loaded.clients.iter().find(|client| client.id == id);
        known.map_or_else(|| id.to_string(), |client| client.name.clone())
    }

    /// What people call the holder of a grant.
    pub(super) fn holder(&self, holder: Holder) -> String {
        match holder {
            Holder::Client(id) => self.name(id),
            Holder::Door(_) => {
                let named = self
                    .loaded
                    .settings
                    .doors
                    .iter()
                    .find(|door| Holder::door(&door.name) == holder);
                named.map_or_else(
                    || "a classic door".to_owned(),
                    |door| format!("door {}", door.name),
                )
            }
        }
    }
}

fn silence(child: &mut ListenerProcess, ticket: u64, spent: bool) {
    // A pipe that is of no use is noticed when it is read.
    let _ = child.pipe.send(ToListener::Verdict { ticket, spent, receipt: None });
}

fn reason(status: Status) -> &'static str {
    match status {
        Status::Granted | Status::Closed | Status::Observed => "nothing was wrong",
        Status::Address => "it names another address than it came from",
        Status::Clock => "its timestamp is outside the window",
        Status::Denied => "not allowed to this client",
        Status::Full => "too many live grants",
        Status::Challenge => "it needs a challenge",
        Status::Trouble => "the firewall did not take the grant, or its start command failed",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn an_admin_is_told_of_each_refusal_in_words_of_its_own() {
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
