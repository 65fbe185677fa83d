//! Two clients behind one address: each has its own grants, and ending those of one does not end
//! those of the other.

use std::time::Duration;

use toctoc::core::knock::{KnockKind, Receipt, Request, Status};

use crate::harness::gate::{Gate, Knocker, RDP, SSH, section, stderr};
use crate::harness::{Host, LONG, SHORT, echoes, until};

/// A gateway with two clients that knock from the same host.
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
        &self, client: &Knocker, family: usize, kind: KnockKind, service: &str, seconds: u32,
    ) -> Receipt {
        let request = client.request(service, self.gate.net.client.ips()[family]);
        client
            .seal(&Request { kind, seconds, ..request })
            .send(&self.gate.net.client, self.gate.net.gateway_ips()[family])
            .expect("a receipt")
    }

    fn open(&self, client: &Knocker, family: usize, service: &str, seconds: u32) {
        assert_eq!(
            self.knock(client, family, KnockKind::Open, service, seconds).status,
            Status::Granted
        );
    }

    fn close(&self, client: &Knocker, family: usize, service: &str) {
        assert_eq!(self.knock(client, family, KnockKind::Close, service, 0).status, Status::Closed);
    }

    fn reaches(&self, family: usize, port: u16, timeout: Duration) -> bool {
        self.gate.net.client.tcp_reaches(self.gate.port(family, port), timeout)
    }

    /// The remaining seconds of the elements in one set, as the kernel lists them.
    fn left(&self, set: &str) -> Vec<u64> {
        let text = self.gate.net.gateway.sh(&format!("nft -j list set inet toctoc {set}"));
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let mut left = Vec::new();
        if let Some(elements) = json.pointer("/nftables/1/set/elem") {
            for element in elements.as_array().expect("a list") {
                left.push(element["elem"]["expires"].as_u64().expect("a timeout"));
            }
        }
        left
    }
}

#[test]
fn the_kernel_holds_the_longer_of_two_grants_and_each_client_ends_only_its_own() {
    let it = Shared::new(|config| config);
    let _ssh = it.gate.net.gateway.tcp_echo(SSH);
    for (family, set) in [(0, "v4/ssh"), (1, "v6/ssh")] {
        it.open(&it.anna, family, "ssh", 600);
        it.open(&it.bert, family, "ssh", 60);
        assert!(
            matches!(it.left(set)[..], [590..=600]),
            "{:?}, not the longer grant in one element",
            it.left(set)
        );
        it.close(&it.anna, family, "ssh");
        assert!(
            matches!(it.left(set)[..], [50..=60]),
            "{:?}, not the remaining time of the other grant",
            it.left(set)
        );
        assert!(it.reaches(family, SSH, LONG));
        it.close(&it.anna, family, "ssh");
        assert!(it.reaches(family, SSH, LONG), "the second close ended the neighbour's grant");
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
    for (family, set) in [(0, "v4/ssh"), (1, "v6/ssh")] {
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
    for (family, set) in [(0, "v4o/rdp"), (1, "v6o/rdp")] {
        // Used up by the neighbour: the close must not let another connection in.
        it.open(&it.anna, family, "rdp", 600);
        it.open(&it.bert, family, "rdp", 60);
        let mut session = it.gate.net.client.connect(it.gate.port(family, RDP), LONG).unwrap();
        assert!(echoes(&mut session, LONG));
        it.close(&it.anna, family, "rdp");
        assert!(!it.reaches(family, RDP, SHORT), "a second connection was accepted");
        assert!(it.left(set).is_empty(), "the grant was armed again");
        assert!(echoes(&mut session, LONG), "the connection was cut");
        // Not used yet: it stays for the neighbour's remaining time and no longer.
        it.open(&it.anna, family, "rdp", 600);
        it.open(&it.bert, family, "rdp", 60);
        it.close(&it.anna, family, "rdp");
        assert!(matches!(it.left(set)[..], [50..=60]), "{:?}", it.left(set));
        assert!(it.reaches(family, RDP, LONG));
        assert!(!it.reaches(family, RDP, SHORT), "a second connection was accepted");
        it.close(&it.bert, family, "rdp");
    }
}

#[test]
fn a_revocation_ends_the_clients_one_connection_grant_and_not_a_neighbours_later_one() {
    for (order, still) in [(["anna", "bert"], true), (["bert", "anna"], false)] {
        let it = Shared::new(|config| config);
        let _rdp = it.gate.net.gateway.tcp_echo(RDP);
        for name in order {
            let client = if name == "anna" { &it.anna } else { &it.bert };
            it.open(client, 0, "rdp", 600);
        }
        it.gate.revoke("anna");
        assert_eq!(it.reaches(0, RDP, if still { LONG } else { SHORT }), still);
        assert!(!it.reaches(0, RDP, SHORT));
    }
}

#[test]
fn the_grants_of_a_client_and_of_a_service_are_limited_and_a_close_makes_room() {
    let it = Shared::new(|config| {
        let config = section(&config, "knock", "max_grants = 16", "max_grants = 2");
        section(&config, "service.ssh", "max_grants = 4096", "max_grants = 4")
    });
    let hosts = [it.gate.net.host(7), it.gate.net.host(8)];
    let open_from =
        |client: &Knocker, host: &Host| client.open(host, "ssh", 0).map(|receipt| receipt.status);
    it.open(&it.anna, 0, "ssh", 600);
    assert_eq!(open_from(&it.anna, &hosts[0]), Some(Status::Granted));
    assert_eq!(open_from(&it.anna, &hosts[1]), Some(Status::Full), "a client may have two grants");
    it.open(&it.anna, 0, "ssh", 600);
    it.open(&it.bert, 0, "ssh", 600);
    assert_eq!(
        open_from(&it.bert, &hosts[1]),
        Some(Status::Full),
        "the last of the four grants is for somebody else"
    );
    let key = it.gate.path("anna.key");
    let output = it
        .gate
        .toctoc(&hosts[1], &["open", "anna", "ssh", "-4", "-i", &key, "--source", "10.90.8.2"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr(&output).contains("the limit of grants is reached"), "{output:?}");
    it.close(&it.anna, 0, "ssh");
    assert_eq!(open_from(&it.bert, &hosts[1]), Some(Status::Granted));
    until("a summary, a heading and three grants", || it.gate.grants().lines().count() == 5);
}
