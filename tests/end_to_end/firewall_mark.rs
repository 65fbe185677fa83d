//! Mark mode: our table marks granted packets, and an admin's own default-drop firewall lets marked
//! packets in. See `firewall` for guard mode.

use std::io::{Read, Write};
use std::net::SocketAddr;

use crate::harness::guarded::{DNS, Guarded, SSH, dns, services, settings, ssh};
use crate::harness::raw::{Raw, SYN};
use crate::harness::{LONG, Net, SHORT, echoes, udp_echoes, until};
use toctoc::config::FirewallSettings;
use toctoc::core::grants::Change;
use toctoc::core::service::{GrantKind, Mode, Service};
use toctoc::core::types::{Port, Proto};
use toctoc::edge::firewall::advice;

/// The port of another service, in guard mode.
const RDP: Port = Port { proto: Proto::Tcp, number: 3389 };

fn marked(ports: &[Port]) -> Vec<Service> {
    services(ports).into_iter().map(|service| Service { mode: Mode::Mark, ..service }).collect()
}

/// Loads an nftables firewall as distributions have it, with the one rule that we require.
fn nft_firewall(net: &Net, settings: &FirewallSettings) {
    let rule = advice::let_marked_in(settings);
    net.gateway.sh(&format!(
        "nft 'table inet admin {{ chain input {{ type filter hook input priority 0; policy drop; \
           iif lo accept; ct state established,related accept; meta l4proto {{ icmp, ipv6-icmp }} accept; {rule}; }}; }}'"
    ));
}

/// Loads the same firewall with iptables.
fn iptables_firewall(net: &Net, settings: &FirewallSettings) {
    let rule = advice::let_marked_in_by_iptables(settings);
    for program in ["iptables", "ip6tables"] {
        let rule = rule.replace("iptables", program);
        net.gateway.sh(&format!(
            "{program} -P INPUT DROP && {program} -A INPUT -i lo -j ACCEPT && \
             {program} -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT && {rule}"
        ));
    }
    net.gateway.sh("ip6tables -A INPUT -p ipv6-icmp -j ACCEPT");
}

#[test]
fn a_default_drop_firewall_lets_in_what_is_granted_and_nothing_else() {
    for firewall in [nft_firewall, iptables_firewall] {
        let net = Net::new();
        firewall(&net, &settings());
        let mut it = Guarded::within(net, &settings(), &marked(&[SSH, DNS]));
        let stranger = it.net.host(1);
        for (index, (from, to)) in it.pairs().into_iter().enumerate() {
            assert!(
                !it.net.client.tcp_reaches(ssh(to), SHORT)
                    && !it.net.client.udp_reaches(dns(to), SHORT)
            );
            let grants = [SSH, DNS].map(|port| it.grant(from, port, GrantKind::Time, 60_000));
            let mut session = it.net.client.connect(ssh(to), LONG).unwrap();
            let datagrams = it.net.client.space.udp(dns(to));
            assert!(echoes(&mut session, LONG) && udp_echoes(&datagrams, LONG));
            let to_stranger = stranger.gateway_ips()[index];
            assert!(
                !stranger.tcp_reaches(ssh(to_stranger), SHORT)
                    && !stranger.udp_reaches(dns(to_stranger), SHORT)
            );
            it.nft.apply(&grants.map(|element| Change::Remove { element })).unwrap();
            assert!(!it.net.client.tcp_reaches(ssh(to), SHORT));
            assert!(
                echoes(&mut session, LONG) && udp_echoes(&datagrams, LONG),
                "an established flow was cut"
            );
        }
    }
}

#[test]
fn our_table_drops_nothing_that_it_did_not_mark() {
    let it = Guarded::within(Net::new(), &settings(), &marked(&[SSH, DNS]));
    for (_, to) in it.pairs() {
        assert!(
            it.net.client.tcp_reaches(ssh(to), LONG) && it.net.client.udp_reaches(dns(to), LONG)
        );
    }
}

#[test]
fn without_our_table_new_connections_are_dropped_and_established_ones_continue() {
    let net = Net::new();
    nft_firewall(&net, &settings());
    let mut it = Guarded::within(net, &settings(), &marked(&[SSH, DNS]));
    for (from, _) in it.pairs() {
        it.grant(from, SSH, GrantKind::Time, 60_000);
    }
    let mut sessions = it.net.gateway_ips().map(|to| it.net.client.connect(ssh(to), LONG).unwrap());
    it.net.gateway.sh("nft delete table inet toctoc");
    for (to, session) in it.net.gateway_ips().into_iter().zip(&mut sessions) {
        assert!(!it.net.client.tcp_reaches(ssh(to), SHORT));
        assert!(echoes(session, LONG));
    }
}

