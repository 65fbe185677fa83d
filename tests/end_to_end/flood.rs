//! Floods: nobody keeps an admin out by sending much, from wherever, of whatever, and nobody is hit
//! by what we answer.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Instant;

use toctoc::core::knock::{KnockKind, Status};
use toctoc::core::types::{SECOND, ServiceName, Wall};
use toctoc::edge::entropy;

use crate::harness::gate::{Gate, KNOCK, Knocker, Sealed, ok, send, stamp};
use crate::harness::raw::Forger;
use crate::harness::{Host, LONG, SHORT, Space, eventually};

/// Packets between one knock and the next. The ring of the capture socket holds more, whoever else
/// uses this machine.
const ROUND: u32 = 1500;

/// IP packets that a namespace has sent or received since it was made.
fn counted(space: &Space, name: &str) -> u64 {
    let lines = space.sh("grep '^Ip:' /proc/net/snmp");
    let (names, numbers) = lines.split_once('\n').expect("two lines");
    let place = names.split_whitespace().position(|one| one == name).expect("the counter");
    numbers.split_whitespace().nth(place).and_then(|number| number.parse().ok()).expect("a number")
}

/// Addresses from everywhere, and each fourth time the admin's own.
fn forged(n: u32, admin: &Host) -> SocketAddrV4 {
    let std::net::IpAddr::V4(own) = admin.ips()[0] else { panic!("IPv4 stands first") };
    let anywhere = Ipv4Addr::from(0x0b00_0000 + n.wrapping_mul(2_654_435_761) % 0x7000_0000);
    SocketAddrV4::new(if n.is_multiple_of(4) { own } else { anywhere }, 40_000)
}

/// Sends to the knock port in anybody's name.
struct Flooder {
    forger: Forger,
    to: SocketAddrV4,
}

impl Flooder {
    fn on(host: &Host) -> Flooder {
        let std::net::IpAddr::V4(gateway) = host.gateway_ips()[0] else {
            panic!("IPv4 stands first")
        };
        Flooder { forger: Forger::new(&host.space), to: SocketAddrV4::new(gateway, KNOCK) }
    }

    fn send(&self, from: SocketAddrV4, payload: &[u8]) {
        self.forger.datagram_of(from, self.to, payload);
    }
}

fn granted(anna: &Knocker, gate: &Gate) -> bool {
    anna.open(&gate.net.client, "ssh", 0).is_some_and(|receipt| receipt.status == Status::Granted)
}

#[test]
fn a_blind_flood_from_forged_addresses_hinders_no_knock_and_is_never_answered() {
    let gate = Gate::running(|config| config);
    let anna = gate.enrol("anna", "ssh");
    let flooder = gate.net.host(7);
    let forger = Flooder::on(&flooder);
    let junk = |n: u32| {
        let bytes: [u8; 272] = entropy::bytes().expect("entropy");
        forger.send(forged(n, &gate.net.client), &bytes);
    };
    let before = counted(&gate.net.gateway, "OutRequests");
    (0..ROUND).for_each(junk);
    assert!(
        eventually(LONG, || gate.rejected("unknown-tag") == u64::from(ROUND)),
        "all were looked at: {}",
        gate.status_json()
    );
    assert_eq!(
        counted(&gate.net.gateway, "OutRequests") - before,
        0,
        "not one packet left the gateway"
    );
    for round in 1..=10 {
        (round * ROUND..(round + 1) * ROUND).for_each(junk);
        assert!(granted(&anna, &gate), "knock {round} after {} packets of junk", round * ROUND);
    }
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
            // Copies, and packets with the same tag under a MAC that does not fit.
            let mut bytes = used.bytes.clone();
            bytes[271] ^= u8::from(n % 2 == 0);
            forger.send(forged(n, &gate.net.client), &bytes);
        }
        assert!(granted(&anna, &gate), "round {round}: {}", gate.status_json());
    }
    let alarms = gate.daemon().log().matches("ALARM").count();
    let most = usize::try_from(begin.elapsed().as_secs()).expect("short") + 2;
    assert!((1..=most).contains(&alarms), "{alarms} alarms, at most one a second");
}

#[test]
fn an_attacker_who_withheld_one_packet_cannot_use_up_its_clients_rate_with_copies() {
    let gate = Gate::running(|config| config);
    let anna = gate.enrol("anna", "ssh");
    let spy = gate.net.host(7);
    let forger = Flooder::on(&spy);
    // Neither was ever used: the second is too old already, which only the gatekeeper can see.
    let (kept, mut old) = (
        anna.request("ssh", gate.net.client.ips()[0]),
        anna.request("ssh", gate.net.client.ips()[0]),
    );
    old.timestamp = Wall(stamp().0 - 40 * SECOND);
    for request in [kept, old] {
        let kept = anna.seal(&request);
        for n in 1..=ROUND {
            forger.send(forged(4 * n + 1, &gate.net.client), &kept.bytes);
        }
        assert!(granted(&anna, &gate), "{}", gate.status_json());
    }
}

