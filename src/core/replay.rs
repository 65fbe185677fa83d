//! `Authentic` -> `Fresh`: the window, seen, floor and burned timestamps, challenges, the suspect
//! clock. Making marks durable is left to `edge::state`, what a fresh knock may have to `policy`.
//!
//! INVARIANT: no packet is accepted twice. A packet that carries a challenge is accepted only by
//! spending that challenge, which was given once and lives in memory; a packet without one only if
//! its timestamp is not covered by its client's [`Marks`], and from then on it is. Whatever is
//! accepted or answered is marked in the same step, whatever its timestamp, and nothing is told or
//! opened before the mark is durable.
//!
//! A state that is found at a start may be an older one, put back from a backup: nothing in it
//! tells. So what may have been accepted before the start, by a clock that is ahead as far as is
//! allowed, needs a challenge after every start.
//!
//! What this cannot hold: marks lost *and* a clock that is behind when the loss is accepted and
//! catches up unseen while the gateway is down. `toctocd reinitialise` says so. And a packet of the
//! future that was refused, never accepted, may count when its time has come if the mark of that
//! refusal is lost.
//!
//! INVARIANT: no client is locked out by timestamps, its own or those of a clock gone wrong. What
//! `Marks` covers without being sure costs a challenge, never silence; only a timestamp that was
//! certainly used is met with silence.

use std::collections::{HashMap, VecDeque};

use super::authentic::Authentic;
use super::knock::{Challenge, KnockKind, Status};
use super::ledger::Ledger;
use super::record::Record;
use super::reply::{PendingReply, Reply};
use super::types::{Boot, ClientId, Now, Reject, SECOND, Source, Wall};

mod challenges;
mod clock_monitor;
mod marks;

pub use challenges::Challenges;
pub use clock_monitor::{ClockFault, ClockMonitor};
pub use marks::UsedMarks;

/// How many packets of one client are remembered with the address that they came from. The table of
/// clients needs no cap: only a good signature of an enrolled client makes an entry.
///
/// This many, so that a recorded packet is met with silence until its day's tag is unknown: two
/// days of a knock every three minutes. One that was forgotten all the same, or by a restart, opens
/// nothing but may be answered once more. It cannot be silence: an honest client whose clock is
/// behind looks just like that, and no budget of answers tells the two apart.
const RECENT: usize = 1024;

/// How far a timestamp may be from now, seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// In the past.
    pub max_age: u32,
    /// In the future.
    pub max_ahead: u32,
}

/// How the state was found at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateOrigin {
    /// There is one, whole in itself. Whether it is the newest that there was cannot be seen.
    Found,
    /// There never was one: nothing can have been accepted before the start, and what was sent
    /// before it does not count.
    First,
}

/// Why every knock needs a challenge just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChallengeReason {
    /// Marks were lost at or before this moment, and nobody re-initialised.
    Lost(Wall),
    /// The clock.
    Clock(ClockFault),
}

/// A knock that nobody can have used before. Its mark is in memory, not yet on disk.
pub struct Fresh {
    pub(super) authentic: Authentic,
    pub(super) records: Vec<Record>,
    pub(super) challenge: Option<Challenge>,
}

/// A packet that came to nothing without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub reject: Reject,
    /// Worth a line in the log.
    pub alarm: Option<Alarm>,
}

/// A used packet came again from another address: somebody is on the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// Whose packet.
    pub client: ClientId,
    /// Where it came from first.
    pub first: Source,
    /// Where it came from now.
    pub again: Source,
}

/// What became of an authentic knock.
pub enum ReplayDecision {
    /// Policy may look at it.
    Fresh(Fresh),
    /// It is burned and answered once.
    Told(PendingReply),
    /// Silence.
    Refused(Refused),
}

/// All that stands between a recorded packet and a second grant.
pub struct Replay {
    window: Window,
    clients: HashMap<ClientId, ClientMarks>,
    challenges: Challenges,
    watch: ClockMonitor,
    lost: Option<Wall>,
    /// Timestamps from before this moment do not count, up to this many seconds after it.
    since: (Boot, u32),
    reinitialised: Option<Wall>,
    recorded: Wall,
}

#[derive(Default)]
struct ClientMarks {
    marks: UsedMarks,
    recent: VecDeque<(Wall, Source)>,
    misplaced: VecDeque<Wall>,
}

