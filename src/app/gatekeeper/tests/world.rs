//! The world around a gatekeeper, as a test holds it: clock, disk, kernel, listeners, commands,
//! tasks, admins. Nothing happens in it but what the test does, or has it do.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use super::disk::MemoryDisk;
use super::kernel::{Kernel, Link};
use super::people::{Person, at};
use crate::app::admin::PacketCounts;
use crate::app::gatekeeper::events::{
    Event, Lane, ListenerId, ListenerLoss, Network, Output, Task, TaskId, TaskResult, XdpTarget,
};
use crate::app::gatekeeper::rights::Rights;
use crate::app::gatekeeper::start::Beginning;
use crate::app::gatekeeper::{Gatekeeper, Host};
use crate::app::joined::ClientFiles;
use crate::app::listener_process::ListenerReady;
use crate::app::load::{ClientsRead, GatewayConfig};
use crate::app::prepare::Prepared;
use crate::config::{Hook, KnockSettings, LogSettings, MetricsSettings, Settings, native};
use crate::core::clients::ClientTable;
use crate::core::door::{Door, Step};
use crate::core::engine::{Action, Engine, SealedSetup, Setup};
use crate::core::grants::Element;
use crate::core::grants::element::service_at;
use crate::core::joining::{Invited, drop_over};
use crate::core::keyring::{Secret, TEST_GATEWAY_ID};
use crate::core::knock::{HandedKnock, RECEIPT_BODY, Receipt, Request, Status};
use crate::core::limits::Limits;
use crate::core::noise::KeyPair;
use crate::core::openings::{CommandEnd, CommandLine, Job, Openings};
use crate::core::prefix::Prefix;
use crate::core::quota::Rate;
use crate::core::service::Client;
use crate::core::test_vectors;
use crate::core::types::{Boot, ClientId, Fault, Now, Port, Proto, SECOND};
use crate::core::wire::GatewayKeys;
use crate::edge::addresses::LocalAddress;
use crate::edge::control::{ControlRequest, ControlResponse, SessionId};
use crate::edge::gatekeeper_pipe::{OwnAddress, ToGatekeeper, ToListener};
use crate::edge::log::LogEvent;
use crate::edge::one_time::SequenceUse;
use crate::edge::state::State;
use crate::edge::sys::XdpMode;
use crate::edge::xdp::{XdpFault, XdpState};
use crate::keys::authorized::joined;
use crate::keys::gateway::GatewayFile;

/// Services of each kind, and doors of each kind.
const CONFIG: &str = r#"
[service.ssh]
ports = ["22/tcp"]
max_seconds = 600
cut = "revoke"
[service.web]
ports = ["80/tcp", "443/tcp"]
[service.rdp]
ports = ["3389/tcp"]
form = "once"
[service.vpn]
start = ["/bin/start", "%IP%"]
stop = ["/bin/stop", "%IP%"]
[door.side]
sequence = ["7411/tcp", "2833/udp", "5522/tcp"]
service = "ssh"
[door.run]
sequence = ["7511/tcp", "2933/udp", "5622/tcp"]
start_command = "open %IP%"
stop_command = "shut %IP%"
cmd_timeout = 10
[door.once]
one_time_sequences = "/once"
service = "web"
"#;

/// The gateway's address.
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The indices of those doors.
pub(super) const SIDE: u16 = 0;
pub(super) const RUN: u16 = 1;
pub(super) const ONCE: u16 = 2;

static SETTINGS: LazyLock<Settings> =
    LazyLock::new(|| native::parse("toctocd.toml", CONFIG).unwrap());

