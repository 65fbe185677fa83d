use super::*;
use std::sync::Arc;

use crate::core::hours::{Hours, WEEK, ZoneOffsets};
use crate::core::knock::PortEntry;
use crate::core::knock::Request;
use crate::core::ledger::Ledger;
use crate::core::limits::Limits;
use crate::core::prefix::Prefix;
use crate::core::prefix::Spans;
use crate::core::record::Record;
use crate::core::replay::{StateOrigin, Window};
use crate::core::service::{DisconnectPolicy, Forward, GrantKind, ServicePorts};
use crate::core::test_vectors::{self, CLIENT, NOON};
use crate::core::types::{Boot, Fault, Port, PortRange, Proto, Wall};

mod commands;
mod neighbours;
mod reload;

const START: Now = Now { wall: NOON, boot: Boot(500 * SECOND) };

fn tcp(number: u16) -> ServicePorts {
    [Port { proto: Proto::Tcp, number }][..].into()
}

/// The spans of these prefix lengths.
fn spans(v4: u8, v6: u8) -> Spans {
    let v4 = Span::of_prefix(v4, false).unwrap();
    Spans { v4, v6: Span::of_prefix(v6, true).unwrap() }
}

fn ssh() -> Service {
    Service::for_test("ssh", tcp(22))
}

/// One gateway with its clock standing still; every packet gets the next nanosecond as its
/// timestamp.
struct Gate {
    policy: Policy,
    replay: Replay,
    grants: Grants,
    packets: u64,
    /// What policy foresaw of the last knock that asks for a grant.
    foreseen: Option<Result<ActiveGrant, Refusal>>,
}

impl Gate {
    fn new(service: Service, client: Client, max_grants: u32) -> Self {
        let own = ["203.0.113.1", "10.255.0.1"].map(|ip| Source::new(ip.parse().unwrap()));
        let window = Window { max_age: 30, max_ahead: 10 };
        let begin = Now {
            wall: Wall(START.wall.0 - 400 * SECOND),
            boot: Boot(START.boot.0 - 400 * SECOND),
        };
        let replay = Replay::restore(window, begin, &Ledger::default(), StateOrigin::Found);
        let mut policy = Policy::new(vec![service], vec![client], max_grants, own);
        let private = ["10.0.0.0/8", "192.168.0.0/16", "100.64.0.0/10"];
        policy.set_private(private.into_iter().filter_map(Prefix::parse).collect());
        Self { policy, replay, grants: Grants::default(), packets: 0, foreseen: None }
    }

    fn plain() -> Self {
        Self::new(ssh(), test_vectors::client(), 16)
    }

    fn decide(&mut self, change: impl FnOnce(&mut Request), source: Source) -> Decision {
        self.packets += 1;
        let mut request = test_vectors::request(Wall(START.wall.0 + self.packets));
        request.address = Some(source);
        change(&mut request);
        let mut entropy = [1; 16];
        entropy[..8].copy_from_slice(&self.packets.to_be_bytes());
        let authentic = Authentic::for_test(CLIENT, request, source, 40_000);
        self.foreseen = (request.kind == KnockKind::Open).then(|| {
            let (latest, asked) = (self.replay.latest(START), Asked::by(&authentic));
            self.policy.foresee(START, latest, CLIENT, &asked, &self.grants)
        });
        self.policy.decide(START, authentic, &mut self.replay, &mut self.grants, entropy)
    }

    /// The status that the sender is told, with what is in the firewall by then; `None` is silence.
    fn knock_from(&mut self, source: &str, change: impl FnOnce(&mut Request)) -> Option<Status> {
        let decision = self.decide(change, Source::new(source.parse().unwrap()));
        self.must_have_foreseen(&decision);
        let mut done = commit(vec![decision], |_| Ok(())).unwrap();
        Some(match done.pop()? {
            Committed::Open(grant) => self.grants.open(START, grant).1.status,
            Committed::Close(keys, how, answer) => {
                self.grants.end(START, &keys, how);
                answer.status
            }
            Committed::Tell(answer) => answer.status,
            Committed::Join(_) => panic!("nobody is invited"),
        })
    }

