//! The firewall that this machine has beside the guard: what the rules of others do to granted
//! packets and to receipts.

use std::net::{IpAddr, SocketAddr};

use super::finding::Finding;
use super::traced::{PortTrace, Traced};
use crate::config::{Mode, Service, Settings};
use crate::core::types::{Fault, Port, PortRange, Proto, ServiceName};
use crate::edge::addresses;
use crate::edge::firewall::advice;
use crate::edge::firewall::packet_trace::{
    Trace, TraceEffect, TraceStep, TracedPacket, trace_packet,
};
use crate::edge::firewall::rule_place::{AcceptRule, RulePlace};
use crate::edge::firewall::ruleset_snapshot::RulesetSnapshot;
use crate::edge::firewall::translations::{LeadsTo, Translation, translations};
use crate::edge::probe::Seen;

/// The traces of a packet to one port of a service.
struct PortTraces {
    /// The port, with its service and family, as text for people.
    what: String,
    /// The rule that would let a granted packet in.
    rule: AcceptRule,
    /// True if a rule of others leads it on to another host.
    is_led: bool,
    granted: Trace,
    stranger: Trace,
}

/// What certainly goes wrong with the live firewall, as sentences. None if it cannot be read.
pub(super) fn warnings(settings: &Settings) -> Vec<String> {
    let Ok(snapshot) = RulesetSnapshot::take(&settings.firewall) else { return Vec::new() };
    let warnings = remarks(settings, &snapshot).into_iter().filter(|one| one.is_warning);
    warnings.map(|warning| warning.text).collect()
}

/// The reason why a grant of this service is useless: the live firewall certainly drops what comes
/// to any of its ports.
pub(super) fn why_useless(
    settings: &Settings, service: ServiceName, v6: bool,
) -> Result<Option<String>, Fault> {
    let snapshot = RulesetSnapshot::take(&settings.firewall)?;
    let mut why = None;
    for service in settings.services.iter().filter(|one| one.name == service) {
        for range in service.ports.ranges() {
            let from = PacketFrom { v6, ip: None };
            let Some(traces) = traces(settings, &snapshot, service, *range, range.first, from)
            else {
                return Ok(None);
            };
            why = traces.dropped();
            if why.is_none() {
                return Ok(None);
            }
        }
    }
    Ok(why)
}

/// Where a packet comes from, as far as it is known.
#[derive(Clone, Copy)]
struct PacketFrom {
    v6: bool,
    ip: Option<IpAddr>,
}

/// The way of a granted packet to one port through this machine's own firewall.
pub(super) struct PortPath {
    /// `22/tcp`.
    port: String,
    /// True if it is certainly dropped.
    pub(super) is_dropped: bool,
    /// What is certainly done to it.
    steps: Vec<TraceStep>,
    /// What may go wrong, or does.
    finding: Option<Finding>,
}

impl PortPath {
    #[cfg(test)]
    pub(super) fn dropped_for_test(port: &str) -> PortPath {
        PortPath { is_dropped: true, ..PortPath::through_for_test(port) }
    }

    #[cfg(test)]
    pub(super) fn through_for_test(port: &str) -> PortPath {
        PortPath { port: port.to_owned(), is_dropped: false, steps: Vec::new(), finding: None }
    }

    pub(super) fn text(&self) -> String {
        if let Some(finding) = &self.finding {
            return finding.text.clone();
        }
        let mut steps: Vec<String> = Vec::new();
        for TraceStep { hook, place, effect } in &self.steps {
            let verb = if *effect == TraceEffect::Accept { "accepts it" } else { "drops it" };
            steps.push(format!("{hook}: {place} {verb}"));
        }
        match steps.is_empty() {
            true => format!("{}: no chain but ours sees it", self.port),
            false => format!("{}: {}", self.port, steps.join("; ")),
        }
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::json!({ "port": self.port, "dropped": self.is_dropped, "text": self.text() })
    }
}

/// The port of each range of a service whose way is followed.
pub(super) fn first_ports(service: &Service) -> Vec<Port> {
    let first = |range: &PortRange| Port { proto: range.proto, number: range.first };
    service.ports.ranges().iter().map(first).collect()
}

