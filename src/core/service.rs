//! Services and enrolled clients, as policy sees them.
//! See `config::native` and `keys::authorized` for their text forms.

use std::net::SocketAddr;
use std::sync::Arc;

use super::client_name::ClientName;
use super::limits::{Limits, NO_LIMITS};
use super::prefix::{Prefix, Span, Spans};
use super::public_key::PublicKey;
use super::types::{ClientId, Port, PortRange, Proto, ServiceName, Source};

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

/// The word for all ports in a list of ports.
pub const ALL_PORTS: &str = "all";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServicePorts {
    /// These, in the order of the file; none if it has commands. No two share a port.
    Listed(Vec<PortRange>),
    /// Every TCP and UDP port of this machine that no other service has, but for these, the knock
    /// port and [`NEVER_GUARDED`]. The admin's exceptions; no two share a port.
    AllBut(Vec<PortRange>),
}

/// The ports that `ports = ["all"]` leaves alone, besides the knock port: DHCP and DHCPv6 answers,
/// without which this machine loses its address.
pub const NEVER_GUARDED: [Port; 2] =
    [Port { proto: Proto::Udp, number: 68 }, Port { proto: Proto::Udp, number: 546 }];

impl ServicePorts {
    /// True if the port is one of these. [`ServicePorts::AllBut`] covers what nobody lists, so ask
    /// the services that list ports first.
    pub fn covers(&self, port: Port) -> bool {
        match self {
            ServicePorts::Listed(_) => self.lists(port),
            ServicePorts::AllBut(except) => {
                let excepted = except.iter().any(|range| range.covers(port));
                !excepted && !NEVER_GUARDED.contains(&port)
            }
        }
    }

    pub fn lists(&self, port: Port) -> bool {
        self.ranges().iter().any(|range| range.covers(port))
    }

    /// The listed ranges; none of [`ServicePorts::AllBut`].
    pub fn ranges(&self) -> &[PortRange] {
        match self {
            ServicePorts::Listed(ranges) => ranges,
            ServicePorts::AllBut(_) => &[],
        }
    }

    /// True for a command service.
    pub fn is_empty(&self) -> bool {
        *self == ServicePorts::Listed(Vec::new())
    }

    /// As in the configuration: `22/tcp`, `60000-61000/udp`, `all`, `!80/tcp`.
    pub fn texts(&self) -> Vec<String> {
        match self {
            ServicePorts::Listed(ranges) => ranges.iter().map(PortRange::to_string).collect(),
            ServicePorts::AllBut(except) => {
                let mut texts = vec![ALL_PORTS.to_owned()];
                texts.extend(except.iter().map(|range| format!("!{range}")));
                texts
            }
        }
    }

    /// A number that tells these ports from others, in any order; 0 for none.
    pub fn digest(&self) -> u64 {
        let (mut digest, ranges) = match self {
            ServicePorts::Listed(ranges) => (0, ranges),
            ServicePorts::AllBut(except) => (u64::MAX, except),
        };
        for range in ranges {
            digest = range.digest().wrapping_add(digest);
        }
        digest
    }
}

impl From<&[Port]> for ServicePorts {
    fn from(ports: &[Port]) -> ServicePorts {
        ServicePorts::Listed(ports.iter().copied().map(PortRange::from).collect())
    }
}

/// Opened by grants: ports behind the guard, forwarded ports, or commands.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    pub name: ServiceName,
    /// Its ports; none with `commands`.
    pub ports: ServicePorts,
    /// Set for a command service. Then mode, form, spans, cut and forward have their defaults and
    /// mean nothing.
    pub commands: Option<ServiceCommands>,
    pub mode: Mode,
    pub form: GrantKind,
    /// Seconds that a grant lasts when the knock says 0.
    pub seconds: u32,
    /// The most seconds that a knock may ask for.
    pub max_seconds: u32,
    /// The most live grants at once, over all clients. No holder can have all of them: see
    /// `policy`.
    pub max_grants: u32,
    pub source: SourceRule,
    /// The width of a client's grant, if the knock names no source port.
    pub spans: Spans,
    pub challenge: bool,
    pub cut: DisconnectPolicy,
    /// Its target; `None` = this machine.
    pub forward: Option<Forward>,
}

