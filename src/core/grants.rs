//! The list of live grants, and the elements of the guard that follow from it.
//! See `policy` for who may have one, `edge::firewall` for the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::ledger::Ledger;
use super::openings::ServiceAddress;
use super::policy::commit::{DoorGrant, Grant};
use super::record::Record;
use super::reply::Reply;
use super::service::GrantKind;
use super::types::{Boot, Now, ServiceName};

pub mod element;
mod past;
mod table;
mod tally;
#[cfg(test)]
mod tests;

pub use super::grant::{ActiveGrant, GrantEnd, GrantKey, Holder};
pub use element::{Change, Element, Flow, service_at};
use table::GrantTable;
pub use tally::Beside;
use tally::Tally;

/// The most grants that [`Grants::expire`] ends in one call: after a suspend all may be over.
const EXPIRED: usize = 1024;

/// All live grants, and what the kernel holds of them.
#[derive(Debug, Default)]
pub struct Grants {
    live: GrantTable,
    /// Grants that are over, of services whose connections can be cut: their connections may still
    /// stand.
    past: GrantTable,
    /// Grants that are being decided.
    reserved: BTreeSet<GrantKey>,
    /// The numbers of live and reserved grants.
    tally: Tally,
    /// The kernel's elements with their ends, as far as we set them. An element that a connection
    /// used up in the kernel is still listed here.
    kernel: BTreeMap<Element, Boot>,
    /// Service addresses whose grants have changed; see [`Grants::take_touched`].
    touched: BTreeSet<ServiceAddress>,
    /// The last element of [`Grants::once_to_check`].
    checked: Option<Element>,
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
    /// The grants that survived a restart, with the time that they have left. Compare the kernel's
    /// elements with [`Grants::next_element`] afterwards.
    pub fn restore(now: Now, ledger: &Ledger) -> Self {
        let mut grants = Self::default();
        // Grants of command services are not stored: all of them ended with the process.
        for stored in ledger.grants() {
            let Some(element) = stored.element() else { continue };
            match stored.restored(now) {
                Some(live) => {
                    grants.put(live);
                    let until = grants.kernel.entry(element).or_default();
                    *until = live.deadline().max(*until);
                }
                None => {
                    grants.remember(*stored);
                }
            }
        }
        grants
    }

    /// Begins `grant`. Returns the changes for the kernel and the reply for its holder. A grant
    /// that its holder already had never gets shorter.
    pub fn open(&mut self, now: Now, grant: Grant) -> (Vec<Change>, Reply) {
        let (grant, mut reply) = grant.into_parts();
        reply.extends = self.live.get(&grant.key).is_some();
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
        self.past.remove(&new.key);
        let mut live = new;
        let mut elements: BTreeSet<Element> = new.element().into_iter().collect();
        if let Some(before) = self.live.get(&new.key) {
            elements.extend(before.element());
            // Two grants of one batch were decided without knowing of each other.
            if before.form == new.form && before.deadline() > new.deadline() {
                live = ActiveGrant { ports: new.ports, proof: new.proof, ..*before };
            }
        }
        self.put(live);
        self.reserved.remove(&new.key);
        let mut changes = Vec::new();
        for element in elements {
            // An element that only the grant before a reload had may also be a neighbour's: do
            // not arm it again.
            let own = live.element() == Some(element);
            let fit = if own { ElementFit::Arm } else { ElementFit::Shorten };
            changes.extend(self.settle(now, element, fit));
        }
        (changes, live)
    }

    fn put(&mut self, live: ActiveGrant) {
        if !self.is_counted(&live.key) {
            self.tally.add(&live.key);
        }
        self.touched.extend(live.place());
        self.live.insert(live);
    }

    fn take(&mut self, key: &GrantKey) -> Option<ActiveGrant> {
        let grant = self.live.remove(key)?;
        self.touched.extend(grant.place());
        if !self.is_counted(key) {
            self.tally.sub(key);
        }
        Some(grant)
    }

    fn is_counted(&self, key: &GrantKey) -> bool {
        self.live.get(key).is_some() || self.reserved.contains(key)
    }

