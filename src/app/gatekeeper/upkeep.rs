//! State and firewall kept as they should be: storing, reading again after a failure, putting back
//! what others removed. What is stored and what should stand is left to `core`.

use std::collections::BTreeMap;

use super::blocking_guard::Repair;
use super::{Gatekeeper, INTACT};
use crate::core::grants::{Change, GrantEnd, GrantKey, Grants};
use crate::core::ledger::Ledger;
use crate::core::record::Record;
use crate::core::replay::{ChallengeReason, ClockFault};
use crate::core::types::{Fault, Now, SECOND, ServiceName};
use crate::edge::clock;

impl Gatekeeper {
    /// Makes `records` durable; whether that worked. What they allow may be done only then.
    pub(super) fn store(&mut self, records: &[Record]) -> bool {
        if records.is_empty() {
            return true;
        }
        match self.state.commit(records) {
            Ok(()) => true,
            Err(fault) => {
                self.state_failed(&fault);
                false
            }
        }
    }

    /// A mark could not be made durable: nothing opens until the state was read again.
    pub(super) fn state_failed(&mut self, fault: &Fault) {
        self.broken = true;
        self.say(&format!("NOTHING OPENS: {fault}"));
    }

    /// Tries to go on after a failure. The marks in memory stay: they are at least those on disk.
    pub(super) fn reopen_state(&mut self) {
        match self.state.reopen(clock::now().wall) {
            Ok(recovered) => {
                // What was written by a commit that failed may stand there: nothing of it was done,
                // so nothing of it may come to life at the next start.
                if let Err(fault) = self.state.commit(&self.undone(&recovered.ledger)) {
                    self.say(&format!("NOTHING OPENS: {fault}"));
                    return;
                }
                self.broken = false;
                if let Some(why) = recovered.why {
                    self.found = why.to_string();
                }
                recovered.ledger.lost().into_iter().for_each(|at| self.replay.record_loss(at));
                self.say("the state was read again; knocks count again");
            }
            Err(fault) => self.say(&format!("NOTHING OPENS: {fault}")),
        }
    }

    /// An admin accepts that marks were lost, or that the clock was ahead.
    pub(super) fn reinitialise(&mut self, now: Now) -> Result<String, Fault> {
        let records = self.replay.reinitialise(now);
        if let Err(fault) = self.state.commit(&records) {
            self.state_failed(&fault);
            return Err(fault);
        }
        self.found = INTACT.to_owned();
        Ok("re-initialised: timestamps from now on count again".to_owned())
    }

    /// The records that make `ledger` say what is true: our grants and openings, and no others.
    fn undone(&self, ledger: &Ledger) -> Vec<Record> {
        let live =
            self.grants.list().chain(self.grants.past()).filter(|live| live.place().is_none());
        let live: BTreeMap<_, _> = live.map(|live| (live.key, *live)).collect();
        let ended = ledger
            .grants()
            .filter(|there| !live.contains_key(&there.key))
            .map(|there| Record::Ended(there.key));
        let stopped = ledger.openings().filter(|there| !self.leases.knows(there.id));
        let stopped = stopped.map(|there| Record::Stopped { id: there.id });
        ended.chain(stopped).chain(live.values().copied().map(Record::Granted)).collect()
    }

    /// At a start and after a reload: no grant outlives the rules that allowed it.
    pub(super) fn end_what_is_not_allowed(&mut self, now: Now) {
        for how in [GrantEnd::Revoked, GrantEnd::Changed] {
            let over =
                self.grants.list().filter(|live| self.policy.must_end(now, live) == Some(how));
            let keys: Vec<GrantKey> = over.map(|live| live.key).collect();
            // Of what is over only the connections are left: they go with the right to them, and
            // not because ports have changed.
            let past = self
                .grants
                .past()
                .filter(|live| self.policy.must_end(now, live) == Some(GrantEnd::Revoked));
            let past: Vec<GrantKey> =
                past.filter(|_| how == GrantEnd::Revoked).map(|live| live.key).collect();
            self.end_at_once(now, &keys, &past, how);
        }
    }

    /// After a reload: no grant leads to an inner host, or is kept open by commands, that it was
    /// not made for.
    pub(super) fn end_what_led_elsewhere(&mut self, now: Now, moved: &[ServiceName]) {
        let over =
            self.grants.list().map(|live| live.key).filter(|key| moved.contains(&key.service));
        let keys: Vec<GrantKey> = over.collect();
        self.end_at_once(now, &keys, &[], GrantEnd::Changed);
    }

    /// First the firewall, then the disk: a crash in between finds them in the journal and ends
    /// them again.
    fn end_at_once(&mut self, now: Now, keys: &[GrantKey], past: &[GrantKey], how: GrantEnd) {
        let all = [keys, past].concat();
        let changes = self.grants.end(now, &all, how);
        self.change_firewall(&changes);
        // Stored or not, they have ended: this is the safe side.
        self.store(&Grants::endings(&all));
        for key in keys {
            let holder = self.holder(key.holder);
            self.say(&format!(
                "{holder}: {} of {} ended: it is allowed no more",
                key.service,
                key.who()
            ));
        }
        self.say_cuts(&changes);
    }

