//! The unprivileged process that reads untrusted packets: one poll loop around `core::engine`.
//!
//! The gatekeeper starts it with [`ARGUMENT`] and its end of the pipe as descriptor 0. It receives
//! its set-up, drops all privileges, and only then reads the first packet. It ends when the pipe
//! closes. See `gatekeeper` for the decisions.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::ExitCode;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_name;
use nix::sys::signal::{SigSet, Signal};

use crate::core::engine::{Action, Engine, SealedSetup, Setup};
use crate::core::keyring::{ClientKeys, Realm};
use crate::core::noise::KeyPair;
use crate::core::packet::Arrival;
use crate::core::quota::Rate;
use crate::core::sequence::{DoorSpec, SequenceEvent};
use crate::core::types::{Boot, Fingerprint};
use crate::core::wire::GatewayKeys;
use crate::edge::capture::{Capture, CaptureResult, UnboundCapture};
use crate::edge::confine::{ConfineFailure, ConfineStep, Limitation, confine};
use crate::edge::gatekeeper_pipe::{ListenerEnd, Pipe, PipeError, QUEUE, ToGatekeeper, ToListener};
use crate::edge::raw::Sender;
use crate::edge::{clock, entropy, sys};

/// The hidden argument that makes `toctocd` a listener.
pub const ARGUMENT: &str = "--listener";

/// Packets read from one socket before the loop serves the pipe and the other sockets.
const PACKETS: usize = 64;
/// Knocks decrypted before the loop reads packets again: about a millisecond of curve operations.
const OPENED: usize = 16;
/// Messages from the gatekeeper handled per turn.
const MESSAGES: usize = 256;
/// The longest wait of the loop, milliseconds: a change of date must not be missed by much.
const LONGEST_WAIT: u64 = 30_000;

