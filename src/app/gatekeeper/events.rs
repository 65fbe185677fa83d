//! The gatekeeper's inputs (events) and outputs, as plain data. The poll loop in `serve` creates
//! the events and carries out the outputs; tests do both by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::app::joined::{JoinDone, JoinTask};
use crate::app::listener_process::{ListenerReady, ListenerStart};
use crate::app::load::ClientsRead;
use crate::app::prepare::{KnownClients, Prepared};
use crate::config::{Hook, LogSettings, MetricsSettings};
use crate::core::door::Door;
use crate::core::openings::{CommandEnd, Job};
use crate::core::prefix::Prefix;
use crate::core::types::{Fault, ServiceName};
use crate::edge::addresses::LocalAddress;
use crate::edge::control::{ControlRequest, ControlResponse, SessionId};
use crate::edge::firewall::{GuardReport, GuardTask};
use crate::edge::gatekeeper_pipe::{OwnAddress, ToGatekeeper, ToListener};
use crate::edge::log::LogEvent;
use crate::edge::one_time::SequenceUse;
use crate::edge::state::{StateDone, StateJob};
use crate::edge::xdp::XdpState;

/// The id of a listener, unique for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ListenerId(pub(super) u32);

/// The id of a task, unique for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TaskId(pub(super) u64);

pub(super) enum Event {
    /// SIGTERM or SIGINT.
    Terminate,
    /// SIGHUP.
    Hangup,
    /// A command of an opening ended, or could not be started.
    CommandEnded { id: u64, end: CommandEnd },
    /// Messages of one listener, in the order sent.
    Listener { id: ListenerId, messages: Vec<ToGatekeeper> },
    /// A listener is confined, its confinement is verified, and it captures.
    ListenerReady { id: ListenerId, ready: ListenerReady },
    /// A listener has ended, or failed to start.
    ListenerLost { id: ListenerId, why: ListenerLoss },
    /// Another program changed our firewall table. `who` names it in text for people.
    FirewallChanged { who: String },
    /// Announcements of firewall changes were lost.
    FirewallUnsure,
    /// The current addresses, routes and interfaces, or a fault if the kernel does not report them.
    Network(Result<Network, Fault>),
    /// An admin's request.
    Asked { session: SessionId, request: ControlRequest },
    /// The result of a task, even a late one.
    TaskDone { id: TaskId, result: TaskResult },
    /// The time of [`super::Gatekeeper::deadline`] has come.
    Deadline,
}

/// The reason why a listener can no longer be used.
#[derive(Clone, Debug)]
pub(super) enum ListenerLoss {
    /// It did not start, or was not ready in time.
    NotReady(Fault),
    /// It ended, or does not read its messages. The text is for people.
    Ended(String),
    /// It sent a message that our listener never sends.
    Nonsense,
}

/// The parts of the machine's network that knocks depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) addresses: Vec<LocalAddress>,
    /// Interfaces of the default routes.
    pub(super) default_routes: Vec<String>,
    /// Next hops of the default routes, and further addresses of them, as far as known.
    pub(super) routers: BTreeSet<IpAddr>,
    /// Private networks that are not behind a device in front.
    pub(super) private: BTreeSet<Prefix>,
    /// Interfaces that are up, with the kernel's number for each.
    pub(super) up: BTreeMap<String, u32>,
}

/// An action for `serve` to carry out. The order matters.
pub(super) enum Output {
    /// Write an event to the log.
    Log(LogEvent),
    /// Open the log again, for it may have been renamed, or goes elsewhere now.
    OpenLog(LogSettings),
    /// These hooks count from now on.
    SetHooks(Vec<Hook>),
    /// Metrics are served so from now on.
    SetMetrics(MetricsSettings),
    /// Start a listener; [`Event::ListenerReady`] or [`Event::ListenerLost`] follows.
    StartListener(ListenerId, ListenerStart),
    /// Send a message to a listener. It is no error if the listener is gone.
    Send(ListenerId, ToListener),
    /// Send our addresses to a listener. They replace those that it knows.
    SendAddresses(ListenerId, Vec<OwnAddress>),
    /// Kill a listener, whatever its state. No event follows.
    EndListener(ListenerId),
    /// Start a command; [`Event::CommandEnded`] follows.
    Run(Job),
    /// Kill the command of this opening and its child processes.
    Kill(u64),
    /// Run a task outside the loop. [`Event::TaskDone`] follows, unless the task hangs.
    Start(TaskId, Task),
    /// Answer an admin.
    Reply(SessionId, ControlResponse),
    /// Read addresses, routes and interfaces; [`Event::Network`] follows.
    LookAtNetwork,
    /// Report ready to the service manager.
    TellReady,
}

