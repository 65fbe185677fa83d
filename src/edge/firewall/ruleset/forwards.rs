//! Services that lead to an inner host: granted flows are translated, and looked at again where
//! they arrive. Which flows are granted is left to the guard, which sees the outer port: it comes
//! before every translation.

use std::fmt::Write;
use std::net::SocketAddr;

use super::PacketMarks;
use crate::core::service::{Forward, Service};
use crate::core::types::Port;

/// One service that leads elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ForwardRule {
    /// The outer port.
    port: Port,
    forward: Forward,
}

/// Those of `services` that do.
pub(super) fn leads(services: &[Service]) -> Vec<ForwardRule> {
    let one = |service: &Service| {
        let (port, forward) = (*service.ports.first()?, service.forward.clone()?);
        Some(ForwardRule { port, forward })
    };
    services.iter().filter_map(one).collect()
}

/// Their chains; none for none, because a translating chain costs every new flow of this machine
/// something.
///
/// - `inward`: before other translations (-100), and the first one that translates a flow settles
///   where it goes.
/// - `arrival`, `stray`: what was granted is the way to the inner host and nothing else. Whatever
///   else leads such a flow elsewhere, another program's translation, a flow that is older than
///   these rules, an address family without an inner host: there it ends.
/// - `homeward`: only where the inner host would not find the way back.
pub(super) fn chains(leads: &[ForwardRule], marks: PacketMarks) -> String {
    if leads.is_empty() {
        return String::new();
    }
    // Pending flows have that bit too: a flow is translated at its first packet or never.
    let ours = format!("ct mark and {0:#x} == {0:#x}", marks.granted);
    let mut text = String::new();
    chain(&mut text, "inward", "nat hook prerouting priority -110", |line| {
        each_target(leads, |lead, family, to| {
            let dnat = format!("dnat {family} to {to}");
            line(&format!("{ours} fib daddr type local {} {dnat}", lead.outer(family)));
        });
    });
    chain(&mut text, "arrival", "filter hook forward priority -175", |line| {
        each_target(leads, |lead, family, to| {
            line(&format!("{ours} {} {} accept", lead.was_outer(), lead.inner(family, to)));
        });
        leads.iter().for_each(|lead| {
            line(&format!("{ours} {} counter drop comment \"led elsewhere\"", lead.was_outer()));
        });
    });
    chain(&mut text, "stray", "filter hook input priority -175", |line| {
        leads.iter().for_each(|lead| {
            line(&format!(
                "{ours} {} counter drop comment \"not for this machine\"",
                lead.was_outer()
            ));
        });
    });
    if leads.iter().any(|lead| lead.forward.masquerade) {
        chain(&mut text, "homeward", "nat hook postrouting priority 90", |line| {
            each_target(leads, |lead, family, to| {
                if lead.forward.masquerade {
                    line(&format!(
                        "{ours} {} {} masquerade",
                        lead.was_outer(),
                        lead.inner(family, to)
                    ));
                }
            });
        });
    }
    text
}

impl ForwardRule {
    /// As a packet asks for it.
    fn outer(&self, family: &str) -> String {
        let Port { proto, number } = self.port;
        format!("meta nfproto {} meta l4proto {} th dport {number}", nfproto(family), proto.name())
    }

    /// As the flow was asked for; answers are no matter.
    fn was_outer(&self) -> String {
        let Port { proto, number } = self.port;
        format!(
            "ct direction original meta l4proto {} ct original proto-dst {number}",
            proto.name()
        )
    }

    /// As a packet is once it was translated.
    fn inner(&self, family: &str, to: SocketAddr) -> String {
        format!("{family} daddr {} th dport {}", to.ip(), to.port())
    }
}

fn nfproto(family: &str) -> &'static str {
    if family == "ip" { "ipv4" } else { "ipv6" }
}

fn each_target(
    leads: &[ForwardRule],
    mut with: impl FnMut(&ForwardRule, &'static str, SocketAddr),
) {
    for lead in leads {
        for to in &lead.forward.to {
            with(lead, if to.is_ipv4() { "ip" } else { "ip6" }, *to);
        }
    }
}

fn chain(text: &mut String, name: &str, place: &str, fill: impl FnOnce(&mut dyn FnMut(&str))) {
    let _ = writeln!(text, "\tchain {name} {{\n\t\ttype {place}; policy accept;");
    fill(&mut |line| {
        let _ = writeln!(text, "\t\t{line}");
    });
    text.push_str("\t}\n");
}
