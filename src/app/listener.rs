//! The unprivileged process that reads untrusted packets: one poll loop around `core::engine`.
//!
//! It is started with [`ARGUMENT`] and its end of the pipe as descriptor 0, by the gatekeeper, or by
//! the service manager when the gatekeeper connects to a socket for that. It receives
//! its set-up, opens its sockets, drops all privileges, and only then reads the first packet. It ends when the pipe
//! closes. See `gatekeeper` for the decisions.

use std::mem;
use std::os::fd::AsFd;
use std::process::ExitCode;

use nix::sys::prctl::set_name;
use nix::sys::signal::{SigSet, Signal};

use crate::core::bytes::{saturated_u16, saturated_u64};
use crate::core::engine::{Action, Engine};
use crate::core::sequence::{Ipv6, SequenceEvent};
use crate::core::types::{Now, Reject, Wall};
use crate::edge::capture::{self, Capture, CaptureResult};
use crate::edge::confine::{ConfineFailure, ConfineStep, Limitation, confine};
use crate::edge::ebpf::OwnAddresses;
use crate::edge::event_loop::PollSet;
use crate::edge::gatekeeper_pipe::{ListenerEnd, Pipe, PipeError, Tally, ToGatekeeper, ToListener};
use crate::edge::raw::{self, Sender};
use crate::edge::socket_failure::SocketFailure;
use crate::edge::{clock, entropy, sys};
use captures::{Captures, EarlyFilter, KernelFilter, open_captures};
use reports::{StepReports, report, report_for_log};
use setup::{AddressUpdate, ListenerSetup, roomy_engine};

mod captures;
mod reports;
mod setup;

/// The hidden argument that makes `toctocd` a listener.
pub const ARGUMENT: &str = "--listener";

/// Packets read from one socket before the loop serves the pipe and the other sockets.
const PACKETS: usize = 64;
/// Knocks decrypted before the loop reads packets again: about a millisecond of curve operations.
const OPENED: usize = 16;
/// Messages from the gatekeeper handled per turn.
const MESSAGES: usize = 256;

/// Nanoseconds that the loop leaves packets in their queues after it has read nothing but junk.
const REST: u32 = 300_000;

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

/// What a turn of the loop read from the capture sockets.
#[derive(Clone, Copy, Debug, Default)]
struct TurnRead {
    packets: usize,
    /// True if nothing was left in the last socket.
    drained: bool,
    /// True if anything else came of it than lines about steps at doors.
    mattered: bool,
}

impl TurnRead {
    /// True if the loop may rest: then a flood costs a fraction, because waking up for each packet
    /// is most of the work. Nothing is lost meanwhile: the sockets' queues hold far more.
    fn is_only_junk(&self) -> bool {
        self.packets > 0 && self.drained && !self.mattered
    }
}

/// What can be read after a wait. Nothing else is tried: each empty read is a system call.
struct Ready {
    pipe: bool,
    /// The indexes of the capture sockets.
    captures: Vec<usize>,
}

