//! What a listener is told before it listens, message by message.

use std::collections::VecDeque;
use std::sync::Arc;

use super::ListenerReady;
use crate::app::load::GatewayConfig;
use crate::app::prepare::Prepared;
use crate::core::clients::ClientTable;
use crate::core::door::first_steps::HeldSteps;
use crate::core::engine::KnownClient;
use crate::core::sequence::{DoorSpec, Ipv6};
use crate::core::service::Client;
use crate::core::types::ClientId;
use crate::edge::addresses::LocalAddress;
use crate::edge::bpf::FilterSpec;
use crate::edge::capture;
use crate::edge::gatekeeper_pipe::{ADDRESSES, CLIENTS, FILTER_STEPS, OwnAddress, ToListener};

/// Everything that a listener is told.
pub(in crate::app) struct ListenerSpec {
    /// The process name.
    pub(in crate::app) name: &'static str,
    /// The keys; `None` if there are only doors.
    pub(in crate::app) sealed: Option<Arc<Prepared>>,
    pub(in crate::app) clients: ClientTable,
    /// The day whose keys the clients get.
    pub(in crate::app) day: u32,
    pub(in crate::app) doors: Vec<DoorSpec>,
    /// The treatment of door knocks over IPv6.
    pub(in crate::app) ipv6: Ipv6,
    /// True if the listener reports every completed step of a door.
    pub(in crate::app) debug: bool,
    pub(in crate::app) addresses: Vec<OwnAddress>,
    pub(in crate::app) filter: FilterSpec,
    /// The first steps that the kernel may hold during a flood.
    pub(in crate::app) first_steps: HeldSteps,
    /// True if it makes a program for interfaces too.
    pub(in crate::app) makes_xdp: bool,
    /// What it has once it is ready: also the interfaces that it captures on.
    pub(in crate::app) ready: ListenerReady,
    /// The user and group id that it changes to.
    pub(in crate::app) user: Option<(u32, u32)>,
}

/// The set-up messages not sent yet. Each client's keys are derived when its turn comes: there may
/// be 100,000 clients.
pub(super) struct SetupFeed {
    sealed: Option<Arc<Prepared>>,
    clients: ClientTable,
    /// The day whose keys the clients get.
    day: u32,
    /// The last client that was sent.
    last: Option<ClientId>,
    /// What comes before the clients.
    first: VecDeque<ToListener>,
    /// The message after them; `None` once all is sent.
    pub(super) go: Option<ToListener>,
}

impl SetupFeed {
    pub(super) fn new(spec: ListenerSpec) -> SetupFeed {
        let ListenerSpec { sealed, clients, .. } = spec;
        let mut first = VecDeque::new();
        if let Some(prepared) = &sealed {
            first.push_back(gateway_message(&prepared.config, clients.len()));
        }
        first.push_back(ToListener::Doors { ipv6: spec.ipv6, debug: spec.debug });
        first.extend((0..).zip(spec.doors).map(|(index, spec)| ToListener::Door { index, spec }));
        first.extend(address_messages(&spec.addresses));
        first.extend(filter_messages(spec.filter));
        if !spec.first_steps.first.is_empty() {
            first.push_back(ToListener::FirstSteps(spec.first_steps));
        }
        let indexes = spec.ready.indexes.iter();
        first.extend(indexes.map(|index| ToListener::Capture { interface: *index }));
        first.extend(spec.makes_xdp.then_some(ToListener::MakeXdp));
        let go = Some(ToListener::Go { user: spec.user });
        SetupFeed { sealed, clients, day: spec.day, last: None, first, go }
    }

    pub(super) fn next(&mut self) -> Option<ToListener> {
        if let Some(message) = self.first.pop_front() {
            return Some(message);
        }
        if let Some(prepared) = &self.sealed {
            let known = |client: &Client| prepared.config.keys.known_client(client, self.day);
            let clients = self.clients.after(self.last).take(CLIENTS);
            let clients: Vec<KnownClient> = clients.map(known).collect();
            if let Some(last) = clients.last() {
                self.last = Some(last.client);
                return Some(ToListener::Clients(clients));
            }
        }
        self.go.take()
    }
}

fn gateway_message(config: &GatewayConfig, clients: usize) -> ToListener {
    let (keys, knock) = (&config.keys, &config.settings.knock);
    ToListener::Gateway {
        realm: keys.realm.id(),
        gateway: keys.gateway,
        mask: keys.realm.mask().duplicate(),
        current: keys.secret.duplicate(),
        other: keys.previous.as_ref().map(|secret| secret.duplicate()),
        port: knock.port,
        burst: knock.burst,
        per_second: knock.per_second,
        clients: clients.try_into().unwrap_or(u32::MAX),
    }
}

