//! The gatekeeper's view of the listeners: the current one, one that is starting, and one that was
//! replaced. See `app::listener_process` for the processes, and `knocks` and `doors` for the
//! effects of their messages.

use std::sync::Arc;

use super::Gatekeeper;
use super::events::{ListenerId, ListenerLoss, Network, Output};
use super::outbox::Outbox;
use crate::app::interfaces;
use crate::app::listener_process::{
    ListenerReady, ListenerStart, MissingInterface, address_messages,
};
use crate::app::prepare::Prepared;
use crate::config::DEFAULT_ROUTE;
use crate::core::door::Door;
use crate::core::types::{Boot, ClientId, Counters, Fault, Now, Reject, Source};
use crate::edge::capture::ANY;
use crate::edge::gatekeeper_pipe::{ToGatekeeper, ToListener};

/// Seconds that a listener may take to get ready, even with 100,000 clients.
const PATIENCE: u32 = 20;
/// Seconds that a replaced listener has to hand over the knocks it still holds.
const RETIRING: u32 = 2;
/// Seconds before a listener that ended is started again, doubled each time up to [`MAX_PAUSE`].
const PAUSE: u32 = 1;
/// The longest pause before a restart, in seconds.
const MAX_PAUSE: u32 = 60;

/// The listeners, at most one of each kind.
#[derive(Default)]
pub(super) struct Listeners {
    last: u32,
    current: Option<RunningListener>,
    starting: Option<StartingListener>,
    /// The replaced listener, and its deadline. It hands over the knocks it still holds, then ends.
    retiring: Option<(RunningListener, Boot)>,
    restart_at: Option<Boot>,
    /// The last pause before a restart, in seconds.
    pause: u32,
    /// The doors that the current listener watches, by index, with the sequences in force.
    doors: Vec<Door>,
    counters: ListenerCounters,
}

struct RunningListener {
    id: ListenerId,
    /// The configuration it was started with. Its client rows refer to this.
    prepared: Arc<Prepared>,
    ready: ListenerReady,
}

struct StartingListener {
    listener: RunningListener,
    /// The doors as sent to it at its start.
    doors: Vec<Door>,
    why: StartReason,
    deadline: Boot,
    is_ready: bool,
}

/// The reason for starting a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StartReason {
    /// A reload: a new configuration.
    Reload,
    /// The previous listener ended.
    Restart,
    /// The default route moved to another interface (`moved`), or missing interfaces are up again
    /// (`back`).
    Interfaces { moved: bool, back: Vec<String> },
}

/// The counters of all listeners. Each pair is the rejects by reason and the packets received:
/// `past` for the listeners that are gone, `present` for the current one.
#[derive(Default)]
struct ListenerCounters {
    /// Packets that the kernel dropped because its buffer was full.
    lost: u64,
    past: (Counters, u64),
    present: (Counters, u64),
}

impl Listeners {
    /// The state at the start of the process, with a first listener that is ready.
    pub(super) fn with_first(prepared: &Arc<Prepared>, ready: ListenerReady) -> Listeners {
        let first = RunningListener { id: ListenerId(0), prepared: Arc::clone(prepared), ready };
        let doors = prepared.config.settings.doors.clone();
        Listeners { current: Some(first), doors, ..Listeners::default() }
    }

    /// The current listener's interfaces and limitations.
    pub(super) fn at_work(&self) -> Option<&ListenerReady> {
        self.current.as_ref().map(|listener| &listener.ready)
    }

    /// Packets received through the kernel's filter, and packets lost because its buffer was full.
    pub(super) fn packets(&self) -> (u64, u64) {
        let heard = self.counters.past.1.saturating_add(self.counters.present.1);
        (heard, self.counters.lost)
    }

    /// The number of packets that listeners rejected for this reason.
    pub(super) fn rejected(&self, reject: Reject) -> u64 {
        self.counters.past.0.of(reject).saturating_add(self.counters.present.0.of(reject))
    }

    /// The client in this row of the listener's table.
    pub(super) fn client_of(&self, id: ListenerId, row: u32) -> Option<ClientId> {
        let row = usize::try_from(row).ok()?;
        self.find(id)?.prepared.config.clients.get(row).map(|client| client.id)
    }

    /// The door at this index, if `id` is the current listener.
    pub(super) fn door_of(&self, id: ListenerId, index: u16) -> Option<&Door> {
        if self.is_current(id) { self.doors.get(usize::from(index)) } else { None }
    }

    /// The current listener and the index at which it watches `door`, if the sequence is the same.
    pub(super) fn find_door(&self, door: &Door) -> Option<(ListenerId, u16)> {
        let current = self.current.as_ref()?;
        let same = |other: &Door| other.name == door.name && other.sequence == door.sequence;
        let index = self.doors.iter().position(same)?;
        Some((current.id, u16::try_from(index).ok()?))
    }

