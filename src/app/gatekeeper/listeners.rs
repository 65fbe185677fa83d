//! The gatekeeper's view of the listeners: the current one, one that is starting, and one that was
//! replaced. See `app::listener_process` for the processes, and `listener_events` for what happens
//! to them.

use std::sync::Arc;

use super::events::{ListenerId, Network, Output};
use super::outbox::Outbox;
use super::packets::ListenerPackets;
use crate::app::listener_process::{ListenerReady, ListenerStart, own_addresses};
use crate::app::prepare::Prepared;
use crate::core::clients::ClientTable;
use crate::core::door::Door;
use crate::core::engine::KnownClient;
use crate::core::keyring::TAG;
use crate::core::service::Client;
use crate::core::types::{Boot, ClientId, MILLISECOND, Now};
use crate::edge::gatekeeper_pipe::{CLIENTS, ToListener};
use crate::edge::log::clock_time;

/// Seconds that a listener may take to get ready, even with 100,000 clients.
const PATIENCE: u32 = 20;
/// Seconds that a replaced listener has to hand over the knocks it still holds.
const RETIRING: u32 = 5;
/// The longest pause before a restart, in seconds: whoever can end listeners must not make the
/// gateway deaf for longer.
const LONGEST_PAUSE: u32 = 2;
/// Seconds that the status tells of a listener that was lost.
const LOSS_SHOWN: u32 = 3600;
/// The most clients that a running listener is told of at once. For more the pipe's queue is too
/// short, and a new listener reads them all.
const NEWS: usize = 1000;

/// At midnight the listener gets the keys of [`CLIENTS`] clients at once, then, after so many
/// nanoseconds, of the next ones: no knock waits for all of 100,000.
const SLICE_PAUSE: u64 = 5 * MILLISECOND;

/// The listeners, at most one of each kind.
#[derive(Default)]
pub(super) struct Listeners {
    last: u32,
    pub(super) current: Option<RunningListener>,
    pub(super) starting: Option<StartingListener>,
    /// The replaced listener, and its deadline. It hands over the knocks it still holds, then ends.
    pub(super) retiring: Option<(RunningListener, Boot)>,
    pub(super) restart_at: Option<Boot>,
    /// True if the last start failed for a reason that was reported.
    pub(super) start_failed: bool,
    /// The restarts since a listener last lived from one periodic check to the next, and the one
    /// that was at work at the last check.
    restarts: u32,
    checked: Option<ListenerId>,
    /// The number of listeners lost within [`LOSS_SHOWN`] of each other, and the last one.
    losses: u32,
    last_loss: Option<(Now, String)>,
    /// The doors that the current listener watches, by index, with the sequences in force.
    doors: Vec<Door>,
    /// True while the kernel holds first steps at doors for the current listener.
    pub(super) hold_first_steps: bool,
    /// The packets of the listeners that are gone.
    past: ListenerPackets,
}

pub(super) struct RunningListener {
    pub(super) id: ListenerId,
    /// The configuration it was started with.
    prepared: Arc<Prepared>,
    /// The clients that it knows.
    clients: ClientTable,
    /// The days by which it has keys of them, or is being given those.
    days: Days,
    next_slice: Option<NextSlice>,
    pub(super) ready: ListenerReady,
    pub(super) packets: ListenerPackets,
}

/// Two days by which clients' keys are chosen.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Days {
    /// By the clock.
    pub(super) wall: u32,
    /// The newest one that the clock or a client's mark ever showed.
    pub(super) newest: u32,
}

/// The clients whose keys of a new day the listener gets next.
struct NextSlice {
    /// Those after this one, in the order of ids.
    after: Option<ClientId>,
    due: Boot,
}

pub(super) struct StartingListener {
    pub(super) listener: RunningListener,
    /// The doors as sent to it at its start.
    doors: Vec<Door>,
    pub(super) why: StartReason,
    pub(super) deadline: Boot,
    pub(super) is_ready: bool,
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

impl Listeners {
    /// The state at the start of the process, with a first listener that is ready.
    pub(super) fn with_first(
        day: u32, prepared: &Arc<Prepared>, ready: ListenerReady,
    ) -> Listeners {
        let doors = prepared.config.settings.doors.clone();
        let clients = &prepared.config.clients;
        let current = Some(RunningListener::new(ListenerId(0), day, prepared, clients, ready));
        Listeners { current, doors, ..Listeners::default() }
    }

    /// The current listener's interfaces and limitations.
    pub(super) fn at_work(&self) -> Option<&ListenerReady> {
        self.current.as_ref().map(|listener| &listener.ready)
    }

