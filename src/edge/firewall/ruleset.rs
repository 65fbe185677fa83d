//! The guard as text: the one truth of what our table says, loaded by us and printed for a file to include.
//! Loading it is left to `nft`, the elements in its sets to `elements`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use crate::config::{Firewall, Knock};
use crate::core::service::Service;
use crate::core::types::{Fault, Port, Proto};

/// The bit of a flow's conntrack mark that says: granted. Only our rules set it on flows to guarded ports.
pub const GRANTED: u32 = 0x1000_0000;
/// The bit that says: a SYN came under a one-connection grant and its handshake is not complete.
pub const PENDING: u32 = 0x2000_0000;
/// Both.
const OURS: u32 = GRANTED | PENDING;
/// All bits but [`PENDING`].
const NOT_PENDING: u32 = !PENDING;

/// The most elements that a set of time grants holds, expired ones included until the kernel has collected them.
pub const TIME_ELEMENTS: u32 = 65_535;
/// The same for one-connection grants.
pub const ONCE_ELEMENTS: u32 = 4096;

/// The name of the chain that hangs in the prerouting hook.
pub const CHAIN: &str = "guard";

/// What the guard is made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    table: String,
    ports: Vec<Port>,
    knock: Option<u16>,
    break_glass: Vec<IpAddr>,
}

impl Plan {
    /// From the settings. Fails if the table's name is not one that nft can read back unquoted.
    pub fn new(settings: &Firewall, services: &[Service], knock: &Knock) -> Result<Plan, Fault> {
        let mut ports: Vec<Port> = services.iter().flat_map(|service| service.ports.iter().copied()).collect();
        ports.sort_unstable();
        ports.dedup();
        Ok(Plan {
            table: table_name(&settings.table)?,
            ports,
            knock: knock.silent.then_some(knock.port),
            break_glass: settings.break_glass.iter().map(|ip| ip.to_canonical()).collect(),
        })
    }

    /// The table's name, fit to stand in a ruleset.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// The transaction that makes the table say this, whatever it said before, and keeps the elements of its sets.
    pub fn text(&self) -> String {
        let table = &self.table;
        // `flush table` takes the rules and leaves sets and elements: a restart neither cuts nor lengthens a grant.
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
            if let Some(name) = line.strip_prefix("\tchain ").and_then(|rest| rest.strip_suffix(" {")) {
                chain = Some(chains.entry(name.to_owned()).or_insert(0_usize));
            } else if line.starts_with("\t\t") && !line.starts_with("\t\ttype ") {
                chain.iter_mut().for_each(|rules| **rules += 1);
            }
        }
        chains
    }

    fn body(&self) -> String {
        let mut text = format!("table inet {} {{\n", self.table);
        text.push_str(&sets());
        text.push_str(&self.guard());
        text.push_str(&rest());
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
        let looked_at: Vec<String> =
            self.looked_at().iter().map(|port| format!("{} . {}", port.proto.name(), port.number)).collect();
        if !looked_at.is_empty() {
            line(&format!("meta l4proto . th dport != {{ {} }} accept", looked_at.join(", ")));
            // Not `daddr type local`: a broadcast reaches a guarded datagram service as well.
            line("fib daddr type unicast accept comment \"on its way elsewhere\"");
        }
        if let Some(port) = self.knock {
            line(&format!("udp dport {port} counter drop comment \"the knock port is silent; the capture saw it\""));
        }
        for (family, list) in [("ip", self.break_glass(false)), ("ip6", self.break_glass(true))] {
            if !list.is_empty() {
                line(&format!("{family} saddr {{ {} }} counter accept comment \"break-glass\"", list.join(", ")));
            }
        }
        if !self.ports.is_empty() {
            line("meta l4proto tcp goto stream");
            line("goto datagram");
        }
        format!("\tchain {CHAIN} {{\n{lines}\t}}\n")
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
        let mut list: Vec<String> =
            self.break_glass.iter().filter(|ip| ip.is_ipv6() == v6).map(ToString::to_string).collect();
        list.sort_unstable();
        list.dedup();
        list
    }
}

/// A name that needs no quotes and cannot end the line it stands in.
fn table_name(name: &str) -> Result<String, Fault> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    let good = name.len() <= 31 && name.bytes().all(plain) && name.starts_with(|c: char| c.is_ascii_alphabetic());
    if good {
        return Ok(name.to_owned());
    }
    Err(Fault::new(
        format!("firewall.table: {name:?} is no name for an nftables table"),
        "use up to 31 letters, digits, `_` and `-`, a letter first",
    ))
}

/// No `flags interval`: such a set is copied whole at each change.
fn sets() -> String {
    let mut text = String::new();
    for (family, address) in [(4, "ipv4_addr"), (6, "ipv6_addr")] {
        let key = format!("type {address} . inet_proto . inet_service");
        let _ = write!(
            text,
            "\tset time{family} {{ {key}; size {TIME_ELEMENTS}; flags timeout; }}\n\
             \tset oncesyn{family} {{ {key}; size {ONCE_ELEMENTS}; flags dynamic,timeout; }}\n\
             \tset once{family} {{ {key}; size {ONCE_ELEMENTS}; flags dynamic,timeout; }}\n"
        );
    }
    text
}