    /// Ends these grants and, where their services say so, the connections that came in under
    /// them, also under a grant that is already over. A neighbour's grants stay, and on a close
    /// their connections too. Where connections go on that may still have to be cut, the grants are
    /// remembered as past ones. Returns the records of all that too.
    pub fn end(
        &mut self, now: Now, keys: &[GrantKey], how: GrantEnd,
    ) -> (Vec<Change>, Vec<Record>) {
        let mut ended = Vec::new();
        let mut over = Vec::new();
        for key in keys {
            ended.extend(self.take(key));
            over.extend(self.past.remove(key));
        }
        // The newest of the ended grants on each element.
        let mut elements: BTreeMap<Element, Boot> = BTreeMap::new();
        for grant in &ended {
            if let Some(element) = grant.element() {
                let newest = elements.entry(element).or_default();
                *newest = grant.opened.boot.max(*newest);
            }
        }
        let mut changes = Vec::new();
        for (element, newest) in elements {
            let fit = self.fit_after(&element, newest, how);
            changes.extend(self.settle(now, element, fit));
        }
        let cuts = self.cuts(ended.iter().chain(&over), how);
        over.extend(ended.iter().map(|grant| grant.over(now)));
        let mut records = Self::endings(keys);
        for grant in over {
            let cut = grant.element().map(|element| Change::Cut { element });
            if grant.is_remembered(how) && !cuts.iter().any(|change| Some(*change) == cut) {
                self.past.insert(grant);
                records.push(Record::Granted(grant));
            }
        }
        changes.extend(cuts);
        (changes, records)
    }

    /// The records by which these grants end on a close, to be stored before [`Grants::end`]: as if
    /// no connection was cut.
    pub(in crate::core) fn closings(&self, now: Now, keys: &[GrantKey]) -> Vec<Record> {
        let mut records = Vec::new();
        for key in keys {
            records.push(match self.live.get(key) {
                Some(grant) if grant.is_remembered(GrantEnd::Closed) => {
                    Record::Granted(grant.over(now))
                }
                _ => Record::Ended(*key),
            });
        }
        records
    }

    /// The change to an element that other grants still need, after the end of grants of which the
    /// newest began at `ended`.
    fn fit_after(&self, element: &Element, ended: Boot, how: GrantEnd) -> ElementFit {
        if element.form == GrantKind::Time {
            return ElementFit::Arm;
        }
        // The one connection that is still to come may be the revoked client's: they armed the
        // element last, and nobody can tell whether it was used before. A neighbour who armed it
        // after that keeps it.
        let armed_since = self.live.newest(element).is_some_and(|armed| armed > ended);
        let may_use_it = matches!(how, GrantEnd::Closed | GrantEnd::Changed);
        match !may_use_it && !armed_since {
            true => ElementFit::Remove,
            false => ElementFit::Shorten,
        }
    }

    /// Ends the grants that are over, the first of them if there are many, and removes their
    /// elements: the kernel counts no time that the machine sleeps, so its own timeouts may be
    /// late.
    pub fn expire(&mut self, now: Now) -> Vec<Change> {
        let mut elements = BTreeSet::new();
        for _ in 0..EXPIRED {
            let Some((_, key)) = self.live.first().filter(|(end, _)| *end <= now.boot) else {
                break;
            };
            let Some(grant) = self.take(&key) else { break };
            elements.extend(grant.element());
            self.remember(grant);
        }
        let mut changes = Vec::new();
        for element in elements {
            changes.extend(self.settle(now, element, ElementFit::Shorten));
        }
        changes
    }

    /// After a jump of the wall clock: this grant ends by whichever clock leaves it less. A machine
    /// that was paused counts the time in which it stood still on the wall clock only, and people
    /// were told an end by that. The kernel's element goes when [`Grants::expire`] ends the grant.
    pub fn follow_clock(&mut self, now: Now, grant: &ActiveGrant) {
        let over = ActiveGrant { opened: now, seconds: 0, ..*grant };
        self.live.insert(grant.restored(now).unwrap_or(over));
    }

    /// The time at which [`Grants::expire`] has something to do next.
    pub fn deadline(&self) -> Option<Boot> {
        self.live.first().map(|(end, _)| end)
    }

    /// All live grants. Not for every knock or turn of a loop: there may be many.
    pub fn list(&self) -> impl Iterator<Item = &ActiveGrant> {
        self.live.after(None)
    }

