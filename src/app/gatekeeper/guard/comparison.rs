//! The kernel's elements compared with the grants, after the guard was loaded or repaired: some at
//! each turn of the loop, because there may be many.

use crate::app::output::count;
use crate::core::event::EventKind;
use std::collections::{BTreeMap, BTreeSet};

use super::GuardWork;
use crate::app::gatekeeper::Gatekeeper;
use crate::core::grants::element::difference;
use crate::core::grants::{Change, Element};
use crate::core::types::{Fault, Now};

/// The most elements that one turn compares.
const SLICE: usize = 512;
/// The most wrong elements of one turn that the kernel is asked for again.
const FEW: usize = 64;

/// A comparison under way. Both lists are walked in the order of the elements; what changes
/// meanwhile is right already.
pub(in crate::app::gatekeeper) struct Comparison {
    /// The elements found in the kernel, with the milliseconds left; without those that were
    /// compared.
    found: BTreeMap<Element, u64>,
    /// The last element that was compared.
    after: Option<Element>,
    put_back: usize,
    removed: usize,
    /// The work that it ends, and whether that has loaded the rules.
    pub(in crate::app::gatekeeper) work: GuardWork,
    reloaded: bool,
}

impl Comparison {
    pub(in crate::app::gatekeeper) fn new(
        found: BTreeMap<Element, u64>, work: GuardWork, reloaded: bool,
    ) -> Comparison {
        Comparison { found, after: None, put_back: 0, removed: 0, work, reloaded }
    }
}

impl Gatekeeper {
    /// Compares the next elements and puts right what is wrong. True if these were the last ones.
    pub(in crate::app::gatekeeper) fn compare_some(
        &mut self, now: Now, comparison: &mut Comparison,
    ) -> Result<bool, Fault> {
        let mut changes = Vec::new();
        let mut lost = BTreeSet::new();
        let mut is_over = false;
        for _ in 0..SLICE {
            let wanted = self.grants.next_element(now, comparison.after);
            let found = comparison.found.first_key_value();
            let next = [wanted.map(|(element, _)| element), found.map(|(element, _)| *element)];
            let Some(element) = next.into_iter().flatten().min() else {
                is_over = true;
                break;
            };
            let left = comparison.found.remove(&element);
            let wanted = wanted.filter(|(other, _)| *other == element).map(|(_, millis)| millis);
            if left.is_none() {
                lost.insert(element);
            }
            changes.extend(difference(element, left, wanted));
            comparison.after = Some(element);
        }
        if changes.len() <= FEW {
            // What has changed since the kernel listed them is no damage.
            changes.retain(|change| self.guard.is_needed(change));
        }
        self.guard.set_right(&changes)?;
        for change in &changes {
            match change {
                Change::Set { element, .. } if lost.contains(element) => comparison.put_back += 1,
                Change::Remove { .. } => comparison.removed += 1,
                _ => {}
            }
        }
        Ok(is_over)
    }

    /// Goes on with the comparison under way, if there is one. Runs once a turn.
    pub(in crate::app::gatekeeper) fn compare(&mut self, now: Now) {
        let Some(mut comparison) = self.guard.comparison.take() else { return };
        match self.compare_some(now, &mut comparison) {
            Ok(false) => self.guard.comparison = Some(comparison),
            Ok(true) => self.compared(now, comparison, Ok(())),
            Err(fault) => self.compared(now, comparison, Err(fault)),
        }
    }

    /// Begins to compare the elements found in the kernel.
    pub(in crate::app::gatekeeper) fn compare_all(&mut self, now: Now, comparison: Comparison) {
        self.guard.comparison = Some(comparison);
        self.compare(now);
    }

    /// Ends a comparison.
    pub(in crate::app::gatekeeper) fn compared(
        &mut self, now: Now, comparison: Comparison, outcome: Result<(), Fault>,
    ) {
        let Comparison { put_back, removed, work, reloaded, .. } = comparison;
        if put_back + removed > 0 {
            let (grants, orphans) = (count(put_back, "grant"), count(removed, "orphaned element"));
            let text = format!("{grants} put back, {orphans} removed");
            self.out.log(EventKind::Guard, text);
        }
        if outcome.is_ok() {
            self.connections.repaired();
        }
        self.guard_work_over(now, work, reloaded, outcome);
    }
}
