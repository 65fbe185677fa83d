//! What a service may consist of: ranges of ports, all ports, grants of nets. How its rules are
//! stored, listed and replaced.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};

use crate::harness::guarded::{Guarded, KNOCK, KeptGuard, settings, start, start_for};
use crate::harness::raw::pings;
use crate::harness::{Host, LONG, Net, SHORT, echoes, udp_echoes, until};
use toctoc::config::{FirewallSettings, native};
use toctoc::core::grants::{Change, Element};
use toctoc::core::prefix::Span;
use toctoc::core::service::{GrantKind, Service};
use toctoc::core::types::{ServiceName, Source};
use toctoc::edge::firewall::{GuardReport, GuardRules, GuardTask, print_ruleset};

/// Every kind of service at once, as an admin writes them.
const ALL_KINDS: [&str; 4] = [
    "[service.ssh]\nports = [\"22/tcp\"]\n\
     [service.mosh]\nports = [\"23/tcp\", \"60000-61000/udp\"]\n\
     [service.rdp]\nports = [\"3389/tcp\"]\nforward = [\"10.9.0.2:3390\", \"[fd09::2]:3390\"]\n\
     [service.once]\nports = [\"2222/tcp\"]\nform = \"once\"\n\
     [service.\"net.work-24\"]\nports = [\"8080/tcp\"]\ngrant_prefix = [24, 56]\n\
     [service.3com]\nports = [\"7000-7100/tcp\"]\nmode = \"mark\"\n",
    "[firewall]\nbreak_glass = [\"192.0.2.1\", \"2001:db8::1\"]\n\
     [service.tcp]\nports = [\"22/tcp\", \"53/udp\"]\n\
     [service.log]\nports = [\"all\", \"!80/tcp\", \"!9000-9010/udp\"]\nmode = \"mark\"\n",
    "[knock]\nsilent = false\n[service.u]\nports = [\"500/udp\"]\n\
     [service.drop]\nports = [\"1/tcp\"]\nform = \"once\"\nforward = \"10.0.0.1:1\"\n\
     [service.masked]\nports = [\"2/udp\"]\nforward = \"10.0.0.1:2\"\nmasquerade = true\n",
    "",
];

fn services(text: &str) -> Vec<Service> {
    native::parse("t", text).unwrap().services
}

fn element(name: &str, source: IpAddr) -> Element {
    Element::plain(ServiceName::new(name).unwrap(), Source::new(source), GrantKind::Time)
}

fn grant(nft: &mut KeptGuard, element: Element) {
    nft.apply(&[Change::Set { element, millis: 60_000 }]).unwrap();
}

#[test]
fn every_guard_that_is_listed_loads_again_as_the_same_guard() {
    let net = Net::new();
    for text in ALL_KINDS {
        let all = native::parse("t", text).unwrap();
        let printed = print_ruleset(&GuardRules::of(&all)).unwrap();
        net.gateway.sh(&format!("nft -f - <<'END'\n{printed}END"));
        let listing = || net.gateway.sh("nft list ruleset");
        let before = listing();
        net.gateway.sh("nft list ruleset >/tmp/listed.$$ && nft flush ruleset && \
                        nft -f /tmp/listed.$$; end=$?; rm /tmp/listed.$$; exit $end");
        assert_eq!(listing(), before, "{text}");
        net.gateway.sh("nft -j list ruleset >/tmp/listed.$$ && nft flush ruleset && \
                        nft -j -f /tmp/listed.$$; end=$?; rm /tmp/listed.$$; exit $end");
        // nft 1.0.6 leaves this flag out of its JSON.
        assert_eq!(listing().replace("dynamic,", ""), before.replace("dynamic,", ""), "{text}");
        net.gateway.sh("nft flush ruleset");
    }
}