/// Work done outside the loop, because it may block.
pub(super) enum Task {
    /// Read the clients again.
    ReadClients(KnownClients),
    /// Read and check the configuration at this path and all files it refers to, except the clients
    /// that have just been read.
    Load(PathBuf, KnownClients),
    /// See [`GuardTask`].
    Guard(GuardTask),
    /// Look whether this machine's own firewall makes a grant of this service useless.
    LookAtFirewall { prepared: Arc<Prepared>, service: ServiceName, v6: bool },
    /// See [`StateJob`].
    State(StateJob),
    /// Mark the sequence in force at this door as used.
    UseUp(Box<Door>),
    /// Answer somebody who asks to join.
    Join(Box<JoinTask>),
    /// Put XDP programs at these interfaces, and nowhere else.
    Xdp(XdpTarget),
}

/// What is wanted of XDP: the program of this listener at these interfaces. `None`: none anywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct XdpTarget {
    pub(super) interfaces: Vec<String>,
    pub(super) listener: Option<ListenerId>,
}

/// The result of a [`Task`].
pub(super) enum TaskResult {
    Clients(Result<ClientsRead, Fault>),
    Loaded(Result<Box<Prepared>, Fault>),
    Guard(Result<GuardReport, Fault>),
    /// The reason why the grant is useless, if it is.
    LookedAtFirewall(Result<Option<String>, Fault>),
    State(StateDone),
    /// The door of the task, and its result.
    UsedUp(Box<Door>, Result<SequenceUse, String>),
    Joined(Result<JoinDone, Fault>),
    /// What the task was told, and what stands at each of its interfaces.
    Xdp(XdpTarget, Vec<XdpState>),
}

/// Tasks of one lane run one at a time. A hanging lane does not block the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    Clients,
    Config,
    Guard,
    Connections,
    State,
    Files,
    Joining,
    Xdp,
}

impl Task {
    pub(super) fn lane(&self) -> Lane {
        match self {
            Task::ReadClients(_) => Lane::Clients,
            Task::Load(..) => Lane::Config,
            Task::Guard(GuardTask::Cut(_) | GuardTask::Standing(_)) => Lane::Connections,
            Task::Guard(_) | Task::LookAtFirewall { .. } => Lane::Guard,
            Task::State(_) => Lane::State,
            Task::UseUp(_) => Lane::Files,
            Task::Join(_) => Lane::Joining,
            Task::Xdp(_) => Lane::Xdp,
        }
    }
}

impl Lane {
    #[cfg(test)]
    pub(super) const ALL: [Lane; 8] = [
        Lane::Clients,
        Lane::Config,
        Lane::Guard,
        Lane::Connections,
        Lane::State,
        Lane::Files,
        Lane::Joining,
        Lane::Xdp,
    ];

    /// The thread's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Lane::Clients => "clients",
            Lane::Config => "config",
            Lane::Guard => "guard",
            Lane::Connections => "connections",
            Lane::State => "state",
            Lane::Files => "files",
            Lane::Joining => "joining",
            Lane::Xdp => "xdp",
        }
    }

    /// Seconds after which a task counts as failed. A task cannot be cancelled.
    pub(super) fn patience(self) -> u32 {
        match self {
            Lane::Clients | Lane::Config | Lane::Files | Lane::Joining => 5,
            Lane::Guard | Lane::Connections | Lane::State | Lane::Xdp => 10,
        }
    }

    /// The fault for a task that missed its deadline.
    pub(super) fn late(self) -> Fault {
        let seconds = self.patience();
        let (what, remedy) = match self {
            Lane::Clients => (
                "reading the clients file",
                "see what that file is on: a FIFO, a file system that hangs?",
            ),
            Lane::Config => (
                "reading the configuration",
                "see what its files are on, and whether names can be looked up",
            ),
            Lane::Guard => {
                ("the nft program", "run `nft list ruleset` by hand to see what it waits for")
            }
            Lane::Connections => (
                "listing or cutting connections",
                "see how many there are: `conntrack -C`, or /proc/sys/net/netfilter/nf_conntrack_count",
            ),
            Lane::State => ("maintaining the state", "look after that disk"),
            Lane::Files => ("using up a one-time sequence", "see what that file is on"),
            Lane::Joining => ("writing who joined", "see what the state directory is on"),
            Lane::Xdp => ("putting XDP at interfaces", "see whether `ip link` answers"),
        };
        Fault::new(format!("{what} takes longer than {seconds} s"), remedy)
    }
}
