//! `Authentic` -> `Fresh`: the time window, used-knock marks, challenges, and a clock that cannot
//! be trusted. See `edge::state` for durable marks, `policy` for what a fresh knock may have.
//!
//! INVARIANT: no packet is accepted twice. A packet that carries a challenge is accepted only by
//! spending that challenge, which was given once and is kept only in memory. A packet without one
//! is accepted only if its client's [`UsedMarks`] do not cover its timestamp, and from then on they
//! do. Whatever is accepted or answered is marked in the same step, whatever its timestamp, and
//! nothing is replied or opened before the mark is durable.
//!
//! The state found at a start may be an older one, put back from a backup; nothing in it shows
//! that. So after every start, whatever an earlier run may have accepted, by a clock that is ahead
//! as far as is allowed, needs a challenge.
//!
//! Limits: marks that were lost *and* a clock that is behind when the loss is accepted and catches
//! up unseen while the gateway is down (`toctocd reinitialise` says so). And a packet from the
//! future that was refused, never accepted, may count when its time has come if the mark of that
//! refusal is lost.
//!
//! A timestamp that is ahead of the window says that its client's clock is ahead. What the client
//! sent before may have been lost, or dropped for a tag of an unknown day, and somebody may have
//! recorded it: on its day it would be fresh. So everything from the begin of the window to that
//! timestamp is marked.
//!
//! INVARIANT: no client is locked out by timestamps, its own or those of a wrong clock. A timestamp
//! that is covered but perhaps unused costs a challenge. Only a timestamp that was certainly used
//! is met with silence.

use std::collections::{HashMap, VecDeque};

use super::authentic::Authentic;
use super::keyring::Day;
use super::knock::{Challenge, KnockKind, Status};
use super::ledger::Ledger;
use super::marks::{self, UsedMarks};
use super::record::Record;
use super::reply::{PendingReply, Reply};
use super::types::{Boot, ClientId, Now, Reject, SECOND, Source, Wall};
use crate::core::bytes::saturated_i64;

mod challenges;
mod clock_monitor;
#[cfg(test)]
mod tests;

use challenges::Challenges;
use clock_monitor::ClockMonitor;
pub use clock_monitor::{ClockFault, clock_jump};

/// The most packets of one client that are remembered with their addresses. The table of clients
/// needs no limit: only a good signature of an enrolled client makes an entry.
///
/// So many that a recorded packet is met with silence until its day's tag is unknown: two days of a
/// knock every three minutes. A packet that was forgotten all the same, or by a restart, opens
/// nothing but may be answered once more. It cannot be silence: an honest client whose clock is
/// behind looks just like that, and no budget of answers tells the two apart.
const RECENT: usize = 1024;
/// Seconds that the marks of a client are kept that is no longer enrolled: more than twice the
/// longest window, which is an hour each way.
const LEAVING: u32 = 3 * 3600;
/// The most days that a client's first day may be ahead of the clock: a hundred years. Each 32 days
/// cost a hash whenever its keys are made.
const DAYS_AHEAD: u32 = 36_525;
/// The most clients whose marks are dropped at once.
const FORGOTTEN_AT_ONCE: usize = 256;

/// The greatest distance of a timestamp from now, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub max_age: u32,
    pub max_ahead: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateOrigin {
    /// A state without damage. Nobody can see whether it is the newest one.
    Found,
    /// There never was one, and no client is enrolled: nothing can have been accepted before the
    /// start, and what was sent before it does not count.
    First,
}

/// The reason why every knock needs a challenge now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChallengeReason {
    /// Marks were lost at or before this moment, and no admin has accepted that.
    Lost(Wall),
    Clock(ClockFault),
}

/// A knock that nobody can have used before. Its mark is in memory, not yet on disk.
pub struct Fresh {
    pub(super) authentic: Authentic,
    pub(super) records: Vec<Record>,
    pub(super) challenge: Option<Challenge>,
}

/// A packet that is refused in silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    pub reject: Reject,
    pub alarm: Option<Alarm>,
}

/// A used packet came again from another address: somebody is on the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alarm {
    pub client: ClientId,
    pub first: Source,
    pub again: Source,
}

pub enum ReplayDecision {
    Fresh(Fresh),
    /// It is burned and answered once.
    Reply(PendingReply),
    Refused(Refused),
}

