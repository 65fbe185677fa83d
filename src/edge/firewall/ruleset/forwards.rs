//! Rules for services with an inner host. Granted flows are translated, and checked again when they
//! are forwarded. The guard grants by the outer port.

use super::PacketMarks;
use crate::core::service::{Forward, Service};
use crate::core::types::Port;

/// The outer port and the target of each forwarding service.
pub(super) fn rules(services: &[Service]) -> Vec<(Port, Forward)> {
    let mut rules = Vec::new();
    for service in services {
        if let (Some(port), Some(forward)) = (service.ports.first(), &service.forward) {
            rules.push((*port, forward.clone()));
        }
    }
    rules
}

/// The chains for `rules`; none without rules, because a translating chain costs every new flow.
///
/// - `inward`: before other translations (-100), because the first translation of a flow decides
///   its destination.
/// - `arrival`, `stray`: a grant allows the way to the inner host and nothing else. A flow to any
///   other destination is dropped. Causes: another program's translation, a flow older than these
///   rules, an address family without an inner host.
/// - `homeward`: only if the inner host would not find the way back.
pub(super) fn chains(rules: &[(Port, Forward)], marks: PacketMarks) -> String {
    if rules.is_empty() {
        return String::new();
    }
    // Pending flows have that bit too: only the first packet of a flow can be translated.
    let ours = format!("ct mark and {0:#x} == {0:#x}", marks.granted);
    let mut inward = Vec::new();
    let mut arrival = Vec::new();
    let mut arrival_end = Vec::new();
    let mut stray = Vec::new();
    let mut homeward = Vec::new();
    for (Port { proto, number }, forward) in rules {
        let proto = proto.name();
        // Matches the original direction. Replies are not checked.
        let flow = format!(
            "{ours} ct direction original meta l4proto {proto} ct original proto-dst {number}"
        );
        for to in &forward.to {
            let (nfproto, family) = if to.is_ipv4() { ("ipv4", "ip") } else { ("ipv6", "ip6") };
            inward.push(format!(
                "{ours} fib daddr type local meta nfproto {nfproto} meta l4proto {proto} \
                 th dport {number} dnat {family} to {to}"
            ));
            let inner = format!("{family} daddr {} th dport {}", to.ip(), to.port());
            arrival.push(format!("{flow} {inner} accept"));
            if forward.masquerade {
                homeward.push(format!("{flow} {inner} masquerade"));
            }
        }
        arrival_end.push(format!("{flow} counter drop comment \"led elsewhere\""));
        stray.push(format!("{flow} counter drop comment \"not for this machine\""));
    }
    arrival.extend(arrival_end);
    let mut text = chain("inward", "nat hook prerouting priority -110", &inward)
        + &chain("arrival", "filter hook forward priority -175", &arrival)
        + &chain("stray", "filter hook input priority -175", &stray);
    if rules.iter().any(|(_, forward)| forward.masquerade) {
        text += &chain("homeward", "nat hook postrouting priority 90", &homeward);
    }
    text
}

fn chain(name: &str, place: &str, rules: &[String]) -> String {
    let rules: String = rules.iter().map(|rule| format!("\t\t{rule}\n")).collect();
    format!("\tchain {name} {{\n\t\ttype {place}; policy accept;\n{rules}\t}}\n")
}
