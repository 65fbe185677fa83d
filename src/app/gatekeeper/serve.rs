//! The gatekeeper's poll loop: turns what happens into events and carries out the outputs. Only the
//! poll blocks.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::sys::stat::Mode;

use super::Gatekeeper;
use super::events::{Event, ListenerId, ListenerLoss, Network, Output, Task, TaskId, TaskResult};
use crate::app::listener_process::{ListenerProcess, Progress};
use crate::app::metrics::service::{MetricsService, MetricsThread};
use crate::app::{load, own_firewall, prepare};
use crate::config::Hook;
use crate::core::event::EventKind;
use crate::core::types::{Boot, Fault, Reject};
use crate::edge::command::Runner;
use crate::edge::control::Control;
use crate::edge::event_loop::{self, PollSet};
use crate::edge::firewall::{GuardTask, NftGuard, TableChange, TableWatch};
use crate::edge::gatekeeper_pipe::PipeError;
use crate::edge::hooks::Hooks;
use crate::edge::log::{Log, LogEvent};
use crate::edge::network_watch::NetworkWatch;
use crate::edge::worker::Worker;
use crate::edge::xdp::XdpLinks;
use crate::edge::{addresses, clock, neighbours, one_time, routes, service_manager, sys};

/// The longest wait at shutdown for the reader of the log.
const LOG_PATIENCE: Duration = Duration::from_millis(500);

/// Everything with a file descriptor.
pub(super) struct Server {
    gatekeeper: Gatekeeper,
    signals: SignalFd,
    watch: NetworkWatch,
    changes: TableWatch,
    guard: NftGuard,
    control: Control,
    /// Each job returns the event that it leads to.
    worker: Worker<Event>,
    /// True if the network may have changed since the look at it that is under way.
    look_again: bool,
    listeners: BTreeMap<ListenerId, ListenerProcess>,
    /// The socket of systemd that starts listeners, if they are not our children.
    listener_socket: Option<PathBuf>,
    /// The programs at interfaces, which a task changes, and the newest one for them.
    xdp_links: Arc<Mutex<XdpLinks>>,
    xdp_program: Option<ListenersProgram>,
    /// Listeners that were killed and have not been reaped.
    dying: Vec<ListenerProcess>,
    runner: Runner,
    log: Log,
    hooks: Hooks,
    metrics: MetricsService,
    /// True if a listener has sent something since the service manager was last told that we are
    /// well, and the time at which it is told again.
    heard: bool,
    reassure_at: Boot,
    /// Events caused by carrying out outputs.
    events: VecDeque<Event>,
}

/// What can be read after a wait. Nothing else is tried: each empty read is a system call before
/// the knocks.
struct Ready {
    signals: bool,
    network: bool,
    firewall: bool,
    tasks: bool,
}

/// A program for interfaces. It outlives its listener, until the next one has taken over.
struct ListenersProgram {
    of: ListenerId,
    program: Arc<OwnedFd>,
}

/// The descriptors opened at the start.
pub(super) struct Sources {
    pub(super) signals: SignalFd,
    pub(super) watch: NetworkWatch,
    pub(super) changes: TableWatch,
    pub(super) guard: NftGuard,
    pub(super) control: Control,
    pub(super) listener: ListenerProcess,
    pub(super) listener_socket: Option<PathBuf>,
    /// The umask for commands.
    pub(super) umask: Mode,
    pub(super) log: Log,
    pub(super) hooks: Vec<Hook>,
    pub(super) metrics: MetricsThread,
}

/// The signals, taken through a descriptor. They are blocked, so that none interrupts a commit.
pub(super) fn signals() -> Result<SignalFd, Fault> {
    event_loop::signals(&[Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD])
        .map_err(|error| {
            Fault::new(
                format!("signals cannot be taken as a descriptor: {error}"),
                "the kernel needs CONFIG_SIGNALFD",
            )
        })
}

/// The current addresses, default routes and interfaces.
pub(super) fn network() -> Result<Network, Fault> {
    let addresses = addresses::own()?;
    let up = addresses::interfaces_up();
    let routes = routes::all()?;
    let hops = routes::routers(&routes);
    let neighbours = neighbours::all()?;
    neighbours::ask_doubtful(&neighbours, &hops);
    let mut routers = neighbours::further_addresses(&neighbours, &hops);
    routers.extend(hops.iter().map(|hop| hop.address));
    Ok(Network {
        default_routes: routes::default_interfaces(&routes, &up),
        routers,
        private: routes::private_networks(&routes, &addresses, &up),
        addresses,
        up,
    })
}

