//! The guard as text: the one truth of what our table says, loaded by us and printed for a file to
//! include. Loading it is left to `nft`, the elements in its sets to `elements`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;

use crate::config::{FirewallSettings, KnockSettings};
use crate::core::prefix::Span;
use crate::core::service::{Mode, Service};
use crate::core::types::{Fault, Port, Proto};

/// The most elements that a set of time grants holds, expired ones included until the kernel has
/// collected them.
pub const TIME_ELEMENTS: u32 = 65_535;
/// The same for one-connection grants.
pub const ONCE_ELEMENTS: u32 = 4096;

/// The name of the chain that hangs in the prerouting hook.
pub const CHAIN: &str = "guard";

/// What the guard is made from.
#[derive(Clone, Debug, PartialEq)]
pub struct GuardPlan {
    table: String,
    ports: Vec<Port>,
    /// Those of `ports` that the admin's own firewall shuts.
    marked: Vec<Port>,
    /// Whether any service grants whole nets.
    wide: bool,
    leads: Vec<ForwardRule>,
    marks: PacketMarks,
    knock: Option<u16>,
    break_glass: Vec<IpAddr>,
}

impl GuardPlan {
    /// From the settings. Fails if the table's name is not one that nft can read back unquoted.
    pub fn new(
        settings: &FirewallSettings,
        services: &[Service],
        knock: &KnockSettings,
    ) -> Result<GuardPlan, Fault> {
        let in_order = |ports: Vec<Port>| {
            ports.into_iter().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
        };
        let of = |mode| {
            services
                .iter()
                .filter(move |service| service.mode == mode)
                .flat_map(|service| &service.ports)
        };
        Ok(GuardPlan {
            table: table_name(&settings.table)?,
            ports: in_order(services.iter().flat_map(|service| &service.ports).copied().collect()),
            marked: in_order(of(Mode::Mark).copied().collect()),
            wide: services.iter().any(|service| service.span == Span::Net64),
            leads: forwards::leads(services),
            marks: PacketMarks { granted: settings.mark, pending: settings.pending_mark },
            knock: knock.silent.then_some(knock.port),
            break_glass: settings.break_glass.iter().map(|ip| ip.to_canonical()).collect(),
        })
    }

    /// The table's name, fit to stand in a ruleset.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// The bits of a flow's conntrack mark that are ours.
    pub(super) fn marks(&self) -> PacketMarks {
        self.marks
    }

    /// The transaction that makes the table say this, whatever it said before, and keeps the
    /// elements of its sets.
    pub fn text(&self) -> String {
        let table = &self.table;
        // `flush table` takes the rules and leaves sets and elements: a restart neither cuts nor
        // lengthens a grant.
        format!("add table inet {table}\nflush table inet {table}\n{}", self.body())
    }

    /// As [`Plan::text`], for a table that stands in the way: the elements are lost.
    pub fn text_anew(&self) -> String {
        let table = &self.table;
        format!("add table inet {table}\ndelete table inet {table}\n{}", self.body())
    }

    /// The transaction that takes the guard away and opens what it guarded.
    pub fn text_off(&self) -> String {
        let table = &self.table;
        format!("add table inet {table}\ndelete table inet {table}\n")
    }

    /// How many rules each chain of the table holds.
    pub fn rules(&self) -> BTreeMap<String, usize> {
        let mut chains = BTreeMap::new();
        let mut chain = None;
        for line in self.body().lines() {
            if let Some(name) =
                line.strip_prefix("\tchain ").and_then(|rest| rest.strip_suffix(" {"))
            {
                chain = Some(chains.entry(name.to_owned()).or_insert(0_usize));
            } else if line.starts_with("\t\t") && !line.starts_with("\t\ttype ") {
                chain.iter_mut().for_each(|rules| **rules += 1);
            }
        }
        chains
    }

    fn body(&self) -> String {
        let mut text = format!("table inet {} {{\n", self.table);
        text.push_str(&chains::sets());
        text.push_str(&self.guard());
        text.push_str(&chains::chains(&self.shapes(), self.marks, &self.left_to_admin()));
        text.push_str(&forwards::chains(&self.leads, self.marks));
        text.push_str("}\n");
        text
    }

