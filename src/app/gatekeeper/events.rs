//! What the gatekeeper is told, and what it wants done: plain data in both directions. The poll
//! loop in `serve` makes events of the world and carries the outputs out; tests do both by hand.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::app::listener_process::{ListenerReady, ListenerStart};
use crate::app::prepare::Prepared;
use crate::core::door::Door;
use crate::core::openings::{CommandEnd, Job};
use crate::core::types::{ClientId, Fault};
use crate::edge::addresses::LocalAddress;
use crate::edge::control::{ControlRequest, ControlResponse, SessionId};
use crate::edge::firewall::{GuardReport, GuardTask};
use crate::edge::gatekeeper_pipe::{ToGatekeeper, ToListener};
use crate::edge::one_time::SequenceUse;
use crate::edge::state::{StateDone, StateJob};

/// Names one listener for as long as the gatekeeper runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ListenerId(pub(super) u32);

/// Names one task for as long as the gatekeeper runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TaskId(pub(super) u64);

/// Something happened.
pub(super) enum Event {
    /// SIGTERM or SIGINT.
    Terminate,
    /// SIGHUP.
    Hangup,
    /// A command of an opening has ended, or could not be started.
    CommandEnded { id: u64, end: CommandEnd },
    /// Messages of one listener, in their order.
    Listener { id: ListenerId, messages: Vec<ToGatekeeper> },
    /// A listener is confined, proven to be, and listens.
    ListenerReady { id: ListenerId, ready: ListenerReady },
    /// A listener is gone, or never got ready.
    ListenerLost { id: ListenerId, why: ListenerLoss },
    /// Others changed our firewall table: who, for people.
    FirewallChanged { who: String },
    /// The machine's addresses and interfaces as they are now; a fault if the kernel does not say.
    Network(Result<Network, Fault>),
    /// An admin asks for something.
    Asked { session: SessionId, request: ControlRequest },
    /// A task has ended.
    TaskDone { id: TaskId, result: TaskResult },
    /// The moment of [`super::Gatekeeper::deadline`] has come.
    Deadline,
}

/// Why a listener is of no use any more.
#[derive(Clone, Debug)]
pub(super) enum ListenerLoss {
    /// It never got ready.
    NotReady(Fault),
    /// It ended, or does not read: how, for people.
    Ended(String),
    /// It sent what no listener of ours sends.
    Nonsense,
}

/// The machine's network as far as knocks depend on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Network {
    /// Our addresses.
    pub(super) addresses: Vec<LocalAddress>,
    /// Interfaces that default routes lead out of.
    pub(super) default_routes: Vec<String>,
    /// Interfaces that are up.
    pub(super) up: BTreeSet<String>,
}

/// Something to be done. The order counts.
pub(super) enum Output {
    /// Write a line to the log.
    Log(String),
    /// Start a listener; [`Event::ListenerReady`] or [`Event::ListenerLost`] follows.
    StartListener(ListenerId, ListenerStart),
    /// Send to a listener. One that is gone is no error.
    Send(ListenerId, ToListener),
    /// Kill a listener, whatever state it is in. No event follows.
    EndListener(ListenerId),
    /// Start a command; [`Event::CommandEnded`] follows.
    Run(Job),
    /// Kill the command of this opening and what it started.
    Kill(u64),
    /// Do this beside the loop; [`Event::TaskDone`] follows, or never.
    Start(TaskId, Task),
    /// Answer an admin.
    Reply(SessionId, ControlResponse),
    /// Look at addresses and interfaces; [`Event::Network`] follows.
    LookAtNetwork,
    /// Look at them by itself whenever they change; routes too, or not.
    FollowRoutes(bool),
    /// Tell the service manager that we serve.
    TellReady,
}

/// What is done beside the loop, because it may wait for the world.
pub(super) enum Task {
    /// Read the names of all enrolled clients from this file.
    ReadClients(PathBuf),
    /// Read and check all that the configuration at this path leads to.
    Load(PathBuf),
    /// See [`GuardTask`].
    Guard(GuardTask),
    /// See [`StateJob`].
    State(StateJob),
    /// Use up the one-time sequence that is in force at this door.
    UseUp(Box<Door>),
}

/// What a [`Task`] came to.
pub(super) enum TaskResult {
    Clients(Result<BTreeSet<ClientId>, Fault>),
    Loaded(Result<Box<Prepared>, Fault>),
    Guard(Result<GuardReport, Fault>),
    State(StateDone),
    /// Of the door that the task was about.
    UsedUp(Box<Door>, Result<SequenceUse, String>),
}

/// Tasks of one lane follow each other; a lane that hangs holds up no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    Clients,
    Config,
    Guard,
    State,
    Files,
}

impl Task {
    /// The lane that it belongs to.
    pub(super) fn lane(&self) -> Lane {
        match self {
            Task::ReadClients(_) => Lane::Clients,
            Task::Load(_) => Lane::Config,
            Task::Guard(_) => Lane::Guard,
            Task::State(_) => Lane::State,
            Task::UseUp(_) => Lane::Files,
        }
    }
}

impl Lane {
    /// All of them.
    #[cfg(test)]
    pub(super) const ALL: [Lane; 5] =
        [Lane::Clients, Lane::Config, Lane::Guard, Lane::State, Lane::Files];

    /// The thread's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Lane::Clients => "clients",
            Lane::Config => "config",
            Lane::Guard => "guard",
            Lane::State => "state",
            Lane::Files => "files",
        }
    }

    /// Seconds after which a task counts as failed. Nobody can end it.
    pub(super) fn patience(self) -> u32 {
        match self {
            Lane::Clients | Lane::Config | Lane::Files => 5,
            Lane::Guard | Lane::State => 10,
        }
    }

    /// What to say of a task that took longer.
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
            Lane::State => ("maintaining the state", "look after that disk"),
            Lane::Files => ("using up a one-time sequence", "see what that file is on"),
        };
        Fault::new(format!("{what} takes longer than {seconds} s"), remedy)
    }
}
