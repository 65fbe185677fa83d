//! Grants that are over while connections that came in under them may still stand, so that a
//! revocation finds those too. Which connections stand is left to `edge::firewall`, grants that are
//! live to the file above.

use super::{ActiveGrant, Change, Element, Flow, GrantEnd, GrantKey, Grants};
use crate::core::record::Record;
use crate::core::service::DisconnectPolicy;

/// How many grants that are over are remembered beyond one look at the connections. Beyond it the
/// oldest are forgotten: their connections live on, as those of any other service do.
pub(super) const PAST: usize = 4096;

impl Grants {
    /// Grants that are over and not forgotten.
    pub fn past(&self) -> impl Iterator<Item = &ActiveGrant> {
        self.past.values()
    }

    /// As [`Grants::keys`], and those that are over of services that cut connections when a grant
    /// is closed.
    pub(in crate::core) fn keys_to_close(&self, fits: impl Fn(&GrantKey) -> bool) -> Vec<GrantKey> {
        let mut keys: Vec<GrantKey> = self.keys().copied().filter(&fits).collect();
        keys.extend(
            self.past
                .values()
                .filter(|live| live.is_cut(GrantEnd::Closed))
                .map(|live| live.key)
                .filter(&fits),
        );
        keys
    }

    /// Forgets those that are over and of which no connection of `standing` can be, and what is
    /// more than `PAST`. Answers the records of that.
    pub fn forget_past(&mut self, standing: &[Flow]) -> Vec<Record> {
        let may_stand = |live: &ActiveGrant| {
            live.elements().any(|element| standing.iter().any(|flow| element.lets_in(flow)))
        };
        let (kept, mut gone): (Vec<ActiveGrant>, Vec<ActiveGrant>) =
            self.past.values().copied().partition(may_stand);
        let mut oldest_last = kept;
        oldest_last.sort_unstable_by_key(|live| std::cmp::Reverse(live.deadline()));
        gone.extend(oldest_last.get(PAST..).unwrap_or_default());
        for live in &gone {
            self.past.remove(&live.key);
        }
        gone.iter().map(|live| Record::Ended(live.key)).collect()
    }

    /// A grant is over; its connections may matter yet.
    pub(super) fn remember(&mut self, live: ActiveGrant) {
        if live.cut != DisconnectPolicy::Never && !self.live.contains_key(&live.key) {
            self.past.insert(live.key, live);
        }
    }

    /// The connections that end with these grants. A revoked client's end whoever else may come
    /// from that address: better one connection too few. Those of who closes end only where nobody
    /// else's can be meant.
    pub(super) fn cuts<'a>(
        &self,
        ended: impl Iterator<Item = &'a ActiveGrant>,
        how: GrantEnd,
    ) -> Vec<Change> {
        let others = |element: &Element| {
            self.live
                .values()
                .chain(self.past.values())
                .any(|live| live.elements().any(|other| other.meets(element)))
        };
        let mut elements: Vec<Element> =
            ended.filter(|live| live.is_cut(how)).flat_map(ActiveGrant::elements).collect();
        elements.retain(|element| how == GrantEnd::Revoked || !others(element));
        elements.sort_unstable();
        elements.dedup();
        elements.into_iter().map(|element| Change::Cut { element }).collect()
    }
}
