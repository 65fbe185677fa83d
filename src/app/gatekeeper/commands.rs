//! Commands of doors and services. A start command runs only after the journal knows the stop
//! command; the gatekeeper never blocks on a command. See `core::openings` for what runs when.
//!
//! A grant of a command service counts only once its start command has succeeded; its receipt waits
//! for that. Grants, openings and waiting receipts are reconciled after every event, so code that
//! ends a grant need not deal with commands.

use crate::core::event::EventKind;
use crate::edge::log::LogEvent;
use std::collections::BTreeSet;

use super::Gatekeeper;
use super::events::{ListenerId, Output};
use crate::core::engine::TICKETS;
use crate::core::grants::{GrantEnd, GrantKey};
use crate::core::openings::{
    CommandEnd, JournalledOpening, OpeningAction, OpeningState, Openings, PreparedOpening, START,
    ServiceAddress,
};
use crate::core::policy::Decision;
use crate::core::record::Record;
use crate::core::reply::Reply;
use crate::core::types::{Boot, Now, Reject};

/// The openings, and the replies that wait for a start command.
pub(super) struct Commands {
    openings: Openings,
    waiting: Vec<WaitingReply>,
    /// The openings with a running command.
    running: BTreeSet<u64>,
}

/// A reply that waits for a start command.
struct WaitingReply {
    /// The listener that holds the ticket.
    listener: ListenerId,
    ticket: u64,
    reply: Reply,
    key: GrantKey,
    place: ServiceAddress,
    until: Boot,
}

impl Commands {
    pub(super) fn new(openings: Openings) -> Commands {
        Commands { openings, waiting: Vec::new(), running: BTreeSet::new() }
    }

    pub(super) fn openings(&mut self) -> &mut Openings {
        &mut self.openings
    }

    pub(super) fn knows(&self, id: u64) -> bool {
        self.openings.knows(id)
    }

    /// True if no command is running.
    pub(super) fn are_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// The next moment at which a reply or a command is due.
    pub(super) fn deadline(&self) -> Option<Boot> {
        let replies = self.waiting.iter().map(|one| one.until);
        replies.chain(self.openings.deadline()).min()
    }

    /// The grants whose start command takes too long. Their clients are told that nothing was
    /// granted, so the grants must not stay.
    fn too_slow(&self, now: Now) -> BTreeSet<GrantKey> {
        let mut keys = BTreeSet::new();
        for one in self.waiting.iter().filter(|one| one.until <= now.boot) {
            if self.openings.state_of(&one.place) == OpeningState::Starting {
                keys.insert(one.key);
            }
        }
        keys
    }

    /// Takes out the replies that need not wait any longer.
    fn ready(&mut self, now: Now) -> Vec<WaitingReply> {
        let mut ready = Vec::new();
        for one in std::mem::take(&mut self.waiting) {
            let starting = self.openings.state_of(&one.place) == OpeningState::Starting;
            if starting && now.boot < one.until {
                self.waiting.push(one);
            } else {
                ready.push(one);
            }
        }
        ready
    }
}

impl Gatekeeper {
    /// Prepares the openings that these decisions need: one for each service address that has none.
    pub(super) fn openings_for(
        &mut self, now: Now, decisions: &[Decision],
    ) -> Vec<PreparedOpening> {
        let places: BTreeSet<ServiceAddress> =
            decisions.iter().filter_map(Decision::place).collect();
        let mut openings = Vec::new();
        for place in places {
            let Some(commands) = self.policy.commands(place.service) else { continue };
            match self.commands.openings.acquire(now, place, commands) {
                Ok(opening) => openings.extend(opening),
                // Without an opening the reply reports trouble.
                Err(refused) => {
                    let text = refused.text().unwrap_or_default();
                    self.out.tell_at_most("hold", 10, LogEvent::new(EventKind::Limit, text));
                }
            }
        }
        openings
    }

    /// Runs the start commands of openings that are in the journal.
    pub(super) fn begin(&mut self, now: Now, openings: Vec<JournalledOpening>) {
        let mut actions = Vec::new();
        for opening in openings {
            self.commands.openings.begin(now, opening, &mut actions);
        }
        self.execute(actions);
    }

