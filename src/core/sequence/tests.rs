//! The machine in situations in which knockd 0.8 was observed, one line each.
//! See `attempts` for tests of eviction.

use super::*;
use crate::core::types::{Boot, Port, Proto};
use held::Kernel;
use proptest::prelude::*;

mod cooldowns;
mod held;
mod own_doors;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

fn step(text: &str) -> Step {
    match text.split_once('/') {
        Some((number, "udp")) => Step::udp(number.parse().unwrap()),
        Some((size, "icmp")) => Step::Echo { size: size.parse().unwrap() },
        _ => Step::tcp(text.parse().unwrap()),
    }
}

fn steps(text: &str) -> Vec<Step> {
    text.split(',').map(step).collect()
}

/// A door for SYNs to our own addresses, with a timeout of 5 s.
fn door(sequence: &str) -> DoorSpec {
    let flags = TcpFlags { set: SYN, unset: 0 };
    DoorSpec {
        sequence: steps(sequence),
        seq_timeout: 5,
        flags,
        ..DoorSpec::from(&Door::default())
    }
}

fn own(sequence: &str) -> DoorSpec {
    DoorSpec { own: true, ..door(sequence) }
}

fn any_flags(sequence: &str) -> DoorSpec {
    DoorSpec { flags: TcpFlags::default(), ..door(sequence) }
}

struct Bench {
    machine: Machine,
    log: Vec<String>,
    milliseconds: u64,
    kernel: Option<Kernel>,
}

impl Bench {
    fn new(doors: Vec<DoorSpec>) -> Self {
        let own = vec![
            "10.0.0.1".parse().unwrap(),
            "10.0.0.9".parse().unwrap(),
            "fd00::1".parse().unwrap(),
        ];
        let machine = Machine::new(doors, MachineRules { own, ..MachineRules::default() });
        Self { machine, log: Vec::new(), milliseconds: 100, kernel: None }
    }

    /// `a:7001` is a SYN to 7001 from source a (10.0.0.2, b 10.0.0.3 ...; upper case: IPv6);
    /// `a:7001/udp`; `a:7001=16` sets the flags; `+1500` lets that many milliseconds pass;
    /// `@10.0.0.9` changes the destination from here on.
    fn run(mut self, script: &str) -> Vec<String> {
        let mut to: Option<IpAddr> = None;
        for word in script.split_whitespace() {
            if let Some(pause) = word.strip_prefix('+') {
                self.milliseconds += pause.parse::<u64>().unwrap();
                continue;
            }
            if let Some(destination) = word.strip_prefix('@') {
                to = Some(destination.parse().unwrap());
                continue;
            }
            let (who, what) = word.split_once(':').unwrap();
            let (what, flags) = what.split_once('=').unwrap_or((what, "2"));
            let letter = who.as_bytes()[0];
            let (source, own): (String, &str) = match letter.is_ascii_uppercase() {
                true => (format!("fd00::{}", letter - b'A' + 2), "fd00::1"),
                false => (format!("10.0.0.{}", letter - b'a' + 2), "10.0.0.1"),
            };
            let destination = to.unwrap_or_else(|| own.parse().unwrap());
            let hit = KnockPacket {
                source: source.parse().unwrap(),
                destination,
                step: step(what),
                flags: flags.parse().ok(),
            };
            self.hit(&hit);
        }
        self.log
    }

    fn hit(&mut self, hit: &KnockPacket) {
        let letter = |ip: IpAddr| match ip {
            IpAddr::V4(v4) => char::from(b'a' + v4.octets()[3] - 2),
            IpAddr::V6(v6) => char::from(b'A' + v6.octets()[15] - 2),
        };
        self.machine.tick(Boot(self.milliseconds * 1_000_000));
        if self.kernel.as_ref().is_some_and(|kernel| kernel.holds(hit, self.milliseconds)) {
            self.milliseconds += 10;
            return;
        }
        let log = &mut self.log;
        self.machine.packet(Wall(self.milliseconds * 1_000_000), hit, &mut |event| match event {
            SequenceEvent::Stage { door, source, stage } => {
                log.push(format!("{}{door}.{stage}", letter(source)))
            }
            SequenceEvent::Completed(done) => {
                log.push(format!("{}{} open", letter(done.source()), done.door()))
            }
            SequenceEvent::TimedOut { door, source, stage } => {
                log.push(format!("{}{door} late.{stage}", letter(source)))
            }
            SequenceEvent::Seen
            | SequenceEvent::Refused { .. }
            | SequenceEvent::Removed { .. }
            | SequenceEvent::Ignored(..) => {}
        });
        self.milliseconds += 10;
    }
}

