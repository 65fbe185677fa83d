//! Grants that are over while connections that came in under them may still stand, so that a
//! revocation finds those too. See `edge::firewall` for which connections stand.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::{ActiveGrant, Change, Element, Flow, GrantEnd, GrantKey, Grants};
use crate::core::record::Record;
use crate::core::service::DisconnectPolicy;

/// The most past grants that are kept after the connections were looked at. The oldest are
/// forgotten first: their connections live on, as those of any other service do.
pub(super) const PAST: usize = 4096;

impl Grants {
    pub fn past(&self) -> impl Iterator<Item = &ActiveGrant> {
        self.past.values()
    }

    /// The keys of [`Grants::keys`] and of past grants that fit, the latter only of services that
    /// cut connections when a grant is closed.
    pub(in crate::core) fn keys_to_close(&self, fits: impl Fn(&GrantKey) -> bool) -> Vec<GrantKey> {
        let mut keys: Vec<GrantKey> = self.keys().copied().filter(&fits).collect();
        for grant in self.past.values() {
            if grant.is_cut(GrantEnd::Closed) && fits(&grant.key) {
                keys.push(grant.key);
            }
        }
        keys
    }

    /// Forgets past grants of which no `standing` connection can be, and the oldest beyond `PAST`.
    /// Returns the records of that.
    pub fn forget_past(&mut self, standing: &[Flow]) -> Vec<Record> {
        let (mut kept, mut gone): (Vec<ActiveGrant>, Vec<ActiveGrant>) =
            self.past.values().copied().partition(|grant| may_stand(grant, standing));
        kept.sort_unstable_by_key(|grant| Reverse(grant.deadline()));
        gone.extend(kept.get(PAST..).unwrap_or_default());
        let mut records = Vec::new();
        for grant in gone {
            self.past.remove(&grant.key);
            records.push(Record::Ended(grant.key));
        }
        records
    }

    /// Keeps a grant that is over, if its connections can still be cut.
    pub(super) fn remember(&mut self, grant: ActiveGrant) {
        if grant.cut != DisconnectPolicy::Never && !self.live.contains_key(&grant.key) {
            self.past.insert(grant.key, grant);
        }
    }

    /// The connections that end with these grants. A revoked client's connections end whoever else
    /// uses that address: better to cut one too many. On a close, only those end that cannot be
    /// anybody else's.
    pub(super) fn cuts<'a>(
        &self, ended: impl Iterator<Item = &'a ActiveGrant>, how: GrantEnd,
    ) -> Vec<Change> {
        let mut elements: BTreeSet<Element> =
            ended.filter(|grant| grant.is_cut(how)).flat_map(ActiveGrant::elements).collect();
        elements.retain(|element| how == GrantEnd::Revoked || !self.has_meeting(element));
        elements.into_iter().map(|element| Change::Cut { element }).collect()
    }

    /// True if another grant, live or past, could have let in the same connection.
    fn has_meeting(&self, element: &Element) -> bool {
        let mut others = self.live.values().chain(self.past.values());
        others.any(|grant| grant.elements().any(|other| other.meets(element)))
    }
}

fn may_stand(grant: &ActiveGrant, standing: &[Flow]) -> bool {
    grant.elements().any(|element| standing.iter().any(|flow| element.lets_in(flow)))
}
