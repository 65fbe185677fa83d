//! Joining by an invitation: what each key is told, and what a crash leaves.

mod captured;

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::people::Person::{Anna, Bert};
use super::people::at;
use super::world::World;
use crate::app::gatekeeper::events::{Event, Lane, ListenerId};
use crate::core::authentic::{message, public_key, sign};
use crate::core::joining::{AFTER, FIRST, Invited, JoinRule, JoinTerms, OpenInvitation, Standing};
use crate::core::keyring::{Day, Newcomer, Secret, TEST_GATEWAY_ID};
use crate::core::knock::{
    BODY, Enrolment, HandedKnock, KeyScheme, KnockKind, Receipt, Request, SIGNED, Status,
    encode_body,
};
use crate::core::public_key::PublicKey;
use crate::core::test_vectors::{self, INVITATION};
use crate::core::types::{ClientId, Reject, SECOND, ServiceName, Source};
use crate::edge::control::ControlRequest;

const OTHER: ClientId = ClientId(*b"TESTINVITE-NO-02");

pub(super) fn seed(number: u8) -> Secret<32> {
    Secret::new([100 + number; 32])
}

pub(super) fn key(number: u8) -> PublicKey {
    PublicKey::plain(public_key(&seed(number)))
}

pub(super) fn invited(id: ClientId, name: &str, rule: JoinRule) -> Invited {
    Invited {
        invitation: Some(OpenInvitation { id, until: at(0).0 / SECOND + FIRST }),
        terms: JoinTerms {
            name: name.to_owned(),
            services: ["ssh"].iter().filter_map(|name| ServiceName::new(name)).collect(),
            expires: None,
            limits: None,
        },
        standing: Standing::Open(rule),
    }
}

/// A gateway with one invitation, for dora.
fn world(rule: JoinRule) -> World {
    World::with(|files| files.joined = vec![invited(INVITATION, "dora", rule)])
}

/// What somebody with the line of an invitation can do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Applicant {
    pub(super) invitation: ClientId,
    pub(super) key: u8,
    pub(super) source: [u8; 4],
}

const DORA: Applicant = Applicant { invitation: INVITATION, key: 1, source: [192, 0, 2, 20] };
const MALLORY: Applicant = Applicant { invitation: INVITATION, key: 2, source: [192, 0, 2, 66] };

impl Applicant {
    pub(super) fn enrolment(&self, world: &World) -> Enrolment {
        Enrolment {
            invitation: self.invitation,
            receipt_wanted: true,
            timestamp: world.now().wall,
            challenge: None,
            scheme: KeyScheme::Ed25519,
            key: key(self.key).ed25519,
        }
    }

    /// The listener's message about a knock with this body.
    fn knock(&self, world: &mut World, enrolment: &Enrolment) -> HandedKnock {
        let listener = world.listener();
        self.handed(world, listener, enrolment)
    }

    /// The same by a listener of choice.
    pub(super) fn handed(
        &self, world: &mut World, listener: ListenerId, enrolment: &Enrolment,
    ) -> HandedKnock {
        let h = [self.key; 32];
        let signed = enrolment.encode();
        let mut bodies = BODIES.lock().unwrap();
        let body = *bodies.entry((self.key, signed)).or_insert_with(|| {
            let signature = sign(&seed(self.key), &message(TEST_GATEWAY_ID, &h, &signed));
            let gate = test_vectors::secrets(self.invitation).gate(Day::Invited).unwrap();
            encode_body(&signed, &signature, &gate, TEST_GATEWAY_ID, &h)
        });
        HandedKnock {
            ticket: world.ticket(listener),
            client: self.invitation,
            day: Day::Invited,
            h,
            body,
            source: Source::new(self.source.into()),
            source_port: 40_000,
        }
    }

    /// Asks to join; the ticket.
    fn asks(&self, world: &mut World) -> u64 {
        // No two knocks have the same timestamp.
        world.advance(2_000_000);
        let enrolment = self.enrolment(world);
        let knock = self.knock(world, &enrolment);
        hand(world, knock)
    }

    /// Asks, and waits for the answer; `None` for silence.
    fn joins(&self, world: &mut World) -> Option<Receipt> {
        let ticket = self.asks(world);
        world.settle();
        receipt(world, ticket)
    }

