//! The interface that knockd listens on: opening it, its addresses, and messages about it.

use std::net::IpAddr;

use super::KnockdOptions;
use crate::app::compat::expression;
use crate::config::knockd::KnockdConf;
use crate::core::address::as_text;
use crate::core::door::Door;
use crate::core::sequence::Ipv6;
use crate::edge::classic_log::print_line;
use crate::edge::link::{self, Link, LinkError, LinkKind};

/// Looks at the interface, and whether we may capture there: the listener opens the socket.
pub(super) fn open(interface: &str) -> Result<Link, String> {
    let link = match link::inspect(interface) {
        Ok(link) => link,
        Err(LinkError::Missing) => {
            return Err(format!(
                "could not open {interface}: {interface}: No such device exists (No such device exists)"
            ));
        }
        Err(LinkError::Down) => {
            return Err(format!("could not open {interface}: That device is not up"));
        }
    };
    if !matches!(link.kind, LinkKind::Other(_)) && !may_capture() {
        return Err(format!(
            "could not open {interface}: You don't have permission to perform this capture on that device \
             (socket: Operation not permitted)"
        ));
    }
    Ok(link)
}

fn may_capture() -> bool {
    match capctl::CapState::get_current() {
        Ok(caps) => caps.effective.has(capctl::Cap::NET_RAW),
        Err(_) => false,
    }
}

/// Finds errors that need the open interface.
pub(super) fn check(options: &KnockdOptions, conf: &KnockdConf, link: &Link) -> Result<(), String> {
    if let LinkKind::Other(number) = link.kind {
        return Err(format!("error: unsupported link-layer type: {number}"));
    }
    if options.debug {
        print_line(match link.kind {
            LinkKind::Ethernet => "ethernet interface detected",
            LinkKind::Cooked => "ppp interface detected (linux \"cooked\" encapsulation)",
            LinkKind::Raw | LinkKind::Other(_) => "raw interface detected, no encapsulation",
        });
        for address in addresses(options, link) {
            print_line(&format!("local IP: {}", as_text(address)));
        }
    }
    trace_filter(options, &conf.doors, addresses(options, link));
    filter(options, &conf.doors, link)
}

/// Checks if libpcap could make a filter for `doors`. An interface without addresses has none.
pub(super) fn filter(options: &KnockdOptions, doors: &[Door], link: &Link) -> Result<(), String> {
    if addresses(options, link).next().is_some()
        && let Some(text) = expression::refusal(doors)
    {
        return Err(format!("pcap_compile: {text}"));
    }
    Ok(())
}

/// Prints the filter for `doors` at these addresses, if `-D` is given.
pub(super) fn trace_filter(
    options: &KnockdOptions, doors: &[Door], addresses: impl Iterator<Item = IpAddr>,
) {
    if !options.debug {
        return;
    }
    for line in expression::lines(doors, &addresses.collect::<Vec<_>>()) {
        print_line(&line);
    }
}

/// The handling of IPv6 at the doors, and our own addresses there.
///
/// COMPAT: knockd knows IPv6 on Ethernet only, and reports every such packet elsewhere.
pub(super) fn doors_of<'a>(
    options: &KnockdOptions, link: &'a Link,
) -> (Ipv6, impl Iterator<Item = IpAddr> + use<'a>) {
    let ipv6 = match (options.only_ipv4, link.kind) {
        (true, _) => Ipv6::Ignored,
        (false, LinkKind::Ethernet) => Ipv6::Counts,
        (false, _) => Ipv6::Refused,
    };
    (ipv6, addresses(options, link))
}

pub(super) fn addresses<'a>(
    options: &KnockdOptions, link: &'a Link,
) -> impl Iterator<Item = IpAddr> + use<'a> {
    let only_ipv4 = options.only_ipv4;
    link.addresses.iter().copied().filter(move |address| address.is_ipv4() || !only_ipv4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(kind: LinkKind) -> Link {
        let addresses = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap());
        Link { kind, index: 7, addresses: addresses.into() }
    }

    fn options(only_ipv4: bool) -> KnockdOptions {
        KnockdOptions { only_ipv4, ..KnockdOptions::default() }
    }

    #[test]
    fn ipv6_counts_on_ethernet_only_and_never_with_dash_4() {
        let handling = |only_ipv4, kind| {
            let link = link(kind);
            let (ipv6, own) = doors_of(&options(only_ipv4), &link);
            (ipv6, own.count())
        };
        assert_eq!(handling(false, LinkKind::Ethernet), (Ipv6::Counts, 2));
        assert_eq!(handling(false, LinkKind::Raw), (Ipv6::Refused, 2));
        assert_eq!(handling(true, LinkKind::Ethernet), (Ipv6::Ignored, 1));
    }

    #[test]
    fn an_unknown_link_layer_is_refused_with_its_number() {
        let link = link(LinkKind::Other(519));
        let conf = KnockdConf::default();
        let refused = check(&options(false), &conf, &link);
        assert_eq!(refused, Err("error: unsupported link-layer type: 519".into()));
    }

    #[test]
    fn a_target_that_makes_no_filter_matters_only_on_an_interface_with_addresses() {
        let door = Door { target: Some("10.0.0.256".into()), ..Door::default() };
        let doors = std::slice::from_ref(&door);
        let refused = filter(&options(false), doors, &link(LinkKind::Ethernet));
        assert_eq!(refused, Err("pcap_compile: invalid IPv4 address '10.0.0.256'".into()));
        let bare = Link { addresses: Vec::new(), ..link(LinkKind::Ethernet) };
        assert_eq!(filter(&options(false), doors, &bare), Ok(()));
    }

    #[test]
    fn a_missing_interface_has_knockds_message() {
        let refused = open("none0").err();
        let text = "could not open none0: none0: No such device exists (No such device exists)";
        assert_eq!(refused.as_deref(), Some(text));
    }
}
