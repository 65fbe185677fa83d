//! The listener as a child process. The gatekeeper starts it, sends it sockets, keys, clients,
//! doors and addresses, and checks that it is confined. Only [`ListenerProcess::wait_until_ready`]
//! waits. See `gatekeeper` for its reports afterwards.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child as Process, Command, Stdio};
use std::sync::Arc;

use crate::app::interfaces;
use crate::app::listener;
use crate::app::load::GatewayConfig;
use crate::app::prepare::Prepared;
use crate::core::clients::ClientTable;
use crate::core::door::{Door, Step, TcpFlags};
use crate::core::engine::KnownClient;
use crate::core::sequence::{DoorSpec, Ipv6};
use crate::core::service::Client;
use crate::core::types::{Boot, ClientId, Fault, Reject, SECOND};
use crate::edge::addresses::LocalAddress;
use crate::edge::confine::{self, ConfineFailure, Limitations};
use crate::edge::event_loop::PollSet;
use crate::edge::gatekeeper_pipe::{
    self, ADDRESSES, CLIENTS, GatekeeperEnd, OwnAddress, PipeError, ToGatekeeper, ToListener,
};
use crate::edge::proc_net::default_interfaces;
use crate::edge::{bpf, capture, clock, raw};

/// Seconds that a start may take if the caller waits for it.
const PATIENCE: u32 = 20;
/// Seconds without any progress after which a start has failed: somebody may have stopped it.
const STALLED: u32 = 5;
/// Messages received in one turn, so that other work is not delayed.
const TURN: usize = 256;
/// Messages of a set-up sent in one turn. Each may hold the keys of [`CLIENTS`] clients, which are
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

/// Everything that a listener is told.
pub(super) struct ListenerSpec {
    /// The process name.
    pub(super) name: &'static str,
    /// The keys; `None` if there are only doors.
    pub(super) sealed: Option<Arc<Prepared>>,
    pub(super) clients: ClientTable,
    /// The day whose keys the clients get.
    pub(super) day: u32,
    pub(super) doors: Vec<DoorSpec>,
    /// The treatment of door knocks over IPv6.
    pub(super) ipv6: Ipv6,
    /// True if the listener reports every completed step of a door.
    pub(super) debug: bool,
    pub(super) addresses: Vec<OwnAddress>,
    pub(super) sockets: Vec<ToListener>,
    /// The user and group id that it changes to.
    pub(super) user: Option<(u32, u32)>,
}

/// A running listener. Dropping it kills the process and waits for its end.
pub(super) struct ListenerProcess {
    process: Process,
    pub(super) pipe: GatekeeperEnd,
    user: Option<(u32, u32)>,
    /// The rest of its set-up; `None` once it is ready.
    setup: Option<SetupFeed>,
    /// The rest of the newest list of addresses. It waits here and not in the pipe's queue, which
    /// it could fill.
    addresses: VecDeque<ToListener>,
    heartbeat: Heartbeat,
    ready: ListenerReady,
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
    /// Starts a gateway's listener. [`ListenerProcess::advance`] sends its set-up.
    /// Error: a right is missing.
    pub(super) fn start(start: ListenerStart) -> Result<ListenerProcess, Fault> {
        let settings = &start.prepared.config.settings;
        let wanted = interfaces::resolved_interfaces(settings, &default_interfaces());
        let Captures { mut sockets, interfaces, indexes, missing } =
            captures(&start.prepared.config, &start.doors, &wanted)?;
        sockets.push(ToListener::Raw4(raw::open_v4()?));
        sockets.extend(raw::open_v6()?.map(ToListener::Raw6));
        let spec = ListenerSpec {
            name: "toctocd: listener",
            sealed: Some(Arc::clone(&start.prepared)),
            clients: start.clients,
            day: start.day,
            doors: start.doors.iter().map(DoorSpec::from).collect(),
            ipv6: Ipv6::Counts,
            debug: false,
            addresses: own_addresses(&wanted, &start.addresses),
            sockets,
            user: start.prepared.user,
        };
        let mut process = Self::spawn(spec)?;
        let limitations = Vec::from_iter(raw::group_limitation());
        process.ready = ListenerReady { limitations, wanted, interfaces, indexes, missing };
        Ok(process)
    }