/// All that stands between a recorded packet and a second grant.
pub struct Replay {
    window: Window,
    clients: HashMap<ClientId, ClientMarks>,
    /// Clients that are no longer enrolled, and when their marks may be dropped.
    leaving: VecDeque<(Boot, ClientId)>,
    challenges: Challenges,
    clock: ClockMonitor,
    lost: Option<Wall>,
    reinitialised: Option<Wall>,
    /// Timestamps from before this moment need a challenge,
    start: Boot,
    /// and those up to this many seconds after it.
    start_margin: u32,
    /// The newest time that is durable.
    recorded: Wall,
}

#[derive(Default)]
struct ClientMarks {
    marks: UsedMarks,
    recent: VecDeque<RecentPacket>,
    /// Timestamps of packets that named another address than they came from.
    misplaced: VecDeque<Wall>,
    /// The latest first day of its keys that the client has named.
    named_day: u32,
}

/// A packet that was marked while we run, 32 bytes.
struct RecentPacket {
    timestamp: Wall,
    source: Source,
    day: Day,
}

impl Replay {
    /// Continues from the state's records.
    pub fn restore(window: Window, now: Now, ledger: &Ledger, origin: StateOrigin) -> Self {
        let mut clients = HashMap::new();
        for (id, marks) in ledger.marks() {
            clients.insert(id, ClientMarks { marks: marks.clone(), ..ClientMarks::default() });
        }
        Self {
            window,
            clients,
            leaving: VecDeque::new(),
            challenges: Challenges::default(),
            clock: ClockMonitor::new(now, ledger.newest()),
            lost: ledger.lost(),
            reinitialised: ledger.reinitialised(),
            start: now.boot,
            start_margin: match origin {
                StateOrigin::Found => window.max_ahead,
                StateOrigin::First => 0,
            },
            recorded: ledger.newest(),
        }
    }

    /// The reason why all knocks need a challenge; `None` if they do not. Also keeps the clock
    /// under watch: call it at least once a minute.
    pub fn challenge_reason(&mut self, now: Now) -> Option<ChallengeReason> {
        let clock_fault = self.clock.check(now);
        match (self.lost, clock_fault) {
            (Some(at), _) => Some(ChallengeReason::Lost(at)),
            (None, fault) => fault.map(ChallengeReason::Clock),
        }
    }

    pub fn set_window(&mut self, window: Window) {
        self.window = window;
    }

    /// A client is no longer enrolled: [`Replay::forget`] drops its marks later.
    pub fn leave(&mut self, now: Now, id: ClientId) {
        if self.clients.contains_key(&id) {
            self.leaving.push_back((now.boot.plus(LEAVING), id));
        }
    }

    /// Drops the marks of clients that left long ago, a few at a time. Make the records durable.
    ///
    /// They are of no use. A revoked key verifies nothing, and a client that is enrolled again gets
    /// a new id. If an admin puts the old line back by hand, the old id counts again: for that the
    /// marks are kept until all of them are older than any window, so that no packet that they
    /// cover can be accepted by its timestamp. A challenge is accepted only once in any case.
    pub fn forget(&mut self, now: Now, enrolled: impl Fn(ClientId) -> bool) -> Vec<Record> {
        let stale = Wall(self.clock.newest().0.saturating_sub(u64::from(LEAVING) * SECOND));
        let mut records = Vec::new();
        for _ in 0..FORGOTTEN_AT_ONCE {
            let Some((_, id)) = self.leaving.front().copied().filter(|(due, _)| *due <= now.boot)
            else {
                break;
            };
            self.leaving.pop_front();
            let newest = self.clients.get(&id).map(|client| client.marks.newest());
            if enrolled(id) || newest.is_none() {
                continue;
            }
            if newest > Some(stale) {
                self.leaving.push_back((now.boot.plus(LEAVING), id));
                continue;
            }
            self.clients.remove(&id);
            records.push(Record::Forgotten { client: id });
        }
        records
    }

    /// An admin accepts the loss of marks, or that the clock was ahead before. Make the records
    /// durable.
    pub fn reinitialise(&mut self, now: Now) -> Vec<Record> {
        self.clock.trust(now);
        self.lost = None;
        self.reinitialised = Some(now.wall);
        self.recorded = now.wall;
        // A packet accepted just before the loss may have come from a clock that is ahead.
        self.start = now.boot;
        self.start_margin = self.window.max_ahead;
        vec![Record::Reinitialised { at: now.wall }]
    }

    /// The state turned out to have lost marks while we run; the marks in memory stay.
    pub fn record_loss(&mut self, at: Wall) {
        self.lost = Some(at);
    }