impl Server {
    pub(super) fn new(gatekeeper: Gatekeeper, sources: Sources) -> Result<Server, Fault> {
        let Sources {
            signals,
            watch,
            changes,
            guard,
            control,
            listener,
            listener_socket,
            umask,
            log,
            hooks,
            metrics,
        } = sources;
        Ok(Server {
            gatekeeper,
            signals,
            watch,
            changes,
            guard,
            control,
            worker: Worker::new()?,
            look_again: false,
            listeners: BTreeMap::from([(ListenerId(0), listener)]),
            listener_socket,
            xdp_links: Arc::default(),
            xdp_program: None,
            dying: Vec::new(),
            runner: Runner::with_umask(umask),
            hooks: Hooks::start(hooks, log.handle()),
            metrics: MetricsService::start(metrics, log.handle())?,
            log,
            heard: false,
            reassure_at: Boot(0),
            events: VecDeque::new(),
        })
    }

    pub(super) fn serve(mut self) -> Result<(), Fault> {
        self.gatekeeper.announce(clock::now());
        self.carry_out();
        while !self.gatekeeper.is_over(clock::now()) {
            self.turn()?;
        }
        if self.runner.running() > 0 {
            let text = "a command is still running: if a stop command is to follow, it is killed, and that one runs at the next start";
            self.log_now(LogEvent::new(EventKind::Stop, text));
        }
        let last = self.gatekeeper.last_line(clock::now());
        self.log_now(LogEvent::new(EventKind::Stop, last));
        self.log.flush(LOG_PATIENCE);
        Ok(())
    }

    /// Waits until something happens, then handles it.
    fn turn(&mut self) -> Result<(), Fault> {
        let ready = self.wait()?;
        if self.gatekeeper.deadline() <= clock::now().boot {
            self.handle(Event::Deadline);
        }
        if ready.signals {
            self.take_signals();
        }
        if ready.network && self.watch.changed() {
            self.look_at_network();
        }
        if ready.tasks {
            self.take_results();
        }
        self.receive_from_listeners();
        if ready.firewall || ready.tasks {
            self.take_firewall_changes();
        }
        for (session, request) in self.control.requests(clock::now().boot) {
            self.handle(Event::Asked { session, request });
        }
        while let Some(event) = self.events.pop_front() {
            self.handle(event);
        }
        self.reassure();
        Ok(())
    }

    /// Before the knocks: an address that has become a router's must not be granted.
    fn take_results(&mut self) {
        while let Some(event) = self.worker.finished() {
            let looked = matches!(event, Event::Network(_));
            self.handle(event);
            if looked && self.look_again {
                self.look_at_network();
            }
        }
    }

    fn take_firewall_changes(&mut self) {
        let heard = self.changes.foreign_changes();
        if !heard.changes.is_empty() {
            self.handle(Event::FirewallChanged { who: authors(&heard.changes) });
        } else if heard.lost {
            self.handle(Event::FirewallUnsure);
        }
    }

    /// Tells the service manager, at most once a second, that this loop runs and that a listener
    /// answers. A listener that cannot start for a reason that is known excuses us: a restart of
    /// the gateway would not help, and would delay the stop commands.
    fn reassure(&mut self) {
        let now = clock::now().boot;
        let well = self.heard || self.gatekeeper.knows_why_nobody_listens();
        if well && self.reassure_at <= now {
            self.heard = false;
            self.reassure_at = now.plus(1);
            // A manager that does not read gets the next one.
            let _ = service_manager::well();
        }
    }

    fn wait(&self) -> Result<Ready, Fault> {
        let mut set = PollSet::default();
        for fd in
            [self.signals.as_fd(), self.watch.as_fd(), self.changes.as_fd(), self.worker.as_fd()]
        {
            set.read(fd);
        }
        for listener in self.listeners.values() {
            set.read_and_write(listener.as_fd(), listener.wants_to_write());
        }
        for (fd, flags) in self.control.interests() {
            set.add(fd, flags);
        }
        let heartbeats = self.listeners.values().map(ListenerProcess::deadline);
        let deadline = heartbeats.min().unwrap_or(Boot(u64::MAX)).min(self.gatekeeper.deadline());
        set.wait_until(Some(deadline), clock::now().boot)
            .map_err(|error| Fault::new(format!("poll: {error}"), "the kernel is out of memory"))?;
        let [signals, network, firewall, tasks] = [0, 1, 2, 3].map(|index| set.is_ready(index));
        Ok(Ready { signals, network, firewall, tasks })
    }

