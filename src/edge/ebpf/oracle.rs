//! The filters beside the engine, with the published test keys, for tests and fuzzing: what the
//! program may drop is what the engine would reject before it decrypts anything. What the program
//! at an interface may drop is of that what is plainly to this machine. What the program of the
//! sockets may hold is what the engine would take for a first step and nothing else, or ignore.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use zeroize::Zeroizing;

use super::machine::{Machine, Map};
use super::{FirstStepFilter, Instruction, LOOKED_AT, OwnAddresses, TagFilter, program, xdp};
use crate::core::door::first_steps::{FirstStep, HELD, HeldSteps};
use crate::core::door::{Step, TcpFlags};
use crate::core::engine::{Action, Engine, KnownClient, SealedSetup, Setup};
use crate::core::keyring::{FilterDrops, Secret, SharedTags};
use crate::core::knock::HandedKnock;
use crate::core::packet::{Arrival, parse};
use crate::core::quota::Rate;
use crate::core::sequence::first_steps::{FirstSteps, NUMBER};
use crate::core::sequence::{DoorSpec, SequenceEvent, Target};
use crate::core::test_vectors::{self, CLIENT, NOON};
use crate::core::types::{Boot, Now, Reject, SECOND};
use crate::core::wire::{DATAGRAM, tag};
use crate::edge::bpf::machine::{Packet, run};
use crate::edge::bpf::{self, FilterSpec};

pub const PORT: u16 = 62201;
/// The descriptors by which the programs know their maps.
const TAGS: i32 = 33;
const FIRST_STEPS: i32 = 34;
const OWN: i32 = 35;
/// This machine's addresses.
pub const OURS: [&str; 2] = ["203.0.113.1", "2001:db8:1::1"];
/// PACKET_OTHERHOST: to another machine on the link.
const TO_ANOTHER: u32 = 3;
/// PACKET_OUTGOING.
const SENT: u32 = 4;
/// The time that the filter writes.
const TIME: Boot = Boot(900 * SECOND);
pub const SYN: TcpFlags = TcpFlags { set: 2, unset: 16 };
/// For so long a first step is expected.
pub const SECONDS: u32 = 1 << 20;
/// The later steps of doors.
const LATER: [Step; 2] = [Step::tcp(1), Step::tcp(2)];

/// A gateway with one client and a door for each step.
pub struct Oracle {
    pub spec: FilterSpec,
    pub tags: SharedTags,
    pub first_steps: FirstSteps,
    pub maps: [Map; 3],
    pub program: Zeroizing<Vec<Instruction>>,
    pub own: OwnAddresses,
    pub(super) at_interface: Zeroizing<Vec<Instruction>>,
    /// The clocks of the program and of the engine, in nanoseconds.
    pub time: u64,
    doors: Vec<DoorSpec>,
    classic: Vec<bpf::Instruction>,
    engine: Engine,
}

/// How fast the client may knock.
pub const RATE: Rate = Rate { burst: 64, per_second: 4 };

/// The last step of a source after which a first step is expected, and where that stands.
#[derive(Clone, Copy)]
struct Expectation {
    word: &'static AtomicU64,
    last: u64,
}

/// What the engine did with a packet.
struct Judgement {
    datagrams: u64,
    /// Datagrams whose tag it does not know, and with a wrong client MAC.
    unknown: u64,
    /// True if it knows no tag of the packet, and the filter's table, which keeps less of each,
    /// does not either.
    is_junk: bool,
    forged: u64,
    /// True if one waits to be decrypted, or something happened at a door.
    mattered: bool,
}

impl Oracle {
    pub fn new(steps: &[Step]) -> Self {
        let steps: Vec<_> = steps.iter().map(|step| (*step, TcpFlags::default())).collect();
        let doors = steps.iter().map(|(step, flags)| door(&[*step], *flags));
        let doors = doors.collect();
        Self::with(steps, doors, HeldSteps::default())
    }

