//! The guard as text: the only source of our table, both loaded and printed for an admin's file.
//! See `nft` for loading it, and `elements` for the elements in its sets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::config::{FirewallSettings, KnockSettings};
use crate::core::prefix::Span;
use crate::core::service::{Forward, Mode, Service};
use crate::core::types::{Fault, Port, Proto};

mod chains;
mod forwards;
#[cfg(test)]
mod tests;

pub(super) use chains::{KeyShape, SHAPES};

/// The most elements in a set of time grants, including expired ones not collected yet.
pub const TIME_ELEMENTS: u32 = 65_535;
/// The most elements in a set of one-connection grants.
pub const ONCE_ELEMENTS: u32 = 4096;
/// The name of the guard's chain in the prerouting hook.
pub const CHAIN: &str = "guard";

#[derive(Clone, Debug, PartialEq)]
pub struct GuardPlan {
    table: String,
    ports: BTreeSet<Port>,
    /// The subset of `ports` in mark mode: the admin's own firewall drops there.
    marked: BTreeSet<Port>,
    /// True if any service grants whole nets.
    has_nets: bool,
    forwards: Vec<(Port, Forward)>,
    marks: PacketMarks,
    /// The knock port if it is silent.
    knock: Option<u16>,
    break_glass: BTreeSet<String>,
    break_glass_v6: BTreeSet<String>,
}

impl GuardPlan {
    /// The plan for these settings. Fails if the table's name would need quotes in nft's syntax.
    pub fn new(
        settings: &FirewallSettings, services: &[Service], knock: &KnockSettings,
    ) -> Result<GuardPlan, Fault> {
        let mut plan = GuardPlan {
            table: table_name(&settings.table)?,
            ports: BTreeSet::new(),
            marked: BTreeSet::new(),
            has_nets: services.iter().any(|service| service.span == Span::Net64),
            forwards: forwards::rules(services),
            marks: PacketMarks { granted: settings.mark, pending: settings.pending_mark },
            knock: if knock.silent { Some(knock.port) } else { None },
            break_glass: BTreeSet::new(),
            break_glass_v6: BTreeSet::new(),
        };
        for service in services {
            plan.ports.extend(&service.ports);
            if service.mode == Mode::Mark {
                plan.marked.extend(&service.ports);
            }
        }
        for ip in &settings.break_glass {
            match ip.to_canonical() {
                IpAddr::V4(ip) => plan.break_glass.insert(ip.to_string()),
                IpAddr::V6(ip) => plan.break_glass_v6.insert(ip.to_string()),
            };
        }
        Ok(plan)
    }

    pub fn table(&self) -> &str {
        &self.table
    }

    /// Our bits of the conntrack mark.
    pub(super) fn marks(&self) -> PacketMarks {
        self.marks
    }

    /// The transaction that replaces the table's rules and keeps the elements of its sets.
    pub fn text(&self) -> String {
        let table = &self.table;
        // `flush table` keeps sets and elements: a restart neither ends nor extends a grant.
        format!("add table inet {table}\nflush table inet {table}\n{}", self.body())
    }

    /// The same as [`GuardPlan::text`], but replaces a conflicting table. The elements are lost.
    pub fn text_anew(&self) -> String {
        format!("{}{}", self.text_off(), self.body())
    }

    /// The transaction that removes the guard, which opens the guarded ports.
    pub fn text_off(&self) -> String {
        let table = &self.table;
        format!("add table inet {table}\ndelete table inet {table}\n")
    }

    pub fn rules(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        let mut chain = String::new();
        for line in self.body().lines() {
            if let Some(name) = line.strip_prefix("\tchain ") {
                chain = name.trim_end_matches(" {").to_owned();
                counts.insert(chain.clone(), 0);
            } else if line.starts_with("\t\t")
                && !line.starts_with("\t\ttype ")
                && let Some(count) = counts.get_mut(&chain)
            {
                *count += 1;
            }
        }
        counts
    }

    fn body(&self) -> String {
        let mut shapes = SHAPES.to_vec();
        // The sets of nets stay empty, so no lookups are needed.
        shapes.retain(|shape| shape.span == Span::Host || self.has_nets);
        format!(
            "table inet {} {{\n{}{}{}{}}}\n",
            self.table,
            chains::sets(),
            self.guard(),
            chains::chains(&shapes, self.marks, &self.left_to_admin()),
            forwards::chains(&self.forwards, self.marks)
        )
    }

