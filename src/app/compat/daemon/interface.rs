//! The interface that knockd listens to: opening it, what counts on it, what is said about it.
//! Taking packets is left to the listener.

use std::net::IpAddr;

use super::KnockdOptions;
use crate::app::compat::expression;
use crate::app::listener_process::steps;
use crate::config::knockd::KnockdConf;
use crate::core::address::as_text;
use crate::core::door::Door;
use crate::core::sequence::Ipv6;
use crate::edge::classic_log::print_line;
use crate::edge::gatekeeper_pipe::ToListener;
use crate::edge::link::{self, Link, LinkError, LinkKind};
use crate::edge::{bpf, capture};

/// Finds the interface and opens it.
pub(super) fn open(conf: &KnockdConf, interface: &str) -> Result<(Link, Vec<ToListener>), String> {
    let link = link::inspect(interface).map_err(|reason| could_not_open(interface, reason))?;
    let sockets = capture(conf, interface, &link)?;
    Ok((link, sockets))
}

/// The capture socket, filtered and locked, and still deaf.
pub(super) fn capture(
    conf: &KnockdConf,
    interface: &str,
    link: &Link,
) -> Result<Vec<ToListener>, String> {
    if let LinkKind::Other(_) = link.kind {
        return Ok(Vec::new());
    }
    // COMPAT: a `Target` may be another machine, to which this one sends.
    let outgoing = conf.doors.iter().any(|door| door.target.is_some());
    let program =
        bpf::program(&bpf::FilterSpec { knock_port: None, steps: steps(&conf.doors), outgoing });
    match capture::open(interface, &program) {
        Ok(deaf) => Ok(vec![ToListener::Capture(deaf)]),
        Err(_) if !may_capture() => Err(format!(
            "could not open {interface}: You don't have permission to perform this capture on that device \
             (socket: Operation not permitted)"
        )),
        Err(fault) => Err(format!("could not open {interface}: {}", fault.what)),
    }
}

fn may_capture() -> bool {
    capctl::CapState::get_current().is_ok_and(|caps| caps.effective.has(capctl::Cap::NET_RAW))
}

fn could_not_open(interface: &str, reason: LinkError) -> String {
    match reason {
        LinkError::Missing => {
            format!(
                "could not open {interface}: {interface}: No such device exists (No such device exists)"
            )
        }
        LinkError::Down => format!("could not open {interface}: That device is not up"),
    }
}

/// What is wrong only once the interface is open.
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
        addresses(options, link)
            .for_each(|address| print_line(&format!("local IP: {}", as_text(address))));
    }
    trace_filter(options, &conf.doors, link, [false, true]);
    filter(options, &conf.doors, link)
}

/// Whether libpcap could make a filter of `doors`, and what it says if not. Nothing is filtered
/// where there is no address.
pub(super) fn filter(options: &KnockdOptions, doors: &[Door], link: &Link) -> Result<(), String> {
    let refusal = addresses(options, link).next().and_then(|_| expression::refusal(doors));
    refusal.map_or(Ok(()), |text| Err(format!("pcap_compile: {text}")))
}

/// What `-D` shows of the filter: for all of `doors`, and of the families IPv4 (false) and IPv6
/// (true) those in `families`.
pub(super) fn trace_filter<const N: usize>(
    options: &KnockdOptions,
    doors: &[Door],
    link: &Link,
    families: [bool; N],
) {
    if options.debug {
        let addresses: Vec<_> = addresses(options, link)
            .filter(|address| families.contains(&address.is_ipv6()))
            .collect();
        expression::lines(doors, &addresses).iter().for_each(|line| print_line(line));
    }
}

/// What becomes of IPv6 at the doors, and which addresses are ours there.
///
/// COMPAT: knockd knows IPv6 on Ethernet only, and says so of every such packet elsewhere.
pub(super) fn doors_of<'a>(
    options: &KnockdOptions,
    link: &'a Link,
) -> (Ipv6, impl Iterator<Item = IpAddr> + use<'a>) {
    let ipv6 = match (options.only_ipv4, link.kind) {
        (true, _) => Ipv6::Ignored,
        (false, LinkKind::Ethernet) => Ipv6::Counts,
        (false, _) => Ipv6::Refused,
    };
    (ipv6, addresses(options, link))
}

fn addresses<'a>(
    options: &KnockdOptions,
    link: &'a Link,
) -> impl Iterator<Item = IpAddr> + use<'a> {
    let only_ipv4 = options.only_ipv4;
    link.addresses.iter().copied().filter(move |address| address.is_ipv4() || !only_ipv4)
}
