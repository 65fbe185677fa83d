//! The listener as a process. The gatekeeper starts it, waits for its first message, sends it interfaces, keys, clients,
//! doors and addresses, and checks that it is confined. Only [`ListenerProcess::wait_until_ready`]
//! waits. See `gatekeeper` for its reports afterwards.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use crate::app::interfaces;
use crate::app::prepare::Prepared;
use crate::core::clients::ClientTable;
use crate::core::door::first_steps::held_steps;
use crate::core::door::{Door, Step, TcpFlags};
use crate::core::sequence::{DoorSpec, Ipv6};
use crate::core::types::{Boot, Fault, Reject};
use crate::edge::addresses::LocalAddress;
use crate::edge::bpf::FilterSpec;
use crate::edge::confine::{self, ConfineFailure, Limitation, Limitations};
use crate::edge::event_loop::PollSet;
use crate::edge::gatekeeper_pipe::{
    FirstMessage, GatekeeperEnd, OwnAddress, PeerProcess, PipeError, ToGatekeeper, ToListener,
};
use crate::edge::socket_failure::SocketFailure;
use crate::edge::{capture, clock};
use heartbeat::{Beat, Heartbeat};
use process::Process;
use setup::{SetupFeed, address_messages};

mod heartbeat;
mod process;
mod setup;

pub(super) use setup::{ListenerSpec, own_addresses};

/// Seconds that a start may take if the caller waits for it.
const PATIENCE: u32 = 20;
/// Seconds without any progress after which a start has failed: somebody may have stopped it.
const STALLED: u32 = 5;
/// Messages received in one turn, so that other work is not delayed.
const TURN: usize = 256;
/// Messages of a set-up sent in one turn. Each may hold the keys of many clients, which are
/// derived for it.
const FEED: usize = 8;

/// The parameters of a gateway's listener.
pub(super) struct ListenerStart {
    pub(super) prepared: Arc<Prepared>,
    pub(super) clients: ClientTable,
    /// Today, by the gatekeeper's clock.
    pub(super) day: u32,
    /// The doors with their current sequences.
    pub(super) doors: Vec<Door>,
    pub(super) addresses: Vec<LocalAddress>,
}

/// A running listener. Dropping it kills the process and waits for its end.
pub(super) struct ListenerProcess {
    process: Process,
    /// `None` until its first message.
    met: Option<Met>,
    pub(super) pipe: GatekeeperEnd,
    user: Option<(u32, u32)>,
    /// The rest of its set-up; `None` once it is ready.
    setup: Option<SetupFeed>,
    /// The rest of the newest list of addresses. It waits here and not in the pipe's queue, which
    /// it could fill.
    addresses: VecDeque<ToListener>,
    heartbeat: Heartbeat,
    ready: ListenerReady,
    /// True if it was asked for a program for interfaces, and the program.
    makes_xdp: bool,
    pub(super) xdp: Option<Arc<OwnedFd>>,
}

/// A listener that has said hello.
#[derive(Clone, Copy)]
struct Met {
    pid: u32,
    /// See [`confine::inherited_filters`].
    inherited_filters: u64,
}

/// A listener that is ready.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ListenerReady {
    /// The parts of the confinement that this machine does not support, one sentence each.
    pub(super) limitations: Vec<String>,
    /// The interfaces that the configuration meant when the listener started.
    pub(super) wanted: Vec<String>,
    /// The captured interfaces, in the order of their sockets.
    pub(super) interfaces: Vec<String>,
    /// The kernel's numbers of these interfaces; 0 for all at once, and for one that was released.
    pub(super) indexes: Vec<u32>,
    /// The configured interfaces that do not exist.
    pub(super) missing: Vec<String>,
}

impl ListenerReady {
    /// What a listener has that captures on these interfaces. Those that do not exist are waited
    /// for: links and routes come and go, and neither a start nor a reload may hang on one.
    pub(super) fn of(wanted: Vec<String>) -> ListenerReady {
        let mut ready = ListenerReady::default();
        for name in &wanted {
            match capture::interface(name) {
                Ok(index) => {
                    ready.indexes.push(index);
                    ready.interfaces.push(name.clone());
                }
                Err(_) => ready.missing.push(name.clone()),
            }
        }
        ListenerReady { wanted, ..ready }
    }
}