/// Runs `script` and compares the openings and timeouts with `expected`.
fn check(title: &str, doors: Vec<DoorSpec>, script: &str, expected: &[&str]) {
    let log = Bench::new(doors).run(script);
    let notable: Vec<_> =
        log.iter().filter(|line| line.contains(' ')).map(String::as_str).collect();
    assert_eq!(notable, expected, "{title}\nall: {log:?}");
}

#[test]
fn one_source_opens_only_by_the_right_order_without_a_wrong_listed_port() {
    let abc = || vec![door("1,2,3")];
    check("the plain knock", abc(), "a:1 a:2 a:3", &["a0 open"]);
    check("two swapped", abc(), "a:1 a:3 a:2", &[]);
    check("twice in a row", abc(), "a:1 a:2 a:3 a:1 a:2 a:3", &["a0 open", "a0 open"]);
    check("unlisted ports are not seen", abc(), "a:1 a:99 a:2 a:98/udp a:3", &["a0 open"]);
    check("UDP to a TCP knock port is not seen", abc(), "a:1 a:2/udp a:2 a:3", &["a0 open"]);
    check("the first port twice: the second is no new first", abc(), "a:1 a:1 a:2 a:3", &[]);
    check("the first port three times", abc(), "a:1 a:1 a:1 a:2 a:3", &["a0 open"]);
    check("a middle port twice", abc(), "a:1 a:2 a:2 a:3", &[]);
    check("starting over in the middle only resets", abc(), "a:1 a:2 a:1 a:2 a:3", &[]);
    check("and a full knock after that opens", abc(), "a:1 a:2 a:1 a:1 a:2 a:3", &["a0 open"]);
    check("one port opens at every hit", vec![door("1")], "a:1 a:1", &["a0 open", "a0 open"]);
    check("a palindrome", vec![door("1,2,1")], "a:1 a:2 a:1", &["a0 open"]);
    check("a port twice in the sequence", vec![door("1,1,2")], "a:1 a:1 a:2", &["a0 open"]);
    check("no sliding window", vec![door("1,1,2")], "a:1 a:1 a:1 a:2", &[]);
    check("port 0", vec![door("0,1")], "a:0 a:1", &["a0 open"]);
}

#[test]
fn doors_that_share_ports_neither_help_nor_starve_each_other() {
    check("same sequence", vec![door("1,2"), door("1,2")], "a:1 a:2", &["a0 open", "a1 open"]);
    check("last port differs", vec![door("1,2,3"), door("1,2,4")], "a:1 a:2 a:4", &["a1 open"]);
    let early = || vec![door("1,2,3"), door("1,8,9")];
    check("first port shared, the first door", early(), "a:1 a:2 a:3", &["a0 open"]);
    check(
        "first port shared, the second door (knockd loses it)",
        early(),
        "a:1 a:8 a:9",
        &["a1 open"],
    );
    let prefix = vec![door("1,2"), door("1,2,3")];
    check(
        "a prefix listed first (knockd loses the long one)",
        prefix,
        "a:1 a:2 a:3",
        &["a0 open", "a1 open"],
    );
    check("overlap", vec![door("1,2,3"), door("2,3,4")], "a:1 a:2 a:3 a:4", &["a0 open"]);
    check("interleaved", vec![door("1,2"), door("8,9")], "a:1 a:8 a:2 a:9", &[]);
    check(
        "another door's port resets",
        vec![door("1,2"), door("8,9")],
        "a:1 a:8 a:1 a:2",
        &["a0 open"],
    );
    check("and starts nothing", vec![door("1,2"), door("8,9")], "a:1 a:8 a:9", &[]);
}

