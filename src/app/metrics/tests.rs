//! The two forms, read by a parser of our own that is as strict as the standards are.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::app::admin::ServiceGrants;
use crate::app::admin::tests::sound;

fn overview() -> GatewayOverview {
    let mut status = sound();
    status.packets = PacketCounts {
        received: 100,
        lost: 1,
        granted: 20,
        closed: 3,
        probes: 4,
        time: 5,
        joined: 2,
        doors: 15,
        waiting: 10,
        rejected: vec![("unknown-tag".to_owned(), 30), ("policy".to_owned(), 10)],
        filtered: vec![("unknown-tag".to_owned(), 25)],
    };
    let at = |interface: &str, mode: &str| XdpStatus {
        interface: interface.to_owned(),
        mode: mode.to_owned(),
        why: (mode == "none").then(|| "there is none".to_owned()),
    };
    status.xdp = vec![at("eth0", "native"), at("wg0", "none")];
    status.xdp_dropped = 21;
    let service =
        |name: &str, grants| ServiceGrants { service: name.to_owned(), grants, max_grants: 4096 };
    GatewayOverview {
        status,
        services: vec![service("ssh", 2), service("web", 1)],
        clients: Vec::new(),
        events: Vec::new(),
        time: "14:03:20".to_owned(),
    }
}

fn metrics() -> Metrics {
    let events = vec![("granted".to_owned(), 20), ("alarm".to_owned(), 1)];
    Metrics { overview: overview(), events }
}

/// The samples of a text, each by its name and labels. Panics at the first thing that a strict
/// reader would refuse.
pub(crate) fn samples(text: &str, form: MetricsForm) -> BTreeMap<String, u64> {
    let mut samples = BTreeMap::new();
    let mut families = BTreeSet::new();
    let mut family = (String::new(), String::new());
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "# EOF" {
            assert!(form == MetricsForm::OpenMetrics && lines.peek().is_none(), "it is the last");
            return samples;
        }
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help");
            assert!(families.insert(name.to_owned()), "{name} is there once, all in one place");
            assert!(help.ends_with('.') && !help.contains('\\'), "{help}");
            let kind = lines.next().and_then(|line| line.strip_prefix(&format!("# TYPE {name} ")));
            family = (name.to_owned(), kind.expect("a type").to_owned());
            continue;
        }
        let (key, value) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = key.split_once('{').unwrap_or((key, "}"));
        let suffix = name.strip_prefix(&family.0).expect("a sample of this family");
        let expected = match (form, family.1.as_str()) {
            (MetricsForm::OpenMetrics, "counter") => "_total",
            (MetricsForm::OpenMetrics, "info") => "_info",
            (_, "gauge" | "counter") => "",
            (_, kind) => panic!("no such type: {kind}"),
        };
        assert_eq!(suffix, expected, "{line}");
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
        let is_counter = family.1 == "counter";
        assert_eq!(name.ends_with("_total"), is_counter, "only counters end so: {name}");
        let labels = labels.strip_suffix('}').expect("labels end");
        for label in labels.split(',').filter(|label| !label.is_empty()) {
            let (label, value) = label.split_once("=\"").expect("a label");
            assert!(
                ["version", "verdict", "reason", "event", "service", "interface", "mode"]
                    .contains(&label),
                "{label}"
            );
            assert!(value.ends_with('"') && value.matches('"').count() == 1, "{value}");
        }
        let value: u64 = value.parse().expect("a number");
        assert!(samples.insert(key.to_owned(), value).is_none(), "{key} is there once");
    }
    assert_eq!(form, MetricsForm::Prometheus, "OpenMetrics ends with its mark");
    samples
}

#[test]
fn both_forms_are_read_by_a_strict_parser_and_say_the_same() {
    let [open, older] = [MetricsForm::OpenMetrics, MetricsForm::Prometheus]
        .map(|form| samples(&render(&metrics(), form), form));
    assert_eq!(open, older);
    assert_eq!(open["toctoc_grants{service=\"ssh\"}"], 2);
    assert_eq!(open["toctoc_events_total{event=\"alarm\"}"], 1);
    assert_eq!(open["toctoc_rejected_total{reason=\"quota\"}"], 0, "also what never happened");
    assert_eq!(open["toctoc_filtered_total{reason=\"unknown-tag\"}"], 25);
    assert_eq!(open["toctoc_xdp_dropped_total"], 21);
    assert_eq!(open["toctoc_xdp{interface=\"eth0\",mode=\"native\"}"], 1);
    assert_eq!(open["toctoc_xdp{interface=\"wg0\",mode=\"none\"}"], 0);
    assert!(open.len() > 40, "{open:#?}");
}

/// The sum of all series that a packet can be counted in.
pub(crate) fn accounted(samples: &BTreeMap<String, u64>) -> u64 {
    let names = [
        "toctoc_knocks_total",
        "toctoc_rejected_total",
        "toctoc_door_packets_total",
        "toctoc_waiting",
    ];
    let of_packets = |key: &String| names.iter().any(|name| key.starts_with(name));
    samples.iter().filter(|(key, _)| of_packets(key)).map(|(_, value)| value).sum()
}

#[test]
fn what_was_received_is_the_sum_of_what_became_of_it() {
    let form = MetricsForm::OpenMetrics;
    let samples = samples(&render(&metrics(), form), form);
    assert_eq!(accounted(&samples), samples["toctoc_received_total"]);
}

#[test]
fn every_reason_that_there_is_has_its_series_and_no_other() {
    let mut metrics = metrics();
    metrics.overview.status.packets.rejected =
        Reject::ALL.iter().zip(1..).map(|(reject, n)| (reject.name().to_owned(), n)).collect();
    let form = MetricsForm::Prometheus;
    let samples = samples(&render(&metrics, form), form);
    for (reject, number) in Reject::ALL.iter().zip(1..) {
        let key = format!("toctoc_rejected_total{{reason=\"{}\"}}", reject.name());
        assert_eq!(samples[&key], number);
    }
}

#[test]
fn a_label_cannot_end_early() {
    let mut page = Page { form: MetricsForm::Prometheus, text: String::new() };
    page.sample("x", &[("a", "b\"} 1\nx\\")], 7);
    assert_eq!(page.text, "x{a=\"b\\\"} 1\\nx\\\\\"} 7\n");
}
