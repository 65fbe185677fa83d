//! Floods: no flood keeps an admin out, whatever its source and content, and no victim gets our
//! replies.

use std::cell::Cell;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use capctl::{Cap, CapState};
use nix::unistd::Pid;
use toctoc::core::knock::{KnockKind, Request, Status};
use toctoc::core::types::{SECOND, ServiceName, Wall};
use toctoc::edge::entropy;

use crate::harness::gate::{Gate, KNOCK, Sealed, send, stamp};
use crate::harness::raw::{Forger, stranger};
use crate::harness::{Host, LONG, SHORT, until};

/// Packets between one knock and the next. The ring of the capture socket holds more, also on a
/// busy machine.
const ROUND: u32 = 1500;

/// Forged source number `n`: every fourth one is the admin's, the others are spread over the
/// Internet.
fn forged(n: u32, admin: Ipv4Addr) -> SocketAddrV4 {
    let anywhere = Ipv4Addr::from(0x0b00_0000 + n.wrapping_mul(2_654_435_761) % 0x7000_0000);
    SocketAddrV4::new(if n.is_multiple_of(4) { admin } else { anywhere }, 40_000)
}

/// Sends to the knock port from forged sources.
struct Flooder {
    forger: Forger,
    to: SocketAddrV4,
}

impl Flooder {
    fn on(host: &Host) -> Flooder {
        let to = SocketAddrV4::new(host.gateway_ipv4(), KNOCK);
        Flooder { forger: Forger::new(&host.space), to }
    }

    fn send(&self, from: SocketAddrV4, payload: &[u8]) {
        self.forger.datagram(from, self.to, payload);
    }
}

#[test]
fn a_blind_flood_from_forged_addresses_hinders_no_knock_and_is_never_answered() {
    let mut gate = Gate::running(|config| config);
    assert_eq!(gate.filters_in_kernel(), may_load_filter());
    // Its gatekeeper has given up its rights by now.
    gate.daemon().kill_listener();
    gate.daemon().wait_for("a new listener listens");
    assert_eq!(gate.filters_in_kernel(), may_load_filter(), "the next listener");
    blind_flood(gate);
}

#[test]
fn a_blind_flood_hinders_no_knock_where_the_kernel_knows_no_tags_either() {
    let mut gate = Gate::new(|config| config);
    gate.start_without_kernel_filter();
    assert!(!gate.filters_in_kernel());
    blind_flood(gate);
}

fn blind_flood(mut gate: Gate) {
    let anna = gate.enrol("anna", "ssh");
    let flooder = gate.net.host(7);
    let forger = Flooder::on(&flooder);
    let admin = gate.net.client.ipv4();
    let junk = |n: u32| {
        let bytes: [u8; 272] = entropy::bytes().expect("entropy");
        forger.send(forged(n, admin), &bytes);
    };
    anna.must_open(&gate.net.client, "ssh", 0);
    let memory = resident(gate.daemon().listener());
    let before = gate.net.gateway.ip_counter("OutRequests");
    (0..ROUND).for_each(junk);
    until("all junk is rejected", || gate.rejected("unknown-tag") == u64::from(ROUND));
    let after = gate.net.gateway.ip_counter("OutRequests");
    assert_eq!(after - before, 0, "packets left the gateway");
    for round in 1..=10 {
        (round * ROUND..(round + 1) * ROUND).for_each(junk);
        anna.must_open(&gate.net.client, "ssh", 0);
    }
    let all = 11 * u64::from(ROUND);
    until("all junk is counted", || gate.rejected("unknown-tag") == all);
    let dropped = if gate.filters_in_kernel() { all } else { 0 };
    assert_eq!(gate.filtered(), dropped);
    let packets = &gate.status_json()["packets"];
    assert_eq!(packets["received"], all + 11, "junk and knocks: {packets}");
    let grown = resident(gate.daemon().listener()).saturating_sub(memory);
    assert!(grown < 512, "the listener grew by {grown} KB");
}

/// A door that grants ssh, and its reverse: the first step of each is the last one of the other.
const DOORS: &str = "[door.side]\nsequence = [\"7321/tcp\", \"8432/udp\", \"9543/tcp\"]\nservice = \"ssh\"\n\
    [door.back]\nsequence = [\"9543/tcp\", \"8432/udp\", \"7321/tcp\"]\nservice = \"ssh\"\n";
const KNOCKS: u8 = 40;