/// The chains behind the guard; they are the same for every plan.
///
/// - `stream`: a bare SYN is judged by the grants whatever conntrack thinks of its flow; all else passes by our mark on
///   the flow. A live time grant also adopts what its source has open already (it could open the same anew): so one
///   knock revives a session after a first installation, a flush, or a conntrack table that was emptied.
/// - `opening`: a SYN under a one-connection grant only makes its flow pending, so that a forged or lost one spends nothing.
///   Fast Open would carry a request inside the SYN (254: its experimental form).
/// - `won`: the last ACK of a pending flow's handshake. Each element of `once` carries its own limit of one packet a day,
///   which exactly one packet ever passes, on however many CPUs.
/// - `datagram`: under a grant every packet marks its flow; an answered flow lives on with its conntrack entry, as a connection does.
fn rest() -> String {
    let [key4, key6] = ["ip", "ip6"].map(|family| format!("{family} saddr . meta l4proto . th dport"));
    let granted = format!("ct state established ct mark and {OURS:#x} == {GRANTED:#x}");
    let pending = format!("ct state established ct mark and {OURS:#x} == {PENDING:#x}");
    let grant = format!("ct mark set ct mark and {NOT_PENDING:#x} or {GRANTED:#x} counter accept");
    let pend = format!("ct status & assured != assured ct mark set ct mark or {PENDING:#x} counter accept");
    format!(
        "\tchain stream {{
\t\ttcp flags & (fin | syn | rst | ack) == syn goto opening
\t\t{granted} accept
\t\t{pending} tcp flags & rst == rst accept comment \"a reset never spends the grant\"
\t\t{pending} {key4} @once4 goto won
\t\t{pending} {key6} @once6 goto won
\t\tct state established,new {key4} @time4 {grant}
\t\tct state established,new {key6} @time6 {grant}
\t\tcounter drop comment \"neither granted nor a winner\"
\t}}
\tchain opening {{
\t\ttcp option 34 exists counter drop comment \"Fast Open\"
\t\ttcp option 254 exists counter drop comment \"Fast Open, experimental\"
\t\t{key4} @time4 {grant}
\t\t{key6} @time6 {grant}
\t\t{key4} @oncesyn4 {pend}
\t\t{key6} @oncesyn6 {pend}
\t\tcounter drop comment \"no grant\"
\t}}
\tchain won {{
\t\tdelete @oncesyn4 {{ {key4} }}
\t\tdelete @oncesyn6 {{ {key6} }}
\t\t{grant}
\t}}
\tchain datagram {{
\t\t{granted} accept
\t\t{key4} @time4 {grant}
\t\t{key6} @time6 {grant}
\t\tcounter drop comment \"no grant\"
\t}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::service::{Form, SourceRule};
    use crate::core::types::ServiceName;

    fn plan(table: &str, ports: &[Port], silent: bool, break_glass: &[&str]) -> Result<Plan, Fault> {
        let settings = Firewall {
            table: table.into(),
            nft: "/usr/sbin/nft".into(),
            break_glass: break_glass.iter().map(|ip| ip.parse().unwrap()).collect(),
        };
        let service = Service {
            name: ServiceName::new("ssh").unwrap(),
            ports: ports.to_vec(),
            form: Form::Time,
            seconds: 30,
            max_seconds: 600,
            max_grants: 64,
            source: SourceRule::Bound,
            challenge: false,
        };
        let knock = Knock {
            port: 62201,
            interfaces: vec!["any".into()],
            silent,
            max_age: 30,
            max_ahead: 10,
            burst: 64,
            per_second: 4,
            max_grants: 16,
        };
        Plan::new(&settings, &[service], &knock)
    }

    const SSH: Port = Port { proto: Proto::Tcp, number: 22 };

    #[test]
    fn a_table_name_cannot_say_anything_else() {
        for bad in ["", "a b", "a;", "a{", "1a", "a\nflush ruleset", "é", &"x".repeat(32)] {
            assert!(plan(bad, &[SSH], true, &[]).is_err(), "{bad:?}");
        }
        assert_eq!(plan("toctoc_2-a", &[SSH], true, &[]).unwrap().table(), "toctoc_2-a");
    }

    #[test]
    fn a_reload_flushes_rules_and_leaves_the_sets() {
        let text = plan("toctoc", &[SSH], true, &[]).unwrap().text();
        assert!(text.starts_with("add table inet toctoc\nflush table inet toctoc\ntable inet toctoc {\n"));
        assert!(!text.contains("delete table") && !text.contains("flush set"));
    }

    #[test]
    fn only_guarded_ports_and_the_silent_knock_port_are_looked_at() {
        let dns = Port { proto: Proto::Udp, number: 53 };
        let text = plan("toctoc", &[dns, SSH, SSH], true, &[]).unwrap().text();
        assert!(text.contains("th dport != { tcp . 22, udp . 53, udp . 62201 } accept"));
        let text = plan("toctoc", &[SSH], false, &[]).unwrap().text();
        assert!(text.contains("th dport != { tcp . 22 } accept") && !text.contains("62201"));
    }

    #[test]
    fn break_glass_addresses_stand_under_their_own_family() {
        let text = plan("toctoc", &[SSH], true, &["2001:db8::1", "::ffff:192.0.2.1", "192.0.2.1"]).unwrap().text();
        assert!(text.contains("\tip saddr { 192.0.2.1 } "));
        assert!(text.contains("\tip6 saddr { 2001:db8::1 } "));
    }

    #[test]
    fn both_families_are_guarded_by_the_same_rules() {
        let text = plan("toctoc", &[SSH], true, &[]).unwrap().text();
        let of = |word: &str| text.lines().filter(|line| line.contains(word)).count();
        for (four, six) in
            [("@time4", "@time6"), ("@once4", "@once6"), ("@oncesyn4", "@oncesyn6"), ("ip saddr", "ip6 saddr")]
        {
            assert!(of(four) > 0 && of(four) == of(six), "{four} {six}");
        }
    }
}
