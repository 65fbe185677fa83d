//! A review of all grants, some at each turn of the loop, because there may be many: after a change
//! of the rules, and after a jump of the wall clock.
//!
//! New knocks follow the new rules from the beginning, and what they grant or renew begins anew.
//! Until the review is over the grants that it is going to end count against `max_grants`.

use crate::core::event::EventKind;
use crate::edge::log::LogEvent;
use std::collections::{BTreeMap, BTreeSet};

use super::Gatekeeper;
use crate::core::clients::ClientTable;
use crate::core::grants::{ActiveGrant, GrantEnd, GrantKey, Holder};
use crate::core::types::{Boot, ClientId, Now, ServiceName};

/// The most grants that one turn looks at.
const SLICE: usize = 512;

/// The reviews that are under way.
#[derive(Default)]
pub(super) struct Review {
    /// After a jump of the wall clock.
    clock: Option<Walk>,
    /// After a change of the rules: live grants, and those that are over.
    live: Option<Walk>,
    past: Option<Walk>,
    /// Services that lead elsewhere, or have other commands, since then. Grants that began before
    /// that end.
    moved: BTreeMap<ServiceName, Boot>,
    /// The clients before the change, for the names of those who are gone.
    before: Option<ClientTable>,
}

/// A walk over a list of grants, in the order of their keys.
pub(super) struct Walk {
    pub(super) begun: Boot,
    /// The last grant that was looked at.
    pub(super) after: Option<GrantKey>,
}

impl Walk {
    /// From the first grant on.
    pub(super) fn begin(now: Now) -> Option<Walk> {
        Some(Walk { begun: now.boot, after: None })
    }

    /// The next grants of `rest`, which begins where this walk is, and the walk if there are more.
    pub(super) fn take<'a>(
        self, rest: impl Iterator<Item = &'a ActiveGrant>,
    ) -> (Vec<ActiveGrant>, Option<Walk>) {
        let slice: Vec<ActiveGrant> = rest.take(SLICE).copied().collect();
        let after = slice.last().map(|grant| grant.key);
        let is_full = slice.len() == SLICE;
        (slice, is_full.then_some(Walk { after, ..self }))
    }
}

impl Review {
    /// True if grants are left to look at.
    pub(super) fn is_under_way(&self) -> bool {
        self.clock.is_some() || self.live.is_some() || self.past.is_some()
    }
}

impl Gatekeeper {
    /// Begins to have every grant follow a jump of the wall clock.
    pub(super) fn review_clock(&mut self, now: Now) {
        self.review.clock = Walk::begin(now);
        self.review_clock_some(now);
    }

    /// Begins to end the grants that the current rules do not allow, and those of `moved` services.
    /// Runs at the start and after each change of the rules.
    pub(super) fn review_rules(&mut self, now: Now, moved: &[ServiceName]) {
        self.review.live = Walk::begin(now);
        self.review.past = Walk::begin(now);
        self.review.moved.extend(moved.iter().map(|service| (*service, now.boot)));
        self.review_rules_some(now);
    }

    /// Ends the grants of these clients that the current rules do not allow: at once, unless there
    /// are many. `before` has their names.
    pub(super) fn review_clients(
        &mut self, now: Now, changed: &BTreeSet<ClientId>, before: &ClientTable,
    ) {
        let mut live = Vec::new();
        let mut past = Vec::new();
        for id in changed {
            let (of_live, of_past) = self.grants.of_holder(Holder::Client(*id));
            live.extend(of_live.take(SLICE - live.len()).copied());
            past.extend(of_past.take(SLICE - past.len()).copied());
        }
        self.review.before = Some(before.clone());
        self.end_what_is_not_allowed(now, &live, &past);
        if live.len() == SLICE || past.len() == SLICE {
            self.review_rules(now, &[]);
        } else if !self.review.is_under_way() {
            self.review.before = None;
        }
    }

