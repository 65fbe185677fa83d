//! The ways to a guarded port besides the usual one: put onto lo, by translation from another
//! port, to an address that only another routing table knows, by the socket of receipts.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};

use crate::harness::guarded::{DNS, Guarded, KNOCK, SSH, dns, element, services, settings, ssh};
use crate::harness::raw::OnLo;
use crate::harness::{LONG, Net, SHORT, echoes, udp_echoes, until};
use toctoc::core::grants::Change;
use toctoc::core::service::{GrantKind, Mode, Service};
use toctoc::core::wire::RECEIPT;
use toctoc::edge::firewall::advice;
use toctoc::edge::raw;

/// An admin's firewall as distributions have it.
fn admin(net: &Net, policy: &str) {
    let rule = advice::let_marked_in(&settings());
    net.gateway.sh(&format!(
        "nft 'table inet admin {{ chain input {{ type filter hook input priority 0; policy {policy}; \
           iif lo accept; ct state established,related accept; \
           meta l4proto {{ icmp, ipv6-icmp }} accept; {rule}; }}; }}'"
    ));
}

/// Half-open connections of the gateway.
fn half_open(net: &Net) -> usize {
    net.gateway.inside(|| {
        let read = |name| fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap();
        // The fourth column is the state; 03 is SYN_RECV.
        let both = [read("tcp"), read("tcp6")].concat();
        both.lines().filter(|line| line.split_whitespace().nth(3) == Some("03")).count()
    })
}

/// Puts a SYN and a datagram for the guarded ports onto lo, from each source to each destination.
fn put(it: &OnLoTest) -> usize {
    let mut lo = OnLo::new(&it.net.gateway);
    let mut count = 0;
    for from in &it.sources {
        for to in &it.destinations {
            if from.is_ipv4() == to.is_ipv4() {
                lo.syn(SocketAddr::new(*from, 4001), ssh(*to));
                lo.datagram(SocketAddr::new(*from, 4002), dns(*to), b"in");
                count += 1;
            }
        }
    }
    count
}

struct OnLoTest {
    net: Net,
    sources: Vec<IpAddr>,
    destinations: Vec<IpAddr>,
}

impl OnLoTest {
    fn new() -> OnLoTest {
        let net = Net::new();
        // Answers to the client must find their way back, or else nothing is half open.
        net.gateway.sh("for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >$f; done");
        let own = net.gateway_ips();
        let loopback: [IpAddr; 2] = ["127.0.0.1", "::1"].map(|ip| ip.parse().unwrap());
        // Forged as a stranger's, and as the gateway's own.
        let sources = [net.client.ips(), own].concat();
        OnLoTest { sources, destinations: [own, loopback].concat(), net }
    }
}

#[test]
fn packets_put_onto_lo_reach_unguarded_ports_so_that_the_next_test_tries_something() {
    let it = OnLoTest::new();
    let _tcp = it.net.gateway.tcp_echo(SSH.number);
    let udp = it.net.gateway.udp_echo(DNS.number);
    let count = put(&it);
    assert_eq!(count, 8);
    until("a stranger's packets arrive", || udp.requests() >= 4 && half_open(&it.net) >= 2);
}

#[test]
fn packets_put_onto_lo_reach_no_guarded_port_also_beside_an_admin_who_accepts_lo() {
    for (mode, policy) in
        [(Mode::Guard, None), (Mode::Guard, Some("accept")), (Mode::Mark, Some("drop"))]
    {
        let it = OnLoTest::new();
        if let Some(policy) = policy {
            admin(&it.net, policy);
        }
        let each = services(&[SSH, DNS])
            .into_iter()
            .map(|one| Service { mode, ..one })
            .collect::<Vec<_>>();
        let OnLoTest { net, sources, destinations } = it;
        let guarded = Guarded::within(net, &settings(), &each);
        let it = OnLoTest { net: guarded.net, sources, destinations };
        let count = put(&it);
        let dropped = || {
            let dropped = guarded.nft.dropped().unwrap();
            ["ask/tcp", "ask/udp"].map(|chain| dropped[chain])
        };
        let all = u64::try_from(count).unwrap();
        until("all of them are dropped", || dropped() == [all, all]);
        assert_eq!((guarded.tcp.requests(), guarded.udp.requests(), half_open(&it.net)), (0, 0, 0));
        // What the machine says to itself goes on.
        for to in &it.destinations {
            assert!(echoes(&mut it.net.gateway.connect(ssh(*to), LONG).unwrap(), LONG), "{to}");
            assert!(udp_echoes(&it.net.gateway.udp(dns(*to)), LONG), "{to}");
        }
    }
}