/// The ways of granted packets from `ip` to the ports of a service, and what is wrong with the way
/// of the receipt. `traced`: what the kernel did with such packets; without it, by reading.
pub(super) fn paths(
    settings: &Settings, snapshot: &RulesetSnapshot, service: &Service, ip: IpAddr,
    traced: Option<&Traced>,
) -> (Vec<PortPath>, Option<Finding>) {
    let mut paths = Vec::new();
    let from = PacketFrom { v6: ip.is_ipv6(), ip: Some(ip) };
    for range in service.ports.ranges() {
        let traces = traces(settings, snapshot, service, *range, range.first, from);
        let Some(mut traces) = traces else { continue };
        let port = Port { proto: range.proto, number: range.first };
        let mut is_lost = false;
        if let Some(PortTrace { trace, seen }) = traced.and_then(|all| all.ports.get(&port)) {
            let has_arrived = matches!(seen, Seen::Reached(_) | Seen::Forwarded(_));
            let dropped = trace.dropped.clone().filter(|_| !has_arrived);
            let is_open_question = !has_arrived && dropped.is_none();
            // What no table of nf_tables drops may be a rule of iptables-legacy, which is read only.
            if !(is_open_question && traces.granted.dropped.is_some()) {
                traces.granted = Trace { dropped, ..trace.clone() };
                // Where nothing listens, the answer comes from this host itself.
                is_lost = is_open_question && *seen != Seen::Refused;
            }
        }
        let remark = traces.remark(service.mode).filter(|_| traces.granted.dropped.is_some());
        let lost = is_lost.then(|| lost(&traces.what));
        paths.push(PortPath {
            port: range.to_string(),
            is_dropped: is_lost || traces.dropped().is_some(),
            finding: remark.or(lost),
            steps: traces.granted.steps,
        });
    }
    let receipt = match traced.and_then(|traced| traced.receipt.as_ref()) {
        Some(trace) => receipt_text(settings.knock.port, from.v6, trace),
        None => receipt_remark(settings, snapshot, from),
    };
    (paths, receipt)
}

fn lost(what: &str) -> Finding {
    Finding::warning(format!(
        "{what} does not arrive even under a grant, and no rule that nft lists drops it: see the routes \
         back (`ip route`, rp_filter) and tables of netdev"
    ))
}

/// Remarks about a live firewall.
pub(super) fn remarks(settings: &Settings, snapshot: &RulesetSnapshot) -> Vec<Finding> {
    let mut lines = Vec::new();
    for service in &settings.services {
        // Of a range its two ends; of all ports none, because nobody would read that.
        for range in service.ports.ranges() {
            for v6 in [false, true] {
                lines.extend(range_remark(settings, snapshot, service, *range, v6));
            }
        }
    }
    for v6 in [false, true] {
        lines.extend(receipt_remark(settings, snapshot, PacketFrom { v6, ip: None }));
    }
    if settings.services.iter().any(|service| service.mode == Mode::Mark) {
        lines.push(Finding::note(format!(
            "mark mode needs this rule in your firewall, before everything that drops:\n  \
             nft:      {}\n  iptables: {} (and ip6tables)",
            advice::let_marked_in(&settings.firewall),
            advice::let_marked_in_by_iptables(&settings.firewall)
        )));
    }
    lines.push(Finding::note(scope(settings, snapshot)));
    lines
}

/// What happens to a receipt to this address.
fn receipt_remark(
    settings: &Settings, snapshot: &RulesetSnapshot, to: PacketFrom,
) -> Option<Finding> {
    let port = settings.knock.port;
    let PacketFrom { v6, ip } = to;
    // It leaves by a raw socket, without a connection: its knock was dropped unseen.
    let packet = TracedPacket { from: Some(port), target: ip, ..TracedPacket::new(v6, Proto::Udp) };
    let trace = trace_packet(snapshot, "output", &settings.firewall.table, &packet);
    receipt_text(port, v6, &trace)
}

fn range_remark(
    settings: &Settings, snapshot: &RulesetSnapshot, service: &Service, range: PortRange, v6: bool,
) -> Option<Finding> {
    let from = PacketFrom { v6, ip: None };
    let end =
        |number| traces(settings, snapshot, service, range, number, from)?.remark(service.mode);
    end(range.first).or_else(|| end(range.last))
}

