//! Who knocked last, for `toctocd top`: a bounded table of clients, the last one first.

use super::Gatekeeper;
use crate::app::admin::{ClientActivity, GatewayOverview, rejected_because};
use crate::core::knock::Status;
use crate::core::reply::Reply;
use crate::core::types::{Now, Reject, SECOND, Source};
use crate::edge::log::clock_time;

/// The most clients that are remembered. Whoever has not knocked for longest is forgotten.
const MOST: usize = 64;

#[derive(Default)]
pub(super) struct Activity {
    /// The last one first.
    clients: Vec<LastKnock>,
}

/// What one client did since it is in the table, joining by its invitation included.
struct LastKnock {
    /// Its name then: it may have been revoked or disabled since.
    name: String,
    at: Now,
    source: Source,
    end: KnockEnd,
    answered: u64,
    refused: u64,
}

/// How a knock ended.
#[derive(Clone, Copy)]
enum KnockEnd {
    Answered(Status),
    Rejected(Reject),
}

impl KnockEnd {
    /// One for a knock that got what it asked for, one for a refusal. A knock that must be sent
    /// again, with the right time, is neither.
    fn counts(self) -> (u64, u64) {
        match self {
            KnockEnd::Rejected(_) => (0, 1),
            KnockEnd::Answered(status) => match status {
                Status::Granted
                | Status::Closed
                | Status::Observed
                | Status::Enrolled
                | Status::Pending => (1, 0),
                Status::Clock | Status::Challenge => (0, 0),
                Status::Denied
                | Status::Full
                | Status::Taken
                | Status::Address
                | Status::Trouble => (0, 1),
            },
        }
    }

    fn in_words(self) -> String {
        match self {
            KnockEnd::Rejected(reject) => rejected_because(reject).to_owned(),
            KnockEnd::Answered(Status::Granted) => "granted".to_owned(),
            KnockEnd::Answered(Status::Closed) => "closed".to_owned(),
            KnockEnd::Answered(Status::Observed) => "probe".to_owned(),
            KnockEnd::Answered(Status::Enrolled) => "joined".to_owned(),
            KnockEnd::Answered(Status::Pending) => "waits for approval".to_owned(),
            KnockEnd::Answered(status) => super::knocks::reason(status).to_owned(),
        }
    }
}

impl Activity {
    /// Takes note of a knock of the client of this name that ends with this reply.
    pub(super) fn answered(&mut self, now: Now, name: String, reply: &Reply) {
        self.note(now, name, reply.source, KnockEnd::Answered(reply.status));
    }

    /// Takes note of a knock that is refused in silence.
    pub(super) fn rejected(&mut self, now: Now, name: String, source: Source, reject: Reject) {
        self.note(now, name, source, KnockEnd::Rejected(reject));
    }

    fn note(&mut self, now: Now, name: String, source: Source, end: KnockEnd) {
        let (mut answered, mut refused) = end.counts();
        if let Some(place) = self.clients.iter().position(|one| one.name == name) {
            let known = self.clients.remove(place);
            answered = answered.saturating_add(known.answered);
            refused = refused.saturating_add(known.refused);
        }
        self.clients.truncate(MOST - 1);
        self.clients.insert(0, LastKnock { name, at: now, source, end, answered, refused });
    }
}

impl Gatekeeper {
    /// The answer for `toctocd top`, without a look at the guard: that would take a process each
    /// time.
    pub(super) fn overview(&mut self, now: Now) -> GatewayOverview {
        self.ask_for_counters();
        let guard = self.guard.seems_sound();
        GatewayOverview {
            status: self.status(now, guard),
            services: self.all_services(),
            clients: self.last_knocks(now),
            events: self.out.ring().last(),
            time: clock_time(now.wall),
        }
    }

    /// The clients that knocked last, the last one first.
    pub(super) fn last_knocks(&self, now: Now) -> Vec<ClientActivity> {
        let mut clients = Vec::new();
        for one in &self.activity.clients {
            clients.push(ClientActivity {
                client: one.name.clone(),
                answered: one.answered,
                refused: one.refused,
                last: one.end.in_words(),
                from: one.source.to_string(),
                at: clock_time(one.at.wall),
                seconds_ago: now.boot.0.saturating_sub(one.at.boot.0) / SECOND,
            });
        }
        clients
    }
}
