//! The listeners as the gatekeeper sees them: the one at work, one that starts, one that was
//! replaced. See `app::listener_process` for the processes, `knocks` and `doors` for what their
//! messages lead to.

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

/// Seconds that a listener may take from its start until it listens, 100,000 clients included.
const PATIENCE: u32 = 20;
/// Seconds that a listener which was replaced has for handing over what it still holds.
const RETIRING: u32 = 2;
/// A listener that ended is started again after this many seconds, doubled each time up to
/// [`MAX_PAUSE`].
const PAUSE: u32 = 1;
/// The longest pause between two listeners, seconds.
const MAX_PAUSE: u32 = 60;

/// All listeners, at most one of each kind.
#[derive(Default)]
pub(super) struct Listeners {
    last: u32,
    current: Option<RunningListener>,
    starting: Option<StartingListener>,
    /// It was replaced: it sends the knocks that it still has, then ends.
    retiring: Option<(RunningListener, Boot)>,
    restart_at: Option<Boot>,
    /// Seconds before the last restart.
    pause: u32,
    /// The doors that the listener at work watches, by index, with the sequences that are in force.
    doors: Vec<Door>,
    counters: ListenerCounters,
}

struct RunningListener {
    id: ListenerId,
    /// What it was started with: names its clients by their rows.
    prepared: Arc<Prepared>,
    ready: ListenerReady,
}

struct StartingListener {
    listener: RunningListener,
    /// As it was told.
    doors: Vec<Door>,
    why: StartReason,
    deadline: Boot,
    is_ready: bool,
}

/// Why a listener is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StartReason {
    /// A new configuration is to come into force.
    Reload,
    /// The last one ended.
    Restart,
    /// The default route leads elsewhere, or these interfaces are there again.
    Interfaces { moved: bool, back: Vec<String> },
}

/// What the listeners have counted: those that are gone, and the one at work.
#[derive(Default)]
struct ListenerCounters {
    /// Packets that the kernel had no room for.
    lost: u64,
    past: (Counters, u64),
    present: (Counters, u64),
}

impl Listeners {
    /// The listener that the process began with is at work.
    pub(super) fn with_first(prepared: &Arc<Prepared>, ready: ListenerReady) -> Listeners {
        let first = RunningListener { id: ListenerId(0), prepared: Arc::clone(prepared), ready };
        let doors = prepared.config.settings.doors.clone();
        Listeners { current: Some(first), doors, ..Listeners::default() }
    }

    /// What the listener at work captures on, and what limits it.
    pub(super) fn at_work(&self) -> Option<&ListenerReady> {
        self.current.as_ref().map(|listener| &listener.ready)
    }

    /// Packets that came to the kernel's filter and were heard, and those that it had no room for.
    pub(super) fn packets(&self) -> (u64, u64) {
        let heard = self.counters.past.1.saturating_add(self.counters.present.1);
        (heard, self.counters.lost)
    }

    /// How often packets came to nothing in a listener for this reason.
    pub(super) fn rejected(&self, reject: Reject) -> u64 {
        self.counters.past.0.of(reject).saturating_add(self.counters.present.0.of(reject))
    }

    /// The client that a listener means by this row.
    pub(super) fn client_of(&self, id: ListenerId, row: u32) -> Option<ClientId> {
        let row = usize::try_from(row).ok()?;
        self.find(id)?.prepared.config.clients.get(row).map(|client| client.id)
    }

    /// The door that the listener at work means by this index.
    pub(super) fn door_of(&self, id: ListenerId, index: u16) -> Option<&Door> {
        if self.is_current(id) { self.doors.get(usize::from(index)) } else { None }
    }

    /// Where `door` is watched with this very sequence.
    pub(super) fn find_door(&self, door: &Door) -> Option<(ListenerId, u16)> {
        let current = self.current.as_ref()?;
        let same = |other: &Door| other.name == door.name && other.sequence == door.sequence;
        let index = self.doors.iter().position(same)?;
        Some((current.id, u16::try_from(index).ok()?))
    }

    /// Another sequence is in force at a door.
    pub(super) fn set_door(&mut self, id: ListenerId, index: u16, door: &Door) {
        if self.is_current(id)
            && let Some(slot) = self.doors.get_mut(usize::from(index))
        {
            slot.clone_from(door);
        }
    }

    /// When [`Gatekeeper::look_after_listeners`] has something to do next.
    pub(super) fn deadline(&self) -> Option<Boot> {
        let starting = self.starting.as_ref().map(|one| one.deadline).filter(|_| !self.is_parked());
        let restart = self.restart_at.filter(|_| self.starting.is_none());
        let retiring = self.retiring.as_ref().map(|(_, until)| *until);
        [starting, restart, retiring].into_iter().flatten().min()
    }