#[test]
fn sources_do_not_affect_each_others_attempts() {
    let abc = || vec![door("1,2,3")];
    check("interleaved", abc(), "a:1 b:1 a:2 b:2 a:3 b:3", &["a0 open", "b0 open"]);
    check("the older fails", abc(), "a:1 b:1 a:3 b:2 b:3", &["b0 open"]);
    check("the younger fails", abc(), "a:1 b:1 b:3 a:2 a:3", &["a0 open"]);
    check("never added up", abc(), "a:1 b:2 a:3 b:1 a:2", &[]);
    check("IPv4 and IPv6 never add up", abc(), "a:1 A:2 a:3", &[]);
    check("IPv6", abc(), "A:1 A:2 A:3", &["A0 open"]);
    let two = vec![
        DoorSpec { seq_timeout: 2, ..door("1,2,3") },
        DoorSpec { seq_timeout: 20, ..door("7,8,9") },
    ];
    check("the older times out", two, "a:1 b:7 +2000 b:8 b:9", &["a0 late.1", "b1 open"]);
}

#[test]
fn timeouts_count_whole_seconds_from_the_first_hit_and_are_reported_late() {
    let two = || vec![DoorSpec { seq_timeout: 2, ..door("1,2,3") }];
    check("inside", two(), "a:1 +1800 a:2 a:3", &["a0 open"]);
    check("outside", two(), "a:1 +1000 a:2 +900 a:3", &["a0 late.2"]);
    check("a knock that begins at .9 has less", two(), "+800 a:1 +1100 a:2", &["a0 late.1"]);
    check("any seen packet shows it", two(), "a:1 +9000 b:3", &["a0 late.1"]);
    check("an unlisted port shows nothing", two(), "a:1 +9000 b:99", &[]);
    check(
        "the late packet can begin anew",
        two(),
        "a:1 +3000 a:1 a:2 a:3",
        &["a0 late.1", "a0 open"],
    );
    let zero = |sequence| vec![DoorSpec { seq_timeout: 0, ..door(sequence) }];
    check("0 s", zero("1,2"), "a:1 a:2", &["a0 late.1"]);
    check("0 s, one port", zero("1"), "a:1 a:1", &["a0 open", "a0 open"]);
    let shared = vec![
        DoorSpec { seq_timeout: 1, ..door("1,2") },
        DoorSpec { seq_timeout: 20, ..door("1,3") },
    ];
    check("a shared first port", shared, "a:1 +1500 a:3", &["a0 late.1", "a1 open"]);
    let order = vec![
        DoorSpec { seq_timeout: 9, ..door("1,2") },
        DoorSpec { seq_timeout: 1, ..door("3,4") },
    ];
    check("in order of creation", order, "a:1 b:3 +20000 c:4", &["a0 late.1", "b1 late.1"]);
}

#[test]
fn a_packet_counts_only_if_its_flags_fit() {
    let ack = format!("a:1 a:2={ACK} a:2 a:3");
    check("an ACK neither advances nor resets", vec![door("1,2,3")], &ack, &["a0 open"]);
    check("without flags it resets", vec![any_flags("1,2,3")], "a:1 a:2 a:2=16 a:3", &[]);
    let flags = TcpFlags { set: SYN, unset: ACK };
    let strict = DoorSpec { flags, ..door("1,2") };
    check("syn,!ack", vec![strict], "a:1=18 a:1=2 a:2=18 a:2=2", &["a0 open"]);
    check(
        "syn alone takes a SYN+ACK, ECE and CWR do not matter",
        vec![door("1,2")],
        "a:1=18 a:2=194",
        &["a0 open"],
    );
    let widened =
        vec![door("1,2,3"), DoorSpec { flags: TcpFlags { set: FIN, unset: 0 }, ..door("8,9") }];
    check(
        "ignored for its flags, it begins nothing else",
        widened,
        "a:1 a:8=1 a:9=1 a:2 a:3",
        &["a0 open"],
    );
    check(
        "no flags captured, none asked for",
        vec![any_flags("1,2")],
        "a:1=none a:2=none",
        &["a0 open"],
    );
    check(
        "no flags captured, SYN asked for",
        vec![door("1,2")],
        "a:1=none a:1 a:2=none a:2",
        &["a0 open"],
    );
    check(
        "a UDP hit out of turn resets a SYN door",
        vec![door("1,2/udp,3")],
        "a:1 a:2/udp a:2/udp a:3",
        &[],
    );
    check("flags say nothing about UDP", vec![door("1,2/udp")], "a:1 a:2/udp=none", &["a0 open"]);
    check("RST", vec![any_flags("1,2")], &format!("a:1={RST} a:2={RST}"), &["a0 open"]);
}

