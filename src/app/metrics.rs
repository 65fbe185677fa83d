//! `toctocd metrics`: what the gateway counts, as OpenMetrics and in the older text of Prometheus.
//! No label is a client or an address: what strangers send must not make new series.
//! See `service` for the textfile and the listener.

use super::admin::{self, GatewayOverview, GatewayStatus, PacketCounts, XdpStatus};
use super::load::Reach;
use super::output::CommandOutput;
use crate::config::Settings;
use crate::core::types::{Fault, Reject};

pub mod service;

/// The two forms, which differ in the names of counters and in the last line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsForm {
    OpenMetrics,
    /// Version 0.0.4, for node_exporter's textfiles and for promtool.
    Prometheus,
}

/// What is measured at one moment.
pub struct Metrics {
    pub overview: GatewayOverview,
    /// The number of events of each kind.
    pub events: Vec<(String, u64)>,
}

/// `toctocd metrics`.
pub fn metrics(reach: &Reach, form: MetricsForm) -> Result<CommandOutput, Fault> {
    let text = render(&ask(&reach.settings)?, form);
    let mut samples = serde_json::Map::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some((name, number)) = line.rsplit_once(' ') {
            samples.insert(name.to_owned(), number.parse::<u64>().unwrap_or_default().into());
        }
    }
    let value = Some(serde_json::json!({ "samples": samples }));
    Ok(CommandOutput { value, ..CommandOutput::data(text) })
}

/// Asks the running gateway.
pub fn ask(settings: &Settings) -> Result<Metrics, Fault> {
    let events = admin::ask_event_counts(settings)?;
    Ok(Metrics { overview: admin::ask_overview(settings)?, events })
}

/// All metrics as text.
pub fn render(Metrics { overview, events }: &Metrics, form: MetricsForm) -> String {
    let status = &overview.status;
    let mut page = Page { form, text: String::new() };
    page.family("toctoc_build", "info", "The version of the gateway.");
    page.sample("toctoc_build_info", &[("version", &status.version)], 1);
    page.gauge("toctoc_start_time_seconds", "When the gateway started.", status.started);
    packets(&mut page, &status.packets);
    page.family("toctoc_events", "counter", "Events in the log, by kind.");
    for (kind, number) in events {
        page.sample("toctoc_events_total", &[("event", kind)], *number);
    }
    page.family("toctoc_grants", "gauge", "Live grants, by service.");
    for service in &overview.services {
        page.sample("toctoc_grants", &[("service", &service.service)], service.grants.into());
    }
    page.family("toctoc_grants_limit", "gauge", "The most live grants, by service.");
    for service in &overview.services {
        let limit = service.max_grants.into();
        page.sample("toctoc_grants_limit", &[("service", &service.service)], limit);
    }
    states(&mut page, overview);
    xdp(&mut page, &overview.status);
    if form == MetricsForm::OpenMetrics {
        page.text += "# EOF\n";
    }
    page.text
}

/// Every packet is in exactly one series but the first: that is the sum of the others.
fn packets(page: &mut Page, packets: &PacketCounts) {
    page.family("toctoc_received", "counter", "Packets that reached the gateway for it.");
    page.sample("toctoc_received_total", &[], packets.received);
    page.family("toctoc_knocks", "counter", "Knocks that got what they asked for, by verdict.");
    for (verdict, number) in [
        ("granted", packets.granted),
        ("closed", packets.closed),
        ("probe", packets.probes),
        ("time", packets.time),
        ("joined", packets.joined),
    ] {
        page.sample("toctoc_knocks_total", &[("verdict", verdict)], number);
    }
    page.family("toctoc_door_packets", "counter", "Packets that went to the doors.");
    page.sample("toctoc_door_packets_total", &[], packets.doors);
    page.family("toctoc_rejected", "counter", "Packets that opened nothing, by reason.");
    page.sample("toctoc_rejected_total", &[("reason", "lost")], packets.lost);
    for reject in Reject::ALL {
        let found = packets.rejected.iter().find(|(name, _)| name == reject.name());
        let number = found.map_or(0, |(_, number)| *number);
        page.sample("toctoc_rejected_total", &[("reason", reject.name())], number);
    }
    let help = "Rejected packets that the kernel's filter dropped, by reason.";
    page.family("toctoc_filtered", "counter", help);
    for reject in [Reject::UnknownTag, Reject::Length, Reject::FirstStep] {
        let found = packets.filtered.iter().find(|(name, _)| name == reject.name());
        let number = found.map_or(0, |(_, number)| *number);
        page.sample("toctoc_filtered_total", &[("reason", reject.name())], number);
    }
    page.gauge("toctoc_waiting_knocks", "Knocks that have no answer yet.", packets.waiting);
}

fn states(page: &mut Page, overview: &GatewayOverview) {
    let status = &overview.status;
    let number = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    for (name, help, value) in [
        ("toctoc_clients", "Enrolled clients.", number(status.clients)),
        ("toctoc_services", "Configured services.", number(status.services)),
        ("toctoc_doors", "Configured classic doors.", number(status.doors)),
        ("toctoc_guard_up", "1 if the guard was as loaded at the last look.", status.guard.into()),
        ("toctoc_guard_off", "1 if an admin or a trial turned it off.", status.guard_off.into()),
        (
            "toctoc_listener_up",
            "1 if a listener receives knocks.",
            (!status.interfaces.is_empty()).into(),
        ),
        ("toctoc_clock_sure", "1 if timestamps are trusted.", (status.clock == "sure").into()),
        ("toctoc_state_intact", "1 if no state was lost.", (status.state == "intact").into()),
        ("toctoc_limitations", "What is degraded: see status.", number(status.degraded.len())),
    ] {
        page.gauge(name, help, value);
    }
}

/// No series without the setting.
fn xdp(page: &mut Page, status: &GatewayStatus) {
    if status.xdp.is_empty() {
        return;
    }
    page.family("toctoc_xdp_dropped", "counter", "Packets among the filtered ones, by XDP.");
    page.sample("toctoc_xdp_dropped_total", &[], status.xdp_dropped);
    let help = "1 if XDP drops junk at this interface, by mode; none: see status.";
    page.family("toctoc_xdp", "gauge", help);
    for XdpStatus { interface, mode, .. } in &status.xdp {
        let labels = [("interface", interface.as_str()), ("mode", mode.as_str())];
        page.sample("toctoc_xdp", &labels, u64::from(mode != "none"));
    }
}

struct Page {
    form: MetricsForm,
    text: String,
}

impl Page {
    /// Begins a family. `name` is without the suffix of its samples.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let (name, kind) = match (self.form, kind) {
            (MetricsForm::OpenMetrics, kind) => (name.to_owned(), kind),
            // The older form has no infos, and calls a counter by the name of its samples.
            (MetricsForm::Prometheus, "info") => (format!("{name}_info"), "gauge"),
            (MetricsForm::Prometheus, "counter") => (format!("{name}_total"), "counter"),
            (MetricsForm::Prometheus, kind) => (name.to_owned(), kind),
        };
        self.text += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        let mut words = Vec::new();
        for (name, value) in labels {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            words.push(format!("{name}=\"{value}\""));
        }
        let labels = match words.is_empty() {
            true => String::new(),
            false => format!("{{{}}}", words.join(",")),
        };
        self.text += &format!("{name}{labels} {value}\n");
    }
}

#[cfg(test)]
pub(crate) mod tests;
