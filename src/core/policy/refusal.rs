//! The reasons for which policy grants nothing. A client is told a status; an admin may know why.

use crate::core::knock::Status;
use crate::core::limits::Limited;

/// Why there is no grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody has this id, the enrolment is over, or the key proves nothing. There is no answer.
    UnknownClient,
    UnknownService,
    /// The client's line does not name the service, or the door grants none.
    NotAllowed,
    /// The service takes no such evidence that the address is the client's.
    Source,
    Address(NeverGranted),
    /// The service forwards, but not over this family.
    NoTarget,
    /// The client's own line has a limit.
    Limited(Limited),
    /// A service of commands knows of no source port.
    PortOfCommands,
    Full(Full),
}

/// Why an address is granted to nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeverGranted {
    /// No machine elsewhere has it.
    NoPeer,
    /// An IPv6 form that carries an IPv4 address.
    Embedded,
    /// This machine's own, or one that means all machines of a network.
    Own,
    /// A router's, or one of `addresses` that another machine has: everybody may come from there.
    Shared,
    /// A private one that is in none of this machine's networks.
    Elsewhere,
}

/// Which limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The holder has as many grants as one may have.
    Holder,
    /// The service has no grant left.
    Service,
    /// What is left of the service is for those who have none.
    Share,
}

impl Refusal {
    /// What the client is told.
    pub fn status(self) -> Status {
        match self {
            Refusal::Source | Refusal::Address(_) => Status::Address,
            Refusal::Full(_) => Status::Full,
            Refusal::UnknownClient
            | Refusal::UnknownService
            | Refusal::NotAllowed
            | Refusal::NoTarget
            | Refusal::Limited(_)
            | Refusal::PortOfCommands => Status::Denied,
        }
    }
}