    /// One line for each address whose connections were cut.
    pub(super) fn say_cuts(&mut self, changes: &[Change]) {
        for change in changes {
            if let Change::Cut { element } = change {
                self.say(&format!(
                    "connections of {} to {} were cut",
                    element.source, element.port
                ));
            }
        }
    }

    /// Forgets grants that are over and have no connection left.
    pub(super) fn look_at_connections(&mut self) {
        if self.grants.past().next().is_none() {
            return;
        }
        match self.firewall.flows() {
            Ok(standing) => {
                let records = self.grants.forget_past(&standing);
                self.store(&records);
            }
            Err(fault) => self.say_at_most("connections", 600, &fault.to_string()),
        }
    }

    /// Puts guard and live grants into the kernel as they should be.
    pub(super) fn restore_firewall(&mut self) -> Result<(), Fault> {
        self.guard_in_doubt = true;
        let begin = clock::now();
        let mut repair = self.firewall.restore(&self.grants.expected_elements(begin))?;
        if clock::now().boot > begin.boot.plus(1) {
            // The nft program was slow, and every grant has gained that time: once more, now that
            // the guard is loaded.
            let again = self.firewall.restore(&self.grants.expected_elements(clock::now()))?;
            repair = Repair { reloaded: repair.reloaded || again.reloaded, ..repair };
        }
        self.guard_in_doubt = false;
        if repair.reloaded {
            self.say("the guard was loaded again");
        }
        if repair.put_back + repair.removed > 0 {
            self.say(&format!(
                "{} grants put back, {} elements of nobody removed",
                repair.put_back, repair.removed
            ));
        }
        Ok(())
    }

    /// The same where a failure is said and tried again a second later, until it succeeds.
    pub(super) fn try_restore_firewall(&mut self) {
        if let Err(fault) = self.restore_firewall() {
            self.next_look = self.next_look.min(clock::now().boot.plus(1));
            self.say_at_most("firewall", 10, &format!("THE GUARD MAY BE DOWN: {fault}"));
        }
    }

    /// Tells the kernel; if it refuses, everything is put right from the list.
    pub(super) fn change_firewall(&mut self, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        if let Err(fault) = self.firewall.apply(changes) {
            self.say(&format!("the firewall refused a change: {fault}"));
            self.try_restore_firewall();
            self.cut_again(changes);
        }
    }

    /// Cuts once more what was to be cut: an element that stood until the repair may have let it go
    /// on.
    pub(super) fn cut_again(&mut self, changes: &[Change]) {
        let cuts: Vec<Change> =
            changes.iter().filter(|c| matches!(c, Change::Cut { .. })).copied().collect();
        if let Err(fault) = self.firewall.apply(&cuts) {
            self.say(&format!("CONNECTIONS THAT SHOULD BE CUT MAY STAND: {fault}"));
        }
    }

    /// Says why every knock needs a challenge just now, once an hour.
    pub(super) fn say_suspect(&mut self, suspect: ChallengeReason) {
        self.say_at_most(
            "suspect",
            3600,
            &format!("every knock needs a challenge: {}", suspect_words(suspect)),
        );
    }

    /// Says it unless something of this `kind` was said less than `seconds` ago.
    pub(super) fn say_at_most(&mut self, kind: &'static str, seconds: u32, text: &str) {
        let now = clock::now();
        let quiet = self.said.get(kind).is_some_and(|last| now.boot < last.plus(seconds));
        if !quiet {
            self.said.insert(kind, now.boot);
            self.say(text);
        }
    }
}

/// For log and status.
pub(super) fn suspect_words(suspect: ChallengeReason) -> String {
    match suspect {
        ChallengeReason::Lost(_) => {
            "marks of used knocks were lost; `toctocd reinitialise` accepts that".to_owned()
        }
        ChallengeReason::Clock(ClockFault::Behind(nanos)) => {
            format!("the clock shows {} s less than it did before", nanos.div_ceil(SECOND))
        }
        ChallengeReason::Clock(ClockFault::Jumped(nanos)) => {
            let (seconds, way) =
                (nanos.unsigned_abs().div_ceil(SECOND), if nanos > 0 { "forward" } else { "back" });
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
        let words = |doubt| suspect_words(ChallengeReason::Clock(doubt));
        assert!(words(ClockFault::Behind(7 * SECOND)).contains("shows 7 s less"));
        assert!(words(ClockFault::Jumped(7_000_000_000)).contains("jumped 7 s forward"));
        assert!(words(ClockFault::Jumped(-7_000_000_000)).contains("jumped 7 s back"));
    }
}