    /// A decision is the one that was foreseen, unless time or a mark refused it.
    fn must_have_foreseen(&self, decision: &Decision) {
        let Some(foreseen) = &self.foreseen else { return };
        match decision {
            Decision::Admit(admission) => assert_eq!(foreseen.as_ref(), Ok(admission.grant())),
            Decision::Refuse(_) => {}
            Decision::Tell(reply) => match reply.reply.status {
                Status::Clock | Status::Challenge => {}
                status => assert_eq!(foreseen.map_err(Refusal::status), Err(status)),
            },
            _ => panic!("a knock for a grant"),
        }
    }

    fn knock(&mut self, change: impl FnOnce(&mut Request)) -> Option<Status> {
        self.knock_from("192.0.2.7", change)
    }

    fn seconds(&mut self, asked: u32) -> u32 {
        assert_eq!(self.knock(|r| r.seconds = asked), Some(Status::Granted));
        self.grants.list().next().unwrap().seconds
    }
}

#[test]
fn a_fresh_knock_is_granted_and_gets_a_receipt_of_it() {
    let mut gate = Gate::plain();
    let decision = gate.decide(|_| {}, test_vectors::address());
    let mut stored = Vec::new();
    let mut done = commit(vec![decision], |records| {
        stored = records.to_vec();
        Ok(())
    })
    .unwrap();
    assert!(
        matches!(stored[..], [Record::Seen { .. }, Record::Newest { .. }, Record::Granted(_)]),
        "{stored:?}"
    );
    let Some(Committed::Open(grant)) = done.pop() else { panic!("not granted") };
    let (changes, answer) = gate.grants.open(START, grant);
    assert_eq!(changes.len(), 1);
    let receipt = answer.receipt(START, 20_513).unwrap();
    assert_eq!((receipt.status, receipt.seconds, receipt.once), (Status::Granted, 30, false));
    assert_eq!(
        (receipt.granted, receipt.observed),
        (Some(test_vectors::address()), test_vectors::address())
    );
    assert_eq!(receipt.ports[0], PortRange::read("22/tcp").map(PortEntry::Range));
    assert_eq!(receipt.working_day, 20_513);
}

#[test]
fn nothing_is_granted_closed_or_replied_when_its_mark_cannot_be_stored() {
    let mut gate = Gate::plain();
    assert_eq!(gate.knock(|_| {}), Some(Status::Granted));
    let kinds = [KnockKind::Open, KnockKind::Close, KnockKind::Probe];
    let decisions: Vec<Decision> =
        kinds.map(|kind| gate.decide(|r| r.kind = kind, test_vectors::address())).into();
    let failed = commit(decisions, |_| Err(Fault::new("disk full", "")));
    assert!(failed.is_err());
    gate.grants.give_up();
    assert_eq!(gate.grants.list().count(), 1);
}

