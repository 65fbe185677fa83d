//! A day of a busy gateway, by an injected clock: what it tells is bounded, has every knock of a
//! known key, and adds up.

use std::collections::BTreeMap;

use super::people::Person::{self, Anna, Bert, Carl};
use super::people::at;
use super::simulator::Random;
use super::world::{RUN, SIDE, World};
use crate::app::gatekeeper::events::ListenerLoss;
use crate::app::metrics::tests::{accounted, samples};
use crate::app::metrics::{Metrics, MetricsForm, render};
use crate::core::event::{EventKind, KnockId};
use crate::core::keyring::FilterDrops;
use crate::core::knock::{KnockKind, Request};
use crate::core::openings::CommandEnd;
use crate::core::types::{Counters, Reject, SECOND, Source, Wall};
use crate::edge::control::ControlRequest;
use crate::edge::gatekeeper_pipe::{Tally, ToGatekeeper};

const DAY: u64 = 86_400;
/// Seconds between two turns of the day.
const STEP: u64 = 40;

/// What happened, counted by the test itself.
#[derive(Default)]
struct Happened {
    /// Knocks that their client's key signed, by id, and how often each was handed over.
    signed: BTreeMap<KnockId, u64>,
    /// Knocks that a captured listener made up.
    forged: u64,
    /// Steps and sequences of doors.
    steps: u64,
    completed: u64,
    reloads: u64,
    losses: u64,
}

struct BusyDay {
    world: World,
    random: Random,
    happened: Happened,
    handed: u64,
}

impl BusyDay {
    fn knock(&mut self, person: Person, request: &Request, times: u64) {
        for _ in 0..times {
            let id = self.world.listener();
            let knock = self.world.handed(id, person, request);
            *self.happened.signed.entry(KnockId::of(&knock.h)).or_default() += 1;
            self.handed += 1;
            self.world.hand_all(id, vec![knock]);
        }
    }

    /// Somebody does something, as people do.
    fn something(&mut self, second: u64) {
        let person = [Anna, Bert, Carl][usize::try_from(self.random.below(3)).unwrap()];
        let service = ["ssh", "web", "rdp", "none"][usize::try_from(self.random.below(4)).unwrap()];
        let request = person.request(service, second);
        match self.random.below(12) {
            0..=4 => self.knock(person, &request, 1),
            5 => {
                let elsewhere = Some(Source::new([203, 0, 113, 9].into()));
                self.knock(person, &Request { address: elsewhere, ..request }, 1);
            }
            6 => self.knock(person, &Request { kind: KnockKind::Close, ..request }, 1),
            7 => {
                let probe = Request::bare(KnockKind::Probe);
                let probe = Request { receipt_wanted: true, timestamp: at(second), ..probe };
                self.knock(person, &probe, 1);
            }
            // Somebody on the way sends it again and again.
            8 => self.knock(person, &request, 20),
            9 => {
                let timestamp = Wall(request.timestamp.0 - 3000 * SECOND);
                self.knock(person, &Request { timestamp, ..request }, 1);
            }
            10 => {
                let door = if self.random.one_in(2) { SIDE } else { RUN };
                for stage in 1..=2 {
                    self.happened.steps += 1;
                    let source = person.address();
                    self.world.tell(ToGatekeeper::Stage { door, source, stage });
                }
                self.happened.completed += 1;
                self.world.tell(ToGatekeeper::Completed { door, source: person.address() });
                self.end_commands();
            }
            _ => {
                let session = self.world.ask(ControlRequest::Reload);
                self.world.settle();
                assert!(self.world.told(session).is_some_and(|told| told.is_ok()));
                self.happened.reloads += 1;
            }
        }
    }

    fn end_commands(&mut self) {
        let running: Vec<u64> = self.world.running.keys().copied().collect();
        for id in running {
            self.world.end_command(id, CommandEnd::Exited(0));
        }
    }

    /// A captured listener makes up knocks and sequences as fast as it can, for one turn.
    fn flood(&mut self, second: u64) {
        for n in 0..200 {
            let id = self.world.listener();
            let mut knock = self.world.handed(id, Anna, &Anna.request("ssh", second));
            knock.body[191] ^= 1;
            knock.h[0] ^= n;
            self.happened.forged += 1;
            self.handed += 1;
            self.world.hand_all(id, vec![knock]);
        }
        for _ in 0..2000 {
            self.happened.steps += 1;
            let source = Bert.address();
            self.world.tell(ToGatekeeper::Stage { door: SIDE, source, stage: 1 });
        }
    }

