//! The classic fallback: a door's sequence, sent in the clear because the user said so, and never
//! else. That a sealed knock had no answer is found out by `client`; sending is left to
//! `app::knock`.

use std::net::{IpAddr, SocketAddr};

use super::{NO_WAY, NothingSent, family, keys, tell, usage};
use crate::app::args::toctoc::Open;
use crate::app::knock::{self, NotSent};
use crate::core::diagnostic::printable;
use crate::core::door::Step;
use crate::core::types::Fault;
use crate::edge::knock_packet::PacketOrigin;
use crate::edge::names::{AddressFamily, resolve_gateway};
use crate::edge::terminal;
use crate::keys::profile::{Fallback, Profile};

/// `toctoc open --classic`.
pub(super) fn open(args: &Open) -> Result<u8, NothingSent> {
    let stop = usage(false);
    let (profile, path) = keys::profile(&args.common.profile).map_err(&stop)?;
    let family = family(&args.common, args.source);
    if args.source.map(AddressFamily::of).is_some_and(|named| family != Some(named)) {
        let what = "--source is of the other family than the one that is asked for";
        return Err(stop(Fault::new(
            what,
            "leave -4 or -6 out: who hits ports must come from that address",
        )));
    }
    let none = || {
        let name = printable(&args.common.profile);
        let remedy = format!(
            "`toctocd client add --door NAME` makes a profile with one; or write sequence = [\"NUMBER/tcp\", ...] into {}",
            path.display()
        );
        stop(Fault::new(format!("profile `{name}` holds no classic sequence"), remedy))
    };
    send(&profile, profile.fallback.as_ref().ok_or_else(none)?, family, args.source)
}

/// Whether the profile allows to ask, and the user says yes. Whoever dropped the sealed knock may
/// wait for just that, so it is said, and no is what nothing means.
pub(super) fn accepted(fallback: &Fallback) -> bool {
    const QUESTION: &str = "Send the door's classic sequence now? It crosses the network in the clear: whoever sees it can repeat it,\n\
                            and somebody may have stopped the sealed knock to make you send it.";
    fallback.offer && terminal::confirm(QUESTION)
}

/// Sends the whole sequence to one address of the gateway: the first to which the first hit leaves.
pub(super) fn send(
    profile: &Profile,
    fallback: &Fallback,
    family: Option<AddressFamily>,
    source: Option<IpAddr>,
) -> Result<u8, NothingSent> {
    let no_way = |fault| NothingSent { fault, code: NO_WAY, json: false };
    let gateways = resolve_gateway(&profile.addresses, profile.port, family).map_err(no_way)?;
    let origin = PacketOrigin { source, interface: None };
    let mut trouble =
        Fault::new("the profile has no address", "ask the gateway's admin for a new one");
    for gateway in gateways {
        let hits: Vec<_> =
            fallback.sequence.iter().map(|step| (target(gateway, *step), *step)).collect();
        match knock::send(&hits, knock::DELAY, &origin, &mut |_, _| {}) {
            Ok(()) => return Ok(tell((sent(hits.len(), gateway), String::new()))),
            Err(NotSent { hits: 0, fault }) => trouble = fault,
            // What has left is known to whoever saw it: it is not shown to another address as well.
            Err(NotSent { fault, .. }) => return Err(no_way(fault)),
        }
    }
    Err(no_way(trouble))
}

fn target(gateway: SocketAddr, step: Step) -> SocketAddr {
    let number = match step {
        Step::Port(port) => port.number,
        Step::Echo { .. } => 0,
    };
    SocketAddr::new(gateway.ip(), number)
}

fn sent(hits: usize, gateway: SocketAddr) -> String {
    let hits = if hits == 1 { "1 hit".to_owned() } else { format!("{hits} hits") };
    format!(
        "sent in the clear: {hits} to {}; nobody says whether the door opened\n  \
         whoever saw it can repeat it: have the door's sequence changed if that matters\n",
        gateway.ip()
    )
}