    /// The clients with marks in the future, and the end of those marks: their clocks were ahead,
    /// or ours was. Nobody is locked out by it: a timestamp that is covered costs a challenge when
    /// its time has come.
    pub fn ahead(&self, now: Now) -> impl Iterator<Item = (ClientId, Wall)> {
        let horizon = now.wall.plus(self.window.max_ahead);
        let newest = self.clients.iter().map(|(id, client)| (*id, client.marks.newest()));
        newest.filter(move |(_, newest)| *newest > horizon)
    }

    /// The newest timestamp of this client that does not count any more: that of its last knock, by
    /// the client's clock.
    pub fn last_knock(&self, id: ClientId) -> Option<Wall> {
        self.clients.get(&id).map(|client| client.marks.newest())
    }

    /// Now, or the latest time that a trusted clock ever showed if that is later: for what must not
    /// come back when the clock is set back.
    pub fn latest(&self, now: Now) -> Wall {
        now.wall.max(self.clock.newest())
    }

    /// The newest time that is durable, or will be.
    pub fn recorded(&self) -> Wall {
        self.recorded
    }

    /// The newest time, if it was not made durable for `seconds`: so that a clock set back while we
    /// are down is noticed.
    pub fn heartbeat(&mut self, now: Now, seconds: u32) -> Option<Record> {
        let trusted = self.clock.check(now).is_none();
        if !trusted || now.wall <= self.recorded.plus(seconds) {
            return None;
        }
        self.recorded = now.wall;
        Some(Record::Newest { wall: now.wall })
    }