    /// Sets the door at this index, which has a new sequence.
    pub(super) fn set_door(&mut self, id: ListenerId, index: u16, door: &Door) {
        if self.is_current(id)
            && let Some(slot) = self.doors.get_mut(usize::from(index))
        {
            slot.clone_from(door);
        }
    }

    /// The next moment at which [`Gatekeeper::look_after_listeners`] has something to do.
    pub(super) fn deadline(&self) -> Option<Boot> {
        let starting = self.starting.as_ref().map(|one| one.deadline).filter(|_| !self.is_parked());
        let restart = self.restart_at.filter(|_| self.starting.is_none());
        let retiring = self.retiring.as_ref().map(|(_, until)| *until);
        [starting, restart, retiring].into_iter().flatten().min()
    }

    /// True if a listener is ready and waits for the new rules of the guard.
    fn is_parked(&self) -> bool {
        self.starting.as_ref().is_some_and(|one| one.is_ready)
    }

    fn is_current(&self, id: ListenerId) -> bool {
        self.current.as_ref().is_some_and(|listener| listener.id == id)
    }

    fn find(&self, id: ListenerId) -> Option<&RunningListener> {
        let starting = self.starting.as_ref().map(|one| &one.listener);
        let retiring = self.retiring.as_ref().map(|(listener, _)| listener);
        [self.current.as_ref(), starting, retiring]
            .into_iter()
            .flatten()
            .find(|listener| listener.id == id)
    }

    /// Starts a listener. Ends one that is already starting for another reason.
    fn start(
        &mut self, now: Now, why: StartReason, prepared: &Arc<Prepared>, network: &Network,
        out: &mut Outbox,
    ) {
        if let Some(other) = self.starting.take() {
            out.push(Output::EndListener(other.listener.id));
        }
        self.last += 1;
        let id = ListenerId(self.last);
        let (doors, missing) = match &why {
            StartReason::Reload => {
                (prepared.config.settings.doors.clone(), MissingInterface::Refuse)
            }
            // One-time sequences may have been used since the configuration was read.
            _ => (self.doors.clone(), MissingInterface::Skip),
        };
        let start = ListenerStart {
            prepared: Arc::clone(prepared),
            doors: doors.clone(),
            addresses: network.addresses.clone(),
            missing,
        };
        out.push(Output::StartListener(id, start));
        let listener =
            RunningListener { id, prepared: Arc::clone(prepared), ready: ListenerReady::default() };
        let deadline = now.boot.plus(PATIENCE);
        self.starting = Some(StartingListener { listener, doors, why, deadline, is_ready: false });
    }

    /// Ends all listeners, because the process ends.
    pub(super) fn end_all(&mut self, out: &mut Outbox) {
        let starting = self.starting.take().map(|one| one.listener);
        let retiring = self.retiring.take().map(|(listener, _)| listener);
        for listener in [self.current.take(), starting, retiring].into_iter().flatten() {
            out.push(Output::EndListener(listener.id));
        }
        self.restart_at = None;
    }

    /// Ends the listener of a failed reload.
    pub(super) fn give_up_reload(&mut self, out: &mut Outbox) {
        if let Some(starting) = self.starting.take_if(|one| one.why == StartReason::Reload) {
            out.push(Output::EndListener(starting.listener.id));
        }
    }

    /// Makes the new listener the current one. The old one still hands over the knocks it holds,
    /// for up to [`RETIRING`] seconds.
    fn exchange(
        &mut self, now: Now, starting: StartingListener, network: &Network, out: &mut Outbox,
    ) {
        let StartingListener { listener: new, doors, why, .. } = starting;
        if why == StartReason::Reload {
            self.doors = doors;
        } else {
            self.send_sequences(new.id, &doors, out);
        }
        self.counters.fold();
        if let Some((older, _)) = self.retiring.take() {
            out.push(Output::EndListener(older.id));
        }
        // Addresses may have changed while the listener started.
        for message in address_messages(&new.ready.wanted, &network.addresses) {
            out.send(new.id, message);
        }
        if let Some(old) = self.current.replace(new) {
            out.send(old.id, ToListener::Stop);
            self.retiring = Some((old, now.boot.plus(RETIRING)));
        }
        self.restart_at = None;
        if why != StartReason::Restart {
            self.pause = 0;
        }
    }

    /// Sends the sequences that differ from `doors`, which the listener was started with.
    fn send_sequences(&self, id: ListenerId, doors: &[Door], out: &mut Outbox) {
        for (index, (told, door)) in (0..).zip(doors.iter().zip(&self.doors)) {
            if told.sequence != door.sequence {
                out.send(id, ToListener::Sequence { door: index, steps: door.sequence.clone() });
            }
        }
    }