/// This machine's addresses. Doors count on the captured interfaces only.
pub(in crate::app) fn own_addresses(
    interfaces: &[String], own: &[LocalAddress],
) -> Vec<OwnAddress> {
    let any = interfaces.iter().any(|name| name == capture::ANY);
    let of = |one: &LocalAddress| OwnAddress {
        address: one.address,
        knock: true,
        door: any || interfaces.contains(&one.interface),
    };
    own.iter().map(of).collect()
}

fn filter_messages(FilterSpec { knock_port, steps, outgoing }: FilterSpec) -> Vec<ToListener> {
    let part = |steps: &[_]| FilterSpec { knock_port, steps: steps.into(), outgoing };
    let parts = steps.chunks(FILTER_STEPS).map(part);
    // Without a step it has one part.
    let all = parts.chain(steps.is_empty().then(|| part(&[])));
    all.map(ToListener::Filter).collect()
}

pub(super) fn address_messages(addresses: &[OwnAddress]) -> Vec<ToListener> {
    let mut messages = Vec::new();
    for part in addresses.chunks(ADDRESSES) {
        messages.push(ToListener::Addresses { is_first: messages.is_empty(), part: part.into() });
    }
    messages.push(ToListener::AddressesDone);
    messages
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::config::defaults;
    use crate::core::door::{Step, TcpFlags};
    use crate::core::keyring::Secret;
    use crate::core::test_vectors;
    use crate::keys::gateway::GatewayFile;

    #[test]
    fn a_set_up_tells_of_every_client_once_and_of_many_in_each_message() {
        let client =
            |number: u128| Client { id: ClientId(number.to_be_bytes()), ..test_vectors::client() };
        let clients: Vec<Client> = (0..1000).map(client).collect();
        let keys = GatewayFile {
            gateway: test_vectors::gateway().gateway,
            realm: test_vectors::realm(),
            secret: Secret::new([9; 32]),
            previous: None,
            master: test_vectors::master(),
            first_period: test_vectors::FIRST_PERIOD,
        };
        let clients = ClientTable::from(clients);
        let settings = defaults::settings();
        let config = GatewayConfig { settings, keys, clients: clients.clone() };
        let mut feed = SetupFeed::new(ListenerSpec {
            name: "",
            sealed: Some(Arc::new(Prepared { config, user: None, warnings: Vec::new() })),
            clients,
            day: 20_513,
            doors: Vec::new(),
            ipv6: Ipv6::Counts,
            debug: false,
            addresses: Vec::new(),
            filter: FilterSpec::default(),
            first_steps: HeldSteps::default(),
            makes_xdp: false,
            ready: ListenerReady::default(),
            user: None,
        });
        let gateway = feed.next();
        assert!(matches!(gateway, Some(ToListener::Gateway { clients: 1000, .. })));
        let mut told: Vec<[u8; 16]> = Vec::new();
        let mut messages = 0;
        let last = loop {
            match feed.next() {
                Some(ToListener::Clients(part)) => {
                    messages += 1;
                    told.extend(part.iter().map(|known| known.client.0));
                }
                Some(_) if told.is_empty() => {}
                other => break other,
            }
        };
        assert!(matches!(last, Some(ToListener::Go { user: None })), "all that needs the clients");
        let all: Vec<[u8; 16]> = (0..1000u128).map(u128::to_be_bytes).collect();
        assert_eq!(told, all);
        assert!(messages <= 20, "{messages}");
        assert!(feed.next().is_none());
    }

    #[test]
    fn any_number_of_steps_of_a_filter_is_sent_in_parts_and_none_in_one() {
        for count in [0, 1, FILTER_STEPS, FILTER_STEPS + 1, 50_000] {
            let step = |number: usize| (Step::tcp(number as u16), TcpFlags::default());
            let steps: Vec<_> = (0..count).map(step).collect();
            let spec = FilterSpec { knock_port: Some(9), steps, outgoing: true };
            let mut received = FilterSpec { steps: Vec::new(), ..spec };
            for message in filter_messages(spec.clone()) {
                let ToListener::Filter(part) = message else { panic!("only filters") };
                assert!(part.steps.len() <= FILTER_STEPS && part.outgoing);
                received.knock_port = part.knock_port;
                received.steps.extend(part.steps);
            }
            assert_eq!(received, spec);
        }
    }

    #[test]
    fn any_number_of_addresses_is_sent_in_parts_and_the_first_part_begins_the_list() {
        let own: Vec<OwnAddress> = (0..50_000u32)
            .map(|number| OwnAddress {
                address: IpAddr::V4(number.into()),
                knock: true,
                door: false,
            })
            .collect();
        let mut received = Vec::new();
        for (index, message) in address_messages(&own).into_iter().enumerate() {
            match message {
                ToListener::Addresses { is_first, part } => {
                    assert!(is_first == (index == 0) && part.len() <= ADDRESSES);
                    received.extend(part);
                }
                _ => assert_eq!(received.len(), own.len(), "the end"),
            }
        }
        assert_eq!(received, own);
    }
}
