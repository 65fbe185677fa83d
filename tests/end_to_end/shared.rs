//! Two clients behind one address: each has what is his, and an end of one is no end of the
//! other's.

use std::net::SocketAddr;
use std::time::Duration;

use toctoc::core::knock::{KnockKind, Receipt, Status};

use crate::harness::gate::{Gate, Knocker, RDP, SSH, ok};
use crate::harness::{LONG, SHORT, echoes, eventually};

/// A gateway with two clients who knock from the same host.
struct Shared {
    gate: Gate,
    anna: Knocker,
    bert: Knocker,
}

impl Shared {
    fn new(edit: impl FnOnce(String) -> String) -> Shared {
        let gate = Gate::running(edit);
        let [anna, bert] = ["anna", "bert"].map(|name| gate.enrol(name, "ssh,rdp"));
        Shared { gate, anna, bert }
    }

    fn knock(
        &self,
        who: &Knocker,
        family: usize,
        kind: KnockKind,
        service: &str,
        seconds: u32,
    ) -> Receipt {
        let request = toctoc::core::knock::Request {
            kind,
            seconds,
            ..who.request(service, self.gate.net.client.ips()[family])
        };
        who.seal(&request)
            .send(&self.gate.net.client, self.gate.net.gateway_ips()[family])
            .expect("a receipt")
    }

    fn open(&self, who: &Knocker, family: usize, service: &str, seconds: u32) {
        assert_eq!(
            self.knock(who, family, KnockKind::Open, service, seconds).status,
            Status::Granted
        );
    }

    fn close(&self, who: &Knocker, family: usize, service: &str) {
        assert_eq!(self.knock(who, family, KnockKind::Close, service, 0).status, Status::Closed);
    }

    fn reaches(&self, family: usize, port: u16, timeout: Duration) -> bool {
        self.gate
            .net
            .client
            .tcp_reaches(self.gate.port(family, port), timeout)
    }

    /// Seconds that the kernel says are left of elements in these sets.
    fn left(&self, set: &str) -> Vec<u64> {
        let text = self.gate.net.gateway.sh(&format!("nft -j list set inet toctoc {set}"));
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let elements = json
            .pointer("/nftables/1/set/elem")
            .and_then(|all| all.as_array())
            .cloned()
            .unwrap_or_default();
        elements
            .iter()
            .map(|one| {
                one.pointer("/elem/expires").and_then(|left| left.as_u64()).expect("a timeout")
            })
            .collect()
    }
}

#[test]
fn the_kernel_holds_the_longer_of_two_grants_and_each_client_ends_only_its_own() {
    let it = Shared::new(|config| config);
    let _ssh = it.gate.net.gateway.tcp_echo(SSH);
    for (family, set) in [(0, "time4"), (1, "time6")] {
        it.open(&it.anna, family, "ssh", 600);
        it.open(&it.bert, family, "ssh", 60);
        assert!(
            matches!(it.left(set)[..], [590..=600]),
            "{:?}: the longer one, in one element",
            it.left(set)
        );
        it.close(&it.anna, family, "ssh");
        assert!(
            matches!(it.left(set)[..], [50..=60]),
            "{:?}: what the other has left",
            it.left(set)
        );
        assert!(it.reaches(family, SSH, LONG));
        it.close(&it.anna, family, "ssh");
        assert!(it.reaches(family, SSH, LONG), "twice is once");
        it.close(&it.bert, family, "ssh");
        assert!(!it.reaches(family, SSH, SHORT));
        assert!(it.left(set).is_empty());
    }
}

#[test]
fn a_revoked_clients_grant_ends_at_once_and_its_neighbours_continues() {
    let it = Shared::new(|config| config);
    let _ssh = it.gate.net.gateway.tcp_echo(SSH);
    for family in [0, 1] {
        it.open(&it.anna, family, "ssh", 600);
        it.open(&it.bert, family, "ssh", 60);
    }
    it.gate.revoke("anna");
    for (family, set) in [(0, "time4"), (1, "time6")] {
        assert!(matches!(it.left(set)[..], [30..=60]), "{:?}", it.left(set));
        assert!(it.reaches(family, SSH, LONG));
    }
    let grants = it.gate.grants();
    assert!(grants.contains("bert") && !grants.contains("anna"), "{grants}");
    it.gate.revoke("bert");
    assert!([0, 1].iter().all(|family| !it.reaches(*family, SSH, SHORT)));
}

