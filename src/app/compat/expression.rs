//! The filter as `knockd -D` prints it, in libpcap's language, and libpcap's objections to it. This
//! text is never compiled. See `edge::bpf` for the filter that the kernel runs.

use std::net::IpAddr;

use crate::core::address::as_text;
use crate::core::door::{Door, Step, TcpFlags};
use crate::core::types::Proto;
use crate::edge::names;

/// One line for each address family and door, IPv4 first.
pub(super) fn lines(doors: &[Door], addresses: &[IpAddr]) -> Vec<String> {
    let (v4, v6): (Vec<_>, Vec<_>) = addresses.iter().rev().partition(|address| address.is_ipv4());
    let mut lines = Vec::new();
    for addresses in [v4, v6] {
        if addresses.is_empty() {
            continue;
        }
        for door in doors {
            lines.push(format!(
                "adding pcap expression for door '{}': {}",
                door.name,
                expression(door, &addresses)
            ));
        }
    }
    lines
}

/// The filter of one door, for addresses of one family.
fn expression(door: &Door, addresses: &[&IpAddr]) -> String {
    let mut hosts = Vec::new();
    let mut v6 = false;
    for address in addresses {
        v6 = address.is_ipv6();
        let host = door.target.clone().unwrap_or_else(|| as_text(**address));
        hosts.push(format!("dst host {host}"));
    }
    let mut terms = Vec::new();
    if let Some(ports) = ports(door, Proto::Tcp) {
        terms.push(format!("({ports}{})", flags(door.flags, v6)));
    }
    terms.extend(ports(door, Proto::Udp));
    format!("(({}) and ({}))", hosts.join(" or "), terms.join(" or "))
}

fn ports(door: &Door, wanted: Proto) -> Option<String> {
    let mut numbers = Vec::new();
    for step in &door.sequence {
        if let Step::Port(port) = step
            && port.proto == wanted
        {
            numbers.push(port.number.to_string());
        }
    }
    if numbers.is_empty() {
        return None;
    }
    Some(format!("({} dst port {})", wanted.name(), numbers.join(" or ")))
}

fn flags(flags: TcpFlags, v6: bool) -> String {
    const NAMES: [&str; 6] = ["fin", "syn", "rst", "push", "ack", "urg"];
    let byte = if v6 { "ip6[13+40]" } else { "tcp[tcpflags]" };
    let mut text = String::new();
    for (bit, name) in NAMES.iter().enumerate() {
        let mask = 1 << bit;
        if flags.set & mask != 0 {
            text += &format!(" and {byte} & tcp-{name} != 0");
        } else if flags.unset & mask != 0 {
            text += &format!(" and {byte} & tcp-{name} == 0");
        }
    }
    text
}

/// libpcap's objection to the first `Target` that it cannot make a filter of: a prefix length, a
/// number that is no octet, neither an address nor a name, or a name that does not resolve.
///
/// COMPAT: a name that does resolve, or an odd spelling of an address, is taken and then never
/// matches.
pub(super) fn refusal(doors: &[Door]) -> Option<String> {
    for door in doors {
        if let Some(target) = &door.target
            && let Some(refusal) = target_refusal(target)
        {
            return Some(refusal);
        }
    }
    None
}

fn target_refusal(target: &str) -> Option<String> {
    if target.parse::<IpAddr>().is_ok() {
        return None;
    }
    if let Some((address, _)) = target.split_once('/')
        && address.parse::<IpAddr>().is_ok()
    {
        return Some("Mask syntax for networks only".into());
    }
    let is_word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if target.is_empty() || !target.bytes().all(is_word) {
        return Some("can't parse filter expression: syntax error".into());
    }
    let octets: Vec<&str> = target.split('.').collect();
    if octets.len() == 4 && target.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return match octets.iter().all(|octet| octet.parse::<u8>().is_ok()) {
            true => None,
            false => Some(format!("invalid IPv4 address '{target}'")),
        };
    }
    match names::resolve(target, "0", Some(Proto::Udp), None) {
        Ok(_) => None,
        Err(_) => Some(format!("unknown host '{target}'")),
    }
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