    fn take_signals(&mut self) {
        let mut hangup = false;
        while let Some(signal) = event_loop::next_signal(&self.signals) {
            match signal {
                Signal::SIGTERM | Signal::SIGINT => self.handle(Event::Terminate),
                // Reload after all signals are read: a SIGTERM comes first.
                Signal::SIGHUP => hangup = true,
                Signal::SIGCHLD => self.reap(),
                _ => {}
            }
        }
        if hangup {
            self.handle(Event::Hangup);
        }
    }

    fn reap(&mut self) {
        self.dying.retain_mut(|listener| listener.ended().is_none());
        for finished in self.runner.reap() {
            self.handle(Event::CommandEnded { id: finished.id, end: finished.how });
        }
    }

    fn receive_from_listeners(&mut self) {
        let ids: Vec<ListenerId> = self.listeners.keys().copied().collect();
        for id in ids {
            let Some(listener) = self.listeners.get_mut(&id) else { continue };
            match listener.advance() {
                Ok(Progress::Nothing) => {}
                Ok(Progress::Ready(ready)) => self.handle(Event::ListenerReady { id, ready }),
                Ok(Progress::Messages { messages, end }) => {
                    if !messages.is_empty() {
                        self.heard = true;
                        self.handle(Event::Listener { id, messages });
                    }
                    if let Some(error) = end {
                        self.lose_listener(id, &error);
                    }
                }
                Err(fault) => {
                    self.end_listener(id);
                    self.handle(Event::ListenerLost { id, why: ListenerLoss::NotReady(fault) });
                }
            }
        }
    }

    fn lose_listener(&mut self, id: ListenerId, error: &PipeError) {
        let Some(listener) = self.listeners.get_mut(&id) else { return };
        let why = match error {
            PipeError::Nonsense(Reject::Pipe) => ListenerLoss::Nonsense,
            error => ListenerLoss::Ended(listener.ended().unwrap_or_else(|| error.to_string())),
        };
        self.end_listener(id);
        self.handle(Event::ListenerLost { id, why });
    }

    fn end_listener(&mut self, id: ListenerId) {
        if let Some(mut listener) = self.listeners.remove(&id)
            && listener.kill()
        {
            self.dying.push(listener);
        }
    }

    fn handle(&mut self, event: Event) {
        self.gatekeeper.handle(clock::now(), event);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        for output in self.gatekeeper.take_outputs() {
            self.carry_out_one(output);
        }
    }

    fn carry_out_one(&mut self, output: Output) {
        match output {
            Output::Log(event) => self.log_now(event),
            Output::SetHooks(hooks) => self.hooks.set(hooks),
            Output::SetMetrics(settings) => self.metrics.set(settings),
            Output::OpenLog(settings) => self.log.reopen(clock::now().wall, settings),
            Output::StartListener(id, start) => {
                match ListenerProcess::start(start, self.listener_socket.as_deref()) {
                    Ok(listener) => drop(self.listeners.insert(id, listener)),
                    Err(fault) => {
                        let why = ListenerLoss::NotReady(fault);
                        self.events.push_back(Event::ListenerLost { id, why });
                    }
                }
            }
            Output::Send(id, message) => {
                if let Some(listener) = self.listeners.get_mut(&id) {
                    listener.send(message);
                }
            }
            Output::SendAddresses(id, addresses) => {
                if let Some(listener) = self.listeners.get_mut(&id) {
                    listener.send_addresses(&addresses);
                }
            }
            Output::EndListener(id) => self.end_listener(id),
            Output::Run(job) => {
                if let Some(finished) = self.runner.run(&job) {
                    self.events
                        .push_back(Event::CommandEnded { id: finished.id, end: finished.how });
                }
            }
            Output::Kill(id) => self.runner.kill(id),
            Output::Start(id, task) => self.start_task(id, task),
            Output::Reply(session, response) => {
                self.control.reply(clock::now().boot, session, &response);
            }
            Output::LookAtNetwork => self.look_at_network(),
            Output::TellReady => {
                if let Err(error) = service_manager::ready() {
                    let text = format!(
                        "the service manager cannot be told: {error}; it may end us when its patience does"
                    );
                    self.log_now(LogEvent::new(EventKind::Warning, text));
                }
            }
        }
    }