/// What the files say now: read by tasks.
#[derive(Clone)]
pub(super) struct Files {
    pub(super) settings: Settings,
    pub(super) enrolled: Vec<Person>,
    /// The seconds in which they expire.
    pub(super) expires: BTreeMap<Person, u64>,
    /// The limits on their lines.
    pub(super) limits: BTreeMap<Person, Arc<Limits>>,
    /// Whatever is wrong with the configuration.
    pub(super) fault: Option<Fault>,
    /// Whatever is wrong with a line of the clients file.
    pub(super) mistake: Option<Fault>,
    /// The one-time sequences that are left.
    pub(super) one_time: VecDeque<Vec<Step>>,
    /// So many more clients, who never knock. Their ids come before those of the others.
    pub(super) crowd: u16,
    /// True if each listener has an engine.
    pub(super) engines: bool,
    /// The file `joined`.
    pub(super) joined: Vec<Invited>,
}

/// A listener as the world sees it.
#[derive(Default)]
pub(super) struct FakeListener {
    /// The clients that it was told of, with the day of their keys.
    pub(super) clients: BTreeMap<ClientId, u32>,
    /// Tickets without a verdict.
    pub(super) open: BTreeSet<u64>,
    /// Receipts by ticket; `None` for silence.
    pub(super) verdicts: BTreeMap<u64, Option<Receipt>>,
    /// The addresses that it was told last.
    pub(super) addresses: Vec<OwnAddress>,
    /// What else it was told.
    pub(super) told: Vec<&'static str>,
    /// The sequences that it was told of, by door.
    pub(super) sequences: BTreeMap<u16, Vec<Step>>,
    /// Takes packets, if the test sends any.
    pub(super) engine: Option<Engine>,
    /// What the engine did with verdicts.
    pub(super) actions: Vec<Action>,
}

/// The world, and the gatekeeper in it.
pub(super) struct World {
    pub(super) gatekeeper: Gatekeeper,
    pub(super) clock: Rc<Cell<Now>>,
    pub(super) disk: MemoryDisk,
    pub(super) kernel: Rc<RefCell<Kernel>>,
    pub(super) files: Files,
    /// What the own firewall does to every grant.
    pub(super) why_useless: Option<String>,
    /// What keeps XDP from every interface, and what the last task about it was told.
    pub(super) xdp_fault: Option<XdpFault>,
    pub(super) xdp_told: Option<XdpTarget>,
    pub(super) listeners: BTreeMap<ListenerId, FakeListener>,
    /// Listeners that were started and are not ready yet.
    pub(super) starting: Vec<ListenerId>,
    /// Commands that run.
    pub(super) running: BTreeMap<u64, Job>,
    /// Commands that were started, in order.
    pub(super) started: Vec<(u64, String)>,
    pub(super) killed: Vec<u64>,
    /// Tasks that nobody has done yet.
    pub(super) tasks: VecDeque<(TaskId, Task)>,
    pub(super) replies: BTreeMap<u64, ControlResponse>,
    /// The lines of the log, without ids.
    pub(super) log: Vec<String>,
    /// All events that were logged.
    pub(super) events: Vec<LogEvent>,
    /// What the log was opened with, since the start.
    pub(super) log_opened: Vec<LogSettings>,
    /// The hooks of the last reload.
    pub(super) hooks: Vec<Hook>,
    /// Its section `[metrics]`.
    pub(super) metrics: Option<MetricsSettings>,
    pub(super) told_ready: bool,
    /// All verdicts, in order.
    pub(super) verdicts: Vec<(u64, Option<Receipt>)>,
    /// How many this process gave, also to listeners that are gone.
    given: u64,
    last_ticket: u64,
    last_session: u64,
    knocks: u64,
}

struct FakeHost {
    clock: Rc<Cell<Now>>,
    entropy: u64,
}

impl Host for FakeHost {
    fn now(&self) -> Now {
        self.clock.get()
    }

    fn entropy(&mut self) -> Result<[u8; 16], Fault> {
        self.entropy += 1;
        let mut bytes = [7; 16];
        bytes[..8].copy_from_slice(&self.entropy.to_be_bytes());
        Ok(bytes)
    }
}