/// What happens to packets to one port, `number`, of `range`. `None`: in this family nobody is let
/// in anyway.
fn traces(
    settings: &Settings, snapshot: &RulesetSnapshot, service: &Service, range: PortRange,
    number: u16, from: PacketFrom,
) -> Option<PortTraces> {
    let PacketFrom { v6, ip: from } = from;
    let firewall = &settings.firewall;
    let port = Port { proto: range.proto, number };
    let led = led_on(settings, snapshot, port, v6);
    let inner = match (&service.forward, &led) {
        (Some(forward), _) => Some(forward.target(v6)?),
        (None, Some(led)) => Some(led.to),
        (None, None) => None,
    };
    let trace = |mark| {
        // Granted packets of a forwarded service go on to the inner port; others are not
        // translated. A rule of others translates both.
        let inner = inner.filter(|_| mark != 0 || service.forward.is_none());
        let before = TracedPacket {
            to: Some(port.number),
            mark,
            source: from,
            ..TracedPacket::new(v6, port.proto)
        };
        let (hook, after) = match inner {
            Some(inner) => {
                let (to, target) = (Some(inner.port()), Some(inner.ip()));
                ("forward", TracedPacket { to, target, ..before })
            }
            None => ("input", before),
        };
        // Our own chain comes in between.
        let before = trace_packet(snapshot, "prerouting", &firewall.table, &before);
        let after = trace_packet(snapshot, hook, &firewall.table, &after);
        Trace {
            dropped: before.dropped.or(after.dropped),
            possible: [before.possible, after.possible].concat(),
            steps: [before.steps, after.steps].concat(),
        }
    };
    let numbers = match inner {
        Some(inner) => inner.port().to_string(),
        None => range.numbers(),
    };
    let rule = match service.mode {
        Mode::Guard => advice::to_ports(port.proto, &numbers),
        Mode::Mark => advice::marked(firewall),
    };
    let mut what = format!("{range} (service {}) over {}", service.name, family(v6));
    if let Some(LedOn { to, place }) = &led {
        what += &format!(", led on to {to} by {place},");
    }
    let is_led = led.is_some();
    Some(PortTraces { what, rule, is_led, granted: trace(firewall.mark), stranger: trace(0) })
}

/// Where a rule of others leads packets, and the rule.
struct LedOn {
    to: SocketAddr,
    place: RulePlace,
}

/// Where packets for this port go on to another machine or a container, as Docker's go.
fn led_on(settings: &Settings, snapshot: &RulesetSnapshot, port: Port, v6: bool) -> Option<LedOn> {
    let all = translations(snapshot, &settings.firewall.table);
    let Translation { to, place, .. } = all.into_iter().find(|one| one.takes(port, v6))?;
    let LeadsTo::Host { ip, port: number } = to else { return None };
    let is_own = addresses::own().unwrap_or_default().iter().any(|own| own.address == ip);
    let to = SocketAddr::new(ip, number.unwrap_or(port.number));
    if is_own { None } else { Some(LedOn { to, place }) }
}

impl PortTraces {
    /// The sentence about a port that is certainly dropped even under a grant.
    fn dropped(&self) -> Option<String> {
        let place = self.granted.dropped.as_ref()?;
        if first(&self.granted, TraceEffect::Accept).is_some() {
            return None;
        }
        let PortTraces { what, rule, .. } = self;
        let command = place.accept_before(rule);
        Some(format!("{what} is dropped even under a grant, by {place}; {command}"))
    }

    /// The remark about the port.
    fn remark(&self, mode: Mode) -> Option<Finding> {
        if let Some(dropped) = self.dropped() {
            return Some(Finding::warning(dropped));
        }
        let PortTraces { what, granted, stranger, .. } = self;
        if let Some(place) = &granted.dropped {
            let other = first(granted, TraceEffect::Accept)?;
            return Some(Finding::note(format!(
                "{what} is dropped even under a grant, by {place}, unless {other} accepts it; \
                 `check` cannot tell"
            )));
        }
        if mode == Mode::Mark {
            if stranger.dropped.is_none() {
                return Some(match first(stranger, TraceEffect::Drop) {
                    None => Finding::warning(format!(
                        "{what} is OPEN TO EVERYBODY: in mark mode your own firewall must drop it, \
                         and none of its rules does; use mode = \"guard\", or a drop policy"
                    )),
                    Some(place) => Finding::warning(format!(
                        "{what} may be open to everybody: only {place} drops it, and perhaps not \
                         always"
                    )),
                });
            }
            if let Some(place) = first(stranger, TraceEffect::Accept) {
                if self.is_led {
                    return Some(Finding::warning(format!(
                        "{what} is OPEN TO EVERYBODY that {place} lets in: your input rules do not \
                         see it; set mode = \"guard\" for the service"
                    )));
                }
                return Some(Finding::note(format!(
                    "{what} may be open to some without a grant: {place} accepts some packets"
                )));
            }
        }
        let place = first(granted, TraceEffect::Drop)?;
        Some(Finding::note(format!(
            "{what} may be dropped even under a grant, by {place}: it comes before the rule that \
             accepts it"
        )))
    }
}