    /// Looks at the next grants. Runs once a turn.
    pub(super) fn review_some(&mut self, now: Now) {
        self.review_clock_some(now);
        self.review_rules_some(now);
    }

    fn review_clock_some(&mut self, now: Now) {
        let Some(walk) = self.review.clock.take() else { return };
        let (begun, rest) = (walk.begun, self.grants.list_after(walk.after));
        let (slice, more) = walk.take(rest);
        self.review.clock = more;
        for grant in slice.iter().filter(|grant| grant.opened.boot <= begun) {
            self.grants.follow_clock(now, grant);
        }
    }

    fn review_rules_some(&mut self, now: Now) {
        let mut live = Vec::new();
        let mut past = Vec::new();
        if let Some(walk) = self.review.live.take() {
            let rest = self.grants.list_after(walk.after);
            (live, self.review.live) = walk.take(rest);
        }
        if let Some(walk) = self.review.past.take() {
            let rest = self.grants.past_after(walk.after);
            (past, self.review.past) = walk.take(rest);
        }
        self.end_what_is_not_allowed(now, &live, &past);
        if self.review.live.is_none() && self.review.past.is_none() {
            self.review.moved.clear();
            self.review.before = None;
        }
    }

    fn end_what_is_not_allowed(&mut self, now: Now, live: &[ActiveGrant], past: &[ActiveGrant]) {
        let latest = self.replay.latest(now);
        let mut revoked = Vec::new();
        let mut changed = Vec::new();
        // The numbers of grants that holders have beyond their own limits.
        let mut beyond: BTreeMap<Holder, u32> = BTreeMap::new();
        for grant in live {
            let moved = self.review.moved.get(&grant.key.service);
            let holder = grant.key.holder;
            let left = beyond
                .entry(holder)
                .or_insert_with(|| self.policy.beyond(holder, self.grants.count_of(holder)));
            match self.policy.must_end(latest, grant) {
                Some(GrantEnd::Revoked) => revoked.push(grant.key),
                Some(_) => changed.push(grant.key),
                None if moved.is_some_and(|at| grant.opened.boot <= *at) => changed.push(grant.key),
                None if *left > 0 => changed.push(grant.key),
                None => continue,
            }
            *left = left.saturating_sub(1);
        }
        // Only connections are left of an ended grant. They are cut if the right is revoked, but
        // not because ports have changed.
        let is_revoked =
            |grant: &&ActiveGrant| self.policy.must_end(latest, grant) == Some(GrantEnd::Revoked);
        let over: Vec<GrantKey> = past.iter().filter(is_revoked).map(|grant| grant.key).collect();
        self.end_at_once(now, &revoked, &over, GrantEnd::Revoked);
        self.end_at_once(now, &changed, &[], GrantEnd::Changed);
    }

    /// Changes the firewall first, then the disk: after a crash in between, the next start finds
    /// the grants in the journal and ends them again.
    fn end_at_once(&mut self, now: Now, active: &[GrantKey], past: &[GrantKey], how: GrantEnd) {
        let all = [active, past].concat();
        if all.is_empty() {
            return;
        }
        let (changes, records) = self.grants.end(now, &all, how);
        self.change_firewall(now, &changes);
        // Deferring is safe: the grants have ended, even if the record is lost.
        self.journal.defer(&records);
        for key in active {
            let holder = self.former_holder(key.holder);
            let (service, who) = (key.service, key.who());
            let text = format!("{holder}: {service} of {who} ended: it is no longer allowed");
            let event = LogEvent::new(EventKind::Ended, text).client(holder).service(service);
            self.out.tell(event.address(who).reason("revoked"));
        }
    }

    /// The display name of a holder who may be gone.
    fn former_holder(&self, holder: Holder) -> String {
        if let (Holder::Client(id), Some(before)) = (holder, &self.review.before)
            && let Some(client) = before.get(id)
        {
            return client.name.to_string();
        }
        self.in_force.holder(holder)
    }
}