#[test]
fn a_reload_removes_what_belonged_to_a_service_that_is_gone_and_keeps_the_others_grants() {
    let net = Net::new();
    let mut nft = start_for(&net, &settings(), &services(ALL_KINDS[0]));
    let [from, _] = net.client.ips();
    for name in ["ssh", "mosh"] {
        grant(&mut nft, element(name, from));
    }
    for text in [ALL_KINDS[1], ALL_KINDS[2], ALL_KINDS[0]] {
        nft.reload(&settings(), &services(text)).unwrap();
        assert!(nft.guard_is_up().unwrap() && nft.take_changes().is_empty());
        let listing = net.gateway.sh("nft list table inet toctoc");
        for service in ["ssh", "once", "tcp", "log", "drop", "masked", "net.work-24"] {
            let named = format!("chain to/{service} {{");
            let expected = services(text).iter().any(|one| one.name.as_str() == service);
            assert_eq!(listing.contains(&named), expected, "{service} of {text}");
        }
    }
    assert_eq!(nft.list().unwrap(), [], "the elements went with their services");
    grant(&mut nft, element("ssh", from));
    let fewer = ALL_KINDS[0].split("[service.rdp]").next().unwrap();
    nft.reload(&settings(), &services(fewer)).unwrap();
    assert_eq!(nft.list().unwrap().len(), 1, "a grant of a service that stays");
    let gone = element("rdp", from);
    nft.apply(&[Change::Remove { element: gone }]).unwrap();
    assert!(nft.apply(&[Change::Set { element: gone, millis: 1000 }]).is_err());
    assert_eq!(nft.list().unwrap().len(), 1);
}

#[test]
fn thousands_of_elements_are_listed_as_they_were_set_with_the_time_that_is_left() {
    let net = Net::new();
    let mut nft = start_for(&net, &settings(), &services(ALL_KINDS[0]));
    // More elements than one answer of the kernel has.
    let source = |n: u32| IpAddr::from(Ipv4Addr::from(0xc633_0000 + n));
    let set: Vec<Element> = (0..5000).map(|n| element("ssh", source(n))).collect();
    let changes: Vec<Change> =
        set.iter().map(|element| Change::Set { element: *element, millis: 60_000 }).collect();
    nft.apply(&changes).unwrap();
    let mut listed = nft.list().unwrap();
    let elements: Vec<Element> = listed.iter().map(|(element, _)| *element).collect();
    assert!(elements == set, "{} are listed, {} were set", elements.len(), set.len());
    until("time passes for all of them", || {
        listed = nft.list().unwrap();
        listed.len() == set.len() && listed.iter().all(|(_, left)| (1..60_000).contains(left))
    });
}

#[test]
fn a_range_of_ports_is_one_grant_and_the_hosts_own_traffic_from_there_goes_on() {
    let net = Net::new();
    let ranges = "[service.mosh]\nports = [\"60000-61000/udp\", \"60000-61000/tcp\"]\n";
    let mut nft = start_for(&net, &settings(), &services(ranges));
    let _inside = [60_000, 60_500, 61_000].map(|port| net.gateway.tcp_echo(port));
    let _inside_udp = [60_000, 61_000].map(|port| net.gateway.udp_echo(port));
    let _outside = [59_999, 61_001].map(|port| net.gateway.tcp_echo(port));
    let _served = net.client.space.tcp_echo(80);
    let _served_udp = net.client.space.udp_echo(53);
    for (own_port, (from, to)) in
        (60_700..).zip(net.client.ips().into_iter().zip(net.gateway_ips()))
    {
        let at = |port| SocketAddr::new(to, port);
        for open in [59_999, 61_001] {
            assert!(net.client.tcp_reaches(at(open), LONG), "{open} is not guarded");
        }
        for shut in [60_000, 60_500, 61_000] {
            assert!(!net.client.tcp_reaches(at(shut), SHORT), "{shut}");
        }
        assert!(!net.client.udp_reaches(at(61_000), SHORT));
        // What this machine asks from such a port is answered.
        let bound = |to: SocketAddr, port| {
            net.gateway.inside(|| {
                let socket = socket2::Socket::new(
                    socket2::Domain::for_address(to),
                    socket2::Type::STREAM,
                    None,
                )
                .unwrap();
                let any: SocketAddr = SocketAddr::new(
                    if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() },
                    port,
                );
                socket.bind(&any.into()).unwrap();
                socket.connect_timeout(&to.into(), LONG).unwrap();
                TcpStream::from(socket)
            })
        };
        assert!(echoes(&mut bound(SocketAddr::new(from, 80), own_port), LONG));
        let asking = net.gateway.inside(|| UdpSocket::bind((to, own_port)).unwrap());
        asking.connect((from, 53)).unwrap();
        assert!(udp_echoes(&asking, LONG));
        grant(&mut nft, element("mosh", from));
        for open in [60_000, 60_500, 61_000] {
            assert!(net.client.tcp_reaches(at(open), LONG), "{open}");
        }
        assert!(
            net.client.udp_reaches(at(60_000), LONG) && net.client.udp_reaches(at(61_000), LONG)
        );
        assert_eq!(nft.list().unwrap().len(), if from.is_ipv4() { 1 } else { 2 });
    }
}

