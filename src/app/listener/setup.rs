//! The set-up of a listener, as the gatekeeper sends it.

use std::mem;
use std::net::IpAddr;
use std::os::fd::AsFd;

use super::captures::KernelTags;
use super::fail;
use crate::core::door::first_steps::HeldSteps;
use crate::core::engine::{Engine, SealedSetup, Setup};
use crate::core::keyring::{Realm, SLOTS, Secret};
use crate::core::noise::KeyPair;
use crate::core::quota::Rate;
use crate::core::sequence::{DoorSpec, Ipv6};
use crate::core::wire::GatewayKeys;
use crate::edge::bpf::FilterSpec;
use crate::edge::clock;
use crate::edge::confine::{ConfineFailure, ConfineStep};
use crate::edge::ebpf::TagMap;
use crate::edge::event_loop::PollSet;
use crate::edge::gatekeeper_pipe::{ListenerEnd, OwnAddress, PipeError, ToListener};

/// The set-up received so far.
#[derive(Default)]
pub(super) struct ListenerSetup {
    pub(super) setup: Setup,
    /// The number of clients to expect.
    pub(super) clients: u32,
    pub(super) kernel_tags: Option<KernelTags>,
    /// True if it makes a program for interfaces too.
    pub(super) makes_xdp: bool,
    /// Made for the first clients: their tags are computed while the gatekeeper derives the keys of
    /// the next ones.
    pub(super) engine: Option<Engine>,
    pub(super) addresses: AddressUpdate,
    /// The interfaces to capture on, by the kernel's numbers.
    pub(super) interfaces: Vec<u32>,
    pub(super) filter: FilterSpec,
    /// The first steps that the kernel may hold.
    pub(super) first_steps: HeldSteps,
    /// The treatment of IPv6 at the doors.
    pub(super) ipv6: Ipv6,
    pub(super) user: Option<(u32, u32)>,
}

/// The lists of our addresses that are being received: those for sealed knocks, and for doors.
#[derive(Default)]
pub(super) struct AddressUpdate {
    pub(super) knock: Vec<IpAddr>,
    pub(super) door: Vec<IpAddr>,
}

impl AddressUpdate {
    /// Adds a part of a list. The first part drops what came of an earlier list.
    pub(super) fn add(&mut self, is_first: bool, part: Vec<OwnAddress>) {
        if is_first {
            *self = Self::default();
        }
        for own in part {
            if own.knock {
                self.knock.push(own.address);
            }
            if own.door {
                self.door.push(own.address);
            }
        }
    }
}

impl ListenerSetup {
    /// Receives the set-up, up to `Go`.
    pub(super) fn receive(pipe: &mut ListenerEnd) -> Result<Self, PipeError> {
        let mut prepared = Self::default();
        loop {
            match pipe.receive()? {
                None => {
                    let mut set = PollSet::default();
                    set.read(pipe.as_fd());
                    set.wait_until(None, clock::now().boot)?;
                }
                Some(ToListener::Go { user }) => {
                    prepared.user = user;
                    return Ok(prepared);
                }
                Some(message) => {
                    if prepared.take(message).is_none() {
                        let failure = ConfineFailure { step: ConfineStep::SetUp, errno: 0 };
                        return Err(fail(pipe, failure.into()));
                    }
                }
            }
        }
    }

    /// Returns `None` for a message at the wrong time or out of order: a bug in the gatekeeper.
    fn take(&mut self, message: ToListener) -> Option<()> {
        let is_made = self.engine.is_some();
        match message {
            ToListener::Gateway { .. } | ToListener::Doors { .. } | ToListener::Door { .. }
                if is_made =>
            {
                return None;
            }
            ToListener::Gateway {
                realm,
                gateway,
                mask,
                current,
                other,
                port,
                burst,
                per_second,
                clients,
            } => {
                let keys = GatewayKeys {
                    gateway,
                    realm: Realm::new(realm, mask),
                    current: KeyPair::new(&current),
                    other: other.as_ref().map(KeyPair::new),
                };
                let rate = Rate { burst, per_second };
                let mask = Secret::new(*keys.realm.knock_mask());
                let tags = SLOTS.saturating_mul(clients.try_into().unwrap_or(0));
                let map = TagMap::new(tags, rate);
                let shared = map.as_ref().ok().map(|map| map.tags);
                self.kernel_tags = Some(KernelTags { map, mask });
                self.setup.sealed = Some(SealedSetup { keys, port, rate, shared });
                self.clients = clients;
            }
            ToListener::Clients(clients) => {
                let (setup, room) = (&mut self.setup, self.clients);
                let make = || roomy_engine(mem::take(setup), room);
                let engine = self.engine.get_or_insert_with(make);
                for client in clients {
                    engine.enrol(client);
                }
            }
            ToListener::Doors { ipv6, debug } => {
                self.setup.rules.ipv6 = ipv6;
                self.ipv6 = ipv6;
                self.setup.rules.debug = debug;
            }
            ToListener::Door { index, spec } => self.door(index, spec)?,
            ToListener::Addresses { is_first, part } => self.addresses.add(is_first, part),
            // The lists are complete when the set-up is.
            ToListener::AddressesDone => {}
            ToListener::Capture { interface } => self.interfaces.push(interface),
            ToListener::Filter(FilterSpec { knock_port, steps, outgoing }) => {
                self.filter.knock_port = knock_port;
                self.filter.outgoing = outgoing;
                self.filter.steps.extend(steps);
            }
            ToListener::MakeXdp => self.makes_xdp = true,
            ToListener::FirstSteps(steps) => self.first_steps = steps,
            ToListener::Stop | ToListener::Sequence { .. } | ToListener::Go { .. } => return None,
            ToListener::Forget { .. } => return None,
            ToListener::Verdict { .. } | ToListener::AskCounters => return None,
            ToListener::Release { .. } => return None,
        }
        Some(())
    }

    fn door(&mut self, index: u16, spec: DoorSpec) -> Option<()> {
        if usize::from(index) != self.setup.doors.len() {
            return None;
        }
        self.setup.doors.push(spec);
        Some(())
    }
}

/// An engine with room for so many clients.
pub(super) fn roomy_engine(setup: Setup, clients: u32) -> Engine {
    let mut engine = Engine::new(setup);
    engine.reserve(clients.try_into().unwrap_or(0));
    engine
}