#[test]
fn a_flood_of_first_steps_from_forged_addresses_hinders_no_knock_at_a_door() {
    let mut gate = Gate::running(|config| config + DOORS);
    assert_eq!(gate.filters_in_kernel(), may_load_filter());
    if gate.filters_in_kernel() {
        let flood = FirstSteps::on(&gate);
        until("first steps are held", || {
            flood.send(ROUND);
            holds(&gate)
        });
        let held = gate.rejected("first-step");
        flood_of_first_steps(&mut gate, &flood, 512);
        // What shares a bucket with a knock under way passes.
        let most = u64::from(ROUND) * u64::from(KNOCKS);
        assert!(gate.rejected("first-step") - held >= most / 100 * 99);
        assert_eq!(gate.filtered(), gate.rejected("first-step"));
        until("the flood is over", || !holds(&gate));
        gate.daemon().wait_for("the flood of first steps at doors is over");
        let log = gate.daemon().log();
        assert_eq!(log.matches("a flood of first steps at doors has begun").count(), 1, "{log}");
    } else {
        let flood = FirstSteps::on(&gate);
        flood_of_first_steps(&mut gate, &flood, 8192);
    }
}

#[test]
fn a_flood_of_first_steps_hinders_no_knock_where_the_kernel_holds_none_either() {
    let mut gate = Gate::new(|config| config + DOORS);
    gate.start_without_kernel_filter();
    let flood = FirstSteps::on(&gate);
    flood_of_first_steps(&mut gate, &flood, 8192);
    assert_eq!(gate.rejected("first-step"), 0);
    assert!(!holds(&gate));
}

fn holds(gate: &Gate) -> bool {
    gate.status_json()["degraded"].to_string().contains("a flood of first steps at doors")
}

/// Sends the first steps of both doors from forged sources.
struct FirstSteps {
    forger: Forger,
    gateway: Ipv4Addr,
    sent: Cell<u32>,
}

impl FirstSteps {
    fn on(gate: &Gate) -> FirstSteps {
        let host = gate.net.host(7);
        let (forger, gateway) = (Forger::new(&host.space), host.gateway_ipv4());
        FirstSteps { forger, gateway, sent: Cell::new(0) }
    }

    fn send(&self, count: u32) {
        for number in self.sent.get()..self.sent.get() + count {
            let port = if number.is_multiple_of(2) { 7321 } else { 9543 };
            self.forger.syn(stranger(number), SocketAddrV4::new(self.gateway, port));
        }
        self.sent.set(self.sent.get() + count);
    }

    /// All steps of one door, from a source that no first step of the flood has.
    fn knock(&self, number: u8) {
        let from = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, number), 40_000);
        let to = |port| SocketAddrV4::new(self.gateway, port);
        let [first, last] = if number.is_multiple_of(2) { [7321, 9543] } else { [9543, 7321] };
        self.forger.syn(from, to(first));
        self.forger.datagram(from, to(8432), b"");
        self.forger.syn(from, to(last));
    }
}

/// `most`: kilobytes by which the listener may grow.
fn flood_of_first_steps(gate: &mut Gate, flood: &FirstSteps, most: u64) {
    let memory = resident(gate.daemon().listener());
    for number in 1..=KNOCKS {
        flood.send(ROUND);
        flood.knock(number);
        until("the knock opens", || gate.status_json()["grants"] == number);
    }
    let all = u64::from(flood.sent.get()) + 3 * u64::from(KNOCKS);
    until("all are counted", || gate.status_json()["packets"]["received"] == all);
    let packets = &gate.status_json()["packets"];
    assert_eq!(packets["lost"], 0, "{packets}");
    assert_eq!(packets["doors"], all - gate.rejected("first-step"), "{packets}");
    let grown = resident(gate.daemon().listener()).saturating_sub(memory);
    assert!(grown < most, "the listener grew by {grown} KB");
}

/// True where a process with our rights may load a filter: in the first user namespace.
pub(crate) fn may_load_filter() -> bool {
    let users = fs::read_to_string("/proc/self/uid_map").expect("/proc");
    let is_first = users.split_whitespace().eq(["0", "0", "4294967295"]);
    is_first && CapState::get_current().expect("/proc").effective.has(Cap::BPF)
}