struct Listener {
    engine: Engine,
    /// By number; `None` once it is released.
    captures: Vec<Option<Capture>>,
    /// Holds one packet. Here, because it is too large to be cleared for each packet.
    buffer: Box<[u8; capture::LONGEST]>,
    sender: Sender,
    /// Our addresses as the program at interfaces knows them, if there is one.
    early: Option<OwnAddresses>,
    addresses: AddressUpdate,
    actions: Vec<Action>,
    lost: u64,
    /// Knocks that the pipe had no room for.
    dropped: u64,
    steps: StepReports,
    /// What the current turn read.
    turn: TurnRead,
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
        let makes_xdp = prepared.makes_xdp;
        let addresses = prepared.addresses;
        // Also lets the library query the system now, before confinement forbids it.
        let seed = entropy::bytes()
            .map_err(|_| ConfineFailure { step: ConfineStep::Entropy, errno: 0 })?;
        let kernel_filter = KernelFilter {
            tags: prepared.kernel_tags,
            first_steps: prepared.first_steps,
            seed: u64::from_le_bytes(seed),
            ipv6: prepared.ipv6 == Ipv6::Counts,
        };
        let mut engine = engine.unwrap_or_else(|| roomy_engine(setup, clients));
        let mut early = None;
        if let (true, Some(tags), Some(port)) = (makes_xdp, &kernel_filter.tags, filter.knock_port)
            && let Some(EarlyFilter { program, addresses }) = tags.early_filter(port)
            // Without it the gatekeeper says that there is no program.
            && pipe.send_with(ToGatekeeper::Xdp, program.as_fd()).is_ok()
        {
            early = Some(addresses);
        }
        let Captures { captures, lacks, first_steps } =
            open_captures(&interfaces, &filter, kernel_filter)?;
        if let Some(first_steps) = first_steps {
            engine.hold_in(first_steps);
        }
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
        let mut listener = Self {
            engine,
            captures,
            buffer: Box::new([0; capture::LONGEST]),
            sender,
            early,
            addresses: AddressUpdate::default(),
            actions: Vec::new(),
            lost: 0,
            dropped: 0,
            steps: StepReports::default(),
            turn: TurnRead::default(),
            busy: false,
            replaced: None,
        };
        listener.use_addresses(addresses);
        Ok((listener, notes.bits()))
    }

    /// Waits for an event, then does a bounded amount of each kind of work.
    fn turn(&mut self, pipe: &mut ListenerEnd) -> Result<(), PipeError> {
        let rests = self.turn.is_only_junk() && !self.busy && self.replaced.is_none();
        self.turn = TurnRead::default();
        if rests {
            let mut set = PollSet::default();
            set.read(pipe.as_fd());
            set.rest(REST)?;
        }
        let mut ready = self.wait(pipe)?;
        let now = clock::now();
        self.engine.tick(now.boot);
        if ready.pipe {
            self.receive(pipe)?;
        }
        if self.replaced.is_some() {
            ready.captures = (0..self.captures.len()).collect();
        }
        for index in ready.captures {
            self.read(index, pipe)?;
        }
        pipe.flush()?;
        // Knocks wait in the clients' queues rather than in the pipe's.
        self.turn.mattered |= self.engine.waiting() > 0;
        self.busy = pipe.waiting() == 0 && self.engine.serve(now.boot, OPENED, &mut self.actions);
        self.act(pipe)?;
        let is_done = !self.busy && !self.engine.awaits_verdicts();
        if self.replaced.is_some() && is_done && self.captures.iter().all(Option::is_none) {
            self.report_counters(pipe)?;
            return Err(PipeError::Closed);
        }
        Ok(())
    }

    /// Waits until something can be read, or is due. The wait needs no end of its own: the
    /// gatekeeper asks for the counters every second.
    fn wait(&self, pipe: &ListenerEnd) -> Result<Ready, PipeError> {
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
        let captures = (1..).zip(indexes).filter(|(place, _)| set.is_ready(*place));
        Ok(Ready { pipe: set.is_ready(0), captures: captures.map(|(_, index)| index).collect() })
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
            self.turn.drained = matches!(result, CaptureResult::Empty);
            match result {
                CaptureResult::Packet { arrival, at, bytes } => {
                    self.turn.packets += 1;
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
                let addresses = mem::take(&mut self.addresses);
                self.use_addresses(addresses);
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

    fn use_addresses(&mut self, AddressUpdate { knock, door }: AddressUpdate) {
        if let Some(early) = &self.early {
            early.set(&knock);
        }
        self.engine.set_addresses(knock, door);
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
            holds: self.engine.holds_first_steps(),
            xdp: self.early.as_ref().map_or(0, OwnAddresses::dropped),
            read: self.engine.packets(),
            lost: self.lost,
            doors: self.engine.door_packets(),
            waiting: self.engine.waiting(),
        };
        self.steps.report_suppressed(pipe)?;
        report(pipe, ToGatekeeper::Counters(tally))
    }

    fn act(&mut self, pipe: &mut ListenerEnd) -> Result<(), PipeError> {
        for action in self.actions.drain(..) {
            self.turn.mattered |= !matches!(action, Action::Door(_) | Action::Seen { .. });
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
                Action::Door(event) => {
                    self.turn.mattered |= matches!(event, SequenceEvent::Completed(_));
                    self.steps.report(clock::now().boot, event, pipe)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loop_rests_only_after_it_has_read_all_and_nothing_but_junk() {
        let junk = TurnRead { packets: 1, drained: true, mattered: false };
        assert!(junk.is_only_junk());
        assert!(!TurnRead { packets: 0, ..junk }.is_only_junk(), "it only answered the gatekeeper");
        assert!(!TurnRead { drained: false, ..junk }.is_only_junk(), "more is waiting");
        assert!(!TurnRead { mattered: true, ..junk }.is_only_junk(), "a knock is under way");
    }
}
