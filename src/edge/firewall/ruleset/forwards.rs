//! Rules for services with an inner host. Granted flows are translated, and checked again when they
//! are forwarded. The guard grants by the outer port.

use super::{Lines, PacketMarks};
use crate::core::service::Service;

/// The chains for the services that forward; none without one, because a translating chain costs
/// every new flow.
///
/// - `inward`: before other translations (-100), because the first translation of a flow decides
///   its destination.
/// - `arrival`, `stray`: a grant allows the way to the inner host and nothing else. A flow to any
///   other destination is dropped. Causes: another program's translation, a flow older than these
///   rules, an address family without an inner host.
/// - `homeward`: only if the inner host would not find the way back.
pub(super) fn chains(services: &[Service], marks: PacketMarks, lines: &mut Lines) {
    // Pending flows have that bit too: only the first packet of a flow can be translated.
    let ours = format!("ct mark and {0:#x} == {0:#x}", marks.granted);
    let mut inward = Vec::new();
    let mut arrival = Vec::new();
    let mut arrival_end = Vec::new();
    let mut stray = Vec::new();
    let mut homeward = Vec::new();
    for service in services {
        let (Some(port), Some(forward)) = (service.ports.ranges().first(), &service.forward) else {
            continue;
        };
        let proto = port.proto.name();
        let number = port.first;
        // Matches the original direction. Replies are not checked. `ct original` stands last: nft
        // lists a rule that compares ports after it in a form that it cannot read.
        let flow = format!("{ours} ct direction original");
        let outer = format!("ct original proto-dst {number}");
        for to in &forward.to {
            let (nfproto, family) = if to.is_ipv4() { ("ipv4", "ip") } else { ("ipv6", "ip6") };
            inward.push(format!(
                "{ours} fib daddr type local meta nfproto {nfproto} meta l4proto {proto} \
                 th dport {number} dnat {family} to {to}"
            ));
            let inner = format!("{family} daddr {} {proto} dport {}", to.ip(), to.port());
            arrival.push(format!("{flow} {inner} {outer} accept"));
            if forward.masquerade {
                homeward.push(format!("{flow} {inner} {outer} masquerade"));
            }
        }
        let other = format!("{flow} meta l4proto {proto} {outer} counter drop comment");
        arrival_end.push(format!("{other} \"led elsewhere\""));
        stray.push(format!("{other} \"not for this machine\""));
    }
    if inward.is_empty() {
        return;
    }
    arrival.extend(arrival_end);
    lines.chain("inward", Some("nat hook prerouting priority -110"), &inward);
    lines.chain("arrival", Some("filter hook forward priority -175"), &arrival);
    // Behind the second look, which may mark a flow.
    lines.chain("stray", Some("filter hook input priority -174"), &stray);
    if !homeward.is_empty() {
        lines.chain("homeward", Some("nat hook postrouting priority 90"), &homeward);
    }
}