impl Files {
    fn new() -> Files {
        let step = |number| Step::Port(Port { proto: Proto::Tcp, number });
        let line = |first| vec![step(first), step(first + 1), step(first + 3)];
        Files {
            settings: SETTINGS.clone(),
            enrolled: Person::ALL.to_vec(),
            expires: BTreeMap::new(),
            limits: BTreeMap::new(),
            fault: None,
            mistake: None,
            one_time: [6100, 6200, 6300].map(line).into(),
            crowd: 0,
            engines: false,
            joined: Vec::new(),
        }
    }

    fn prepare(&self) -> Result<Prepared, Fault> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let mut settings = self.settings.clone();
        for door in settings.doors.iter_mut().filter(|door| door.one_time_sequences.is_some()) {
            door.sequence = self.one_time.front().cloned().unwrap_or_default();
        }
        let config = GatewayConfig { settings, keys: keys(), clients: self.clients() };
        Ok(Prepared { config, user: None, warnings: Vec::new() })
    }

    pub(super) fn clients(&self) -> ClientTable {
        let mut clients = Vec::new();
        for person in &self.enrolled {
            let expires = self.expires.get(person).copied();
            let limits = self.limits.get(person).cloned();
            clients.push(Client { expires, limits, ..person.client() });
        }
        for number in 0..self.crowd {
            let mut id = [0; 16];
            id[14..].copy_from_slice(&number.to_be_bytes());
            clients.push(Client {
                id: ClientId(id),
                name: format!("one-of-many-{number}").as_str().into(),
                ..Person::Carl.client()
            });
        }
        let clients = ClientTable::from(clients);
        joined::merge("clients", clients, &self.joined, &ClientTable::default()).unwrap()
    }

    /// A listener that is started with these clients on this day.
    fn listener(&self, clients: &ClientTable, day: u32) -> FakeListener {
        let mut listener = FakeListener {
            clients: clients.iter().map(|client| (client.id, day)).collect(),
            ..FakeListener::default()
        };
        if self.engines {
            let KnockSettings { port, burst, per_second, .. } = self.settings.knock;
            let rate = Rate { burst, per_second };
            let file = keys();
            let mut engine = Engine::new(Setup {
                sealed: Some(SealedSetup { keys: gateway_keys(), port, rate, shared: None }),
                clients: clients.iter().map(|client| file.known_client(client, day)).collect(),
                ..Setup::default()
            });
            engine.set_addresses(vec![GATEWAY.into()], vec![]);
            listener.engine = Some(engine);
        }
        listener
    }

    /// As `edge::one_time` does it.
    fn use_up(&mut self, door: &Door) -> SequenceUse {
        let place = self.one_time.iter().position(|line| *line == door.sequence);
        if let Some(place) = place {
            self.one_time.remove(place);
        }
        SequenceUse {
            by_us: place.is_some(),
            next: self.one_time.front().cloned(),
            skipped: Vec::new(),
        }
    }
}

/// What a listener has of them.
pub(super) fn gateway_keys() -> GatewayKeys {
    let GatewayFile { gateway, realm, secret, .. } = keys();
    GatewayKeys { gateway, realm, current: KeyPair::new(&secret), other: None }
}

/// The gateway's key file.
fn keys() -> GatewayFile {
    GatewayFile {
        gateway: TEST_GATEWAY_ID,
        realm: test_vectors::realm(),
        secret: Secret::new([9; 32]),
        previous: None,
        master: test_vectors::master(),
        first_period: test_vectors::FIRST_PERIOD,
    }
}

/// The network that everybody is in.
pub(super) fn network() -> Network {
    let own = LocalAddress {
        interface: "eth0".to_owned(),
        loopback: false,
        address: GATEWAY.into(),
        of_all: vec![[192, 0, 2, 0].into(), [192, 0, 2, 255].into()],
    };
    Network {
        addresses: vec![own],
        default_routes: vec!["eth0".to_owned()],
        routers: BTreeSet::from([[192, 0, 2, 254].into()]),
        private: Prefix::parse("10.0.0.0/8").into_iter().collect(),
        up: BTreeMap::from([("eth0".to_owned(), 2), ("lo".to_owned(), 1)]),
    }
}