#[test]
fn a_clients_flood_of_valid_knocks_takes_nothing_from_another_client() {
    let gate = Gate::running(|config| config);
    let (anna, bert) = (gate.enrol("anna", "ssh"), gate.enrol("bert", "ssh"));
    let host = gate.net.host(7);
    let to = host.gateway_ips()[0];
    let mut probe = bert.request("ssh", host.ips()[0]);
    (probe.kind, probe.service, probe.address) = (KnockKind::Probe, ServiceName::NONE, None);
    for _ in 0..200 {
        probe.timestamp = stamp();
        drop(send(&host, to, &bert.seal(&probe).bytes));
    }
    assert!(granted(&anna, &gate));
    assert!(
        eventually(LONG, || gate.rejected("quota") > 0),
        "bert ran into his limit: {}",
        gate.status_json()
    );
    // And from the very address that the junk of others claims to come from.
    for _ in 0..ROUND {
        drop(send(&gate.net.client, gate.net.gateway_ips()[0], &[7; 272]));
    }
    assert!(granted(&anna, &gate), "there is no ban that could be aimed at an address");
}

#[test]
fn late_reordered_and_doubled_packets_are_each_granted_once() {
    let gate = Gate::running(|config| config);
    let anna = gate.enrol("anna", "ssh");
    let (from, to) = (gate.net.client.ips()[0], gate.net.gateway_ips()[0]);
    // After a start, what was sent before it takes a challenge.
    let start = stamp();
    assert!(eventually(LONG, || stamp() > start.plus(4)));
    let late = |n: u64| {
        let mut request = anna.request("ssh", from);
        request.timestamp = Wall(request.timestamp.0 - n * SECOND / 10);
        anna.seal(&request)
    };
    // The newest last in time and first on the wire, up to 3 s late, and each of them twice in a
    // row.
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
        assert_eq!(
            knock.receipt(socket, LONG).map(|receipt| receipt.status),
            Some(Status::Granted)
        );
    }
    // A later one is answered after all that came before it.
    assert!(granted(&anna, &gate));
    for (knock, socket) in knocks.iter().zip(&sockets) {
        socket.set_nonblocking(true).expect("a socket");
        let mut more = [0; 512];
        assert!(
            socket.recv(&mut more).is_err(),
            "one answer for one packet: {}",
            knock.bytes.len()
        );
    }
    assert_eq!(
        gate.grants().lines().count(),
        2,
        "one heading, one grant that goes on"
    );
}

#[test]
fn the_victim_of_forged_packets_is_sent_at_most_one_smaller_packet() {
    let gate = Gate::running(|config| config);
    let anna = gate.enrol("anna", "ssh");
    let (attacker, victim) = (gate.net.host(7), gate.net.host(8));
    let forger = Flooder::on(&attacker);
    let std::net::IpAddr::V4(hit) = victim.ips()[0] else { panic!("IPv4 stands first") };
    // The best that he can have: a packet that never arrived, so that it is still fresh.
    let kept = anna.seal(&anna.request("ssh", gate.net.client.ips()[0]));
    let before = counted(&victim.space, "InReceives");
    for port in 1..=500 {
        forger.send(SocketAddrV4::new(hit, port), &kept.bytes);
        forger.send(SocketAddrV4::new(hit, port), &[port.to_be_bytes()[1]; 272]);
    }
    assert!(granted(&anna, &gate), "answered after all of those");
    let answers = counted(&victim.space, "InReceives") - before;
    assert!(answers <= 1, "{answers} packets for 1000");
    let mut mine = vec![0; 1500];
    let socket = gate.net.client.space.udp(gate.port(0, KNOCK));
    let knock = anna.seal(&anna.request("ssh", gate.net.client.ips()[0]));
    socket.send(&knock.bytes).expect("a route");
    socket.set_read_timeout(Some(LONG)).expect("a timeout");
    let length = socket.recv(&mut mine).expect("a receipt");
    assert!(
        length < knock.bytes.len(),
        "a receipt of {length} bytes for a knock of {}",
        knock.bytes.len()
    );
    assert!(!victim.tcp_reaches(victim.gateway(0, 22), SHORT));
}
