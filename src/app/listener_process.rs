//! A listener's process: started with what it needs, sockets, keys, clients, doors and addresses,
//! and proven to be confined. See `gatekeeper` for what it reports afterwards. Only
//! [`ListenerProcess::wait_until_ready`] waits.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child as Process, Command, Stdio};
use std::sync::Arc;

use crate::app::interfaces;
use crate::app::load::GatewayConfig;
use crate::app::prepare::Prepared;
use crate::config::DEFAULT_ROUTE;
use crate::core::door::{Door, Step, TcpFlags};
use crate::core::sequence::{DoorSpec, Ipv6};
use crate::core::types::{Fault, Reject};
use crate::edge::addresses::LocalAddress;
use crate::edge::confine::{self, ConfineFailure, Limitations};
use crate::edge::event_loop::PollSet;
use crate::edge::gatekeeper_pipe::{self, GatekeeperEnd, PipeError, ToGatekeeper, ToListener};
use crate::edge::proc_net::default_interfaces;
use crate::edge::{bpf, capture, clock, raw};

/// The hidden argument by which the program knows that it is to be the listener.
pub(super) const ROLE: &str = "--listener";
/// Seconds that a start may take where somebody waits for it.
const PATIENCE: u32 = 20;
/// Messages that are taken, or fed, at once, so that others get their turn.
const TURN: usize = 256;

/// What a gateway's listener is started with.
pub(super) struct ListenerStart {
    /// Keys, clients and settings.
    pub(super) prepared: Arc<Prepared>,
    /// The doors with the sequences that are in force.
    pub(super) doors: Vec<Door>,
    /// Our own addresses.
    pub(super) addresses: Vec<LocalAddress>,
    /// What to do about an interface that is not there.
    pub(super) missing: MissingInterface,
}

/// What to do about a configured interface that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum MissingInterface {
    /// Refuse: at a start and at a reload an admin is there to be told.
    Refuse,
    /// Listen on the others: while the gateway runs, links come and go.
    Skip,
}

/// All that a listener is to know.
pub(super) struct ListenerSpec {
    /// Its name in the list of processes.
    pub(super) name: &'static str,
    /// Keys and clients; none where there are only doors.
    pub(super) sealed: Option<Arc<Prepared>>,
    /// The classic doors.
    pub(super) doors: Vec<DoorSpec>,
    /// What becomes of knocks at doors over IPv6.
    pub(super) ipv6: Ipv6,
    /// Every step at a door is told.
    pub(super) debug: bool,
    /// Our own addresses, by [`ToListener::Address`].
    pub(super) addresses: Vec<ToListener>,
    /// Capture sockets and raw sockets.
    pub(super) sockets: Vec<ToListener>,
    /// User and group id to become.
    pub(super) user: Option<(u32, u32)>,
}

/// A running listener. Killed and waited for when dropped.
pub(super) struct ListenerProcess {
    process: Process,
    /// Our end of the pipe.
    pub(super) pipe: GatekeeperEnd,
    user: Option<(u32, u32)>,
    /// What it is still to be told before it is ready; `None` once it is.
    setup: Option<SetupFeed>,
    ready: ListenerReady,
}

/// A listener that is at work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ListenerReady {
    /// What this machine could not do to confine it, one sentence each.
    pub(super) limitations: Vec<String>,
    /// The interfaces that the configuration stood for when it was started.
    pub(super) wanted: Vec<String>,
    /// The interfaces that it captures on, by the number of their socket.
    pub(super) interfaces: Vec<String>,
    /// Interfaces that are not there.
    pub(super) missing: Vec<String>,
}

/// What happened to a listener since the last look.
pub(super) enum Progress {
    Nothing,
    /// It is confined, we have seen that ourselves, and it listens.
    Ready(ListenerReady),
    /// It sent these; then perhaps its pipe ended.
    Messages {
        messages: Vec<ToGatekeeper>,
        end: Option<PipeError>,
    },
}

impl ListenerProcess {
    /// Starts a gateway's listener. What it needs is sent by [`ListenerProcess::advance`].
    ///
    /// # Errors
    /// Whatever it lacks: an interface, a right.
    pub(super) fn start(start: ListenerStart) -> Result<ListenerProcess, Fault> {
        let settings = &start.prepared.config.settings;
        let wanted = interfaces::resolved_interfaces(settings, &default_interfaces());
        let Captures { mut sockets, interfaces, missing } =
            captures(&start.prepared.config, &start.doors, &wanted, start.missing)?;
        sockets.push(ToListener::Raw4(raw::open_v4()?));
        sockets.extend(raw::open_v6()?.map(ToListener::Raw6));
        let spec = ListenerSpec {
            name: "toctocd: listener",
            sealed: Some(Arc::clone(&start.prepared)),
            doors: start.doors.iter().map(DoorSpec::from).collect(),
            ipv6: Ipv6::Counts,
            debug: false,
            addresses: address_messages(&wanted, &start.addresses),
            sockets,
            user: start.prepared.user,
        };
        let mut process = Self::spawn(spec)?;
        process.ready = ListenerReady { wanted, interfaces, missing, ..ListenerReady::default() };
        Ok(process)
    }

