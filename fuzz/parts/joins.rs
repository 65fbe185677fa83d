//! Joins in the fuzz target `gateway`: two invitations, three keys, an admin. One key at most gets
//! the place of an invitation, with a fresh packet that it signed for that invitation.

use std::collections::{BTreeMap, HashSet};

use super::{MadePacket, World, entropy, policy, seed_of, source};
use toctoc::core::authentic::{self, AuthenticEnrolment};
use toctoc::core::engine::KnownClient;
use toctoc::core::joining::{
    self, Asking, FIRST, Invited, JoinAnswer, JoinRule, JoinTerms, OpenInvitation, Standing,
};
use toctoc::core::keyring::{Day, Secret};
use toctoc::core::knock::{Challenge, Enrolment, HandedKnock, KeyScheme, SIGNED, encode_body};
use toctoc::core::ledger::Ledger;
use toctoc::core::policy::{Committed, Decision, commit};
use toctoc::core::public_key::PublicKey;
use toctoc::core::test_vectors::{self, NOON};
use toctoc::core::types::{ClientId, Fault, Reject, SECOND, Source, Wall};
use toctoc::core::wire::{seal, seal_body};

const INVITATIONS: [ClientId; 2] = [ClientId([0xa1; 16]), ClientId([0xa2; 16])];
const KEYS: usize = 3;

/// The file `joined`, and what must be true of what became of it.
pub struct Joins {
    pub rows: Vec<Invited>,
    /// What each key really signed, and what of it was used.
    signed: HashSet<(ClientId, [u8; 32], [u8; SIGNED])>,
    used: HashSet<[u8; SIGNED]>,
    /// The key that has the place.
    enrolled: BTreeMap<ClientId, PublicKey>,
}

impl Joins {
    pub fn new() -> Joins {
        let mut rows = Vec::new();
        for (id, rule) in INVITATIONS.into_iter().zip([JoinRule::Auto, JoinRule::Approval]) {
            rows.push(Invited {
                invitation: Some(OpenInvitation { id, until: NOON.0 / SECOND + FIRST }),
                terms: JoinTerms {
                    name: id.to_string(),
                    services: [].into(),
                    expires: None,
                    limits: None,
                },
                standing: Standing::Open(rule),
            });
        }
        Joins { rows, signed: HashSet::new(), used: HashSet::new(), enrolled: BTreeMap::new() }
    }

    /// What the listener has of the invitations.
    pub fn known(&self) -> impl Iterator<Item = KnownClient> {
        self.rows.iter().filter_map(Invited::id).map(|client| {
            let keys = test_vectors::secrets(client).invitation_row();
            KnownClient { client, keys }
        })
    }
}

fn key(number: usize) -> PublicKey {
    PublicKey::plain(authentic::public_key(&seed_of(10 + number)))
}

impl World {
    /// A key asks to join, mostly as the client program does.
    pub fn ask_to_join(&mut self, a: u8, b: u8, c: u8) {
        self.counter += 1;
        let invitation = INVITATIONS[usize::from(a & 1)];
        let number = usize::from(a >> 1) % KEYS;
        let from = source(c);
        let off = [0, 0, 5, 45, 100_000][usize::from(b & 7) % 5] * SECOND;
        let now = self.now.wall.0;
        let wall = if b & 8 == 0 { now.saturating_sub(off) } else { now.saturating_add(off) };
        let own = self.given.iter().rev().find(|(_, to)| *to == (invitation, from));
        let challenge = own.filter(|_| b & 16 != 0).map(|(challenge, _)| *challenge);
        let enrolment = Enrolment {
            invitation,
            receipt_wanted: true,
            timestamp: Wall(wall.saturating_add(self.counter)),
            challenge,
            scheme: KeyScheme::Ed25519,
            key: key(number).ed25519,
        };
        let side = test_vectors::side(invitation);
        let signed = enrolment.encode();
        let ephemeral = Secret::new(entropy(self.counter));
        let before = self.joins.used.len();
        match b >> 5 {
            // Signed by another key; or for the other invitation, by its owner's line.
            6 | 7 => {
                let other = INVITATIONS[usize::from(!a & 1)];
                let bytes = match b >> 5 {
                    6 => signed,
                    _ => Enrolment { invitation: other, ..enrolment }.encode(),
                };
                let signer = if b >> 5 == 6 { number + 1 } else { number };
                let wire = side.secrets.wire(Day::Invited).expect("an invitation has it");
                let gate = side.secrets.gate(Day::Invited).expect("an invitation has it");
                let body = |h: &[u8; 32]| {
                    let message = authentic::message(side.gateway, h, &bytes);
                    let signature = authentic::sign(&seed_of(10 + signer), &message);
                    encode_body(&bytes, &signature, &gate, side.gateway, h)
                };
                let made = seal_body(&side, &wire, ephemeral, body).expect("valid keys");
                self.deliver(&made, from);
                assert_eq!(self.joins.used.len(), before, "a forged packet was used");
            }
            _ => {
                let sign = |message: &authentic::Message| {
                    Ok(authentic::sign(&seed_of(10 + number), message))
                };
                let made = seal(&side, &signed, Day::Invited, ephemeral, sign);
                let (datagram, _) = made.expect("the test gateway's key is valid");
                self.joins.signed.insert((invitation, key(number).ed25519, signed));
                let request = test_vectors::request(self.now.wall);
                self.made.push(MadePacket { datagram, request });
                self.deliver(&datagram, from);
            }
        }
    }