/// The listener's progress since the last call.
pub(super) enum Progress {
    Nothing,
    /// It listens, and the gatekeeper has verified that it is confined.
    Ready(ListenerReady),
    /// Messages from it, perhaps followed by the end of its pipe.
    Messages {
        messages: Vec<ToGatekeeper>,
        end: Option<PipeError>,
    },
}

impl ListenerProcess {
    /// Starts a gateway's listener, as a child or by the socket of systemd at this path.
    /// [`ListenerProcess::advance`] sends its set-up.
    pub(super) fn start(
        start: ListenerStart, socket: Option<&Path>,
    ) -> Result<ListenerProcess, Fault> {
        let settings = &start.prepared.config.settings;
        let wanted = interfaces::resolved_interfaces(settings, &interfaces::of_default_routes());
        let knock_port = Some(settings.knock.port);
        let spec = ListenerSpec {
            name: "toctocd: listener",
            sealed: Some(Arc::clone(&start.prepared)),
            clients: start.clients,
            day: start.day,
            doors: start.doors.iter().map(DoorSpec::from).collect(),
            ipv6: Ipv6::Counts,
            debug: false,
            addresses: own_addresses(&wanted, &start.addresses),
            filter: FilterSpec { knock_port, steps: steps(&start.doors), outgoing: false },
            first_steps: held_steps(&start.doors, knock_port),
            makes_xdp: !settings.knock.xdp.is_empty(),
            ready: ListenerReady::of(wanted),
            user: start.prepared.user,
        };
        if socket.is_some() && spec.user.is_none() {
            let what = "only root can use a listener that systemd starts";
            return Err(Fault::new(what, "leave out --listener-socket"));
        }
        Self::begin(spec, socket)
    }

    /// Starts a listener as a child.
    pub(super) fn spawn(spec: ListenerSpec) -> Result<ListenerProcess, Fault> {
        Self::begin(spec, None)
    }

    fn begin(spec: ListenerSpec, socket: Option<&Path>) -> Result<ListenerProcess, Fault> {
        let (process, pipe) = match socket {
            None => Process::child(spec.name)?,
            Some(path) => Process::unit(path)?,
        };
        let (user, ready, makes_xdp) = (spec.user, spec.ready.clone(), spec.makes_xdp);
        Ok(ListenerProcess {
            process,
            met: None,
            pipe,
            user,
            setup: Some(SetupFeed::new(spec)),
            addresses: VecDeque::new(),
            heartbeat: Heartbeat::default(),
            ready,
            makes_xdp,
            xdp: None,
        })
    }