    /// The tables that clients can make grow: name, size of the largest, limit.
    pub fn tables(&self) -> [(&'static str, usize, usize); 3] {
        let mut recent = 0;
        let mut marks = 0;
        for client in self.clients.values() {
            recent = recent.max(client.recent.len()).max(client.misplaced.len());
            marks = marks.max(client.marks.len());
        }
        [
            ("challenges", self.challenges.len(), challenges::ALL),
            ("recent", recent, RECENT),
            ("marks", marks, marks::SEEN.max(marks::BURNED)),
        ]
    }

    /// Refuses a packet that was certainly used before. Changes nothing.
    pub fn reject_used(&self, authentic: &Authentic) -> Result<(), Refused> {
        let Some(client) = self.clients.get(&authentic.client()) else { return Ok(()) };
        let timestamp = authentic.request().timestamp;
        let again = authentic.source();
        let alarm = match client.recent.iter().find(|packet| packet.timestamp == timestamp) {
            Some(packet) if packet.source != again => {
                Some(Alarm { client: authentic.client(), first: packet.source, again })
            }
            None if !client.marks.used(timestamp) => return Ok(()),
            _ => None,
        };
        Err(Refused { reject: Reject::Replayed, alarm })
    }

    /// Answers a packet that names another address than it came from. It is not burned: from the
    /// right address it is still good. It is answered once, and only in its window: whoever sends
    /// old packets again from their own address never gets an answer. An honest client loses only
    /// this answer: at the right address it is told about its clock.
    pub fn wrong_address(
        &mut self, now: Now, authentic: Authentic,
    ) -> Result<PendingReply, Refused> {
        let timestamp = authentic.request().timestamp;
        if !self.in_window(now, timestamp) {
            return Err(Refused { reject: Reject::Clock, alarm: None });
        }
        let client = self.clients.entry(authentic.client()).or_default();
        if client.misplaced.contains(&timestamp) {
            return Err(Refused { reject: Reject::Address, alarm: None });
        }
        remember(&mut client.misplaced, timestamp);
        let reply = Reply::new(&authentic, Status::Address, None);
        Ok(PendingReply { records: Vec::new(), reply, reject: Some(Reject::Address) })
    }

    /// The working day of a client: the day whose keys it and we use, with the days around it. It
    /// is today, unless the client has forgotten the keys of today: it knocked with a clock that
    /// was as far ahead as ours, or says so. `first_day`: the first one that we have keys for.
    pub fn working_day(&self, now: Now, id: ClientId, first_day: u32) -> u32 {
        let day = self.day_without_names(now, id, first_day);
        match self.clients.get(&id) {
            Some(client) => day.max(client.named_day.saturating_add(1)),
            None => day,
        }
    }

    /// The working day, but for what the client has named.
    fn day_without_names(&self, now: Now, id: ClientId, first_day: u32) -> u32 {
        // The day before must have keys too.
        let day = now.wall.day().max(first_day.saturating_add(1));
        match self.clients.get(&id) {
            Some(client) => day.max(client.marks.newest_seen().day()),
            None => day,
        }
    }

    /// Checks and marks in one step. `entropy` must be fresh and secret.
    pub fn check(
        &mut self, now: Now, authentic: Authentic, challenge_required: bool, entropy: [u8; 16],
    ) -> ReplayDecision {
        if let Err(refused) = self.reject_used(&authentic) {
            return ReplayDecision::Refused(refused);
        }
        let suspect = self.challenge_reason(now).is_some();
        let id = authentic.client();
        let source = authentic.source();
        let request = *authentic.request();
        let refusal = match &request.challenge {
            _ if request.kind == KnockKind::Time => Some((Status::Clock, Reject::Clock)),
            Some(challenge) if self.challenges.spend(now.boot, id, source, challenge) => None,
            Some(_) => Some((Status::Challenge, Reject::Clock)),
            None if suspect => Some((Status::Challenge, Reject::Clock)),
            None => self.check_time(now, id, request.timestamp, challenge_required),
        };
        if request.kind == KnockKind::Time {
            // The limit does not move with what was named: each ask could name a later day.
            let limit = self.day_without_names(now, id, 0).saturating_add(DAYS_AHEAD);
            if request.first_day <= limit {
                let client = self.clients.entry(id).or_default();
                client.named_day = client.named_day.max(request.first_day);
            }
        }
        let records = self.mark(now, &authentic, refusal.is_none() && !suspect);
        let challenge = if refusal.is_some() || request.kind == KnockKind::Probe {
            self.challenges.give(now.boot, id, source, entropy)
        } else {
            None
        };
        match refusal {
            None => ReplayDecision::Fresh(Fresh { authentic, records, challenge }),
            Some((status, reject)) => {
                let reply = Reply::new(&authentic, status, challenge);
                ReplayDecision::Reply(PendingReply { records, reply, reject: Some(reject) })
            }
        }
    }

    /// The reason why a timestamp alone is not enough; `None` if it is.
    fn check_time(
        &self, now: Now, id: ClientId, timestamp: Wall, challenge_required: bool,
    ) -> Option<(Status, Reject)> {
        if !self.in_window(now, timestamp) {
            return Some((Status::Clock, Reject::Clock));
        }
        let covered = self.clients.get(&id).is_some_and(|client| client.marks.covered(timestamp));
        if covered || self.before_start(now, timestamp) {
            return Some((Status::Challenge, Reject::Replayed));
        }
        challenge_required.then_some((Status::Challenge, Reject::Policy))
    }

    fn in_window(&self, now: Now, timestamp: Wall) -> bool {
        let age = now.wall.since(timestamp);
        (-nanos(self.window.max_ahead)..=nanos(self.window.max_age)).contains(&age)
    }

    /// True if a run whose marks are lost may have accepted a packet of this timestamp.
    fn before_start(&self, now: Now, timestamp: Wall) -> bool {
        let age = now.wall.since(timestamp);
        let uptime = saturated_i64(now.boot.0.saturating_sub(self.start.0));
        if age.saturating_add(nanos(self.start_margin)) >= uptime {
            return true;
        }
        self.reinitialised.is_some_and(|at| timestamp <= at.plus(self.window.max_ahead))
    }

    /// Marks a packet that is accepted or answered. Only a packet that a trusted clock finds in its
    /// window may raise the floor; the others are burned. So a client whose clock was ahead for a
    /// while, or whose gateway's was, can still knock.
    fn mark(&mut self, now: Now, authentic: &Authentic, accepted: bool) -> Vec<Record> {
        let timestamp = authentic.request().timestamp;
        let see = accepted && self.in_window(now, timestamp);
        let id = authentic.client();
        let client = self.clients.entry(id).or_default();
        let (source, day) = (authentic.source(), authentic.handshake().day);
        // So a client that knocks seldom takes little memory.
        while let Some(oldest) = client.recent.front()
            && oldest.day.is_over(day)
        {
            client.recent.pop_front();
        }
        remember(&mut client.recent, RecentPacket { timestamp, source, day });
        let record = if see {
            client.marks.see(timestamp);
            Record::Seen { client: id, timestamp }
        } else {
            let is_ahead = timestamp > now.wall.plus(self.window.max_ahead);
            let oldest = Wall(now.wall.0.saturating_sub(u64::from(self.window.max_age) * SECOND));
            let first = if is_ahead { oldest } else { timestamp };
            client.marks.burn(first, timestamp);
            Record::Burned { client: id, first, last: timestamp }
        };
        let mut records = vec![record];
        records.extend(self.heartbeat(now, 1));
        records
    }
}

fn remember<T>(list: &mut VecDeque<T>, item: T) {
    if list.len() >= RECENT {
        list.pop_front();
    }
    list.push_back(item);
}

fn nanos(seconds: u32) -> i64 {
    i64::from(seconds).saturating_mul(saturated_i64(SECOND))
}