    /// Asks, is asked to knock once more, and does; the answer to that.
    fn answers_a_challenge(&self, world: &mut World, mut enrolment: Enrolment) -> Status {
        let knock = self.knock(world, &enrolment);
        let ticket = hand(world, knock);
        world.settle();
        let asked = receipt(world, ticket).unwrap();
        assert!(matches!(asked.status, Status::Clock | Status::Challenge), "{asked:?}");
        enrolment.timestamp.0 += 1_000_000;
        enrolment.challenge = asked.challenge;
        let knock = self.knock(world, &enrolment);
        let ticket = hand(world, knock);
        world.settle();
        receipt(world, ticket).unwrap().status
    }

    fn status(&self, world: &mut World) -> Option<Status> {
        self.joins(world).map(|receipt| receipt.status)
    }
}

fn hand(world: &mut World, knock: HandedKnock) -> u64 {
    let (listener, ticket) = (world.listener(), knock.ticket);
    world.hand_all(listener, vec![knock]);
    ticket
}

fn receipt(world: &World, ticket: u64) -> Option<Receipt> {
    let verdict = world.listeners.values().find_map(|listener| listener.verdicts.get(&ticket));
    *verdict.expect("a verdict")
}

/// Bodies by the number of the key and what it signs.
type Bodies = BTreeMap<(u8, [u8; SIGNED]), [u8; BODY]>;

/// Signing takes time: each body is signed once for all tests.
static BODIES: Mutex<Bodies> = Mutex::new(BTreeMap::new());

/// The client that a receipt makes of the key with this number: its id, if it can open its welcome.
pub(super) fn welcomed(receipt: &Receipt, applicant: &Applicant) -> ClientId {
    let welcome = receipt.welcome.expect("a welcome");
    let gate = test_vectors::secrets(applicant.invitation).gate(Day::Invited).unwrap();
    let to = Newcomer {
        gateway: TEST_GATEWAY_ID,
        client: welcome.client,
        key: key(applicant.key).ed25519,
    };
    let root = gate.open_welcome(&to, &welcome.root).expect("it opens");
    assert_eq!(root.expose(), test_vectors::master().client_root(welcome.client).expose());
    welcome.client
}

/// Who joined opens ssh; the status.
fn knocks(world: &mut World, id: ClientId, applicant: &Applicant) -> Option<Status> {
    world.advance(2_000_000);
    let request = Request {
        receipt_wanted: true,
        timestamp: world.now().wall,
        address: Some(Source::new(applicant.source.into())),
        service: ServiceName::new("ssh").unwrap(),
        ..Request::bare(KnockKind::Open)
    };
    let day = Day::Number(world.now().wall.day());
    let h = [9; 32];
    let signed = request.encode();
    let signature = sign(&seed(applicant.key), &message(TEST_GATEWAY_ID, &h, &signed));
    let gate = test_vectors::secrets(id).gate(day).unwrap();
    let listener = world.listener();
    let knock = HandedKnock {
        ticket: world.ticket(listener),
        client: id,
        day,
        h,
        body: encode_body(&signed, &signature, &gate, TEST_GATEWAY_ID, &h),
        source: Source::new(applicant.source.into()),
        source_port: 40_000,
    };
    let ticket = hand(world, knock);
    world.status(ticket)
}

#[test]
fn who_may_join_at_once_is_a_client_from_the_answer_on_and_the_listener_knows_it() {
    for rule in [JoinRule::Auto, JoinRule::Only(key(1).fingerprint())] {
        let mut world = world(rule);
        let receipt = DORA.joins(&mut world).unwrap();
        assert_eq!(receipt.status, Status::Enrolled);
        let id = welcomed(&receipt, &DORA);
        let listener = &world.listeners[&world.listener()];
        assert!(listener.clients.contains_key(&id) && listener.clients.contains_key(&INVITATION));
        assert_eq!(knocks(&mut world, id, &DORA), Some(Status::Granted));
        assert!(world.said("dora: joined with SHA256:"));
        // Joining and knocking are one person's line.
        let session = world.ask(ControlRequest::Overview);
        let told: serde_json::Value =
            serde_json::from_str(&world.told(session).unwrap().unwrap()).unwrap();
        let lines = told["clients"].as_array().unwrap();
        assert_eq!((lines.len(), &lines[0]["answered"]), (1, &2.into()), "{lines:?}");
        // The invitation opens nothing, with whatever key.
        assert_eq!(knocks(&mut world, INVITATION, &DORA), None);
    }
}

#[test]
fn who_joins_is_told_when_the_enrolment_ends() {
    let expires = at(0).0 / SECOND + 3600;
    let mut world = World::with(|files| {
        let mut row = invited(INVITATION, "dora", JoinRule::Auto);
        row.terms.expires = Some(expires);
        files.joined = vec![row];
    });
    let receipt = DORA.joins(&mut world).unwrap();
    let id = welcomed(&receipt, &DORA);
    assert_eq!(receipt.welcome.unwrap().expires, Some(expires));
    assert_eq!(knocks(&mut world, id, &DORA), Some(Status::Granted));
    let mut forever = self::world(JoinRule::Auto);
    assert_eq!(DORA.joins(&mut forever).unwrap().welcome.unwrap().expires, None);
}

