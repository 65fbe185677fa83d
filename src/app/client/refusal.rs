//! The reason for which the gateway opened nothing: the ground of the messages about it.

use super::ask::GatewayResult;
use crate::core::address::{AddressScope, reach};
use crate::core::exchange::{AddressOrigin, NamedAddress};
use crate::core::knock::{KnockKind, Receipt, Status};
use crate::core::types::Source;

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
    if result.is_replaced(observed) {
        return Refusal::Replaced(observed);
    }
    let Some(NamedAddress { source: named, origin }) = result.named else {
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
