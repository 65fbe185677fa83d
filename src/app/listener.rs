//! The unprivileged process that reads untrusted packets: one poll loop around `core::engine`.
//!
//! It is started with [`ARGUMENT`] and its end of the pipe as descriptor 0, by the gatekeeper, or by
//! the service manager when the gatekeeper connects to a socket for that. It receives
//! its set-up, opens its sockets, drops all privileges, and only then reads the first packet. It ends when the pipe
//! closes. See `gatekeeper` for the decisions.

use std::mem;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::ExitCode;

use nix::sys::prctl::set_name;
use nix::sys::signal::{SigSet, Signal};

use crate::core::bytes::{saturated_u16, saturated_u64};
use crate::core::engine::{Action, Engine, SealedSetup, Setup};
use crate::core::keyring::{Realm, SLOTS, Secret};
use crate::core::noise::KeyPair;
use crate::core::quota::Rate;
use crate::core::sequence::{DoorSpec, SequenceEvent};
use crate::core::types::{Now, Reject, Wall};
use crate::core::wire::GatewayKeys;
use crate::edge::bpf::{self, FilterSpec};
use crate::edge::capture::{self, Capture, CaptureResult, Filters};
use crate::edge::confine::{ConfineFailure, ConfineStep, Limitation, confine};
use crate::edge::ebpf::{NotLoaded, TagMap};
use crate::edge::event_loop::PollSet;
use crate::edge::gatekeeper_pipe::{
    ListenerEnd, OwnAddress, Pipe, PipeError, QUEUE, Tally, ToGatekeeper, ToListener,
};
use crate::edge::raw::{self, Sender};
use crate::edge::socket_failure::SocketFailure;
use crate::edge::{clock, entropy, sys};

/// The hidden argument that makes `toctocd` a listener.
pub const ARGUMENT: &str = "--listener";

/// Packets read from one socket before the loop serves the pipe and the other sockets.
const PACKETS: usize = 64;
/// Knocks decrypted before the loop reads packets again: about a millisecond of curve operations.
const OPENED: usize = 16;
/// Messages from the gatekeeper handled per turn.
const MESSAGES: usize = 256;

