//! `toctocd check` against the live firewall: what the rules of others do to granted packets and to
//! receipts.

use crate::config::{Mode, Service, Settings};
use crate::core::types::{Port, PortRange, Proto};
use crate::edge::firewall::advice;
use crate::edge::firewall::packet_trace::{Trace, TraceEffect, TracedPacket, trace_packet};
use crate::edge::firewall::ruleset_snapshot::RulesetSnapshot;

/// Remarks about the live firewall, as whole lines of `check`.
pub(super) fn remarks(settings: &Settings) -> Vec<String> {
    match RulesetSnapshot::take(&settings.firewall) {
        Ok(snapshot) => remarks_on(settings, &snapshot),
        Err(fault) => vec![format!("note: the live firewall was not checked: {}", fault.what)],
    }
}

fn remarks_on(settings: &Settings, snapshot: &RulesetSnapshot) -> Vec<String> {
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
        let port = settings.knock.port;
        // A receipt leaves by a raw socket, without a connection: its knock was dropped unseen.
        let packet = TracedPacket { v6, proto: Proto::Udp, from: Some(port), to: None, mark: 0 };
        let trace = trace_packet(snapshot, "output", &settings.firewall.table, &packet);
        lines.extend(receipt_text(port, v6, &trace));
    }
    if settings.services.iter().any(|service| service.mode == Mode::Mark) {
        lines.push(format!(
            "note: mark mode needs this rule in your firewall, before everything that drops:\n  \
             nft:      {}\n  iptables: {} (and ip6tables)",
            advice::let_marked_in(&settings.firewall),
            advice::let_marked_in_by_iptables(&settings.firewall)
        ));
    }
    lines.push(scope(settings, snapshot));
    lines
}

fn range_remark(
    settings: &Settings, snapshot: &RulesetSnapshot, service: &Service, range: PortRange, v6: bool,
) -> Option<String> {
    let PortRange { proto, first, last } = range;
    let end = |number| port_remark(settings, snapshot, service, range, Port { proto, number }, v6);
    end(first).or_else(|| end(last))
}

/// The remark about `range`, from what happens to packets to one `port` of it.
fn port_remark(
    settings: &Settings, snapshot: &RulesetSnapshot, service: &Service, range: PortRange,
    port: Port, v6: bool,
) -> Option<String> {
    let firewall = &settings.firewall;
    let inner = match &service.forward {
        // In a family without an inner host nobody is let in anyway.
        Some(forward) => Some(forward.target(v6)?),
        None => None,
    };
    let trace = |mark| {
        // Granted packets of a forwarded service go on to the inner port; others are not
        // translated.
        let (hook, to) = match inner {
            Some(inner) if mark != 0 => ("forward", inner.port()),
            _ => ("input", port.number),
        };
        let before =
            TracedPacket { v6, proto: port.proto, from: None, to: Some(port.number), mark };
        let after = TracedPacket { to: Some(to), ..before };
        // Our own chain comes in between.
        let before = trace_packet(snapshot, "prerouting", &firewall.table, &before);
        let after = trace_packet(snapshot, hook, &firewall.table, &after);
        Trace {
            dropped: before.dropped.or(after.dropped),
            possible: [before.possible, after.possible].concat(),
        }
    };
    let numbers = match inner {
        Some(inner) => inner.port().to_string(),
        None => range.numbers(),
    };
    let rule = match service.mode {
        Mode::Guard => format!("{} dport {numbers} accept", port.proto.name()),
        Mode::Mark => advice::let_marked_in(firewall),
    };
    let what = format!("{range} (service {}) over {}", service.name, family(v6));
    port_text(service.mode, &what, &rule, &trace(firewall.mark), &trace(0))
}

/// The remark about one port: the traces of a granted packet and of a stranger's. `rule` lets the
/// granted packet in.
fn port_text(
    mode: Mode, what: &str, rule: &str, granted: &Trace, stranger: &Trace,
) -> Option<String> {
    if let Some(place) = &granted.dropped {
        return Some(match first(granted, TraceEffect::Accept) {
            None => format!(
                "warning: {what} is dropped even under a grant, by {place}: put `{rule}` before it"
            ),
            Some(other) => format!(
                "note: {what} is dropped even under a grant, by {place}, unless {other} accepts it; `check` cannot tell"
            ),
        });
    }
    if mode == Mode::Mark {
        if stranger.dropped.is_none() {
            return Some(match first(stranger, TraceEffect::Drop) {
                None => format!(
                    "warning: {what} is OPEN TO EVERYBODY: in mark mode your own firewall must drop it, and none of its rules does; \
                     use mode = \"guard\", or a drop policy"
                ),
                Some(place) => format!(
                    "warning: {what} may be open to everybody: only {place} drops it, and perhaps not always"
                ),
            });
        }
        if let Some(place) = first(stranger, TraceEffect::Accept) {
            return Some(format!(
                "note: {what} may be open to some without a grant: {place} accepts some packets"
            ));
        }
    }
    let place = first(granted, TraceEffect::Drop)?;
    Some(format!(
        "note: {what} may be dropped even under a grant, by {place}: it comes before the rule that accepts it"
    ))
}

