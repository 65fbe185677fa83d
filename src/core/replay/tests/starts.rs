use super::*;

#[test]
fn after_a_first_start_what_was_sent_before_it_needs_a_challenge() {
    let mut replay = Replay::restore(WINDOW, START, &Ledger::default(), StateOrigin::First);
    assert_eq!(knock(&mut replay, at(5), START.wall).status(), Some(Status::Challenge));
    assert_eq!(knock(&mut replay, at(5), Wall(START.wall.0 + 1)), Seen::Fresh);
    // The wall clock steps; how old a packet is against the start is known all the same.
    let mut replay = Replay::restore(WINDOW, START, &Ledger::default(), StateOrigin::First);
    assert_eq!(knock(&mut replay, stepped(at(5), 1), START.wall).status(), Some(Status::Challenge));
}

#[test]
fn after_a_start_what_an_older_state_may_have_forgotten_needs_a_challenge() {
    // Put back from a backup: whole in itself, and without the knocks of the last hour.
    let older = Ledger::of(&[Record::Newest { wall: shifted(START.wall, -3600) }]);
    let mut replay = Replay::restore(WINDOW, START, &older, StateOrigin::Found);
    // Accepted just before the start: of a client whose clock is right, behind, or ahead.
    for age in [0, 29, -9] {
        let told = knock(&mut replay, at(1), shifted(START.wall, -age));
        assert_eq!(told.status(), Some(Status::Challenge), "{age}");
        let retry =
            authentic(Wall(shifted(START.wall, -age).0 + 1), Some(told.challenge()), home());
        assert_eq!(judge(&mut replay, at(1), retry), Seen::Fresh, "{age}");
    }
    assert_eq!(
        knock(&mut replay, at(1), at(11).wall),
        Seen::Fresh,
        "nothing so far ahead was accepted before the start"
    );
    assert_eq!(knock(&mut replay, at(41), at(12).wall), Seen::Fresh);
}

#[test]
fn after_a_loss_only_challenges_count_until_it_is_accepted_and_then_only_newer_knocks() {
    let ledger = Ledger::of(&[Record::Lost { at: START.wall }]);
    let mut replay = Replay::restore(WINDOW, START, &ledger, StateOrigin::Found);
    assert_eq!(replay.challenge_reason(START), Some(ChallengeReason::Lost(START.wall)));
    assert_eq!(knock(&mut replay, at(100), at(100).wall).status(), Some(Status::Challenge));
    let records = replay.reinitialise(at(200));
    assert_eq!(replay.challenge_reason(at(200)), None);
    // A packet of a client whose clock is 9 s ahead, accepted just before the loss.
    assert_eq!(knock(&mut replay, at(201), at(209).wall).status(), Some(Status::Challenge));
    // The clock is set by a second, which is no jump: what counts is how long ago that was by the
    // clock since boot.
    assert_eq!(
        knock(&mut replay, stepped(at(203), 1), at(211).wall).status(),
        Some(Status::Challenge)
    );
    assert_eq!(knock(&mut replay, at(213), at(212).wall), Seen::Fresh);
    let mut restarted = Replay::restore(WINDOW, at(203), &Ledger::of(&records), StateOrigin::Found);
    assert_eq!(
        knock(&mut restarted, at(203), at(208).wall).status(),
        Some(Status::Challenge),
        "also after a restart"
    );
}

#[test]
fn accepting_a_clock_that_was_ahead_brings_it_back_to_the_present() {
    let ledger = Ledger::of(&[Record::Newest { wall: shifted(START.wall, YEAR) }]);
    let mut replay = Replay::restore(WINDOW, START, &ledger, StateOrigin::Found);
    assert!(replay.challenge_reason(START).is_some());
    let mut records = ledger.records();
    records.extend(replay.reinitialise(START));
    assert_eq!(replay.challenge_reason(at(60)), None);
    assert_eq!(Ledger::of(&records).newest(), START.wall);
}

#[test]
fn a_client_taken_out_and_put_back_keeps_its_marks() {
    let mut replay = intact();
    assert_eq!(knock(&mut replay, START, START.wall), Seen::Fresh);
    replay.leave(START, CLIENT);
    assert_eq!(replay.forget(at(1), |_| false), []);
    assert_eq!(knock(&mut replay, at(1), START.wall), Seen::Silent(Reject::Replayed, None));
}

#[test]
fn clients_with_marks_in_the_future_are_named_until_that_is_past() {
    let mut replay = intact();
    assert_eq!(knock(&mut replay, START, shifted(START.wall, 10)), Seen::Fresh);
    assert_eq!(replay.ahead(START).count(), 0, "what is in the window is no news");
    let ahead = shifted(START.wall, YEAR);
    let told = knock(&mut replay, START, ahead);
    assert_eq!(told.status(), Some(Status::Clock));
    assert_eq!(replay.ahead(START).collect::<Vec<_>>(), [(CLIENT, ahead)]);
    let later = Now { wall: ahead, boot: START.boot };
    assert_eq!(replay.ahead(later).count(), 0);
}

#[test]
fn a_used_packet_that_was_forgotten_opens_nothing_and_is_answered_once() {
    let mut replay = intact();
    assert_eq!(knock(&mut replay, START, START.wall), Seen::Fresh);
    let mut ledger = Vec::new();
    for n in 1..100 {
        let fresh = authentic(at(n).wall, None, home());
        ledger.extend(seen(replay.check(at(n), fresh, false, entropy())).1);
    }
    let mut restarted = Replay::restore(WINDOW, at(100), &Ledger::of(&ledger), StateOrigin::Found);
    assert_eq!(knock(&mut restarted, at(100), START.wall).status(), Some(Status::Clock));
    assert_eq!(knock(&mut restarted, at(101), START.wall), Seen::Silent(Reject::Replayed, None));
}