pub(super) fn ready() -> ListenerReady {
    let interfaces = vec!["any".to_owned()];
    ListenerReady {
        limitations: Vec::new(),
        wanted: interfaces.clone(),
        interfaces,
        indexes: vec![0],
        missing: Vec::new(),
    }
}

impl World {
    /// A gateway that serves, at noon, with everybody enrolled.
    pub(super) fn new() -> World {
        World::with(|_| {})
    }

    /// The same with other files.
    pub(super) fn with(change: impl FnOnce(&mut Files)) -> World {
        let clock = Rc::new(Cell::new(Now { wall: at(0), boot: Boot(1000 * SECOND) }));
        let kernel = Rc::new(RefCell::new(Kernel::new(&clock)));
        let mut files = Files::new();
        change(&mut files);
        let disk = MemoryDisk::default();
        let gatekeeper = begin(&clock, &kernel, &files, &disk, false).unwrap();
        let mut world = World {
            gatekeeper,
            clock,
            disk,
            kernel,
            listeners: BTreeMap::new(),
            files,
            why_useless: None,
            xdp_fault: None,
            xdp_told: None,
            starting: Vec::new(),
            running: BTreeMap::new(),
            started: Vec::new(),
            killed: Vec::new(),
            tasks: VecDeque::new(),
            replies: BTreeMap::new(),
            log: Vec::new(),
            events: Vec::new(),
            log_opened: Vec::new(),
            hooks: Vec::new(),
            metrics: None,
            told_ready: false,
            verdicts: Vec::new(),
            given: 0,
            last_ticket: 0,
            last_session: 0,
            knocks: 0,
        };
        world.begin_to_listen();
        world.settle();
        // What is sent in the first second cannot be told from what was recorded before the start.
        world.advance(SECOND);
        world
    }

    /// The process ends without a word, and the next one starts. Of what was not synced a power
    /// failure leaves nothing.
    pub(super) fn restart(&mut self, power_failure: bool) {
        self.disk = self.disk.copy(!power_failure);
        self.starting.clear();
        self.tasks.clear();
        self.running.clear();
        if power_failure {
            self.kernel.borrow_mut().delete();
        }
        self.kernel.borrow_mut().refuses = None;
        let _ = self.kernel.borrow_mut().run(&crate::edge::firewall::GuardTask::Repair);
        self.gatekeeper = begin(&self.clock, &self.kernel, &self.files, &self.disk, true).unwrap();
        self.begin_to_listen();
    }

    /// The listener that a process begins with is at work.
    fn begin_to_listen(&mut self) {
        self.given = 0;
        let first = self.files.listener(&self.files.clients(), self.now().wall.day());
        self.listeners = BTreeMap::from([(ListenerId(0), first)]);
        self.gatekeeper.announce(self.clock.get());
        self.carry_out();
    }

    pub(super) fn now(&self) -> Now {
        self.clock.get()
    }

    /// Has an event handled, and all that follows from it at once.
    pub(super) fn handle(&mut self, event: Event) {
        self.gatekeeper.handle(self.clock.get(), event);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        for output in self.gatekeeper.take_outputs() {
            match output {
                Output::Log(event) => {
                    self.log.push(event.text.clone());
                    self.events.push(event);
                }
                Output::StartListener(id, start) => {
                    let listener = self.files.listener(&start.clients, start.day);
                    self.listeners.insert(id, listener);
                    self.starting.push(id);
                }
                Output::Send(id, message) => self.receive(id, message),
                Output::EndListener(id) => {
                    self.listeners.remove(&id);
                    self.starting.retain(|other| *other != id);
                }
                Output::Run(job) => {
                    self.started.push((job.id, text(&job.command)));
                    self.running.insert(job.id, job);
                }
                Output::Kill(id) => self.killed.push(id),
                Output::Start(id, task) => self.tasks.push_back((id, task)),
                Output::Reply(SessionId(session), response) => {
                    let earlier = self.replies.insert(session, response);
                    assert!(earlier.is_none(), "an admin is answered once");
                }
                Output::SendAddresses(id, addresses) => {
                    if let Some(listener) = self.listeners.get_mut(&id) {
                        listener.addresses = addresses;
                    }
                }
                Output::SetHooks(hooks) => self.hooks = hooks,
                Output::SetMetrics(settings) => self.metrics = Some(settings),
                Output::OpenLog(settings) => self.log_opened.push(settings),
                Output::LookAtNetwork => {}
                Output::TellReady => self.told_ready = true,
            }
        }
    }