#[test]
fn a_one_connection_grant_admits_one_although_the_admin_accepts_established_traffic() {
    let net = Net::new();
    nft_firewall(&net, &settings());
    let mut it = Guarded::within(net, &settings(), &marked(&[SSH, DNS]));
    for (round, (from, to)) in it.pairs().into_iter().enumerate() {
        it.grant(from, SSH, GrantKind::Once, 60_000);
        assert_eq!(it.winners(to, round), 1);
        assert!(!it.net.client.tcp_reaches(ssh(to), SHORT), "a later connection was accepted");
        assert_eq!(it.tcp.requests(), round + 1);
    }
}

#[test]
fn a_new_syn_on_a_granted_flow_is_dropped_because_its_mark_would_pass() {
    let net = Net::new();
    nft_firewall(&net, &settings());
    let mut it = Guarded::within(net, &settings(), &marked(&[SSH, DNS]));
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
fn break_glass_addresses_pass_the_admins_firewall_too() {
    let settings = FirewallSettings {
        break_glass: vec!["10.90.0.2".parse().unwrap(), "fd90::2".parse().unwrap()],
        ..settings()
    };
    let net = Net::new();
    nft_firewall(&net, &settings);
    let it = Guarded::within(net, &settings, &marked(&[SSH, DNS]));
    let stranger = it.net.host(1);
    for (to, to_stranger) in it.net.gateway_ips().into_iter().zip(stranger.gateway_ips()) {
        assert!(
            it.net.client.tcp_reaches(ssh(to), LONG) && it.net.client.udp_reaches(dns(to), LONG)
        );
        assert!(!stranger.tcp_reaches(ssh(to_stranger), SHORT));
    }
}

#[test]
fn the_marks_can_be_other_bits_and_another_service_can_be_guarded() {
    let settings = FirewallSettings { mark: 0x4, pending_mark: 0x400, ..settings() };
    let net = Net::new();
    nft_firewall(&net, &settings);
    net.gateway.sh("nft add rule inet admin input tcp dport 3389 accept");
    let _rdp = net.gateway.tcp_echo(RDP.number);
    let both: Vec<Service> = marked(&[SSH, DNS]).into_iter().chain(services(&[RDP])).collect();
    let mut it = Guarded::within(net, &settings, &both);
    for (from, to) in it.pairs() {
        let rdp = SocketAddr::new(to, RDP.number);
        assert!(
            !it.net.client.tcp_reaches(ssh(to), SHORT) && !it.net.client.tcp_reaches(rdp, SHORT)
        );
        it.grant(from, SSH, GrantKind::Time, 60_000);
        it.grant(from, RDP, GrantKind::Once, 60_000);
        assert!(it.net.client.tcp_reaches(ssh(to), LONG) && it.net.client.tcp_reaches(rdp, LONG));
        assert!(!it.net.client.tcp_reaches(rdp, SHORT));
    }
    assert!(it.net.gateway.sh("conntrack -L 2>&1").contains("mark=4 "));
}

#[test]
fn a_cut_connection_stays_cut_although_its_server_goes_on_sending() {
    let net = Net::new();
    nft_firewall(&net, &settings());
    let mut it = Guarded::within(net, &settings(), &marked(&[RDP]));
    let server = it.net.gateway.inside(|| std::net::TcpListener::bind(("::", RDP.number))).unwrap();
    for (from, to) in it.pairs() {
        let element = it.grant(from, RDP, GrantKind::Time, 60_000);
        let mut client = it.net.client.connect(SocketAddr::new(to, RDP.number), LONG).unwrap();
        let (mut served, _) = server.accept().unwrap();
        let mut byte = [0];
        client.write_all(b"a").unwrap();
        served.set_read_timeout(Some(LONG)).unwrap();
        served.read_exact(&mut byte).unwrap();
        it.nft.apply(&[Change::Remove { element }, Change::Cut { element }]).unwrap();
        assert!(!it.nft.stands(&element));
        // If this made a conntrack entry, it would be the server's own, and the answers to it would
        // be "established" for the admin's firewall.
        served.write_all(b"b").unwrap();
        client.set_read_timeout(Some(LONG)).unwrap();
        client.read_exact(&mut byte).unwrap();
        client.write_all(b"c").unwrap();
        served.set_read_timeout(Some(2 * SHORT)).unwrap();
        assert!(served.read_exact(&mut byte).is_err(), "a byte of the cut connection got through");
    }
}
