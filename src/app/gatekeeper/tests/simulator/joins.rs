//! Joins in the random schedules: three invitations, three keys, an admin who approves and revokes.
//! One key at most gets a place, none two, and nobody hears of it before it is on the disk.

use std::collections::{BTreeMap, BTreeSet};

use super::super::joining::{Applicant, invited, key, welcomed};
use super::super::people::at;
use super::Simulation;
use crate::app::gatekeeper::events::Event;
use crate::core::joining::{Invited, JoinRule, Standing};
use crate::core::knock::{Challenge, Enrolment, Receipt, Status};
use crate::core::test_vectors;
use crate::core::types::{ClientId, SECOND, Wall};
use crate::edge::control::ControlRequest;
use crate::keys::authorized::joined;
use crate::keys::authorized::limits::any_zone;

const INVITATIONS: [ClientId; 3] =
    [ClientId([0xa1; 16]), ClientId([0xa2; 16]), ClientId([0xa3; 16])];
const KEYS: [u8; 3] = [1, 2, 3];

/// One of each kind.
pub(super) fn invitations() -> Vec<Invited> {
    let rules = [JoinRule::Auto, JoinRule::Approval, JoinRule::Only(key(1).fingerprint())];
    let mut rows = Vec::new();
    for ((id, rule), name) in INVITATIONS.into_iter().zip(rules).zip(["dora", "emil", "fred"]) {
        rows.push(invited(id, name, rule));
    }
    rows
}

#[derive(Default)]
pub(super) struct Joins {
    /// What each ticket was for.
    asked: BTreeMap<u64, (Applicant, Enrolment)>,
    /// Knocks that were told that their key is enrolled.
    answered: BTreeSet<(ClientId, u8, Wall)>,
    /// The key that each invitation has enrolled.
    enrolled: BTreeMap<ClientId, u8>,
    challenges: BTreeMap<(ClientId, u8), Challenge>,
}

impl Joins {
    pub(super) fn is_about(&self, ticket: u64) -> bool {
        self.asked.contains_key(&ticket)
    }
}