    fn receive(&mut self, id: ListenerId, message: ToListener) {
        self.given += u64::from(matches!(message, ToListener::Verdict { .. }));
        let Some(listener) = self.listeners.get_mut(&id) else { return };
        match message {
            ToListener::Verdict { ticket, spent, receipt } => {
                if let Some(engine) = &mut listener.engine {
                    let ephemeral = Secret::new([1; 32]);
                    engine.verdict(
                        ticket,
                        spent,
                        receipt.as_ref(),
                        ephemeral,
                        &mut listener.actions,
                    );
                }
                assert!(
                    listener.open.remove(&ticket),
                    "one verdict for each ticket, and none for others"
                );
                let content = |bytes: [u8; RECEIPT_BODY]| *bytes.first_chunk().unwrap();
                let receipt = receipt.map(|bytes| Receipt::decode(&content(bytes)).unwrap());
                listener.verdicts.insert(ticket, receipt);
                self.verdicts.push((ticket, receipt));
            }
            ToListener::Sequence { door, steps } => drop(listener.sequences.insert(door, steps)),
            ToListener::Release { .. } => listener.told.push("release"),
            ToListener::AskCounters => listener.told.push("counters"),
            ToListener::Stop => listener.told.push("stop"),
            ToListener::Clients(clients) => {
                listener.clients.extend(
                    clients.iter().map(|known| (known.client, known.keys.day().unwrap_or(0))),
                );
                if let Some(engine) = &mut listener.engine {
                    clients.into_iter().for_each(|known| engine.enrol(known));
                }
            }
            ToListener::Forget { tag } => {
                let tag_of = |id: &ClientId| test_vectors::secrets(*id).wire_row(0).clockless_tag();
                listener.clients.retain(|id, _| tag_of(id) != tag);
                if let Some(engine) = &mut listener.engine {
                    engine.forget(&tag);
                }
            }
            _ => panic!("that is for the set-up"),
        }
    }

    /// Lets time pass, and what is due happen when it is.
    pub(super) fn advance(&mut self, nanos: u64) {
        let end = self.now().boot.plus_nanos(nanos);
        for _ in 0..10_000 {
            let due = self.gatekeeper.deadline();
            if end < due || self.is_over() {
                let left = end.0 - self.now().boot.0;
                return self.set_clock(left);
            }
            self.set_clock(due.0.saturating_sub(self.now().boot.0));
            self.handle(Event::Deadline);
        }
        panic!("it spins: {:?} is due at {:?}", self.gatekeeper.deadline(), self.now());
    }

    /// Lets time pass, and nothing happen.
    pub(super) fn set_clock(&mut self, nanos: u64) {
        let Now { wall, boot } = self.now();
        let wall = crate::core::types::Wall(wall.0 + nanos);
        self.clock.set(Now { wall, boot: boot.plus_nanos(nanos) });
    }

    /// Somebody sets the wall clock by so many seconds.
    pub(super) fn jump(&mut self, seconds: i64) {
        let Now { wall, boot } = self.now();
        let wall = wall.0.saturating_add_signed(seconds * i64::try_from(SECOND).unwrap());
        self.clock.set(Now { wall: crate::core::types::Wall(wall), boot });
    }

    /// Seconds since noon, by the wall clock.
    pub(super) fn second(&self) -> u64 {
        self.now().wall.0.saturating_sub(at(0).0) / SECOND
    }

