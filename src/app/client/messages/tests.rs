//! The text, JSON and exit code of every outcome of an exchange.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::app::client::ask::tests as gateway;
use crate::core::door::Step;
use crate::core::event::KnockId;
use crate::core::exchange::NamedAddress;
use crate::core::types::{Fault, PortRange, Source};
use crate::keys::profile::Fallback;

const NOW: Wall = Wall(1_800_000_000_000_000_000);

/// The two knocks of each exchange; the second one is answered.
const FIRST: KnockId = KnockId([0, 0, 0, 1]);
const LAST: KnockId = KnockId([0, 0, 0, 2]);

fn request(kind: KnockKind) -> ClientRequest {
    ClientRequest { service: gateway::ssh(), ..ClientRequest::new(kind, Duration::from_secs(1), 1) }
}

/// A receipt that comes at [`NOW`] from a gateway with the same time.
fn receipt(status: Status) -> Receipt {
    let mut receipt = gateway::receipt(status, "192.0.2.7:4000".parse().unwrap());
    receipt.time = NOW;
    if status == Status::Granted {
        receipt.ports[0] = PortRange::read("22/tcp").map(PortEntry::Range);
    }
    receipt
}

fn result(outcome: ExchangeOutcome) -> GatewayResult {
    let source = Source::new("192.0.2.7".parse().unwrap());
    GatewayResult {
        gateway: "198.51.100.4:62201".parse().unwrap(),
        local: Some(source.ip()),
        named: Some(NamedAddress { source, origin: AddressOrigin::Local }),
        knocks: 2,
        ids: vec![FIRST, LAST],
        answered: Some(LAST).filter(|_| matches!(outcome, ExchangeOutcome::Received(_))),
        outcome,
    }
}

fn received(receipt: Receipt) -> GatewayResult {
    result(ExchangeOutcome::Received(ReceivedReceipt { receipt, at: NOW }))
}

fn silent() -> GatewayResult {
    result(ExchangeOutcome::Silence)
}

fn unreachable() -> GatewayResult {
    result(ExchangeOutcome::Unreachable(Fault::new("no route", "plug in the cable")))
}

fn output(request: &ClientRequest, results: &[GatewayResult]) -> CommandOutput {
    let profile = gateway::profile(62201);
    ExchangeReport { name: "gate", profile: &profile, request, results }.output()
}

fn json_of(request: &ClientRequest, results: &[GatewayResult]) -> Value {
    let profile = gateway::profile(62201);
    ExchangeReport { name: "gate", profile: &profile, request, results }.json()
}

fn open() -> ClientRequest {
    request(KnockKind::Open)
}

/// The standard output of a granted open.
fn granted(request: &ClientRequest, receipt: Receipt) -> String {
    let output = output(request, &[received(receipt)]);
    assert_eq!((output.code, output.err.as_str()), (DONE, ""));
    output.out.to_string()
}

