//! Services and enrolled clients, as policy sees them.
//! See `config::native` and `keys::authorized` for their text forms.

use std::net::SocketAddr;

use super::prefix::{Prefix, Span};
use super::types::{ClientId, Fingerprint, Port, ServiceName, Source};

/// The number of connections that a grant is for. Here and below a variant's number is its byte in
/// the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GrantKind {
    /// Any number of new connections until the time is over; established ones continue.
    Time = 1,
    /// One connection; the first completed handshake uses it up. TCP only.
    Once = 2,
}

/// The table that drops packets that no grant covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Ours.
    Guard,
    /// The admin's own; ours marks the flows that it should let in.
    Mark,
}

/// The time at which the gateway cuts connections. In this order: each includes those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DisconnectPolicy {
    /// Never: a connection stays until a peer closes it.
    #[default]
    Never = 0,
    /// When the holder of the grant may no longer have it.
    Revoked = 1,
    /// Also when the holder closes the grant.
    Closed = 2,
}

#[derive(Clone, Debug, PartialEq)]
pub enum SourceRule {
    /// The knock names it and comes from it.
    Bound,
    /// The packet's source, whatever it is.
    Observed,
    /// The knock names it, and it is the packet's source or one of these, wherever the packet came
    /// from.
    Within(Vec<Prefix>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressProof {
    /// It was signed, and the packet came from it.
    Both = 0,
    /// The packet came from it, and no address was signed.
    Seen = 1,
    /// It was signed, and the packet came from elsewhere.
    Signed = 2,
}

impl SourceRule {
    /// True if a client may have a grant for this address on this evidence.
    pub fn admits(&self, proof: AddressProof, source: Source, span: Span) -> bool {
        match (self, proof) {
            // A service that takes any source still honours the address that a knock names.
            (_, AddressProof::Both) => true,
            (SourceRule::Observed, AddressProof::Seen) => true,
            (SourceRule::Within(prefixes), AddressProof::Signed) => {
                prefixes.iter().any(|one| one.meets(source, span))
            }
            _ => false,
        }
    }
}

/// The target of a service's one port if it is not on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The inner host and its port: at least one, at most one of each family.
    pub to: Vec<SocketAddr>,
    /// True if the inner host sees this machine as the sender, for lack of a route back to the real
    /// one.
    pub masquerade: bool,
}

impl Forward {
    pub fn target(&self, v6: bool) -> Option<SocketAddr> {
        self.to.iter().copied().find(|to| to.is_ipv6() == v6)
    }
}

/// The commands of a command service: each a program and its arguments, for no shell. Never empty;
/// `%IP%` stands for the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCommands {
    /// Runs when the first grant for an address begins.
    pub start: Vec<String>,
    /// Runs when the last one has ended.
    pub stop: Vec<String>,
}

/// Opened by grants: ports behind the guard, forwarded ports, or commands.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    pub name: ServiceName,
    /// Its ports, 1 to 4; none with `commands`.
    pub ports: Vec<Port>,
    /// Set for a command service. Then mode, form, span, cut and forward have their defaults and mean
    /// nothing.
    pub commands: Option<ServiceCommands>,
    pub mode: Mode,
    pub form: GrantKind,
    /// Seconds that a grant lasts when the knock says 0.
    pub seconds: u32,
    /// The most seconds that a knock may ask for.
    pub max_seconds: u32,
    /// The most live grants at once, over all clients.
    pub max_grants: u32,
    pub source: SourceRule,
    /// The width of the grant, if the knock names no source port.
    pub span: Span,
    pub challenge: bool,
    pub cut: DisconnectPolicy,
    /// Its target; `None` = this machine.
    pub forward: Option<Forward>,
}

/// One enrolled client: a line of the clients file.
#[derive(Clone, Debug, PartialEq)]
pub struct Client {
    /// Its id; its symmetric keys derive from it.
    pub id: ClientId,
    pub name: String,
    /// Its Ed25519 public key, checked: canonical and not of small order.
    pub key: [u8; 32],
    pub fingerprint: Fingerprint,
    pub services: Vec<ServiceName>,
    /// The time from which it is unknown, in seconds since the epoch.
    pub expires: Option<u64>,
    /// The longest grant for this client, whatever the service says.
    pub max_seconds: Option<u32>,
}