    /// The live grants after the one with this key, or from the first, in the order of their keys.
    pub fn list_after(&self, key: Option<GrantKey>) -> impl Iterator<Item = &ActiveGrant> {
        self.live.after(key)
    }

    /// The live grants of this holder, and those that are over.
    pub fn of_holder(
        &self, holder: Holder,
    ) -> (impl Iterator<Item = &ActiveGrant>, impl Iterator<Item = &ActiveGrant>) {
        (self.live.of_holder(holder), self.past.of_holder(holder))
    }

    /// The number of grants of this holder, live or being decided.
    pub fn count_of(&self, holder: Holder) -> u32 {
        self.tally.of_holder(holder)
    }

    /// The number of live grants.
    pub fn count(&self) -> usize {
        self.live.len()
    }

    /// The numbers of live grants, and of those being decided, by service.
    pub fn by_service(&self) -> impl Iterator<Item = (ServiceName, u32)> {
        self.tally.services()
    }

    /// The service addresses of command services whose grants have changed since the last call.
    pub fn take_touched(&mut self) -> BTreeSet<ServiceAddress> {
        std::mem::take(&mut self.touched)
    }

    /// True if a live grant is for this service address of a command service.
    pub fn is_held(&self, place: &ServiceAddress) -> bool {
        self.live.longest(&slot_of(place)).is_some()
    }

    /// The live grants of one service address of a command service.
    pub fn at(&self, place: &ServiceAddress) -> Vec<GrantKey> {
        self.live.keys_of(&slot_of(place))
    }

    /// One-connection elements for [`Grants::spent`] to be told of: up to `most`, others at each
    /// call.
    pub fn once_to_check(&mut self, most: usize) -> BTreeSet<Element> {
        let mut elements = BTreeSet::new();
        while elements.len() < most
            && let Some(next) = self.live.next_once(self.checked)
            && elements.insert(next)
        {
            self.checked = Some(next);
        }
        elements
    }

    /// Ends the grants of a one-connection element that the kernel does not hold any more: its
    /// connection came, or somebody flushed it. Returns the change for the kernel and the records.
    pub fn spent(&mut self, now: Now, element: &Element) -> (Vec<Change>, Vec<Record>) {
        let mut records = Vec::new();
        for key in self.live.keys_of(element) {
            let Some(grant) = self.take(&key) else { continue };
            let over = grant.over(now);
            records.push(match self.remember(over) {
                true => Record::Granted(over),
                false => Record::Ended(key),
            });
        }
        (self.settle(now, *element, ElementFit::Remove).into_iter().collect(), records)
    }

    /// The next element after this one, or the first, that the kernel should hold, and the
    /// milliseconds that it should have left; 0 if its end has come.
    pub fn next_element(&self, now: Now, after: Option<Element>) -> Option<(Element, u64)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (element, until) = self.kernel.range((from, Bound::Unbounded)).next()?;
        Some((*element, millis_between(now.boot, *until)))
    }

    /// The numbers of grants beside this one, live or being decided.
    pub fn beside(&self, key: &GrantKey) -> Beside {
        let mut beside = self.tally.of(key);
        if self.is_counted(key) {
            beside.of_service -= 1;
            beside.of_holder -= 1;
            beside.of_holder_at_service -= 1;
        }
        beside
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
        if !self.is_counted(&key) {
            self.tally.add(&key);
        }
        self.reserved.insert(key);
    }

    /// Gives up all grants that were being decided: after a commit that failed.
    pub fn give_up(&mut self) {
        for key in std::mem::take(&mut self.reserved) {
            if !self.is_counted(&key) {
                self.tally.sub(&key);
            }
        }
    }

    /// Makes the kernel's element fit the list; `fit` decides where the kernel's time is not what
    /// the list says.
    fn settle(&mut self, now: Now, element: Element, fit: ElementFit) -> Option<Change> {
        let wanted = self.live.longest(&element).filter(|until| *until > now.boot);
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
                self.kernel.remove(&element)?;
                Some(Change::Remove { element })
            }
        }
    }
}

/// The slot of all grants of a command service for one address.
fn slot_of(place: &ServiceAddress) -> Element {
    Element::plain(place.service, place.source, GrantKind::Time)
}

fn millis_between(from: Boot, to: Boot) -> u64 {
    to.0.saturating_sub(from.0) / 1_000_000
}