    /// Doors that begin with these steps. The filter holds the first [`HELD`] of them.
    pub fn holding(steps: &[Step], flags: TcpFlags) -> Self {
        let doors = steps.iter().map(|step| door(&[*step, LATER[0], LATER[1]], flags)).collect();
        let first = steps.iter().take(HELD);
        let first = first.map(|step| FirstStep { step: *step, flags, after: 0 }).collect();
        let steps = steps.iter().map(|step| (*step, flags));
        let steps = steps.chain(LATER.map(|step| (step, TcpFlags::default()))).collect();
        Self::with(steps, doors, HeldSteps { first, ..HeldSteps::default() })
    }

    /// A door, another one that is its reverse, and one that ends with its first step. The filter
    /// holds the first steps of the first two.
    pub fn both_ways(steps: [Step; 3], flags: TcpFlags) -> Self {
        let [a, b, c] = steps;
        let short = LATER[0];
        let doors = [&[a, b, c][..], &[c, b, a], &[short, a]].map(|steps| door(steps, flags));
        let first = |step, after| FirstStep { step, flags, after };
        let first = vec![first(a, 0b11), first(c, 0b10)];
        let held = HeldSteps { first, before: vec![short, b], seconds: SECONDS };
        let steps = [a, b, c, short].map(|step| (step, flags));
        Self::with(steps.into(), doors.into(), held)
    }

    /// A door, and another one that begins with the second step of the first and ends, with any
    /// flags, with its first one.
    #[cfg(test)]
    pub fn chain(steps: [Step; 3], flags: TcpFlags) -> Self {
        let [a, b, c] = steps;
        let doors = vec![door(&[a, b, c], flags), door(&[b, c, a], TcpFlags::default())];
        let first = vec![
            FirstStep { step: a, flags, after: 0b10 },
            FirstStep { step: b, flags: TcpFlags::default(), after: 0b01 },
        ];
        let held = HeldSteps { first, before: vec![a, c], seconds: SECONDS };
        let steps = steps.map(|step| (step, TcpFlags::default()));
        Self::with(steps.into(), doors, held)
    }

    fn with(steps: Vec<(Step, TcpFlags)>, doors: Vec<DoorSpec>, held: HeldSteps) -> Self {
        let tags = SharedTags::for_tests(1);
        let first_steps = FirstSteps::for_tests(0x5eed, held);
        first_steps.hold(TIME);
        let own = OwnAddresses::for_tests();
        own.set(&ours());
        let maps = [
            Map { descriptor: TAGS, lines: tags.memory() },
            Map { descriptor: FIRST_STEPS, lines: first_steps.memory() },
            Map { descriptor: OWN, lines: own.memory() },
        ];
        let spec = FilterSpec { knock_port: Some(PORT), steps, outgoing: false };
        let realm = test_vectors::realm();
        let tag_filter = TagFilter { mask: realm.knock_mask(), tags: &tags, map: TAGS, rate: RATE };
        let hold = FirstStepFilter { first_steps: &first_steps, map: FIRST_STEPS, ipv6: true };
        let program = program(&spec, Some(&tag_filter), Some(&hold)).expect("a program");
        let at_interface = xdp::program(PORT, &tag_filter, OWN).expect("a program");
        let mut engine = Engine::new(Setup {
            sealed: Some(SealedSetup {
                keys: test_vectors::gateway(),
                port: PORT,
                rate: RATE,
                shared: Some(tags),
            }),
            clients: vec![KnownClient { client: CLIENT, keys: test_vectors::wire_row(NOON) }],
            doors: doors.clone(),
            ..Setup::default()
        });
        engine.set_addresses(ours(), ours());
        let classic = bpf::program(&spec);
        let time = 1000 * SECOND;
        Self {
            spec,
            tags,
            first_steps,
            maps,
            program,
            own,
            at_interface,
            time,
            doors,
            classic,
            engine,
        }
    }

    pub fn classic(&self, packet: &Packet) -> u32 {
        run(&self.classic, packet)
    }

    /// What the program does with a packet on processor 3.
    pub fn tagged(&self, packet: &Packet) -> u32 {
        let mut machine = Machine::new(&self.program, packet, &self.maps, 3);
        machine.time = self.time;
        machine.run()
    }