#[test]
fn a_grant_names_address_ports_and_end() {
    let text = granted(&open(), receipt(Status::Granted));
    let start = "granted: 192.0.2.7 may reach 22/tcp at 198.51.100.4 for 30 s, until ";
    assert!(text.starts_with(start), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[test]
fn a_grant_for_one_connection_from_one_port_says_both() {
    let once = Receipt { once: true, ..receipt(Status::Granted) };
    let text = granted(&ClientRequest { source_port: 4711, ..open() }, once);
    let part = "22/tcp at 198.51.100.4 from port 4711 with one connection for 30 s, until ";
    assert!(text.contains(part), "{text}");
}

#[test]
fn a_service_of_commands_is_granted_by_its_name() {
    let text = granted(&open(), Receipt { ports: [None; 4], ..receipt(Status::Granted) });
    assert!(text.contains("may reach ssh at 198.51.100.4"), "{text}");
}

#[test]
fn a_grant_of_a_net_names_it_with_all_its_ports() {
    let ports = [
        PortRange::read("22/tcp").map(PortEntry::Range),
        PortRange::read("60000-61000/udp").map(PortEntry::Range),
        Some(PortEntry::More),
        None,
    ];
    let span = Span::of_prefix(24, false).unwrap();
    let receipt = Receipt { span, ports, ..receipt(Status::Granted) };
    let text = granted(&open(), receipt);
    let start = "granted: 192.0.2.7 and all of 192.0.2.0/24 may reach \
        22/tcp, 60000-61000/udp, more ports at 198.51.100.4 for 30 s, until ";
    assert!(text.starts_with(start), "{text}");
    assert_eq!(text.lines().count(), 1, "the knock came from that address");
    let json = json_of(&open(), &[received(receipt)]);
    assert_eq!(json["answers"][0]["address"], "192.0.2.7");
    assert_eq!(json["answers"][0]["net"], "192.0.2.0/24");
    let all = Receipt { ports: [Some(PortEntry::All), None, None, None], ..receipt };
    assert!(granted(&open(), all).contains("may reach all ports at"));
}

#[test]
fn a_grant_to_another_address_says_where_the_knock_came_from() {
    let other = Source::new("203.0.113.9".parse().unwrap());
    let text = granted(&open(), Receipt { granted: Some(other), ..receipt(Status::Granted) });
    assert!(text.starts_with("granted: 203.0.113.9 may reach"), "{text}");
    assert!(text.ends_with("\n  the knock came from 192.0.2.7\n"), "{text}");
}

#[test]
fn a_probed_address_is_to_be_checked_by_the_user() {
    let mut probed = received(receipt(Status::Granted));
    probed.named = probed.named.map(|n| NamedAddress { origin: AddressOrigin::Probed, ..n });
    let text = output(&open(), &[probed]).out;
    assert!(text.contains("\n  that address is what the gateway saw of you;"), "{}", *text);
}

#[test]
fn closing_and_probing_succeed_on_standard_output() {
    let closed = output(&request(KnockKind::Close), &[received(receipt(Status::Closed))]);
    assert_eq!(*closed.out, "closed: you have no grant for ssh at 198.51.100.4 any more\n");
    let probed = output(&request(KnockKind::Probe), &[received(receipt(Status::Observed))]);
    assert_eq!(*probed.out, "198.51.100.4 answered: it sees you as 192.0.2.7\n");
    assert_eq!((closed.code, probed.code), (DONE, DONE));
}

#[test]
fn every_refusal_goes_to_standard_error_with_a_next_step() {
    for (status, parts) in [
        (Status::Denied, ["does not let this key open ssh\n", "toctoc list"]),
        (Status::Full, ["the limit of grants is reached", "toctoc close gate ssh"]),
        (Status::Trouble, ["its guard is off, or its disk", "tell its admin: `toctocd status`"]),
        (Status::Clock, ["clock is too far off", "set the clock"]),
        (Status::Challenge, ["sent a challenge", "--timeout"]),
    ] {
        let output = output(&open(), &[received(receipt(status))]);
        assert_eq!((output.code, output.out.as_str()), (REFUSED, ""), "{status:?}");
        assert!(output.err.starts_with("refused: "), "{}", output.err);
        assert!(output.err.lines().count() >= 2, "{}", output.err);
        for part in parts {
            assert!(output.err.contains(part), "{status:?}: no {part:?} in {}", output.err);
        }
    }
}

#[test]
fn a_redirected_knock_is_repeated_only_by_the_users_own_command() {
    let observed = Source::new("203.0.113.66".parse().unwrap());
    let redirected = Receipt { observed, ..receipt(Status::Address) };
    let given = |ip: &str| {
        let source = Source::new(ip.parse().unwrap());
        let mut result = received(redirected);
        result.named = Some(NamedAddress { source, origin: AddressOrigin::Given });
        output(&open(), &[result]).err
    };
    let text = given("192.0.2.9");
    assert!(text.contains("named 192.0.2.9, but it reached the gateway from 203.0.113.66"));
    assert!(text.contains("toctoc open gate ssh --source 203.0.113.66\n"), "{text}");
    // An address that the gateway grants to nobody.
    let text = given("203.0.113.66");
    assert!(text.contains("grants 203.0.113.66 to nobody"), "{text}");
    assert!(text.contains("`also_grant`") && !text.contains("--source"), "{text}");
    // This machine's own public address was replaced.
    let text = output(&open(), &[received(redirected)]).err;
    assert!(text.contains("public address 192.0.2.7") && text.contains("let everybody in"));
    assert!(!text.contains("--source"), "{text}");
}

#[test]
fn an_address_that_was_replaced_in_front_of_the_gateway_is_never_advised() {
    let observed = Source::new("172.17.0.1".parse().unwrap());
    let replaced = |status| received(Receipt { observed, ..receipt(status) });
    for status in [Status::Observed, Status::Address] {
        let output = output(&open(), &[replaced(status)]);
        assert_eq!((output.code, output.out.as_str()), (REFUSED, ""));
        let begin = "refused: you knock at 198.51.100.4, and the gateway sees you as 172.17.0.1;";
        assert!(output.err.starts_with(begin), "{}", output.err);
        assert!(output.err.contains("would let everybody in: tell the gateway's admin"));
        assert!(!output.err.contains("--source"), "{}", output.err);
    }
    let value = json_of(&open(), &[replaced(Status::Observed)]);
    assert_eq!(value["result"], "replaced");
    let probe = output(&request(KnockKind::Probe), &[replaced(Status::Observed)]);
    assert_eq!(probe.code, DONE);
    assert!(probe.out.contains("it sees you as 172.17.0.1\n  172.17.0.1 is not your address"));
}

#[test]
fn silence_lists_what_to_check_and_says_that_the_port_may_be_open() {
    let output = output(&open(), &[silent()]);
    assert_eq!((output.code, output.out.as_str()), (NO_ANSWER, ""));
    for part in [
        "no answer from 198.51.100.4 to 2 knocks; ssh may be open all the same\n",
        "is udp/62201 blocked",
        "still at 127.0.0.1, and running?",
        "did this key knock very often",
        "is `laptop` still enrolled there? Its key is\n    SHA256:",
        "what can be checked from here: toctoc doctor gate\n",
    ] {
        assert!(output.err.contains(part), "no {part:?} in {}", output.err);
    }
    assert!(!output.err.contains("--classic"), "this profile has no classic sequence");
}

#[test]
fn silence_names_each_address_that_was_tried_once_and_those_that_were_not() {
    let other =
        || GatewayResult { gateway: "[2001:db8::4]:62201".parse().unwrap(), knocks: 1, ..silent() };
    let left_out = || GatewayResult::not_tried("198.51.100.5:62201".parse().unwrap());
    let text = output(&open(), &[silent(), other(), left_out()]).err;
    let begin = "no answer from 198.51.100.4 to 2 knocks, from 2001:db8::4 to 1 knock; ssh may";
    assert!(text.starts_with(begin), "{text}");
    assert!(text.contains("\n  not tried, too many addresses: 198.51.100.5\n"), "{text}");
    assert_eq!(text.matches("no answer").count(), 1, "{text}");
    // Nobody misses an address that was not tried because another one answered.
    let granted = output(&open(), &[received(receipt(Status::Granted)), left_out()]);
    assert_eq!((granted.code, granted.err.as_str()), (DONE, ""));
    let json = json_of(&open(), &[silent(), left_out()]);
    let words = [&json["answers"][0]["status"], &json["answers"][1]["status"]];
    assert_eq!(words, [&json!("no-answer"), &json!("not-tried")]);
}

#[test]
fn a_classic_sequence_is_mentioned_only_after_an_open_without_an_answer() {
    let mut profile = gateway::profile(62201);
    profile.fallback = Some(Fallback { sequence: vec![Step::udp(7)], offer: false });
    let said = |kind, results: &[GatewayResult]| {
        let request = request(kind);
        ExchangeReport { name: "gate", profile: &profile, request: &request, results }.output().err
    };
    let mention = "toctoc open --classic gate\n  sends it in cleartext";
    assert!(said(KnockKind::Open, &[silent()]).contains(mention));
    assert!(!said(KnockKind::Close, &[silent()]).contains("--classic"));
    assert!(!said(KnockKind::Probe, &[silent()]).contains("--classic"));
    assert!(!said(KnockKind::Open, &[unreachable()]).contains("--classic"));
    assert!(!said(KnockKind::Open, &[received(receipt(Status::Denied))]).contains("--classic"));
}

#[test]
fn a_knock_that_opened_nothing_is_named_as_the_gateways_log_names_it() {
    let refused = output(&open(), &[received(receipt(Status::Denied))]).err;
    assert!(refused.ends_with("log has this knock by its id 00000002\n"), "{refused}");
    let silence = output(&open(), &[silent()]).err;
    assert!(silence.contains("its log has them by their ids 00000001, 00000002\n"), "{silence}");
    let both = [received(receipt(Status::Granted)), received(receipt(Status::Denied))];
    assert_eq!(output(&open(), &both).err.matches("00000002").count(), 1);
    assert_eq!(output(&open(), &both[..1]).err, "");
    assert!(!output(&open(), &[unreachable()]).err.contains(" id"), "nothing was sent");
}

#[test]
fn the_best_of_two_families_decides_the_exit_code() {
    let granted = || received(receipt(Status::Granted));
    let denied = || received(receipt(Status::Denied));
    for (results, code) in [
        (vec![], UNREACHABLE),
        (vec![unreachable()], UNREACHABLE),
        (vec![unreachable(), silent()], NO_ANSWER),
        (vec![silent(), denied()], REFUSED),
        (vec![denied(), granted()], PARTLY),
        (vec![granted(), denied()], PARTLY),
        (vec![silent(), granted()], DONE),
        (vec![unreachable(), granted()], DONE),
    ] {
        assert_eq!(output(&open(), &results).code, code);
    }
    let output = output(&open(), &[granted(), denied()]);
    assert!(output.out.starts_with("granted: "), "{}", *output.out);
    assert!(output.err.starts_with("198.51.100.4: refused: "), "{}", output.err);
    assert!(output.err.contains("only partly done") && output.err.contains("-4 or -6"));
}

#[test]
fn what_both_families_say_is_said_once() {
    let other =
        |result| GatewayResult { gateway: "[2001:db8::4]:62201".parse().unwrap(), ..result };
    for status in [Status::Denied, Status::Full, Status::Trouble, Status::Clock] {
        let refused = || received(Receipt { time: NOW.plus(60), ..receipt(status) });
        let one = output(&open(), &[refused()]).err;
        assert_eq!(output(&open(), &[refused(), other(refused())]).err, one, "{status:?}");
    }
    let granted = || received(receipt(Status::Granted));
    let text = output(&open(), &[granted(), other(granted())]).out;
    assert_eq!(text.matches("granted: ").count(), 2, "the ends may differ: {}", *text);
}

#[test]
fn a_grant_that_is_shorter_than_asked_for_says_so() {
    let note = "  you asked for 1 d 3 h: the gateway allows this key or service no more\n";
    let text = granted(&ClientRequest { seconds: 99_999, ..open() }, receipt(Status::Granted));
    assert!(text.ends_with(note), "{text}");
    let text = granted(&ClientRequest { seconds: 30, ..open() }, receipt(Status::Granted));
    assert!(!text.contains("asked"), "{text}");
}

#[test]
fn only_the_status_that_was_asked_for_is_a_success() {
    use KnockKind::*;
    for (kind, good, others) in [
        (Open, Status::Granted, [Status::Closed, Status::Observed]),
        (Close, Status::Closed, [Status::Granted, Status::Observed]),
        (Probe, Status::Observed, [Status::Granted, Status::Closed]),
    ] {
        assert_eq!(output(&request(kind), &[received(receipt(good))]).code, DONE);
        for other in others {
            assert_eq!(output(&request(kind), &[received(receipt(other))]).code, REFUSED);
        }
    }
}

#[test]
fn a_family_that_fails_beside_one_that_works_is_a_note_at_most() {
    let granted = || received(receipt(Status::Granted));
    let note = "no answer from 198.51.100.4; another address answered\n";
    assert_eq!(output(&open(), &[silent(), granted()]).err, note);
    assert_eq!(output(&open(), &[unreachable(), granted()]).err, "");
    assert_eq!(output(&open(), &[unreachable()]).err, "no route\n  plug in the cable\n");
}

#[test]
fn a_wrong_clock_is_noted_only_beyond_two_seconds() {
    let note = |seconds: i64| {
        let time = Wall(NOW.0.checked_add_signed(seconds * SECOND.cast_signed()).unwrap());
        output(&open(), &[received(Receipt { time, ..receipt(Status::Granted) })]).err
    };
    assert_eq!((note(2), note(-2)), (String::new(), String::new()));
    assert_eq!(note(7200), "note: this machine's clock is 2 h behind the gateway's\n");
    assert_eq!(note(-90), "note: this machine's clock is 1 min 30 s ahead of the gateway's\n");
}

#[test]
fn json_of_a_grant_has_everything_that_the_text_has() {
    let value = json_of(&open(), &[received(receipt(Status::Granted))]);
    assert_eq!(value["profile"], "gate");
    assert_eq!((&value["result"], &value["service"]), (&json!("granted"), &json!("ssh")));
    assert_eq!(value["source_port"], Value::Null);
    assert_eq!(
        value["answers"],
        json!([{
            "gateway": "198.51.100.4:62201", "knocks": 2, "ids": ["00000001", "00000002"],
            "id": "00000002", "named": "192.0.2.7", "found": "local",
            "status": "granted", "observed": "192.0.2.7", "address": "192.0.2.7",
            "net": null, "ports": ["22/tcp"], "once": false, "seconds": 30, "until": "2027-01-15T08:00:30Z",
            "clock_behind_ms": 0,
        }])
    );
}

#[test]
fn json_of_a_refusal_has_no_end_and_json_of_a_probe_no_service() {
    let value = json_of(&open(), &[received(receipt(Status::Denied))]);
    let answer = &value["answers"][0];
    assert_eq!((&value["result"], &answer["status"]), (&json!("denied"), &json!("denied")));
    for key in ["once", "seconds", "until"] {
        assert_eq!(answer[key], Value::Null, "{key}");
    }
    let probe = ClientRequest { source_port: 4711, ..request(KnockKind::Probe) };
    let value = json_of(&probe, &[silent()]);
    assert_eq!((&value["service"], &value["source_port"]), (&Value::Null, &json!(4711)));
    assert_eq!(value["answers"][0]["status"], "no-answer");
}

#[test]
fn the_json_result_is_the_best_status_then_a_refusal_then_the_first_failure() {
    let granted = || received(receipt(Status::Granted));
    let denied = || received(receipt(Status::Denied));
    for (results, word) in [
        (vec![], Value::Null),
        (vec![denied(), granted()], json!("partly")),
        (vec![silent(), granted()], json!("granted")),
        (vec![silent(), denied()], json!("denied")),
        (vec![unreachable(), silent()], json!("not-sent")),
        (vec![silent(), unreachable()], json!("no-answer")),
    ] {
        assert_eq!(json_of(&open(), &results)["result"], word);
    }
    let answer = &json_of(&open(), &[unreachable()])["answers"][0];
    let parts = (&answer["what"], &answer["remedy"]);
    assert_eq!(parts, (&json!("no route"), &json!("plug in the cable")));
}

#[test]
fn each_status_has_its_own_json_word() {
    let words = [
        (Status::Granted, "granted"),
        (Status::Closed, "closed"),
        (Status::Observed, "observed"),
        (Status::Address, "address"),
        (Status::Clock, "clock"),
        (Status::Denied, "denied"),
        (Status::Full, "full"),
        (Status::Challenge, "challenge"),
        (Status::Trouble, "trouble"),
    ];
    for (status, word) in words {
        let kind = if status == Status::Observed { KnockKind::Probe } else { KnockKind::Open };
        assert_eq!(json_of(&request(kind), &[received(receipt(status))])["result"], word);
    }
}

#[test]
fn an_end_is_shown_with_its_date_only_if_that_is_not_today() {
    let now = timestamp(NOW);
    assert_eq!(clock_time(NOW.plus(30), now, &TimeZone::UTC), "08:00:30");
    assert_eq!(clock_time(NOW.plus(86_400), now, &TimeZone::UTC), "2027-01-16 08:00:00");
}

#[test]
fn durations_are_shown_in_their_two_largest_units() {
    for (seconds, shown) in [
        (0, "0 s"),
        (30, "30 s"),
        (60, "1 min"),
        (90, "1 min 30 s"),
        (3720, "1 h 2 min"),
        (3605, "1 h"),
        (400 * 86_400, "400 d"),
    ] {
        assert_eq!(duration_text(seconds * SECOND), shown);
    }
    assert_eq!(duration_text(7200 * SECOND - 1), "2 h", "rounded, not cut");
}
