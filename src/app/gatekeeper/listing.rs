//! The list of grants for an admin, page by page; the search for a client by its name; and
//! one-connection grants that are used up.

use super::Gatekeeper;
use crate::app::admin::{ClientSearch, ClientState, GrantLine, GrantPage, ServiceGrants};
use crate::config::Service;
use crate::core::grants::{ActiveGrant, GrantKey, Holder};
use crate::core::record::Record;
use crate::core::service::GrantKind;
use crate::core::types::{ClientId, Fault, Now, Wall};
use crate::edge::control::SessionId;
use crate::edge::log::zoned_time;

/// The most lines of one page, so that no request keeps the loop for long.
const PAGE: usize = 256;
/// The most clients that one request looks at.
pub(super) const CLIENTS: usize = 4096;
/// The most one-connection elements that one look asks the kernel about.
const ONCE: usize = 256;

impl Gatekeeper {
    /// Sends the page after the grant that `after` names, or the first one, with `most` lines.
    pub(super) fn grants_asked(
        &mut self, now: Now, session: SessionId, after: Option<&str>, most: Option<u16>,
    ) {
        let key = after.and_then(GrantKey::from_text);
        if after.is_some() && key.is_none() {
            let what = "`after` is not the end of a page of grants";
            return self.reply_fault(session, Fault::new(what, "ask without it"));
        }
        self.end_spent(now);
        let mut lines = Vec::new();
        let mut last = None;
        let mut rest = self.grants.list_after(key);
        let most = most.map_or(PAGE, |most| usize::from(most).min(PAGE));
        for grant in rest.by_ref().take(most) {
            lines.push(self.grant_line(now, grant));
            last = Some(grant.key);
        }
        let next = rest.next().and(last).map(|key| key.to_text());
        drop(rest);
        let page = GrantPage { services: self.services_with_grants(), lines, next };
        self.reply_value(session, serde_json::to_value(page));
    }

    /// Looks for a client by its name, among those after an id.
    pub(super) fn find_client(&self, name: &str, after: Option<ClientId>) -> ClientSearch {
        let mut rest = self.in_force.clients().after(after);
        let mut last = None;
        for client in rest.by_ref().take(CLIENTS) {
            if client.name == name {
                return ClientSearch::Found(client.id.0);
            }
            last = Some(client.id.0);
        }
        match (rest.next(), last) {
            (Some(_), Some(after)) => ClientSearch::AskAgain { after },
            _ => ClientSearch::Nobody,
        }
    }

    /// What is known of a client: the first page of its grants, and when it last knocked.
    pub(super) fn client_state(&mut self, now: Now, id: ClientId) -> ClientState {
        self.end_spent(now);
        let (mut live, _) = self.grants.of_holder(Holder::Client(id));
        let lines: Vec<GrantLine> =
            live.by_ref().take(PAGE).map(|grant| self.grant_line(now, grant)).collect();
        drop(live);
        let all = self.grants.count_of(Holder::Client(id));
        ClientState {
            last_knock: self.replay.last_knock(id).map(zoned_time),
            more: usize::try_from(all).unwrap_or(usize::MAX).saturating_sub(lines.len()),
            grants: lines,
        }
    }

    pub(super) fn services_with_grants(&self) -> Vec<ServiceGrants> {
        let mut services = Vec::new();
        for (name, grants) in self.grants.by_service() {
            let configured = self.in_force.service(name);
            let max_grants = configured.map_or(0, |service| service.max_grants);
            services.push(ServiceGrants { service: name.to_string(), grants, max_grants });
        }
        services
    }

    /// Every service, also without grants: alerts need a number for each.
    pub(super) fn all_services(&self) -> Vec<ServiceGrants> {
        let mut services = self.services_with_grants();
        for Service { name, max_grants, .. } in &self.in_force.settings().services {
            if services.iter().all(|one| one.service != name.as_str()) {
                let service = name.to_string();
                services.push(ServiceGrants { service, grants: 0, max_grants: *max_grants });
            }
        }
        services.sort_by(|one, other| one.service.cmp(&other.service));
        services
    }

    fn grant_line(&self, now: Now, grant: &ActiveGrant) -> GrantLine {
        let seconds_left = grant.seconds_left(now);
        let left = grant.deadline().0.saturating_sub(now.boot.0);
        let service = self.in_force.service(grant.key.service);
        GrantLine {
            grant: grant.key.name(&self.in_force.holder_word(grant.key.holder)),
            client: self.in_force.holder(grant.key.holder),
            service: grant.key.service.to_string(),
            address: grant.key.who(),
            ports: service.map(|service| service.ports.texts()).unwrap_or_default(),
            form: match grant.form {
                GrantKind::Time => "time".to_owned(),
                GrantKind::Once => "once".to_owned(),
            },
            // Of the exact time that is left, so that it is the same at each look.
            until: zoned_time(Wall(now.wall.0.saturating_add(left))),
            seconds: u64::from(grant.seconds),
            seconds_left: u64::from(seconds_left),
        }
    }

    /// Ends the one-connection grants whose element the kernel does not have any more: their
    /// connection came, or somebody flushed them. Asks about some of them, others each time.
    pub(super) fn end_spent(&mut self, now: Now) {
        if self.guard.is_off() {
            return;
        }
        let mut changes = Vec::new();
        let mut records: Vec<Record> = Vec::new();
        for element in self.grants.once_to_check(ONCE) {
            if self.guard.has_lost(&element) {
                let (change, ended) = self.grants.spent(now, &element);
                changes.extend(change);
                records.extend(ended);
            }
        }
        self.change_firewall(now, &changes);
        // If these are lost, the grants are listed again after a restart, until they are looked at.
        self.journal.defer(&records);
    }
}