    /// Starts a listener with these sockets.
    ///
    /// # Errors
    /// Whatever it lacks.
    pub(super) fn spawn(spec: ListenerSpec) -> Result<ListenerProcess, Fault> {
        let (pipe, theirs) = gatekeeper_pipe::pair()?;
        let process = Command::new("/proc/self/exe")
            .arg0(spec.name)
            .arg(ROLE)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|error| {
                Fault::new(format!("the listener cannot be started: {error}"), "is /proc mounted?")
            })?;
        let (user, setup) = (spec.user, Some(SetupFeed::new(spec)));
        Ok(ListenerProcess { process, pipe, user, setup, ready: ListenerReady::default() })
    }

    /// Does what can be done without waiting.
    ///
    /// # Errors
    /// It never gets ready; or it is not confined as it should be, and then it is not used.
    pub(super) fn advance(&mut self) -> Result<Progress, Fault> {
        if self.setup.is_some() {
            return match self.set_up() {
                Ok(None) => Ok(Progress::Nothing),
                Ok(Some(limitations)) => self.prove(limitations).map(Progress::Ready),
                Err(error) => Err(self.never_ready(error)),
            };
        }
        let mut messages = Vec::new();
        let mut end = self.pipe.flush().err();
        while end.is_none() && messages.len() < TURN {
            match self.pipe.receive() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => end = Some(error),
            }
        }
        Ok(Progress::Messages { messages, end })
    }

    /// Waits until it has given up its rights and listens; for the start of a process only.
    ///
    /// # Errors
    /// As [`ListenerProcess::advance`]; also if that takes too long.
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
            // A wait that fails is only a shorter one.
            let _ = set.wait_until(Some(deadline), clock::now().boot);
        }
    }

    /// Sends; what it does not take now is sent later. A pipe that is of no use is noticed when it
    /// is read.
    pub(super) fn send(&mut self, message: ToListener) {
        let _ = self.pipe.send(message);
    }

    /// True if something waits until it can be sent.
    pub(super) fn wants_to_write(&self) -> bool {
        self.pipe.waiting() > 0 || self.setup.as_ref().is_some_and(|setup| !setup.is_done)
    }

    /// How the process has ended, in words, if it has.
    pub(super) fn ended(&mut self) -> Option<String> {
        self.process.try_wait().ok().flatten().map(|status| status.to_string())
    }

    /// Kills it, and does not wait. Without CAP_KILL another user's process cannot be killed; it
    /// ends with the pipe.
    pub(super) fn kill(&mut self) {
        let _ = self.process.kill();
    }

    /// Feeds it as much as it takes, and looks whether it is ready; then what limits it.
    fn set_up(&mut self) -> Result<Option<Limitations>, SetupError> {
        let Some(setup) = &mut self.setup else { return Ok(None) };
        self.pipe.flush()?;
        for _ in 0..TURN {
            if self.pipe.waiting() > 0 {
                break;
            }
            match setup.next() {
                Some(message) => self.pipe.send(message)?,
                None => break,
            }
        }
        match self.pipe.receive()? {
            None => Ok(None),
            Some(ToGatekeeper::Ready { degraded }) => Ok(Some(Limitations::from_bits(degraded))),
            Some(ToGatekeeper::Failed { step, errno }) => Err(SetupError::Failed { step, errno }),
            Some(_) => Err(PipeError::Nonsense(Reject::Pipe).into()),
        }
    }

    /// Its own word is not enough: one that is not confined is not used.
    fn prove(&mut self, limitations: Limitations) -> Result<ListenerReady, Fault> {
        confine::verify(self.process.id(), limitations, self.user)?;
        self.setup = None;
        self.ready.limitations = limitations.iter().map(|one| one.text().to_owned()).collect();
        Ok(self.ready.clone())
    }

    fn never_ready(&mut self, error: SetupError) -> Fault {
        match error {
            SetupError::Failed { step, errno } => match ConfineFailure::from_pipe(step, errno) {
                Some(failure) => failure.fault(),
                None => Fault::new(
                    "the listener could not get ready and does not say why",
                    "is it the same program?",
                ),
            },
            SetupError::Pipe(error) => {
                let end = self.process.kill().and_then(|()| self.process.wait());
                let how = end.map_or_else(|error| error.to_string(), |status| status.to_string());
                Fault::new(
                    format!("the listener did not start: {error}, {how}"),
                    "its own words stand above, if it had any",
                )
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
        // Without CAP_KILL another user's process cannot be ended, and must not be waited for. It
        // ends with the pipe.
        let _ = self.process.kill().and_then(|()| self.process.wait());
    }
}

/// Why a listener does not get ready.
enum SetupError {
    /// It says so.
    Failed {
        step: u8,
        errno: i32,
    },
    Pipe(PipeError),
}

impl From<PipeError> for SetupError {
    fn from(error: PipeError) -> SetupError {
        SetupError::Pipe(error)
    }
}

/// What a listener is told before it gets ready. A client's keys are made when it is its turn:
/// there may be 100,000.
struct SetupFeed {
    sealed: Option<Arc<Prepared>>,
    /// The row of the next client.
    next_row: usize,
    begun: bool,
    rest: VecDeque<ToListener>,
    is_done: bool,
}

impl SetupFeed {
    fn new(spec: ListenerSpec) -> SetupFeed {
        let mut rest = VecDeque::from([ToListener::Doors { ipv6: spec.ipv6, debug: spec.debug }]);
        rest.extend((0..).zip(spec.doors).map(|(index, spec)| ToListener::Door { index, spec }));
        rest.extend(spec.addresses);
        rest.extend(spec.sockets);
        rest.push_back(ToListener::Go { user: spec.user });
        SetupFeed { sealed: spec.sealed, next_row: 0, begun: false, rest, is_done: false }
    }

    fn next(&mut self) -> Option<ToListener> {
        if let Some(prepared) = &self.sealed {
            let config = &prepared.config;
            if !self.begun {
                self.begun = true;
                return Some(gateway_message(config));
            }
            if let Some(client) = config.clients.get(self.next_row) {
                let row = u32::try_from(self.next_row).unwrap_or(u32::MAX);
                self.next_row += 1;
                let keys = config.keys.master.client_keys(client.id);
                return Some(ToListener::Client { row, keys, fingerprint: client.fingerprint });
            }
        }
        let next = self.rest.pop_front();
        self.is_done = self.rest.is_empty();
        next
    }
}

fn gateway_message(config: &GatewayConfig) -> ToListener {
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
    }
}