    /// True if the program at an interface drops a packet.
    pub fn is_dropped_early(&self, packet: &Packet) -> bool {
        let machine = Machine::new(&self.at_interface, packet, &self.maps, 3);
        match machine.at_interface().run().cast_signed() {
            xdp::DROP => true,
            xdp::PASS => false,
            action => panic!("action {action}"),
        }
    }

    /// Asserts that all filters and the engine agree about a packet. Returns what the program of
    /// the sockets did.
    pub fn check(&mut self, packet: &Packet) -> u32 {
        let before = self.own.dropped();
        // What this machine sends comes to no interface.
        let early = packet.kind != SENT && self.is_dropped_early(packet);
        assert_eq!(self.own.dropped() - before, u64::from(early), "each drop is counted");
        if early {
            assert!(self.own.has(destination(&packet.bytes)), "the interface dropped another's");
            assert!(packet.vlan.is_none(), "the interface dropped a VLAN's");
        }
        let (classic, before) = (self.classic(packet), self.tags.dropped());
        let expectation = self.expectation(packet);
        let tagged = self.tagged(packet);
        let after = self.tags.dropped();
        if classic != bpf::WHOLE {
            assert!(!early || packet.kind == TO_ANOTHER, "the interface dropped no sealed knock");
            self.check_held(packet, expectation, classic, tagged);
            return tagged;
        }
        let judged = self.judge(&packet.bytes);
        assert!(tagged == 0 || tagged == classic);
        assert!(tagged != 0 || !judged.mattered, "the filter dropped what matters");
        assert!(!early || tagged == 0, "the interface dropped what the filter passes");
        if judged.is_junk && judged.datagrams == 1 && packet.vlan.is_none() {
            assert!(early || tagged != 0, "plain junk passed the interface");
        }
        let are_looked_at = judged.datagrams <= LOOKED_AT.into();
        if judged.is_junk && !judged.mattered && are_looked_at {
            let unknown_tag = before.unknown_tag + judged.unknown;
            assert_eq!((tagged, after), (0, FilterDrops { unknown_tag, ..before }), "junk");
        }
        if (judged.forged, judged.datagrams) == (1, 1) {
            let client_mac = before.client_mac + 1;
            assert_eq!((tagged, after), (0, FilterDrops { client_mac, ..before }), "a forgery");
        }
        tagged
    }

    /// Asserts that the filter holds what begins an attempt, perhaps what does nothing, and no
    /// more; that the listener finds it; and that it holds nothing that is expected.
    fn check_held(&self, packet: &Packet, was: Option<Expectation>, classic: u32, tagged: u32) {
        let read = parse(&packet.bytes).ok();
        let first = read.filter(|read| self.first_steps.includes(read.step));
        let time = first.and_then(|first| {
            let destination = first.destination.ip();
            self.first_steps.take(first.raw_source, destination, first.step)
        });
        let is_held = classic != 0 && tagged == 0;
        assert_eq!(time, is_held.then_some(TIME), "where the listener looks");
        assert!(is_held || tagged == classic, "what is no first step is as it was");
        let [begins, matters] = self.effects(&packet.bytes);
        // The kernel knows neither our addresses nor which devices are loopbacks.
        let is_ignored = first.is_some_and(|first| {
            let destination = first.destination.ip();
            !ours().contains(&destination) || first.is_martian(Arrival { loopback: false })
        });
        let is_expected = first.is_some_and(|first| self.expects(first.step, was));
        assert!(!is_held || begins || !matters && is_ignored, "the filter held too much");
        assert!(!(is_held && is_expected), "the filter held what is expected");
        if begins && classic != 0 && first.is_some() {
            assert!(is_held || is_expected, "a first step passed the filter");
        }
        let Some(was) = was else { return };
        let now = was.word.load(Ordering::Relaxed);
        let mut before = self.first_steps.steps().before.iter();
        let number = read.and_then(|read| before.position(|step| *step == read.step));
        let new = number.map(|number| self.time & !NUMBER | number as u64);
        assert!(now == was.last || new == Some(now), "a first step is expected");
        if new.is_some() && classic != 0 && matters {
            assert_eq!(Some(now), new, "no first step is expected");
        }
    }

