//! Joining while somebody has taken the listener over: what it can send brings nobody in.

use super::*;

#[test]
fn a_listener_that_lies_about_row_kind_or_handshake_brings_nobody_in() {
    let mut world = world(JoinRule::Auto);
    let enrolment = DORA.enrolment(&world);
    let good = DORA.knock(&mut world, &enrolment);
    let as_request = Anna.knock(0, &Anna.request("ssh", 1));
    let mut forged = good.clone();
    forged.body[56] ^= 1;
    for (what, knock, reject) in [
        ("another row", HandedKnock { client: Bert.id(), ..good.clone() }, Reject::Gate),
        (
            "another day",
            HandedKnock { day: Day::Number(at(0).day()), ..good.clone() },
            Reject::Gate,
        ),
        ("as from a client", HandedKnock { day: Day::Unknown, ..good.clone() }, Reject::Syntax),
        ("another handshake", HandedKnock { h: [0; 32], ..good.clone() }, Reject::Gate),
        ("another key", forged, Reject::Gate),
        (
            "a client's knock as an invitation's",
            HandedKnock { client: INVITATION, ..as_request.clone() },
            Reject::Gate,
        ),
        (
            "a client's knock that joins",
            HandedKnock { day: Day::Invited, ..as_request },
            Reject::Gate,
        ),
        ("nobody's row", HandedKnock { client: ClientId([1; 16]), ..good.clone() }, Reject::Policy),
    ] {
        let before = world.gatekeeper.ends.of(reject);
        let ticket = world.ticket(world.listener());
        let ticket = hand(&mut world, HandedKnock { ticket, ..knock });
        world.settle();
        assert_eq!(receipt(&world, ticket), None, "{what}");
        assert_eq!(world.gatekeeper.ends.of(reject), before + 1, "{what}");
    }
    assert!(world.said("ALARM: somebody has the keys that the listener has of dora"));
    assert!(matches!(world.files.joined[0].standing, Standing::Open(_)));
    // A false source does no harm: the right key joins, and the answer goes where the listener
    // says.
    let ticket = world.ticket(world.listener());
    let elsewhere = HandedKnock { ticket, source: Source::new([192, 0, 2, 99].into()), ..good };
    let ticket = hand(&mut world, elsewhere);
    world.settle();
    assert_eq!(receipt(&world, ticket).unwrap().status, Status::Enrolled);
}

#[test]
fn a_signed_key_cannot_be_taken_from_one_invitation_to_another() {
    let mut world = World::with(|files| {
        files.joined = vec![
            invited(INVITATION, "dora", JoinRule::Auto),
            invited(OTHER, "mallory", JoinRule::Auto),
        ];
    });
    // Mallory has an invitation of his own and the listener's keys: he makes the gate MAC for
    // Dora's body and signature under his own invitation.
    let enrolment = DORA.enrolment(&world);
    let honest = DORA.knock(&mut world, &enrolment);
    let gate = test_vectors::secrets(OTHER).gate(Day::Invited).unwrap();
    let mut body = honest.body;
    let (covered, mac) = body.split_at_mut(crate::core::knock::GATED);
    mac.copy_from_slice(&gate.gate_mac(TEST_GATEWAY_ID, &honest.h, covered));
    let stolen = HandedKnock { client: OTHER, body, ..honest };
    let ticket = hand(&mut world, stolen);
    world.settle();
    assert_eq!(receipt(&world, ticket), None);
    assert!(world.files.joined.iter().all(|row| matches!(row.standing, Standing::Open(_))));
}

#[test]
fn keys_that_prove_nothing_and_other_peoples_keys_do_not_join() {
    let mut world = world(JoinRule::Auto);
    let mut neutral = [0; 32];
    neutral[0] = 1;
    for key in [neutral, key(2).ed25519, [0xff; 32]] {
        let enrolment = Enrolment { key, ..DORA.enrolment(&world) };
        let knock = DORA.knock(&mut world, &enrolment);
        let ticket = hand(&mut world, knock);
        world.settle();
        assert_eq!(receipt(&world, ticket), None);
    }
    assert_eq!(world.gatekeeper.ends.of(Reject::Signature), 3);
}