pub fn main() -> ExitCode {
    // The gatekeeper ends this process by closing the pipe. Signals from a terminal or killall are
    // meant for the gatekeeper, so block them here.
    let deaf = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    let _ = deaf.thread_block();
    // Without this the process is called `exe`, after the link that started it. The name differs
    // from the gateway's because `killall` goes by name.
    let _ = set_name(c"toctoc-listener");
    let Some(socket) = sys::take_stdin() else { return not_by_hand() };
    let inherited = sys::close_inherited().is_err();
    let mut pipe = Pipe::new(socket);
    let end = match ListenerSetup::hear(&mut pipe) {
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
    addresses: AddressUpdate,
    deaf: Vec<UnboundCapture>,
    sender: Sender,
    user: Option<(u32, u32)>,
}

/// Two address lists: the one being received, and the one in force.
#[derive(Default)]
struct AddressUpdate {
    coming: (Vec<IpAddr>, Vec<IpAddr>),
    done: (Vec<IpAddr>, Vec<IpAddr>),
}

impl AddressUpdate {
    fn add(&mut self, address: IpAddr, knock: bool, door: bool) {
        if knock {
            self.coming.0.push(address);
        }
        if door {
            self.coming.1.push(address);
        }
    }

    fn done(&mut self) {
        self.done = std::mem::take(&mut self.coming);
    }
}

impl ListenerSetup {
    /// Receives the set-up, up to `Go`.
    fn hear(pipe: &mut ListenerEnd) -> Result<Self, PipeError> {
        let mut prepared = Self::default();
        loop {
            match pipe.receive()? {
                None => {
                    wait(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?
                }
                Some(ToListener::Go { user }) => {
                    prepared.user = user;
                    return Ok(prepared);
                }
                Some(message) => {
                    if prepared.take(message).is_none() {
                        return Err(fail(
                            pipe,
                            ConfineFailure { step: ConfineStep::SetUp, errno: 0 },
                        ));
                    }
                }
            }
        }
    }

    /// Returns `None` for a message at the wrong time or out of order: a bug in the gatekeeper.
    fn take(&mut self, message: ToListener) -> Option<()> {
        match message {
            ToListener::Gateway {
                realm,
                gateway,
                mask,
                current,
                other,
                port,
                burst,
                per_second,
            } => {
                let keys = GatewayKeys {
                    gateway,
                    realm: Realm::new(realm, mask),
                    current: KeyPair::new(&current),
                    other: other.as_ref().map(KeyPair::new),
                };
                let rate = Rate { burst, per_second };
                self.setup.sealed = Some(SealedSetup { keys, port, rate });
            }
            ToListener::Client { row, keys, fingerprint } => self.client(row, keys, fingerprint)?,
            ToListener::Doors { ipv6, debug } => {
                self.setup.rules.ipv6 = ipv6;
                self.setup.rules.debug = debug;
            }
            ToListener::Door { index, spec } => self.door(index, spec)?,
            ToListener::Address { address, knock, door } => {
                self.addresses.add(address, knock, door)
            }
            ToListener::AddressesDone => self.addresses.done(),
            ToListener::Capture(deaf) => self.deaf.push(deaf),
            ToListener::Raw4(socket) => self.sender.v4 = Some(socket),
            ToListener::Raw6(socket) => self.sender.v6 = Some(socket),
            ToListener::Stop => return None,
            ToListener::Sequence { .. } | ToListener::Go { .. } => return None,
            ToListener::Verdict { .. } | ToListener::AskCounters => return None,
        }
        Some(())
    }

    fn client(&mut self, row: u32, keys: ClientKeys, fingerprint: Fingerprint) -> Option<()> {
        (usize::try_from(row).ok()? == self.setup.clients.len())
            .then(|| self.setup.clients.push((keys, fingerprint)))
    }

    fn door(&mut self, index: u16, spec: DoorSpec) -> Option<()> {
        (usize::from(index) == self.setup.doors.len()).then(|| self.setup.doors.push(spec))
    }
}

/// Reports the failure to the gatekeeper before the process ends.
fn fail(pipe: &mut ListenerEnd, failure: ConfineFailure) -> PipeError {
    let told = pipe.send(ToGatekeeper::Failed { step: failure.step as u8, errno: failure.errno });
    told.err().unwrap_or(PipeError::Closed)
}

/// Waits until a descriptor is ready or the timeout expires.
fn wait(descriptors: &mut [PollFd<'_>], timeout: PollTimeout) -> Result<(), PipeError> {
    match poll(descriptors, timeout) {
        Ok(_) | Err(nix::Error::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn serve(pipe: &mut ListenerEnd, prepared: ListenerSetup, inherited: bool) -> PipeError {
    let mut listener = match Listener::confined(prepared, inherited) {
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

struct Listener {
    engine: Engine,
    captures: Vec<(Arrival, Capture)>,
    sender: Sender,
    addresses: AddressUpdate,
    actions: Vec<Action>,
    lost: u64,
    /// True if knocks are queued that could be decrypted at once.
    busy: bool,
    /// It was replaced: it ends once every knock that it handed over has its verdict.
    stopping: bool,
}

impl Listener {
    /// Does everything that needs a right or a file, then gives up both.
    fn confined(prepared: ListenerSetup, inherited: bool) -> Result<(Self, u32), ConfineFailure> {
        let ListenerSetup { setup, addresses, deaf, sender, user } = prepared;
        // Lets the library query the system now, before confinement forbids it.
        entropy::bytes::<1>()
            .map_err(|_| ConfineFailure { step: ConfineStep::Entropy, errno: 0 })?;
        let mut engine = Engine::new(clock::now(), setup);
        engine.set_addresses(addresses.done.0.clone(), addresses.done.1.clone());
        let mut captures = Vec::with_capacity(deaf.len());
        for (number, deaf) in (0..=u8::MAX).zip(deaf) {
            let arrival = Arrival { capture: number, loopback: deaf.interface.loopback };
            captures.push((
                arrival,
                Capture::bind(deaf).map_err(|e| ConfineFailure::io(ConfineStep::Bind, &e))?,
            ));
        }
        let descriptors =
            u64::try_from(captures.len()).unwrap_or(u64::MAX).saturating_mul(2).saturating_add(4);
        let mut notes = confine(user, descriptors)?;
        if inherited {
            notes.add(Limitation::Inherited);
        }
        let listener = Self {
            engine,
            captures,
            sender,
            addresses,
            actions: Vec::new(),
            lost: 0,
            busy: false,
            stopping: false,
        };
        Ok((listener, notes.bits()))
    }

    /// Waits for an event, then does a bounded amount of each kind of work.
    fn turn(&mut self, pipe: &mut ListenerEnd) -> Result<(), PipeError> {
        let ready = self.wait(pipe)?;
        let now = clock::now();
        self.engine.tick(now);
        self.hear(pipe)?;
        for index in ready {
            self.read(index, pipe)?;
        }
        pipe.flush()?;
        // Knocks wait in the clients' queues rather than in the pipe's.
        self.busy = pipe.waiting() == 0 && self.engine.serve(now.boot, OPENED, &mut self.actions);
        self.act(pipe)?;
        if self.stopping && !self.busy && !self.engine.awaits_verdicts() {
            return Err(PipeError::Closed);
        }
        Ok(())
    }

    /// The indexes of the capture sockets that are readable.
    fn wait(&self, pipe: &ListenerEnd) -> Result<Vec<usize>, PipeError> {
        let writable = if pipe.waiting() > 0 { PollFlags::POLLOUT } else { PollFlags::empty() };
        let mut descriptors = Vec::with_capacity(self.captures.len() + 1);
        descriptors.push(PollFd::new(pipe.as_fd(), PollFlags::POLLIN | writable));
        descriptors.extend(
            self.captures
                .iter()
                .map(|(_, capture)| PollFd::new(capture.as_fd(), PollFlags::POLLIN)),
        );
        wait(&mut descriptors, self.patience())?;
        let ready =
            descriptors.iter().skip(1).enumerate().filter(|(_, one)| one.any().unwrap_or(true));
        Ok(ready.map(|(index, _)| index).collect())
    }

    fn patience(&self) -> PollTimeout {
        if self.busy {
            return PollTimeout::ZERO;
        }
        let until = |deadline: Boot| deadline.0.saturating_sub(clock::now().boot.0) / 1_000_000 + 1;
        let wait = self.engine.deadline().map_or(LONGEST_WAIT, until).min(LONGEST_WAIT);
        i32::try_from(wait)
            .ok()
            .and_then(|wait| PollTimeout::try_from(wait).ok())
            .unwrap_or(PollTimeout::ZERO)
    }

    fn read(&mut self, index: usize, pipe: &mut ListenerEnd) -> Result<(), PipeError> {
        for _ in 0..PACKETS {
            let Some((arrival, capture)) = self.captures.get_mut(index) else { return Ok(()) };
            match capture.take() {
                CaptureResult::Packet(packet) => {
                    self.engine.packet(clock::now(), *arrival, packet, &mut self.actions)
                }
                CaptureResult::Empty => return Ok(()),
                CaptureResult::Down => {
                    return tell(pipe, ToGatekeeper::Down { capture: arrival.capture });
                }
            }
            if !self.actions.is_empty() {
                self.act(pipe)?;
            }
        }
        Ok(())
    }

    fn hear(&mut self, pipe: &mut ListenerEnd) -> Result<(), PipeError> {
        for _ in 0..MESSAGES {
            let Some(message) = pipe.receive()? else { break };
            self.obey(message, pipe)?;
            self.act(pipe)?;
        }
        Ok(())
    }

    fn obey(&mut self, message: ToListener, pipe: &mut ListenerEnd) -> Result<(), PipeError> {
        match message {
            ToListener::Verdict { ticket, spent, receipt } => {
                // Without entropy no receipt can be sent. The verdict has taken effect already.
                if let Ok(fresh) = entropy::secret() {
                    self.engine.verdict(ticket, spent, receipt.as_ref(), fresh, &mut self.actions);
                }
            }
            ToListener::Address { address, knock, door } => {
                self.addresses.add(address, knock, door)
            }
            ToListener::AddressesDone => {
                self.addresses.done();
                self.engine
                    .set_addresses(self.addresses.done.0.clone(), self.addresses.done.1.clone());
            }
            ToListener::Sequence { door, steps } => self.engine.set_sequence(door, steps),
            ToListener::AskCounters => {
                self.lost += self.captures.iter().map(|(_, capture)| capture.lost()).sum::<u64>();
                let (counters, packets) = (self.engine.counters(), self.engine.packets());
                tell(pipe, ToGatekeeper::Counters { counters, packets, lost: self.lost })?;
            }
            // The next listener captures already.
            ToListener::Stop => {
                self.captures.clear();
                self.stopping = true;
            }
            // Late set-up messages are dropped, and their sockets closed.
            _ => {}
        }
        Ok(())
    }

    fn act(&mut self, pipe: &mut ListenerEnd) -> Result<(), PipeError> {
        for action in self.actions.drain(..) {
            match action {
                Action::Receipt { from, to, bytes } => {
                    // A receipt that cannot be sent counts as lost on the way.
                    let _ = self.sender.send(from, to, &bytes);
                }
                Action::Knock(knock) => tell(pipe, ToGatekeeper::Knock(knock))?,
                Action::Alarm { row, first, again } => {
                    tell(pipe, ToGatekeeper::Alarm { row, first, again })?
                }
                Action::Seen { hit, source_port, length } => {
                    let (source, destination, step) = (hit.source, hit.destination, hit.step);
                    chat(
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
            tell(pipe, ToGatekeeper::Completed { door: done.door(), source: done.source() })
        }
        SequenceEvent::Stage { door, source, stage } => {
            chat(pipe, ToGatekeeper::Stage { door, source, stage })
        }
        SequenceEvent::TimedOut { door, source, stage } => {
            chat(pipe, ToGatekeeper::TimedOut { door, source, stage })
        }
        SequenceEvent::Refused { source } => chat(pipe, ToGatekeeper::Refused { source }),
        SequenceEvent::Removed { source, success } => {
            chat(pipe, ToGatekeeper::Removed { source, success })
        }
        SequenceEvent::Ignored(name, wanted) => {
            let flag = crate::core::door::TcpFlags::NAMES.iter().position(|one| *one == name);
            let flag = flag.and_then(|index| u8::try_from(index).ok()).unwrap_or(u8::MAX);
            chat(pipe, ToGatekeeper::Ignored { flag, wanted })
        }
    }
}

/// Sends an important message. A full queue means that the gatekeeper has stopped reading. The
/// message is lost then, which is the smaller problem.
fn tell(pipe: &mut ListenerEnd, message: ToGatekeeper) -> Result<(), PipeError> {
    match pipe.send(message) {
        Err(PipeError::Full) => Ok(()),
        other => other,
    }
}

/// Sends a message that only feeds the log. Forged packets can cause many of these, so they may use
/// only half of the queue.
fn chat(pipe: &mut ListenerEnd, message: ToGatekeeper) -> Result<(), PipeError> {
    if pipe.waiting() > QUEUE / 2 { Ok(()) } else { tell(pipe, message) }
}
