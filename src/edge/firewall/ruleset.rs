//! The guard as text: the only source of our table, both loaded and printed for an admin's file.
//! See `nft` for loading it, and `elements` for the elements in its sets.
//!
//! Names: `to/NAME` is a service's chain, `v4/NAME` and the like are its sets (`ruleset/chains`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::GuardRules;
use crate::core::service::Service;
use crate::core::types::{Boot, Fault, Proto};
use crate::edge::clock;
use crate::edge::raw::RECEIPT_GROUP;

mod chains;
mod forwards;
mod ports;
#[cfg(test)]
mod tests;
mod trial;

pub(super) use chains::{KeyShape, SetUse};
use ports::PortMap;
use trial::TrialText;
pub(super) use trial::is_set_of_this_boot;

/// The name of the guard's chain in the prerouting hook.
pub const CHAIN: &str = "guard";
/// A SYN that begins a connection.
const SYN: &str = "tcp flags & (fin | syn | rst | ack) == syn";

#[derive(Clone, Debug, PartialEq)]
pub struct GuardPlan {
    table: String,
    services: Vec<Service>,
    marks: PacketMarks,
    knock: u16,
    /// True if the knock port never answers.
    silent: bool,
    break_glass: BTreeSet<String>,
    break_glass_v6: BTreeSet<String>,
    /// The trial that the guard is on, if any.
    trial: Option<TrialText>,
}

