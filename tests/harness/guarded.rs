//! A gateway behind the real guard, with one TCP and one UDP service, and no daemon.
//! Who is granted what is left to the test.

use std::net::{IpAddr, SocketAddr};
use std::thread::JoinHandle;

use toctoc::config::{FirewallSettings as Settings, KnockSettings, defaults};
use toctoc::core::grants::{Change, Element, Flow};
use toctoc::core::service::{GrantKind, Service};
use toctoc::core::types::{Fault, Port, Proto, ServiceName, Source};
use toctoc::edge::firewall::{
    self, Firewall, GuardReport, GuardRules, GuardState, GuardTask, Started, TableChange,
};

use super::{Echo, Net, Space};

/// The guarded stream service.
pub const SSH: Port = Port { proto: Proto::Tcp, number: 22 };
/// The guarded datagram service.
pub const DNS: Port = Port { proto: Proto::Udp, number: 53 };
/// The silent port.
pub const KNOCK: u16 = 62201;

/// A guarded gateway with servers behind the guard, and a client.
pub struct Guarded {
    pub nft: KeptGuard,
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
pub fn start(net: &Net, settings: &Settings) -> KeptGuard {
    start_for(net, settings, &services(&[SSH, DNS]))
}

/// The same for other services.
pub fn start_for(net: &Net, settings: &Settings, services: &[Service]) -> KeptGuard {
    let (space, rules) = (net.gateway.clone(), rules(settings, services));
    let started = space.inside(|| firewall::start(&rules));
    let Started { link, guard, watch, .. } = started.unwrap_or_else(|fault| panic!("{fault}"));
    KeptGuard { space, rules, link, guard, watch }
}

pub fn rules(settings: &Settings, services: &[Service]) -> GuardRules {
    let (firewall, services) = (settings.clone(), services.to_vec());
    GuardRules { firewall, services, knock: knock() }
}

/// Both halves of the firewall, as a gatekeeper uses them: one task after the other.
pub struct KeptGuard {
    space: Space,
    rules: GuardRules,
    link: firewall::NftLink,
    guard: firewall::NftGuard,
    watch: firewall::TableWatch,
}

/// What a repair did.
#[derive(Debug, PartialEq, Eq)]
pub struct Repair {
    pub reloaded: bool,
    pub put_back: usize,
    pub removed: usize,
}

impl KeptGuard {
    pub fn run(&self, task: GuardTask) -> Result<GuardReport, Fault> {
        self.space.inside(|| self.guard.run(task))
    }

    /// The task beside the test, as in a gateway.
    pub fn job(&self, task: GuardTask) -> JoinHandle<Result<GuardReport, Fault>> {
        let guard = self.guard.clone();
        self.space.thread(move || guard.run(task))
    }

    pub fn reload(&mut self, settings: &Settings, services: &[Service]) -> Result<(), Fault> {
        let rules = rules(settings, services);
        self.run(GuardTask::Load(rules.clone()))?;
        self.link.use_settings(settings);
        self.rules = rules;
        Ok(())
    }

    pub fn take_changes(&mut self) -> Vec<TableChange> {
        self.watch.foreign_changes()
    }

    /// The changes of elements, then the cuts.
    pub fn apply(&mut self, changes: &[Change]) -> Result<(), Fault> {
        let cut = changes.iter().filter(|change| matches!(change, Change::Cut { .. }));
        let cut: Vec<Element> = cut.map(|change| *change.element()).collect();
        self.link.apply(changes)?;
        if cut.is_empty() { Ok(()) } else { self.link.cut(&cut) }
    }

    pub fn remaining(&mut self, element: &Element) -> Result<Option<u64>, Fault> {
        self.link.remaining(element)
    }

    pub fn is_there(&mut self) -> bool {
        self.link.is_there().expect("the kernel says so")
    }

    fn repair(&self) -> (bool, Vec<(Element, u64)>) {
        match self.run(GuardTask::Repair) {
            Ok(GuardReport::Loaded { reloaded, elements }) => (reloaded, elements),
            other => panic!("{other:?}"),
        }
    }

    /// The live elements of a guard that needs no repair.
    pub fn list(&mut self) -> Result<Vec<(Element, u64)>, Fault> {
        let (reloaded, elements) = self.repair();
        assert!(!reloaded, "it was sound");
        Ok(elements)
    }

    pub fn flows(&self) -> Result<Vec<Flow>, Fault> {
        match self.run(GuardTask::Flows)? {
            GuardReport::Flows(flows) => Ok(flows),
            other => panic!("{other:?}"),
        }
    }

    pub fn guard_is_up(&mut self) -> Result<bool, Fault> {
        Ok(self.run(GuardTask::Check)? == GuardReport::Checked { sound: true })
    }

    /// A repair, and after it what the gatekeeper expects and nothing else.
    pub fn restore(&mut self, expected: &[Change]) -> Result<Repair, Fault> {
        let (reloaded, elements) = self.repair();
        let changes = firewall::reconcile(&elements, expected);
        self.link.apply(&changes)?;
        let mut repair = Repair { reloaded, put_back: 0, removed: 0 };
        for change in &changes {
            let was_there = elements.iter().any(|(element, _)| element == change.element());
            match change {
                Change::Set { .. } if !was_there => repair.put_back += 1,
                Change::Remove { .. } => repair.removed += 1,
                _ => {}
            }
        }
        Ok(repair)
    }

    /// What somebody sees who does not keep it.
    pub fn seen(&self) -> Result<GuardState, Fault> {
        let GuardRules { firewall, services, knock } = &self.rules;
        self.space.inside(|| firewall::look_at(firewall, services, knock))
    }

    /// Packets dropped so far, by chain.
    pub fn dropped(&self) -> Result<std::collections::BTreeMap<String, u64>, Fault> {
        Ok(self.seen()?.dropped)
    }
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
