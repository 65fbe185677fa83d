//! A gateway behind the real guard, with one TCP and one UDP service, and no daemon.
//! Who is granted what is left to the test.

use std::net::{IpAddr, SocketAddr};

use toctoc::config::{FirewallSettings as Settings, KnockSettings, defaults};
use toctoc::core::grants::{Change, Element};
use toctoc::core::service::{GrantKind, Service};
use toctoc::core::types::{Port, Proto, ServiceName, Source};
use toctoc::edge::firewall::{Firewall, NftFirewall};

use super::{Echo, Net};

/// The guarded stream service.
pub const SSH: Port = Port { proto: Proto::Tcp, number: 22 };
/// The guarded datagram service.
pub const DNS: Port = Port { proto: Proto::Udp, number: 53 };
/// The silent port.
pub const KNOCK: u16 = 62201;

/// A guarded gateway with servers behind the guard, and a client.
pub struct Guarded {
    pub nft: NftFirewall,
    pub net: Net,
    /// Listens on [`SSH`].
    pub tcp: Echo,
    /// Listens on [`DNS`].
    pub udp: Echo,
}

impl Guarded {
    pub fn new() -> Guarded {
        Guarded::with(&settings())
    }

    pub fn with(settings: &Settings) -> Guarded {
        Guarded::within(Net::new(), settings, &services(&[SSH, DNS]))
    }

    /// In a network that the test has prepared.
    pub fn within(net: Net, settings: &Settings, services: &[Service]) -> Guarded {
        let (tcp, udp) = (net.gateway.tcp_echo(SSH.number), net.gateway.udp_echo(DNS.number));
        let nft = start_for(&net, settings, services);
        Guarded { nft, net, tcp, udp }
    }

    /// Another gateway after this one, which ended without a word.
    pub fn restarted(self) -> Guarded {
        let Guarded { nft, net, tcp, udp } = self;
        drop(nft);
        let nft = start(&net, &settings());
        Guarded { nft, net, tcp, udp }
    }

    /// Puts one grant into the kernel.
    pub fn grant(&mut self, source: IpAddr, port: Port, form: GrantKind, millis: u64) -> Element {
        let element = Element::plain(Source::new(source), port, form);
        self.put(element, millis)
    }

    /// Puts any element into the kernel.
    pub fn put(&mut self, element: Element, millis: u64) -> Element {
        self.nft.apply(&[Change::Set { element, millis }]).expect("the kernel takes it");
        element
    }

    /// (client's address, gateway's address) of each family.
    pub fn pairs(&self) -> [(IpAddr, IpAddr); 2] {
        let ([a4, a6], [b4, b6]) = (self.net.client.ips(), self.net.gateway_ips());
        [(a4, b4), (a6, b6)]
    }
}

/// Loads the guard for both services in the gateway.
pub fn start(net: &Net, settings: &Settings) -> NftFirewall {
    start_for(net, settings, &services(&[SSH, DNS]))
}

/// The same for other services.
pub fn start_for(net: &Net, settings: &Settings, services: &[Service]) -> NftFirewall {
    net.gateway
        .inside(|| NftFirewall::start(settings, services, &knock()))
        .unwrap_or_else(|fault| panic!("{fault}"))
}

/// Another table in the gateway, as an admin's own firewall would be, for which conntrack follows
/// every flow.
pub fn track(net: &Net) {
    net.gateway.sh(
        "nft add table inet admin; nft add chain inet admin input '{ type filter hook input priority 0; policy accept; }'; \
         nft add rule inet admin input ct state established accept",
    );
}

pub fn settings() -> Settings {
    defaults::firewall()
}

pub fn services(ports: &[Port]) -> Vec<Service> {
    vec![defaults::service(ServiceName::new("all").expect("a name"), ports.to_vec())]
}

pub fn knock() -> KnockSettings {
    KnockSettings {
        port: KNOCK,
        interfaces: vec!["any".into()],
        silent: true,
        max_age: 30,
        max_ahead: 10,
        burst: 64,
        per_second: 4,
        max_grants: 16,
    }
}

/// The stream service at `ip`.
pub fn ssh(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, SSH.number)
}

/// The datagram service at `ip`.
pub fn dns(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, DNS.number)
}