    /// Keeps the reply until the start command has ended. The limit is more than an honest listener
    /// can ask for; only a compromised one exceeds it. Beyond the limit the grant stands and no
    /// reply is sent.
    pub(super) fn reply_later(
        &mut self, now: Now, listener: ListenerId, ticket: u64, reply: Reply,
    ) {
        let Some(grant) = reply.granted else { return };
        let Some(place) = grant.place() else { return };
        if self.commands.waiting.len() < 2 * TICKETS {
            let until = now.boot.plus(START);
            self.commands.waiting.push(WaitingReply {
                listener,
                ticket,
                reply,
                key: grant.key,
                place,
                until,
            });
        } else {
            self.ends.answered(&reply);
        }
    }

    /// Handles the end of a command, or a command that could not be started.
    pub(super) fn command_ended(&mut self, now: Now, id: u64, end: CommandEnd) {
        self.commands.running.remove(&id);
        let mut actions = Vec::new();
        self.commands.openings.ended(now, id, end, &mut actions);
        self.execute(actions);
        // A command that could not be started is tried again later, when it is due.
        if self.ending.is_some() && end != CommandEnd::NotNow {
            self.stop_all_commands(now);
        }
    }

    pub(super) fn run_due_commands(&mut self, now: Now) {
        let mut actions = Vec::new();
        self.commands.openings.due(now, &mut actions);
        self.execute(actions);
    }

    /// Runs all stop commands now instead of when they are due: no gatekeeper would be left to run
    /// them on time.
    pub(super) fn stop_all_commands(&mut self, now: Now) {
        self.commands.waiting.clear();
        let mut actions = Vec::new();
        self.commands.openings.release_all(now, &mut actions);
        self.commands.openings.all_due(now, &mut actions);
        self.execute(actions);
    }

    /// Carries out the actions, in order.
    fn execute(&mut self, actions: Vec<OpeningAction>) {
        for action in actions {
            match action {
                OpeningAction::Run(job) => {
                    self.commands.running.insert(job.id);
                    self.out.push(Output::Run(job));
                }
                OpeningAction::Kill(id) => self.out.push(Output::Kill(id)),
                // If this record is lost, the stop command runs once more at the next start. Twice
                // is better than never.
                OpeningAction::Forget(id) => self.journal.defer(&[Record::Stopped { id }]),
                OpeningAction::Note(note) => {
                    self.out.log(EventKind::Command, note.text(|_, ip| ip.to_string()))
                }
            }
        }
    }

    /// Reconciles grants, openings and replies: sends the replies that are ready, ends the grants
    /// whose start command failed, and closes the openings that no grant needs. Looks only at the
    /// service addresses where something has changed.
    pub(super) fn settle_commands(&mut self, now: Now) {
        for key in self.commands.too_slow(now) {
            self.end_unopened(now, key);
        }
        let mut changed = self.grants.take_touched();
        changed.extend(self.commands.openings.take_failed());
        let mut actions = Vec::new();
        for place in changed {
            if self.commands.openings.state_of(&place) == OpeningState::Gone {
                for key in self.grants.at(&place) {
                    self.end_unopened(now, key);
                }
            } else if !self.grants.is_held(&place) {
                self.commands.openings.release(now, &place, &mut actions);
            }
        }
        self.execute(actions);
        for one in self.commands.ready(now) {
            self.reply_now(now, one);
        }
    }

    fn end_unopened(&mut self, now: Now, key: GrantKey) {
        // The journal holds only the opening, and the kernel holds nothing of this grant.
        self.grants.end(now, &[key], GrantEnd::Revoked);
        let (holder, service, who) = (self.in_force.holder(key.holder), key.service, key.who());
        let text = format!(
            "{holder}: {service} of {who} ended: its start command failed, or took longer than {START} s"
        );
        let event = LogEvent::new(EventKind::Ended, text).client(holder).service(service);
        self.out.tell(event.address(who).reason("command").failed());
    }

    fn reply_now(&mut self, now: Now, one: WaitingReply) {
        let active = self.grants.of(&one.key).copied().filter(|grant| grant.seconds_left(now) > 0);
        let reply = match (self.commands.openings.state_of(&one.place), active) {
            (OpeningState::Open, Some(grant)) => Reply { granted: Some(grant), ..one.reply },
            _ => {
                self.ends.reject(Reject::Command);
                one.reply.trouble()
            }
        };
        // If the listener is gone, the verdict is dropped.
        self.give_verdict(now, one.listener, one.ticket, &reply);
    }
}