    /// Starts a listener with these sockets.
    pub(super) fn spawn(spec: ListenerSpec) -> Result<ListenerProcess, Fault> {
        let (pipe, theirs) = gatekeeper_pipe::pair()?;
        let process = Command::new("/proc/self/exe")
            .arg0(spec.name)
            .arg(listener::ARGUMENT)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            // Not the log: whatever took the listener over could write lines of its own there.
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| {
                Fault::new(format!("the listener cannot be started: {error}"), "is /proc mounted?")
            })?;
        let (user, setup) = (spec.user, Some(SetupFeed::new(spec)));
        Ok(ListenerProcess {
            process,
            pipe,
            user,
            setup,
            addresses: VecDeque::new(),
            heartbeat: Heartbeat::default(),
            ready: ListenerReady::default(),
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
        self.pipe.waiting() > 0
            || !self.addresses.is_empty()
            || self.setup.as_ref().is_some_and(|setup| setup.go.is_some())
    }

    /// The exit status of the process as text, if it has ended.
    pub(super) fn ended(&mut self) -> Option<String> {
        self.process.try_wait().ok().flatten().map(|status| status.to_string())
    }

    /// Kills the process without waiting. Without CAP_KILL this fails for another user's process,
    /// which then ends with the pipe.
    pub(super) fn kill(&mut self) {
        let _ = self.process.kill();
    }

    /// Sends as much of the set-up as the pipe takes. Returns the limitations once it is ready.
    fn set_up(&mut self) -> Result<Option<Limitations>, SetupError> {
        let Some(setup) = &mut self.setup else { return Ok(None) };
        let now = clock::now().boot;
        let waiting = self.pipe.waiting();
        self.pipe.flush()?;
        let mut moves = self.pipe.waiting() < waiting || self.heartbeat.due == Boot(0);
        for _ in 0..FEED {
            if self.pipe.waiting() > 0 {
                break;
            }
            let Some(message) = setup.next() else { break };
            self.pipe.send(message)?;
            moves = true;
        }
        if moves {
            self.heartbeat.due = now.plus(STALLED);
        }
        match self.pipe.receive()? {
            None if self.heartbeat.due <= now => Err(PipeError::Silent.into()),
            None => Ok(None),
            Some(ToGatekeeper::Ready { degraded }) => Ok(Some(Limitations::from_bits(degraded))),
            Some(ToGatekeeper::Failed { step, errno }) => Err(SetupError::Failed { step, errno }),
            Some(_) => Err(PipeError::Nonsense(Reject::Pipe).into()),
        }
    }

    /// Verifies from outside that the process is confined: its own report is not enough.
    fn prove(&mut self, limitations: Limitations) -> Result<ListenerReady, Fault> {
        confine::verify(self.process.id(), limitations, self.user)?;
        self.setup = None;
        self.heartbeat = Heartbeat::default();
        self.ready.limitations.extend(limitations.iter().map(|one| one.text().to_owned()));
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
                    "`dmesg` may say why: no memory left, or a kernel that forbids a system call",
                )
            }
        }
    }
}

/// Whether a listener answers. It is asked every second, and must send something within the next:
/// so one that was stopped or hangs is noticed within two seconds. That costs an idle gateway one
/// wake-up a second of each of its two processes.
#[derive(Default)]
struct Heartbeat {
    /// The time of the next question. The first one is due at once.
    due: Boot,
    /// True if it has sent anything since the last question.
    heard: bool,
    /// True if we were late at the last question and the listener had sent nothing.
    excused: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Beat {
    Wait,
    Ask,
    /// It sent nothing for a second although it was asked.
    Silent,
}

/// Seconds between two questions to a listener.
const BEAT: u32 = 1;
/// If we are late by more nanoseconds than this, we slept ourselves: the machine was suspended, or
/// is overloaded. Then the listener had no time to answer either, and gets another second once.
const LATE: u64 = SECOND / 4;

impl Heartbeat {
    /// `heard`: it has just sent something.
    fn beat(&mut self, heard: bool, now: Boot) -> Beat {
        self.heard |= heard;
        if now < self.due {
            return Beat::Wait;
        }
        let late = self.due.plus_nanos(LATE) < now;
        if !self.heard && (self.excused || !late) {
            return Beat::Silent;
        }
        // The first question of all counts as late.
        self.excused = !self.heard && self.due != Boot(0);
        self.due = now.plus(BEAT);
        self.heard = false;
        Beat::Ask
    }
}

impl AsFd for ListenerProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

impl Drop for ListenerProcess {
    fn drop(&mut self) {
        // Without CAP_KILL we cannot kill another user's process, and must not wait for it. It ends
        // with the pipe.
        let _ = self.process.kill().and_then(|()| self.process.wait());
    }
}

/// The reason why a listener does not get ready.
enum SetupError {
    /// The listener reported it.
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

/// The set-up messages not sent yet. Each client's keys are derived when its turn comes: there may
/// be 100,000 clients.
struct SetupFeed {
    sealed: Option<Arc<Prepared>>,
    clients: ClientTable,
    /// The day whose keys the clients get.
    day: u32,
    /// The last client that was sent.
    last: Option<ClientId>,
    /// What comes before the clients.
    first: VecDeque<ToListener>,
    /// The message after them; `None` once all is sent.
    go: Option<ToListener>,
}

impl SetupFeed {
    fn new(spec: ListenerSpec) -> SetupFeed {
        let ListenerSpec { sealed, clients, .. } = spec;
        let mut first = VecDeque::new();
        if let Some(prepared) = &sealed {
            first.push_back(gateway_message(&prepared.config, clients.len()));
        }
        first.push_back(ToListener::Doors { ipv6: spec.ipv6, debug: spec.debug });
        first.extend((0..).zip(spec.doors).map(|(index, spec)| ToListener::Door { index, spec }));
        first.extend(address_messages(&spec.addresses));
        first.extend(spec.sockets);
        let go = Some(ToListener::Go { user: spec.user });
        SetupFeed { sealed, clients, day: spec.day, last: None, first, go }
    }

