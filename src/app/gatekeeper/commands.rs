//! Services of commands: grants that are one only once a start command has ended well, and the
//! receipts that wait for that. What runs when is left to `core::openings`, running it to `doors`
//! and `edge::command`.
//!
//! Nobody waits for a command here. Once a turn it is looked at how the openings stand: what has
//! opened is told, what has failed ends its grants, and what nobody holds any more is shut. So no
//! way on which a grant ends has to think of its commands.

use std::collections::BTreeSet;

use super::Gatekeeper;
use crate::app::listener_process::ListenerProcess;
use crate::core::engine::TICKETS;
use crate::core::grants::{GrantEnd, GrantKey};
use crate::core::openings::{
    JournalledOpening, OpeningState, PreparedOpening, START, ServiceAddress,
};
use crate::core::policy::Decision;
use crate::core::reply::Reply;
use crate::core::types::{Boot, Now, Reject};
use crate::edge::gatekeeper_pipe::ToListener;

/// An answer that depends on a start command.
pub(super) struct WaitingReply {
    /// The listener that has its ticket.
    listener: u32,
    ticket: u64,
    answer: Reply,
    key: GrantKey,
    place: ServiceAddress,
    until: Boot,
}

impl Gatekeeper {
    /// The openings without which these decisions would be about nothing: one for each place that
    /// has none.
    pub(super) fn openings_for(
        &mut self,
        now: Now,
        decisions: &[Decision],
    ) -> Vec<PreparedOpening> {
        let places: BTreeSet<ServiceAddress> =
            decisions.iter().filter_map(Decision::place).collect();
        let mut openings = Vec::new();
        for place in places {
            let Some(commands) = self.policy.commands(place.service) else { continue };
            match self.leases.acquire(now, place, commands) {
                Ok(opening) => openings.extend(opening),
                // It has no opening then, and is answered so.
                Err(refused) => self.say_at_most("hold", 10, refused.text().unwrap_or_default()),
            }
        }
        openings
    }

    /// What is in the journal may begin.
    pub(super) fn begin(&mut self, now: Now, journalled: Vec<JournalledOpening>) {
        let mut work = Vec::new();
        for opening in journalled {
            self.leases.begin(now, opening, &mut work);
        }
        self.carry_out(now, work);
    }

    /// The answer is given when it is known how the start command has ended. Beyond as many as a
    /// listener can ask for, which only one that was taken over would do, the grant stands and
    /// nobody is told.
    pub(super) fn answer_later(
        &mut self,
        now: Now,
        child: &ListenerProcess,
        ticket: u64,
        answer: Reply,
    ) {
        let Some((key, place)) = answer.granted.and_then(|live| Some((live.key, live.place()?)))
        else {
            return;
        };
        if self.waiting.len() < 2 * TICKETS {
            let until = now.boot.plus(START);
            self.waiting.push(WaitingReply {
                listener: child.id(),
                ticket,
                answer,
                key,
                place,
                until,
            });
        }
    }

    /// When an answer is given at the latest.
    pub(super) fn answer_deadline(&self) -> Option<Boot> {
        self.waiting.iter().map(|one| one.until).min()
    }

    /// Brings grants, openings and answers together.
    pub(super) fn settle_commands(&mut self, now: Now) {
        let none = !self.grants.list().any(|live| live.place().is_some());
        if none && self.waiting.is_empty() && !self.leases.holds_any() {
            return;
        }
        self.end_what_did_not_open(now);
        self.shut_what_nobody_holds(now);
        let waiting = std::mem::take(&mut self.waiting);
        let (wait, ready): (Vec<WaitingReply>, Vec<WaitingReply>) =
            waiting.into_iter().partition(|one| self.waits(now, one));
        self.waiting = wait;
        ready.into_iter().for_each(|one| self.answer_now(now, one));
    }

    fn waits(&self, now: Now, one: &WaitingReply) -> bool {
        self.leases.state_of(&one.place) == OpeningState::Starting && now.boot < one.until
    }

    fn end_what_did_not_open(&mut self, now: Now) {
        let gone = |place: ServiceAddress| self.leases.state_of(&place) == OpeningState::Gone;
        let failed =
            self.grants.list().filter(|live| live.place().is_some_and(gone)).map(|live| live.key);
        // One that still starts then waits for others: its client is told that it has nothing, so
        // it must have nothing.
        let late = self.waiting.iter().filter(|one| one.until <= now.boot);
        let late = late
            .filter(|one| self.leases.state_of(&one.place) == OpeningState::Starting)
            .map(|one| one.key);
        let keys: BTreeSet<GrantKey> = failed.chain(late).collect();
        for key in keys {
            // Nothing of it is in the journal but how to end it, and nothing in the kernel.
            self.grants.end(now, &[key], GrantEnd::Revoked);
            let (holder, service, who) = (self.holder(key.holder), key.service, key.who());
            self.say(&format!(
                "{holder}: {service} of {who} ended: its start command failed, or took longer than {START} s"
            ));
        }
    }

    fn shut_what_nobody_holds(&mut self, now: Now) {
        let held = self.grants.places();
        let mut work = Vec::new();
        self.leases.release(|place| held.contains(place), &mut work);
        self.carry_out(now, work);
    }

    fn answer_now(&mut self, now: Now, one: WaitingReply) {
        let live = self.grants.of(&one.key).copied().filter(|live| live.seconds_left(now) > 0);
        let answer = match (self.leases.state_of(&one.place), live) {
            (OpeningState::Open, Some(live)) => Reply { granted: Some(live), ..one.answer },
            _ => {
                self.counters.count(Reject::Command);
                one.answer.trouble()
            }
        };
        self.tell_of(now, &answer);
        let receipt = answer.receipt(now, None).map(|receipt| receipt.encode());
        let children =
            self.child.iter_mut().chain(self.retiring.iter_mut().map(|(child, _)| child));
        // The tickets of a listener that is gone are gone with it.
        for child in children.filter(|child| child.id() == one.listener) {
            // A pipe that is of no use is noticed when it is read.
            let _ =
                child.pipe.send(ToListener::Verdict { ticket: one.ticket, spent: true, receipt });
        }
    }
}
