//! A gateway with the real guard, one TCP and one UDP service, and no daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use toctoc::config::{FirewallSettings, KnockSettings, defaults};
use toctoc::core::grants::element::difference;
use toctoc::core::grants::{Change, Element};
use toctoc::core::service::{GrantKind, Service};
use toctoc::core::types::{Fault, Port, Proto, ServiceName, Source};
use toctoc::edge::firewall::{
    self, Firewall, GuardReport, GuardRules, GuardState, GuardTask, Heard, Started, TableChange,
};

use super::{Echo, Net, SHORT, Space, echoes, until};

/// The guarded TCP service.
pub const SSH: Port = Port { proto: Proto::Tcp, number: 22 };
/// The guarded UDP service.
pub const DNS: Port = Port { proto: Proto::Udp, number: 53 };
/// The knock port.
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
        self.nft.restore(live).expect("nft works")
    }

    /// True if the guard is loaded as it should be.
    pub fn is_up(&mut self) -> bool {
        self.nft.guard_is_up().expect("nft works")
    }

    /// Packets that the guard has dropped so far, by counter.
    pub fn dropped(&self) -> BTreeMap<String, u64> {
        self.nft.dropped().expect("nft works")
    }

    /// Makes 16 connections at once and returns how many work. Waits until the server has accepted
    /// `round` + 1 connections since its start.
    pub fn winners(&self, to: IpAddr, round: usize) -> usize {
        // Long enough for a busy machine, and for a second SYN of those that lost.
        let connect = move || TcpStream::connect_timeout(&ssh(to), Duration::from_secs(3));
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
        self.put(element(source, port, form), millis)
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
pub fn start(net: &Net, settings: &FirewallSettings) -> KeptGuard {
    start_for(net, settings, &services(&[SSH, DNS]))
}

/// Loads the guard for `services` in the gateway.
pub fn start_for(net: &Net, settings: &FirewallSettings, services: &[Service]) -> KeptGuard {
    let space = net.gateway.clone();
    let rules = rules(settings, services);
    let started = space.inside(|| firewall::start(&rules));
    let Started { link, guard, watch, .. } = started.unwrap_or_else(|fault| panic!("{fault}"));
    KeptGuard { space, rules, link, guard, watch }
}

pub fn rules(settings: &FirewallSettings, services: &[Service]) -> GuardRules {
    let (firewall, services) = (settings.clone(), services.to_vec());
    GuardRules { firewall, services, knock: knock(), trial: None }
}

/// Both halves of the firewall, as a gatekeeper uses them, in the gateway's namespace.
pub struct KeptGuard {
    space: Space,
    rules: GuardRules,
    link: firewall::NftLink,
    guard: firewall::NftGuard,
    watch: firewall::TableWatch,
}

/// The result of a repair: what was set right.
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

    /// Runs the task in a thread beside the test, as a gateway does.
    pub fn job(&self, task: GuardTask) -> JoinHandle<Result<GuardReport, Fault>> {
        let guard = self.guard.clone();
        self.space.thread(move || guard.run(task))
    }

    pub fn reload(
        &mut self, settings: &FirewallSettings, services: &[Service],
    ) -> Result<(), Fault> {
        let rules = rules(settings, services);
        self.run(GuardTask::Load(rules.clone()))?;
        self.link.use_rules(&rules);
        self.rules = rules;
        Ok(())
    }

    /// The changes by other programs; fails if announcements were lost.
    pub fn take_changes(&mut self) -> Vec<TableChange> {
        let Heard { changes, lost } = self.watch.foreign_changes();
        assert!(!lost, "announcements were lost");
        changes
    }

    /// True if announcements were lost since the last call.
    pub fn lost_changes(&mut self) -> bool {
        self.watch.foreign_changes().lost
    }

    /// Applies the changes of elements, then the cuts.
    pub fn apply(&mut self, changes: &[Change]) -> Result<(), Fault> {
        let cut = changes.iter().filter(|change| matches!(change, Change::Cut { .. }));
        let cut: BTreeSet<Element> = cut.map(|change| *change.element()).collect();
        self.link.apply(changes)?;
        if cut.is_empty() { Ok(()) } else { self.run(GuardTask::Cut(cut)).map(drop) }
    }

    pub fn remaining(&mut self, element: &Element) -> Result<Option<u64>, Fault> {
        self.link.remaining(element)
    }

    /// True if our table is there.
    pub fn is_there(&mut self) -> bool {
        self.link.is_there().expect("the kernel answers")
    }

    fn repair(&self) -> (bool, BTreeMap<Element, u64>) {
        match self.run(GuardTask::Repair) {
            Ok(GuardReport::Loaded { reloaded, elements }) => (reloaded, elements),
            other => panic!("{other:?}"),
        }
    }

    /// The live elements of a guard that needs no repair.
    pub fn list(&mut self) -> Result<Vec<(Element, u64)>, Fault> {
        let (reloaded, elements) = self.repair();
        assert!(!reloaded, "the guard needed a repair");
        Ok(elements.into_iter().collect())
    }

    /// True if a connection stands that this element let in.
    pub fn stands(&self, element: &Element) -> bool {
        let asked = BTreeSet::from([*element]);
        match self.run(GuardTask::Standing(asked.clone())) {
            Ok(GuardReport::Standing(standing)) => standing == asked,
            other => panic!("{other:?}"),
        }
    }

    pub fn guard_is_up(&mut self) -> Result<bool, Fault> {
        match self.run(GuardTask::Check)? {
            GuardReport::Checked { sound, .. } => Ok(sound),
            other => panic!("{other:?}"),
        }
    }

    /// Repairs the guard and gives it the elements of `expected` and no others.
    pub fn restore(&mut self, expected: &[Change]) -> Result<Repair, Fault> {
        let (reloaded, elements) = self.repair();
        let mut wanted = BTreeMap::new();
        for change in expected {
            if let Change::Set { element, millis } = change {
                wanted.insert(*element, *millis);
            }
        }
        let all: BTreeSet<&Element> = elements.keys().chain(wanted.keys()).collect();
        let mut changes = Vec::new();
        for element in all {
            let left = elements.get(element).copied();
            changes.extend(difference(*element, left, wanted.get(element).copied()));
        }
        self.link.apply(&changes)?;
        let mut repair = Repair { reloaded, put_back: 0, removed: 0 };
        for change in &changes {
            let was_there = elements.contains_key(change.element());
            match change {
                Change::Set { .. } if !was_there => repair.put_back += 1,
                Change::Remove { .. } => repair.removed += 1,
                _ => {}
            }
        }
        Ok(repair)
    }

    /// The guard as another process sees it.
    pub fn seen(&self) -> Result<GuardState, Fault> {
        self.space.inside(|| firewall::look_at(&self.rules))
    }

    /// Packets dropped so far, by chain.
    pub fn dropped(&self) -> Result<BTreeMap<String, u64>, Fault> {
        Ok(self.seen()?.dropped)
    }
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

/// A service for each port, and for a TCP port a second one for a single connection.
pub fn services(ports: &[Port]) -> Vec<Service> {
    let mut services = Vec::new();
    for port in ports {
        let service = defaults::service(name(*port, GrantKind::Time), (&[*port][..]).into());
        services.push(service.clone());
        if port.proto == Proto::Tcp {
            let name = name(*port, GrantKind::Once);
            services.push(Service { name, form: GrantKind::Once, ..service });
        }
    }
    services
}

fn name(port: Port, form: GrantKind) -> ServiceName {
    let Port { proto, number } = port;
    let once = if form == GrantKind::Once { ".once" } else { "" };
    ServiceName::new(&format!("{}-{number}{once}", proto.name())).expect("a name")
}

/// The element for the service of this port and form.
pub fn element(source: IpAddr, port: Port, form: GrantKind) -> Element {
    Element::plain(name(port, form), Source::new(source), form)
}

pub fn knock() -> KnockSettings {
    defaults::knock()
}

/// The TCP service at `ip`.
pub fn ssh(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, SSH.number)
}

/// The UDP service at `ip`.
pub fn dns(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, DNS.number)
}
