//! A gateway with the real guard, one TCP and one UDP service, and no daemon.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpStream};

use toctoc::config::{FirewallSettings, KnockSettings, defaults};
use toctoc::core::grants::{Change, Element};
use toctoc::core::service::{GrantKind, Service};
use toctoc::core::types::{Port, Proto, ServiceName, Source};
use toctoc::edge::firewall::{Firewall, NftFirewall, Repair};

use super::{Echo, Net, SHORT, echoes, until};

/// The guarded TCP service.
pub const SSH: Port = Port { proto: Proto::Tcp, number: 22 };
/// The guarded UDP service.
pub const DNS: Port = Port { proto: Proto::Udp, number: 53 };
/// The knock port.
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

    pub fn with(settings: &FirewallSettings) -> Guarded {
        Guarded::within(Net::new(), settings, &services(&[SSH, DNS]))
    }

    /// Guards a network that the test has prepared.
    pub fn within(net: Net, settings: &FirewallSettings, services: &[Service]) -> Guarded {
        let tcp = net.gateway.tcp_echo(SSH.number);
        let udp = net.gateway.udp_echo(DNS.number);
        let nft = start_for(&net, settings, services);
        Guarded { nft, net, tcp, udp }
    }

    /// Guards a network that the test has prepared, after `before` has connected to its servers.
    /// With `tracked`, conntrack knows the connections of `before`.
    pub fn after<T>(tracked: bool, before: impl FnOnce(&Net) -> T) -> (Guarded, T) {
        let net = Net::new();
        if tracked {
            track(&net);
        }
        let tcp = net.gateway.tcp_echo(SSH.number);
        let udp = net.gateway.udp_echo(DNS.number);
        let outcome = before(&net);
        let nft = start(&net, &settings());
        (Guarded { nft, net, tcp, udp }, outcome)
    }

    /// Starts the gateway again, as after SIGKILL: the first one does not clean up.
    pub fn restarted(self) -> Guarded {
        let Guarded { nft, net, tcp, udp } = self;
        drop(nft);
        let nft = start(&net, &settings());
        Guarded { nft, net, tcp, udp }
    }

    /// Repairs the guard and its elements.
    pub fn restore(&mut self, live: &[Change]) -> Repair {
        let nft = &mut self.nft;
        self.net.gateway.inside(|| nft.restore(live)).expect("nft works")
    }

    /// True if the guard is loaded as it should be.
    pub fn is_up(&mut self) -> bool {
        let nft = &mut self.nft;
        self.net.gateway.inside(|| nft.guard_is_up()).expect("nft works")
    }

    /// Packets that the guard has dropped so far, by counter.
    pub fn dropped(&self) -> BTreeMap<String, u64> {
        self.net.gateway.inside(|| self.nft.dropped()).expect("nft works")
    }

    /// Makes 16 connections at once and returns how many work. Waits until the server has accepted
    /// `round` + 1 connections since its start.
    pub fn winners(&self, to: IpAddr, round: usize) -> usize {
        let connect = move || TcpStream::connect_timeout(&ssh(to), SHORT);
        let rivals: Vec<_> = (0..16).map(|_| self.net.client.space.thread(connect)).collect();
        let mut streams = Vec::new();
        for rival in rivals {
            if let Ok(stream) = rival.join().expect("no panic") {
                streams.push(stream);
            }
        }
        until("a connection is accepted", || self.tcp.requests() == round + 1);
        streams.iter_mut().map(|stream| echoes(stream, SHORT)).filter(|works| *works).count()
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

    /// The client's and the gateway's address, for IPv4 and for IPv6.
    pub fn pairs(&self) -> [(IpAddr, IpAddr); 2] {
        let [client4, client6] = self.net.client.ips();
        let [gateway4, gateway6] = self.net.gateway_ips();
        [(client4, gateway4), (client6, gateway6)]
    }
}

/// Loads the guard for both services in the gateway.
pub fn start(net: &Net, settings: &FirewallSettings) -> NftFirewall {
    start_for(net, settings, &services(&[SSH, DNS]))
}

/// Loads the guard for `services` in the gateway.
pub fn start_for(net: &Net, settings: &FirewallSettings, services: &[Service]) -> NftFirewall {
    net.gateway
        .inside(|| NftFirewall::start(settings, services, &knock()))
        .unwrap_or_else(|fault| panic!("{fault}"))
}

/// Adds another table to the gateway, as an admin's own firewall would be. Because of it conntrack
/// follows every flow.
pub fn track(net: &Net) {
    net.gateway.sh("nft add table inet admin
         nft add chain inet admin input '{ type filter hook input priority 0; policy accept; }'
         nft add rule inet admin input ct state established accept");
}

pub fn settings() -> FirewallSettings {
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

/// The TCP service at `ip`.
pub fn ssh(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, SSH.number)
}

/// The UDP service at `ip`.
pub fn dns(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, DNS.number)
}
