//! Grants that an admin ends, some at each turn of the loop, because there may be many. The admin is
//! told when the last one has ended, that is durable, and connections that end too are cut.
//!
//! Whoever knocks again meanwhile has a new grant, which stays.

use std::collections::VecDeque;

use super::Gatekeeper;
use super::review::Walk;
use crate::app::admin::CloseDone;
use crate::core::event::EventKind;
use crate::core::grants::{ActiveGrant, Change, GrantEnd, GrantKey};
use crate::core::prefix::Prefix;
use crate::core::types::{Fault, Now, ServiceName, Source};
use crate::edge::control::{ControlRequest, SessionId};
use crate::edge::log::LogEvent;

/// The most orders at once: more than the control socket has sessions. An admin who is gone does
/// not take an order back.
const ORDERS: usize = 16;

/// Orders to end grants.
#[derive(Default)]
pub(super) struct Closing {
    /// Those under way, the first to come first.
    orders: VecDeque<CloseOrder>,
    /// Those whose grants have all ended.
    ended: Vec<CloseOrder>,
}

struct CloseOrder {
    session: SessionId,
    which: WhichGrants,
    cut: bool,
    live: Option<Walk>,
    /// Grants that are over, whose connections are to be cut.
    past: Option<Walk>,
    /// True if the firewall refused a change: then the guard is repaired.
    is_refused: bool,
    done: CloseDone,
}

/// The grants that an order is about: those that fit all that it says.
#[derive(Default)]
struct WhichGrants {
    /// One grant, by its name.
    name: Option<String>,
    /// Of a client, or of a door by its word.
    holder: Option<String>,
    service: Option<ServiceName>,
    /// That let one of these addresses in.
    addresses: Option<Prefix>,
}

impl Closing {
    /// True if grants are left to look at.
    pub(super) fn is_under_way(&self) -> bool {
        !self.orders.is_empty()
    }
}

impl CloseOrder {
    /// Counts grants that have ended with these changes.
    fn note(&mut self, live: &[ActiveGrant], past: &[ActiveGrant], changes: &[Change]) {
        let done = &mut self.done;
        done.ended += live.len();
        done.over += past.len();
        for change in changes.iter().filter(|change| matches!(change, Change::Cut { .. })) {
            done.cut.insert(change.element().service.to_string());
        }
        for grant in live.iter().filter(|grant| grant.element().is_some()) {
            let service = grant.key.service.to_string();
            if !done.cut.contains(&service) {
                done.go_on.insert(service);
            }
        }
    }
}

impl WhichGrants {
    fn read(request: &ControlRequest) -> Option<WhichGrants> {
        let ControlRequest::Close { grant, client, service, address, cut: _ } = request else {
            return None;
        };
        let mut which = WhichGrants { name: grant.clone(), ..WhichGrants::default() };
        which.holder.clone_from(client);
        if let Some(service) = service {
            which.service = Some(ServiceName::new(service)?);
        }
        if let Some(address) = address {
            which.addresses = Some(addresses(address)?);
        }
        let says_something = grant.is_some() || client.is_some();
        let which_ones = says_something || service.is_some() || address.is_some();
        which_ones.then_some(which)
    }

    /// `holder`: the word for its holder.
    fn fit(&self, grant: &ActiveGrant, holder: impl FnOnce() -> String) -> bool {
        let GrantKey { service, source, span, .. } = grant.key;
        if self.service.is_some_and(|wanted| wanted != service)
            || self.addresses.is_some_and(|wanted| !wanted.meets(source, span))
        {
            return false;
        }
        if self.name.is_none() && self.holder.is_none() {
            return true;
        }
        let holder = holder();
        self.holder.as_ref().is_none_or(|wanted| *wanted == holder)
            && self.name.as_ref().is_none_or(|wanted| *wanted == grant.key.name(&holder))
    }
}

/// Reads an address or a prefix.
fn addresses(text: &str) -> Option<Prefix> {
    match text.parse() {
        Ok(ip) => Some(Prefix::around(Source::new(ip), 128)),
        Err(_) => Prefix::parse(text),
    }
}

