use super::*;
use crate::core::knock::Request;
use crate::core::test_vectors::{self, CLIENT, NOON};

mod running;
mod simulation;
mod starts;

const WINDOW: Window = Window { max_age: 30, max_ahead: 10 };
const START: Now = Now { wall: NOON, boot: Boot(1000 * SECOND) };
const YEAR: i64 = 365 * 86_400;

fn home() -> Source {
    test_vectors::address()
}

fn elsewhere() -> Source {
    Source::new("198.51.100.66".parse().unwrap())
}

/// `seconds` after the start by both clocks.
fn at(seconds: u32) -> Now {
    Now { wall: START.wall.plus(seconds), boot: START.boot.plus(seconds) }
}

/// The wall clock stepped by so many seconds, the boot clock not.
fn stepped(now: Now, seconds: i64) -> Now {
    Now { wall: shifted(now.wall, seconds), ..now }
}

fn shifted(wall: Wall, seconds: i64) -> Wall {
    Wall(wall.0.checked_add_signed(seconds * 1_000_000_000).unwrap())
}

/// A gateway that has run for a while.
fn intact() -> Replay {
    let begin = Now { wall: shifted(START.wall, -900), boot: Boot(START.boot.0 - 900 * SECOND) };
    Replay::restore(WINDOW, begin, &Ledger::default(), StateOrigin::Found)
}

fn authentic(timestamp: Wall, challenge: Option<Challenge>, source: Source) -> Authentic {
    let request = Request { challenge, ..test_vectors::request(timestamp) };
    Authentic::for_test(CLIENT, request, source, 40_000)
}

