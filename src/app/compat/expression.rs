//! The filter as `knockd -D` prints it, in libpcap's language, and what libpcap would say against
//! it. The filter that the kernel runs is left to `edge::bpf`; this text is never compiled.

use std::net::IpAddr;

use crate::core::address::as_text;
use crate::core::door::{Door, Step, TcpFlags};
use crate::core::types::{Port, Proto};
use crate::edge::names;

/// One line a door and address family, IPv4 first.
pub(super) fn lines(doors: &[Door], addresses: &[IpAddr]) -> Vec<String> {
    let (v4, v6): (Vec<_>, Vec<_>) = addresses.iter().rev().partition(|address| address.is_ipv4());
    let mut lines = Vec::new();
    for (addresses, six) in [(v4, false), (v6, true)] {
        if addresses.is_empty() {
            continue;
        }
        lines.extend(doors.iter().map(|door| {
            format!(
                "adding pcap expression for door '{}': {}",
                door.name,
                expression(door, &addresses, six)
            )
        }));
    }
    lines
}

fn expression(door: &Door, addresses: &[&IpAddr], six: bool) -> String {
    let hosts: Vec<_> = addresses
        .iter()
        .map(|address| {
            format!("dst host {}", door.target.clone().unwrap_or_else(|| as_text(**address)))
        })
        .collect();
    let ports = |wanted: Proto| {
        let numbers = door.sequence.iter().filter_map(|step| match step {
            Step::Port(Port { proto, number }) if *proto == wanted => Some(number.to_string()),
            _ => None,
        });
        let numbers: Vec<_> = numbers.collect();
        (!numbers.is_empty())
            .then(|| format!("({} dst port {})", wanted.name(), numbers.join(" or ")))
    };
    let tcp = ports(Proto::Tcp).map(|ports| format!("({ports}{})", flags(door.flags, six)));
    let both: Vec<_> = tcp.into_iter().chain(ports(Proto::Udp)).collect();
    format!("(({}) and ({}))", hosts.join(" or "), both.join(" or "))
}

fn flags(flags: TcpFlags, six: bool) -> String {
    const NAMES: [&str; 6] = ["fin", "syn", "rst", "push", "ack", "urg"];
    let byte = if six { "ip6[13+40]" } else { "tcp[tcpflags]" };
    let term = |(bit, name): (usize, &&str)| {
        let asked = |mask: u8| mask >> bit & 1 == 1;
        let wanted = asked(flags.set).then_some("!=").or(asked(flags.unset).then_some("=="))?;
        Some(format!(" and {byte} & tcp-{name} {wanted} 0"))
    };
    NAMES.iter().enumerate().filter_map(term).collect()
}

/// What libpcap says of a `Target` that it cannot make a filter of: a prefix length, a number that
/// is no octet, what is neither an address nor a name, or a name that does not resolve.
///
/// COMPAT: a name that does resolve, or an odd spelling of an address, is taken and then never
/// matches.
pub(super) fn refusal(doors: &[Door]) -> Option<String> {
    doors.iter().filter_map(|door| door.target.as_deref()).find_map(refused)
}

fn refused(target: &str) -> Option<String> {
    const SYNTAX: &str = "can't parse filter expression: syntax error";
    let only = |allowed: fn(u8) -> bool| !target.is_empty() && target.bytes().all(allowed);
    if target.parse::<IpAddr>().is_ok() {
        return None;
    }
    if target.split_once('/').is_some_and(|(address, _)| address.parse::<IpAddr>().is_ok()) {
        return Some("Mask syntax for networks only".into());
    }
    if !only(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
        return Some(SYNTAX.into());
    }
    if target.split('.').count() == 4 && only(|b| b.is_ascii_digit() || b == b'.') {
        let octets = target.split('.').all(|octet| octet.parse::<u8>().is_ok());
        return (!octets).then(|| format!("invalid IPv4 address '{target}'"));
    }
    names::resolve(target, "0", Some(Proto::Udp), None)
        .err()
        .map(|_| format!("unknown host '{target}'"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::knockd::sequence;

    fn door(ports: &str, flags: TcpFlags) -> Door {
        Door { name: "d".into(), sequence: sequence(ports, "d").unwrap(), flags, ..Door::default() }
    }

    fn shown(door: Door) -> Vec<String> {
        let addresses = ["10.77.0.1", "fd77::1", "fe80::1"].map(|address| address.parse().unwrap());
        let lines = lines(&[door], &addresses);
        lines
            .iter()
            .map(|line| line.strip_prefix("adding pcap expression for door 'd': ").unwrap().into())
            .collect()
    }

    #[test]
    fn the_text_is_knockds_for_both_families() {
        let flags = TcpFlags { set: 2, unset: 16 };
        assert_eq!(
            shown(door("1,2:udp,3", flags)),
            [
                "((dst host 10.77.0.1) and (((tcp dst port 1 or 3) and tcp[tcpflags] & tcp-syn != 0 and \
             tcp[tcpflags] & tcp-ack == 0) or (udp dst port 2)))",
                "((dst host fe80::1 or dst host fd77::1) and (((tcp dst port 1 or 3) and ip6[13+40] & tcp-syn != 0 and \
             ip6[13+40] & tcp-ack == 0) or (udp dst port 2)))",
            ]
        );
        let mut aimed = door("7001", TcpFlags::default());
        aimed.target = Some("10.0.0.9".into());
        assert_eq!(
            shown(aimed),
            [
                "((dst host 10.0.0.9) and (((tcp dst port 7001))))",
                "((dst host 10.0.0.9 or dst host 10.0.0.9) and (((tcp dst port 7001))))",
            ]
        );
        assert_eq!(
            shown(door("5:udp", TcpFlags::default()))[0],
            "((dst host 10.77.0.1) and ((udp dst port 5)))"
        );
    }

    #[test]
    fn targets_that_make_no_filter_are_named() {
        let aimed =
            |target: &str| Door { target: Some(target.into()), ..door("1", TcpFlags::default()) };
        for fine in ["10.0.0.5", "10.0.0.05", "2001:DB8::1", "224.0.0.1"] {
            assert_eq!(refusal(&[aimed(fine)]), None, "{fine}");
        }
        for (target, said) in [
            ("10.0.0.0/24", "Mask syntax for networks only"),
            ("fd00::/8", "Mask syntax for networks only"),
            ("10.0.0.256", "invalid IPv4 address '10.0.0.256'"),
            ("", "can't parse filter expression: syntax error"),
            ("fe80::1%eth0", "can't parse filter expression: syntax error"),
            ("10.0.0.1,10.0.0.2", "can't parse filter expression: syntax error"),
        ] {
            assert_eq!(refusal(&[aimed("10.0.0.5"), aimed(target)]).as_deref(), Some(said));
        }
    }
}
