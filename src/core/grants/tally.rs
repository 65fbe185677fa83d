//! The numbers of grants by service and by holder, kept as grants come and go, so that a limit
//! costs no walk over all grants.

use std::collections::BTreeMap;

use super::{GrantKey, Holder};
use crate::core::types::ServiceName;

#[derive(Debug, Default)]
pub(super) struct Tally {
    services: BTreeMap<ServiceName, u32>,
    holders: BTreeMap<Holder, u32>,
    /// The part of one holder in one service.
    parts: BTreeMap<(ServiceName, Holder), u32>,
}

/// The grants beside one grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beside {
    pub of_service: u32,
    pub of_holder: u32,
    /// Of both.
    pub of_holder_at_service: u32,
}

impl Tally {
    pub(super) fn add(&mut self, key: &GrantKey) {
        *self.services.entry(key.service).or_default() += 1;
        *self.holders.entry(key.holder).or_default() += 1;
        *self.parts.entry((key.service, key.holder)).or_default() += 1;
    }

    pub(super) fn sub(&mut self, key: &GrantKey) {
        less(&mut self.services, key.service);
        less(&mut self.holders, key.holder);
        less(&mut self.parts, (key.service, key.holder));
    }

    pub(super) fn of(&self, key: &GrantKey) -> Beside {
        let count = |count: Option<&u32>| count.copied().unwrap_or(0);
        Beside {
            of_service: count(self.services.get(&key.service)),
            of_holder: count(self.holders.get(&key.holder)),
            of_holder_at_service: count(self.parts.get(&(key.service, key.holder))),
        }
    }

    pub(super) fn of_holder(&self, holder: Holder) -> u32 {
        self.holders.get(&holder).copied().unwrap_or(0)
    }

    pub(super) fn services(&self) -> impl Iterator<Item = (ServiceName, u32)> {
        self.services.iter().map(|(service, count)| (*service, *count))
    }
}

/// One less; nothing is kept of none, because doors and clients come and go.
fn less<K: Ord>(counts: &mut BTreeMap<K, u32>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(&key);
        }
    }
}