/// Kilobytes of a process in memory.
fn resident(process: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn an_attacker_who_saw_one_packet_can_neither_use_up_its_clients_rate_nor_fill_the_log() {
    let mut gate = Gate::running(|config| config);
    let anna = gate.enrol("anna", "ssh");
    let spy = gate.net.host(7);
    let forger = Flooder::on(&spy);
    let begin = Instant::now();
    let used = anna.seal(&anna.request("ssh", gate.net.client.ips()[0]));
    assert!(used.send(&gate.net.client, gate.net.gateway_ips()[0]).is_some());
    for round in 1..=6 {
        for n in round * ROUND..(round + 1) * ROUND {
            // Copies, and packets with the same tag and an invalid MAC.
            let mut bytes = used.bytes.clone();
            bytes[271] ^= u8::from(n % 2 == 0);
            forger.send(forged(n, gate.net.client.ipv4()), &bytes);
        }
        anna.must_open(&gate.net.client, "ssh", 0);
    }
    let alarms = gate.daemon().log().matches("ALARM").count();
    let most = usize::try_from(begin.elapsed().as_secs()).expect("a short test") + 2;
    assert!((1..=most).contains(&alarms), "{alarms} alarms, at most one a second");
}

#[test]
fn an_attacker_who_withheld_one_packet_cannot_use_up_its_clients_rate_with_copies() {
    let gate = Gate::running(|config| config);
    let anna = gate.enrol("anna", "ssh");
    let spy = gate.net.host(7);
    let forger = Flooder::on(&spy);
    // Neither was ever used. The second is too old already, which only the gatekeeper can see.
    let fresh = anna.request("ssh", gate.net.client.ips()[0]);
    let old = Request { timestamp: Wall(stamp().0 - 40 * SECOND), ..fresh };
    for request in [fresh, old] {
        let withheld = anna.seal(&request);
        for n in 1..=ROUND {
            forger.send(forged(4 * n + 1, gate.net.client.ipv4()), &withheld.bytes);
        }
        anna.must_open(&gate.net.client, "ssh", 0);
    }
}

#[test]
fn a_clients_flood_of_valid_knocks_takes_nothing_from_another_client() {
    let gate = Gate::running(|config| config);
    let anna = gate.enrol("anna", "ssh");
    let bert = gate.enrol("bert", "ssh");
    let host = gate.net.host(7);
    let to = host.gateway_ips()[0];
    let probe = Request {
        kind: KnockKind::Probe,
        service: ServiceName::NONE,
        address: None,
        ..bert.request("ssh", host.ips()[0])
    };
    for _ in 0..200 {
        send(&host, to, &bert.seal(&Request { timestamp: stamp(), ..probe }).bytes);
    }
    anna.must_open(&gate.net.client, "ssh", 0);
    until("the gateway limits bert", || gate.rejected("quota") > 0);
    // Junk from anna's address does not get it banned.
    for _ in 0..ROUND {
        send(&gate.net.client, gate.net.gateway_ips()[0], &[7; 272]);
    }
    anna.must_open(&gate.net.client, "ssh", 0);
}

#[test]
fn late_reordered_and_doubled_packets_are_each_granted_once() {
    let gate = Gate::running(|config| config);
    let anna = gate.enrol("anna", "ssh");
    let (from, to) = (gate.net.client.ips()[0], gate.net.gateway_ips()[0]);
    // Timestamps from before the start of the gateway would need a challenge.
    let start = stamp();
    until("4 s have passed since the start", || stamp() > start.plus(4));
    let late = |n: u64| {
        let mut request = anna.request("ssh", from);
        request.timestamp = Wall(request.timestamp.0 - n * SECOND / 10);
        anna.seal(&request)
    };
    // The newest is sent first, the others are up to 3 s late, and each is sent twice.
    let knocks: Vec<Sealed> = (0..30).map(late).collect();
    let sockets: Vec<_> = knocks
        .iter()
        .map(|knock| {
            let socket = send(&gate.net.client, to, &knock.bytes);
            socket.send(&knock.bytes).expect("a route");
            socket
        })
        .collect();
    for (knock, socket) in knocks.iter().zip(&sockets) {
        let status = knock.receipt(socket, LONG).map(|receipt| receipt.status);
        assert_eq!(status, Some(Status::Granted));
    }
    // A later knock is answered after all earlier packets.
    anna.must_open(&gate.net.client, "ssh", 0);
    for socket in &sockets {
        socket.set_nonblocking(true).expect("a socket");
        assert!(socket.recv(&mut [0; 512]).is_err(), "a knock got two receipts");
    }
    assert_eq!(gate.grants().lines().count(), 3, "a summary, a heading and one grant");
}

#[test]
fn the_victim_of_forged_packets_is_sent_at_most_one_smaller_packet() {
    let gate = Gate::running(|config| config);
    let anna = gate.enrol("anna", "ssh");
    let (attacker, victim) = (gate.net.host(7), gate.net.host(8));
    let forger = Flooder::on(&attacker);
    // The best packet for the attacker: it never arrived, so it is still fresh.
    let withheld = anna.seal(&anna.request("ssh", gate.net.client.ips()[0]));
    let before = victim.space.ip_counter("InReceives");
    for port in 1..=500 {
        let forged = SocketAddrV4::new(victim.ipv4(), port);
        forger.send(forged, &withheld.bytes);
        forger.send(forged, &[port.to_be_bytes()[1]; 272]);
    }
    // This knock is answered after all of those.
    anna.must_open(&gate.net.client, "ssh", 0);
    let answers = victim.space.ip_counter("InReceives") - before;
    assert!(answers <= 1, "{answers} packets for 1000");
    let socket = gate.net.client.space.udp(gate.port(0, KNOCK));
    let knock = anna.seal(&anna.request("ssh", gate.net.client.ips()[0]));
    socket.send(&knock.bytes).expect("a route");
    socket.set_read_timeout(Some(LONG)).expect("a timeout");
    let length = socket.recv(&mut [0; 1500]).expect("a receipt");
    assert!(
        length < knock.bytes.len(),
        "a receipt of {length} bytes for a knock of {}",
        knock.bytes.len()
    );
    assert!(!victim.tcp_reaches(victim.gateway(0, 22), SHORT));
}
