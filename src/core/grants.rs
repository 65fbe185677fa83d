//! The list of live grants, and the elements of the guard that follow from it.
//! See `policy` for who may have one, `edge::firewall` for the kernel.

use std::collections::{BTreeMap, BTreeSet};

use super::ledger::Ledger;
use super::openings::ServiceAddress;
use super::policy::commit::{DoorGrant, Grant};
use super::record::Record;
use super::reply::Reply;
use super::service::GrantKind;
use super::types::{Boot, Now};

mod element;
mod past;
#[cfg(test)]
mod tests;

pub use super::grant::{ActiveGrant, GrantEnd, GrantKey, Holder};
use element::elements_of;
pub use element::{Change, Element, Flow};

/// The most grants that may be live at once, over all services.
pub const GRANTS: usize = 4096;

/// All live grants, and what the kernel holds of them.
#[derive(Debug, Default)]
pub struct Grants {
    live: BTreeMap<GrantKey, ActiveGrant>,
    /// Grants that are over, of services whose connections can be cut: their connections may still
    /// stand.
    past: BTreeMap<GrantKey, ActiveGrant>,
    /// Grants that are being decided.
    reserved: BTreeSet<GrantKey>,
    /// The kernel's elements with their ends, as far as we set them. An element that a connection
    /// used up in the kernel is still listed here.
    kernel: BTreeMap<Element, Boot>,
}

/// The change to an element that a grant still needs.
#[derive(Clone, Copy)]
enum ElementFit {
    /// It lasts as long as its longest grant, and is armed again.
    Arm,
    /// It lasts no longer than its longest grant.
    Shorten,
    Remove,
}

impl Grants {
    /// The grants that survived a restart, with the time that they have left. Give
    /// [`Grants::expected_elements`] to the firewall afterwards.
    pub fn restore(now: Now, ledger: &Ledger) -> Self {
        let mut grants = Self::default();
        // Grants of command services are not stored: all of them ended with the process.
        for stored in ledger.grants().filter(|grant| grant.place().is_none()) {
            match stored.restored(now) {
                Some(live) if grants.live.len() < GRANTS => {
                    grants.live.insert(live.key, live);
                    for element in live.elements() {
                        let until = grants.kernel.entry(element).or_default();
                        *until = live.deadline().max(*until);
                    }
                }
                _ => grants.remember(*stored),
            }
        }
        grants
    }

    /// Begins `grant`. Returns the changes for the kernel and the reply for its holder. A grant
    /// that its holder already had never gets shorter.
    pub fn open(&mut self, now: Now, grant: Grant) -> (Vec<Change>, Reply) {
        let (grant, mut reply) = grant.into_parts();
        let (changes, live) = self.begin(now, grant);
        reply.granted = Some(live);
        (changes, reply)
    }

    /// Begins a classic door's grant. Returns the changes for the kernel and the grant as it is
    /// now, for its record.
    pub fn open_for_door(&mut self, now: Now, grant: DoorGrant) -> (Vec<Change>, ActiveGrant) {
        self.begin(now, grant.into_live())
    }

    fn begin(&mut self, now: Now, new: ActiveGrant) -> (Vec<Change>, ActiveGrant) {
        self.reserved.remove(&new.key);
        self.past.remove(&new.key);
        let mut live = new;
        let mut touched: BTreeSet<Element> = new.elements().collect();
        if let Some(before) = self.live.get(&new.key) {
            touched.extend(before.elements());
            // Two grants of one batch were decided without knowing of each other.
            if before.form == new.form && before.deadline() > new.deadline() {
                live = ActiveGrant { ports: new.ports, proof: new.proof, ..*before };
            }
        }
        self.live.insert(live.key, live);
        let mut changes = Vec::new();
        for element in touched {
            // An element that only the grant before a reload had may also be a neighbour's: do
            // not arm it again.
            let fit = if live.has(&element) { ElementFit::Arm } else { ElementFit::Shorten };
            changes.extend(self.settle(now, element, fit));
        }
        (changes, live)
    }

    /// Ends these grants and, where their services say so, the connections that came in under
    /// them, also under a grant that is already over. A neighbour's grants stay, and on a close
    /// their connections too.
    pub fn end(&mut self, now: Now, keys: &[GrantKey], how: GrantEnd) -> Vec<Change> {
        let mut ended = Vec::new();
        let mut over = Vec::new();
        for key in keys {
            ended.extend(self.live.remove(key));
            over.extend(self.past.remove(key));
        }
        let mut changes = Vec::new();
        for element in elements_of(&ended) {
            let fit = self.fit_after(&ended, &element, how);
            changes.extend(self.settle(now, element, fit));
        }
        changes.extend(self.cuts(ended.iter().chain(&over), how));
        changes
    }

