//! What can be granted, and to whom: services and enrolled clients as policy sees them.
//! Their text is left to `config::native` and `keys::authorized`, the decision to `policy`.

use std::net::SocketAddr;

use super::prefix::{Prefix, Span};
use super::types::{ClientId, Fingerprint, Port, ServiceName, Source};

/// How long a grant lasts, and for how many connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GrantKind {
    /// Any number of new connections until the time is over; connections that stand live on.
    Time,
    /// One connection, spent by the first completed handshake. TCP only.
    Once,
}

/// Who drops what no grant covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Our table does.
    Guard,
    /// The admin's own firewall does; our table marks the flows that it is to let in.
    Mark,
}

/// When a service's connections end before their ends want it. In this order: each includes those
/// before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DisconnectPolicy {
    /// Never: what was let in stays until one of its ends closes it.
    #[default]
    Never,
    /// When whoever had the grant may have it no more.
    Revoked,
    /// And when he closes the grant himself.
    Closed,
}

/// Which address a service grants.
#[derive(Clone, Debug, PartialEq)]
pub enum SourceRule {
    /// The body names it and the packet comes from it.
    Bound,
    /// Whatever address the packet came from.
    Observed,
    /// The body names it, and it is the packet's source or one of these, wherever the packet came
    /// from.
    Within(Vec<Prefix>),
}

/// What speaks for the address of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressProof {
    /// It was signed, and the packet came from it.
    Both,
    /// The packet came from it, and none was signed.
    Seen,
    /// It was signed, and the packet came from elsewhere.
    Signed,
}

impl SourceRule {
    /// Whether a client may have a grant for this address on this basis.
    pub fn admits(&self, basis: AddressProof, source: Source, span: Span) -> bool {
        match (self, basis) {
            // Even where another address will do, one that is named is meant.
            (_, AddressProof::Both) => true,
            (SourceRule::Observed, AddressProof::Seen) => true,
            (SourceRule::Within(prefixes), AddressProof::Signed) => {
                prefixes.iter().any(|one| one.meets(source, span))
            }
            _ => false,
        }
    }
}

/// Where the one port of a service leads if not to this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The inner host and its port: one of each family at most, and one at least.
    pub to: Vec<SocketAddr>,
    /// Whether the inner host sees this machine as the sender, for want of a way back to the real
    /// one.
    pub masquerade: bool,
}

impl Forward {
    /// Where it leads those of this family.
    pub fn target(&self, v6: bool) -> Option<SocketAddr> {
        self.to.iter().copied().find(|to| to.is_ipv6() == v6)
    }
}

/// What makes and what ends a grant where our own table does not: programs with their arguments,
/// for no shell. Never empty; `%IP%` stands for the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCommands {
    /// Run when the first grant for an address begins.
    pub start: Vec<String>,
    /// Run when the last one has ended.
    pub stop: Vec<String>,
}

/// Something behind the guard, or what commands open.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its name in knocks.
    pub name: ServiceName,
    /// Its ports, 1 to 4; none with `commands`.
    pub ports: Vec<Port>,
    /// What opens it if not our own table. Then mode, form, span, cut and forward mean nothing and
    /// have their defaults.
    pub commands: Option<ServiceCommands>,
    /// Who drops what is not granted.
    pub mode: Mode,
    /// One connection or many.
    pub form: GrantKind,
    /// Seconds that a grant lasts when the knock says 0.
    pub seconds: u32,
    /// The most that a knock may ask for.
    pub max_seconds: u32,
    /// Live grants that the service may have at once over all clients.
    pub max_grants: u32,
    /// Which address is granted.
    pub source: SourceRule,
    /// And how much of it, if the knock names no source port.
    pub span: Span,
    /// Whether a knock must carry a live challenge.
    pub challenge: bool,
    /// Whether connections end with the right to them.
    pub cut: DisconnectPolicy,
    /// Where it leads; `None` = here.
    pub forward: Option<Forward>,
}

/// One enrolled client, as a line of the clients file says it.
#[derive(Clone, Debug, PartialEq)]
pub struct Client {
    /// Its id; its symmetric keys derive from it.
    pub id: ClientId,
    /// Its name, for people.
    pub name: String,
    /// Its Ed25519 public key, checked: canonical and not of small order.
    pub key: [u8; 32],
    /// SHA-256 of its SSH key blob.
    pub fingerprint: Fingerprint,
    /// What it may open; each names a configured service.
    pub services: Vec<ServiceName>,
    /// Wall clock after which it is as if unknown, seconds since the epoch.
    pub expires: Option<u64>,
    /// The longest grant for this client, whatever the service says.
    pub max_seconds: Option<u32>,
}
