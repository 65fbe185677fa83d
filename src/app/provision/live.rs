//! `toctocd check` beside the live firewall: what others' rules do to what our grants let in, and
//! to receipts. Following a packet through them is left to `edge::firewall::course`.

use crate::config::{Mode, Service, Settings};
use crate::core::types::{Port, Proto};
use crate::edge::firewall::advice;
use crate::edge::firewall::packet_trace::{Trace, TraceEffect, TracedPacket, trace_packet};
use crate::edge::firewall::ruleset_snapshot::RulesetSnapshot;

/// What is worth saying, as whole lines of `check`.
pub(super) fn remarks(settings: &Settings) -> Vec<String> {
    match RulesetSnapshot::take(&settings.firewall) {
        Ok(survey) => about(settings, &survey),
        Err(fault) => vec![format!("note: the live firewall was not looked at: {}", fault.what)],
    }
}

fn about(settings: &Settings, survey: &RulesetSnapshot) -> Vec<String> {
    let mut lines = Vec::new();
    for service in &settings.services {
        for port in &service.ports {
            for v6 in [false, true] {
                lines.extend(about_port(settings, survey, service, *port, v6));
            }
        }
    }
    lines.extend([false, true].into_iter().filter_map(|v6| about_receipts(settings, survey, v6)));
    if settings.services.iter().any(|service| service.mode == Mode::Mark) {
        let rule = advice::let_marked_in(&settings.firewall);
        lines.push(format!("note: mark mode needs this rule in your firewall, before all that drops:\n  nft:      {}\n  iptables: {} (and ip6tables)", rule.nft, rule.iptables));
    }
    lines.push(scope(settings, survey));
    lines
}

fn about_port(
    settings: &Settings,
    survey: &RulesetSnapshot,
    service: &Service,
    port: Port,
    v6: bool,
) -> Option<String> {
    let firewall = &settings.firewall;
    // Granted flows of a service that leads elsewhere are passed on, to the inner port; strangers'
    // are not translated.
    let inner = service.forward.as_ref().map(|forward| forward.target(v6));
    // In a family without an inner host nobody is let in anyway.
    let inner = if inner == Some(None) { return None } else { inner.flatten() };
    let course = |mark| {
        let led = inner.filter(|_| mark != 0);
        let (hook, to) = led.map_or(("input", port.number), |inner| ("forward", inner.port()));
        let packet =
            TracedPacket { v6, proto: port.proto, from: None, to: Some(port.number), mark };
        // Our own chain has had it before; what is left is what comes before and after it, up to
        // the service.
        let before = trace_packet(survey, "prerouting", &firewall.table, &packet);
        let within =
            trace_packet(survey, hook, &firewall.table, &TracedPacket { to: Some(to), ..packet });
        let perhaps = [before.possible, within.possible].concat();
        Trace { dropped: before.dropped.or(within.dropped), possible: perhaps }
    };
    let (granted, stranger) = (course(firewall.mark), course(0));
    let what =
        format!("{port} (service {}) over {}", service.name, if v6 { "IPv6" } else { "IPv4" });
    let add = match service.mode {
        Mode::Guard => {
            format!(
                "`{} dport {} accept`",
                port.proto.name(),
                inner.map_or(port.number, |inner| inner.port())
            )
        }
        Mode::Mark => format!("`{}`", advice::let_marked_in(firewall).nft),
    };
    if let Some(place) = &granted.dropped {
        return Some(match first(&granted, &TraceEffect::Accept) {
            None => format!(
                "warning: {what} is dropped even under a grant, by {place}: put {add} before it"
            ),
            Some(other) => format!(
                "note: {what} is dropped even under a grant, by {place}, unless {other} lets it in, which cannot be told from here"
            ),
        });
    }
    if service.mode == Mode::Mark && stranger.dropped.is_none() {
        return Some(match first(&stranger, &TraceEffect::Drop) {
            None => format!(
                "warning: {what} is OPEN TO EVERYBODY: in mark mode your own firewall must drop it, and no rule of it does: take mode = \"guard\", or a policy that drops"
            ),
            Some(place) => {
                format!(
                    "warning: {what} may be open to everybody: only {place} drops it, and perhaps not all of it"
                )
            }
        });
    }
    if service.mode == Mode::Mark
        && stranger.possible.iter().any(|(effect, _)| *effect == TraceEffect::Accept)
    {
        let place = first(&stranger, &TraceEffect::Accept).unwrap_or_default();
        return Some(format!(
            "note: {what} may be open to some without a grant: {place} lets some in"
        ));
    }
    let place = first(&granted, &TraceEffect::Drop)?;
    Some(format!(
        "note: {what} may be dropped even under a grant, by {place}: it comes before what lets it in"
    ))
}

/// A receipt goes out by a raw socket, under no connection: the knock that it answers was dropped
/// unseen.
fn about_receipts(settings: &Settings, survey: &RulesetSnapshot, v6: bool) -> Option<String> {
    let port = settings.knock.port;
    let packet = TracedPacket { v6, proto: Proto::Udp, from: Some(port), to: None, mark: 0 };
    let course = trace_packet(survey, "output", &settings.firewall.table, &packet);
    let family = if v6 { "IPv6" } else { "IPv4" };
    let place = course.dropped.clone()?;
    Some(match first(&course, &TraceEffect::Accept) {
        None => format!(
            "warning: receipts over {family} are kept in by {place}: clients are told nothing; put `udp sport {port} accept` before it"
        ),
        Some(other) => format!(
            "note: receipts over {family} are kept in by {place}, unless {other} lets them out, which cannot be told from here"
        ),
    })
}

fn first(course: &Trace, effect: &TraceEffect) -> Option<String> {
    course.possible.iter().find(|(one, _)| one == effect).map(|(_, place)| place.clone())
}

/// What was looked at, and what cannot be.
fn scope(settings: &Settings, survey: &RulesetSnapshot) -> String {
    let count = |hook| survey.hooked(hook, &settings.firewall.table);
    let mut line = format!(
        "note: looked at what nft lists: {} chains in prerouting, {} in input, {} in output; not at address translation, forwarding, tc, XDP, \
         or firewalls in front of this machine",
        count("prerouting"),
        count("input"),
        count("output"),
    );
    if !survey.elsewhere.is_empty() {
        line += &format!("; not at tables of {}", survey.elsewhere.join(", "));
    }
    if !survey.legacy.is_empty() {
        line +=
            &format!("; NOT AT iptables-legacy, which has rules in {}", survey.legacy.join(", "));
    }
    line
}