#[test]
fn a_key_that_needs_approval_waits_and_is_in_once_an_admin_has_approved_it() {
    let mut world = world(JoinRule::Approval);
    assert_eq!(DORA.status(&mut world), Some(Status::Pending));
    assert!(
        world.said("asks to join, from 192.0.2.20; if that is dora's key: toctocd client approve")
    );
    world.log.clear();
    assert_eq!(DORA.status(&mut world), Some(Status::Pending));
    assert!(world.log.is_empty(), "its client asks each half minute: {:?}", world.log);
    let id = test_vectors::master().joined_id(INVITATION, &key(1).ed25519);
    world.files.joined[0].join(id, key(1));
    world.ask(ControlRequest::Reload);
    world.settle();
    let receipt = DORA.joins(&mut world).unwrap();
    assert_eq!((receipt.status, welcomed(&receipt, &DORA)), (Status::Enrolled, id));
    assert_eq!(knocks(&mut world, id, &DORA), Some(Status::Granted));
}

#[test]
fn a_second_key_is_told_that_the_place_is_taken_and_the_admin_sees_both() {
    for rule in [JoinRule::Auto, JoinRule::Approval] {
        let mut world = world(rule);
        let first = DORA.status(&mut world);
        let before = world.files.joined.clone();
        assert_eq!(MALLORY.status(&mut world), Some(Status::Taken));
        assert!(world.said("ALARM: two keys had the invitation of dora"));
        assert_eq!(world.files.joined, before);
        world.log.clear();
        assert_eq!(MALLORY.status(&mut world), Some(Status::Taken));
        assert!(!world.said("ALARM"), "once a minute is enough");
        assert_eq!(DORA.status(&mut world), first, "the right one is not disturbed");
    }
}

#[test]
fn a_key_that_is_enrolled_or_not_the_invited_one_is_denied_and_nothing_is_written() {
    let mut world = world(JoinRule::Only(key(1).fingerprint()));
    let before = world.files.joined.clone();
    assert_eq!(MALLORY.status(&mut world), Some(Status::Denied));
    assert_eq!(world.files.joined, before);
    // The key of somebody who waits on another line.
    let mut world = World::with(|files| {
        let waits = invited(OTHER, "emil", JoinRule::Auto);
        files.joined = vec![
            invited(INVITATION, "dora", JoinRule::Auto),
            Invited { standing: Standing::Pending(key(1)), ..waits },
        ];
    });
    assert_eq!(DORA.status(&mut world), Some(Status::Denied));
    assert!(matches!(world.files.joined[0].standing, Standing::Open(_)));
}

#[test]
fn two_keys_in_one_turn_get_the_place_and_a_refusal() {
    let mut world = world(JoinRule::Auto);
    let [one, two] = [(&DORA, 0), (&MALLORY, 1)].map(|(applicant, later)| {
        let mut enrolment = applicant.enrolment(&world);
        enrolment.timestamp.0 += later;
        applicant.knock(&mut world, &enrolment)
    });
    let tickets = [one.ticket, two.ticket];
    let listener = world.listener();
    let syncs = world.disk.syncs();
    world.hand_all(listener, vec![one, two]);
    assert_eq!(world.disk.syncs(), syncs + 1, "one commit for both");
    world.settle();
    let told = tickets.map(|ticket| receipt(&world, ticket).map(|receipt| receipt.status));
    assert_eq!(told, [Some(Status::Enrolled), Some(Status::Taken)]);
}

#[test]
fn the_mark_is_on_disk_before_the_file_and_the_file_before_the_answer() {
    let mut world = world(JoinRule::Auto);
    let ticket = DORA.asks(&mut world);
    assert!(world.waits(ticket) && matches!(world.files.joined[0].standing, Standing::Open(_)));
    let ledger = world.disk.durable_ledger(at(0));
    assert!(ledger.marks().any(|(client, _)| client == INVITATION));
    assert!(world.do_task(Lane::Joining));
    assert!(matches!(world.files.joined[0].standing, Standing::Joined(..)));
    assert_eq!(receipt(&world, ticket).unwrap().status, Status::Enrolled);
}