#[test]
fn a_close_neither_rearms_nor_ends_a_neighbours_one_connection_grant() {
    let it = Shared::new(|config| config);
    let _rdp = it.gate.net.gateway.tcp_echo(RDP);
    for (family, set) in [(0, "oncesyn4"), (1, "oncesyn6")] {
        // Spent by the neighbour: the close must not let another one in.
        it.open(&it.anna, family, "rdp", 600);
        it.open(&it.bert, family, "rdp", 60);
        let mut session = it
            .gate
            .net
            .client
            .connect(it.gate.port(family, RDP), LONG)
            .unwrap();
        assert!(echoes(&mut session, LONG));
        it.close(&it.anna, family, "rdp");
        assert!(!it.reaches(family, RDP, SHORT), "spent is spent");
        assert!(it.left(set).is_empty(), "and seems to be nothing else");
        assert!(echoes(&mut session, LONG), "and what stands stands");
        // Unspent: it stays, for as long as the neighbour has it and no longer.
        it.open(&it.anna, family, "rdp", 600);
        it.open(&it.bert, family, "rdp", 60);
        it.close(&it.anna, family, "rdp");
        assert!(matches!(it.left(set)[..], [50..=60]), "{:?}", it.left(set));
        assert!(it.reaches(family, RDP, LONG));
        assert!(!it.reaches(family, RDP, SHORT), "one, not two");
        it.close(&it.bert, family, "rdp");
    }
}

#[test]
fn a_revocation_ends_the_clients_one_connection_grant_and_not_a_neighbours_later_one() {
    for (first, second, still) in [("anna", "bert", true), ("bert", "anna", false)] {
        let it = Shared::new(|config| config);
        let _rdp = it.gate.net.gateway.tcp_echo(RDP);
        let who = |name: &str| if name == "anna" { &it.anna } else { &it.bert };
        it.open(who(first), 0, "rdp", 600);
        it.open(who(second), 0, "rdp", 600);
        it.gate.revoke("anna");
        assert_eq!(it.reaches(0, RDP, if still { LONG } else { SHORT }), still);
        assert!(!it.reaches(0, RDP, SHORT));
    }
}

#[test]
fn the_grants_of_a_client_and_of_a_service_are_limited_and_a_close_makes_room() {
    let limits = |config: String| {
        let config =
            crate::harness::gate::section(&config, "knock", "max_grants = 16", "max_grants = 2");
        crate::harness::gate::section(&config, "service.ssh", "max_grants = 1024", "max_grants = 3")
    };
    let it = Shared::new(limits);
    let hosts = [it.gate.net.host(7), it.gate.net.host(8)];
    let open_from = |who: &Knocker, host: &crate::harness::Host| {
        who.open(host, "ssh", 0).map(|receipt| receipt.status)
    };
    it.open(&it.anna, 0, "ssh", 600);
    assert_eq!(open_from(&it.anna, &hosts[0]), Some(Status::Granted));
    assert_eq!(open_from(&it.anna, &hosts[1]), Some(Status::Full), "two for one client");
    it.open(&it.anna, 0, "ssh", 600);
    it.open(&it.bert, 0, "ssh", 600);
    assert_eq!(open_from(&it.bert, &hosts[1]), Some(Status::Full), "three for the service");
    let key = it.gate.path("anna.key");
    let output = it
        .gate
        .toctoc(&hosts[1], &["open", "anna", "ssh", "-4", "-i", &key, "--source", "10.90.8.2"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        stderr(&output).contains("as many grants as the gateway allows"),
        "{output:?}"
    );
    it.close(&it.anna, 0, "ssh");
    assert_eq!(open_from(&it.bert, &hosts[1]), Some(Status::Granted));
    assert!(
        eventually(LONG, || it.gate.grants().lines().count() == 4),
        "a heading and three"
    );
}