    /// The listener's own counters, which fit what it handed over.
    fn report(&mut self) {
        let mut rejected = Counters::default();
        for _ in 0..7 {
            rejected.count(Reject::UnknownTag);
        }
        let doors = self.happened.steps + self.happened.completed;
        let read = self.handed + doors + 7;
        let filtered = FilterDrops { unknown_tag: 11, length: 2, first_step: 4, ..<_>::default() };
        let tally = Tally { rejected, filtered, read, lost: 3, doors, ..Tally::default() };
        self.world.tell(ToGatekeeper::Counters(tally));
    }
}

#[test]
fn a_day_of_a_busy_gateway_is_told_in_a_bounded_log_that_has_every_knock() {
    let mut day = BusyDay {
        world: World::new(),
        random: Random(7),
        happened: Happened::default(),
        handed: 0,
    };
    day.world.events.clear();
    let begin = day.world.second();
    while day.world.second() < begin + DAY {
        let second = day.world.second();
        day.something(second);
        if second / 3600 == 5 {
            day.flood(second);
        }
        day.world.settle();
        day.world.advance(STEP * SECOND);
        day.end_commands();
        day.world.settle();
    }
    day.report();
    let lost = day.world.listener();
    day.world.lose(lost, ListenerLoss::Ended("at the end".to_owned()));
    day.happened.losses += 1;
    day.world.advance(30 * SECOND);
    day.world.settle();

    // Every knock that a known key signed is found by its id.
    let Happened { signed, forged, steps, completed, reloads, losses } = &day.happened;
    let mut by_id: BTreeMap<KnockId, u64> = BTreeMap::new();
    for id in day.world.events.iter().filter_map(|event| event.id) {
        *by_id.entry(id).or_default() += 1;
    }
    assert!(signed.len() > 1000, "{}", signed.len());
    for id in signed.keys() {
        assert!(by_id.contains_key(id), "{id} was handed over and is not in the log");
    }

    // One line for each of them, and not more than the limits say for all else.
    let lines = u64::try_from(day.world.events.len()).unwrap();
    let minutes = DAY / 60 + 2;
    let of = |kind: EventKind| {
        u64::try_from(day.world.events.iter().filter(|event| event.kind == kind).count()).unwrap()
    };
    let repeated: u64 = signed.values().map(|times| times - 1).sum();
    assert!(*forged > 10_000 && repeated > 500, "{forged} {repeated}");
    assert!(of(EventKind::Alarm) <= minutes, "one a minute for each client and reason");
    assert!(of(EventKind::Ignored) <= signed.len() as u64, "once for each, however often it comes");
    assert!(of(EventKind::Limit) <= 2 * (DAY + 60) / 10, "once for each periodic check");
    let bound = u64::try_from(signed.len()).unwrap()
        + 256 + 16 * 3700 // steps in the hour of the flood
        + 4 * completed // sequence, grant, and both commands
        + 2 * reloads
        + 3 * losses
        + minutes * 3
        + 2 * DAY / 10;
    assert!(lines <= bound, "{lines} lines, at most {bound}");
    assert!(lines * 2 < *forged + repeated + steps + signed.len() as u64, "{lines} lines");
    let longest = day.world.events.iter().map(|event| event.line().len()).max().unwrap();
    assert!(longest < 400, "{longest}");

    // The numbers add up, and say the same as the log.
    let counts = day.world.gatekeeper.out.ring().counts();
    let overview = day.world.gatekeeper.overview(day.world.now());
    let metrics = Metrics { overview, events: counts };
    let form = MetricsForm::OpenMetrics;
    let samples = samples(&render(&metrics, form), form);
    assert_eq!(accounted(&samples), samples["toctoc_received_total"]);
    assert_eq!(samples["toctoc_waiting_knocks"], 0);
    let granted = of(EventKind::Granted) + of(EventKind::Extended);
    let by_doors = day.world.events.iter().filter(|event| {
        event.kind == EventKind::Granted
            && event.client.as_ref().is_some_and(|client| client.starts_with("door "))
    });
    let by_knocks = granted - u64::try_from(by_doors.count()).unwrap();
    assert_eq!(samples["toctoc_knocks_total{verdict=\"granted\"}"], by_knocks);
    assert_eq!(samples["toctoc_knocks_total{verdict=\"closed\"}"], of(EventKind::Closed));
    assert_eq!(samples["toctoc_knocks_total{verdict=\"probe\"}"], of(EventKind::Probe));
    for kind in EventKind::ALL {
        let since_start = samples[&format!("toctoc_events_total{{event=\"{}\"}}", kind.name())];
        assert!(since_start >= of(kind), "{kind:?}");
    }
}