    /// The packets of all listeners that are and were.
    pub(super) fn packets(&self) -> ListenerPackets {
        let mut all = self.past;
        let retiring = self.retiring.as_ref().map(|(listener, _)| listener);
        let starting = self.starting.as_ref().map(|one| &one.listener);
        for listener in self.current.iter().chain(retiring).chain(starting) {
            all.add(&listener.packets);
        }
        all
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

    /// The next moment at which `Gatekeeper::look_after_listeners` has something to do.
    pub(super) fn deadline(&self) -> Option<Boot> {
        let starting = self.starting.as_ref().map(|one| one.deadline).filter(|_| !self.is_parked());
        let restart = self.restart_at.filter(|_| self.starting.is_none());
        let retiring = self.retiring.as_ref().map(|(_, until)| *until);
        let slice = self.current.as_ref().and_then(|one| one.next_slice.as_ref());
        let slice = slice.map(|slice| slice.due);
        [starting, restart, retiring, slice].into_iter().flatten().min()
    }

    /// True if a listener is ready and waits for the new rules of the guard.
    fn is_parked(&self) -> bool {
        self.starting.as_ref().is_some_and(|one| one.is_ready)
    }

    pub(super) fn is_current(&self, id: ListenerId) -> bool {
        self.current.as_ref().is_some_and(|listener| listener.id == id)
    }

    pub(super) fn find_mut(&mut self, id: ListenerId) -> Option<&mut RunningListener> {
        let retiring = self.retiring.as_mut().map(|(listener, _)| listener);
        let starting = self.starting.as_mut().map(|one| &mut one.listener);
        let mut all = self.current.iter_mut().chain(retiring).chain(starting);
        all.find(|listener| listener.id == id)
    }

    /// Starts a listener. Ends one that is already starting for another reason.
    pub(super) fn start(
        &mut self, now: Now, why: StartReason, prepared: &Arc<Prepared>, clients: &ClientTable,
        network: &Network, out: &mut Outbox,
    ) {
        if let Some(other) = self.starting.take() {
            self.past.add(&other.listener.packets.ended());
            out.push(Output::EndListener(other.listener.id));
        }
        self.last += 1;
        let id = ListenerId(self.last);
        let doors = match &why {
            StartReason::Reload => prepared.config.settings.doors.clone(),
            // One-time sequences may have been used since the configuration was read.
            _ => self.doors.clone(),
        };
        let start = ListenerStart {
            prepared: Arc::clone(prepared),
            clients: clients.clone(),
            day: now.wall.day(),
            doors: doors.clone(),
            addresses: network.addresses.clone(),
        };
        out.push(Output::StartListener(id, start));
        let day = now.wall.day();
        let listener = RunningListener::new(id, day, prepared, clients, ListenerReady::default());
        let deadline = now.boot.plus(PATIENCE);
        self.starting = Some(StartingListener { listener, doors, why, deadline, is_ready: false });
    }

    /// Ends all listeners, because the process ends.
    pub(super) fn end_all(&mut self, out: &mut Outbox) {
        let starting = self.starting.take().map(|one| one.listener);
        let retiring = self.retiring.take().map(|(listener, _)| listener);
        for listener in [self.current.take(), starting, retiring].into_iter().flatten() {
            self.past.add(&listener.packets.ended());
            out.push(Output::EndListener(listener.id));
        }
        self.restart_at = None;
    }

    /// Takes out the listener that is starting and has ended by itself.
    pub(super) fn lose_starting(&mut self, id: ListenerId) -> Option<StartReason> {
        let starting = self.starting.take_if(|one| one.listener.id == id)?;
        self.past.add(&starting.listener.packets.ended());
        Some(starting.why)
    }

    /// Ends the listener of a failed reload.
    pub(super) fn give_up_reload(&mut self, out: &mut Outbox) {
        if let Some(starting) = self.starting.take_if(|one| one.why == StartReason::Reload) {
            self.past.add(&starting.listener.packets.ended());
            out.push(Output::EndListener(starting.listener.id));
        }
    }

    /// Tells the current listener which clients came and went, unless there are too many.
    pub(super) fn tell_clients(&mut self, clients: &ClientTable, out: &mut Outbox) {
        let Some(current) = &mut self.current else { return };
        let changes = current.clients.changes(clients);
        if changes.gone.len() + changes.new.len() > NEWS {
            return;
        }
        for id in changes.gone {
            let tag = current.clockless_tag(id);
            out.send(current.id, ToListener::Forget { tag });
        }
        for part in changes.new.chunks(CLIENTS) {
            let known = |client: &&Client| current.known(client, current.days.wall);
            out.send(current.id, ToListener::Clients(part.iter().map(known).collect()));
        }
        current.clients = clients.clone();
    }

    /// Gives the current listener the keys of one client's working day.
    pub(super) fn tell_working_day(&mut self, id: ClientId, day: u32, out: &mut Outbox) {
        let Some(current) = &self.current else { return };
        if let Some(client) = current.clients.get(id) {
            out.send(current.id, ToListener::Clients(vec![current.known(client, day)]));
        }
    }

    /// Gives the current listener the keys of a new day, some clients at a time.
    pub(super) fn tell_day(
        &mut self, now: Now, days: Days, working_day: impl Fn(ClientId) -> u32, out: &mut Outbox,
    ) {
        let Some(current) = &mut self.current else { return };
        if current.days != days {
            current.days = days;
            current.next_slice = Some(NextSlice { after: None, due: now.boot });
        }
        let Some(slice) = current.next_slice.take_if(|slice| slice.due <= now.boot) else { return };
        let clients = current.clients.after(slice.after).take(CLIENTS);
        let part: Vec<KnownClient> =
            clients.map(|client| current.known(client, working_day(client.id))).collect();
        if let Some(last) = part.last() {
            let due = now.boot.plus_nanos(SLICE_PAUSE);
            current.next_slice = Some(NextSlice { after: Some(last.client), due });
            out.send(current.id, ToListener::Clients(part));
        }
    }

    /// True if a listener is at work and knows exactly these clients and doors.
    pub(super) fn know(&self, clients: &ClientTable, doors: &[Door]) -> bool {
        let is_told = |current: &RunningListener| current.clients.is_same(clients);
        self.current.as_ref().is_some_and(is_told) && self.doors == doors
    }

    /// Makes the new listener the current one. The old one still hands over the knocks it holds,
    /// for up to [`RETIRING`] seconds.
    pub(super) fn exchange(
        &mut self, now: Now, starting: StartingListener, network: &Network, out: &mut Outbox,
    ) {
        let StartingListener { listener: new, doors, why, .. } = starting;
        if why == StartReason::Reload {
            self.doors = doors;
        } else {
            self.send_sequences(new.id, &doors, out);
        }
        if let Some((older, _)) = self.retiring.take() {
            self.past.add(&older.packets.ended());
            out.push(Output::EndListener(older.id));
        }
        // Addresses may have changed while the listener started.
        let addresses = own_addresses(&new.ready.wanted, &network.addresses);
        out.push(Output::SendAddresses(new.id, addresses));
        if let Some(old) = self.current.replace(new) {
            out.send(old.id, ToListener::Stop);
            self.retiring = Some((old, now.boot.plus(RETIRING)));
        }
        self.restart_at = None;
        if why != StartReason::Restart {
            self.restarts = 0;
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

    /// Schedules a restart and returns the pause in seconds: none at first, then longer ones.
    pub(super) fn schedule_restart(&mut self, now: Now) -> u32 {
        let pause = self.restarts.min(LONGEST_PAUSE);
        self.restarts = self.restarts.saturating_add(1);
        self.restart_at = Some(now.boot.plus(pause));
        pause
    }

    /// Looks, at each periodic check, if the same listener is at work: its end will be no repeated
    /// failure.
    pub(super) fn check(&mut self) {
        let current = self.current.as_ref().map(|current| current.id);
        if current.is_some() && current == self.checked {
            self.restarts = 0;
        }
        self.checked = current;
    }

    /// Forgets a listener that ended by itself; true if it was the current one. `how` is for the
    /// status.
    pub(super) fn lose(&mut self, now: Now, id: ListenerId, how: &str) -> bool {
        if let Some((old, _)) = self.retiring.take_if(|(listener, _)| listener.id == id) {
            self.past.add(&old.packets.ended());
        }
        let Some(lost) = self.current.take_if(|listener| listener.id == id) else { return false };
        self.past.add(&lost.packets.ended());
        if self.recent_loss(now).is_none() {
            self.losses = 0;
        }
        self.losses += 1;
        self.last_loss = Some((now, how.to_owned()));
        true
    }

    fn recent_loss(&self, now: Now) -> Option<&(Now, String)> {
        self.last_loss.as_ref().filter(|(at, _)| now.boot < at.boot.plus(LOSS_SHOWN))
    }

    /// A sentence about the listeners that were lost in the last hour.
    pub(super) fn describe_losses(&self, now: Now) -> Option<String> {
        let (at, how) = self.recent_loss(now)?;
        let times = crate::app::output::count(self.losses as usize, "time");
        let at = clock_time(at.wall);
        Some(format!("the listener was lost {times}, last at {at} ({how}), and replaced"))
    }
}

impl RunningListener {
    fn new(
        id: ListenerId, day: u32, prepared: &Arc<Prepared>, clients: &ClientTable,
        ready: ListenerReady,
    ) -> RunningListener {
        let (prepared, clients) = (Arc::clone(prepared), clients.clone());
        RunningListener {
            id,
            prepared,
            clients,
            days: Days { wall: day, newest: day },
            next_slice: None,
            ready,
            packets: ListenerPackets::default(),
        }
    }

    /// What the listener gets of this client on its working day.
    fn known(&self, client: &Client, working_day: u32) -> KnownClient {
        self.prepared.config.keys.known_client(client, working_day)
    }

    /// The tag by which the listener forgets a client.
    fn clockless_tag(&self, id: ClientId) -> [u8; TAG] {
        self.prepared.config.keys.client_secrets(id).invitation_row().clockless_tag()
    }
}
