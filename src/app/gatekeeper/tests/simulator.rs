//! Random schedules of everything that can happen to a gatekeeper, in any order, with what must
//! always be true looked at after every step. A failure names its seed: `TOCTOC_SEED=N cargo test
//! --lib simulator` runs that schedule alone and prints what happened; `TOCTOC_SCHEDULES=N` runs so
//! many.

mod joins;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::kernel::Refusal;
use super::people::{Person, at};
use super::world::{ONCE, RUN, SIDE, World};
use crate::app::gatekeeper::events::{Event, Lane, ListenerId, ListenerLoss};
use crate::core::grants::{Element, Holder};
use crate::core::hours::{Hours, WEEK, ZoneOffsets};
use crate::core::keyring::Secret;
use crate::core::knock::{HandedKnock, KnockKind, PortEntry, Receipt, Request, Status};
use crate::core::limits::Limits;
use crate::core::openings::CommandEnd;
use crate::core::prefix::Prefix;
use crate::core::service::GrantKind;
use crate::core::types::{ClientId, Fault, SECOND, ServiceName, Source, Wall};
use crate::edge::control::ControlRequest;
use crate::edge::gatekeeper_pipe::ToGatekeeper;

/// Schedules of a usual run.
const SCHEDULES: u64 = 1000;
/// Steps of a schedule.
const STEPS: u64 = 20;

/// SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(super) fn one_in(&mut self, number: u64) -> bool {
        self.below(number) == 0
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let place = usize::try_from(self.below(from.len().max(1) as u64)).unwrap();
        from.get(place).copied()
    }

    pub(super) fn secret(&mut self) -> Secret<32> {
        let mut bytes = [0; 32];
        bytes.chunks_exact_mut(8).for_each(|part| part.copy_from_slice(&self.next().to_be_bytes()));
        Secret::new(bytes)
    }
}

/// Names the seed of a schedule that fails.
pub(super) struct Seed(pub(super) u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("schedule {0} failed: TOCTOC_SEED={0} repeats it", self.0);
        }
    }
}

/// One schedule, and what it must keep true.
struct Simulation {
    world: World,
    random: Random,
    /// What each ticket was for.
    asked: BTreeMap<u64, (Person, Request)>,
    /// How often each knock was granted.
    granted: BTreeMap<(Person, Wall), usize>,
    /// How many started commands were looked at.
    commands: usize,
    /// Openings whose start command ran, and those whose stop command did.
    opened: BTreeSet<u64>,
    stopped: BTreeSet<u64>,
    /// Who asked to join, and what became of it.
    joins: joins::Joins,
    /// Makes timestamps differ.
    knocks: u64,
    verbose: bool,
}

impl Simulation {
    fn new(seed: u64, verbose: bool) -> Simulation {
        Simulation {
            world: World::with(|files| files.joined = joins::invitations()),
            random: Random(seed),
            asked: BTreeMap::new(),
            granted: BTreeMap::new(),
            commands: 0,
            opened: BTreeSet::new(),
            stopped: BTreeSet::new(),
            joins: joins::Joins::default(),
            knocks: 0,
            verbose,
        }
    }

    fn run(mut self) {
        for _ in 0..STEPS {
            let step = self.step();
            self.report(step);
            self.check();
        }
        self.come_to_rest();
        self.check_at_rest();
        self.end();
    }

    fn report(&mut self, step: &str) {
        if self.verbose {
            let second = (self.world.now().boot.0 - 1000 * SECOND) as f64 / 1e9;
            eprintln!("{second:8.3} {step}");
            for line in std::mem::take(&mut self.world.log) {
                eprintln!("         | {line}");
            }
        }
        self.world.log.clear();
    }

