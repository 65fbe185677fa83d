//! The reason for which the gateway opened nothing, and its words. `toctocd explain` says the same.

use super::ask::GatewayResult;
use crate::app::output::service_list;
use crate::core::address::{AddressScope, reach};
use crate::core::exchange::{AddressOrigin, NamedAddress};
use crate::core::knock::{KnockKind, Receipt, Status};
use crate::core::types::{ServiceName, Source};

/// Why the gateway opened nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A device in front of the gateway gives everybody this address.
    Replaced(Source),
    /// The knock named no address.
    Unnamed(Source),
    /// The gateway grants this address to nobody.
    Everybodys(Source),
    /// The machine has the public address `named`, and a device elsewhere replaced it.
    Public {
        named: Source,
        observed: Source,
    },
    /// The knock named another address than it came from: a NAT, or somebody on the way.
    Other {
        named: Source,
        observed: Source,
    },
    Clock,
    Denied,
    Full,
    Challenge,
    Trouble,
}

/// The reason of a refusal; `None` if the answer is none.
pub(super) fn refusal(
    kind: KnockKind, result: &GatewayResult, receipt: &Receipt,
) -> Option<Refusal> {
    let observed = receipt.observed;
    Some(match receipt.status {
        Status::Observed if kind == KnockKind::Open => Refusal::Replaced(observed),
        Status::Address => address_refusal(result, observed),
        Status::Clock => Refusal::Clock,
        Status::Denied => Refusal::Denied,
        Status::Full => Refusal::Full,
        Status::Challenge => Refusal::Challenge,
        Status::Trouble => Refusal::Trouble,
        Status::Granted | Status::Closed | Status::Observed => return None,
        Status::Enrolled | Status::Pending | Status::Taken => return None,
    })
}

fn address_refusal(result: &GatewayResult, observed: Source) -> Refusal {
    match result.is_replaced(observed) {
        true => Refusal::Replaced(observed),
        false => Refusal::of_address(result.named, observed),
    }
}

impl Refusal {
    /// Of a knock that named an address and came from another one, or from one that nobody gets.
    pub fn of_address(named: Option<NamedAddress>, observed: Source) -> Refusal {
        let Some(NamedAddress { source: named, origin }) = named else {
            return Refusal::Unnamed(observed);
        };
        if named == observed {
            return Refusal::Everybodys(observed);
        }
        match origin == AddressOrigin::Local && reach(named.ip()) == AddressScope::Global {
            true => Refusal::Public { named, observed },
            false => Refusal::Other { named, observed },
        }
    }
}

/// A knock that opened nothing, as it is told.
pub struct RefusedKnock<'a> {
    /// The gateway's address.
    pub gateway: &'a str,
    /// The profile's name or path.
    pub name: &'a str,
    pub service: ServiceName,
    /// The services of the profile.
    pub services: &'a [ServiceName],
}

impl RefusedKnock<'_> {
    /// The observed address may be an attacker's choice. It is shown, and only the user may decide
    /// to ask for it.
    pub fn text(&self, refusal: Refusal) -> String {
        let RefusedKnock { gateway, name, service, services } = self;
        match refusal {
            Refusal::Replaced(observed) => replaced_text(gateway, observed),
            Refusal::Unnamed(observed) => {
                format!("refused: the knock came from {observed} and named no address\n")
            }
            Refusal::Everybodys(observed) => format!(
                "refused: the gateway grants {observed} to nobody: it may stand for everybody, or \
                 for no other machine; nothing was opened\n  \
                 if that is not your own address, a device in front of the gateway gives it to \
                 everybody: tell the gateway's admin. If it is, ask them to list it in `also_grant`\n"
            ),
            Refusal::Public { named, observed } => format!(
                "{}your machine has the public address {named}, so a device elsewhere replaced \
                 it: if that one is in front of the gateway, everybody comes from {observed}, and a \
                 grant for it would let everybody in; ask the gateway's admin whose address it is\n",
                other_address(named, observed)
            ),
            Refusal::Other { named, observed } => format!(
                "{}if {observed} is the address of your own network as others see it: toctoc open \
                 {name} {service} --source {observed}\n  \
                 if you do not know it, ask the gateway's admin first: somebody on the way may have \
                 redirected your packet\n",
                other_address(named, observed)
            ),
            Refusal::Clock => {
                "refused: this machine's clock is too far off, and a second knock with \
                 the gateway's challenge was not accepted in time\n  set the clock, or try again\n"
                    .to_owned()
            }
            Refusal::Denied if !services.contains(service) => format!(
                "refused: the gateway does not let this key open {service}\n  \
                 your profile has: {}. For another service, ask the gateway's admin\n",
                service_list(services)
            ),
            Refusal::Denied => format!(
                "refused: the gateway does not let this key open {service}\n  \
                 `toctoc list` shows the services of your profile. Ask the gateway's admin if this \
                 key may use it at this hour, from this address, over IPv4 and IPv6. A service of \
                 commands allows no --source-port\n"
            ),
            Refusal::Full => format!(
                "refused: the limit of grants is reached, for you or for {service} as a whole\n  \
                 wait until one ends, or end yours: toctoc close {name} {service}\n"
            ),
            Refusal::Challenge => {
                "refused: the gateway sent a challenge, and a second knock with it \
                 was not accepted in time\n  try again, on a slow network with a longer --timeout; \
                 if this key has knocked too many times just now, wait a minute\n"
                    .to_owned()
            }
            Refusal::Trouble => format!(
                "refused: the gateway could not open {service}: its guard is off, or its disk, its \
                 firewall or a command of the service failed\n  \
                 tell its admin: `toctocd status` there says which. While the guard is off, the port \
                 needs no knock: just connect\n"
            ),
        }
    }
}

fn other_address(named: Source, observed: Source) -> String {
    format!(
        "refused: the knock named {named}, but it reached the gateway from {observed}; \
         nothing was opened\n  "
    )
}

/// About an address that a device in front of the gateway gave to our packets. It never says how to
/// ask for that address all the same.
fn replaced_text(gateway: &str, observed: Source) -> String {
    format!(
        "refused: you knock at {gateway}, and the gateway sees you as {observed}; nothing was \
         opened\n  {}",
        everybody_text(observed)
    )
}

pub(super) fn everybody_text(observed: Source) -> String {
    format!(
        "{observed} is not your address: a device in front of the gateway replaces yours, and \
         probably everybody's. A grant for it would let everybody in: tell the gateway's admin\n"
    )
}