    /// The listener at work.
    pub(super) fn listener(&self) -> ListenerId {
        let at_work = self.listeners.keys().filter(|id| !self.starting.contains(id));
        *at_work.max().expect("a listener runs")
    }

    /// A ticket that a listener has issued.
    pub(super) fn ticket(&mut self, id: ListenerId) -> u64 {
        self.last_ticket += 1;
        self.listeners.get_mut(&id).expect("it runs").open.insert(self.last_ticket);
        self.last_ticket
    }

    /// The counters of packets, which always add up. Each knock is in one from its verdict on.
    pub(super) fn packets(&self) -> PacketCounts {
        let packets = self.gatekeeper.listeners.packets();
        assert_eq!(self.gatekeeper.ends.sum(), self.given, "a verdict is an end");
        let counts = self.gatekeeper.ends.counts(&packets);
        assert_eq!(counts.received, counts.sum(), "{counts:?}");
        counts
    }

    /// The listener at work hands this knock over; its ticket.
    pub(super) fn hand(&mut self, person: Person, request: &Request) -> u64 {
        let id = self.listener();
        let knock = self.handed(id, person, request);
        let ticket = knock.ticket;
        self.hand_all(id, vec![knock]);
        ticket
    }

    /// A knock as this listener would hand it over, with a ticket of its own.
    pub(super) fn handed(
        &mut self, id: ListenerId, person: Person, request: &Request,
    ) -> HandedKnock {
        let ticket = self.ticket(id);
        let knock = person.knock(ticket, request);
        match self.listeners[&id].clients.contains_key(&person.id()) {
            true => knock,
            // No listener would hand that over.
            false => HandedKnock { client: ClientId([0xff; 16]), ..knock },
        }
    }

    pub(super) fn hand_all(&mut self, id: ListenerId, knocks: Vec<HandedKnock>) {
        let messages = knocks.into_iter().map(ToGatekeeper::Knock).collect();
        self.handle(Event::Listener { id, messages });
    }

    /// The listener at work sends this.
    pub(super) fn tell(&mut self, message: ToGatekeeper) {
        let id = self.listener();
        self.handle(Event::Listener { id, messages: vec![message] });
    }

    /// `person` knocks for `service`; the receipt's status, or silence.
    pub(super) fn knock(&mut self, person: Person, service: &str) -> Option<Status> {
        let mut request = person.request(service, self.second());
        // No two knocks have the same timestamp.
        self.knocks += 1;
        request.timestamp.0 += self.knocks * 1_000_000;
        let ticket = self.hand(person, &request);
        self.status(ticket)
    }

    /// How this ticket has ended; `None` for silence.
    pub(super) fn status(&self, ticket: u64) -> Option<Status> {
        let verdict = self.listeners.values().find_map(|listener| listener.verdicts.get(&ticket));
        verdict.expect("a verdict").as_ref().map(|receipt| receipt.status)
    }

    /// True if this ticket has no verdict yet.
    pub(super) fn waits(&self, ticket: u64) -> bool {
        self.listeners.values().any(|listener| listener.open.contains(&ticket))
    }

    /// True if the kernel lets `person` reach this TCP port.
    pub(super) fn lets_in(&self, person: Person, port: u16) -> bool {
        let source = crate::core::types::Source::new(person.address());
        let port = Port { proto: Proto::Tcp, number: port };
        let services = &self.gatekeeper.in_force.settings().services;
        let Some(service) = service_at(services, port) else { return false };
        let kernel = self.kernel.borrow();
        let lets_in = |element: &Element| {
            element.service == service.name && element.span.of(source) == element.source
        };
        kernel.live().iter().any(|(element, _)| lets_in(element))
    }

    /// The configuration changes so that a reload takes every step, a new listener included.
    pub(super) fn new_config(&mut self) {
        self.files.settings.knock.burst += 1;
    }