fn receipt_text(port: u16, v6: bool, trace: &Trace) -> Option<Finding> {
    let place = trace.dropped.as_ref()?;
    let what = format!("receipts over {} are dropped by {place}", family(v6));
    Some(match first(trace, TraceEffect::Accept) {
        None => {
            let command = place.accept_before(&advice::receipts(port));
            Finding::warning(format!("{what}: clients get no answer; {command}"))
        }
        Some(other) => {
            Finding::note(format!("{what}, unless {other} accepts them; `check` cannot tell"))
        }
    })
}

fn family(v6: bool) -> &'static str {
    if v6 { "IPv6" } else { "IPv4" }
}

fn first(trace: &Trace, effect: TraceEffect) -> Option<&RulePlace> {
    let (_, place) = trace.possible.iter().find(|(possible, _)| *possible == effect)?;
    Some(place)
}

/// What was checked, and what cannot be.
fn scope(settings: &Settings, snapshot: &RulesetSnapshot) -> String {
    let table = &settings.firewall.table;
    let mut line = format!(
        "your own firewall was read as nft lists it (chains: {} prerouting, {} input, {} \
         output). Not read: address translation, forwarding, tc, XDP, and firewalls in front of \
         this machine",
        snapshot.hooked("prerouting", table),
        snapshot.hooked("input", table),
        snapshot.hooked("output", table),
    );
    if !snapshot.elsewhere.is_empty() {
        line += &format!("; not tables of {}", snapshot.elsewhere.join(", "));
    }
    if !snapshot.legacy.is_empty() {
        line +=
            &format!("; NOT iptables-legacy, which has rules in {}", snapshot.legacy.join(", "));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::native;

    fn place(name: &str) -> RulePlace {
        RulePlace::policy("inet", "filter", name)
    }

    fn trace(dropped: Option<&str>, possible: &[(TraceEffect, &str)]) -> Trace {
        let possible = possible.iter().map(|(effect, name)| (effect.clone(), place(name)));
        Trace { dropped: dropped.map(place), possible: possible.collect(), ..Trace::default() }
    }

    fn text(mode: Mode, granted: &Trace, stranger: &Trace) -> String {
        let traces = PortTraces {
            what: "22/tcp".to_owned(),
            rule: advice::to_ports(Proto::Tcp, "22"),
            is_led: false,
            granted: granted.clone(),
            stranger: stranger.clone(),
        };
        traces.remark(mode).map(|finding| finding.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_the_kernel_did_with_a_packet_counts_more_than_what_was_read() {
        const PORT: Port = Port { proto: Proto::Tcp, number: 22 };
        const ARRIVED: Seen = Seen::Reached(PORT);
        let settings = native::parse("t", "[service.ssh]\nports = [\"22/tcp\"]\n").unwrap();
        let (service, ip) = (&settings.services[0], IpAddr::from([192, 0, 2, 7]));
        let path = |dropped: Option<&str>, seen| {
            let trace = PortTrace { trace: trace(dropped, &[]), seen };
            let ports = [(PORT, trace)].into();
            let traced = Traced { ports, receipt: None };
            let snapshot = RulesetSnapshot::default();
            let (mut paths, _) = paths(&settings, &snapshot, service, ip, Some(&traced));
            let path = paths.remove(0);
            (path.is_dropped, path.text())
        };
        assert_eq!(path(None, ARRIVED), (false, "22/tcp: no chain but ours sees it".to_owned()));
        let (is_dropped, text) = path(Some("input"), Seen::Refused);
        assert!(is_dropped && text.contains("by the policy of chain inet filter input"), "{text}");
        let (is_dropped, text) = path(None, Seen::Silent);
        assert!(is_dropped && text.contains("does not arrive even under a grant"), "{text}");
        assert!(!path(None, Seen::Refused).0, "nothing listens there");
        // A rule that leaves it to a program, and lets it through without one.
        assert!(!path(Some("input"), ARRIVED).0);
    }

    #[test]
    fn a_granted_packet_that_is_dropped_is_a_warning_with_the_missing_rule() {
        let dropped = trace(Some("input"), &[]);
        let line = "warning: 22/tcp is dropped even under a grant, by the policy of chain inet filter \
                    input; run `nft add rule inet filter input tcp dport 22 accept`";
        assert_eq!(text(Mode::Guard, &dropped, &dropped), line);
        let perhaps = trace(Some("input"), &[(TraceEffect::Accept, "other")]);
        let line = text(Mode::Guard, &perhaps, &perhaps);
        assert!(line.starts_with("note: ") && line.contains("filter other accepts it"), "{line}");
    }

    #[test]
    fn a_rule_that_may_drop_granted_packets_is_a_note_and_nothing_is_no_line() {
        let through = trace(None, &[]);
        assert_eq!(text(Mode::Guard, &through, &through), "");
        let perhaps = trace(None, &[(TraceEffect::Drop, "seven")]);
        let line = text(Mode::Guard, &perhaps, &through);
        assert!(line.starts_with("note: 22/tcp may be dropped even under a grant, by the policy of chain inet filter seven"), "{line}");
    }

    #[test]
    fn in_mark_mode_the_admins_firewall_must_drop_strangers() {
        let through = trace(None, &[]);
        let open = text(Mode::Mark, &through, &through);
        assert!(open.starts_with("warning: 22/tcp is OPEN TO EVERYBODY"), "{open}");
        let sometimes = trace(None, &[(TraceEffect::Drop, "seven")]);
        let open = text(Mode::Mark, &through, &sometimes);
        assert!(
            open.contains(
                "may be open to everybody: only the policy of chain inet filter seven drops it"
            ),
            "{open}"
        );
        let leak = trace(Some("output"), &[(TraceEffect::Accept, "eight")]);
        let open = text(Mode::Mark, &through, &leak);
        assert!(
            open.contains(
                "may be open to some without a grant: the policy of chain inet filter eight"
            ),
            "{open}"
        );
        assert_eq!(text(Mode::Mark, &through, &trace(Some("output"), &[])), "");
        assert_eq!(text(Mode::Guard, &through, &leak), "", "only in mark mode");
    }

    #[test]
    fn receipts_that_are_dropped_are_reported_for_each_family() {
        assert_eq!(receipt_text(62201, false, &trace(None, &[])), None);
        assert_eq!(
            receipt_text(62201, true, &trace(Some("output"), &[])).unwrap().to_string(),
            "warning: receipts over IPv6 are dropped by the policy of chain inet filter output: clients \
             get no answer; run `nft add rule inet filter output udp sport 62201 accept`"
        );
        let perhaps = trace(Some("output"), &[(TraceEffect::Accept, "nine")]);
        let line = receipt_text(62201, false, &perhaps).unwrap().to_string();
        assert!(line.starts_with("note: receipts over IPv4 are dropped by the policy"), "{line}");
        assert!(line.contains("unless the policy of chain inet filter nine accepts"), "{line}");
    }

    #[test]
    fn an_empty_ruleset_leaves_mark_mode_open_and_the_scope_names_what_was_not_checked() {
        let text = "[service.ssh]\nports = [\"22/tcp\"]\nmode = \"mark\"\n";
        let settings = native::parse("t", text).unwrap();
        let mut snapshot = RulesetSnapshot::default();
        snapshot.elsewhere.push("netdev".into());
        snapshot.legacy.push("filter (ip)".into());
        let findings = remarks(&settings, &snapshot);
        let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
        let open = lines.iter().filter(|line| line.contains("OPEN TO EVERYBODY")).count();
        assert_eq!(open, 2, "one line for each family: {lines:#?}");
        assert!(lines[2].contains("mark mode needs this rule in your firewall"), "{lines:#?}");
        let scope = lines.last().unwrap();
        assert!(scope.contains("(chains: 0 prerouting, 0 input, 0 output)"), "{scope}");
        assert!(scope.contains("; not tables of netdev; NOT iptables-legacy"), "{scope}");
        assert!(scope.ends_with("rules in filter (ip)"), "{scope}");
    }
}