#[test]
fn a_door_ignores_packets_to_other_destinations() {
    let abc = || vec![door("1,2,3")];
    check("not ours", abc(), "@10.0.0.77 a:1 a:2 a:3", &[]);
    check("several of our own add up", abc(), "a:1 @10.0.0.9 a:2 @10.0.0.1 a:3", &["a0 open"]);
    let aimed = |text| DoorSpec { target: Target::from(Some(text)), ..door("1,2,3") };
    check("target", vec![aimed("192.0.2.5")], "@192.0.2.5 a:1 a:2 a:3", &["a0 open"]);
    check(
        "elsewhere does not reset",
        vec![aimed("192.0.2.5")],
        "@192.0.2.5 a:1 @10.0.0.1 a:3 @192.0.2.5 a:2 a:3",
        &["a0 open"],
    );
    check(
        "both kinds",
        vec![aimed("192.0.2.5"), door("1,2")],
        "@192.0.2.5 a:1 @10.0.0.1 a:1 a:2 @192.0.2.5 a:2 a:3",
        &["a1 open", "a0 open"],
    );
    for odd in ["192.0.2.05", "2001:DB8::1", "host.example", "192.0.2.0/24"] {
        assert_eq!(Target::from(Some(odd)), Target::Never, "{odd}");
    }
    check("a target that never matches", vec![aimed("host.example")], "a:1 a:2 a:3", &[]);
}

#[test]
fn minus_4_ignores_ipv6() {
    let mut bench = Bench::new(vec![door("1,2")]);
    bench.machine.rules.ipv6 = Ipv6::Ignored;
    assert_eq!(bench.run("A:1 A:2 a:1 a:2"), ["a0.1", "a0.2", "a0 open"]);
}

#[test]
fn ipv6_on_a_link_where_it_does_not_count_is_reported_and_changes_no_attempt() {
    let refused = |own: &[&str], hits: &[(&str, &str, u16)]| {
        let doors =
            vec![door("1,2"), DoorSpec { target: Target::from(Some("fd00::9")), ..door("7") }];
        let own = own.iter().map(|ip| ip.parse().unwrap()).collect();
        let mut machine =
            Machine::new(doors, MachineRules { own, ipv6: Ipv6::Refused, debug: false });
        let mut reports = Vec::new();
        for (source, destination, port) in hits {
            let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
            let hit = KnockPacket { source, destination, step: Step::tcp(*port), flags: Some(SYN) };
            machine.packet(Wall(0), &hit, &mut |event| match event {
                SequenceEvent::Refused { source } => reports.push(source.to_string()),
                SequenceEvent::Completed(done) => reports.push(format!("{} in", done.source())),
                _ => {}
            });
        }
        reports
    };
    let (v4, v6) = ("192.0.2.2", "fd00::2");
    let knock = [
        (v4, "192.0.2.1", 1),
        (v6, "fd00::1", 2),
        (v6, "fd00::8", 1),
        (v6, "fd00::9", 7),
        (v6, "fd00::1", 9),
    ];
    let mut hits = knock.to_vec();
    hits.push((v4, "192.0.2.1", 2));
    assert_eq!(refused(&["192.0.2.1", "fd00::1"], &hits), [v6, v6, "192.0.2.2 in"]);
    assert_eq!(
        refused(&[], &knock),
        [v6, v6, v6],
        "no address, no filter: every listed port is reported"
    );
}

