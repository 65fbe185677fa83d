//! The packets that the guard lets through, with real nftables and real packets. See
//! `firewall_kept` for restarts and foreign changes.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Barrier;

use crate::harness::guarded::{DNS, Guarded, KNOCK, SSH, dns, settings, ssh};
use crate::harness::raw::{ACK, RST, Raw, SYN, pings};
use crate::harness::{LONG, Net, SHORT, echoes, udp_echoes, until};
use toctoc::core::grants::Change;
use toctoc::core::service::GrantKind;

/// A port that no service has, for TCP and UDP.
const OTHER: u16 = 8080;

#[test]
fn without_a_guard_the_harness_reaches_every_server_on_both_families() {
    let net = Net::new();
    let _tcp = net.gateway.tcp_echo(22);
    let _udp = net.gateway.udp_echo(53);
    let stranger = net.host(1);
    for host in [&net.client, &stranger] {
        for ip in host.gateway_ips() {
            assert!(host.tcp_reaches(ssh(ip), LONG));
            assert!(host.udp_reaches(dns(ip), LONG));
            assert!(!host.udp_reaches(SocketAddr::new(ip, 54), SHORT));
        }
    }
}

#[test]
fn a_guarded_port_is_silent_until_granted_and_only_for_the_granted_source_and_port() {
    let mut it = Guarded::new();
    let stranger = it.net.host(1);
    for (from, to) in it.pairs() {
        assert!(!it.net.client.tcp_reaches(ssh(to), SHORT));
        assert!(!it.net.client.udp_reaches(dns(to), SHORT));
        it.grant(from, SSH, GrantKind::Time, 60_000);
        assert!(it.net.client.tcp_reaches(ssh(to), LONG));
        assert!(!it.net.client.udp_reaches(dns(to), SHORT), "another port is open");
        it.grant(from, DNS, GrantKind::Time, 60_000);
        assert!(it.net.client.udp_reaches(dns(to), LONG));
    }
    for to in stranger.gateway_ips() {
        assert!(!stranger.tcp_reaches(ssh(to), SHORT) && !stranger.udp_reaches(dns(to), SHORT));
    }
    assert_eq!((it.tcp.requests(), it.udp.requests()), (2, 2));
}

#[test]
fn a_grant_of_one_family_opens_nothing_on_the_other() {
    let mut it = Guarded::new();
    let [(from4, to4), (_, to6)] = it.pairs();
    it.grant(from4, SSH, GrantKind::Time, 60_000);
    assert!(!it.net.client.tcp_reaches(ssh(to6), SHORT));
    assert!(it.net.client.tcp_reaches(ssh(to4), LONG));
}

#[test]
fn a_time_grant_ends_by_itself_and_its_connections_live_on() {
    let mut it = Guarded::new();
    for (from, to) in it.pairs() {
        let element = it.grant(from, SSH, GrantKind::Time, 1500);
        it.grant(from, DNS, GrantKind::Time, 1500);
        let mut session = it.net.client.connect(ssh(to), LONG).unwrap();
        let datagrams = it.net.client.space.udp(dns(to));
        assert!(echoes(&mut session, LONG) && udp_echoes(&datagrams, LONG));
        until("the grants end", || {
            it.nft.remaining(&element).unwrap().is_none() && it.nft.list().unwrap().is_empty()
        });
        assert!(!it.net.client.tcp_reaches(ssh(to), SHORT));
        assert!(!it.net.client.udp_reaches(dns(to), SHORT));
        assert!(echoes(&mut session, LONG) && udp_echoes(&datagrams, LONG));
    }
}

#[test]
fn a_grant_set_again_is_extended_or_shortened_and_a_removed_one_is_gone_at_once() {
    let mut it = Guarded::new();
    for (from, to) in it.pairs() {
        let element = it.grant(from, SSH, GrantKind::Time, 1000);
        it.grant(from, SSH, GrantKind::Time, 60_000);
        let left = it.nft.remaining(&element).unwrap().unwrap();
        assert!((50_000..=60_000).contains(&left), "{left}");
        let mut left = left;
        until("some of its time passes", || {
            left = it.nft.remaining(&element).unwrap().unwrap();
            left < 59_900
        });
        it.grant(from, SSH, GrantKind::Time, 60_000);
        let refreshed = it.nft.remaining(&element).unwrap().unwrap();
        assert!(refreshed > left, "the grant was not refreshed: {refreshed} ms after {left} ms");
        it.grant(from, SSH, GrantKind::Time, 5000);
        assert!(it.nft.remaining(&element).unwrap().unwrap() <= 5000);
        assert!(it.net.client.tcp_reaches(ssh(to), LONG));
        it.nft.apply(&[Change::Remove { element }, Change::Remove { element }]).unwrap();
        assert_eq!(it.nft.remaining(&element).unwrap(), None);
        assert!(!it.net.client.tcp_reaches(ssh(to), SHORT));
    }
}