#[test]
fn a_port_that_an_admin_redirects_to_a_guarded_one_needs_a_grant_and_is_cut_with_it() {
    let mut it = Guarded::new();
    it.net
        .gateway
        .sh("nft 'table inet other { chain pre { type nat hook prerouting priority -100; \
           tcp dport 2222 redirect to :22; udp dport 5353 redirect to :53; }; }'");
    for (from, to) in it.pairs() {
        let redirected = SocketAddr::new(to, 2222);
        assert!(!it.net.client.tcp_reaches(redirected, SHORT));
        assert!(!it.net.client.udp_reaches(SocketAddr::new(to, 5353), SHORT));
        it.grant(from, DNS, GrantKind::Time, 60_000);
        assert!(it.net.client.udp_reaches(SocketAddr::new(to, 5353), LONG));
        let element = it.grant(from, SSH, GrantKind::Time, 60_000);
        let mut session = it.net.client.connect(redirected, LONG).expect("granted");
        assert!(echoes(&mut session, LONG) && it.nft.stands(&element));
        it.nft.apply(&[Change::Remove { element }, Change::Cut { element }]).unwrap();
        assert!(!echoes(&mut session, SHORT), "the redirected connection was not cut");
        it.grant(from, SSH, GrantKind::Once, 60_000);
        assert!(it.net.client.tcp_reaches(redirected, LONG));
        assert!(!it.net.client.tcp_reaches(redirected, SHORT), "once is once");
    }
}