#[test]
fn a_used_one_time_sequence_is_shut_until_the_next_is_set_and_ends_all_attempts() {
    let mut bench = Bench::new(vec![DoorSpec { one_time: true, ..door("1,2") }, door("8,9")]);
    let hit = |bench: &mut Bench, who: u8, port: u16| {
        let (source, destination) = (IpAddr::from([10, 0, 0, who]), IpAddr::from([10, 0, 0, 1]));
        bench.hit(&KnockPacket { source, destination, step: Step::tcp(port), flags: Some(SYN) });
    };
    for (who, port) in [(3, 1), (2, 1), (2, 2), (3, 2), (2, 1), (2, 2), (2, 8), (2, 9)] {
        hit(&mut bench, who, port);
    }
    assert_eq!(bench.log, ["b0.1", "a0.1", "a0.2", "a0 open", "a1.1", "a1.2", "a1 open"]);
    bench.log.clear();
    bench.machine.set_sequence(0, steps("1,2,3"));
    for (who, port) in [(2, 3), (3, 2), (3, 1), (3, 2), (3, 3)] {
        hit(&mut bench, who, port);
    }
    assert_eq!(bench.log, ["b0.1", "b0.2", "b0.3", "b0 open"]);
}

#[test]
fn duplicates_and_cooldowns_work_where_a_door_has_them() {
    let tolerant = || vec![DoorSpec { tolerate_duplicates: true, ..own("1,2,3") }];
    check("retransmitted SYNs", tolerant(), "a:1 a:1 a:1 a:2 a:2 a:3", &["a0 open"]);
    check("not at a door that is strict", vec![own("1,2,3")], "a:1 a:2 a:2 a:3", &[]);
    check("a step too early still ends it", tolerant(), "a:1 a:3 a:2 a:3", &[]);
    let paused = vec![DoorSpec { pause_after: 10, ..door("1,2") }];
    check(
        "a cooldown after an opening",
        paused,
        "a:1 a:2 a:1 a:2 b:1 b:2 +10000 a:1 a:2",
        &["a0 open", "b0 open", "a0 open"],
    );
    check(
        "echo requests of chosen sizes",
        vec![door("64/icmp,1,65/icmp")],
        "a:64/icmp a:1 a:65/icmp",
        &["a0 open"],
    );
}

#[test]
fn debugging_reports_the_end_of_attempts_and_why_packets_do_not_count() {
    let mut machine = Bench::new(vec![any_flags("1,2"), door("7,8")]).machine;
    machine.rules.debug = true;
    let mut all = Vec::new();
    let mut hit = |step, flags| {
        let (source, destination) = (IpAddr::from([10, 0, 0, 2]), IpAddr::from([10, 0, 0, 1]));
        machine.packet(
            Wall(0),
            &KnockPacket { source, destination, step, flags: Some(flags) },
            &mut |event| match event {
                SequenceEvent::Removed { success, .. } => all.push(format!("removed {success}")),
                SequenceEvent::Ignored(name, wanted) => all.push(format!("not {wanted} {name}")),
                SequenceEvent::Seen => all.push("seen".into()),
                _ => {}
            },
        );
    };
    hit(Step::tcp(1), ACK);
    hit(Step::tcp(1), SYN);
    hit(Step::tcp(1), SYN);
    hit(Step::tcp(2), SYN);
    hit(Step::tcp(2), SYN);
    assert_eq!(
        all,
        ["seen", "not true SYN", "seen", "seen", "removed false", "seen", "seen", "removed true"]
    );
}