#[test]
fn while_a_grant_is_refreshed_there_is_no_moment_without_it() {
    let mut it = Guarded::new();
    let (from, to) = it.pairs()[0];
    it.grant(from, SSH, GrantKind::Time, 60_000);
    let client = it.net.client.space.clone();
    let attempts =
        client.thread(move || (0..200).all(|_| TcpStream::connect_timeout(&ssh(to), LONG).is_ok()));
    while !attempts.is_finished() {
        it.grant(from, SSH, GrantKind::Time, 60_000);
    }
    assert!(attempts.join().unwrap());
    assert_eq!(it.dropped().get("opening"), Some(&0), "a SYN was dropped in a gap");
}

#[test]
fn of_many_simultaneous_connections_under_a_one_connection_grant_exactly_one_wins() {
    let mut it = Guarded::new();
    for (round, (from, to)) in it.pairs().into_iter().enumerate() {
        let element = it.grant(from, SSH, GrantKind::Once, 60_000);
        assert!(it.nft.remaining(&element).unwrap().is_some());
        assert_eq!(it.winners(to, round), 1);
        assert_eq!(it.nft.remaining(&element).unwrap(), None, "the grant is not used up");
        assert!(it.nft.list().unwrap().is_empty());
        assert!(!it.net.client.tcp_reaches(ssh(to), SHORT), "a later connection was accepted");
        assert_eq!(it.tcp.requests(), round + 1);
        it.grant(from, SSH, GrantKind::Once, 60_000);
        assert!(it.nft.remaining(&element).unwrap().is_some(), "a new grant does not arm it again");
        it.nft.apply(&[Change::Remove { element }]).unwrap();
    }
}