fn receipt_text(port: u16, v6: bool, trace: &Trace) -> Option<String> {
    let place = trace.dropped.as_ref()?;
    let what = format!("receipts over {} are dropped by {place}", family(v6));
    Some(match first(trace, TraceEffect::Accept) {
        None => format!(
            "warning: {what}: clients get no answer; put `udp sport {port} accept` before it"
        ),
        Some(other) => format!("note: {what}, unless {other} accepts them; `check` cannot tell"),
    })
}

fn family(v6: bool) -> &'static str {
    if v6 { "IPv6" } else { "IPv4" }
}

fn first(trace: &Trace, effect: TraceEffect) -> Option<&str> {
    let (_, place) = trace.possible.iter().find(|(possible, _)| *possible == effect)?;
    Some(place)
}

/// What was checked, and what cannot be.
fn scope(settings: &Settings, snapshot: &RulesetSnapshot) -> String {
    let table = &settings.firewall.table;
    let mut line = format!(
        "note: checked what nft lists: {} chains in prerouting, {} in input, {} in output; not address translation, \
         forwarding, tc, XDP, or firewalls in front of this machine",
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

    fn trace(dropped: Option<&str>, possible: &[(TraceEffect, &str)]) -> Trace {
        let possible = possible.iter().map(|(effect, place)| (effect.clone(), (*place).into()));
        Trace { dropped: dropped.map(str::to_owned), possible: possible.collect() }
    }

    fn text(mode: Mode, granted: &Trace, stranger: &Trace) -> String {
        port_text(mode, "22/tcp", "tcp dport 22 accept", granted, stranger).unwrap_or_default()
    }

    #[test]
    fn a_granted_packet_that_is_dropped_is_a_warning_with_the_missing_rule() {
        let dropped = trace(Some("inet filter input"), &[]);
        let line = "warning: 22/tcp is dropped even under a grant, by inet filter input: put `tcp dport 22 accept` before it";
        assert_eq!(text(Mode::Guard, &dropped, &dropped), line);
        let perhaps = trace(Some("policy"), &[(TraceEffect::Accept, "rule 7")]);
        let line = text(Mode::Guard, &perhaps, &perhaps);
        assert!(line.starts_with("note: ") && line.contains("unless rule 7 accepts it"), "{line}");
    }

    #[test]
    fn a_rule_that_may_drop_granted_packets_is_a_note_and_nothing_is_no_line() {
        let through = trace(None, &[]);
        assert_eq!(text(Mode::Guard, &through, &through), "");
        let perhaps = trace(None, &[(TraceEffect::Drop, "rule 7")]);
        let line = text(Mode::Guard, &perhaps, &through);
        assert!(line.starts_with("note: 22/tcp may be dropped even under a grant, by rule 7"));
    }

    #[test]
    fn in_mark_mode_the_admins_firewall_must_drop_strangers() {
        let through = trace(None, &[]);
        let open = text(Mode::Mark, &through, &through);
        assert!(open.starts_with("warning: 22/tcp is OPEN TO EVERYBODY"), "{open}");
        let sometimes = trace(None, &[(TraceEffect::Drop, "rule 7")]);
        let open = text(Mode::Mark, &through, &sometimes);
        assert!(open.contains("may be open to everybody: only rule 7 drops it"), "{open}");
        let leak = trace(Some("policy"), &[(TraceEffect::Accept, "rule 8")]);
        let open = text(Mode::Mark, &through, &leak);
        assert!(open.contains("may be open to some without a grant: rule 8"), "{open}");
        assert_eq!(text(Mode::Mark, &through, &trace(Some("policy"), &[])), "");
        assert_eq!(text(Mode::Guard, &through, &leak), "", "only in mark mode");
    }

    #[test]
    fn receipts_that_are_dropped_are_reported_for_each_family() {
        assert_eq!(receipt_text(62201, false, &trace(None, &[])), None);
        assert_eq!(
            receipt_text(62201, true, &trace(Some("policy"), &[])).unwrap(),
            "warning: receipts over IPv6 are dropped by policy: clients get no answer; put `udp sport 62201 accept` before it"
        );
        let perhaps = trace(Some("policy"), &[(TraceEffect::Accept, "rule 9")]);
        let line = receipt_text(62201, false, &perhaps).unwrap();
        assert!(line.starts_with("note: receipts over IPv4 are dropped by policy, unless rule 9"));
    }

    #[test]
    fn an_empty_ruleset_leaves_mark_mode_open_and_the_scope_names_what_was_not_checked() {
        let text = "[service.ssh]\nports = [\"22/tcp\"]\nmode = \"mark\"\n";
        let settings = native::parse("t", text).unwrap();
        let mut snapshot = RulesetSnapshot::default();
        snapshot.elsewhere.push("netdev".into());
        snapshot.legacy.push("filter (ip)".into());
        let lines = remarks_on(&settings, &snapshot);
        let open = lines.iter().filter(|line| line.contains("OPEN TO EVERYBODY")).count();
        assert_eq!(open, 2, "one line for each family: {lines:#?}");
        assert!(lines[2].contains("mark mode needs this rule in your firewall"), "{lines:#?}");
        let scope = lines.last().unwrap();
        assert!(scope.contains("0 chains in prerouting, 0 in input, 0 in output"), "{scope}");
        assert!(scope.contains("; not tables of netdev; NOT iptables-legacy"), "{scope}");
        assert!(scope.ends_with("rules in filter (ip)"), "{scope}");
    }
}
