//! The filters beside the engine, with the published test keys, for tests and fuzzing: what the
//! program may drop is what the engine would reject before it knows whose it is. What the program
//! at an interface may drop is of that what is plainly to this machine.

use std::net::IpAddr;

use zeroize::Zeroizing;

use super::machine::Machine;
use super::{Instruction, OwnAddresses, TagFilter, program, xdp};
use crate::core::door::{Step, TcpFlags};
use crate::core::engine::{Engine, KnownClient, SealedSetup, Setup};
use crate::core::keyring::SharedTags;
use crate::core::packet::Arrival;
use crate::core::quota::Rate;
use crate::core::sequence::{DoorSpec, Target};
use crate::core::test_vectors::{self, CLIENT, NOON};
use crate::core::types::{Boot, Now, Reject, SECOND};
use crate::edge::bpf::machine::{Packet, run};
use crate::edge::bpf::{self, FilterSpec};

pub const PORT: u16 = 62201;
/// The descriptors by which the programs know their maps.
const MAP: i32 = 33;
const OWN: i32 = 34;
/// This machine's addresses.
pub const OURS: [&str; 2] = ["203.0.113.1", "2001:db8:1::1"];
/// PACKET_OTHERHOST: to another machine on the link.
const TO_ANOTHER: u32 = 3;
/// PACKET_OUTGOING.
const SENT: u32 = 4;

/// A gateway with one client and a door for each step.
pub struct Oracle {
    pub spec: FilterSpec,
    pub tags: SharedTags,
    pub program: Zeroizing<Vec<Instruction>>,
    pub own: OwnAddresses,
    pub(super) at_interface: Zeroizing<Vec<Instruction>>,
    classic: Vec<bpf::Instruction>,
    engine: Engine,
}

/// What the engine did with a packet.
struct Judgement {
    datagrams: u64,
    /// Datagrams whose tag it does not know.
    unknown: u64,
    /// True if one was of a client, as far as its tag tells, or something happened at a door.
    mattered: bool,
}

impl Oracle {
    pub fn new(steps: &[Step]) -> Self {
        let keys = || test_vectors::wire_row(NOON);
        let tags = SharedTags::for_tests(1);
        keys().tags().iter().flatten().for_each(|tag| tags.insert(tag));
        let with_flags = |step: &Step| (*step, TcpFlags::default());
        let steps_with_flags = steps.iter().map(with_flags).collect();
        let spec = FilterSpec { knock_port: Some(PORT), steps: steps_with_flags, outgoing: false };
        let realm = test_vectors::realm();
        let filter = TagFilter { mask: realm.knock_mask(), tags: &tags, map: MAP };
        let program = program(&spec, &filter).expect("a program");
        let at_interface = xdp::program(PORT, &filter, OWN).expect("a program");
        let mut engine = Engine::new(Setup {
            sealed: Some(SealedSetup {
                keys: test_vectors::gateway(),
                port: PORT,
                rate: Rate { burst: 64, per_second: 4 },
                shared: None,
            }),
            clients: vec![KnownClient { client: CLIENT, keys: keys() }],
            doors: steps.iter().map(door).collect(),
            ..Setup::default()
        });
        let ours: [IpAddr; 2] = OURS.map(|ip| ip.parse().expect("an address"));
        let own = OwnAddresses::for_tests();
        own.set(&ours);
        engine.set_addresses(ours.to_vec(), ours.to_vec());
        let classic = bpf::program(&spec);
        Self { spec, tags, program, own, at_interface, classic, engine }
    }

    pub fn classic(&self, packet: &Packet) -> u32 {
        run(&self.classic, packet)
    }

    /// What the program does with a packet on processor 3.
    pub fn tagged(&self, packet: &Packet) -> u32 {
        Machine::new(&self.program, packet, &self.tags, MAP, 3).run()
    }

    /// True if the program at an interface drops a packet.
    pub fn is_dropped_early(&self, packet: &Packet) -> bool {
        let machine = Machine::new(&self.at_interface, packet, &self.tags, MAP, 3);
        match machine.at_interface(&self.own, OWN).run().cast_signed() {
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
        let dropped = |tags: &SharedTags| tags.dropped().unknown_tag;
        let (classic, before) = (self.classic(packet), dropped(&self.tags));
        let tagged = self.tagged(packet);
        if classic != bpf::WHOLE {
            assert_eq!(tagged, classic, "what is no sealed knock is as it was");
            assert!(!early || packet.kind == TO_ANOTHER, "the interface dropped no sealed knock");
            return tagged;
        }
        let judged = self.judge(&packet.bytes);
        assert!(tagged == 0 || tagged == classic);
        assert!(tagged != 0 || !judged.mattered, "the filter dropped what matters");
        assert!(!early || tagged == 0, "the interface dropped what the filter passes");
        if judged.unknown == 1 && judged.datagrams == 1 && packet.vlan.is_none() {
            assert!(early || tagged != 0, "plain junk passed the interface");
        }
        if judged.unknown == judged.datagrams && !judged.mattered {
            assert_eq!(tagged, 0, "junk passed the filter");
            assert_eq!(dropped(&self.tags) - before, judged.unknown);
        }
        tagged
    }

    fn judge(&mut self, bytes: &[u8]) -> Judgement {
        let (counters, datagrams) = (self.engine.counters(), self.engine.packets());
        let waiting = self.engine.waiting();
        let mut actions = Vec::new();
        let now = Now { wall: NOON, boot: Boot(1000 * SECOND) };
        self.engine.packet(now, Arrival { loopback: false }, bytes, &mut actions);
        let after = self.engine.counters();
        let new = |reject: Reject| after.of(reject) - counters.of(reject);
        let seen = [Reject::ClientMac, Reject::SeenBefore, Reject::Quota].map(new);
        let is_clients = self.engine.waiting() > waiting || seen != [0; 3];
        // Its queue must not fill up.
        self.engine.serve(now.boot, 1, &mut Vec::new());
        Judgement {
            datagrams: self.engine.packets() - datagrams,
            unknown: new(Reject::UnknownTag),
            mattered: is_clients || !actions.is_empty(),
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

fn door(step: &Step) -> DoorSpec {
    DoorSpec {
        sequence: vec![*step, Step::tcp(1)],
        seq_timeout: 10,
        flags: TcpFlags::default(),
        target: Target::Own,
        one_time: false,
        tolerate_duplicates: false,
        own: true,
        pause_after: 0,
    }
}