impl Simulation {
    /// A key asks to join, or somebody sends again what it sent.
    pub(super) fn ask_to_join(&mut self) -> &'static str {
        let Some(listener) = self.listener() else { return "nobody listens" };
        let earlier: Vec<u64> = self.joins.asked.keys().copied().collect();
        let repeats = self.random.one_in(4);
        let (applicant, enrolment) = match self.random.pick(&earlier).filter(|_| repeats) {
            Some(ticket) => self.joins.asked[&ticket],
            None => self.applicant(),
        };
        let mut knock = applicant.handed(&mut self.world, listener, &enrolment);
        if self.random.one_in(20) {
            knock.body[60] ^= 1;
        } else {
            self.joins.asked.insert(knock.ticket, (applicant, enrolment));
        }
        // A listener hands over nothing for a row that it does not have.
        if !self.world.listeners[&listener].clients.contains_key(&applicant.invitation) {
            knock.client = ClientId([0xff; 16]);
        }
        self.world.hand_all(listener, vec![knock]);
        "a key asks to join"
    }

    fn applicant(&mut self) -> (Applicant, Enrolment) {
        let invitation = self.random.pick(&INVITATIONS).unwrap();
        let key = self.random.pick(&KEYS).unwrap();
        let applicant = Applicant { invitation, key, source: [192, 0, 2, 20 + key] };
        self.knocks += 1;
        // Few timestamps: see `request`.
        let second = self.world.second() / 4 * 4;
        let timestamp = Wall(at(second).0 + self.knocks * 1_000_000);
        let challenge = self.joins.challenges.remove(&(invitation, key));
        let enrolment = applicant.enrolment(&self.world);
        (applicant, Enrolment { timestamp, challenge, ..enrolment })
    }

    /// An admin approves a key, or revokes whoever it is, and tells the gateway.
    pub(super) fn edit_joined(&mut self) -> &'static str {
        let now = self.world.now().wall.0 / SECOND;
        let rows = &mut self.world.files.joined;
        let place = self.random.below(rows.len().max(1) as u64);
        let Some(row) = rows.get_mut(usize::try_from(place).unwrap()) else { return "no row" };
        match (row.id(), row.standing.clone()) {
            (Some(id), Standing::Pending(key)) if !self.random.one_in(4) => {
                row.join(test_vectors::master().joined_id(id, &key.ed25519), key);
                row.extend(now);
            }
            _ if self.random.one_in(2) => drop(rows.remove(usize::try_from(place).unwrap())),
            _ => {}
        }
        if self.random.one_in(2) {
            self.world.handle(Event::Hangup);
        } else {
            self.world.ask(ControlRequest::Reload);
        }
        "an admin approves or revokes"
    }

    /// What must be true of each answer to a key that asked.
    pub(super) fn check_join(&mut self, ticket: u64, receipt: &Receipt) {
        let (applicant, Enrolment { timestamp, .. }) = self.joins.asked[&ticket];
        let Applicant { invitation, key: number, .. } = applicant;
        let ledger = self.world.disk.durable_ledger(at(0));
        let is_marked = ledger.marks().any(|(id, marks)| id == invitation && marks.used(timestamp));
        let row = self.world.files.joined.iter().find(|row| row.id() == Some(invitation));
        let own = key(number);
        match receipt.status {
            Status::Enrolled => {
                assert!(is_marked, "enrolled without a durable mark: {applicant:?}");
                let id = welcomed(receipt, &applicant);
                let standing = row.map(|row| row.standing.clone());
                assert_eq!(standing, Some(Standing::Joined(id, own.clone())), "{applicant:?}");
                let client = self.world.gatekeeper.in_force.clients().get(id);
                assert_eq!(client.map(|client| &client.key), Some(&own), "not in force");
                let mut listeners = self.world.listeners.values();
                let told = listeners.find(|listener| listener.verdicts.contains_key(&ticket));
                let knows = told.is_some_and(|listener| listener.clients.contains_key(&id));
                assert!(knows, "the listener does not know whom it tells: {applicant:?}");
                let first = *self.joins.enrolled.entry(invitation).or_insert(number);
                assert_eq!(first, number, "two keys got the place of one invitation");
                let is_new = self.joins.answered.insert((invitation, number, timestamp));
                assert!(is_new, "a used knock was answered again: {applicant:?}");
            }
            Status::Pending => {
                assert!(is_marked, "{applicant:?}");
                let standing = row.map(|row| row.standing.clone());
                assert_eq!(standing, Some(Standing::Pending(own)), "{applicant:?}");
            }
            Status::Taken => {
                let other = row.and_then(Invited::key);
                assert!(other.is_some_and(|other| *other != own), "{applicant:?} {row:?}");
            }
            Status::Denied => {
                let rows = self.world.files.joined.iter();
                let elsewhere = rows.filter(|other| other.id() != Some(invitation));
                let stands = elsewhere.filter_map(Invited::key).any(|key| *key == own);
                let is_other = |row: &Invited| match row.standing {
                    Standing::Open(JoinRule::Only(only)) => only != own.fingerprint(),
                    _ => false,
                };
                assert!(stands || row.is_none_or(is_other), "{applicant:?} {row:?}");
            }
            Status::Clock | Status::Challenge => {
                let challenge = receipt.challenge.expect("to knock once more");
                self.joins.challenges.insert((invitation, number), challenge);
            }
            Status::Trouble => {}
            other => panic!("{other:?} answers nobody who joins"),
        }
    }

    /// Once all has come to rest: the clients in force are those of the files, and a start can read
    /// the file.
    pub(super) fn check_who_is_enrolled(&self) {
        let rows = &self.world.files.joined;
        assert_eq!(joined::parse("joined", &joined::print(rows), &any_zone).as_ref(), Ok(rows));
        let in_force = self.world.gatekeeper.in_force.clients();
        let ids: Vec<ClientId> = in_force.iter().map(|client| client.id).collect();
        let written = self.world.files.clients();
        let expected: Vec<ClientId> = written.iter().map(|client| client.id).collect();
        assert_eq!(ids, expected, "in force, and in the files");
    }
}