    /// Schedules a restart and returns the pause in seconds.
    fn schedule_restart(&mut self, now: Now) -> u32 {
        self.pause = (self.pause * 2).clamp(PAUSE, MAX_PAUSE);
        self.restart_at = Some(now.boot.plus(self.pause));
        self.pause
    }
}

impl ListenerCounters {
    /// Adds the present counters to the past ones, because their listener is gone.
    fn fold(&mut self) {
        let (counters, packets) = std::mem::take(&mut self.present);
        for (sum, number) in self.past.0.0.iter_mut().zip(counters.0) {
            *sum = sum.saturating_add(number);
        }
        self.past.1 = self.past.1.saturating_add(packets);
    }
}

impl Gatekeeper {
    /// Handles the messages of one listener. Its knocks are decided together, so that one sync
    /// serves them all. If the listener was replaced or is not current yet, only its knocks count:
    /// the current one watches the doors too, and a door would open twice.
    pub(super) fn listener_messages(
        &mut self, now: Now, id: ListenerId, messages: Vec<ToGatekeeper>,
    ) {
        if self.listeners.find(id).is_none() {
            return;
        }
        let mut knocks = Vec::new();
        for message in messages {
            match message {
                ToGatekeeper::Knock(knock) => knocks.push(knock),
                other if self.listeners.is_current(id) => self.other_message(now, id, other),
                _ => {}
            }
        }
        self.begin_prepared(now);
        self.handle_knocks(now, id, knocks);
    }

    fn other_message(&mut self, now: Now, id: ListenerId, message: ToGatekeeper) {
        match message {
            ToGatekeeper::Completed { door, source } => self.completed(now, id, door, source),
            ToGatekeeper::Stage { door, source, stage } => {
                self.log_door(id, door, |name| format!("{source}: {name}: Stage {stage}"));
            }
            ToGatekeeper::TimedOut { door, source, stage } => {
                self.log_door(id, door, |name| {
                    format!("{source}: {name}: sequence timeout (stage {stage})")
                });
            }
            ToGatekeeper::Alarm { row, first, again } => {
                if let Some(client) = self.listeners.client_of(id, row) {
                    self.log_alarm(client, first, again);
                }
            }
            ToGatekeeper::Counters { counters, packets, lost } => {
                self.listeners.counters.present = (counters, packets);
                self.listeners.counters.lost = self.listeners.counters.lost.saturating_add(lost);
            }
            ToGatekeeper::Down { capture } => self.interface_down(now, capture),
            _ => {}
        }
    }

    /// Handles a listener that got ready: it is confined and captures.
    pub(super) fn listener_ready(&mut self, now: Now, id: ListenerId, ready: ListenerReady) {
        let Some(mut starting) = self.listeners.starting.take_if(|one| one.listener.id == id)
        else {
            return;
        };
        starting.listener.ready = ready;
        let heard = starting.listener.ready.interfaces.join(", ");
        match &starting.why {
            StartReason::Reload => {
                starting.is_ready = true;
                self.listeners.starting = Some(starting);
                return self.reload_listener_ready();
            }
            StartReason::Restart => self.out.log("a new listener listens"),
            StartReason::Interfaces { moved: true, .. } => {
                self.out.log(format!("the default route has changed: knocks are heard on {heard}"));
            }
            StartReason::Interfaces { back, .. } => {
                self.out
                    .log(format!("interface {} is back: knocks are heard there", back.join(", ")));
            }
        }
        self.listeners.exchange(now, starting, self.in_force.network(), &mut self.out);
    }

    /// Makes the reload's listener the current one.
    pub(super) fn exchange_listener(&mut self, now: Now) {
        if let Some(starting) = self.listeners.starting.take() {
            self.listeners.exchange(now, starting, self.in_force.network(), &mut self.out);
        }
    }

    /// Handles a listener that ended or sent an invalid message.
    pub(super) fn listener_lost(&mut self, now: Now, id: ListenerId, why: ListenerLoss) {
        if matches!(why, ListenerLoss::Nonsense) {
            self.counters.count(Reject::Pipe);
        }
        if let Some(starting) = self.listeners.starting.take_if(|one| one.listener.id == id) {
            return self.start_failed(now, starting.why, why.into_fault());
        }
        if self.listeners.retiring.take_if(|(listener, _)| listener.id == id).is_some() {
            return;
        }
        if self.listeners.current.take_if(|listener| listener.id == id).is_some() {
            self.listeners.counters.fold();
            let pause = self.listeners.schedule_restart(now);
            self.out.log(format!(
                "the listener ended ({}); the next one starts in {pause} s",
                why.in_words()
            ));
        }
    }

    fn start_failed(&mut self, now: Now, why: StartReason, fault: Fault) {
        match why {
            StartReason::Reload => self.reload_failed(&fault),
            StartReason::Restart => {
                self.listeners.schedule_restart(now);
                self.out.log(format!("no listener: {fault}"));
            }
            StartReason::Interfaces { .. } => self.out.log_at_most("back", 10, fault.to_string()),
        }
    }

