//! Grants that are over while connections that came in under them may still stand, so that a
//! revocation finds those too. See `edge::firewall` for which connections stand.

use std::collections::BTreeSet;

use super::{ActiveGrant, Change, Element, GrantEnd, GrantKey, Grants, Holder};
use crate::core::record::Record;
use crate::core::service::DisconnectPolicy;
use crate::core::types::ServiceName;

/// The most past grants. Those that ended first are forgotten first: their connections live on, as
/// those of any other service do.
pub(super) const PAST: usize = 4096;

impl Grants {
    /// The past grants after the one with this key, or from the first.
    pub fn past_after(&self, key: Option<GrantKey>) -> impl Iterator<Item = &ActiveGrant> {
        self.past.after(key)
    }

    /// The keys of this holder's grants for this service that fit, live or being decided, and of
    /// past ones if the service cuts connections when a grant is closed.
    pub(in crate::core) fn keys_to_close(
        &self, holder: Holder, service: ServiceName, fits: impl Fn(&GrantKey) -> bool,
    ) -> Vec<GrantKey> {
        let mut keys: BTreeSet<GrantKey> = self.reserved.iter().copied().collect();
        keys.retain(|key| key.holder == holder && key.service == service);
        keys.extend(self.live.of(holder, service).map(|grant| grant.key));
        for grant in self.past.of(holder, service) {
            if grant.is_cut(GrantEnd::Closed) {
                keys.insert(grant.key);
            }
        }
        keys.into_iter().filter(fits).collect()
    }

    /// Forgets those of the `asked` past grants under which no connection stands. Returns the
    /// records of that.
    pub fn forget_past(
        &mut self, asked: &[ActiveGrant], standing: &BTreeSet<Element>,
    ) -> Vec<Record> {
        let mut records = Vec::new();
        for grant in asked {
            // Another grant with this key may have ended since.
            let same = self.past.get(&grant.key) == Some(grant);
            if same && grant.element().is_none_or(|element| !standing.contains(&element)) {
                self.past.remove(&grant.key);
                records.push(Record::Ended(grant.key));
            }
        }
        records
    }

    /// Forgets the oldest past grants beyond `PAST`. Returns the records of that.
    pub fn trim_past(&mut self) -> Vec<Record> {
        let mut records = Vec::new();
        while self.past.len() > PAST
            && let Some((_, key)) = self.past.first()
        {
            self.past.remove(&key);
            records.push(Record::Ended(key));
        }
        records
    }

    /// Keeps a grant that is over, if its connections can still be cut. False if not.
    pub(super) fn remember(&mut self, grant: ActiveGrant) -> bool {
        let kept = grant.cut != DisconnectPolicy::Never && self.live.get(&grant.key).is_none();
        if kept {
            self.past.insert(grant);
        }
        kept
    }

    /// The connections that end with these grants. Those of a revoked client, and those that an
    /// admin cuts, end whoever else uses that address: better to cut one too many. On a close, only
    /// those end that cannot be anybody else's.
    pub(super) fn cuts<'a>(
        &self, ended: impl Iterator<Item = &'a ActiveGrant>, how: GrantEnd,
    ) -> Vec<Change> {
        let mut elements = BTreeSet::new();
        for grant in ended {
            if grant.is_cut(how) {
                elements.extend(grant.element());
            }
        }
        elements.retain(|element| {
            let is_for_sure = matches!(how, GrantEnd::Revoked | GrantEnd::Cut);
            is_for_sure || !(self.live.meets(element) || self.past.meets(element))
        });
        elements.into_iter().map(|element| Change::Cut { element }).collect()
    }
}