impl Replay {
    /// Goes on from what the state holds.
    pub fn restore(window: Window, now: Now, ledger: &Ledger, standing: StateOrigin) -> Self {
        let client = |(id, marks): (ClientId, &UsedMarks)| {
            (id, ClientMarks { marks: marks.clone(), ..ClientMarks::default() })
        };
        let margin = match standing {
            StateOrigin::Found => window.max_ahead,
            StateOrigin::First => 0,
        };
        Self {
            window,
            clients: ledger.marks().map(client).collect(),
            challenges: Challenges::default(),
            watch: ClockMonitor::new(now, ledger.newest()),
            lost: ledger.lost(),
            since: (now.boot, margin),
            reinitialised: ledger.reinitialised(),
            recorded: ledger.newest(),
        }
    }

    /// Whether all knocks need a challenge, and why. Also what keeps the clock under watch: call it
    /// at least once a minute.
    pub fn challenge_reason(&mut self, now: Now) -> Option<ChallengeReason> {
        let doubt = self.watch.check(now);
        self.lost.map(ChallengeReason::Lost).or(doubt.map(ChallengeReason::Clock))
    }

    /// After a reload: the new window, and room for the marks of clients that are gone for good.
    pub fn reload(&mut self, window: Window, enrolled: impl Fn(ClientId) -> bool) {
        self.window = window;
        // A line taken out and put back within the window must not bring used packets back to life.
        let stale = Wall(self.watch.newest().0.saturating_sub(3600 * SECOND));
        self.clients.retain(|id, client| enrolled(*id) || client.marks.newest() > stale);
    }

    /// An admin accepts the loss of marks, or that the clock was ahead before. Make the records
    /// durable.
    pub fn reinitialise(&mut self, now: Now) -> Vec<Record> {
        self.watch.trust(now);
        (self.lost, self.reinitialised, self.recorded) = (None, Some(now.wall), now.wall);
        // A packet accepted just before the loss may have come from a clock that is ahead.
        self.since = (now.boot, self.window.max_ahead);
        vec![Record::Reinitialised { at: now.wall }]
    }

    /// The state turned out to have lost marks while we run; ours in memory stay.
    pub fn record_loss(&mut self, at: Wall) {
        self.lost = Some(at);
    }

    /// The clients that have marks in the future, and until when those reach. Their clocks were
    /// ahead, or ours was. Nothing is locked out by it: a timestamp that is covered costs a
    /// challenge when its time has come.
    pub fn ahead(&self, now: Now) -> impl Iterator<Item = (ClientId, Wall)> {
        let horizon = now.wall.plus(self.window.max_ahead);
        let newest = self.clients.iter().map(|(id, client)| (*id, client.marks.newest()));
        newest.filter(move |(_, newest)| *newest > horizon)
    }

    /// The newest time, if it was not made durable for `seconds`: so that a clock set back while we
    /// are down is noticed.
    pub fn heartbeat(&mut self, now: Now, seconds: u32) -> Option<Record> {
        let trusted = self.watch.check(now).is_none();
        (trusted && now.wall > self.recorded.plus(seconds)).then(|| {
            self.recorded = now.wall;
            Record::Newest { wall: now.wall }
        })
    }