impl GuardPlan {
    /// The plan for these settings. Fails if the table's name would need quotes in nft's syntax.
    pub(super) fn new(rules: &GuardRules) -> Result<GuardPlan, Fault> {
        let settings = &rules.firewall;
        let mut plan = GuardPlan {
            table: table_name(&settings.table)?,
            services: rules.services.iter().filter(|one| !one.ports.is_empty()).cloned().collect(),
            marks: PacketMarks { granted: settings.mark, pending: settings.pending_mark },
            knock: rules.knock.port,
            silent: rules.knock.silent,
            break_glass: BTreeSet::new(),
            break_glass_v6: BTreeSet::new(),
            trial: rules.trial.map(|until| TrialText::new(until, clock::now())),
        };
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

    pub(super) fn services(&self) -> &[Service] {
        &self.services
    }

    pub(super) fn marks(&self) -> PacketMarks {
        self.marks
    }

    /// The transaction that replaces the table's rules and keeps the elements of its sets.
    pub fn text(&self) -> String {
        self.text_without(&[], &[])
    }

    /// The same, which also removes these chains and sets: `flush table` keeps them.
    pub fn text_without(&self, chains: &[String], sets: &[String]) -> String {
        let table = &self.table;
        // `flush table` keeps sets and elements: a restart neither ends nor extends a grant.
        let mut text = format!("add table inet {table}\nflush table inet {table}\n");
        for chain in chains {
            text += &format!("delete chain inet {table} {chain}\n");
        }
        for set in sets {
            text += &format!("delete set inet {table} {set}\n");
        }
        text + &self.body()
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

    /// What is left of the trial, as a part of the transaction that loads the rules.
    pub(super) fn trial_left(&self, now: Boot) -> String {
        match &self.trial {
            Some(trial) => trial.elements(&self.table, now),
            None => String::new(),
        }
    }

    pub(super) fn chains(&self) -> BTreeMap<String, ChainShape> {
        self.lines().chains
    }

    pub(super) fn sets(&self) -> BTreeSet<String> {
        let line = |line: String| line.split(' ').nth(1).unwrap_or_default().to_owned();
        let of_services = self.services.iter().flat_map(chains::sets).map(line);
        of_services.chain(self.trial.as_ref().map(|trial| trial.set.clone())).collect()
    }

    fn body(&self) -> String {
        format!("table inet {} {{\n{}}}\n", self.table, self.lines().text)
    }

    fn lines(&self) -> Lines {
        let mut lines = Lines::default();
        if let Some(trial) = &self.trial {
            lines.text += &format!("\t{}\n", trial.set());
        }
        for set in self.services.iter().flat_map(chains::sets) {
            lines.text += &format!("\t{set}\n");
        }
        for service in &self.services {
            chains::chains(service, self.marks, &mut lines);
        }
        let tcp = PortMap::new(Proto::Tcp, &self.services, self.knock);
        let udp = PortMap::new(Proto::Udp, &self.services, self.knock);
        self.tcp(&tcp, &mut lines);
        self.udp(&udp, &mut lines);
        self.hooks(&tcp, &udp, &mut lines);
        forwards::chains(&self.services, self.marks, &mut lines);
        lines
    }

    /// The chains behind the hooks for TCP.
    ///
    /// - `judge/tcp`: the grants decide about a bare SYN, whatever conntrack thinks of its flow.
    ///   All
    ///   other packets pass by our mark on the flow. A live time grant also adopts open
    ///   connections of its source, which could open the same ones anew. "Asked from here": the
    ///   answers to what this machine, or one that it translates for, asked from a port that is
    ///   guarded, as ranges are.
    /// - `opening`: Fast Open would carry a request inside the SYN (254 is its experimental form).
    fn tcp(&self, map: &PortMap<'_>, lines: &mut Lines) {
        if map.is_empty() {
            return;
        }
        let ours = self.marks.ours();
        let granted = self.marks.granted;
        let left = self.left_to_admin(map);
        self.ask(map, lines);
        let mut judge = self.glass(map);
        judge.extend([
            format!("{SYN} goto opening"),
            format!("ct state established ct mark and {ours:#x} == {granted:#x} accept"),
            self.asked_from_here(),
            format!(
                "ct state established ct mark and {ours:#x} == {ours:#x} tcp flags & rst == rst \
                 accept comment \"a reset never spends the grant\""
            ),
            "ct state established,new goto ask/tcp".to_owned(),
        ]);
        judge.extend(left);
        judge.push("counter drop comment \"belongs to no connection\"".to_owned());
        lines.chain("judge/tcp", None, &judge);
        lines.chain(
            "opening",
            None,
            &[
                "tcp option 34 exists counter drop comment \"Fast Open\"".to_owned(),
                "tcp option 254 exists counter drop comment \"Fast Open, experimental\"".to_owned(),
                "goto ask/tcp".to_owned(),
            ],
        );
    }

    /// The chains behind the hooks for UDP. Under a grant every packet marks its flow. A flow with
    /// replies lives on with its conntrack entry, like a connection.
    fn udp(&self, map: &PortMap<'_>, lines: &mut Lines) {
        if map.is_empty() {
            return;
        }
        let ours = self.marks.ours();
        let granted = self.marks.granted;
        self.ask(map, lines);
        let mut judge = self.glass(map);
        judge.extend([
            format!("ct state established ct mark and {ours:#x} == {granted:#x} accept"),
            self.asked_from_here(),
            "goto ask/udp".to_owned(),
        ]);
        lines.chain("judge/udp", None, &judge);
    }

    /// The chain that asks the services of a port, and drops what none of them lets in.
    fn ask(&self, map: &PortMap<'_>, lines: &mut Lines) {
        let proto = map.proto.name();
        let mut targets = Vec::new();
        for piece in &map.pieces {
            let range = ports::text(piece.first, piece.last);
            let jumps: Vec<String> =
                piece.services.iter().map(|one| format!("jump to/{}", one.name)).collect();
            match jumps.as_slice() {
                [jump] => targets.push(format!("{range} : {jump}")),
                jumps => {
                    lines.chain(&format!("port/{proto}/{range}"), None, jumps);
                    targets.push(format!("{range} : jump port/{proto}/{range}"));
                }
            }
        }
        let mut ask = Vec::new();
        if !targets.is_empty() {
            ask.push(format!("th dport vmap {{ {} }}", targets.join(", ")));
        }
        ask.extend(map.whole.iter().map(|service| format!("jump to/{}", service.name)));
        ask.extend(self.left_to_admin(map));
        ask.push("counter drop comment \"no grant\"".to_owned());
        lines.chain(&format!("ask/{proto}"), None, &ask);
    }

    fn asked_from_here(&self) -> String {
        let ours = self.marks.ours();
        format!(
            "ct state established ct direction reply ct mark and {ours:#x} == 0x0 accept \
             comment \"asked from here\""
        )
    }

    fn glass(&self, map: &PortMap<'_>) -> Vec<String> {
        let mut rules = Vec::new();
        for (family, list) in [("ip", &self.break_glass), ("ip6", &self.break_glass_v6)] {
            if list.is_empty() {
                continue;
            }
            let addresses: Vec<&str> = list.iter().map(String::as_str).collect();
            let from = format!("{family} saddr {{ {} }}", addresses.join(", "));
            if let Some(ports) = map.marked() {
                rules.push(format!("{from} {ports} {}", self.marks.grant()));
            }
            rules.push(format!("{from} counter accept comment \"break-glass\""));
        }
        rules
    }

    /// The rule before each drop in mark mode. It leaves a packet to a marked port without our bits
    /// to the admin's own firewall. A packet with our bits could pass there by an old mark, and
    /// most firewalls accept what comes over lo: the guard drops these.
    fn left_to_admin(&self, map: &PortMap<'_>) -> Option<String> {
        let ours = self.marks.ours();
        let ports = map.marked()?;
        Some(format!(
            "iif != \"lo\" {ports} ct mark and {ours:#x} == 0x0 accept comment \"mark mode\""
        ))
    }

    /// The chains in the hooks.
    ///
    /// - `guard`, in prerouting: before every translation and every ordinary firewall. Without its
    ///   first rule, a forged question put onto lo and forwarded would make a stranger's packets
    ///   its answers.
    /// - `second`, in input, with the port that a packet has there: for what the first look cannot
    ///   know. An address that is local by another routing table; a translation of the admin's
    ///   from an unguarded port to a guarded one. What has passed the first look passes here too.
    /// - `within`: what this machine says to itself has gone through the output hooks, which
    ///   confirmed
    ///   its conntrack entry. What a packet socket put onto lo has not, and is judged like a
    ///   stranger's. `fib` asked on lo knows no link-local address, hence fe80::/10.
    ///   `untracked`: for an admin's `notrack` on lo.
    /// - `outward`: if a server speaks after conntrack lost its flow, the flow's direction turns
    ///   round, and a stranger's packets would be answers. Such a flow counts as cut, until a live
    ///   time grant adopts it.
    /// - `receipts`: the listener can send UDP from the knock port to others, and nothing else.
    fn hooks(&self, tcp: &PortMap<'_>, udp: &PortMap<'_>, lines: &mut Lines) {
        let looks_at_udp = !udp.is_empty() || self.silent;
        let over: Vec<String> = self.trial.iter().map(TrialText::rule).collect();
        let mut first = over.clone();
        first.push(
            "iif \"lo\" ct status & confirmed != confirmed fib daddr type unicast counter drop \
             comment \"on its way elsewhere, put onto lo\""
                .to_owned(),
        );
        let mut second = over;
        for (proto, looks) in [("tcp", !tcp.is_empty()), ("udp", looks_at_udp)] {
            if looks {
                first.push(format!("meta l4proto {proto} goto {CHAIN}/{proto}"));
                second.push(format!("meta l4proto {proto} goto second/{proto}"));
            }
        }
        lines.chain(CHAIN, Some("filter hook prerouting priority -175"), &first);
        if looks_at_udp || !tcp.is_empty() {
            lines.chain("second", Some("filter hook input priority -175"), &second);
            let own = ["fib saddr type local", "ip6 saddr fe80::/10"];
            let through = ["ct status & confirmed == confirmed", "ct state untracked"];
            let rules = through.map(|how| own.map(|from| format!("{how} {from} accept")));
            lines.chain("within", None, rules.as_flattened());
        }
        for (map, looks) in [(tcp, !tcp.is_empty()), (udp, looks_at_udp)] {
            if looks {
                self.look(map, CHAIN, lines);
                self.look(map, "second", lines);
            }
        }
        if let (false, ports) = (tcp.is_empty(), tcp.guarded()) {
            let ours = self.marks;
            let ports = ports.map_or_else(String::new, |ports| format!("th sport {ports} "));
            let rule = format!(
                "ct state new meta l4proto tcp {} {ports}oif != \"lo\" fib saddr type local \
                 ct mark set ct mark and {:#x} or {:#x} counter",
                SYN.replace("==", "!="),
                !ours.granted,
                ours.pending
            );
            lines.chain("outward", Some("filter hook postrouting priority 150"), &[rule]);
        }
        let receipts = format!("meta skgid {RECEIPT_GROUP} goto receipt");
        lines.chain("receipts", Some("filter hook output priority -175"), &[receipts]);
        lines.chain(
            "receipt",
            None,
            &[
                "oif \"lo\" counter drop comment \"a receipt to ourselves\"".to_owned(),
                format!("udp sport {} accept", self.knock),
                "counter drop comment \"no receipt\"".to_owned(),
            ],
        );
    }

    /// One look at one protocol: `guard/tcp`, `second/udp` and so on.
    fn look(&self, map: &PortMap<'_>, look: &str, lines: &mut Lines) {
        let proto = map.proto.name();
        let mut rules = Vec::new();
        if let Some(ports) = map.unguarded(self.silent) {
            rules.push(format!("th dport {ports} accept"));
        }
        rules.push("iif \"lo\" jump within".to_owned());
        if look == CHAIN {
            // Not `daddr type local`: a broadcast also reaches a guarded datagram service.
            rules.push("fib daddr type unicast accept comment \"on its way elsewhere\"".to_owned());
        }
        if self.silent && map.proto == Proto::Udp {
            // Before `judge`: to the kernel our receipt was a question, and the next knock from the
            // same port would be its answer.
            rules.push(format!(
                "th dport {} counter drop comment \"the knock port is silent; the capture saw it\"",
                self.knock
            ));
        }
        if !map.is_empty() {
            rules.push(format!("goto judge/{proto}"));
        }
        lines.chain(&format!("{look}/{proto}"), None, &rules);
    }

    /// The guarded ports and the silent knock port, as the guard's own rules name them.
    pub(super) fn looked_at(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for proto in [Proto::Tcp, Proto::Udp] {
            let map = PortMap::new(proto, &self.services, self.knock);
            if !map.is_empty() || (self.silent && proto == Proto::Udp) {
                let ports = map.unguarded(self.silent).unwrap_or_default();
                found.insert(format!("{} {ports}", proto.name()));
            }
        }
        found
    }
}

/// What can be said of a chain without reading its rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ChainShape {
    /// Type, hook and priority of a base chain.
    pub(super) hook: Option<String>,
    pub(super) rules: usize,
}

#[derive(Default)]
struct Lines {
    text: String,
    chains: BTreeMap<String, ChainShape>,
}

impl Lines {
    /// Adds a chain; `hook` is its place if it is a base chain.
    fn chain(&mut self, name: &str, hook: Option<&str>, rules: &[String]) {
        self.text += &format!("\tchain {name} {{\n");
        if let Some(hook) = hook {
            self.text += &format!("\t\ttype {hook}; policy accept;\n");
        }
        for rule in rules {
            self.text += &format!("\t\t{rule}\n");
        }
        self.text += "\t}\n";
        let shape = ChainShape { hook: hook.map(str::to_owned), rules: rules.len() };
        self.chains.insert(name.to_owned(), shape);
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
