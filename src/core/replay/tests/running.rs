//! Changes at run time: lost marks, clients that are removed and enrolled again, a clock that was
//! not checked for hours.

use super::*;

#[test]
fn a_state_that_is_found_to_have_lost_marks_makes_every_knock_need_a_challenge() {
    let mut replay = intact();
    assert_eq!(knock(&mut replay, START, START.wall), Seen::Fresh);
    replay.record_loss(at(1).wall);
    assert_eq!(replay.challenge_reason(at(1)), Some(ChallengeReason::Lost(at(1).wall)));
    assert_eq!(knock(&mut replay, at(2), at(2).wall).status(), Some(Status::Challenge));
    assert_eq!(
        knock(&mut replay, at(2), START.wall),
        Seen::Silent(Reject::Replayed, None),
        "marks in memory stay"
    );
}

#[test]
fn a_knock_let_in_by_a_challenge_under_an_untrusted_clock_is_burned_and_raises_no_floor() {
    let mut replay = intact();
    replay.record_loss(START.wall);
    let challenge = knock(&mut replay, START, START.wall).challenge();
    let retry = Wall(START.wall.0 + 1);
    let (outcome, records) =
        seen(replay.check(START, authentic(retry, Some(challenge), home()), false, entropy()));
    assert_eq!(outcome, Seen::Fresh);
    assert_eq!(
        records.first(),
        Some(&Record::Burned { client: CLIENT, first: retry, last: retry })
    );
}

#[test]
fn a_client_that_is_taken_out_and_put_back_within_the_hour_finds_its_used_packets_used() {
    let mut replay = intact();
    assert_eq!(knock(&mut replay, START, START.wall), Seen::Fresh);
    replay.leave(START, CLIENT);
    let forgotten = [Record::Forgotten { client: CLIENT }];
    for (minutes, records) in [(1, &[][..]), (179, &[]), (180, &forgotten), (360, &[])] {
        replay.challenge_reason(at(minutes * 60));
        assert_eq!(replay.forget(at(minutes * 60), |_| false), records, "{minutes} minutes later");
    }
    assert!(replay.clients.is_empty());
}

#[test]
fn a_client_that_came_back_keeps_its_marks_and_so_does_one_with_marks_in_the_future() {
    let late = at(400 * 60);
    let mut replay = intact();
    assert_eq!(knock(&mut replay, START, START.wall), Seen::Fresh);
    replay.leave(START, CLIENT);
    replay.challenge_reason(late);
    assert_eq!(replay.forget(late, |id| id == CLIENT), []);
    assert_eq!(replay.forget(late, |_| false), [], "it never left");
    replay.leave(late, CLIENT);
    replay.clients.get_mut(&CLIENT).unwrap().marks.burn(late.wall, shifted(late.wall, 90_000));
    for hours in [4, 24] {
        let then = at(400 * 60 + hours * 3600);
        replay.challenge_reason(then);
        assert_eq!(replay.forget(then, |_| false), [], "{hours} hours later");
    }
    let then = at(400 * 60 + 30 * 3600);
    replay.challenge_reason(then);
    assert_eq!(replay.forget(then, |_| false).len(), 1);
    replay.leave(then, CLIENT);
    assert!(replay.leaving.is_empty(), "a client without marks");
}

#[test]
fn many_clients_that_left_are_forgotten_a_few_at_a_time() {
    let mut replay = intact();
    for number in 0..1000u32 {
        let id = ClientId(std::array::from_fn(|i| number.to_be_bytes()[i % 4]));
        replay.clients.insert(id, ClientMarks::default());
        replay.leave(START, id);
    }
    let late = at(400 * 60);
    replay.challenge_reason(late);
    let counts = [(); 5].map(|()| replay.forget(late, |_| false).len());
    assert_eq!(counts, [256, 256, 256, 232, 0]);
}

#[test]
fn a_clock_that_drifted_for_hours_unwatched_has_not_jumped_and_one_that_ran_wild_has() {
    for (per_mille, believed) in [(-2, false), (-1, true), (1, true), (2, false)] {
        let hours = at(6 * 3600);
        let looked = intact().challenge_reason(hours);
        assert_eq!(looked, None, "nor are hours alone");
        let off = stepped(hours, 6 * 3600 * per_mille / 1000);
        // Behind what was believed is another doubt: here nothing newer than the start was.
        assert_eq!(
            intact().challenge_reason(off).is_none(),
            believed,
            "{per_mille} seconds in 1000"
        );
    }
}

#[test]
fn the_sizes_of_the_tables_are_reported_with_their_limits() {
    let mut replay = intact();
    assert_eq!(
        replay.tables(),
        [("challenges", 0, challenges::ALL), ("recent", 0, RECENT), ("marks", 0, marks::SEEN)]
    );
    for n in 1..=3 {
        knock(&mut replay, START, Wall(n));
    }
    assert_eq!(replay.tables().map(|(_, held, _)| held), [3, 3, 3]);
}
