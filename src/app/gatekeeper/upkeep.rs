//! State and firewall kept as they should be: storing, reading again after a failure, putting back what others removed.
//! What is stored and what should stand is left to `core`.

use super::Gatekeeper;
use crate::core::grants::{Change, Ending, Grants};
use crate::core::record::Record;
use crate::core::replay::{Doubt, Suspect};
use crate::core::types::{Fault, Now, SECOND};
use crate::edge::clock;
use crate::edge::firewall::Firewall;

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
                self.broken = false;
                if let Some(why) = recovered.why {
                    self.found = why.to_string();
                }
                self.say("the state was read again; knocks count again");
            }
            Err(fault) => self.say(&format!("NOTHING OPENS: {fault}")),
        }
    }

    /// At a start and after a reload: no grant outlives the rules that allowed it.
    pub(super) fn end_what_is_not_allowed(&mut self, now: Now) {
        let keys = self.grants.keys(|key| !self.policy.still_allows(now, key));
        if keys.is_empty() {
            return;
        }
        // Stored or not, they end: this is the safe side.
        self.store(&Grants::endings(&keys));
        let changes = self.grants.end(now, &keys, Ending::Revoked);
        self.change_firewall(now, &changes);
        for key in keys {
            let holder = self.holder(key.holder);
            self.say(&format!("{holder}: {} of {} ended: it is allowed no more", key.service, key.source));
        }
    }

    /// Puts guard and live grants into the kernel as they should be.
    pub(super) fn restore_firewall(&mut self, now: Now) -> Result<(), Fault> {
        let repair = self.firewall.restore(&self.grants.standing(now))?;
        if repair.reloaded {
            self.say("the guard was loaded again");
        }
        if repair.put_back + repair.removed > 0 {
            self.say(&format!("{} grants put back, {} elements of nobody removed", repair.put_back, repair.removed));
        }
        Ok(())
    }

    /// The same where a failure is only said: it is tried again at the next look.
    pub(super) fn try_restore_firewall(&mut self, now: Now) {
        if let Err(fault) = self.restore_firewall(now) {
            self.say_at_most("firewall", 10, &format!("THE GUARD MAY BE DOWN: {fault}"));
        }
    }

    /// Tells the kernel; if it refuses, everything is put right from the list.
    pub(super) fn change_firewall(&mut self, now: Now, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        if let Err(fault) = self.firewall.apply(changes) {
            self.say(&format!("the firewall refused a change: {fault}"));
            self.try_restore_firewall(now);
        }
    }

    /// Says why every knock needs a challenge just now, once an hour.
    pub(super) fn say_suspect(&mut self, suspect: Suspect) {
        self.say_at_most("suspect", 3600, &format!("every knock needs a challenge: {}", suspect_words(suspect)));
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
pub(super) fn suspect_words(suspect: Suspect) -> String {
    match suspect {
        Suspect::Lost(_) => "marks of used knocks were lost; `toctocd reinitialise` accepts that".to_owned(),
        Suspect::Clock(Doubt::Behind(nanos)) => {
            format!("the clock shows {} s less than it did before", nanos.div_ceil(SECOND))
        }
        Suspect::Clock(Doubt::Jumped(nanos)) => {
            let (seconds, way) = (nanos.unsigned_abs().div_ceil(SECOND), if nanos > 0 { "forward" } else { "back" });
            format!("the clock jumped {seconds} s {way}; it is trusted again once it has run evenly for ten minutes")
        }
    }
}