/// Our own addresses as a listener is told them: doors count on the interfaces that are captured.
pub(super) fn address_messages(interfaces: &[String], own: &[LocalAddress]) -> Vec<ToListener> {
    let any = interfaces.iter().any(|name| name == capture::ANY);
    let addresses =
        own.iter().map(|one| (one.address, true, any || interfaces.contains(&one.interface)));
    address_list(addresses)
}

/// Addresses with whether sealed knocks, and whether doors, count there.
pub(super) fn address_list(
    addresses: impl Iterator<Item = (IpAddr, bool, bool)>,
) -> Vec<ToListener> {
    let mut messages: Vec<ToListener> = addresses
        .map(|(address, knock, door)| ToListener::Address { address, knock, door })
        .collect();
    messages.push(ToListener::AddressesDone);
    messages
}

/// Capture sockets as messages, with the interfaces that they are for.
struct Captures {
    sockets: Vec<ToListener>,
    interfaces: Vec<String>,
    missing: Vec<String>,
}

fn captures(
    config: &GatewayConfig,
    doors: &[Door],
    wanted: &[String],
    absent: MissingInterface,
) -> Result<Captures, Fault> {
    let knock_port = Some(config.settings.knock.port);
    let program =
        bpf::program(&bpf::FilterSpec { knock_port, steps: steps(doors), outgoing: false });
    let mut captures =
        Captures { sockets: Vec::new(), interfaces: Vec::new(), missing: Vec::new() };
    for name in wanted {
        if name == DEFAULT_ROUTE && absent == MissingInterface::Refuse {
            return Err(interfaces::no_default_route());
        }
        match capture::open(name, &program) {
            Ok(socket) => {
                captures.sockets.push(ToListener::Capture(socket));
                captures.interfaces.push(name.clone());
            }
            Err(_) if absent == MissingInterface::Skip && capture::interface(name).is_err() => {
                captures.missing.push(name.clone());
            }
            Err(fault) => return Err(fault),
        }
    }
    if captures.sockets.is_empty() {
        let names = captures.missing.join(", ");
        return Err(Fault::new(
            format!("no interface to listen on: {names}"),
            "`ip link` shows what is there and up",
        ));
    }
    Ok(captures)
}

/// What the kernel must let through for `doors`.
pub(super) fn steps(doors: &[Door]) -> Vec<(Step, TcpFlags)> {
    let mut steps = Vec::new();
    for door in doors {
        steps.extend(door.sequence.iter().chain(&door.later_steps).map(|step| (*step, door.flags)));
    }
    steps
}