    fn expects(&self, step: Step, was: Option<Expectation>) -> bool {
        let last = was.map_or(0, |was| was.last);
        let first = self.first_steps.steps().first.iter().find(|first| first.step == step);
        let is_after = first.is_some_and(|first| first.after >> (last & NUMBER) & 1 != 0);
        let since = (self.time | NUMBER) - last;
        last != 0 && is_after && since < self.first_steps.expected_for()
    }

    /// What is expected from the source of a packet.
    fn expectation(&self, packet: &Packet) -> Option<Expectation> {
        let read = parse(&packet.bytes).ok()?;
        let word = self.first_steps.expected(read.raw_source, read.destination.ip());
        Some(Expectation { word, last: word.load(Ordering::Relaxed) })
    }

    /// True if a packet begins an attempt, and if it does anything at all.
    fn effects(&self, bytes: &[u8]) -> [bool; 2] {
        let setup = Setup { doors: self.doors.clone(), ..Setup::default() };
        let mut engine = Engine::new(setup);
        engine.set_addresses(ours(), ours());
        let mut actions = Vec::new();
        let now = Now { wall: NOON, boot: Boot(1000 * SECOND) };
        engine.packet(now, Arrival { loopback: false }, bytes, &mut actions);
        let first =
            |action: &Action| matches!(action, Action::Door(SequenceEvent::Stage { stage: 1, .. }));
        [!actions.is_empty() && actions.iter().all(first), !actions.is_empty()]
    }

    fn judge(&mut self, bytes: &[u8]) -> Judgement {
        let (counters, datagrams) = (self.engine.counters(), self.engine.packets());
        let waiting = self.engine.waiting();
        let mut actions = Vec::new();
        let now = Now { wall: NOON, boot: Boot(self.time) };
        self.engine.packet(now, Arrival { loopback: false }, bytes, &mut actions);
        let after = self.engine.counters();
        let new = |reject: Reject| after.of(reject) - counters.of(reject);
        let waits = self.engine.waiting() > waiting;
        if waits {
            self.open();
        }
        // An alarm about a copy that is useless anyway may be missed, once there were several.
        actions.retain(|action| !matches!(action, Action::Alarm { .. }));
        let mattered = waits || !actions.is_empty();
        let datagrams = self.engine.packets() - datagrams;
        let unknown = new(Reject::UnknownTag);
        Judgement {
            datagrams,
            unknown,
            is_junk: datagrams == unknown && !self.looks_known(bytes),
            forged: new(Reject::ClientMac),
            mattered,
        }
    }

    /// True if the filter's table has a tag of the packet, or one that looks the same there.
    fn looks_known(&self, bytes: &[u8]) -> bool {
        let payload = parse(bytes).map_or(&[][..], |read| read.payload);
        let tag = |datagram| tag(&test_vectors::gateway(), datagram);
        payload.chunks(DATAGRAM).filter_map(tag).any(|tag| self.tags.passes(&tag))
    }

    /// Decrypts what waits, as its queue must not fill up. One that comes from the address that
    /// it names gets its mark.
    fn open(&mut self) {
        let mut actions = Vec::new();
        self.engine.serve(Boot(self.time), 64, &mut actions);
        for action in actions {
            if let Action::Knock(HandedKnock { ticket, source, .. }) = action {
                let spent = source == test_vectors::address();
                self.engine.verdict(ticket, spent, None, Secret::new([1; 32]), &mut Vec::new());
            }
        }
    }
}

/// The destination of an IP packet.
fn destination(packet: &[u8]) -> IpAddr {
    match packet[0] >> 4 {
        4 => <[u8; 4]>::try_from(&packet[16..20]).expect("four bytes").into(),
        _ => <[u8; 16]>::try_from(&packet[24..40]).expect("sixteen bytes").into(),
    }
}

fn ours() -> Vec<IpAddr> {
    OURS.map(|ip| ip.parse().expect("an address")).into()
}

fn door(sequence: &[Step], flags: TcpFlags) -> DoorSpec {
    DoorSpec {
        sequence: sequence.into(),
        seq_timeout: 10,
        flags,
        target: Target::Own,
        one_time: false,
        tolerate_duplicates: false,
        own: true,
        pause_after: 0,
    }
}