/// Entropy that never comes twice in one test.
fn entropy() -> [u8; 16] {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let mut entropy = [7; 16];
    entropy[..8].copy_from_slice(&COUNT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    entropy
}

#[derive(Debug, PartialEq, Clone, Copy)]
enum Seen {
    Fresh,
    Told(Status, Challenge),
    Silent(Reject, Option<Alarm>),
}

impl Seen {
    fn challenge(self) -> Challenge {
        let Seen::Told(_, challenge) = self else { panic!("{self:?} holds no challenge") };
        challenge
    }

    fn status(self) -> Option<Status> {
        if let Seen::Told(status, _) = self { Some(status) } else { None }
    }
}

fn judge(replay: &mut Replay, now: Now, authentic: Authentic) -> Seen {
    seen(replay.check(now, authentic, false, entropy())).0
}

fn seen(judgement: ReplayDecision) -> (Seen, Vec<Record>) {
    match judgement {
        ReplayDecision::Fresh(fresh) => (Seen::Fresh, fresh.records),
        ReplayDecision::Reply(pending) => (
            Seen::Told(
                pending.reply.status,
                pending.reply.challenge.expect("every reply has a challenge"),
            ),
            pending.records,
        ),
        ReplayDecision::Refused(refused) => {
            (Seen::Silent(refused.reject, refused.alarm), Vec::new())
        }
    }
}

fn knock(replay: &mut Replay, now: Now, timestamp: Wall) -> Seen {
    judge(replay, now, authentic(timestamp, None, home()))
}

#[test]
fn the_window_is_from_30_s_old_to_10_s_ahead_both_included() {
    for (age, status) in [
        (30 * 1_000_000_000, None),
        (-10 * 1_000_000_000, None),
        (30 * 1_000_000_000 + 1, Some(Status::Clock)),
        (-10 * 1_000_000_000 - 1, Some(Status::Clock)),
    ] {
        let timestamp = Wall(START.wall.0.checked_add_signed(-age).unwrap());
        let outcome = knock(&mut intact(), START, timestamp);
        assert_eq!(outcome.status(), status, "{age}");
        assert_eq!(outcome == Seen::Fresh, status.is_none(), "{age}");
    }
}

#[test]
fn a_used_packet_is_met_with_silence_and_from_elsewhere_with_an_alarm() {
    let mut replay = intact();
    assert_eq!(knock(&mut replay, START, START.wall), Seen::Fresh);
    assert_eq!(knock(&mut replay, at(1), START.wall), Seen::Silent(Reject::Replayed, None));
    let alarm = Alarm { client: CLIENT, first: home(), again: elsewhere() };
    let again = judge(&mut replay, at(2), authentic(START.wall, None, elsewhere()));
    assert_eq!(again, Seen::Silent(Reject::Replayed, Some(alarm)));
}

#[test]
fn fifty_parallel_knocks_in_any_order_are_all_fresh() {
    let mut replay = intact();
    let mut order: Vec<u32> = (0..50).collect();
    order.sort_by_key(|n| n * 37 % 50);
    for n in order {
        let timestamp = Wall(START.wall.0 - u64::from(n) * 1_000_003);
        assert_eq!(knock(&mut replay, START, timestamp), Seen::Fresh, "{n}");
    }
}

#[test]
fn two_devices_on_one_key_with_clocks_eight_seconds_apart_do_not_disturb_each_other() {
    let mut replay = intact();
    for second in 0..60 {
        let now = at(second * 10);
        assert_eq!(knock(&mut replay, now, now.wall), Seen::Fresh, "{second}");
        assert_eq!(knock(&mut replay, now, shifted(now.wall, 8)), Seen::Fresh, "{second}");
    }
}

#[test]
fn a_knock_outside_the_window_is_burned_answered_once_and_fresh_with_its_challenge() {
    for wrong in [-YEAR, -31, 11, YEAR] {
        let mut replay = intact();
        let early = shifted(START.wall, wrong);
        let (told, records) =
            seen(replay.check(START, authentic(early, None, home()), false, entropy()));
        assert_eq!(told.status(), Some(Status::Clock));
        // What was ahead may have been sent before too: it counts no more either.
        let first = if wrong > 0 { shifted(START.wall, -30) } else { early };
        let burned = Record::Burned { client: CLIENT, first, last: early };
        assert_eq!(records.first(), Some(&burned));
        assert_eq!(
            knock(&mut replay, at(1), early),
            Seen::Silent(Reject::Replayed, None),
            "answered once"
        );
        let retry = Wall(early.0 + 5);
        let challenge = told.challenge();
        assert_eq!(
            judge(&mut replay, at(1), authentic(retry, Some(challenge), home())),
            Seen::Fresh
        );
        assert_eq!(
            judge(&mut replay, at(2), authentic(retry, Some(challenge), home())),
            Seen::Silent(Reject::Replayed, None)
        );
    }
}

#[test]
fn a_packet_from_the_future_is_not_fresh_when_its_time_has_come() {
    let mut replay = intact();
    let later = START.wall.plus(3600);
    assert_eq!(knock(&mut replay, START, later).status(), Some(Status::Clock));
    assert_eq!(knock(&mut replay, at(3600), later), Seen::Silent(Reject::Replayed, None));
}

#[test]
fn a_challenged_packet_from_the_future_is_not_fresh_when_its_time_has_come_even_after_a_restart() {
    let mut replay = intact();
    let later = START.wall.plus(3600);
    let challenge = knock(&mut replay, START, later).challenge();
    let request = authentic(Wall(later.0 + 1), Some(challenge), home());
    let (outcome, records) = seen(replay.check(START, request, false, entropy()));
    assert_eq!(outcome, Seen::Fresh);
    let mut restarted =
        Replay::restore(WINDOW, at(3600), &Ledger::of(&records), StateOrigin::Found);
    let again =
        judge(&mut restarted, at(3600), authentic(Wall(later.0 + 1), Some(challenge), home()));
    assert_eq!(again, Seen::Silent(Reject::Replayed, None));
}

#[test]
fn a_challenge_is_for_one_client_at_one_address_once_and_for_20_s() {
    let mut replay = intact();
    let late = |n: u64| Wall(NOON.0 - 1_000_000_000_000 + n);
    let challenge = knock(&mut replay, START, late(0)).challenge();
    let from_elsewhere =
        judge(&mut replay, START, authentic(late(1), Some(challenge), elsewhere()));
    assert_eq!(from_elsewhere.status(), Some(Status::Challenge));
    let other = Authentic::for_test(
        ClientId([9; 16]),
        Request { challenge: Some(challenge), ..test_vectors::request(late(2)) },
        home(),
        1,
    );
    assert_eq!(judge(&mut replay, START, other).status(), Some(Status::Challenge));
    assert_eq!(
        judge(&mut replay, at(19), authentic(late(3), Some(challenge), home())),
        Seen::Fresh
    );
    let again = judge(&mut replay, at(19), authentic(late(4), Some(challenge), home()));
    assert_eq!(again.status(), Some(Status::Challenge), "spent");
    let stale = again.challenge();
    assert_eq!(
        judge(&mut replay, at(39), authentic(late(5), Some(stale), home())).status(),
        Some(Status::Challenge)
    );
}

#[test]
fn a_dead_challenge_is_not_made_up_for_by_a_good_timestamp() {
    let mut replay = intact();
    let outcome = judge(&mut replay, START, authentic(START.wall, Some([3; 16]), home()));
    assert_eq!(outcome.status(), Some(Status::Challenge));
}

#[test]
fn a_client_holds_few_challenges_and_all_clients_together_a_bounded_number() {
    let mut replay = intact();
    let first: Vec<Challenge> =
        (0..65).map(|n| knock(&mut replay, START, Wall(n + 1)).challenge()).collect();
    let spend = |replay: &mut Replay, n: usize| {
        judge(replay, START, authentic(Wall(1000 + n as u64), Some(first[n]), home()))
            == Seen::Fresh
    };
    assert!((1..65).all(|n| spend(&mut replay, n)));
    assert!(!spend(&mut replay, 0), "the 65th voided the first");
    let mut challenges = Challenges::default();
    for n in 0..5000u32 {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&n.to_be_bytes());
        let given = challenges.give(Boot(1), ClientId(id), home(), entropy());
        assert!(given.is_some());
    }
    let mut last = [0; 16];
    last[..4].copy_from_slice(&4999u32.to_be_bytes());
    assert_eq!(challenges.len(), challenges::ALL);
    assert_eq!(challenges.give(Boot(1), CLIENT, home(), [0; 16]), None, "no entropy, no challenge");
}