    /// The change to an element of the `ended` grants that other grants still need.
    fn fit_after(&self, ended: &[ActiveGrant], element: &Element, how: GrantEnd) -> ElementFit {
        if element.form == GrantKind::Time {
            return ElementFit::Arm;
        }
        // The one connection that is still to come may be the revoked client's: they armed the
        // element last, and nobody can tell whether it was used before. A neighbour who armed it
        // after that keeps it.
        let armed_by_ended = last_opened(ended.iter(), element);
        let armed_by_live = last_opened(self.live.values(), element);
        if how == GrantEnd::Revoked && armed_by_live <= armed_by_ended {
            ElementFit::Remove
        } else {
            ElementFit::Shorten
        }
    }

    /// Forgets the grants that are over. The kernel ends their elements by itself.
    pub fn expire(&mut self, now: Now) -> Vec<Change> {
        let mut over = Vec::new();
        for grant in self.live.values() {
            if grant.deadline() <= now.boot {
                over.push(*grant);
            }
        }
        for grant in &over {
            self.live.remove(&grant.key);
            self.remember(*grant);
        }
        let mut changes = Vec::new();
        for element in elements_of(&over) {
            changes.extend(self.settle(now, element, ElementFit::Shorten));
        }
        self.kernel.retain(|_, until| *until > now.boot);
        changes
    }

    /// After a jump of the wall clock: each grant ends by whichever clock leaves it less. A machine
    /// that was paused counts the time in which it stood still on the wall clock only, and people
    /// were told an end by that. The kernel's elements go when [`Grants::expire`] ends their grants.
    pub fn clock_jumped(&mut self, now: Now) {
        for grant in self.live.values_mut() {
            let over = ActiveGrant { opened: now, seconds: 0, ..*grant };
            *grant = grant.restored(now).unwrap_or(over);
        }
    }

    /// The time at which [`Grants::expire`] has something to do next.
    pub fn deadline(&self) -> Option<Boot> {
        self.live.values().map(ActiveGrant::deadline).min()
    }

    pub fn list(&self) -> impl Iterator<Item = &ActiveGrant> {
        self.live.values()
    }

    /// The openings of command services that a live grant needs.
    pub fn places(&self) -> BTreeSet<ServiceAddress> {
        self.live.values().filter_map(ActiveGrant::place).collect()
    }

    /// All elements that the kernel should hold now: for a start, and after somebody flushed them.
    pub fn expected_elements(&self, now: Now) -> Vec<Change> {
        let mut changes = Vec::new();
        for (element, until) in &self.kernel {
            let millis = millis_between(now.boot, *until);
            // No timeout at all would mean for ever.
            if millis > 0 {
                changes.push(Change::Set { element: *element, millis });
            }
        }
        changes
    }

    /// The live grants, and those being decided: each once.
    pub fn keys(&self) -> impl Iterator<Item = &GrantKey> {
        self.live.keys().chain(self.reserved.iter().filter(|key| !self.live.contains_key(key)))
    }

    /// The records that make the end of these grants durable. Store them before [`Grants::end`].
    pub fn endings(keys: &[GrantKey]) -> Vec<Record> {
        keys.iter().copied().map(Record::Ended).collect()
    }

    pub fn of(&self, key: &GrantKey) -> Option<&ActiveGrant> {
        self.live.get(key)
    }

    /// Counts a grant that is being decided, until it is opened or given up.
    pub(super) fn reserve(&mut self, key: GrantKey) {
        self.reserved.insert(key);
    }

    /// Gives up all grants that were being decided: after a commit that failed.
    pub fn give_up(&mut self) {
        self.reserved.clear();
    }

    /// Makes the kernel's element fit the list; `fit` decides where the kernel's time is not what
    /// the list says.
    fn settle(&mut self, now: Now, element: Element, fit: ElementFit) -> Option<Change> {
        let holders = self.live.values().filter(|grant| grant.has(&element));
        let wanted = holders.map(ActiveGrant::deadline).max().filter(|until| *until > now.boot);
        match (wanted, fit) {
            (Some(until), ElementFit::Arm) => {
                self.kernel.insert(element, until);
                Some(Change::Set { element, millis: millis_between(now.boot, until) })
            }
            (Some(until), ElementFit::Shorten) => {
                let known = self.kernel.get_mut(&element).filter(|known| **known > until)?;
                *known = until;
                Some(Change::Shorten { element, millis: millis_between(now.boot, until) })
            }
            (None, _) | (Some(_), ElementFit::Remove) => {
                let until = self.kernel.remove(&element)?;
                (until > now.boot).then_some(Change::Remove { element })
            }
        }
    }
}

fn last_opened<'a>(
    grants: impl Iterator<Item = &'a ActiveGrant>, element: &Element,
) -> Option<Boot> {
    grants.filter(|grant| grant.has(element)).map(|grant| grant.opened.boot).max()
}

fn millis_between(from: Boot, to: Boot) -> u64 {
    to.0.saturating_sub(from.0) / 1_000_000
}
