//! The way of a granted packet, traced by the kernel: real packets in a copy of this host's network,
//! with the element of the grant in the copy's guard.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::app::audit::{Person, coming_from, places};
use crate::config::Settings;
use crate::core::grants::{Change, Element};
use crate::core::service::Service;
use crate::core::types::{Fault, Port, Source};
use crate::core::wire::RECEIPT;
use crate::edge::firewall::kernel_trace::KernelTrace;
use crate::edge::firewall::packet_trace::Trace;
use crate::edge::firewall::ruleset_snapshot::RulesetSnapshot;
use crate::edge::firewall::{self, GuardRules};
use crate::edge::listening;
use crate::edge::probe::{Probe, Prober, Seen};
use crate::edge::raw::Sender;
use crate::edge::responder::Responder;
use crate::edge::twin::Twin;

/// Milliseconds that the grant lasts in the copy.
const LASTS: u64 = 60_000;
/// The port that the client's program would have for its knocks.
const CLIENT_PORT: u16 = 40_000;

/// What the kernel did with the packets.
pub(in crate::app) struct Traced {
    pub(in crate::app) ports: BTreeMap<Port, PortTrace>,
    pub(in crate::app) receipt: Option<Trace>,
}

pub(in crate::app) struct PortTrace {
    pub(in crate::app) trace: Trace,
    pub(in crate::app) seen: Seen,
}

/// Traces a packet from this address to each of these ports of a service, and a receipt to it.
/// Error: the network cannot be copied as a whole, or the kernel tells no traces.
pub(super) fn trace(
    settings: &Settings, snapshot: &RulesetSnapshot, service: &Service, ports: &[Port],
    from: IpAddr,
) -> Result<Traced, Fault> {
    let ours = &settings.firewall.table;
    let twin = Twin::of_this_host(ours)?;
    if let Some(lack) = twin.lacks.first() {
        return Err(Fault::new(format!("not all could be copied: {lack}"), WHOLE));
    }
    let person = coming_from(&twin.ways, from.to_string(), from).ok_or_else(|| {
        Fault::new(format!("no interface takes packets from {from}"), "see `ip route`")
    })?;
    let places = places(settings, &listening::sockets());
    let (responder, _) = inside(&twin, || Responder::listen(&places, &twin.ways))?;
    let kernel = inside(&twin, || {
        grant(settings, service, from)?;
        KernelTrace::begin(&settings.firewall.nft, settings.knock.port)
    })??;
    let mut prober = Prober::new(&twin, &responder)?;
    let mut traced = Traced { ports: BTreeMap::new(), receipt: None };
    for port in ports {
        let seen = prober.run(&[probe(&person, *port)])?;
        let trace = kernel.take(snapshot, ours).ok_or_else(|| {
            Fault::new("this kernel said nothing about a packet", "it takes Linux 4.6 or newer")
        })?;
        let seen = seen.first().copied().unwrap_or(Seen::Silent);
        traced.ports.insert(*port, PortTrace { trace, seen });
    }
    inside(&twin, || send_receipt(settings.knock.port, &person))??;
    traced.receipt = kernel.take(snapshot, ours);
    Ok(traced)
}

const WHOLE: &str = "`toctocd audit` lists what a copy of this host's network lacks";

fn inside<T: Send>(twin: &Twin, work: impl FnOnce() -> T + Send) -> Result<T, Fault> {
    twin.space.inside(work).map_err(|error| {
        let what = format!("cannot enter the copy of this host's network: {error}");
        Fault::new(what, "run it as root, with CAP_SYS_ADMIN")
    })
}

/// Puts the grant into the guard of this thread's network namespace. Without a guard nothing needs
/// one.
fn grant(settings: &Settings, service: &Service, from: IpAddr) -> Result<(), Fault> {
    let rules = GuardRules::of(settings);
    if !firewall::is_there(&rules)? {
        return Ok(());
    }
    let source = Source::new(from);
    let span = service.spans.for_family_of(source);
    let (source, form) = (span.of(source), service.form);
    let element = Element { service: service.name, source, source_port: 0, span, form };
    firewall::change_without_gateway(&rules, &[Change::Set { element, millis: LASTS }])
}

fn probe(person: &Person, port: Port) -> Probe {
    let target = person.targets.first().copied().unwrap_or(person.address);
    let to = SocketAddr::new(target, port.number);
    Probe { way: person.way, from: person.address, from_port: None, to, proto: port.proto }
}

/// Sends what looks like a receipt, in this thread's network namespace. A rule that drops it may
/// make the call fail.
fn send_receipt(port: u16, person: &Person) -> Result<(), Fault> {
    let sender = Sender::open().map_err(|failure| failure.fault(""))?;
    if let Some(own) = person.targets.first() {
        let to = SocketAddr::new(person.address, CLIENT_PORT);
        let _ = sender.send(SocketAddr::new(*own, port), to, &[0; RECEIPT]);
    }
    Ok(())
}