#[test]
fn killed_at_any_step_the_next_packet_is_told_the_same() {
    for power_failure in [false, true] {
        // After the mark: nobody has joined, and the next packet does.
        let mut world = world(JoinRule::Auto);
        DORA.asks(&mut world);
        world.restart(power_failure);
        assert!(matches!(world.files.joined[0].standing, Standing::Open(_)));
        world.advance(11 * SECOND);
        let receipt = DORA.joins(&mut world).unwrap();
        let id = welcomed(&receipt, &DORA);
        // After the file: a start reads it, and the same key gets the same answer.
        world.restart(power_failure);
        world.advance(11 * SECOND);
        assert_eq!(knocks(&mut world, id, &DORA), Some(Status::Granted));
        let again = DORA.joins(&mut world).unwrap();
        assert_eq!((again.status, welcomed(&again, &DORA)), (Status::Enrolled, id));
    }
}

#[test]
fn a_lost_answer_costs_nothing_and_a_used_packet_is_met_with_silence() {
    let mut world = world(JoinRule::Auto);
    let enrolment = DORA.enrolment(&world);
    let knock = DORA.knock(&mut world, &enrolment);
    let ticket = hand(&mut world, knock.clone());
    world.settle();
    let first = receipt(&world, ticket).unwrap();
    let copy = HandedKnock { ticket: world.ticket(world.listener()), ..knock };
    let copied = hand(&mut world, copy);
    world.settle();
    assert_eq!(receipt(&world, copied), None);
    let again = DORA.joins(&mut world).unwrap();
    assert_eq!(again.welcome, first.welcome, "the same answer, byte for byte");
}

#[test]
fn a_file_that_cannot_be_written_or_hangs_means_trouble_and_the_next_packet_joins() {
    let mut world = world(JoinRule::Auto);
    let ticket = DORA.asks(&mut world);
    assert!(world.fail_task(Lane::Joining));
    assert_eq!(receipt(&world, ticket).unwrap().status, Status::Trouble);
    assert!(world.said("nobody joined: it came to nothing"));
    // A task that hangs: a reload does not wait for it, and its late result changes nothing.
    let ticket = DORA.asks(&mut world);
    let late = world.take_report(Lane::Joining);
    world.advance(5 * SECOND);
    assert_eq!(receipt(&world, ticket).unwrap().status, Status::Trouble);
    let admin = world.ask(ControlRequest::Reload);
    world.settle();
    assert!(world.told(admin).unwrap().is_ok());
    let clients = world.gatekeeper.in_force.clients().clone();
    world.handle(late);
    assert!(world.gatekeeper.in_force.clients().is_same(&clients));
    assert_eq!(DORA.status(&mut world), Some(Status::Enrolled));
}

#[test]
fn nobody_joins_while_no_mark_can_be_written() {
    let mut world = world(JoinRule::Auto);
    world.disk.set_broken(true);
    let ticket = DORA.asks(&mut world);
    assert_eq!(receipt(&world, ticket), None);
    assert!(world.tasks.iter().all(|(_, task)| task.lane() != Lane::Joining));
    assert!(matches!(world.files.joined[0].standing, Standing::Open(_)));
}

#[test]
fn a_join_waits_for_a_reload_and_a_reload_for_a_join() {
    let mut world = world(JoinRule::Auto);
    world.ask(ControlRequest::Reload);
    let ticket = DORA.asks(&mut world);
    assert!(world.tasks.iter().all(|(_, task)| task.lane() != Lane::Joining));
    world.settle();
    let id = welcomed(&receipt(&world, ticket).unwrap(), &DORA);
    DORA.asks(&mut world);
    let admin = world.ask(ControlRequest::Reload);
    assert!(world.tasks.iter().all(|(_, task)| task.lane() == Lane::Joining), "it waits");
    world.settle();
    assert!(world.told(admin).unwrap().is_ok());
    assert_eq!(knocks(&mut world, id, &DORA), Some(Status::Granted));
}

#[test]
fn a_reload_with_a_new_listener_keeps_who_has_joined_meanwhile() {
    let mut world = world(JoinRule::Auto);
    let id = welcomed(&DORA.joins(&mut world).unwrap(), &DORA);
    world.new_config();
    world.ask(ControlRequest::Reload);
    world.settle();
    assert_eq!(knocks(&mut world, id, &DORA), Some(Status::Granted));
}

#[test]
fn a_revocation_takes_client_and_invitation_in_one() {
    let mut world = world(JoinRule::Auto);
    let id = welcomed(&DORA.joins(&mut world).unwrap(), &DORA);
    assert_eq!(knocks(&mut world, id, &DORA), Some(Status::Granted));
    world.files.joined.clear();
    world.ask(ControlRequest::Reload);
    world.settle();
    let listener = &world.listeners[&world.listener()];
    assert!(!listener.clients.contains_key(&id) && !listener.clients.contains_key(&INVITATION));
    assert_eq!(knocks(&mut world, id, &DORA), None);
    assert_eq!(DORA.status(&mut world), None);
}