#[test]
fn a_service_of_all_ports_shuts_the_host_but_for_its_exceptions_and_opens_it_by_one_grant() {
    let net = Net::new();
    let whole = "[service.ssh]\nports = [\"22/tcp\"]\n\
                 [service.whole]\nports = [\"all\", \"!8080/tcp\"]\n";
    let mut nft = start_for(&net, &settings(), &services(whole));
    let _tcp = [22, 9999, 8080].map(|port| net.gateway.tcp_echo(port));
    let _udp = [53, 8080].map(|port| net.gateway.udp_echo(port));
    let _served = net.client.space.tcp_echo(80);
    let stranger = net.host(7);
    for (index, (from, to)) in net.client.ips().into_iter().zip(net.gateway_ips()).enumerate() {
        let at = |port| SocketAddr::new(to, port);
        assert!(net.client.tcp_reaches(at(8080), LONG), "an exception");
        assert!(!net.client.tcp_reaches(at(9999), SHORT) && !net.client.tcp_reaches(at(22), SHORT));
        assert!(!net.client.udp_reaches(at(53), SHORT) && !net.client.udp_reaches(at(8080), SHORT));
        assert!(pings(&net.client.space, to, LONG));
        let out = net.gateway.connect(SocketAddr::new(from, 80), LONG);
        assert!(echoes(&mut out.expect("the host's own connection"), LONG));
        grant(&mut nft, element("ssh", from));
        assert!(net.client.tcp_reaches(at(22), LONG));
        assert!(!net.client.tcp_reaches(at(9999), SHORT), "ssh is only ssh");
        let all = element("whole", from);
        grant(&mut nft, all);
        assert!(net.client.tcp_reaches(at(9999), LONG) && net.client.udp_reaches(at(53), LONG));
        nft.apply(&[Change::Remove { element: element("ssh", from) }]).unwrap();
        assert!(net.client.tcp_reaches(at(22), LONG), "all ports are all");
        let strangers = SocketAddr::new(stranger.gateway_ips()[index], 9999);
        assert!(!stranger.tcp_reaches(strangers, SHORT));
        nft.apply(&[Change::Remove { element: all }]).unwrap();
        // The knock port stays silent under any grant.
        let socket = net.client.space.udp(at(KNOCK));
        socket.set_read_timeout(Some(SHORT)).unwrap();
        socket.send(b"anybody?").unwrap();
        assert_eq!(socket.recv(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}

#[test]
fn a_grant_of_a_net_opens_to_its_neighbours_and_to_nobody_beyond() {
    let net = Net::new();
    let text = "[service.net]\nports = [\"22/tcp\"]\ngrant_prefix = [24, 56]\n";
    let mut nft = start_for(&net, &settings(), &services(text));
    let _tcp = net.gateway.tcp_echo(22);
    let stranger = net.host(7);
    net.client.space.sh("ip addr add 10.90.0.77/24 dev eth0
         ip addr add fd90:0:0:ab::77/128 dev eth0 nodad");
    net.gateway.sh("ip route add fd90:0:0:ab::77 via fd90::2");
    let [client4, client6] = net.client.ips();
    let neighbours: [IpAddr; 2] = ["10.90.0.77", "fd90:0:0:ab::77"].map(|ip| ip.parse().unwrap());
    for (index, (from, to)) in [client4, client6].into_iter().zip(net.gateway_ips()).enumerate() {
        let from_neighbour =
            || reaches_from(&net.client, neighbours[index], SocketAddr::new(to, 22));
        assert!(!net.client.tcp_reaches(SocketAddr::new(to, 22), SHORT) && !from_neighbour());
        let span = Span::of_prefix([24, 56][index], to.is_ipv6()).unwrap();
        let source = span.of(Source::new(from));
        grant(&mut nft, Element { source, span, ..element("net", from) });
        assert!(net.client.tcp_reaches(SocketAddr::new(to, 22), LONG) && from_neighbour());
        let strangers = SocketAddr::new(stranger.gateway_ips()[index], 22);
        assert!(!stranger.tcp_reaches(strangers, SHORT));
        assert_eq!(nft.list().unwrap().len(), index + 1);
    }
    let elements = net.gateway.sh("nft list set inet toctoc v4n24/net");
    assert!(elements.contains("10.90.0.0 timeout 1m"), "{elements}");
}

/// True if a connection from this address of the host works.
fn reaches_from(host: &Host, from: IpAddr, to: SocketAddr) -> bool {
    let stream = host.space.inside(|| {
        let domain = socket2::Domain::for_address(to);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
        socket.connect_timeout(&to.into(), SHORT).map(|()| TcpStream::from(socket))
    });
    stream.is_ok_and(|mut stream| echoes(&mut stream, LONG))
}

#[test]
fn a_table_of_somebody_else_is_refused_and_left_as_it_is() {
    let net = Net::new();
    for foreign in [
        "add chain inet toctoc input { type filter hook input priority 0; }",
        "add chain inet toctoc guard { type filter hook input priority -175; }",
        "add set inet toctoc s { type ipv4_addr; }",
        "add counter inet toctoc c",
    ] {
        net.gateway.sh(&format!("nft 'add table inet toctoc; {foreign}'"));
        let before = net.gateway.sh("nft list ruleset");
        let rules = crate::harness::guarded::rules(&settings(), &services(ALL_KINDS[0]));
        let fault = net.gateway.inside(|| toctoc::edge::firewall::start(&rules).err());
        let fault = fault.expect("refused");
        assert!(fault.what.contains("is not a guard of toctoc"), "{fault}");
        assert!(fault.remedy.contains("nft delete table inet toctoc"), "{fault}");
        let off = || toctoc::edge::firewall::unload(&rules);
        assert!(net.gateway.inside(off).is_err());
        assert_eq!(net.gateway.sh("nft list ruleset"), before, "{foreign}");
        net.gateway.sh("nft delete table inet toctoc");
    }
    net.gateway.sh("nft add table inet toctoc");
    drop(start_for(&net, &settings(), &services(ALL_KINDS[0])));
    drop(start_for(&net, &settings(), &services(ALL_KINDS[1])));
}

#[test]
fn a_guard_that_no_gateway_keeps_is_found_and_one_that_is_kept_is_not() {
    let net = Net::new();
    let other = FirewallSettings { table: "old".to_owned(), ..settings() };
    let kept = start(&net, &other);
    let it = Guarded::within(net, &settings(), &services("[service.ssh]\nports = [\"22/tcp\"]\n"));
    it.net
        .gateway
        .sh("nft 'table inet mine { chain guard { type filter hook input priority 0; }; }'");
    let others = || match it.nft.run(GuardTask::Check) {
        Ok(GuardReport::Checked { others, .. }) => others,
        found => panic!("{found:?}"),
    };
    assert_eq!((others(), it.nft.seen().unwrap().others), (vec![], vec![]));
    drop(kept);
    assert_eq!((others(), it.nft.seen().unwrap().others), (vec!["old".into()], vec!["old".into()]));
}