/// One enrolled client: a line of the clients file, or of those who joined. Or an invitation, which
/// shares the table of clients: both have an id, and keys that derive from it.
#[derive(Clone, Debug, PartialEq)]
pub struct Client {
    /// Its id; its symmetric keys derive from it.
    pub id: ClientId,
    pub name: ClientName,
    /// Its public key. See `clients` for its check.
    pub key: PublicKey,
    /// Shared by the clients with the same services.
    pub services: Arc<[ServiceName]>,
    /// The time from which it is unknown, in seconds since the epoch.
    pub expires: Option<u64>,
    /// Its own limits, if it has any.
    pub limits: Option<Arc<Limits>>,
    /// `Some`: this is no client but an invitation. Until then, in seconds since the epoch, it may
    /// ask to join, and for nothing else. Its key proves nothing.
    pub invited_until: Option<u64>,
}

impl Client {
    pub fn limits(&self) -> &Limits {
        self.limits.as_deref().unwrap_or(&NO_LIMITS)
    }
}

#[cfg(test)]
impl Service {
    /// A service with these ports and nothing special.
    pub(crate) fn for_test(name: &str, ports: ServicePorts) -> Service {
        Service {
            name: ServiceName::new(name).unwrap(),
            ports,
            commands: None,
            mode: Mode::Guard,
            form: GrantKind::Time,
            seconds: 30,
            max_seconds: 300,
            max_grants: 10,
            source: SourceRule::Bound,
            spans: Spans::HOSTS,
            challenge: false,
            cut: DisconnectPolicy::Never,
            forward: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(texts: &[&str]) -> Vec<PortRange> {
        texts.iter().map(|text| PortRange::read(text).unwrap()).collect()
    }

    #[test]
    fn all_ports_leave_out_dhcp_and_the_admins_exceptions() {
        let all = ServicePorts::AllBut(ranges(&["80/tcp", "5000-5010/udp"]));
        let port = |text| Port::read(text).unwrap();
        for covered in ["1/tcp", "65535/udp", "68/tcp", "80/udp", "5000/tcp"] {
            assert!(all.covers(port(covered)) && !all.lists(port(covered)), "{covered}");
        }
        for left in ["68/udp", "546/udp", "80/tcp", "5005/udp"] {
            assert!(!all.covers(port(left)), "{left}");
        }
        assert_eq!(all.texts(), ["all", "!80/tcp", "!5000-5010/udp"]);
        assert!(!all.is_empty() && ServicePorts::Listed(Vec::new()).is_empty());
    }

    #[test]
    fn limits_that_a_client_does_not_have_take_no_room() {
        // There may be 100,000 clients, and few have any.
        assert!(size_of::<Client>() <= 136, "{} bytes", size_of::<Client>());
    }

    #[test]
    fn a_digest_tells_ports_apart_whatever_their_order() {
        let listed = |texts: &[&str]| ServicePorts::Listed(ranges(texts)).digest();
        assert_eq!(listed(&["22/tcp", "80/tcp"]), listed(&["80/tcp", "22/tcp"]));
        let all = [
            ServicePorts::Listed(Vec::new()).digest(),
            listed(&["22/tcp"]),
            listed(&["22/udp"]),
            listed(&["22/tcp", "23/tcp"]),
            listed(&["22-23/tcp"]),
            listed(&["22-24/tcp"]),
            listed(&["22/tcp", "22/udp"]),
            ServicePorts::AllBut(Vec::new()).digest(),
            ServicePorts::AllBut(ranges(&["22/tcp"])).digest(),
        ];
        assert_eq!(all[0], 0, "none");
        for (index, digest) in all.iter().enumerate() {
            assert!(!all[..index].contains(digest), "{index}");
        }
    }
}