impl Gatekeeper {
    /// Begins to end the grants that `request` names.
    pub(super) fn close_asked(&mut self, now: Now, session: SessionId, request: &ControlRequest) {
        let Some(which) = WhichGrants::read(request) else {
            let what = "that names no grants to end";
            return self.reply_fault(session, Fault::new(what, "toctocd close --help"));
        };
        if self.closing.orders.len() + self.closing.ended.len() >= ORDERS {
            let what = "other orders to end grants are under way";
            return self.reply_fault(session, Fault::new(what, "try again in a moment"));
        }
        let cut = matches!(request, ControlRequest::Close { cut: true, .. });
        self.closing.orders.push_back(CloseOrder {
            session,
            which,
            cut,
            live: Walk::begin(now),
            past: Walk::begin(now).filter(|_| cut),
            is_refused: false,
            done: CloseDone::default(),
        });
        // An order before it has its turn first.
        if self.closing.orders.len() == 1 {
            self.close_some(now);
        }
    }

    /// Looks at the next grants of the first order. Runs once a turn.
    pub(super) fn close_some(&mut self, now: Now) {
        let Some(mut order) = self.closing.orders.pop_front() else { return };
        let mut live = Vec::new();
        let mut past = Vec::new();
        if let Some(walk) = order.live.take() {
            let begun = walk.begun;
            let rest = self.grants.list_after(walk.after);
            (live, order.live) = walk.take(rest);
            live.retain(|grant| grant.opened.boot <= begun && self.fits(&order.which, grant));
        }
        if let Some(walk) = order.past.take() {
            let rest = self.grants.past_after(walk.after);
            (past, order.past) = walk.take(rest);
            past.retain(|grant| self.fits(&order.which, grant));
        }
        self.stop_grants(now, &mut order, &live, &past);
        if order.live.is_some() || order.past.is_some() {
            self.closing.orders.push_front(order);
        } else {
            self.closing.ended.push(order);
        }
    }

    fn fits(&self, which: &WhichGrants, grant: &ActiveGrant) -> bool {
        which.fit(grant, || self.in_force.holder_word(grant.key.holder))
    }

    /// Changes the firewall first, then the disk: the admin is told after both.
    fn stop_grants(
        &mut self, now: Now, order: &mut CloseOrder, live: &[ActiveGrant], past: &[ActiveGrant],
    ) {
        let keys: Vec<GrantKey> = live.iter().chain(past).map(|grant| grant.key).collect();
        if keys.is_empty() {
            return;
        }
        let how = if order.cut { GrantEnd::Cut } else { GrantEnd::Stopped };
        let (changes, records) = self.grants.end(now, &keys, how);
        if let Err(fault) = self.apply(now, &changes) {
            let text = format!("the firewall refused a change: {fault}");
            self.out.log(EventKind::Guard, text);
            order.is_refused = true;
        }
        self.journal.defer(&records);
        order.note(live, past, &changes);
        for grant in live {
            let holder = self.in_force.holder(grant.key.holder);
            let (service, who) = (grant.key.service, grant.key.who());
            let text = format!("{holder}: {service} of {who} ended by an admin");
            let event = LogEvent::new(EventKind::Ended, text).client(holder).service(service);
            self.out.tell(event.address(who).reason("admin"));
        }
    }

    /// Answers the orders that are done, on disk and with all cuts made or tried.
    pub(super) fn settle_closing(&mut self) {
        if self.journal.is_settled() && self.connections.are_cut() {
            self.answer_closing(self.journal.is_writable());
        }
    }

    /// Answers the orders whose grants have ended. `stored`: that is durable.
    pub(super) fn answer_closing(&mut self, stored: bool) {
        for mut order in std::mem::take(&mut self.closing.ended) {
            order.done.is_shut = !order.is_refused;
            order.done.is_stored = stored;
            order.done.is_cut = !self.connections.are_left();
            self.reply_value(order.session, serde_json::to_value(order.done));
        }
    }
}