    /// Decides as the gatekeeper does, with the file at once. True if the packet is used up.
    pub fn decide_join(&mut self, knock: &HandedKnock, fresh: [u8; 16]) -> bool {
        let (invitation, from) = (knock.client, knock.source);
        let Some(gate) = test_vectors::secrets(invitation).gate(knock.day) else { return false };
        let gateway = test_vectors::gateway().gateway;
        let Ok(enrolment) = AuthenticEnrolment::verify(knock, gateway, &gate) else { return false };
        let distrusted = self.replay.challenge_reason(self.now).is_some();
        let decision = self.policy.decide_enrolment(self.now, enrolment, &mut self.replay, fresh);
        if let Decision::Refuse(refused) = decision {
            return refused.reject == Reject::Replayed;
        }
        let fails = std::mem::take(&mut self.commit_fails);
        let journal = &mut self.journal;
        let done = commit(vec![decision], |records| {
            if fails {
                return Err(Fault::new("the disk failed", ""));
            }
            journal.extend_from_slice(records);
            Ok(())
        });
        let Ok(done) = done else {
            self.grants.give_up();
            self.restart(true);
            return true;
        };
        for done in done {
            match done {
                Committed::Join(applicant) => {
                    let bytes: [u8; SIGNED] = *knock.body.first_chunk().expect("a body");
                    let asked = (invitation, applicant.key().ed25519, bytes);
                    assert!(self.joins.signed.contains(&asked), "no such key has signed it");
                    assert!(self.joins.used.insert(bytes), "used twice");
                    self.check_time(&bytes, (invitation, from), distrusted);
                    let ledger = Ledger::of(&self.journal);
                    let mut marks = ledger.marks();
                    assert!(marks.any(|(id, _)| id == invitation), "no mark is on the disk");
                    self.answer(invitation, applicant.key().clone());
                }
                Committed::Tell(reply) => {
                    if let Some(challenge) = reply.challenge {
                        self.challenges.insert(challenge, (invitation, from));
                        self.given.push((challenge, (invitation, from)));
                    }
                }
                _ => panic!("an invitation opens nothing"),
            }
        }
        true
    }

    fn check_time(&mut self, signed: &[u8; SIGNED], who: (ClientId, Source), distrusted: bool) {
        let challenge: Challenge = signed[16..32].try_into().expect("16 bytes");
        if challenge != Challenge::default() {
            let given = self.challenges.remove(&challenge);
            return assert_eq!(given, Some(who), "a challenge of another client");
        }
        assert!(!distrusted, "accepted by a distrusted clock");
        let time = u64::from_be_bytes(signed[8..16].try_into().expect("8 bytes"));
        let age = self.now.wall.since(Wall(time));
        assert!((-10_000_000_000..=30_000_000_000).contains(&age), "accepted at the age of {age}");
    }

    fn answer(&mut self, invitation: ClientId, key: PublicKey) {
        let new_id = test_vectors::master().joined_id(invitation, &key.ed25519);
        let now = self.replay.latest(self.now).0 / SECOND;
        let asking = Asking { invitation, key, new_id, now };
        joining::drop_over(&mut self.joins.rows, now);
        let answer = joining::answer(&mut self.joins.rows, &asking, false);
        if let JoinAnswer::Enrolled(_) = answer {
            let first = self.joins.enrolled.entry(invitation).or_insert(asking.key.clone());
            assert_eq!(*first, asking.key, "two keys got the place of one invitation");
        }
        self.follow_joined();
    }

    /// The admin approves the key that waits, or takes the invitation back.
    pub fn edit_joined(&mut self, a: u8, b: u8) {
        let now = self.replay.latest(self.now).0 / SECOND;
        let place = usize::from(a) % INVITATIONS.len();
        let Some(row) = self.joins.rows.get_mut(place) else { return };
        match (row.id(), row.standing.clone()) {
            (Some(id), Standing::Pending(key)) if b % 4 != 0 => {
                row.join(test_vectors::master().joined_id(id, &key.ed25519), key);
                row.extend(now);
            }
            _ if b % 4 == 0 => drop(self.joins.rows.remove(place)),
            _ => {}
        }
        self.follow_joined();
    }

    /// The file's rows are in force.
    fn follow_joined(&mut self) {
        self.policy = policy(self.enrolled, &self.joins.rows);
        let mut joined = Vec::new();
        for row in &self.joins.rows {
            if let Standing::Joined(id, _) = row.standing {
                joined.push(id);
            }
        }
        joined.into_iter().for_each(|id| self.hand_over(id));
    }

    /// No key stands on two rows, and the rows make a table.
    pub fn check_joins(&self) {
        let keys: Vec<_> = self.joins.rows.iter().filter_map(Invited::key).collect();
        for (place, key) in keys.iter().enumerate() {
            assert!(!keys[..place].contains(key), "a key stands on two rows");
        }
    }
}