    fn step(&mut self) -> &'static str {
        match self.random.below(100) {
            0..22 => self.knock(),
            22..30 => self.ask_to_join(),
            30..35 => self.replay(),
            35..53 => self.do_a_task(),
            53..56 => self.fail_a_task(),
            56..66 => self.pass_time(3 * SECOND),
            66..69 => self.pass_time(30 * SECOND),
            69..71 => self.jump(),
            71..74 => self.lose_a_listener(),
            74..78 => self.start_a_listener(),
            78..82 => self.touch_the_firewall(),
            82..85 => self.touch_the_disk(),
            85..90 => self.end_a_command(),
            90..93 => self.complete_a_door(),
            93..96 => self.ask(),
            96 => self.edit_files(),
            97 => self.edit_joined(),
            _ => self.restart(),
        }
    }

    fn listener(&mut self) -> Option<ListenerId> {
        // One that starts has nothing to hand over.
        let ids: Vec<ListenerId> = self.world.listeners.keys().copied().collect();
        let live: Vec<ListenerId> =
            ids.into_iter().filter(|id| !self.world.starting.contains(id)).collect();
        self.random.pick(&live)
    }

    fn request(&mut self, person: Person) -> Request {
        self.knocks += 1;
        let service = self.random.pick(&["ssh", "web", "rdp", "vpn", "vpn", "ssh"]).unwrap();
        // Few timestamps, so that most knocks were signed for an earlier schedule.
        let mut request = person.request(service, self.world.second() / 4 * 4);
        request.timestamp = Wall(request.timestamp.0 + self.knocks * 1_000_000);
        if self.random.one_in(5) {
            request.kind = KnockKind::Close;
        }
        request.seconds = [0, 5, 60, 300][usize::try_from(self.random.below(4)).unwrap()];
        request
    }

    fn knock(&mut self) -> &'static str {
        let Some(id) = self.listener() else { return "nobody listens" };
        let mut knocks: Vec<HandedKnock> = Vec::new();
        for _ in 0..=self.random.below(3) {
            let person = self.random.pick(&Person::ALL).unwrap();
            let request = self.request(person);
            let mut knock = self.world.handed(id, person, &request);
            let ticket = knock.ticket;
            if self.random.one_in(20) {
                knock.body[9] ^= 1;
            }
            self.asked.insert(ticket, (person, request));
            knocks.push(knock);
        }
        self.world.hand_all(id, knocks);
        "knocks"
    }

    fn replay(&mut self) -> &'static str {
        let Some(id) = self.listener() else { return "nobody listens" };
        let tickets: Vec<u64> = self.asked.keys().copied().collect();
        let Some(earlier) = self.random.pick(&tickets) else { return "nothing to replay" };
        let (person, request) = self.asked[&earlier];
        let mut knock = self.world.handed(id, person, &request);
        let ticket = knock.ticket;
        if self.random.one_in(2) {
            knock.source = Source::new([192, 0, 2, 99].into());
        }
        self.asked.insert(ticket, (person, request));
        self.world.hand_all(id, vec![knock]);
        "a replay"
    }

    fn do_a_task(&mut self) -> &'static str {
        let lane = self.random.pick(&Lane::ALL).unwrap();
        if self.world.do_task(lane) { lane.name() } else { "no task" }
    }

    fn fail_a_task(&mut self) -> &'static str {
        let lane = self.random.pick(&Lane::ALL).unwrap();
        if self.world.fail_task(lane) { "a task fails" } else { "no task" }
    }

    fn pass_time(&mut self, most: u64) -> &'static str {
        let nanos = self.random.below(most);
        self.world.advance(nanos);
        "time passes"
    }

    fn jump(&mut self) -> &'static str {
        let seconds = self.random.below(600).cast_signed() - 300;
        self.world.jump(seconds);
        "the clock jumps"
    }

    fn lose_a_listener(&mut self) -> &'static str {
        let ids: Vec<ListenerId> = self.world.listeners.keys().copied().collect();
        let Some(id) = self.random.pick(&ids) else { return "nobody listens" };
        let why = match self.random.below(3) {
            0 => ListenerLoss::Nonsense,
            1 => ListenerLoss::Ended("signal: 9".to_owned()),
            _ => ListenerLoss::NotReady(Fault::new("no right", "give it")),
        };
        self.world.lose(id, why);
        "a listener is lost"
    }

    fn start_a_listener(&mut self) -> &'static str {
        if self.world.make_ready() { "a listener is ready" } else { "no listener starts" }
    }

    fn touch_the_firewall(&mut self) -> &'static str {
        let what = {
            let mut kernel = self.world.kernel.borrow_mut();
            match self.random.below(6) {
                0 => {
                    kernel.delete();
                    "the table is deleted"
                }
                1 => {
                    kernel.flush();
                    "the sets are flushed"
                }
                2 => {
                    kernel.refuses = Some(Refusal::Half);
                    return "the kernel will take half of a batch";
                }
                3 => {
                    kernel.refuses = Some(Refusal::Whole);
                    return "the kernel will refuse a batch";
                }
                4 => {
                    kernel.sound = false;
                    "a rule is changed"
                }
                _ => {
                    let ssh = ServiceName::new("ssh").unwrap();
                    let source = Source::new([203, 0, 113, 9].into());
                    kernel.intrude(Element::plain(ssh, source, GrantKind::Time));
                    "an element is added"
                }
            }
        };
        if !self.random.one_in(4) {
            self.world.handle(Event::FirewallChanged { who: "somebody".to_owned() });
        }
        what
    }

    fn touch_the_disk(&mut self) -> &'static str {
        match self.random.below(3) {
            0 => {
                self.world.disk.set_broken(true);
                "the disk breaks"
            }
            1 => {
                self.world.disk.fail_next_sync();
                "a sync will fail"
            }
            _ => {
                self.world.disk.set_broken(false);
                "the disk works"
            }
        }
    }

    fn end_a_command(&mut self) -> &'static str {
        let ids: Vec<u64> = self.world.running.keys().copied().collect();
        let Some(id) = self.random.pick(&ids) else { return "no command runs" };
        let end = match self.random.below(6) {
            0 => CommandEnd::Exited(1),
            1 => CommandEnd::Killed,
            2 => CommandEnd::NotNow,
            _ => CommandEnd::Exited(0),
        };
        self.world.end_command(id, end);
        "a command ends"
    }

    fn complete_a_door(&mut self) -> &'static str {
        let Some(id) = self.listener() else { return "nobody listens" };
        let door = self.random.pick(&[SIDE, RUN, ONCE, 9]).unwrap();
        let source = self.random.pick(&Person::ALL).unwrap().address();
        self.world.handle(Event::Listener {
            id,
            messages: vec![ToGatekeeper::Completed { door, source }],
        });
        "a door is completed"
    }

    fn ask(&mut self) -> &'static str {
        let request = match self.random.below(8) {
            7 => self.order(),
            0 => ControlRequest::Status,
            1 => ControlRequest::Grants { after: None, most: None },
            2 => ControlRequest::GuardOff,
            3 | 4 => ControlRequest::GuardOn {
                confirm: self.random.pick(&[None, Some(0), Some(5), Some(20)]).unwrap(),
            },
            5 => ControlRequest::Reinitialise,
            _ => ControlRequest::Reload,
        };
        self.world.ask(request);
        "an admin asks"
    }

    /// An order to end grants.
    fn order(&mut self) -> ControlRequest {
        let text = |text: &str| Some(text.to_owned());
        let (client, address) = match self.random.below(3) {
            0 => (text("anna"), None),
            1 => (text("door:side"), None),
            _ => (None, text("192.0.2.8/30")),
        };
        let service = self.random.pick(&[None, Some("ssh"), Some("vpn")]).unwrap().and_then(text);
        ControlRequest::Close { grant: None, client, service, address, cut: self.random.one_in(2) }
    }

    fn edit_files(&mut self) -> &'static str {
        self.world.files.enrolled =
            Person::ALL.into_iter().filter(|_| !self.random.one_in(4)).collect();
        self.world.files.fault = self.random.one_in(4).then(|| Fault::new("wrong", "right"));
        self.world.files.limits.clear();
        for person in Person::ALL {
            let limits = self.limits();
            if self.random.one_in(3) {
                self.world.files.limits.insert(person, limits);
            }
        }
        let seconds = if self.random.one_in(2) { 30 } else { 600 };
        self.world.files.settings.services[0].max_seconds = seconds;
        if self.random.one_in(2) {
            self.world.handle(Event::Hangup);
        } else {
            self.world.ask(ControlRequest::Reload);
        }
        "files change"
    }

    /// Limits as on a line of the clients file.
    fn limits(&mut self) -> Arc<Limits> {
        let second = self.world.now().wall.0 / SECOND;
        let mut limits = Limits { disabled: self.random.one_in(6), ..Limits::default() };
        if self.random.one_in(2) {
            // The week begins on a Monday, the epoch on a Thursday.
            let begin = (second + 3 * WEEK / 7).saturating_sub(self.random.below(60)) % WEEK;
            let week = begin..begin + 1 + self.random.below(120);
            limits.hours = Some(Hours::new("", [week].into(), Arc::new(ZoneOffsets::utc())));
        }
        limits.max_grants = self.random.pick(&[None, Some(1), Some(2)]).unwrap();
        limits.max_seconds = self.random.pick(&[None, None, Some(20)]).unwrap();
        limits.not_before = self.random.pick(&[None, None, Some(second + 5)]).unwrap();
        let elsewhere = self.random.one_in(4);
        limits.from.extend(Prefix::parse("192.0.2.12/30").filter(|_| elsewhere));
        Arc::new(limits)
    }

    fn restart(&mut self) -> &'static str {
        let power_failure = self.random.one_in(2);
        self.check_stops_are_kept();
        self.world.files.fault = None;
        self.world.restart(power_failure);
        if power_failure { "the power fails" } else { "it is killed" }
    }

    /// After every step.
    fn check(&mut self) {
        self.world.packets();
        for (ticket, receipt) in std::mem::take(&mut self.world.verdicts) {
            match receipt {
                Some(receipt) if self.joins.is_about(ticket) => self.check_join(ticket, &receipt),
                Some(receipt) if receipt.status == Status::Granted => {
                    self.check_granted(ticket, &receipt);
                }
                _ => {}
            }
        }
        self.check_limits();
        let started = self.world.started[self.commands..].to_vec();
        self.commands += started.len();
        for (id, text) in started {
            self.check_started(id, &text);
        }
    }

    /// No grant is more than the line of its client allows.
    fn check_limits(&self) {
        let gatekeeper = &self.world.gatekeeper;
        if gatekeeper.has_more() {
            return;
        }
        let mut live: BTreeMap<ClientId, u32> = BTreeMap::new();
        for grant in gatekeeper.grants.list() {
            let Holder::Client(id) = grant.key.holder else { continue };
            let client = gatekeeper.in_force.clients().get(id).expect("a grant of nobody");
            let limits = client.limits();
            let longest = limits.longest(grant.opened.wall).unwrap_or(0);
            assert!(grant.seconds <= longest, "{grant:?} is longer than {longest}: {limits:?}");
            assert!(limits.admit(grant.key.source, grant.key.span), "{grant:?}: {limits:?}");
            let count = live.entry(id).or_default();
            *count += 1;
            assert!(limits.max_grants.is_none_or(|most| *count <= most), "{grant:?}: {limits:?}");
        }
    }

    fn check_granted(&mut self, ticket: u64, receipt: &Receipt) {
        let (person, request) = self.asked[&ticket];
        let times = self.granted.entry((person, request.timestamp)).or_default();
        *times += 1;
        assert_eq!(*times, 1, "a used knock opened again: {person:?} {request:?}");
        let ledger = self.world.disk.durable_ledger(at(0));
        let mut marks = ledger.marks();
        let marked = marks.any(|(id, marks)| id == person.id() && marks.used(request.timestamp));
        assert!(marked, "granted without a durable mark: {person:?} {request:?}");
        for entry in receipt.ports.into_iter().flatten() {
            let PortEntry::Range(range) = entry else { panic!("{receipt:?}") };
            assert!(
                self.world.lets_in(person, range.first),
                "granted without an element: {receipt:?}"
            );
        }
        if receipt.ports[0].is_none() {
            let start = format!("/bin/start {}", person.address());
            assert!(
                self.world.commands().contains(&start.as_str()),
                "granted without a start command"
            );
        }
    }

    fn check_started(&mut self, id: u64, text: &str) {
        if text.starts_with("/bin/start") || text.starts_with("open") {
            let ledger = self.world.disk.durable_ledger(at(0));
            let known = ledger.openings().any(|entry| entry.id == id);
            assert!(known, "a start command runs, and no journal knows how to end it: {text}");
            self.opened.insert(id);
        } else {
            self.stopped.insert(id);
        }
    }

    /// Whatever ends the process now, the next one runs the stop commands that have not begun.
    fn check_stops_are_kept(&self) {
        let ledger = self.world.disk.durable_ledger(at(0));
        let kept: BTreeSet<u64> = ledger.openings().map(|entry| entry.id).collect();
        for id in self.opened.difference(&self.stopped) {
            assert!(kept.contains(id), "the stop command of {id} is lost");
        }
    }

    /// Everything works again, and time passes.
    fn come_to_rest(&mut self) {
        self.world.disk.set_broken(false);
        self.world.kernel.borrow_mut().refuses = None;
        self.world.files.fault = None;
        for _ in 0..4 {
            self.settle();
            // Whoever asks has the guard looked at, rule by rule.
            self.world.ask(ControlRequest::Status);
            for id in self.world.running.keys().copied().collect::<Vec<_>>() {
                self.world.end_command(id, CommandEnd::Exited(0));
            }
            self.check();
            self.world.advance(11 * SECOND);
        }
        // The files as they are now are in force.
        self.world.ask(ControlRequest::Reload);
        self.settle();
        self.report("all comes to rest");
        self.check();
    }

    /// As the world does it, with a look at each answer before the next task.
    fn settle(&mut self) {
        let mut did = true;
        while did {
            did = self.world.go_on() || Lane::ALL.into_iter().any(|lane| self.world.do_task(lane));
            did = did || self.world.make_ready();
            self.check();
        }
    }

    fn check_at_rest(&mut self) {
        assert_eq!(self.world.packets().waiting, 0, "every knock has ended");
        for (id, listener) in &self.world.listeners {
            assert!(listener.open.is_empty(), "{id:?} waits for verdicts on {:?}", listener.open);
        }
        let now = self.world.now();
        let mut expected: BTreeSet<Element> = BTreeSet::new();
        let mut last = None;
        while let Some((element, millis)) = self.world.gatekeeper.grants.next_element(now, last) {
            last = Some(element);
            expected.extend(Some(element).filter(|_| millis > 0));
        }
        if !self.world.gatekeeper.guard.is_off() {
            for (element, _) in self.world.kernel.borrow().live() {
                assert!(expected.contains(&element), "an element without a grant: {element:?}");
            }
            assert!(!self.world.kernel.borrow().is_open(), "a guard that is on guards");
            let kernel = self.world.kernel.borrow();
            assert!(kernel.table && kernel.sound, "the guard stands");
            for element in expected.iter().filter(|element| element.form == GrantKind::Time) {
                assert!(kernel.has(element), "a grant without its element: {element:?}");
            }
        }
        self.check_stops_are_kept();
        self.check_who_is_enrolled();
    }

    fn end(&mut self) {
        self.world.handle(Event::Terminate);
        for _ in 0..3 {
            for id in self.world.running.keys().copied().collect::<Vec<_>>() {
                self.world.end_command(id, CommandEnd::Exited(0));
            }
            self.world.settle();
        }
        self.world.advance(11 * SECOND);
        self.check();
        assert!(self.world.is_over(), "the end is obeyed");
        let left = self.opened.difference(&self.stopped).count();
        assert_eq!(left, 0, "all is shut");
    }
}

/// The seeds of a usual run, or those that the environment asks for.
pub(super) fn seeds(usual: u64) -> Range<u64> {
    match number("TOCTOC_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("TOCTOC_SCHEDULES").unwrap_or(usual),
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn no_schedule_of_failures_breaks_what_must_always_be_true() {
    if let Some(seed) = number("TOCTOC_SEED") {
        let _seed = Seed(seed);
        return Simulation::new(seed, true).run();
    }
    let schedules = number("TOCTOC_SCHEDULES").unwrap_or(SCHEDULES);
    let begin = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, |number| number.get() as u64);
    std::thread::scope(|scope| {
        for first in 0..threads {
            scope.spawn(move || {
                for seed in (first..schedules).step_by(usize::try_from(threads).unwrap()) {
                    let _seed = Seed(seed);
                    Simulation::new(seed, false).run();
                }
            });
        }
    });
    let seconds = begin.elapsed().as_secs_f64();
    eprintln!(
        "{schedules} schedules in {seconds:.1} s: {:.0} a second",
        schedules as f64 / seconds
    );
}