#[test]
fn of_many_pending_handshakes_exactly_one_is_completed() {
    const RIVALS: u16 = 12;
    let mut it = Guarded::new();
    // The client's own kernel knows nothing of these handshakes and would reset them.
    it.net.client.space.sh("nft add table inet own
         nft add chain inet own out '{ type filter hook output priority 0; policy accept; }'
         nft add rule inet own out tcp sport 6000-6099 tcp flags and rst == rst drop");
    for (round, (from, to)) in it.pairs().into_iter().enumerate() {
        it.grant(from, SSH, GrantKind::Once, 60_000);
        let lost_before = it.dropped()["ask/tcp"];
        let rivals: Vec<_> = (6000..6000 + RIVALS)
            .map(|port| Raw::new(&it.net.client.space, SocketAddr::new(from, port), ssh(to)))
            .collect();
        let ready: Vec<_> = rivals
            .into_iter()
            .map(|rival| {
                rival.send(SYN, 1000, 0, &[]).unwrap();
                let answer =
                    rival.answer(LONG).expect("every SYN is answered before the first ACK");
                (rival, answer.sequence.wrapping_add(1))
            })
            .collect();
        let start = &Barrier::new(ready.len());
        std::thread::scope(|scope| {
            for (rival, next) in &ready {
                scope.spawn(move || {
                    start.wait();
                    rival.send(ACK, 1001, *next, &[]).unwrap();
                });
            }
        });
        let losers = u64::from(RIVALS) - 1;
        until("all ACKs are handled", || {
            it.tcp.requests() > round && it.dropped()["ask/tcp"] >= lost_before + losers
        });
        assert_eq!((it.tcp.requests(), it.dropped()["ask/tcp"]), (round + 1, lost_before + losers));
    }
}

#[test]
fn a_forged_syn_and_its_reset_use_up_no_grant() {
    let mut it = Guarded::new();
    for (round, (from, to)) in it.pairs().into_iter().enumerate() {
        let element = it.grant(from, SSH, GrantKind::Once, 60_000);
        let forger = Raw::new(&it.net.client.space, SocketAddr::new(from, 4444), ssh(to));
        forger.send(SYN, 1000, 0, &[]).unwrap();
        let answer = forger.answer(LONG).expect("the service answers a pending flow");
        assert_eq!((answer.flags, answer.acknowledged), (SYN | ACK, 1001));
        // The client's kernel has already reset the handshake that it did not start; send more
        // resets.
        forger.send(RST, 1001, 0, &[]).unwrap();
        forger.send(RST | ACK, 1001, answer.sequence.wrapping_add(1), &[]).unwrap();
        assert!(it.net.client.tcp_reaches(ssh(to), LONG));
        assert_eq!(it.tcp.requests(), round + 1);
        assert!(it.nft.remaining(&element).unwrap().is_none());
    }
}

#[test]
fn a_bare_ack_neither_opens_nor_uses_up_a_grant() {
    let mut it = Guarded::new();
    for (from, to) in it.pairs() {
        let element = it.grant(from, SSH, GrantKind::Once, 60_000);
        let prober = Raw::new(&it.net.client.space, SocketAddr::new(from, 4445), ssh(to));
        for flags in [ACK, RST, SYN | ACK, 0] {
            prober.send(flags, 1, 1, &[]).unwrap();
        }
        assert!(prober.answer(SHORT).is_none());
        assert!(it.nft.remaining(&element).unwrap().is_some());
    }
}

#[test]
fn a_syn_with_fast_open_is_dropped_even_under_a_grant() {
    let mut it = Guarded::new();
    for (from, to) in it.pairs() {
        it.grant(from, SSH, GrantKind::Time, 60_000);
        for (port, options) in [(5001, &[34, 2][..]), (5002, &[254, 4, 0xf9, 0x89])] {
            let sender = Raw::new(&it.net.client.space, SocketAddr::new(from, port), ssh(to));
            sender.send(SYN, 1, 0, options).unwrap();
            assert!(sender.answer(SHORT).is_none(), "option {}", options[0]);
        }
        let sender = Raw::new(&it.net.client.space, SocketAddr::new(from, 5003), ssh(to));
        sender.send(SYN, 1, 0, &[2, 4, 5, 0xb4]).unwrap();
        assert_eq!(sender.answer(LONG).expect("an ordinary SYN is answered").flags, SYN | ACK);
    }
    assert_eq!(it.dropped().get("opening"), Some(&4));
}

#[test]
fn a_syn_within_a_granted_flow_is_checked_again() {
    let mut it = Guarded::new();
    for (from, to) in it.pairs() {
        let element = it.grant(from, SSH, GrantKind::Time, 60_000);
        let mut session = it.net.client.connect(ssh(to), LONG).unwrap();
        assert!(echoes(&mut session, LONG));
        it.nft.apply(&[Change::Remove { element }]).unwrap();
        let before = it.dropped()["ask/tcp"];
        Raw::new(&it.net.client.space, session.local_addr().unwrap(), ssh(to))
            .send(SYN, 1, 0, &[])
            .unwrap();
        until("the SYN is dropped", || it.dropped()["ask/tcp"] == before + 1);
        assert!(echoes(&mut session, LONG), "the SYN broke the session");
    }
}

#[test]
fn a_session_older_than_the_guard_is_blocked_until_its_source_has_a_time_grant() {
    for tracked in [false, true] {
        older_session(tracked);
    }
}

/// With `tracked`, conntrack knew the session before the guard was loaded; otherwise it sees it
/// from the middle.
fn older_session(tracked: bool) {
    let (mut it, sessions) = Guarded::after(tracked, |net| {
        net.gateway_ips().map(|ip| {
            let mut session = net.client.connect(ssh(ip), LONG).unwrap();
            let datagrams = net.client.space.udp(dns(ip));
            assert!(echoes(&mut session, LONG) && udp_echoes(&datagrams, LONG));
            (session, datagrams)
        })
    });
    for ((mut session, datagrams), (from, _)) in sessions.into_iter().zip(it.pairs()) {
        assert!(!echoes(&mut session, SHORT) && !udp_echoes(&datagrams, SHORT));
        it.grant(from, SSH, GrantKind::Time, 60_000);
        it.grant(from, DNS, GrantKind::Time, 60_000);
        assert!(echoes(&mut session, LONG) && udp_echoes(&datagrams, LONG));
    }
}

#[test]
fn a_one_connection_grant_adopts_no_older_session() {
    let (mut it, mut session) =
        Guarded::after(true, |net| net.client.connect(ssh(net.gateway_ips()[0]), LONG).unwrap());
    let (from, to) = it.pairs()[0];
    let element = it.grant(from, SSH, GrantKind::Once, 60_000);
    assert!(!echoes(&mut session, SHORT));
    assert!(it.nft.remaining(&element).unwrap().is_some());
    assert!(it.net.client.tcp_reaches(ssh(to), LONG));
}

#[test]
fn ports_that_are_not_guarded_are_left_alone() {
    let it = Guarded::new();
    let _tcp = it.net.gateway.tcp_echo(OTHER);
    let _udp = it.net.gateway.udp_echo(OTHER);
    let inner = it.net.host(1);
    let _inner_tcp = inner.space.tcp_echo(SSH.number);
    let _inner_udp = inner.space.udp_echo(DNS.number);
    it.net.gateway.sh("echo 1 >/proc/sys/net/ipv4/ip_forward
         echo 1 >/proc/sys/net/ipv6/conf/all/forwarding");
    for (index, ip) in it.net.gateway_ips().into_iter().enumerate() {
        assert!(it.net.client.tcp_reaches(SocketAddr::new(ip, OTHER), LONG));
        assert!(it.net.client.udp_reaches(SocketAddr::new(ip, OTHER), LONG));
        assert_eq!(
            refusal(&it.net, SocketAddr::new(ip, 8081)),
            Some(ErrorKind::ConnectionRefused),
            "a refusal by ICMP must get through"
        );
        assert!(pings(&it.net.client.space, ip, LONG));
        let forwarded = inner.ips()[index];
        assert!(
            it.net.client.tcp_reaches(ssh(forwarded), LONG),
            "the same port of another host is blocked"
        );
        assert!(
            it.net.client.udp_reaches(dns(forwarded), LONG),
            "the same port of another host is blocked"
        );
    }
    assert!(
        it.net.gateway.connect(ssh("127.0.0.1".parse().unwrap()), LONG).is_ok(),
        "the gateway does not reach itself"
    );
    assert!(
        it.net.gateway.connect(ssh(it.net.gateway_ips()[1]), LONG).is_ok(),
        "the gateway does not reach itself"
    );
}

/// The error that the client's socket reports after a datagram; `None` if it reports nothing.
fn refusal(net: &Net, to: SocketAddr) -> Option<ErrorKind> {
    let socket = net.client.space.udp(to);
    socket.set_read_timeout(Some(SHORT)).unwrap();
    socket.send(b"anybody?").unwrap();
    match socket.recv(&mut [0; 8]) {
        Err(error) if error.kind() != ErrorKind::WouldBlock => Some(error.kind()),
        _ => None,
    }
}

#[test]
fn the_knock_port_never_answers() {
    let it = Guarded::new();
    for ip in it.net.gateway_ips() {
        assert_eq!(refusal(&it.net, SocketAddr::new(ip, KNOCK)), None);
    }
    assert_eq!(it.dropped().get("guard/udp"), Some(&2));
}

#[test]
fn a_broadcast_reaches_no_guarded_service() {
    let it = Guarded::new();
    let open = it.net.gateway.udp_echo(OTHER);
    for broadcast in ["10.90.0.255", "255.255.255.255"] {
        let broadcast: IpAddr = broadcast.parse().unwrap();
        let sender =
            it.net.client.space.inside(|| UdpSocket::bind((it.net.client.ips()[0], 0)).unwrap());
        sender.set_broadcast(true).unwrap();
        sender.send_to(b"all", dns(broadcast)).unwrap();
        sender.send_to(b"all", SocketAddr::new(broadcast, OTHER)).unwrap();
    }
    until("broadcasts arrive at the open port", || open.requests() == 2);
    assert_eq!(it.udp.requests(), 0);
}

#[test]
fn break_glass_addresses_always_pass() {
    let mut settings = settings();
    settings.break_glass = vec!["10.90.0.2".parse().unwrap(), "fd90::2".parse().unwrap()];
    let it = Guarded::with(&settings);
    let stranger = it.net.host(1);
    for (_, to) in it.pairs() {
        assert!(
            it.net.client.tcp_reaches(ssh(to), LONG) && it.net.client.udp_reaches(dns(to), LONG)
        );
    }
    for to in stranger.gateway_ips() {
        assert!(!stranger.tcp_reaches(ssh(to), SHORT));
    }
}