#[test]
fn an_address_that_only_another_routing_table_knows_as_local_is_guarded_too() {
    let mut it = Guarded::new();
    it.net.gateway.sh("ip route add local 10.55.0.1 dev lo table 100
         ip rule add fwmark 1 lookup 100
         nft 'table ip other { chain pre { type filter hook prerouting priority -150; \
           ip daddr 10.55.0.1 meta mark set 1; }; }'");
    let (from, _) = it.pairs()[0];
    let hidden: IpAddr = "10.55.0.1".parse().unwrap();
    let open = it.net.gateway.udp_echo(8080);
    // Its answers have another address: only what arrives counts here.
    let ask = |port| {
        let socket = it.net.client.space.inside(|| UdpSocket::bind((from, 0)).unwrap());
        socket.send_to(b"?", SocketAddr::new(hidden, port)).unwrap();
    };
    ask(DNS.number);
    ask(8080);
    until("it is local", || open.requests() == 1);
    assert_eq!(it.udp.requests(), 0);
    assert_eq!(it.dropped().get("ask/udp"), Some(&1));
    it.nft
        .apply(&[Change::Set { element: element(from, DNS, GrantKind::Time), millis: 60_000 }])
        .unwrap();
    ask(DNS.number);
    until("it is granted", || it.udp.requests() == 1);
}

#[test]
fn the_socket_of_receipts_sends_from_the_knock_port_to_others_and_nothing_else() {
    let it = Guarded::new();
    // The guard does not judge what this machine sends to itself by other sockets.
    let sender = it.net.gateway.inside(|| raw::Sender::open().unwrap());
    for (client, own) in it.pairs() {
        let heard = it.net.client.space.inside(|| UdpSocket::bind((client, 7000)).unwrap());
        let to = SocketAddr::new(client, 7000);
        for (port, arrives) in [(KNOCK, true), (53, false), (KNOCK + 1, false)] {
            heard.set_read_timeout(Some(if arrives { LONG } else { SHORT })).unwrap();
            let _ = sender.send(SocketAddr::new(own, port), to, &[0; RECEIPT]);
            assert_eq!(heard.recv(&mut [0; 2048]).is_ok(), arrives, "from {port}");
        }
        for port in [KNOCK, 4711] {
            let _ = sender.send(SocketAddr::new(own, port), dns(own), &[0; RECEIPT]);
        }
    }
    until("what is left is dropped", || it.dropped().get("receipt") == Some(&8));
    assert_eq!(it.udp.requests(), 0, "it reached a guarded port of this machine");
}

#[test]
fn a_server_that_speaks_after_conntrack_forgot_its_flow_makes_no_answers_of_a_strangers_packets() {
    let mut it = Guarded::new();
    for (from, to) in it.pairs() {
        let element = it.grant(from, SSH, GrantKind::Time, 60_000);
        let mut session = it.net.client.connect(ssh(to), LONG).unwrap();
        assert!(echoes(&mut session, LONG));
        // The server's answer does not arrive: it goes on saying it.
        let deaf = "nft 'table inet own { chain in { type filter hook input priority 0; \
             tcp sport 22 drop; }; }'";
        it.net.client.space.sh(deaf);
        assert!(!echoes(&mut session, SHORT));
        it.nft.apply(&[Change::Remove { element }, Change::Cut { element }]).unwrap();
        it.net.gateway.sh("conntrack -F 2>/dev/null");
        it.net.client.space.sh("nft delete table inet own");
        let mut answer = [0; 4];
        session.set_read_timeout(Some(LONG)).unwrap();
        session.read_exact(&mut answer).expect("the server says it again");
        assert!(!echoes(&mut session, SHORT), "the flow lives again");
    }
}

#[test]
fn a_question_put_onto_lo_makes_no_answers_of_a_strangers_packets() {
    let it = Guarded::new();
    // A gateway that forwards, and does not mind its own address as a source from elsewhere.
    it.net.gateway.sh("echo 1 >/proc/sys/net/ipv4/conf/lo/accept_local
         echo 1 >/proc/sys/net/ipv4/ip_forward
         echo 1 >/proc/sys/net/ipv6/conf/all/forwarding");
    let mut lo = OnLo::new(&it.net.gateway);
    for (client, own) in it.pairs() {
        let stranger = it.net.client.space.inside(|| UdpSocket::bind((client, 7000)).unwrap());
        lo.datagram(dns(own), SocketAddr::new(client, 7000), b"?");
        stranger.connect(dns(own)).unwrap();
        assert!(!udp_echoes(&stranger, SHORT), "{own}");
    }
    assert_eq!((it.udp.requests(), it.dropped().get("guard")), (0, Some(&2)));
}

#[test]
fn the_machine_reaches_itself_by_link_local_addresses_and_without_conntrack() {
    let it = Guarded::new();
    it.net.gateway.sh("ip addr add fe80::a/64 dev gw0 nodad");
    let index: u32 = it.net.gateway.sh("ip -o link show gw0 | cut -d: -f1").trim().parse().unwrap();
    let link_local =
        |port| SocketAddr::V6(SocketAddrV6::new("fe80::a".parse().unwrap(), port, 0, index));
    for notrack in [false, true] {
        if notrack {
            it.net.gateway.sh("nft 'table inet admin { \
                 chain out { type filter hook output priority -300; oif lo notrack; }; \
                 chain in { type filter hook prerouting priority -300; iif lo notrack; }; }'");
        }
        let [four, six] = it.net.gateway_ips();
        for to in [ssh(four), ssh(six), link_local(SSH.number)] {
            let reached = it.net.gateway.connect(to, LONG);
            assert!(reached.is_ok_and(|mut one| echoes(&mut one, LONG)), "{to} {notrack}");
        }
        for to in [dns(four), dns(six), link_local(DNS.number)] {
            assert!(udp_echoes(&it.net.gateway.udp(to), LONG), "{to} {notrack}");
        }
    }
}
