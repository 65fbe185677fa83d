//! The classic fallback: a door's sequence, sent in cleartext, and only if the user says so.

use std::net::{IpAddr, SocketAddr};

use super::{family, profiles};
use crate::app::args::toctoc::Open;
use crate::app::knock::{self, NotSent};
use crate::app::output::{CommandOutput, count};
use crate::app::paths::UserPaths;
use crate::core::diagnostic::printable;
use crate::core::door::Step;
use crate::core::types::{Fault, FaultKind};
use crate::edge::knock_packet::PacketOrigin;
use crate::edge::names::{AddressFamily, resolve_gateway};
use crate::keys::profile::{Fallback, Profile};

/// Asked after a sealed knock without an answer. It names the risk: an attacker may have dropped
/// the sealed knock to provoke this.
pub(super) const QUESTION: &str = "\
Send the door's classic sequence now? It is sent in cleartext: whoever sees it can repeat it,
and somebody may have stopped the sealed knock to make you send it.";

/// `toctoc open --classic`.
pub(super) fn open(paths: &UserPaths, args: &Open) -> Result<CommandOutput, Fault> {
    let held = profiles::chosen(paths, args.common.target.as_ref())?;
    let family = family(&args.common, args.source);
    if let Some(source) = args.source
        && family != Some(AddressFamily::of(source))
    {
        return Err(Fault::new(
            "--source is not an address of the family that -4 or -6 selects",
            "leave out -4 or -6: a classic sequence must come from the address of --source",
        ));
    }
    let Some(fallback) = &held.profile.fallback else {
        return Err(Fault::new(
            format!("profile `{}` has no classic sequence", printable(&held.name)),
            format!(
                "ask the gateway's admin for a profile with one (`toctocd client add --door NAME`); \
                 or write sequence = [\"NUMBER/tcp\", ...] into {}",
                held.path.display()
            ),
        ));
    };
    send(&held.profile, fallback, family, args.source)
}

/// Sends the whole sequence to one address of the gateway: the first that the first step can be
/// sent to.
pub(super) fn send(
    profile: &Profile, fallback: &Fallback, family: Option<AddressFamily>, source: Option<IpAddr>,
) -> Result<CommandOutput, Fault> {
    let gateways = resolve_gateway(&profile.addresses, profile.port, family)?;
    let origin = PacketOrigin { source, interface: None };
    let mut problem =
        Fault::new("the profile has no address", "ask the gateway's admin for a new one");
    for gateway in gateways {
        let mut hits = Vec::new();
        for step in &fallback.sequence {
            hits.push((target(gateway, *step), *step));
        }
        match knock::send(&hits, knock::DELAY, &origin, &mut |_, _| {}) {
            Ok(()) => return Ok(CommandOutput::out(sent(hits.len(), gateway))),
            Err(NotSent { hits: 0, fault }) => problem = fault,
            // What was sent may have been seen. Do not show it to another address as well.
            Err(NotSent { fault, .. }) => return Err(fault.of(FaultKind::Unreachable)),
        }
    }
    Err(problem.of(FaultKind::Unreachable))
}

fn target(gateway: SocketAddr, step: Step) -> SocketAddr {
    let number = match step {
        Step::Port(port) => port.number,
        Step::Echo { .. } => 0,
    };
    SocketAddr::new(gateway.ip(), number)
}

fn sent(hits: usize, gateway: SocketAddr) -> String {
    format!(
        "sent in cleartext: {} to {}; there is no answer that says whether the door opened\n  \
         whoever saw it can repeat it: if that matters, ask the admin to change the door's sequence\n",
        count(hits, "packet"),
        gateway.ip()
    )
}