    /// Sends and receives as much as possible without waiting.
    /// Error: the listener never gets ready, or it is not confined. It must not be used then.
    pub(super) fn advance(&mut self) -> Result<Progress, Fault> {
        if self.setup.is_some() {
            return match self.set_up() {
                Ok(None) => Ok(Progress::Nothing),
                Ok(Some(limitations)) => self.prove(limitations).map(Progress::Ready),
                Err(error) => Err(self.never_ready(error)),
            };
        }
        let mut messages = Vec::new();
        let mut end = self.send_waiting().err();
        while end.is_none() && messages.len() < TURN {
            match self.pipe.receive() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => end = Some(error),
            }
        }
        let beat = self.heartbeat.beat(!messages.is_empty(), clock::now().boot);
        match beat {
            Beat::Wait => {}
            Beat::Ask => self.send(ToListener::AskCounters),
            Beat::Silent => end = end.or(Some(PipeError::Silent)),
        }
        Ok(Progress::Messages { messages, end })
    }

    /// Sends what waits, as far as the pipe takes it.
    fn send_waiting(&mut self) -> Result<(), PipeError> {
        self.pipe.flush()?;
        while self.pipe.waiting() == 0 {
            let Some(message) = self.addresses.pop_front() else { break };
            self.pipe.send(message)?;
        }
        Ok(())
    }

    /// The moment at which [`ListenerProcess::advance`] is due even if nothing was received.
    pub(super) fn deadline(&self) -> Boot {
        self.heartbeat.due
    }

    /// Sends our addresses, which replace those that it knows.
    pub(super) fn send_addresses(&mut self, addresses: &[OwnAddress]) {
        self.addresses = address_messages(addresses).into();
        // A broken pipe shows up at the next read.
        let _ = self.send_waiting();
    }

    /// Waits until the listener is confined and listens. Only for the start of the gateway.
    /// Error: as [`ListenerProcess::advance`]; also if it takes too long.
    pub(super) fn wait_until_ready(&mut self) -> Result<ListenerReady, Fault> {
        let deadline = clock::now().boot.plus(PATIENCE);
        loop {
            if let Progress::Ready(ready) = self.advance()? {
                return Ok(ready);
            }
            if deadline <= clock::now().boot {
                return Err(Fault::new(
                    "the listener did not get ready in time",
                    "is this machine overloaded?",
                ));
            }
            let mut set = PollSet::default();
            set.read_and_write(self.pipe.as_fd(), self.wants_to_write());
            // A failed wait only shortens the wait.
            let _ = set.wait_until(Some(deadline.min(self.deadline())), clock::now().boot);
        }
    }

    /// Sends a message now, or queues it. A broken pipe shows up at the next read.
    pub(super) fn send(&mut self, message: ToListener) {
        let _ = self.pipe.send(message);
    }

    /// True if queued messages wait to be sent.
    pub(super) fn wants_to_write(&self) -> bool {
        let feeds = |setup: &SetupFeed| self.met.is_some() && setup.go.is_some();
        self.pipe.waiting() > 0
            || !self.addresses.is_empty()
            || self.setup.as_ref().is_some_and(feeds)
    }

    /// The exit status of the process as text, if it is our child and has ended.
    pub(super) fn ended(&mut self) -> Option<String> {
        self.process.ended()
    }

    /// Kills the process without waiting. True if its end is to be waited for: it is our child.
    pub(super) fn kill(&mut self) -> bool {
        self.process.kill();
        matches!(self.process, Process::Child(_))
    }

    /// Sends as much of the set-up as the pipe takes. Returns the limitations once it is ready.
    fn set_up(&mut self) -> Result<Option<Limitations>, SetupError> {
        let Some(setup) = &mut self.setup else { return Ok(None) };
        let now = clock::now().boot;
        let waiting = self.pipe.waiting();
        self.pipe.flush()?;
        let mut moves = self.pipe.waiting() < waiting || self.heartbeat.due == Boot(0);
        for _ in 0..FEED {
            if self.pipe.waiting() > 0 || self.met.is_none() {
                break;
            }
            let Some(message) = setup.next() else { break };
            self.pipe.send(message)?;
            moves = true;
        }
        if moves {
            let patience = match (&self.process, self.met) {
                // systemd may be busy.
                (Process::Unit(_), None) => PATIENCE,
                _ => STALLED,
            };
            self.heartbeat.due = now.plus(patience);
        }
        let Some(FirstMessage { message, from, beside }) =
            self.pipe.receive_from(self.makes_xdp)?
        else {
            return match self.heartbeat.due <= now {
                true => Err(PipeError::Silent.into()),
                false => Ok(None),
            };
        };
        match (message, self.met) {
            // Another process that holds the pipe too is not the one that we look at.
            (_, Some(met)) if met.pid != from.pid => Err(PipeError::Nonsense(Reject::Pipe).into()),
            (ToGatekeeper::Xdp, Some(_)) if beside.is_some() => {
                self.xdp = beside.map(Arc::new);
                Ok(None)
            }
            // Nothing else comes with one.
            _ if beside.is_some() => Err(PipeError::Nonsense(Reject::Pipe).into()),
            (ToGatekeeper::Hello, None) => {
                self.meet(from).map_err(SetupError::Reported)?;
                Ok(None)
            }
            (_, None) => Err(PipeError::Nonsense(Reject::Pipe).into()),
            (ToGatekeeper::Ready { degraded }, _) => Ok(Some(Limitations::from_bits(degraded))),
            (ToGatekeeper::Failed { step, errno }, _) => {
                let failure = ConfineFailure::from_pipe(step, errno);
                Err(SetupError::reported(failure.map(ConfineFailure::fault)))
            }
            (ToGatekeeper::NoSocket { capture, step, errno }, _) => {
                let interface = self.ready.interfaces.get(usize::from(capture));
                let interface = interface.map_or("?", String::as_str);
                let failure = SocketFailure::from_pipe(step, errno);
                Err(SetupError::reported(failure.map(|failure| failure.fault(interface))))
            }
            _ => Err(PipeError::Nonsense(Reject::Pipe).into()),
        }
    }

    /// Looks at the process that said hello, before it is given any key.
    fn meet(&mut self, peer: PeerProcess) -> Result<(), Fault> {
        let PeerProcess { pid, uid, gid } = peer;
        if let (Process::Unit(_), Some(wanted)) = (&self.process, self.user)
            && wanted != (uid, gid)
        {
            let what = format!(
                "the listener of systemd runs as user {uid} and group {gid}, not as {} and {}",
                wanted.0, wanted.1
            );
            return Err(Fault::new(
                what,
                "User= and Group= of toctoc-listener@.service must be the listener's own user, as \
                 in [gateway] user",
            ));
        }
        self.process.meet(pid)?;
        self.met = Some(Met { pid, inherited_filters: confine::inherited_filters(pid)? });
        self.heartbeat.due = clock::now().boot.plus(STALLED);
        Ok(())
    }

    /// Verifies from outside that the process is confined: its own report is not enough.
    fn prove(&mut self, limitations: Limitations) -> Result<ListenerReady, Fault> {
        let Some(Met { pid, inherited_filters }) = self.met else {
            return Err(self.never_ready(PipeError::Nonsense(Reject::Pipe).into()));
        };
        let believed = match self.process {
            Process::Child(_) => limitations,
            // It has run as its own user from the start.
            Process::Unit(_) => limitations.without(Limitation::UserKept),
        };
        confine::verify(pid, believed, self.user, inherited_filters)?;
        self.setup = None;
        self.heartbeat = Heartbeat::default();
        self.ready.limitations.extend(limitations.iter().map(|one| one.text().to_owned()));
        Ok(self.ready.clone())
    }

    fn never_ready(&mut self, error: SetupError) -> Fault {
        match error {
            SetupError::Reported(fault) => fault,
            SetupError::Pipe(error) => {
                let (how, remedy) = self.process.end();
                Fault::new(format!("the listener did not start: {error}{how}"), remedy)
            }
        }
    }
}

impl AsFd for ListenerProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

impl Drop for ListenerProcess {
    fn drop(&mut self) {
        self.process.end();
    }
}

/// The reason why a listener does not get ready.
enum SetupError {
    /// The listener reported it.
    Reported(Fault),
    Pipe(PipeError),
}

impl SetupError {
    /// `fault`: the reason, if the listener gave one.
    fn reported(fault: Option<Fault>) -> SetupError {
        SetupError::Reported(fault.unwrap_or_else(|| {
            Fault::new(
                "the listener could not get ready and does not say why",
                "is it the same program?",
            )
        }))
    }
}

impl From<PipeError> for SetupError {
    fn from(error: PipeError) -> SetupError {
        SetupError::Pipe(error)
    }
}

/// The steps that the kernel's packet filter must pass for `doors`.
pub(super) fn steps(doors: &[Door]) -> Vec<(Step, TcpFlags)> {
    let mut steps = Vec::new();
    for door in doors {
        steps.extend(door.sequence.iter().chain(&door.later_steps).map(|step| (*step, door.flags)));
    }
    steps
}
