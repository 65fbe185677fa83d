//! Connections: those that end with their grants, and those that outlive them. Connection tracking
//! is listed beside the loop: a machine may have hundreds of thousands of connections.

use crate::core::event::EventKind;
use crate::edge::log::LogEvent;
use std::collections::BTreeSet;

use super::Gatekeeper;
use super::events::{Lane, ListenerId, Task};
use crate::core::engine::TICKETS;
use crate::core::grants::{ActiveGrant, Change, Element, GrantKey};
use crate::core::reply::Reply;
use crate::core::types::{Boot, Fault, Now};
use crate::edge::firewall::{GuardReport, GuardTask};

/// Seconds between two attempts to cut the same connections.
const RETRY: u32 = 1;
/// The most past grants that one periodic check asks about.
const PAST: usize = 1024;

#[derive(Default)]
pub(super) struct Connections {
    wanted: Cut,
    running: Option<ConnectionWork>,
    /// The moment of the next attempt, after one that failed.
    retry_at: Option<Boot>,
    /// To cut once more after a repair: an element that was still there may have let a connection
    /// continue.
    after_repair: BTreeSet<Element>,
    /// Past grants to ask about, and the last one that was asked about.
    over: Vec<ActiveGrant>,
    asked: Option<GrantKey>,
}

/// Elements whose connections end, and the replies that wait for it.
#[derive(Default)]
struct Cut {
    elements: BTreeSet<Element>,
    replies: Vec<ClosedReply>,
}

/// The reply to a close.
struct ClosedReply {
    listener: ListenerId,
    ticket: u64,
    reply: Reply,
}

enum ConnectionWork {
    Cut(Cut),
    /// Forget those of these ended grants that have no connections.
    Look(Vec<ActiveGrant>),
}

impl Connections {
    /// Has the connections of these elements cut, and with `again` once more after the next repair.
    pub(super) fn cut(&mut self, changes: &[Change], again: bool) {
        for change in changes {
            if let Change::Cut { element } = change {
                self.wanted.elements.insert(*element);
                if again {
                    self.after_repair.insert(*element);
                }
            }
        }
    }

    /// Has the pending cuts made: with the right elements they are final.
    pub(super) fn repaired(&mut self) {
        self.wanted.elements.append(&mut self.after_repair);
    }

    /// True if every cut has been made, or at least tried.
    pub(super) fn are_cut(&self) -> bool {
        let is_cutting = matches!(self.running, Some(ConnectionWork::Cut(_)));
        self.retry_at.is_some() || !is_cutting && self.wanted.elements.is_empty()
    }

    /// True if the last attempt failed.
    pub(super) fn are_left(&self) -> bool {
        self.retry_at.is_some()
    }

    /// The moment of the next attempt.
    pub(super) fn deadline(&self) -> Option<Boot> {
        self.retry_at.filter(|_| self.running.is_none())
    }

    fn next_work(&mut self, now: Now) -> Option<ConnectionWork> {
        let is_due = self.retry_at.is_none_or(|at| at <= now.boot);
        if is_due && !self.wanted.elements.is_empty() {
            return Some(ConnectionWork::Cut(std::mem::take(&mut self.wanted)));
        }
        let over = std::mem::take(&mut self.over);
        if over.is_empty() { None } else { Some(ConnectionWork::Look(over)) }
    }
}

impl Gatekeeper {
    /// Gives the reply to a close when the connections that end with it are cut. The limit is more
    /// than an honest listener can ask for.
    pub(super) fn reply_when_cut(&mut self, listener: ListenerId, ticket: u64, reply: Reply) {
        let replies = &mut self.connections.wanted.replies;
        if replies.len() < 2 * TICKETS {
            replies.push(ClosedReply { listener, ticket, reply });
        } else {
            self.ends.answered(&reply);
        }
    }

    /// The periodic check: asks which grants that are over still have connections; about some of
    /// them, others each time.
    pub(super) fn look_after_connections(&mut self) {
        let rest = self.grants.past_after(self.connections.asked);
        let over: Vec<ActiveGrant> = rest.take(PAST).copied().collect();
        self.connections.asked = over.last().map(|grant| grant.key).filter(|_| over.len() == PAST);
        self.connections.over = over;
    }

    /// Starts the next task about connections if there is one and none is running.
    pub(super) fn start_connection_work(&mut self, now: Now) {
        if !self.tasks.is_free(Lane::Connections) {
            if self.tasks.is_late(Lane::Connections) {
                let replies = std::mem::take(&mut self.connections.wanted.replies);
                self.give_closed_replies(now, replies);
            }
            return;
        }
        let Some(work) = self.connections.next_work(now) else { return };
        let task = match &work {
            ConnectionWork::Cut(cut) => GuardTask::Cut(cut.elements.clone()),
            ConnectionWork::Look(over) => {
                GuardTask::Standing(over.iter().filter_map(ActiveGrant::element).collect())
            }
        };
        self.connections.running = Some(work);
        self.tasks.start(now, Task::Guard(task), &mut self.out);
    }

    /// Handles the end of a task about connections, or a missed deadline.
    pub(super) fn connection_work_done(&mut self, now: Now, result: Result<GuardReport, Fault>) {
        match self.connections.running.take() {
            Some(ConnectionWork::Cut(cut)) => self.connections_cut(now, cut, result),
            Some(ConnectionWork::Look(over)) => self.connections_listed(&over, result),
            None => {}
        }
    }

    fn connections_cut(&mut self, now: Now, cut: Cut, result: Result<GuardReport, Fault>) {
        self.connections.retry_at = None;
        match result {
            Ok(_) => {
                for element in &cut.elements {
                    let (who, service) = (element.who(), element.service);
                    let text = format!("connections of {who} to {service} were cut");
                    let event = LogEvent::new(EventKind::Guard, text).service(service);
                    self.out.tell(event.address(who));
                }
            }
            Err(fault) => {
                let text = format!("CONNECTIONS WERE NOT CUT: {fault}");
                let event = LogEvent::new(EventKind::Guard, text).failed();
                self.out.tell_at_most("cut", 10, event);
                self.connections.wanted.elements.extend(cut.elements);
                self.connections.retry_at = Some(now.boot.plus(RETRY));
            }
        }
        self.give_closed_replies(now, cut.replies);
    }

    fn give_closed_replies(&mut self, now: Now, replies: Vec<ClosedReply>) {
        for one in replies {
            // If the listener is gone, the verdict is dropped.
            self.give_verdict(now, one.listener, one.ticket, &one.reply);
        }
    }

    /// Forgets ended grants without connections.
    fn connections_listed(&mut self, over: &[ActiveGrant], result: Result<GuardReport, Fault>) {
        match result {
            Ok(GuardReport::Standing(standing)) => {
                let records = self.grants.forget_past(over, &standing);
                self.journal.defer(&records);
            }
            Ok(_) => {}
            Err(fault) => {
                let event = LogEvent::new(EventKind::Guard, fault.to_string()).failed();
                self.out.tell_at_most("connections", 600, event);
            }
        }
    }
}