    fn next(&mut self) -> Option<ToListener> {
        if let Some(message) = self.first.pop_front() {
            return Some(message);
        }
        if let Some(prepared) = &self.sealed {
            let known = |client: &Client| prepared.config.keys.known_client(client.id, self.day);
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
pub(super) fn own_addresses(interfaces: &[String], own: &[LocalAddress]) -> Vec<OwnAddress> {
    let any = interfaces.iter().any(|name| name == capture::ANY);
    let of = |one: &LocalAddress| OwnAddress {
        address: one.address,
        knock: true,
        door: any || interfaces.contains(&one.interface),
    };
    own.iter().map(of).collect()
}

fn address_messages(addresses: &[OwnAddress]) -> Vec<ToListener> {
    let mut messages = Vec::new();
    for part in addresses.chunks(ADDRESSES) {
        messages.push(ToListener::Addresses { is_first: messages.is_empty(), part: part.into() });
    }
    messages.push(ToListener::AddressesDone);
    messages
}

/// Capture sockets as messages, with their interfaces.
struct Captures {
    sockets: Vec<ToListener>,
    interfaces: Vec<String>,
    indexes: Vec<u32>,
    missing: Vec<String>,
}

/// Opens a capture socket for each interface that is there. The others are waited for: links and
/// routes come and go, and neither a start nor a reload may hang on one.
fn captures(config: &GatewayConfig, doors: &[Door], wanted: &[String]) -> Result<Captures, Fault> {
    let knock_port = Some(config.settings.knock.port);
    let program =
        bpf::program(&bpf::FilterSpec { knock_port, steps: steps(doors), outgoing: false });
    let mut captures = Captures {
        sockets: Vec::new(),
        interfaces: Vec::new(),
        indexes: Vec::new(),
        missing: Vec::new(),
    };
    for name in wanted {
        match capture::open(name, &program) {
            Ok(socket) => {
                captures.indexes.push(socket.interface);
                captures.sockets.push(ToListener::Capture(socket));
                captures.interfaces.push(name.clone());
            }
            Err(_) if capture::interface(name).is_err() => captures.missing.push(name.clone()),
            Err(fault) => return Err(fault),
        }
    }
    Ok(captures)
}

/// The steps that the kernel's packet filter must pass for `doors`.
pub(super) fn steps(doors: &[Door]) -> Vec<(Step, TcpFlags)> {
    let mut steps = Vec::new();
    for door in doors {
        steps.extend(door.sequence.iter().chain(&door.later_steps).map(|step| (*step, door.flags)));
    }
    steps
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::config::defaults;
    use crate::core::keyring::Secret;
    use crate::core::test_vectors;
    use crate::keys::gateway::GatewayFile;

    #[test]
    fn a_listener_that_sends_nothing_for_a_second_after_a_question_is_silent() {
        let at = |millis: u64| Boot(millis * 1_000_000);
        let mut heartbeat = Heartbeat::default();
        assert_eq!(heartbeat.beat(false, at(5000)), Beat::Ask, "it has just got ready");
        assert_eq!(heartbeat.beat(true, at(5001)), Beat::Wait);
        assert_eq!(heartbeat.beat(false, at(5999)), Beat::Wait);
        assert_eq!(heartbeat.beat(false, at(6000)), Beat::Ask);
        assert_eq!(heartbeat.beat(false, at(6999)), Beat::Wait);
        assert_eq!(heartbeat.beat(false, at(7003)), Beat::Silent);
    }

    #[test]
    fn a_gatekeeper_that_slept_itself_asks_again_before_it_judges() {
        let at = |millis: u64| Boot(millis * 1_000_000);
        let mut heartbeat = Heartbeat::default();
        assert_eq!(heartbeat.beat(false, at(5000)), Beat::Ask);
        assert_eq!(heartbeat.beat(false, at(3_600_000)), Beat::Ask, "the machine was suspended");
        assert_eq!(heartbeat.beat(false, at(3_602_000)), Beat::Silent, "late again, and no excuse");
    }

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
            sockets: Vec::new(),
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