    /// An admin asks.
    pub(super) fn ask(&mut self, request: ControlRequest) -> u64 {
        self.last_session += 1;
        let session = SessionId(self.last_session);
        self.handle(Event::Asked { session, request });
        self.last_session
    }

    /// What an admin was told, as text.
    pub(super) fn told(&self, session: u64) -> Option<Result<String, String>> {
        Some(match self.replies.get(&session)? {
            ControlResponse::Ok(value) => Ok(value.to_string()),
            ControlResponse::Fault { what, remedy, .. } => Err(format!("{what}; {remedy}")),
        })
    }

    /// Does the next task of a lane as the world would, if one waits.
    pub(super) fn do_task(&mut self, lane: Lane) -> bool {
        let Some(place) = self.tasks.iter().position(|(_, task)| task.lane() == lane) else {
            return false;
        };
        let (id, task) = self.tasks.remove(place).unwrap();
        let result = self.perform(task);
        self.handle(Event::TaskDone { id, result });
        true
    }

    fn perform(&mut self, task: Task) -> TaskResult {
        match task {
            Task::ReadClients(known) => {
                let mut clients = self.files.clients();
                let mistake = self.files.mistake.clone();
                if mistake.is_some() {
                    let named = clients;
                    clients = known.clients.retain(|id| named.get(id).is_some());
                }
                TaskResult::Clients(Ok(ClientsRead { clients, mistake }))
            }
            Task::Load(_, known) => TaskResult::Loaded(self.files.prepare().map(|mut prepared| {
                if ClientFiles::of(&prepared.config.settings) == known.files {
                    prepared.config.clients = known.clients;
                }
                Box::new(prepared)
            })),
            Task::Guard(task) => TaskResult::Guard(self.kernel.borrow_mut().run(&task)),
            Task::LookAtFirewall { .. } => {
                TaskResult::LookedAtFirewall(Ok(self.why_useless.clone()))
            }
            Task::State(job) => TaskResult::State(job.run()),
            Task::Join(task) => {
                let key = &task.asking.key;
                let is_enrolled = self.files.enrolled.iter().any(|one| one.client().key == *key);
                let mut rows = self.files.joined.clone();
                drop_over(&mut rows, task.asking.now);
                let done = task.answer(&mut rows, is_enrolled);
                if done.is_ok() {
                    self.files.joined = rows;
                }
                TaskResult::Joined(done)
            }
            Task::Xdp(target) => {
                let state = match (&self.xdp_fault, target.listener) {
                    (Some(fault), _) => XdpState::Off(fault.clone()),
                    (None, Some(_)) => XdpState::On(XdpMode::Generic),
                    (None, None) => XdpState::Off(XdpFault::NoProgram),
                };
                self.xdp_told = Some(target.clone());
                let states = vec![state; target.interfaces.len()];
                TaskResult::Xdp(target, states)
            }
            Task::UseUp(door) => {
                let used = self.files.use_up(&door);
                TaskResult::UsedUp(door, Ok(used))
            }
        }
    }

    /// Does the next task of a lane, and keeps its result back.
    pub(super) fn take_report(&mut self, lane: Lane) -> Event {
        let place = self.tasks.iter().position(|(_, task)| task.lane() == lane).expect("a task");
        let (id, task) = self.tasks.remove(place).unwrap();
        Event::TaskDone { id, result: self.perform(task) }
    }

    /// True if the process would end now.
    pub(super) fn is_over(&self) -> bool {
        self.gatekeeper.is_over(self.now())
    }