#[test]
fn a_batch_is_stored_in_one_piece() {
    let mut gate = Gate::new(ssh(), test_vectors::client(), 64);
    let decisions: Vec<Decision> =
        (0..50).map(|_| gate.decide(|_| {}, test_vectors::address())).collect();
    let mut stores = 0;
    let done = commit(decisions, |_| {
        stores += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!((stores, done.len()), (1, 50));
    assert!(done.iter().all(|done| matches!(done, Committed::Open(_))), "50 of 50 parallel knocks");
}

#[test]
fn a_knock_that_names_another_address_than_its_source_gets_a_reply_and_burns_nothing() {
    let mut gate = Gate::plain();
    let named = Some(test_vectors::address());
    assert_eq!(gate.knock_from("198.51.100.1", |r| r.address = named), Some(Status::Address));
    assert_eq!(
        gate.knock(|r| r.timestamp = Wall(START.wall.0 + 1)),
        Some(Status::Granted),
        "the same packet, from home"
    );
    assert_eq!(
        gate.knock_from("198.51.100.1", |r| r.timestamp = Wall(START.wall.0 + 1)),
        None,
        "used: silence"
    );
    assert_eq!(
        gate.knock(|r| r.address = None),
        Some(Status::Address),
        "a bound service takes no unnamed one"
    );
}

#[test]
fn an_observing_service_grants_the_packets_address_but_never_instead_of_a_named_one() {
    let mut gate =
        Gate::new(Service { source: SourceRule::Observed, ..ssh() }, test_vectors::client(), 16);
    assert_eq!(gate.knock_from("198.51.100.1", |r| r.address = None), Some(Status::Granted));
    assert_eq!(
        gate.knock_from("198.51.100.1", |r| r.address = Some(test_vectors::address())),
        Some(Status::Address)
    );
}

#[test]
fn only_addresses_that_a_remote_peer_can_have_are_granted() {
    for good in
        ["8.8.8.8", "10.1.2.3", "192.168.1.9", "192.0.2.1", "100.64.1.1", "2001:db8::7", "fd00::7"]
    {
        assert_eq!(Gate::plain().knock_from(good, |_| {}), Some(Status::Granted), "{good}");
    }
    for bad in [
        "0.0.0.0",
        "127.0.0.1",
        "169.254.1.1",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "203.0.113.1",
        "::ffff:127.0.0.1",
        "::1",
        "::",
        "::192.0.2.7",
        "64:ff9b::192.0.2.7",
        "2002:c000:207::1",
        "2001:0:c000:207::1",
        "fe80::1",
        "ff02::1",
        "fec0::1",
    ] {
        assert_eq!(Gate::plain().knock_from(bad, |_| {}), Some(Status::Address), "{bad}");
    }
}

#[test]
fn an_address_that_may_be_everybodys_is_granted_only_if_the_admin_says_so() {
    let router = "10.0.0.254";
    let gate = |own: &[&str], also: &[&str]| {
        let mut gate = Gate::plain();
        let also: Vec<Prefix> = also.iter().map(|text| Prefix::parse(text).unwrap()).collect();
        gate.policy = gate.policy.with_also_granted(&also);
        gate.policy.set_private(BTreeSet::new());
        gate.policy.set_own(own.iter().map(|ip| Source::new(ip.parse().unwrap())));
        gate.policy.set_shared([Source::new(router.parse().unwrap())]);
        gate
    };
    let public = ["203.0.113.1", "2001:db8::1", "127.0.0.1", "fe80::1"];
    let private = ["10.0.0.1", "fd00::1"];
    let knock = |own: &[&str], also: &[&str], from: &str| {
        gate(own, also).knock_from(from, |_| {}) == Some(Status::Granted)
    };
    assert!(!knock(&private, &[], router), "the default router");
    assert!(!knock(&private, &["10.0.0.253/32"], router));
    assert!(knock(&private, &["10.0.0.254/32"], router));
    for lan in ["10.0.0.7", "192.168.7.7", "100.64.0.7", "fd00:7::7"] {
        assert!(knock(&private, &[], lan), "{lan}: a neighbour in private networks");
        assert!(!knock(&public, &[], lan), "{lan}: nobody private reaches a public machine");
    }
    assert!(knock(&public, &["10.0.0.0/24"], "10.0.0.7"));
    for peer in ["198.51.100.7", "2001:db8:7::7"] {
        assert!(knock(&public, &[], peer) && knock(&private, &[], peer), "{peer}");
    }
    // A private address of ours, as docker's, says nothing about private addresses elsewhere.
    let docker = ["203.0.113.1", "172.17.0.1", "2001:db8::1", "fd00:17::1"];
    let networks = ["172.17.0.0/16", "10.8.0.0/24", "fd00:17::/64"];
    let networks = networks.map(|text| Prefix::parse(text).unwrap());
    for (from, is_granted) in [
        ("172.17.0.9", true),
        ("10.8.0.9", true),
        ("fd00:17::9", true),
        ("172.18.0.9", false),
        ("10.0.0.7", false),
        ("fd00:7::7", false),
    ] {
        let mut gate = gate(&docker, &[]);
        gate.policy.set_private(networks.into());
        assert_eq!(gate.knock_from(from, |_| {}) == Some(Status::Granted), is_granted, "{from}");
        let through = gate.policy.through_door(
            START,
            &Door { service: ServiceName::new("ssh"), ..Door::default() },
            from.parse().unwrap(),
            &gate.grants,
        );
        assert_eq!(through.is_ok(), is_granted, "{from} through a door");
    }
    // One family says nothing about the other.
    assert!(knock(&["203.0.113.1", "fd00::1"], &[], "fd00:7::7"));
    assert!(!knock(&["203.0.113.1", "fd00::1"], &[], "10.0.0.7"));
}

#[test]
fn a_net_with_an_address_that_may_be_everybodys_is_narrowed_to_the_one_that_asked() {
    let router = Source::new("10.0.0.254".parse().unwrap());
    for (shared, also, from, who) in [
        (None, None, "10.0.0.7", "10.0.0.0/24"),
        (Some(router), None, "10.0.0.7", "10.0.0.7"),
        (Some(router), None, "10.0.1.7", "10.0.1.0/24"),
        (Some(router), Some("10.0.0.254/32"), "10.0.0.7", "10.0.0.0/24"),
        (Some(router), None, "2001:db8::7", "2001:db8::/64"),
    ] {
        let wide = Service { spans: spans(24, 64), ..ssh() };
        let mut gate = Gate::new(wide, test_vectors::client(), 16);
        let also: Vec<Prefix> = also.into_iter().filter_map(Prefix::parse).collect();
        gate.policy = gate.policy.with_also_granted(&also);
        let own = Source::new("10.0.0.1".parse().unwrap());
        gate.policy.set_own([own]);
        gate.policy.set_shared(shared.into_iter().chain([own]));
        assert_eq!(gate.knock_from(from, |_| {}), Some(Status::Granted), "{from}");
        let grant = *gate.grants.list().next().unwrap();
        assert_eq!(grant.key.who(), who, "{shared:?} {also:?}");
        // A route that leads there later ends the net.
        gate.policy.set_shared([Source::new("10.0.1.1".parse().unwrap())]);
        let ends = (who == "10.0.1.0/24").then_some(GrantEnd::Changed);
        assert_eq!(gate.policy.must_end(START.wall, &grant), ends, "{who}");
    }
}

#[test]
fn a_grant_lasts_as_asked_within_the_limits_of_service_client_and_expiry() {
    assert_eq!(Gate::plain().seconds(0), 30);
    assert_eq!(Gate::plain().seconds(299), 299);
    assert_eq!(Gate::plain().seconds(u32::MAX), 300);
    let client = |change: fn(&mut Client)| {
        let mut client = test_vectors::client();
        change(&mut client);
        Gate::new(ssh(), client, 16)
    };
    assert_eq!(limited(|l| l.max_seconds = Some(20)).seconds(0), 20);
    assert_eq!(limited(|l| l.max_seconds = Some(9999)).seconds(9999), 300);
    assert_eq!(client(|c| c.expires = Some(NOON.0 / SECOND + 7)).seconds(0), 7);
}

/// A gate whose only client has these limits.
fn limited(change: impl FnOnce(&mut Limits)) -> Gate {
    Gate::new(ssh(), limited_client(change), 16)
}

fn limited_client(change: impl FnOnce(&mut Limits)) -> Client {
    let mut limits = Limits::default();
    change(&mut limits);
    Client { limits: Some(Arc::new(limits)), ..test_vectors::client() }
}

/// Hours of each day, from the noon of [`START`] on, for so many seconds.
fn hours(seconds: u64) -> Option<Hours> {
    let noon = NOON.0 / SECOND % WEEK;
    // The week of hours begins on a Monday, that of the epoch on a Thursday.
    let begin = (noon + 3 * WEEK / 7) % WEEK;
    let week = std::iter::once(begin..begin + seconds).collect();
    Some(Hours::new("", week, Arc::new(ZoneOffsets::utc())))
}

#[test]
fn a_grant_begins_and_ends_within_the_hours_of_its_client_also_when_the_clock_was_ahead() {
    assert_eq!(limited(|l| l.hours = hours(20)).seconds(0), 20);
    assert_eq!(limited(|l| l.not_before = Some(NOON.0 / SECOND)).seconds(0), 30);
    let first = Some(START.wall.0 / SECOND + 1);
    let mut early = limited(|l| l.not_before = first);
    assert_eq!(early.knock(|_| {}), Some(Status::Denied));
    assert_eq!(early.grants.count(), 0);
    let shut = Some(Hours::new("", [].into(), Arc::new(ZoneOffsets::utc())));
    let mut shut = limited(|l| l.hours = shut);
    assert_eq!(shut.knock(|_| {}), Some(Status::Denied));
    // Whoever is out of hours may still close what is open.
    assert_eq!(shut.knock(|r| r.kind = KnockKind::Close), Some(Status::Closed));
    let latest = Wall(START.wall.0 + 15 * SECOND);
    let gate = limited(|l| l.hours = hours(10));
    let asked = Asked {
        service: ssh().name,
        address: test_vectors::address(),
        proof: AddressProof::Both,
        source_port: 0,
        seconds: 0,
    };
    for (now, latest) in [(START.wall, latest), (latest, latest)] {
        let now = Now { wall: now, ..START };
        let foreseen = gate.policy.foresee(now, latest, CLIENT, &asked, &gate.grants);
        assert_eq!(foreseen, Err(Refusal::Limited(Limited::Hours)));
    }
}

#[test]
fn only_listed_addresses_are_granted_and_no_net_that_is_not_listed_as_a_whole() {
    let from = |text: &str| limited_client(|l| l.from = vec![Prefix::parse(text).unwrap()]);
    let wide = || Service { spans: spans(24, 64), ..ssh() };
    for (list, status, who) in [
        ("10.0.0.0/24", Status::Granted, "10.0.0.0/24"),
        ("10.0.0.0/25", Status::Granted, "10.0.0.7"),
        ("10.0.0.8/32", Status::Denied, ""),
        ("2001:db8::/32", Status::Denied, ""),
    ] {
        let mut gate = Gate::new(wide(), from(list), 16);
        assert_eq!(gate.knock_from("10.0.0.7", |_| {}), Some(status), "{list}");
        let granted = gate.grants.list().next().copied();
        assert_eq!(granted.map(|grant| grant.key.who()).unwrap_or_default(), who, "{list}");
        let Some(grant) = granted else { continue };
        gate.policy.set_clients(vec![from("10.0.0.8/32")].into());
        let end = gate.policy.must_end(START.wall, &grant);
        assert_eq!(end, Some(GrantEnd::Revoked), "{list}");
    }
}

#[test]
fn a_client_has_no_more_live_grants_than_its_line_says() {
    let mut gate = limited(|l| l.max_grants = Some(2));
    for (port, status) in [(1000, Status::Granted), (1001, Status::Granted), (1002, Status::Full)] {
        assert_eq!(gate.knock(|r| r.source_port = port), Some(status));
    }
    // Again for one that it has.
    assert_eq!(gate.knock(|r| r.source_port = 1000), Some(Status::Granted));
    let holder = Holder::Client(CLIENT);
    assert_eq!([0, 2, 5].map(|live| gate.policy.beyond(holder, live)), [0, 0, 3]);
    assert_eq!(Gate::plain().policy.beyond(holder, 5), 0);
}

#[test]
fn an_expired_or_unknown_client_meets_silence_and_nothing_is_stored() {
    for change in
        [(|c| c.expires = Some(NOON.0 / SECOND)) as fn(&mut Client), |c| c.id = ClientId([1; 16])]
    {
        let mut client = test_vectors::client();
        change(&mut client);
        let mut gate = Gate::new(ssh(), client, 16);
        assert_eq!(gate.knock(|_| {}), None);
        assert!(gate.policy.client(START.wall, CLIENT).is_none());
    }
}

#[test]
fn a_forbidden_service_is_denied_and_the_packet_is_used_up() {
    let mut gate = Gate::plain();
    let ssh = ServiceName::new("ssh").unwrap();
    assert_eq!(gate.knock(|r| r.service = ServiceName::new("rdp").unwrap()), Some(Status::Denied));
    let may = |services: &[ServiceName]| {
        ClientTable::from(vec![Client { services: services.into(), ..test_vectors::client() }])
    };
    gate.policy.set_clients(may(&[]));
    assert_eq!(gate.knock(|_| {}), Some(Status::Denied));
    assert_eq!(gate.knock(|r| r.kind = KnockKind::Close), Some(Status::Denied));
    let again = Wall(START.wall.0 + gate.packets);
    gate.policy.set_clients(may(&[ssh]));
    assert_eq!(gate.knock(|r| (r.kind, r.timestamp) = (KnockKind::Close, again)), None);
}

#[test]
fn a_source_port_is_granted_alone_and_beside_every_port() {
    let mut gate = Gate::plain();
    let keys = |gate: &Gate| gate.grants.list().map(|live| live.key.who()).collect::<Vec<_>>();
    assert_eq!(gate.knock(|r| r.source_port = 5555), Some(Status::Granted));
    assert_eq!(keys(&gate), ["192.0.2.7 port 5555"]);
    assert_eq!(gate.knock(|_| {}), Some(Status::Granted));
    assert_eq!(gate.knock(|r| r.source_port = 6666), Some(Status::Granted));
    assert_eq!(keys(&gate), ["192.0.2.7", "192.0.2.7 port 5555", "192.0.2.7 port 6666"]);
    assert_eq!(
        gate.knock(|r| (r.kind, r.source_port) = (KnockKind::Close, 5555)),
        Some(Status::Closed)
    );
    assert_eq!(keys(&gate), ["192.0.2.7", "192.0.2.7 port 6666"], "its own alone");
    assert_eq!(gate.knock(|r| r.kind = KnockKind::Close), Some(Status::Closed));
    assert_eq!(keys(&gate), [""; 0]);
}

fn within(prefixes: &[&str]) -> Service {
    let prefixes = prefixes.iter().map(|prefix| Prefix::parse(prefix).unwrap()).collect();
    Service { source: SourceRule::Within(prefixes), ..ssh() }
}

#[test]
fn a_named_address_within_the_listed_prefixes_is_granted_wherever_the_packet_comes_from() {
    let mut gate = Gate::new(
        within(&["198.51.100.0/24", "2001:db8:1::/48", "203.0.113.0/24"]),
        test_vectors::client(),
        16,
    );
    let named = |text: &str| Some(Source::new(text.parse().unwrap()));
    for (address, from) in [
        ("198.51.100.9", "192.0.2.7"),
        ("2001:db8:1::9", "192.0.2.7"),
        ("198.51.100.10", "2001:db8::7"),
    ] {
        assert_eq!(
            gate.knock_from(from, |r| r.address = named(address)),
            Some(Status::Granted),
            "{address} from {from}"
        );
        assert!(
            gate.grants.list().any(|live| live.key.who() == address),
            "{address}, and not {from}"
        );
    }
    assert_eq!(
        gate.knock_from("192.0.2.7", |_| {}),
        Some(Status::Granted),
        "its own is always right"
    );
    for address in ["198.51.101.9", "2001:db8:2::9", "192.0.2.8"] {
        assert_eq!(
            gate.knock_from("192.0.2.7", |r| r.address = named(address)),
            Some(Status::Address),
            "{address}"
        );
    }
    assert_eq!(
        gate.knock_from("198.51.100.9", |r| r.address = None),
        Some(Status::Address),
        "it must be named"
    );
    assert_eq!(
        gate.knock_from("192.0.2.7", |r| r.address = named("203.0.113.1")),
        Some(Status::Address),
        "never ours"
    );
    assert_eq!(gate.grants.list().count(), 4);
}

#[test]
fn the_receipt_says_which_address_was_granted_and_which_was_seen() {
    let mut gate = Gate::new(
        Service { spans: spans(24, 64), ..within(&["2001:db8::/32"]) },
        test_vectors::client(),
        16,
    );
    let named = Source::new("2001:db8:1:2:3:4:5:6".parse().unwrap());
    let decision = gate.decide(|r| r.address = Some(named), test_vectors::address());
    let Some(Committed::Open(grant)) = commit(vec![decision], |_| Ok(())).unwrap().pop() else {
        panic!("not granted")
    };
    let receipt = gate.grants.open(START, grant).1.receipt(START, 20_513).unwrap();
    assert_eq!((receipt.granted, receipt.observed), (Some(named), test_vectors::address()));
    assert_eq!(receipt.span, spans(32, 64).v6, "a whole net, and the receipt says so");
    assert_eq!(gate.grants.list().next().unwrap().key.who(), "2001:db8:1:2::/64");
}

#[test]
fn a_whole_net_is_granted_by_policy_alone_and_to_no_single_port() {
    let wide = Service { spans: spans(24, 64), ..ssh() };
    let mut gate = Gate::new(wide, test_vectors::client(), 16);
    assert_eq!(gate.knock_from("2001:db8::7", |_| {}), Some(Status::Granted));
    assert_eq!(gate.knock_from("2001:db8::8", |_| {}), Some(Status::Granted), "the same grant");
    assert_eq!(gate.knock_from("192.0.2.7", |_| {}), Some(Status::Granted));
    assert_eq!(gate.knock_from("192.0.2.255", |_| {}), Some(Status::Granted), "the same grant");
    assert_eq!(gate.knock_from("2001:db8::9", |r| r.source_port = 77), Some(Status::Granted));
    let who: Vec<String> = gate.grants.list().map(|live| live.key.who()).collect();
    assert_eq!(who, ["192.0.2.0/24", "2001:db8::/64", "2001:db8::9 port 77"]);
    // After a reload: a net that the service grants no more ends, an address goes on.
    let [v4, v6, host] = [0, 1, 2].map(|nth| *gate.grants.list().nth(nth).unwrap());
    for (v4_length, v6_length, ends) in
        [(24, 64, [false, false]), (32, 64, [true, false]), (23, 56, [true, true])]
    {
        let service = Service { spans: spans(v4_length, v6_length), ..ssh() };
        let policy = Policy::new(vec![service], vec![test_vectors::client()], 16, []);
        for (grant, ends) in [(v4, ends[0]), (v6, ends[1]), (host, false)] {
            let how = policy.must_end(START.wall, &grant);
            assert_eq!(how, ends.then_some(GrantEnd::Changed), "{v4_length} {v6_length}");
        }
    }
    assert_eq!(
        gate.knock_from("2001:db8::aaaa", |r| r.kind = KnockKind::Close),
        Some(Status::Closed)
    );
    assert_eq!(gate.grants.list().count(), 2, "any address of the net closes it");
    let door = Door { name: "side".into(), service: ServiceName::new("ssh"), ..Door::default() };
    let grant = gate
        .policy
        .through_door(START, &door, "2001:db8::7".parse().unwrap(), &gate.grants)
        .ok()
        .unwrap();
    assert_eq!(gate.grants.open_for_door(START, grant).1.key.who(), "2001:db8::7");
}

#[test]
fn a_client_and_a_service_have_limited_grants_and_asking_again_does_not_count() {
    let mut gate = Gate::new(ssh(), test_vectors::client(), 3);
    let from = |gate: &mut Gate, n: u8| gate.knock_from(&format!("10.0.0.{n}"), |_| {});
    assert!((1..=3).all(|n| from(&mut gate, n) == Some(Status::Granted)));
    assert_eq!(from(&mut gate, 4), Some(Status::Full));
    assert_eq!(from(&mut gate, 2), Some(Status::Granted), "its own again");
    let mut gate = Gate::new(Service { max_grants: 3, ..ssh() }, test_vectors::client(), 99);
    assert!((1..=2).all(|n| from(&mut gate, n) == Some(Status::Granted)));
    assert_eq!(from(&mut gate, 3), Some(Status::Full), "the rest is for others");
    assert_eq!(from(&mut gate, 2), Some(Status::Granted), "its own again");
}

#[test]
fn knocks_of_one_batch_count_against_each_other() {
    let mut gate = Gate::new(ssh(), test_vectors::client(), 3);
    let decisions: Vec<Decision> = (1..=5)
        .map(|n| gate.decide(|_| {}, Source::new(format!("10.0.0.{n}").parse().unwrap())))
        .collect();
    let admitted =
        decisions.iter().filter(|decision| matches!(decision, Decision::Admit(_))).count();
    assert_eq!(admitted, 3);
}

#[test]
fn a_close_ends_the_senders_grants_for_the_service_or_for_one_address_of_it() {
    let mut gate = Gate::plain();
    for source in ["10.0.0.1", "10.0.0.2"] {
        assert_eq!(gate.knock_from(source, |_| {}), Some(Status::Granted));
    }
    let one = Source::new("10.0.0.1".parse().unwrap());
    assert_eq!(
        gate.knock(|r| (r.kind, r.address) = (KnockKind::Close, Some(one))),
        Some(Status::Closed)
    );
    assert_eq!(gate.grants.list().count(), 1);
    assert_eq!(
        gate.knock(|r| (r.kind, r.address) = (KnockKind::Close, None)),
        Some(Status::Closed)
    );
    assert_eq!(gate.grants.list().count(), 0);
}

#[test]
fn a_probe_gets_the_observed_address_and_a_challenge_and_grants_nothing() {
    let mut gate = Gate::plain();
    let probe = |r: &mut Request| {
        (r.kind, r.service, r.address) = (KnockKind::Probe, ServiceName::NONE, None)
    };
    let decision = gate.decide(probe, test_vectors::address());
    let done = commit(vec![decision], |_| Ok(())).unwrap().pop();
    let Some(Committed::Tell(answer)) = done else { panic!("not told") };
    assert_eq!((answer.status, answer.source), (Status::Observed, test_vectors::address()));
    let challenge = answer.challenge;
    assert!(challenge.is_some());
    assert_eq!(gate.grants.list().count(), 0);
    let old = Wall(START.wall.0 - 999 * SECOND);
    assert_eq!(
        gate.knock(|r| (r.timestamp, r.challenge) = (old, challenge)),
        Some(Status::Granted)
    );
}

#[test]
fn a_close_reaches_a_grant_that_is_over_only_where_it_cuts_connections() {
    for (cut, reached) in [
        (DisconnectPolicy::Never, 0),
        (DisconnectPolicy::Revoked, 0),
        (DisconnectPolicy::Closed, 1),
    ] {
        let mut gate = Gate::new(Service { cut, ..ssh() }, test_vectors::client(), 16);
        assert_eq!(gate.knock(|_| {}), Some(Status::Granted));
        gate.grants.expire(Now { boot: START.boot.plus(31), ..START });
        assert_eq!(gate.grants.list().count(), 0);
        let decision = gate.decide(|r| r.kind = KnockKind::Close, test_vectors::address());
        let mut stored = Vec::new();
        let mut store = |records: &[Record]| {
            stored = records.to_vec();
            Ok(())
        };
        let done = commit(vec![decision], &mut store).unwrap().pop();
        let Some(Committed::Close(keys, how, _)) = done else { panic!("not closed") };
        assert_eq!((keys.len(), how), (reached, GrantEnd::Closed));
        assert_eq!(
            stored.iter().filter(|record| matches!(record, Record::Ended(_))).count(),
            reached
        );
    }
}

#[test]
fn a_door_grants_its_service_to_grantable_addresses_up_to_the_limit() {
    let mut gate = Gate::new(Service { max_grants: 3, ..ssh() }, test_vectors::client(), 16);
    let door = Door { name: "side".into(), service: ServiceName::new("ssh"), ..Door::default() };
    let mut knock = |door: &Door, source: &str| {
        let grant = gate.policy.through_door(START, door, source.parse().unwrap(), &gate.grants)?;
        Ok::<_, Status>(gate.grants.open_for_door(START, grant))
    };
    let (changes, live) = knock(&door, "192.0.2.9").unwrap();
    assert_eq!((changes.len(), live.seconds, live.key.holder), (1, 30, Holder::door("side")));
    for never in [
        "203.0.113.1",
        "0.0.0.0",
        "127.0.0.1",
        "255.255.255.255",
        "::ffff:192.0.2.9",
        "2002:c000:209::1",
    ] {
        assert_eq!(knock(&door, never).err(), Some(Status::Address), "{never}");
    }
    assert!(knock(&door, "192.0.2.9").is_ok(), "again is no second one");
    assert!(knock(&door, "2001:db8::9").is_ok());
    assert_eq!(knock(&door, "192.0.2.10").err(), Some(Status::Full));
    let elsewhere = Door { service: ServiceName::new("rdp"), ..door.clone() };
    assert_eq!(knock(&elsewhere, "192.0.2.9").err(), Some(Status::Denied));
    assert_ne!(Holder::door("side"), Holder::door("edis"));
}

#[test]
fn a_forward_without_a_target_of_a_family_grants_that_family_nothing() {
    let forward = Forward { to: vec!["192.168.1.10:3389".parse().unwrap()], masquerade: false };
    let mut gate =
        Gate::new(Service { forward: Some(forward), ..ssh() }, test_vectors::client(), 16);
    assert_eq!(gate.knock_from("192.0.2.7", |_| {}), Some(Status::Granted));
    assert_eq!(gate.knock_from("2001:db8::7", |_| {}), Some(Status::Denied));
    let door = Door { name: "side".into(), service: ServiceName::new("ssh"), ..Door::default() };
    let through = |source: &str| {
        gate.policy.through_door(START, &door, source.parse().unwrap(), &gate.grants).err()
    };
    assert_eq!((through("192.0.2.7"), through("2001:db8::7")), (None, Some(Status::Denied)));
}