    /// True if a listener is ready and waits for the guard's new rules.
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

    /// Starts a listener. One that is starting already for another reason is given up.
    fn start(
        &mut self,
        now: Now,
        why: StartReason,
        prepared: &Arc<Prepared>,
        network: &Network,
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
            // One-time sequences may have been used up since the configuration was read.
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

    /// Ends them all: the process ends.
    pub(super) fn end_all(&mut self, out: &mut Outbox) {
        let starting = self.starting.take().map(|one| one.listener);
        let retiring = self.retiring.take().map(|(listener, _)| listener);
        for listener in [self.current.take(), starting, retiring].into_iter().flatten() {
            out.push(Output::EndListener(listener.id));
        }
        self.restart_at = None;
    }

    /// Ends the listener of a reload that has failed.
    pub(super) fn give_up_reload(&mut self, out: &mut Outbox) {
        if let Some(starting) = self.starting.take_if(|one| one.why == StartReason::Reload) {
            out.push(Output::EndListener(starting.listener.id));
        }
    }

    /// From here on the new listener is the listener; the old one still hands over the knocks that
    /// it has, not for long.
    fn exchange(
        &mut self,
        now: Now,
        starting: StartingListener,
        network: &Network,
        out: &mut Outbox,
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
        // Addresses may have changed while it started.
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

    /// Sends the sequences that have changed since a listener was told of `doors`.
    fn send_sequences(&self, id: ListenerId, doors: &[Door], out: &mut Outbox) {
        for (index, (told, door)) in (0..).zip(doors.iter().zip(&self.doors)) {
            if told.sequence != door.sequence {
                out.send(id, ToListener::Sequence { door: index, steps: door.sequence.clone() });
            }
        }
    }

    /// Starts the next one after a while; answers the seconds.
    fn schedule_restart(&mut self, now: Now) -> u32 {
        self.pause = (self.pause * 2).clamp(PAUSE, MAX_PAUSE);
        self.restart_at = Some(now.boot.plus(self.pause));
        self.pause
    }
}

impl ListenerCounters {
    /// The listener that counted is gone; what it counted stays.
    fn fold(&mut self) {
        let (counters, packets) = std::mem::take(&mut self.present);
        for (sum, number) in self.past.0.0.iter_mut().zip(counters.0) {
            *sum = sum.saturating_add(number);
        }
        self.past.1 = self.past.1.saturating_add(packets);
    }
}

impl Gatekeeper {
    /// Messages of one listener. Knocks are decided together, so that one sync serves them all.
    /// From one that was replaced, or waits for its turn, only knocks count: another one watches
    /// the doors, and would open them again.
    pub(super) fn listener_messages(
        &mut self,
        now: Now,
        id: ListenerId,
        messages: Vec<ToGatekeeper>,
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

    /// A listener is confined and listens.
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

    /// The listener that a reload started takes over.
    pub(super) fn exchange_listener(&mut self, now: Now) {
        if let Some(starting) = self.listeners.starting.take() {
            self.listeners.exchange(now, starting, self.in_force.network(), &mut self.out);
        }
    }

    /// A listener is gone, or sends what none of ours would.
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

    /// Starts the listener of a new configuration.
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

    /// Starts what is to start, ends what takes too long.
    pub(super) fn look_after_listeners(&mut self, now: Now) {
        if let Some((old, _)) = self.listeners.retiring.take_if(|(_, until)| *until <= now.boot) {
            // One that does not end by itself is ended: what it was told to forget must not be
            // asked of it for ever.
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
            // A reload that came to nothing has taken its place.
            self.listeners.schedule_restart(now);
        }
    }

    /// What nobody would tell us of.
    pub(super) fn check_listeners(&mut self) {
        self.out.push(Output::LookAtNetwork);
        if let Some(current) = &self.listeners.current {
            self.out.send(current.id, ToListener::AskCounters);
            // It has lived through a whole check: the next end is not part of a row of failures.
            self.listeners.pause = 0;
        }
    }

    /// A captured interface has gone: nothing is heard there, until one of its name is back.
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

    /// Our addresses, routes or interfaces may have changed.
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
        self.find_interfaces(now);
    }

    /// An interface that was missing is there, or the default route leads elsewhere: a listener
    /// that hears it takes over. Without any default route the old one stays: it loses nothing.
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