    fn guard(&self) -> String {
        let mut lines = String::new();
        let mut line = |text: &str| {
            let _ = writeln!(lines, "\t\t{text}");
        };
        line("type filter hook prerouting priority -175; policy accept;");
        line("iif \"lo\" accept");
        // ICMP, its errors and IPv6's neighbours are nobody's service.
        line("meta l4proto != { tcp, udp } accept");
        if !self.looked_at().is_empty() {
            line(&format!("meta l4proto . th dport != {} accept", set_of(&self.looked_at())));
            // Not `daddr type local`: a broadcast reaches a guarded datagram service as well.
            line("fib daddr type unicast accept comment \"on its way elsewhere\"");
        }
        if let Some(port) = self.knock {
            line(&format!(
                "udp dport {port} counter drop comment \"the knock port is silent; the capture saw it\""
            ));
        }
        for (family, list) in [("ip", self.break_glass(false)), ("ip6", self.break_glass(true))] {
            if !list.is_empty() {
                if !self.marked.is_empty() {
                    let (ports, grant) = (set_of(&self.marked), self.marks.grant());
                    line(&format!(
                        "{family} saddr {{ {} }} meta l4proto . th dport {ports} {grant}",
                        list.join(", ")
                    ));
                }
                line(&format!(
                    "{family} saddr {{ {} }} counter accept comment \"break-glass\"",
                    list.join(", ")
                ));
            }
        }
        if !self.ports.is_empty() {
            line("meta l4proto tcp goto stream");
            line("goto datagram");
        }
        format!("\tchain {CHAIN} {{\n{lines}\t}}\n")
    }

    /// The shapes of keys that are asked for; the sets of the others stay empty.
    fn shapes(&self) -> Vec<KeyShape> {
        SHAPES.into_iter().filter(|shape| shape.span == Span::Host || self.wide).collect()
    }

    /// A line of a chain that comes before its drop: what bears no bit of ours is for the admin's
    /// own firewall, if the port is. What bears one and has come this far would pass there by an
    /// old grant's mark: that stays ours to drop.
    fn left_to_admin(&self) -> String {
        if self.marked.is_empty() {
            return String::new();
        }
        let (ports, ours) = (set_of(&self.marked), self.marks.ours());
        format!(
            "\t\tmeta l4proto . th dport {ports} ct mark and {ours:#x} == 0x0 accept comment \"mark mode\"\n"
        )
    }

    /// Each port that any rule asks about, in order: the guarded ones and the silent knock port.
    pub fn looked_at(&self) -> Vec<Port> {
        let knock = self.knock.map(|number| Port { proto: Proto::Udp, number });
        let mut all: Vec<Port> = self.ports.iter().copied().chain(knock).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn break_glass(&self, v6: bool) -> Vec<String> {
        let mut list: Vec<String> = self
            .break_glass
            .iter()
            .filter(|ip| ip.is_ipv6() == v6)
            .map(ToString::to_string)
            .collect();
        list.sort_unstable();
        list.dedup();
        list
    }
}

/// A name that needs no quotes and cannot end the line it stands in.
fn table_name(name: &str) -> Result<String, Fault> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    let good = name.len() <= 31
        && name.bytes().all(plain)
        && name.starts_with(|c: char| c.is_ascii_alphabetic());
    if good {
        return Ok(name.to_owned());
    }
    Err(Fault::new(
        format!("firewall.table: {name:?} is no name for an nftables table"),
        "use up to 31 letters, digits, `_` and `-`, a letter first",
    ))
}

/// The two bits of a flow's conntrack mark that are ours: `granted` alone, or both while a
/// one-connection grant waits for the end of the handshake. So one bit is enough for an admin's
/// rule that lets in what we let in. `pending` alone is on a flow that was cut: no rule of ours
/// lets it pass, and none leaves it to the admin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct PacketMarks {
    pub(super) granted: u32,
    pub(super) pending: u32,
}

impl PacketMarks {
    pub(super) fn ours(self) -> u32 {
        self.granted | self.pending
    }

    /// The statement that lets a flow in for good.
    fn grant(self) -> String {
        format!(
            "ct mark set ct mark and {:#x} or {:#x} counter accept",
            !self.pending, self.granted
        )
    }
}

/// `{ tcp . 22, udp . 53 }`
fn set_of(ports: &[Port]) -> String {
    let each: Vec<String> =
        ports.iter().map(|port| format!("{} . {}", port.proto.name(), port.number)).collect();
    format!("{{ {} }}", each.join(", "))
}

mod chains;
mod forwards;

pub(super) use chains::{KeyShape, SHAPES};
use forwards::ForwardRule;

#[cfg(test)]
mod tests;
