//! The two closed tables: what the gatekeeper may tell the listener, and what the listener may tell
//! the gatekeeper. Carrying them is left to `gatekeeper_pipe`, believing them to the receivers:
//! nothing that comes up is proof of anything.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use crate::core::door::Step;
use crate::core::keyring::{ClientKeys, Secret};
use crate::core::knock::{HandedKnock, RECEIPT_BODY};
use crate::core::sequence::{DoorSpec, Ipv6};
use crate::core::types::{Counters, Fingerprint, GatewayId, RealmId, Source};
use crate::edge::capture::UnboundCapture;

/// What the gatekeeper tells: first the set-up in any order, then [`ToListener::Go`], then the
/// rest.
pub enum ToListener {
    /// The gateway's secrets and the sealed knock's settings. Without it no sealed knock is heard.
    Gateway {
        /// The realm.
        realm: RealmId,
        /// The gateway.
        gateway: GatewayId,
        /// The realm's mask key.
        mask: Secret<32>,
        /// The X25519 secret that profiles name.
        current: Secret<32>,
        /// While keys rotate: the other one.
        other: Option<Secret<32>>,
        /// Where sealed knocks arrive.
        port: u16,
        /// A client's token bucket: how many at once.
        burst: u32,
        /// A client's token bucket: how many per second after that.
        per_second: u32,
    },
    /// One client. Rows count from 0, each once, in order; a row is how the listener calls a client
    /// from then on.
    Client {
        /// Its row.
        row: u32,
        /// Its symmetric keys.
        keys: ClientKeys,
        /// Its SSH key.
        fingerprint: Fingerprint,
    },
    /// How doors are watched.
    Doors {
        /// What becomes of hits over IPv6.
        ipv6: Ipv6,
        /// Tell of every packet that some door listens for.
        debug: bool,
    },
    /// One door. Indices count from 0, each once, in order.
    Door {
        /// Its index.
        index: u16,
        /// What the machine needs of it.
        spec: DoorSpec,
    },
    /// The sequence in force at a door from now on; empty shuts it.
    Sequence {
        /// The door's index.
        door: u16,
        /// At most [`crate::core::door::STEPS`].
        steps: Vec<Step>,
    },
    /// One of our unicast addresses, for the list that [`ToListener::AddressesDone`] puts in force.
    Address {
        /// The address.
        address: IpAddr,
        /// Whether sealed knocks may be sent to it.
        knock: bool,
        /// Whether doors without a target count it as their own.
        door: bool,
    },
    /// The addresses told since the last such message replace all earlier ones.
    AddressesDone,
    /// A capture socket to bind and read; numbered from 0 in the order of arrival.
    Capture(UnboundCapture),
    /// A socket for receipts over IPv4.
    Raw4(OwnedFd),
    /// A socket for receipts over IPv6.
    Raw6(OwnedFd),
    /// Set-up is over: give up all rights, become this user if there is one to become, say `Ready`,
    /// listen.
    Go {
        /// User and group id.
        user: Option<(u32, u32)>,
    },
    /// How a knock ended.
    Verdict {
        /// Which knock.
        ticket: u64,
        /// Whether its mark was set: then a copy of it, from wherever, is not worth a look any
        /// more.
        spent: bool,
        /// What to answer, if anything.
        receipt: Option<[u8; RECEIPT_BODY]>,
    },
    /// Answer with `Counters`.
    AskCounters,
    /// End.
    Stop,
}

/// What the listener tells. An attacker who owns the listener can send any of it, at any rate.
#[derive(Debug, PartialEq, Eq)]
pub enum ToGatekeeper {
    /// It has given up its rights and listens. A bit for each [`crate::edge::confine::Limitation`]
    /// that applies.
    Ready {
        /// The bits.
        degraded: u32,
    },
    /// It could not: it ends.
    Failed {
        /// Which step, by [`crate::edge::confine::Step`].
        step: u8,
        /// The kernel's error number, or 0.
        errno: i32,
    },
    /// A sealed knock opened; its signature is unproven.
    Knock(HandedKnock),
    /// A door's sequence is complete.
    Completed {
        /// The door's index.
        door: u16,
        /// Who knocked.
        source: IpAddr,
    },
    /// A step was right.
    Stage {
        /// The door's index.
        door: u16,
        /// Who knocks.
        source: IpAddr,
        /// Counted from 1.
        stage: u8,
    },
    /// An attempt ran out of time.
    TimedOut {
        /// The door's index.
        door: u16,
        /// Who had begun.
        source: IpAddr,
        /// How many steps were done.
        stage: u8,
    },
    /// A hit over IPv6 on a link where none counts.
    Refused {
        /// From where.
        source: IpAddr,
    },
    /// For debugging doors: some door listens for this packet.
    Seen {
        /// From where.
        source: IpAddr,
        /// From which port.
        source_port: u16,
        /// To where.
        destination: IpAddr,
        /// To what.
        step: Step,
        /// Its length as its IP header gives it.
        length: u16,
    },
    /// For debugging doors: an attempt is off the books.
    Removed {
        /// Whose.
        source: IpAddr,
        /// Whether it had opened the door.
        success: bool,
    },
    /// For debugging doors: flags kept a packet from counting.
    Ignored {
        /// The flag, an index into `TcpFlags::NAMES`.
        flag: u8,
        /// Whether it is wanted.
        wanted: bool,
    },
    /// A client's packet came a second time, from elsewhere: somebody is on the path.
    Alarm {
        /// The client's row.
        row: u32,
        /// Where it came from first.
        first: Source,
        /// And then.
        again: Source,
    },
    /// The answer to `AskCounters`.
    Counters {
        /// By reason.
        counters: Counters,
        /// All packets that passed the kernel's filter.
        packets: u64,
        /// Packets that the kernel lost in front of us.
        lost: u64,
    },
    /// A captured interface went down or away; it is listened to again when it comes back as the
    /// same device.
    Down {
        /// Number of the capture socket.
        capture: u8,
    },
}