    /// What clients can grow: each table's name, how much it holds at most anywhere, and its cap.
    pub fn tables(&self) -> [(&'static str, usize, usize); 3] {
        let most = |of: fn(&ClientMarks) -> usize| self.clients.values().map(of).max().unwrap_or(0);
        [
            ("challenges", self.challenges.len(), challenges::ALL),
            ("recent", most(|client| client.recent.len().max(client.misplaced.len())), RECENT),
            ("marks", most(|client| client.marks.held()), marks::SEEN.max(marks::BURNED)),
        ]
    }

    /// Refuses a packet that was certainly used before. Changes nothing.
    pub fn reject_used(&self, authentic: &Authentic) -> Result<(), Refused> {
        let Some(client) = self.clients.get(&authentic.client()) else { return Ok(()) };
        let timestamp = authentic.request().timestamp;
        let first =
            client.recent.iter().find(|(used, _)| *used == timestamp).map(|(_, source)| *source);
        if first.is_none() && !client.marks.used(timestamp) {
            return Ok(());
        }
        let again = authentic.source();
        let alarm = first.filter(|first| *first != again).map(|first| Alarm {
            client: authentic.client(),
            first,
            again,
        });
        Err(Refused { reject: Reject::Replayed, alarm })
    }

    /// Answers a packet that names another address than it came from. It is not burned: from the
    /// right address it is still good. It is answered once, and only in its window: whoever sends
    /// old packets again from his own address hears nothing, ever. An honest client loses no more
    /// than the word: with the right address it is told about its clock.
    pub fn wrong_address(
        &mut self,
        now: Now,
        authentic: Authentic,
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
        let answer = Reply::new(&authentic, Status::Address, None);
        Ok(PendingReply { records: Vec::new(), answer, reject: Some(Reject::Address) })
    }

    /// Judges and marks in one step. `demanded`: its service takes challenges only. `entropy` must
    /// be fresh and secret.
    pub fn check(
        &mut self,
        now: Now,
        authentic: Authentic,
        demanded: bool,
        entropy: [u8; 16],
    ) -> ReplayDecision {
        if let Err(refused) = self.reject_used(&authentic) {
            return ReplayDecision::Refused(refused);
        }
        let suspect = self.challenge_reason(now).is_some();
        let (id, source, request) = (authentic.client(), authentic.source(), *authentic.request());
        let refusal = match &request.challenge {
            Some(challenge) if self.challenges.spend(now.boot, id, source, challenge) => None,
            Some(_) => Some((Status::Challenge, Reject::Clock)),
            None if suspect => Some((Status::Challenge, Reject::Clock)),
            None => self.check_time(now, id, request.timestamp, demanded),
        };
        let records = self.mark(now, &authentic, refusal.is_none() && !suspect);
        match refusal {
            None => {
                let probe = request.kind == KnockKind::Probe;
                let challenge =
                    probe.then(|| self.challenges.give(now.boot, id, source, entropy)).flatten();
                ReplayDecision::Fresh(Fresh { authentic, records, challenge })
            }
            Some((status, reject)) => {
                let challenge = self.challenges.give(now.boot, id, source, entropy);
                let answer = Reply::new(&authentic, status, challenge);
                ReplayDecision::Told(PendingReply { records, answer, reject: Some(reject) })
            }
        }
    }

    /// Why a timestamp alone does not do.
    fn check_time(
        &self,
        now: Now,
        id: ClientId,
        timestamp: Wall,
        demanded: bool,
    ) -> Option<(Status, Reject)> {
        if !self.in_window(now, timestamp) {
            return Some((Status::Clock, Reject::Clock));
        }
        let covered = self.clients.get(&id).is_some_and(|client| client.marks.covered(timestamp));
        if covered || self.before_start(now, timestamp) {
            return Some((Status::Challenge, Reject::Replayed));
        }
        demanded.then_some((Status::Challenge, Reject::Policy))
    }

    fn in_window(&self, now: Now, timestamp: Wall) -> bool {
        let age = now.wall.since(timestamp);
        (-nanos(self.window.max_ahead)..=nanos(self.window.max_age)).contains(&age)
    }

    /// Whether a packet of this timestamp may have been accepted by a run whose marks are lost.
    fn before_start(&self, now: Now, timestamp: Wall) -> bool {
        let (since, margin) = self.since;
        let age = now.wall.since(timestamp);
        let running = i64::try_from(now.boot.0.saturating_sub(since.0)).unwrap_or(i64::MAX);
        let early = age.saturating_add(nanos(margin)) >= running;
        early || self.reinitialised.is_some_and(|at| timestamp <= at.plus(self.window.max_ahead))
    }

    /// Marks a packet that is accepted or answered. Only what a trusted clock finds in its window
    /// may raise the floor; the rest is burned: a client whose clock was ahead for a while, or
    /// ours, then still has its account.
    fn mark(&mut self, now: Now, authentic: &Authentic, accepted: bool) -> Vec<Record> {
        let timestamp = authentic.request().timestamp;
        let see = accepted && self.in_window(now, timestamp);
        let id = authentic.client();
        let client = self.clients.entry(id).or_default();
        remember(&mut client.recent, (timestamp, authentic.source()));
        let record = if see {
            client.marks.see(timestamp);
            Record::Seen { client: id, timestamp }
        } else {
            client.marks.record(timestamp);
            Record::Burned { client: id, timestamp }
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
    i64::from(seconds).saturating_mul(i64::try_from(SECOND).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