#[test]
fn a_service_may_demand_a_challenge_of_a_knock_that_is_in_time() {
    let mut replay = intact();
    let told = seen(replay.check(START, authentic(START.wall, None, home()), true, entropy())).0;
    assert_eq!(told.status(), Some(Status::Challenge));
    let retry = authentic(Wall(START.wall.0 + 1), Some(told.challenge()), home());
    assert_eq!(seen(replay.check(START, retry, true, entropy())).0, Seen::Fresh);
    assert_eq!(
        knock(&mut replay, START, START.wall),
        Seen::Silent(Reject::Replayed, None),
        "it was answered"
    );
}

#[test]
fn a_client_that_knocked_a_year_ahead_gets_in_with_a_challenge_until_that_year_is_over() {
    let mut replay = intact();
    for n in 0..200 {
        let now = at(n * 5);
        let ahead = shifted(now.wall, YEAR);
        let challenge = knock(&mut replay, now, ahead).challenge();
        let retry = authentic(Wall(ahead.0 + 1), Some(challenge), home());
        assert_eq!(judge(&mut replay, now, retry), Seen::Fresh);
    }
    // Its knocks of that year may have been recorded before they were answered.
    let told = knock(&mut replay, at(2000), at(2000).wall);
    assert_eq!(told.status(), Some(Status::Challenge));
    let retry = authentic(Wall(at(2000).wall.0 + 1), Some(told.challenge()), home());
    assert_eq!(judge(&mut replay, at(2000), retry), Seen::Fresh);
    let later = Now {
        wall: shifted(START.wall, YEAR + 2000),
        boot: Boot(START.boot.0 + (YEAR.unsigned_abs() + 2000) * SECOND),
    };
    replay.challenge_reason(later);
    assert_eq!(knock(&mut replay, later, later.wall), Seen::Fresh);
}

/// The gateway does not know the keys of a day that is far ahead, so it drops such a knock without
/// a mark. Who recorded it has it on that day.
#[test]
fn what_a_client_sent_while_its_clock_was_ahead_opens_nothing_when_its_day_has_come() {
    for days in [1, 2, 3, 400] {
        let mut replay = intact();
        let ahead = shifted(START.wall, days * 86_400);
        // The recorded knock, then the one that asks for the time, 2 s later.
        let ask = Request {
            receipt_wanted: true,
            timestamp: ahead.plus(2),
            ..Request::bare(KnockKind::Time)
        };
        let ask = Authentic::for_test(CLIENT, ask, home(), 1);
        assert_eq!(judge(&mut replay, START, ask).status(), Some(Status::Clock));
        let then = at(u32::try_from(days).unwrap() * 86_400);
        for second in (0..86_400 * days).step_by(3600) {
            let now = at(u32::try_from(second).unwrap());
            replay.challenge_reason(now);
        }
        let replayed = knock(&mut replay, then, ahead);
        assert_eq!(replayed.status(), Some(Status::Challenge), "{days} days ahead: {replayed:?}");
    }
}