    fn guard(&self) -> String {
        let mut lines = vec![
            "type filter hook prerouting priority -175; policy accept;".to_owned(),
            "iif \"lo\" accept".to_owned(),
            // ICMP, its errors and IPv6 neighbour discovery belong to no service.
            "meta l4proto != { tcp, udp } accept".to_owned(),
        ];
        let looked_at = self.looked_at();
        if !looked_at.is_empty() {
            lines.push(format!("meta l4proto . th dport != {} accept", set_of(&looked_at)));
            // Not `daddr type local`: a broadcast also reaches a guarded datagram service.
            lines.push("fib daddr type unicast accept comment \"on its way elsewhere\"".to_owned());
        }
        if let Some(port) = self.knock {
            lines.push(format!(
                "udp dport {port} counter drop \
                 comment \"the knock port is silent; the capture saw it\""
            ));
        }
        for (family, list) in [("ip", &self.break_glass), ("ip6", &self.break_glass_v6)] {
            if list.is_empty() {
                continue;
            }
            let addresses = list.iter().cloned().collect::<Vec<_>>().join(", ");
            let from = format!("{family} saddr {{ {addresses} }}");
            if !self.marked.is_empty() {
                let ports = set_of(&self.marked);
                let grant = self.marks.grant();
                lines.push(format!("{from} meta l4proto . th dport {ports} {grant}"));
            }
            lines.push(format!("{from} counter accept comment \"break-glass\""));
        }
        if !self.ports.is_empty() {
            lines.push("meta l4proto tcp goto stream".to_owned());
            lines.push("goto datagram".to_owned());
        }
        let lines: String = lines.iter().map(|line| format!("\t\t{line}\n")).collect();
        format!("\tchain {CHAIN} {{\n{lines}\t}}\n")
    }

    /// The line before each drop in mark mode. It leaves a packet to a marked port without our bits
    /// to the admin's own firewall. A packet with our bits could pass there by an old mark, so the
    /// guard drops it.
    fn left_to_admin(&self) -> String {
        if self.marked.is_empty() {
            return String::new();
        }
        let ports = set_of(&self.marked);
        let ours = self.marks.ours();
        format!(
            "\t\tmeta l4proto . th dport {ports} ct mark and {ours:#x} == 0x0 accept \
             comment \"mark mode\"\n"
        )
    }

    /// All ports in any rule, in order: the guarded ports and the silent knock port.
    pub fn looked_at(&self) -> BTreeSet<Port> {
        let mut all = self.ports.clone();
        all.extend(self.knock.map(|number| Port { proto: Proto::Udp, number }));
        all
    }
}

/// Refuses a name that needs quotes or could end its line.
fn table_name(name: &str) -> Result<String, Fault> {
    let good = name.len() <= 31
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        && name.starts_with(|c: char| c.is_ascii_alphabetic());
    if good {
        return Ok(name.to_owned());
    }
    let what = format!("firewall.table: {name:?} is not a valid name for an nftables table");
    Err(Fault::new(what, "use up to 31 letters, digits, `_` and `-`, starting with a letter"))
}

/// Our two bits of the conntrack mark. `granted` alone: the flow is let in. Both: a one-connection
/// grant waits for the end of the handshake. So an admin's rule needs only the `granted` bit to
/// accept what we accept. `pending` alone: the flow was cut; no rule of ours accepts it or leaves
/// it to the admin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct PacketMarks {
    pub(super) granted: u32,
    pub(super) pending: u32,
}

impl PacketMarks {
    pub(super) fn ours(self) -> u32 {
        self.granted | self.pending
    }

    /// The statement that marks a flow as granted and accepts it.
    fn grant(self) -> String {
        let kept = !self.pending;
        format!("ct mark set ct mark and {kept:#x} or {:#x} counter accept", self.granted)
    }
}

/// A set of ports, such as `{ tcp . 22, udp . 53 }`.
fn set_of(ports: &BTreeSet<Port>) -> String {
    let each: Vec<String> =
        ports.iter().map(|port| format!("{} . {}", port.proto.name(), port.number)).collect();
    format!("{{ {} }}", each.join(", "))
}