pub fn main() -> ExitCode {
    // The gatekeeper ends this process by closing the pipe. Signals from a terminal or killall are
    // meant for the gatekeeper, so block them here.
    let blocked = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    let _ = blocked.thread_block();
    // Without this the process is called `exe`, after the link that started it. The name differs
    // from the gateway's because `killall` goes by name.
    let _ = set_name(c"toctoc-listener");
    let Some(socket) = sys::take_stdin() else { return not_by_hand() };
    let inherited = sys::close_inherited().is_err();
    let mut pipe = Pipe::new(socket);
    let greeted = pipe.send(ToGatekeeper::Hello);
    let end = match greeted.and_then(|()| ListenerSetup::receive(&mut pipe)) {
        Ok(prepared) => serve(&mut pipe, prepared, inherited),
        Err(PipeError::System(libc::ENOTSOCK)) => return not_by_hand(),
        Err(broken) => broken,
    };
    match end {
        PipeError::Closed => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn not_by_hand() -> ExitCode {
    eprintln!("toctocd {ARGUMENT}: the gateway starts this by itself");
    ExitCode::from(2)
}

/// The set-up received so far.
#[derive(Default)]
struct ListenerSetup {
    setup: Setup,
    /// The number of clients to expect.
    clients: u32,
    kernel_tags: Option<KernelTags>,
    /// Made for the first clients: their tags are computed while the gatekeeper derives the keys of
    /// the next ones.
    engine: Option<Engine>,
    addresses: AddressUpdate,
    /// The interfaces to capture on, by the kernel's numbers.
    interfaces: Vec<u32>,
    filter: FilterSpec,
    user: Option<(u32, u32)>,
}

/// What the kernel's filter needs to know tags.
struct KernelTags {
    map: Result<TagMap, NotLoaded>,
    /// The key of the mask of knocks.
    mask: Secret<32>,
}

/// The lists of our addresses that are being received: those for sealed knocks, and for doors.
#[derive(Default)]
struct AddressUpdate {
    knock: Vec<IpAddr>,
    door: Vec<IpAddr>,
}

impl AddressUpdate {
    /// Adds a part of a list. The first part drops what came of an earlier list.
    fn add(&mut self, is_first: bool, part: Vec<OwnAddress>) {
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
    fn receive(pipe: &mut ListenerEnd) -> Result<Self, PipeError> {
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
                let map = TagMap::new(SLOTS.saturating_mul(clients.try_into().unwrap_or(0)));
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
fn roomy_engine(setup: Setup, clients: u32) -> Engine {
    let mut engine = Engine::new(setup);
    engine.reserve(clients.try_into().unwrap_or(0));
    engine
}

/// Why it cannot listen.
enum Failure {
    Confine(ConfineFailure),
    Socket {
        /// The number of the interface.
        capture: usize,
        why: SocketFailure,
    },
}

impl From<ConfineFailure> for Failure {
    fn from(failure: ConfineFailure) -> Failure {
        Failure::Confine(failure)
    }
}

/// Reports the failure to the gatekeeper before the process ends.
fn fail(pipe: &mut ListenerEnd, failure: Failure) -> PipeError {
    let message = match failure {
        Failure::Confine(ConfineFailure { step, errno }) => {
            ToGatekeeper::Failed { step: step as u8, errno }
        }
        Failure::Socket { capture, why: SocketFailure { step, errno } } => {
            ToGatekeeper::NoSocket { capture: saturated_u16(capture), step: step as u8, errno }
        }
    };
    match pipe.send(message) {
        Ok(_) => PipeError::Closed,
        Err(error) => error,
    }
}

fn serve(pipe: &mut ListenerEnd, prepared: ListenerSetup, inherited: bool) -> PipeError {
    let mut listener = match Listener::confined(pipe, prepared, inherited) {
        Ok((listener, degraded)) => {
            if let Err(broken) = pipe.send(ToGatekeeper::Ready { degraded }) {
                return broken;
            }
            listener
        }
        Err(failure) => return fail(pipe, failure),
    };
    loop {
        match listener.turn(pipe) {
            Ok(()) => {}
            Err(broken) => return broken,
        }
    }
}

/// Opens a capture socket for each interface. Nothing is read from them yet. Also says what they
/// lack, if their filter does not know tags.
fn open_captures(
    interfaces: &[u32], spec: &FilterSpec, tags: Option<KernelTags>,
) -> Result<(Vec<Option<Capture>>, Option<Limitation>), Failure> {
    let classic = bpf::program(spec);
    let program = tags.map(|KernelTags { map, mask }| map?.load(spec, mask.expose()));
    let mut lacks = match &program {
        None | Some(Ok(_)) => None,
        Some(Err(NotLoaded::Forbidden)) => Some(Limitation::TagsForbidden),
        Some(Err(NotLoaded::Refused { .. })) => Some(Limitation::TagsRefused),
    };
    let loaded = program.as_ref().and_then(|program| program.as_ref().ok());
    let filters = Filters { classic: &classic, with_tags: loaded.map(AsFd::as_fd) };
    let mut captures = Vec::with_capacity(interfaces.len());
    for (capture, interface) in interfaces.iter().enumerate() {
        let opened = Capture::open(*interface, &filters);
        let opened = opened.map_err(|why| Failure::Socket { capture, why })?;
        if loaded.is_some() && !opened.knows_tags {
            lacks = Some(Limitation::TagsRefused);
        }
        captures.push(Some(opened));
    }
    Ok((captures, lacks))
}

struct Listener {
    engine: Engine,
    /// By number; `None` once it is released.
    captures: Vec<Option<Capture>>,
    /// Holds one packet. Here, because it is too large to be cleared for each packet.
    buffer: Box<[u8; capture::LONGEST]>,
    sender: Sender,
    addresses: AddressUpdate,
    actions: Vec<Action>,
    lost: u64,
    /// Knocks that the pipe had no room for.
    dropped: u64,
    /// True if knocks are queued that could be decrypted at once.
    busy: bool,
    /// The time at which it was replaced. It still hands over the knocks that came before, and ends
    /// once each has its verdict.
    replaced: Option<Wall>,
}

impl Listener {
    /// Does everything that needs a right or a file, then gives up both.
    fn confined(
        pipe: &ListenerEnd, prepared: ListenerSetup, inherited: bool,
    ) -> Result<(Self, u32), Failure> {
        let ListenerSetup { setup, clients, engine, interfaces, filter, user, .. } = prepared;
        let (mut addresses, kernel_tags) = (prepared.addresses, prepared.kernel_tags);
        // Lets the library query the system now, before confinement forbids it.
        entropy::bytes::<1>()
            .map_err(|_| ConfineFailure { step: ConfineStep::Entropy, errno: 0 })?;
        let mut engine = engine.unwrap_or_else(|| roomy_engine(setup, clients));
        engine.set_addresses(mem::take(&mut addresses.knock), mem::take(&mut addresses.door));
        let (captures, lacks) = open_captures(&interfaces, &filter, kernel_tags)?;
        let has_receipts = filter.knock_port.is_some();
        let sender = match has_receipts {
            true => Sender::open().map_err(|why| Failure::Socket { capture: 0, why })?,
            false => Sender::default(),
        };
        let group_is_known = !has_receipts || raw::group_is_known();
        let mut senders = vec![pipe.as_fd()];
        senders.extend(sender.sockets());
        let descriptors = captures.len() + senders.len();
        let mut notes = confine(user, saturated_u64(descriptors), &senders)?;
        if let Some(lacks) = lacks {
            notes.add(lacks);
        }
        if !group_is_known {
            notes.add(Limitation::GroupUnknown);
        }
        if inherited {
            notes.add(Limitation::Inherited);
        }
        let listener = Self {
            engine,
            captures,
            buffer: Box::new([0; capture::LONGEST]),
            sender,
            addresses,
            actions: Vec::new(),
            lost: 0,
            dropped: 0,
            busy: false,
            replaced: None,
        };
        Ok((listener, notes.bits()))
    }

    /// Waits for an event, then does a bounded amount of each kind of work.
    fn turn(&mut self, pipe: &mut ListenerEnd) -> Result<(), PipeError> {
        let mut ready = self.wait(pipe)?;
        let now = clock::now();
        self.engine.tick(now.boot);
        self.receive(pipe)?;
        if self.replaced.is_some() {
            ready = (0..self.captures.len()).collect();
        }
        for index in ready {
            self.read(index, pipe)?;
        }
        pipe.flush()?;
        // Knocks wait in the clients' queues rather than in the pipe's.
        self.busy = pipe.waiting() == 0 && self.engine.serve(now.boot, OPENED, &mut self.actions);
        self.act(pipe)?;
        let is_done = !self.busy && !self.engine.awaits_verdicts();
        if self.replaced.is_some() && is_done && self.captures.iter().all(Option::is_none) {
            self.report_counters(pipe)?;
            return Err(PipeError::Closed);
        }
        Ok(())
    }

    /// The indexes of the capture sockets that are readable. The wait needs no end of its own: the
    /// gatekeeper asks for the counters every second.
    fn wait(&self, pipe: &ListenerEnd) -> Result<Vec<usize>, PipeError> {
        let mut set = PollSet::default();
        set.read_and_write(pipe.as_fd(), pipe.waiting() > 0);
        let mut indexes = Vec::with_capacity(self.captures.len());
        for (index, capture) in self.captures.iter().enumerate() {
            if let Some(capture) = capture {
                set.read(capture.as_fd());
                indexes.push(index);
            }
        }
        let now = clock::now().boot;
        set.wait_until(if self.busy { Some(now) } else { self.engine.deadline() }, now)?;
        let ready = (1..).zip(indexes).filter(|(place, _)| set.is_ready(*place));
        Ok(ready.map(|(_, index)| index).collect())
    }

    fn read(&mut self, index: usize, pipe: &mut ListenerEnd) -> Result<(), PipeError> {
        for _ in 0..PACKETS {
            let Some(Some(capture)) = self.captures.get_mut(index) else { return Ok(()) };
            let result = capture.take(&mut self.buffer);
            // The next listener has what came later. What came before it captured is only here.
            if let Some(replaced) = self.replaced
                && !matches!(result, CaptureResult::Packet { at, .. } if at <= replaced)
            {
                self.end_capture(index);
                return Ok(());
            }
            match result {
                CaptureResult::Packet { arrival, at, bytes } => {
                    let now = Now { wall: at, ..clock::now() };
                    self.engine.packet(now, arrival, bytes, &mut self.actions);
                }
                CaptureResult::Empty => return Ok(()),
                CaptureResult::Down => {
                    let capture = saturated_u16(index);
                    return report(pipe, ToGatekeeper::Down { capture });
                }
            }
            if !self.actions.is_empty() {
                self.act(pipe)?;
            }
        }
        Ok(())
    }

    fn receive(&mut self, pipe: &mut ListenerEnd) -> Result<(), PipeError> {
        for _ in 0..MESSAGES {
            let Some(message) = pipe.receive()? else { break };
            self.follow(message, pipe)?;
            self.act(pipe)?;
        }
        Ok(())
    }

    fn follow(&mut self, message: ToListener, pipe: &mut ListenerEnd) -> Result<(), PipeError> {
        match message {
            ToListener::Verdict { ticket, spent, receipt } => {
                // Without entropy no receipt can be sent. The verdict has taken effect already.
                if let Ok(fresh) = entropy::secret() {
                    self.engine.verdict(ticket, spent, receipt.as_ref(), fresh, &mut self.actions);
                }
            }
            ToListener::Addresses { is_first, part } => self.addresses.add(is_first, part),
            ToListener::AddressesDone => {
                let AddressUpdate { knock, door } = mem::take(&mut self.addresses);
                self.engine.set_addresses(knock, door);
            }
            ToListener::Sequence { door, steps } => self.engine.set_sequence(door, steps),
            ToListener::Clients(clients) => {
                for client in clients {
                    self.engine.enrol(client);
                }
            }
            ToListener::Forget { tag } => self.engine.forget(&tag),
            ToListener::AskCounters => self.report_counters(pipe)?,
            ToListener::Release { capture } => self.end_capture(usize::from(capture)),
            ToListener::Stop => self.replaced = Some(clock::now().wall),
            // Late set-up messages are dropped.
            _ => {}
        }
        Ok(())
    }

    /// Closes a capture socket. What it lost is known only while it is open.
    fn end_capture(&mut self, index: usize) {
        if let Some(capture) = self.captures.get_mut(index).and_then(Option::take) {
            self.lost += capture.lost();
        }
    }

    fn report_counters(&mut self, pipe: &mut ListenerEnd) -> Result<(), PipeError> {
        self.lost += self.captures.iter().flatten().map(Capture::lost).sum::<u64>();
        let mut rejected = self.engine.counters();
        rejected.add(Reject::Dropped, self.dropped);
        let tally = Tally {
            rejected,
            filtered: self.engine.filtered(),
            read: self.engine.packets(),
            lost: self.lost,
            doors: self.engine.door_packets(),
            waiting: self.engine.waiting(),
        };
        report(pipe, ToGatekeeper::Counters(tally))
    }

    fn act(&mut self, pipe: &mut ListenerEnd) -> Result<(), PipeError> {
        for action in self.actions.drain(..) {
            match action {
                Action::Receipt { from, to, bytes } => {
                    // A receipt that cannot be sent counts as lost on the way.
                    let _ = self.sender.send(from, to, &bytes);
                }
                Action::Knock(knock) => match pipe.send(ToGatekeeper::Knock(knock)) {
                    // The gatekeeper has stopped reading.
                    Err(PipeError::Full) => self.dropped = self.dropped.saturating_add(1),
                    other => other?,
                },
                Action::Alarm { client, first, again } => {
                    report(pipe, ToGatekeeper::Alarm { client, first, again })?
                }
                Action::Seen { hit, source_port, length } => {
                    let (source, destination, step) = (hit.source, hit.destination, hit.step);
                    report_for_log(
                        pipe,
                        ToGatekeeper::Seen { source, source_port, destination, step, length },
                    )?;
                }
                Action::Door(effect) => door(pipe, effect)?,
            }
        }
        Ok(())
    }
}

fn door(pipe: &mut ListenerEnd, effect: SequenceEvent) -> Result<(), PipeError> {
    match effect {
        SequenceEvent::Seen => Ok(()),
        SequenceEvent::Completed(done) => {
            report(pipe, ToGatekeeper::Completed { door: done.door(), source: done.source() })
        }
        SequenceEvent::Stage { door, source, stage } => {
            report_for_log(pipe, ToGatekeeper::Stage { door, source, stage })
        }
        SequenceEvent::TimedOut { door, source, stage } => {
            report_for_log(pipe, ToGatekeeper::TimedOut { door, source, stage })
        }
        SequenceEvent::Refused { source } => report_for_log(pipe, ToGatekeeper::Refused { source }),
        SequenceEvent::Removed { source, success } => {
            report_for_log(pipe, ToGatekeeper::Removed { source, success })
        }
        SequenceEvent::Ignored(name, wanted) => {
            let flag = crate::core::door::TcpFlags::NAMES.iter().position(|one| *one == name);
            let flag = flag.and_then(|index| u8::try_from(index).ok()).unwrap_or(u8::MAX);
            report_for_log(pipe, ToGatekeeper::Ignored { flag, wanted })
        }
    }
}

/// Sends an important message. A full queue means that the gatekeeper has stopped reading. The
/// message is lost then, which is the smaller problem.
fn report(pipe: &mut ListenerEnd, message: ToGatekeeper) -> Result<(), PipeError> {
    match pipe.send(message) {
        Err(PipeError::Full) => Ok(()),
        other => other,
    }
}

/// Sends a message that only feeds the log. Forged packets can cause many of these, so they may use
/// only half of the queue.
fn report_for_log(pipe: &mut ListenerEnd, message: ToGatekeeper) -> Result<(), PipeError> {
    if pipe.waiting() > QUEUE / 2 { Ok(()) } else { report(pipe, message) }
}