#[test]
fn the_working_day_is_today_or_the_newest_that_the_client_showed_or_named() {
    let mut replay = intact();
    let today = START.wall.day();
    let day = |replay: &Replay, now| replay.working_day(now, CLIENT, today - 100);
    assert_eq!(day(&replay, START), today);
    assert_eq!(replay.working_day(START, CLIENT, today + 5), today + 6, "our keys begin later");
    let ask = |number: u64, first_day: u32| Request {
        receipt_wanted: true,
        timestamp: Wall(START.wall.0 + number),
        first_day,
        ..Request::bare(KnockKind::Time)
    };
    let named = [
        (today - 200, today),
        (today + 32, today + 33),
        (today, today + 33),
        (today + 36_526, today + 33),
        (today + 36_525, today + 36_526),
        (today + 36_526, today + 36_526),
    ];
    for (number, (named, expected)) in (0..).zip(named) {
        let authentic = Authentic::for_test(CLIENT, ask(number, named), home(), 1);
        assert_eq!(judge(&mut replay, START, authentic).status(), Some(Status::Clock));
        assert_eq!(day(&replay, START), expected, "{named}");
    }
    // The clock is set back by ten days after a knock was accepted.
    let mut replay = intact();
    assert_eq!(knock(&mut replay, START, START.wall), Seen::Fresh);
    assert_eq!(day(&replay, stepped(START, -10 * 86_400)), today);
    assert_eq!(replay.working_day(START, ClientId([9; 16]), 0), today, "others are not affected");
}

#[test]
fn a_board_without_a_battery_that_always_knocks_in_1970_gets_in_every_time() {
    let mut replay = intact();
    assert_eq!(
        knock(&mut replay, START, START.wall),
        Seen::Fresh,
        "its other device, which sets no floor yet"
    );
    for n in 0..300u32 {
        let now = at(n * 60);
        assert_eq!(
            knock(&mut replay, now, now.wall.plus(1)),
            Seen::Fresh,
            "the device with a clock, {n}"
        );
        let dead = Wall(u64::from(n * 7919 % 1000) * 1_000_000_007 + 3);
        let told = knock(&mut replay, now, dead);
        let retry = authentic(Wall(dead.0 + 1), Some(told.challenge()), home());
        assert_eq!(judge(&mut replay, now, retry), Seen::Fresh, "{n}");
    }
}

#[test]
fn a_clock_behind_its_own_past_takes_challenges_only_until_it_catches_up() {
    let ledger = Ledger::of(&[Record::Newest { wall: START.wall.plus(100) }]);
    let mut replay = Replay::restore(WINDOW, START, &ledger, StateOrigin::Found);
    assert_eq!(
        replay.challenge_reason(START),
        Some(ChallengeReason::Clock(ClockFault::Behind(100 * SECOND)))
    );
    let told = knock(&mut replay, START, START.wall);
    assert_eq!(told.status(), Some(Status::Challenge));
    assert_eq!(
        judge(
            &mut replay,
            START,
            authentic(Wall(START.wall.0 + 1), Some(told.challenge()), home())
        ),
        Seen::Fresh
    );
    assert_eq!(knock(&mut replay, at(100), at(100).wall), Seen::Fresh);
}

#[test]
fn a_jump_of_the_clock_is_suspect_until_it_returns_or_runs_evenly_for_ten_minutes() {
    let mut replay = intact();
    let doubt = |replay: &mut Replay, now| replay.challenge_reason(now).is_some();
    assert!(!doubt(&mut replay, at(60)));
    assert!(doubt(&mut replay, stepped(at(61), YEAR)));
    assert!(doubt(&mut replay, stepped(at(600), YEAR)));
    assert!(
        !doubt(&mut replay, at(601)),
        "the step is taken back, and the false time was never believed"
    );
    assert!(doubt(&mut replay, stepped(at(602), 3600)));
    assert!(doubt(&mut replay, stepped(at(1201), 3600)));
    assert!(!doubt(&mut replay, stepped(at(1202), 3600)));
    assert!(doubt(&mut replay, at(1203)), "back in time");
    assert!(doubt(&mut replay, at(2500)), "and it stays so: it is behind what was believed");
    assert!(doubt(&mut replay, stepped(at(2501), 3600)), "a jump again");
    assert!(!doubt(&mut replay, stepped(at(3101), 3600)));
}