#[test]
fn an_older_file_put_back_opens_the_invitation_again_and_approval_still_stands_before_it() {
    let mut world = world(JoinRule::Approval);
    let older = world.files.joined.clone();
    assert_eq!(DORA.status(&mut world), Some(Status::Pending));
    let id = test_vectors::master().joined_id(INVITATION, &key(1).ed25519);
    world.files.joined[0].join(id, key(1));
    world.ask(ControlRequest::Reload);
    world.settle();
    assert_eq!(knocks(&mut world, id, &DORA), Some(Status::Granted));
    world.files.joined = older;
    world.ask(ControlRequest::Reload);
    world.settle();
    assert_eq!(knocks(&mut world, id, &DORA), None, "the file names her no more");
    assert_eq!(MALLORY.status(&mut world), Some(Status::Pending));
    assert_eq!(world.files.joined[0].standing, Standing::Pending(key(2)), "and nothing more");
    assert_eq!(DORA.status(&mut world), Some(Status::Taken), "the admin sees both");
    assert!(world.said("ALARM: two keys had the invitation of dora"));
}

#[test]
fn after_its_time_an_invitation_is_met_with_silence_and_a_clock_set_back_revives_it_for_nobody() {
    let mut world = world(JoinRule::Auto);
    world.set_clock(FIRST * SECOND);
    assert_eq!(DORA.status(&mut world), None);
    world.jump(-60);
    assert_eq!(DORA.status(&mut world), None);
    assert!(matches!(world.files.joined[0].standing, Standing::Open(_)));
}

#[test]
fn who_asked_in_time_hears_the_answer_for_a_week() {
    let mut world = world(JoinRule::Approval);
    assert_eq!(DORA.status(&mut world), Some(Status::Pending));
    world.set_clock((AFTER - 10) * SECOND);
    assert_eq!(DORA.status(&mut world), Some(Status::Pending));
    world.set_clock(20 * SECOND);
    assert_eq!(DORA.status(&mut world), None);
}

#[test]
fn a_clock_that_is_wrong_costs_a_challenge_and_no_more() {
    for seconds in [-3600, 3600] {
        let mut world = world(JoinRule::Auto);
        let mut enrolment = DORA.enrolment(&world);
        enrolment.timestamp.0 =
            enrolment.timestamp.0.saturating_add_signed(seconds * 1_000_000_000);
        assert_eq!(DORA.answers_a_challenge(&mut world, enrolment), Status::Enrolled);
    }
}

#[test]
fn after_the_clock_was_set_back_the_week_counts_from_the_newest_time() {
    let mut world = world(JoinRule::Auto);
    world.set_clock(7200 * SECOND);
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    let newest = world.now().wall.0 / SECOND;
    world.jump(-3600);
    let enrolment = DORA.enrolment(&world);
    assert_eq!(DORA.answers_a_challenge(&mut world, enrolment), Status::Enrolled);
    let until = world.files.joined[0].invitation.unwrap().until;
    assert!((newest + AFTER..newest + AFTER + 60).contains(&until), "{until} {newest}");
}

#[test]
fn no_listener_is_ever_given_keys_of_days_of_an_invitation() {
    let mut world = World::with(|files| {
        files.joined = vec![invited(INVITATION, "dora", JoinRule::Auto)];
        files.engines = true;
    });
    // In every way that a row comes to a listener: the start, a challenge, midnight, a restart.
    let mut enrolment = DORA.enrolment(&world);
    enrolment.timestamp.0 -= 3600 * SECOND;
    let knock = DORA.knock(&mut world, &enrolment);
    let ticket = hand(&mut world, knock);
    assert_eq!(receipt(&world, ticket).unwrap().status, Status::Clock);
    for _ in 0..3 {
        world.advance(6 * 3600 * SECOND);
    }
    let day_of = |world: &World| world.listeners[&world.listener()].clients[&INVITATION];
    assert_eq!(world.listeners[&world.listener()].clients[&Anna.id()], world.now().wall.day());
    assert_eq!(day_of(&world), 0, "0 stands for none");
}

#[test]
fn nobody_joins_after_the_end_has_begun() {
    let mut world = world(JoinRule::Auto);
    DORA.asks(&mut world);
    world.handle(Event::Terminate);
    world.settle();
    assert!(world.is_over());
}
