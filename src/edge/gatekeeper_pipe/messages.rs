//! All messages between gatekeeper and listener. The gatekeeper must check all that comes.

use std::net::IpAddr;

use crate::core::door::Step;
use crate::core::door::first_steps::HeldSteps;
use crate::core::engine::KnownClient;
use crate::core::keyring::{FilterDrops, Secret, TAG};
use crate::core::knock::{HandedKnock, RECEIPT_BODY};
use crate::core::sequence::{DoorSpec, Ipv6};
use crate::core::types::{ClientId, Counters, GatewayId, RealmId, Source};
use crate::edge::bpf::FilterSpec;

/// The most addresses in one message.
pub const ADDRESSES: usize = 16;
/// The most clients in one message. A message for each of 100,000 clients took seconds.
pub const CLIENTS: usize = 64;
/// The most steps of a filter in one message.
pub const FILTER_STEPS: usize = 2000;

/// A message from the gatekeeper: the set-up in any order but the clients at its end, then
/// [`ToListener::Go`], then the rest.
pub enum ToListener {
    /// The gateway's secrets and the settings of sealed knocks. Without it no sealed knock is read.
    Gateway {
        realm: RealmId,
        gateway: GatewayId,
        mask: Secret<32>,
        /// The current X25519 secret, whose public key is in profiles.
        current: Secret<32>,
        /// During a key rotation: the other secret.
        other: Option<Secret<32>>,
        /// The port of sealed knocks.
        port: u16,
        /// Each client's token bucket: its size.
        burst: u32,
        /// Each client's token bucket: tokens per second.
        per_second: u32,
        /// How many clients will follow, at least: there is room for them at once.
        clients: u32,
    },
    /// Clients that are new, or the keys of another day of those that are known: at most
    /// [`CLIENTS`]. Also after the set-up.
    Clients(Vec<KnownClient>),
    /// The client with this tag without a clock is no longer one.
    Forget { tag: [u8; TAG] },
    /// Settings of all doors.
    Doors {
        /// The effect of packets over IPv6.
        ipv6: Ipv6,
        /// True to report every packet that some door listens for.
        debug: bool,
    },
    /// One door. Indices count from 0, each once, in order.
    Door { index: u16, spec: DoorSpec },
    /// The sequence of a door from now on: at most [`crate::core::door::STEPS`] steps. An empty one
    /// closes the door.
    Sequence { door: u16, steps: Vec<Step> },
    /// Some of our unicast addresses, at most [`ADDRESSES`]: a part of a list that
    /// [`ToListener::AddressesDone`] completes.
    Addresses {
        /// True for the first part. An earlier list that was never completed is void then.
        is_first: bool,
        part: Vec<OwnAddress>,
    },
    /// The list is complete and replaces the earlier one.
    AddressesDone,
    /// An interface to capture on, by the kernel's number; 0 = all. Numbered from 0 in order of
    /// arrival.
    Capture { interface: u32 },
    /// What the capture sockets let through. The steps may come in parts, each of at most
    /// [`FILTER_STEPS`].
    Filter(FilterSpec),
    /// Make a program for interfaces too (XDP), and send it.
    MakeXdp,
    /// The first steps that the filter may hold during a flood.
    FirstSteps(HeldSteps),
    /// Set-up is over: open the sockets, drop all privileges, become this user if there is one, send
    /// `Ready`, listen. `user`: user and group id.
    Go { user: Option<(u32, u32)> },
    /// The verdict that completes a knock.
    Verdict {
        ticket: u64,
        /// True if its used-knock mark is set: then copies of it are ignored.
        spent: bool,
        receipt: Option<[u8; RECEIPT_BODY]>,
    },
    /// Reply with `Counters`: that shows that the listener's loop runs.
    AskCounters,
    /// Close this capture socket: its interface has another name now.
    Release { capture: u16 },
    /// End.
    Stop,
}

/// A message from the listener. An attacker who has taken it over can send any, at any rate.
#[derive(Debug, PartialEq, Eq)]
pub enum ToGatekeeper {
    /// The first message: it runs, and waits for its set-up.
    Hello,
    /// It has dropped its privileges and listens. `degraded`: the bits of its
    /// [`crate::edge::confine::Limitations`].
    Ready { degraded: u32 },
    /// The program for interfaces, as a descriptor beside this message. It comes before `Ready`.
    Xdp,
    /// Set-up or confinement failed, and the listener ends.
    Failed {
        /// The number of the [`crate::edge::confine::ConfineStep`].
        step: u8,
        /// The kernel's error number, or 0.
        errno: i32,
    },
    /// A socket cannot be opened, and the listener ends.
    NoSocket {
        /// The number of the interface, as for [`ToListener::Capture`].
        capture: u16,
        /// The number of the [`crate::edge::socket_failure::SocketStep`].
        step: u8,
        /// The kernel's error number.
        errno: i32,
    },
    /// A sealed knock opened; its signature is unproven.
    Knock(HandedKnock),
    /// A door's sequence is complete.
    Completed { door: u16, source: IpAddr },
    /// A step of a sequence is complete; counted from 1.
    Stage { door: u16, source: IpAddr, stage: u8 },
    /// An attempt timed out after `stage` steps.
    TimedOut { door: u16, source: IpAddr, stage: u8 },
    /// So many steps, timeouts and refusals at doors were not reported: there were too many.
    Suppressed { count: u64 },
    /// A packet for a door over IPv6, on a link where IPv6 does not count.
    Refused { source: IpAddr },
    /// For debugging doors: some door listens for this packet.
    Seen {
        source: IpAddr,
        source_port: u16,
        destination: IpAddr,
        step: Step,
        /// Its length in the IP header.
        length: u16,
    },
    /// For debugging doors: an attempt was removed. `success`: it had opened the door.
    Removed { source: IpAddr, success: bool },
    /// For debugging doors: a packet did not count because of its TCP flags.
    /// `flag`: an index into `TcpFlags::NAMES`. `wanted`: it must be set.
    Ignored { flag: u8, wanted: bool },
    /// A client's packet came again from another source: somebody is on the path.
    Alarm { client: ClientId, first: Source, again: Source },
    /// The reply to `AskCounters`.
    Counters(Tally),
    /// A captured interface went down or disappeared. It may come back, and capturing goes on.
    /// `capture`: the socket's number.
    Down { capture: u16 },
}

/// What a listener has counted since its start. Each packet that it read was rejected, went to the
/// doors, waits, or was handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Rejected packets by reason.
    pub rejected: Counters,
    /// Those that the kernel's filter dropped, if it is eBPF. They are in no other number here.
    pub filtered: FilterDrops,
    /// True while the kernel's filter holds first steps.
    pub holds: bool,
    /// Those that the program at an interface dropped, all for an unknown tag. They are in no other
    /// number here either.
    pub xdp: u64,
    /// Packets that it read: those that the kernel's filter passed, without the lost ones.
    pub read: u64,
    /// Packets that the kernel dropped for lack of room.
    pub lost: u64,
    /// Packets that went to the doors.
    pub doors: u64,
    /// Sealed knocks that wait to be opened and handed over.
    pub waiting: u64,
}

/// One of this machine's addresses, as the listener needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnAddress {
    pub address: IpAddr,
    /// True if sealed knocks may be sent to it.
    pub knock: bool,
    /// True if doors without a target accept packets to it.
    pub door: bool,
}