#[test]
fn a_step_of_two_seconds_is_trusted_and_one_of_three_is_not() {
    for (step, believed) in [(2, true), (3, false)] {
        let mut replay = intact();
        assert_eq!(replay.challenge_reason(at(60)), None);
        assert_eq!(replay.challenge_reason(stepped(at(61), step)).is_none(), believed, "{step}");
    }
}

#[test]
fn a_slewing_clock_has_not_jumped() {
    let mut replay = intact();
    for minute in 1..=2000u32 {
        let now = at(minute * 60);
        let slewed = Now { wall: Wall(now.wall.0 - u64::from(minute) * 30_000_000), ..now };
        assert_eq!(replay.challenge_reason(slewed), None, "500 ppm for {minute} minutes");
    }
}

#[test]
fn a_packet_at_the_wrong_address_is_answered_once_and_still_good_at_the_right_one() {
    let mut replay = intact();
    let told = replay.wrong_address(START, authentic(START.wall, None, elsewhere()));
    assert!(
        told.is_ok_and(
            |pending| pending.reply.status == Status::Address && pending.records.is_empty()
        )
    );
    let again = replay.wrong_address(START, authentic(START.wall, None, elsewhere()));
    assert_eq!(again.err(), Some(Refused { reject: Reject::Address, alarm: None }));
    assert_eq!(knock(&mut replay, START, START.wall), Seen::Fresh);
}

#[test]
fn a_packet_at_the_wrong_address_gets_no_reply_outside_its_window_and_still_gets_one_at_the_right_address()
 {
    for wrong in [-31, 11] {
        let (mut replay, timestamp) = (intact(), shifted(START.wall, wrong));
        let silence = replay.wrong_address(START, authentic(timestamp, None, elsewhere()));
        assert_eq!(silence.err(), Some(Refused { reject: Reject::Clock, alarm: None }));
        assert_eq!(knock(&mut replay, START, timestamp).status(), Some(Status::Clock));
    }
}

#[test]
fn a_recorded_packet_is_met_with_silence_after_a_thousand_later_knocks() {
    let mut replay = intact();
    assert_eq!(knock(&mut replay, START, START.wall), Seen::Fresh);
    for n in 1..1024 {
        assert_eq!(knock(&mut replay, at(n * 60), at(n * 60).wall), Seen::Fresh);
    }
    let again = knock(&mut replay, at(1024 * 60), START.wall);
    assert_eq!(again, Seen::Silent(Reject::Replayed, None));
}

#[test]
fn packets_of_a_day_whose_tags_are_unknown_again_take_no_memory() {
    const DAY: u32 = 86_400;
    let mut replay = intact();
    let size = |replay: &Replay| replay.tables()[1].1;
    for n in 0..10 {
        assert_eq!(knock(&mut replay, at(n), at(n).wall), Seen::Fresh);
    }
    assert_eq!(knock(&mut replay, at(2 * DAY), at(2 * DAY).wall), Seen::Fresh);
    assert_eq!(size(&replay), 11, "yesterday's tags are known until the client's day is over");
    assert_eq!(knock(&mut replay, at(3 * DAY), at(3 * DAY).wall), Seen::Fresh);
    assert_eq!(size(&replay), 2);
}

#[test]
fn the_newest_time_is_written_at_most_once_a_second_and_by_the_heartbeat() {
    let mut replay = intact();
    assert_eq!(replay.heartbeat(START, 600), Some(Record::Newest { wall: START.wall }));
    assert_eq!(replay.heartbeat(at(600), 600), None);
    assert_eq!(replay.heartbeat(at(601), 600), Some(Record::Newest { wall: at(601).wall }));
    assert_eq!(
        replay.heartbeat(stepped(at(1300), YEAR), 600),
        None,
        "a time that is not believed is not kept"
    );
}