    /// Logs what the gatekeeper does not know of.
    fn log_now(&mut self, event: LogEvent) {
        let now = clock::now();
        let notes = self.hooks.event(now, &event);
        for event in [event].into_iter().chain(notes) {
            self.log.event(now.wall, event);
        }
    }

    /// Looks beside the loop: there may be many thousand addresses, or routes. Changes during a
    /// look lead to another one.
    fn look_at_network(&mut self) {
        let look = self.worker.start("network", Box::new(|| Event::Network(network())));
        self.look_again = look.is_err();
    }

    /// The program for interfaces of this listener, which may be gone.
    fn program_of(&mut self, listener: Option<ListenerId>) -> Option<Arc<OwnedFd>> {
        let kept = self.xdp_program.take().filter(|kept| Some(kept.of) == listener);
        let made = |of: ListenerId| {
            let program = Arc::clone(self.listeners.get(&of)?.xdp.as_ref()?);
            Some(ListenersProgram { of, program })
        };
        self.xdp_program = listener.and_then(made).or(kept);
        self.xdp_program.as_ref().map(|kept| Arc::clone(&kept.program))
    }

    fn start_task(&mut self, id: TaskId, task: Task) {
        let lane = task.lane().name();
        let program = match &task {
            Task::Xdp(target) => self.program_of(target.listener),
            _ => None,
        };
        let tools =
            Tools { guard: self.guard.clone(), links: Arc::clone(&self.xdp_links), program };
        let job = move || Event::TaskDone { id, result: do_task(task, &tools) };
        let started = self.worker.start(lane, Box::new(job));
        if let Err(fault) = started {
            // The deadline reports the failure too; this line has the reason.
            let text = format!("a task could not be started: {fault}");
            self.log_now(LogEvent::new(EventKind::Warning, text).failed());
        }
    }
}

/// What tasks change.
struct Tools {
    guard: NftGuard,
    links: Arc<Mutex<XdpLinks>>,
    /// The program for them.
    program: Option<Arc<OwnedFd>>,
}

/// Runs a task in its own thread; may block. Each thread would keep what a long list or file took.
fn do_task(task: Task, tools: &Tools) -> TaskResult {
    let takes_much = match &task {
        Task::ReadClients(_) | Task::Load(..) => true,
        Task::Guard(task) => !matches!(task, GuardTask::Check),
        Task::State(job) => job.reads_all(),
        Task::Join(_) => true,
        Task::UseUp(_) | Task::LookAtFirewall { .. } | Task::Xdp(_) => false,
    };
    let result = run_task(task, tools);
    if takes_much {
        sys::give_back_memory();
    }
    result
}

fn run_task(task: Task, tools: &Tools) -> TaskResult {
    match task {
        Task::ReadClients(known) => {
            TaskResult::Clients(load::clients_again(&known.files, &known.clients))
        }
        Task::Load(path, known) => {
            TaskResult::Loaded(prepare::prepare(&path, Some(&known)).map(Box::new))
        }
        Task::Guard(task) => TaskResult::Guard(tools.guard.run(task)),
        Task::Xdp(target) => {
            let mut links = tools.links.lock().unwrap_or_else(PoisonError::into_inner);
            let program = tools.program.as_ref().map(|program| program.as_fd());
            let states = links.bring(&target.interfaces, program);
            TaskResult::Xdp(target, states)
        }
        Task::LookAtFirewall { prepared, service, v6 } => {
            let settings = &prepared.config.settings;
            TaskResult::LookedAtFirewall(own_firewall::why_useless(settings, service, v6))
        }
        Task::State(job) => TaskResult::State(job.run()),
        Task::Join(task) => TaskResult::Joined(task.run()),
        Task::UseUp(door) => {
            let path = door.one_time_sequences.clone().unwrap_or_default();
            let result = one_time::use_up(&path, &door);
            TaskResult::UsedUp(door, result)
        }
    }
}

/// The programs that changed our table, as text for people.
fn authors(changes: &[TableChange]) -> String {
    let name = |change: &TableChange| format!("{} (pid {})", change.program, change.pid);
    changes.iter().map(name).collect::<Vec<_>>().join(", ")
}
