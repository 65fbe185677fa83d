//! Connections that are older than the guard are adopted once, by command, and no others are.

use crate::harness::guarded::{DNS, Guarded, SSH, rules, services, settings, ssh};
use crate::harness::{LONG, SHORT, echoes};
use toctoc::core::grants::Change;
use toctoc::core::service::GrantKind;
use toctoc::edge::firewall::Connection;

/// A gateway whose sessions are older than its guard. With `tracked`, conntrack knew them.
fn with_older_sessions(tracked: bool) -> (Guarded, Vec<std::net::TcpStream>) {
    Guarded::after(tracked, |net| {
        let connect = |ip| net.client.connect(ssh(ip), LONG).unwrap();
        let mut sessions: Vec<_> = net.gateway_ips().map(connect).into();
        assert!(sessions.iter_mut().all(|session| echoes(session, LONG)));
        sessions
    })
}

fn adopt(it: &Guarded) -> Vec<Connection> {
    let own: Vec<_> = it.net.gateway_ips().into();
    it.net
        .gateway
        .inside(|| toctoc::edge::firewall::adopt(&rules(&settings(), &services(&[SSH, DNS])), &own))
        .unwrap()
}

#[test]
fn older_sessions_are_adopted_once_by_command_whether_or_not_conntrack_knew_them() {
    for tracked in [false, true] {
        let (it, mut sessions) = with_older_sessions(tracked);
        assert!(
            sessions.iter_mut().all(|session| !echoes(session, SHORT)),
            "a session passes before it is adopted"
        );
        let adopted = adopt(&it);
        let ends: Vec<_> = sessions
            .iter()
            .map(|session| (session.local_addr().unwrap(), session.peer_addr().unwrap()))
            .collect();
        assert_eq!(
            adopted.iter().map(|one| (one.from, one.to)).collect::<Vec<_>>(),
            ends,
            "tracked: {tracked}"
        );
        assert!(sessions.iter_mut().all(|session| echoes(session, LONG)), "tracked: {tracked}");
        for ip in it.net.gateway_ips() {
            assert!(!it.net.client.tcp_reaches(ssh(ip), SHORT), "a new connection was accepted");
        }
        assert!(adopt(&it).is_empty(), "a session was adopted twice");
    }
}

#[test]
fn connections_that_were_cut_or_lead_elsewhere_are_not_adopted() {
    let (mut it, mut sessions) = with_older_sessions(true);
    adopt(&it);
    let elements = it.pairs().map(|(from, _)| it.grant(from, SSH, GrantKind::Time, 60_000));
    it.nft.apply(&elements.map(|element| Change::Remove { element })).unwrap();
    it.nft.apply(&elements.map(|element| Change::Cut { element })).unwrap();
    assert!(sessions.iter_mut().all(|session| !echoes(session, SHORT)));
    assert!(adopt(&it).is_empty(), "a cut connection was adopted");
    // A connection from the gateway to the same port of another host.
    let _other = it.net.client.space.tcp_echo(SSH.number);
    let mut out = it.net.gateway.connect(ssh(it.net.client.ips()[0]), LONG).unwrap();
    assert!(echoes(&mut out, LONG) && adopt(&it).is_empty());
    // One that the gateway only passes on, and one of its own to itself.
    let inner = it.net.host(1);
    let _inner = inner.space.tcp_echo(SSH.number);
    it.net.gateway.sh("echo 1 >/proc/sys/net/ipv4/ip_forward");
    let mut through = it.net.client.connect(ssh(inner.ips()[0]), LONG).unwrap();
    let mut own = it.net.gateway.connect(ssh(it.net.gateway_ips()[0]), LONG).unwrap();
    assert!(echoes(&mut through, LONG) && echoes(&mut own, LONG));
    assert_eq!(adopt(&it), []);
}