#[test]
fn ten_thousand_half_done_attempts_change_nothing_for_the_next_source() {
    let mut machine = Bench::new(vec![door("1,2,3")]).machine;
    let destination = IpAddr::from([10, 0, 0, 1]);
    let mut opened = Vec::new();
    let mut hit = |source: u32, port: u16, at: u64| {
        let hit = KnockPacket {
            source: IpAddr::V4(source.into()),
            destination,
            step: Step::tcp(port),
            flags: Some(SYN),
        };
        machine.packet(Wall(at), &hit, &mut |event| {
            if let SequenceEvent::Completed(done) = event {
                opened.push(done.source());
            }
        });
        machine.under_way()
    };
    for source in 1000..11_000 {
        hit(source, 1, 0);
        hit(source, 2, 0);
    }
    for port in [1, 2, 3] {
        hit(1, port, 1);
        for source in 100_000 * u32::from(port)..100_000 * u32::from(port) + 5000 {
            assert!(hit(source, 1, 1) <= ATTEMPTS);
        }
    }
    for source in 1_000_000..1_100_000 {
        assert!(hit(source, 1, 2) <= ATTEMPTS);
    }
    assert_eq!(opened, [IpAddr::V4(1.into())]);
}

/// An arbitrary hit from few sources on few ports, so that some sequences are completed.
fn any_hit() -> impl Strategy<Value = (u64, u8, KnockPacket)> {
    let parts = (
        0_u64..2500,
        2_u8..6,
        0_u16..6,
        prop::bool::weighted(0.1),
        prop::option::weighted(0.9, 0_u8..64),
    );
    parts.prop_map(|(pause, who, number, udp, flags)| {
        let proto = if udp { Proto::Udp } else { Proto::Tcp };
        let (source, destination) = (IpAddr::from([10, 0, 0, who]), IpAddr::from([10, 0, 0, 1]));
        let flags = flags.map(|flags| if who % 2 == 0 { flags | SYN } else { flags });
        (
            pause,
            who,
            KnockPacket { source, destination, step: Step::Port(Port { proto, number }), flags },
        )
    })
}

proptest! {
    #[test]
    fn no_door_opens_without_its_whole_sequence_in_order_from_one_source_in_time(
        hits in prop::collection::vec(any_hit(), 1..400),
        sequences in prop::collection::vec(prop::collection::vec(0_u16..6, 1..4), 1..4),
        timeout in 0_i64..9,
        own in any::<bool>(),
        tolerate_duplicates in any::<bool>(),
        // After so many packets the kernel begins to hold first steps, or no longer does.
        turns in prop::option::of(1_usize..20),
    ) {
        let doors: Vec<_> = sequences
            .iter()
            .map(|ports| ports.iter().map(|port| Step::tcp(*port)).collect::<Vec<_>>())
            .map(|sequence| DoorSpec { sequence, seq_timeout: timeout, own, tolerate_duplicates, ..door("1") })
            .collect();
        let mut machine = Bench::new(doors.clone()).machine;
        machine.attempts = Attempts::new(3);
        let kernel = Kernel::before(&mut machine);
        let mut past: Vec<(u64, KnockPacket)> = Vec::new();
        let mut at = 0;
        for (pause, _, hit) in hits {
            at += pause;
            past.push((at, hit));
            machine.tick(Boot(at * 1_000_000));
            kernel.set(turns.is_some_and(|turns| past.len() / turns % 2 == 1), at);
            if kernel.holds(&hit, at) {
                continue;
            }
            let mut opened = Vec::new();
            machine.packet(Wall(at * 1_000_000), &hit, &mut |event| {
                if let SequenceEvent::Completed(done) = event {
                    opened.push(done);
                }
            });
            prop_assert!(machine.under_way() <= 3);
            for done in opened {
                prop_assert_eq!(done.source(), hit.source);
                let spec = &doors[usize::from(done.door())];
                let mut wanted = spec.sequence.iter().rev().peekable();
                let earlier = past.iter().rev().filter(|(_, past)| past.source == hit.source);
                let mut first = at;
                for (when, past) in earlier {
                    if wanted.peek() == Some(&&past.step) && past.flags.is_some_and(|flags| spec.flags.fit(flags)) {
                        wanted.next();
                        first = *when;
                    }
                }
                prop_assert!(wanted.next().is_none(), "door {} opened without all its steps", done.door());
                prop_assert!(spec.sequence.len() == 1 || at / 1000 - first / 1000 < timeout as u64, "too late");
            }
        }
    }
}