    pub(super) fn start_reload_listener(&mut self, now: Now, prepared: &Arc<Prepared>) {
        self.listeners.start(
            now,
            StartReason::Reload,
            prepared,
            self.in_force.network(),
            &mut self.out,
        );
    }

    fn start_listener(&mut self, now: Now, why: StartReason) {
        self.listeners.start(
            now,
            why,
            self.in_force.prepared(),
            self.in_force.network(),
            &mut self.out,
        );
    }

    /// Starts listeners that are due and ends those that take too long.
    pub(super) fn look_after_listeners(&mut self, now: Now) {
        if let Some((old, _)) = self.listeners.retiring.take_if(|(_, until)| *until <= now.boot) {
            // Kill it if it does not end by itself: its clients and sequences are out of date.
            self.out.push(Output::EndListener(old.id));
        }
        let late = self.listeners.starting.take_if(|one| !one.is_ready && one.deadline <= now.boot);
        if let Some(late) = late {
            self.out.push(Output::EndListener(late.listener.id));
            let fault =
                Fault::new("the listener did not get ready in time", "is this machine overloaded?");
            self.start_failed(now, late.why, fault);
        }
        if self.listeners.starting.is_some() {
            return;
        }
        if self.listeners.restart_at.take_if(|at| *at <= now.boot).is_some() {
            self.start_listener(now, StartReason::Restart);
        } else if self.listeners.current.is_none() && self.listeners.restart_at.is_none() {
            // The restart gave way to the listener of a reload, and the reload failed.
            self.listeners.schedule_restart(now);
        }
    }

    /// The periodic check.
    pub(super) fn check_listeners(&mut self) {
        self.out.push(Output::LookAtNetwork);
        if let Some(current) = &self.listeners.current {
            self.out.send(current.id, ToListener::AskCounters);
            // It survived until a check, so its next end does not count as a repeated failure.
            self.listeners.pause = 0;
        }
    }

    /// Handles a captured interface that went down. Nothing is received there until an interface of
    /// that name is up again.
    fn interface_down(&mut self, now: Now, capture: u8) {
        let Some(current) = &mut self.listeners.current else { return };
        let Some(name) = current.ready.interfaces.get(usize::from(capture)).cloned() else {
            return;
        };
        if name != ANY && !current.ready.missing.contains(&name) {
            self.out.log_at_most(
                "interface",
                1,
                format!("interface {name} went down: no knock is heard there"),
            );
            current.ready.missing.push(name);
            self.check_soon(now);
        }
    }

    /// Applies the network's current state: addresses, routes and interfaces may have changed.
    pub(super) fn network_changed(&mut self, now: Now, network: Result<Network, Fault>) {
        let network = match network {
            Ok(network) => network,
            Err(fault) => return self.out.log_at_most("addresses", 10, fault.to_string()),
        };
        if network.addresses != self.in_force.network().addresses {
            self.policy.set_own(network.addresses.iter().map(|own| Source::new(own.address)));
            if let Some(current) = &self.listeners.current {
                for message in address_messages(&current.ready.wanted, &network.addresses) {
                    self.out.send(current.id, message);
                }
            }
        }
        self.in_force.set_network(network);
        self.policy.set_shared(self.in_force.shared());
        self.find_interfaces(now);
    }

    /// Starts a new listener if a missing interface is up or the default route has moved. Without
    /// any default route the current listener stays: there is nothing that it could miss.
    fn find_interfaces(&mut self, now: Now) {
        let Some(current) = &self.listeners.current else { return };
        if self.listeners.starting.is_some() {
            return;
        }
        let network = self.in_force.network();
        let wanted =
            interfaces::resolved_interfaces(self.in_force.settings(), &network.default_routes);
        let moved =
            wanted != current.ready.wanted && !wanted.iter().any(|name| name == DEFAULT_ROUTE);
        let missing = current.ready.missing.iter();
        let back: Vec<String> =
            missing.filter(|name| network.up.contains(*name)).cloned().collect();
        if moved || !back.is_empty() {
            self.start_listener(now, StartReason::Interfaces { moved, back });
        }
    }
}

impl ListenerLoss {
    fn in_words(&self) -> String {
        match self {
            ListenerLoss::NotReady(fault) => fault.to_string(),
            ListenerLoss::Ended(how) => how.clone(),
            ListenerLoss::Nonsense => "it sent what no listener sends".to_owned(),
        }
    }

    fn into_fault(self) -> Fault {
        match self {
            ListenerLoss::NotReady(fault) => fault,
            other => Fault::new(
                format!("the listener did not start: {}", other.in_words()),
                "its own words stand above, if it had any",
            ),
        }
    }
}