    /// The next task of a lane comes to nothing.
    pub(super) fn fail_task(&mut self, lane: Lane) -> bool {
        let Some(place) = self.tasks.iter().position(|(_, task)| task.lane() == lane) else {
            return false;
        };
        let (id, task) = self.tasks.remove(place).unwrap();
        let fault = Fault::new("it came to nothing", "try again");
        let result = match task {
            Task::ReadClients(_) => TaskResult::Clients(Err(fault)),
            Task::Load(..) => TaskResult::Loaded(Err(fault)),
            Task::Guard(_) => TaskResult::Guard(Err(fault)),
            Task::LookAtFirewall { .. } => TaskResult::LookedAtFirewall(Err(fault)),
            Task::State(job) => {
                self.disk.set_broken(true);
                let done = job.run();
                self.disk.set_broken(false);
                TaskResult::State(done)
            }
            Task::UseUp(door) => TaskResult::UsedUp(door, Err(fault.what)),
            Task::Join(_) => TaskResult::Joined(Err(fault)),
            Task::Xdp(target) => {
                let states = vec![XdpState::Off(XdpFault::Kernel(5)); target.interfaces.len()];
                TaskResult::Xdp(target, states)
            }
        };
        self.handle(Event::TaskDone { id, result });
        true
    }

    /// Does all tasks, and those that follow from them; listeners that start get ready.
    pub(super) fn settle(&mut self) {
        for _ in 0..1000 {
            let did = self.go_on() || Lane::ALL.into_iter().any(|lane| self.do_task(lane));
            if !did && !self.make_ready() {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// The next turn of long work, if there is one.
    pub(super) fn go_on(&mut self) -> bool {
        let has_more = self.gatekeeper.has_more();
        if has_more {
            self.handle(Event::Deadline);
        }
        has_more
    }

    /// A listener that starts gets ready, if one does.
    pub(super) fn make_ready(&mut self) -> bool {
        let Some(id) = self.starting.pop() else { return false };
        self.handle(Event::ListenerReady { id, ready: ready() });
        true
    }

    /// A listener ends by itself.
    pub(super) fn lose(&mut self, id: ListenerId, why: ListenerLoss) {
        self.listeners.remove(&id);
        self.starting.retain(|other| *other != id);
        self.handle(Event::ListenerLost { id, why });
    }

    /// A running command ends.
    pub(super) fn end_command(&mut self, id: u64, end: CommandEnd) {
        self.running.remove(&id);
        self.handle(Event::CommandEnded { id, end });
    }

    /// The only command that runs ends.
    pub(super) fn end_the_command(&mut self, end: CommandEnd) {
        let ids: Vec<u64> = self.running.keys().copied().collect();
        let [id] = ids[..] else { panic!("{} commands run", ids.len()) };
        self.end_command(id, end);
    }

    /// The texts of all commands that were started.
    pub(super) fn commands(&self) -> Vec<&str> {
        self.started.iter().map(|(_, text)| text.as_str()).collect()
    }

    /// True if a line with this text was written.
    pub(super) fn said(&self, text: &str) -> bool {
        self.log.iter().any(|line| line.contains(text))
    }
}

fn text(command: &CommandLine) -> String {
    match command {
        CommandLine::Shell(text) => text.clone(),
        CommandLine::Argv(argv) => argv.join(" "),
    }
}

fn begin(
    clock: &Rc<Cell<Now>>, kernel: &Rc<RefCell<Kernel>>, files: &Files, disk: &MemoryDisk,
    enrolled: bool,
) -> Result<Gatekeeper, Fault> {
    let started = clock.get();
    let (state, recovered) = State::on_disk(Box::new(disk.clone()), started.wall, enrolled)?;
    let openings = Openings::restore(started, recovered.ledger.openings().cloned());
    let elements = kernel.borrow().live().into_iter().collect();
    let trial = kernel.borrow().trial;
    Gatekeeper::begin_with(Beginning {
        path: Path::new("/toctocd.toml"),
        prepared: Arc::new(files.prepare()?),
        network: network(),
        // No two processes begin at the same moment.
        host: Box::new(FakeHost { clock: Rc::clone(clock), entropy: started.boot.0 }),
        state,
        recovered,
        openings,
        firewall: Box::new(Link(Rc::clone(kernel))),
        elements,
        others: Vec::new(),
        trial,
        listener: ready(),
        day: started.wall.day(),
        rights: Rights::All,
        started,
    })
}
