//! `toctoc doctor` with faults planted on the way to a gateway, one at a time.

use std::fs;
use std::io::Write;
use std::net::{Ipv6Addr, TcpListener};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::harness::Host;
use crate::harness::gate::{Gate, SSH, ok};

/// A gateway, anna's profile for it, and a service that greets like sshd.
fn gate() -> Gate {
    let gate = Gate::running(|config| config);
    gate.enrol("anna", "ssh");
    let server = gate.net.gateway.inside(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, SSH)));
    let server = server.expect("a free port");
    // It ends with the test program.
    std::thread::spawn(move || {
        for stream in server.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(b"SSH-2.0-planted\r\n"));
        }
    });
    gate
}

/// The options of a short examination.
const QUICK: &str = "--timeout 1 --attempts 2 --json";

fn doctor(gate: &Gate, words: &str) -> Output {
    gate.toctoc_as("anna", &format!("doctor anna {QUICK} {words}"))
}

/// What the doctor says about one thing: its grade, and all the rest as one text.
struct Diagnosis {
    code: i32,
    json: Value,
}

impl Diagnosis {
    fn of(output: &Output) -> Self {
        let json = serde_json::from_slice(&output.stdout);
        let json = json.unwrap_or_else(|_| panic!("{output:?}"));
        Self { code: output.status.code().expect("not killed"), json }
    }

    /// Checks that one finding has all of this.
    #[track_caller]
    fn expect(&self, code: i32, grade: &str, about: &str, words: &[&str]) {
        let list = self.json["findings"].as_array().expect("a list");
        let found = list.iter().any(|finding| {
            let text = format!("{} -> {}", finding["what"], finding["remedy"]);
            finding["about"] == about
                && finding["grade"] == grade
                && words.iter().all(|word| text.contains(word))
        });
        assert!(found, "no {grade} about {about} with {words:?} in {:#}", self.json);
        assert_eq!(self.code, code, "{:#}", self.json);
        if grade == "fail" {
            assert_eq!(self.json["result"], "fail");
        }
    }

    #[track_caller]
    fn expect_nothing_about(&self, about: &str) {
        let list = self.json["findings"].as_array().expect("a list");
        assert!(list.iter().all(|finding| finding["about"] != about), "{:#}", self.json);
    }
}

fn sh(host: &Host, line: &str) {
    host.space.sh(line);
}

#[test]
fn where_nothing_is_wrong_every_step_is_ok_and_the_grant_ends_by_itself() {
    let gate = gate();
    let healthy = Diagnosis::of(&doctor(&gate, ""));
    healthy.expect(0, "ok", "profile", &["anna.toml", "client `anna`"]);
    healthy.expect(0, "ok", "key", &["SHA256:", "in a file"]);
    healthy.expect(0, "ok", "route", &["to 10.90.0.1 from 10.90.0.2"]);
    healthy.expect(0, "ok", "gateway", &["10.90.0.1 answers over UDP port 62201"]);
    healthy.expect(0, "ok", "gateway", &["fd90::1 answers"]);
    healthy.expect(0, "ok", "clock", &["within 2 s"]);
    healthy.expect(0, "ok", "address", &["10.90.0.2, your own"]);
    healthy.expect(0, "ok", "service", &["open for 10 s", "10.90.0.1:22 says `SSH-2.0-planted`"]);
    assert_eq!(healthy.json["result"], "ok", "{:#}", healthy.json);
    let text = ok(&gate.toctoc_as("anna", "doctor anna"));
    assert!(text.contains("\nok    clock: as the gateway's, within 2 s\n"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn a_fault_on_this_machine_is_named_with_what_to_do() {
    let gate = gate();
    let host = &gate.net.client;
    ok(&gate.toctoc(host, &["keygen", "--no-passphrase", "--out", &gate.path("other.key")]));
    let key = gate.path("other.key");
    let words = format!("doctor anna {QUICK} -i {key}");
    let words: Vec<&str> = words.split(' ').collect();
    let wrong_key = Diagnosis::of(&gate.toctoc(host, &words));
    wrong_key.expect(2, "fail", "key", &["but `anna` is enrolled with", "name the key"]);
    wrong_key.expect_nothing_about("gateway");

    let clock = gate.toctoc_at(
        host,
        "-1d",
        &["doctor", "anna", "--json", "--timeout", "1", "-4", "-i", &gate.path("anna.key")],
    );
    let clock = Diagnosis::of(&clock);
    clock.expect(0, "warn", "clock", &["is 1 d behind the gateway's", "set it"]);
    clock.expect(0, "ok", "service", &["SSH-2.0-planted"]);

    sh(
        host,
        "nft add table inet own
        nft add chain inet own out '{ type filter hook output priority 0; }'
        nft add rule inet own out udp dport 62201 drop",
    );
    let firewall = Diagnosis::of(&doctor(&gate, ""));
    firewall.expect(4, "fail", "sending", &["own firewall refuses it", "allow outgoing UDP"]);
    sh(host, "nft delete table inet own");

    sh(host, "ip link set eth0 down");
    let no_route = Diagnosis::of(&doctor(&gate, ""));
    no_route.expect(4, "fail", "route", &["no route", "network is up"]);
    no_route.expect_nothing_about("gateway");
}

#[test]
fn a_name_that_cannot_be_resolved_fails_and_beside_an_address_only_warns() {
    let gate = gate();
    let profile = fs::read_to_string(gate.path("anna.toml")).expect("enrol wrote it");
    let start = profile.find("addresses = [").expect("the key");
    let line = profile[start..].lines().next().expect("a line");
    for (addresses, code, grade) in
        [("[\"nowhere.invalid\"]", 4, "fail"), ("[\"nowhere.invalid\", \"10.90.0.1\"]", 0, "warn")]
    {
        let file = gate.path("home/toctoc/profiles/lost.toml");
        let text = profile.replace(line, &format!("addresses = {addresses}"));
        fs::write(&file, text).expect("our own file");
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_toctoc"));
        command
            .args(["doctor", "lost", "--json", "-i", &gate.path("anna.key")])
            .env("XDG_CONFIG_HOME", gate.path("home"))
            // No name server answers in this namespace.
            .env("RES_OPTIONS", "timeout:1 attempts:1")
            .stdin(Stdio::null());
        let lost = Diagnosis::of(&gate.net.client.space.run(&mut command));
        lost.expect(code, grade, "name", &["nowhere.invalid cannot be resolved", "addresses"]);
    }
}

#[test]
fn a_fault_on_the_way_or_at_the_gateway_is_told_from_one_here() {
    let mut gate = gate();
    sh(
        &gate.net.client,
        "nft add table inet way
        nft add chain inet way in '{ type filter hook input priority 0; }'
        nft add rule inet way in udp sport 62201 drop",
    );
    let blocked = Diagnosis::of(&doctor(&gate, "-4"));
    assert!(!blocked.json.to_string().contains("fd90::1"), "{:#}", blocked.json);
    blocked.expect(
        3,
        "fail",
        "gateway",
        &["answers on TCP port", "UDP is blocked here or on the way"],
    );
    sh(
        &gate.net.client,
        "nft flush chain inet way in
        nft add rule inet way in ip6 nexthdr udp udp sport 62201 drop",
    );
    let one_family = Diagnosis::of(&doctor(&gate, ""));
    one_family.expect(0, "warn", "gateway", &["fd90::1 answers on TCP port"]);
    one_family.expect(0, "ok", "service", &["10.90.0.1:22 says"]);
    sh(
        &gate.net.client,
        "nft flush chain inet way in
        nft add rule inet way in ip saddr 10.90.0.1 drop",
    );
    let dead = Diagnosis::of(&doctor(&gate, "-4"));
    dead.expect(3, "fail", "gateway", &["nothing at all comes back", "is the gateway up"]);
    sh(&gate.net.client, "nft delete table inet way");

    // `rdp` has no server.
    gate.enrol("bert", "rdp,dns");
    let gone = gate.toctoc_as("bert", &format!("doctor bert rdp -4 {QUICK}"));
    let gone = Diagnosis::of(&gone);
    gone.expect(4, "fail", "service", &["10.90.0.1:3389 cannot be reached", "nothing listens"]);
    let file = gate.path("home/toctoc/profiles/bert.toml");
    let profile = fs::read_to_string(&file).expect("enrol wrote it");
    fs::write(&file, profile.replace("default_service = \"rdp\"\n", "")).expect("our own file");
    let unnamed = Diagnosis::of(&gate.toctoc_as("bert", &format!("doctor bert -4 {QUICK}")));
    unnamed.expect(0, "warn", "service", &["not tried", "toctoc doctor bert SERVICE"]);
    let udp = Diagnosis::of(&gate.toctoc_as("bert", &format!("doctor bert:dns -4 {QUICK}")));
    udp.expect(0, "ok", "service", &["open for 10 s", "no TCP port"]);
    let denied = gate.toctoc_as("bert", &format!("doctor bert:ssh -4 {QUICK}"));
    let denied = Diagnosis::of(&denied);
    denied.expect(
        1,
        "fail",
        "service",
        &["does not let this key open ssh", "ask the gateway's admin"],
    );

    gate.revoke("anna");
    let revoked = Diagnosis::of(&doctor(&gate, "-4"));
    revoked.expect(3, "fail", "gateway", &["does not know this client", "toctocd client list"]);
    gate.stop();
    ok(&gate.toctocd(&["guard", "off"]));
    let stopped = Diagnosis::of(&doctor(&gate, "-4"));
    stopped.expect(3, "fail", "gateway", &["refuses UDP port 62201", "systemctl status toctocd"]);
}

#[test]
fn behind_a_nat_the_doctor_says_how_to_open_and_tries_it_that_way() {
    let gate = gate();
    let inner = gate.net.client.space.behind_nat();
    let key = gate.path("anna.key");
    let words = format!("doctor anna -4 {QUICK} -i {key}");
    let words: Vec<&str> = words.split(' ').collect();
    let nat = Diagnosis::of(&gate.toctoc_in(&inner, &words));
    nat.expect(
        0,
        "warn",
        "address",
        &["sees 10.90.0.2, and you are 192.168.7.2", "open anna SERVICE --ask-source"],
    );
    nat.expect(0, "ok", "service", &["10.90.0.1:22 says `SSH-2.0-planted`"]);
}

#[test]
fn an_enrolment_that_is_over_is_the_finding_and_not_the_silence_that_follows_from_it() {
    let gate = Gate::running(|config| config);
    gate.enrol_with("anna", "ssh", &["--expires", "1d"]);
    let key = gate.path("anna.key");
    let words = ["doctor", "anna", "--json", "--identity", &key];
    let over = Diagnosis::of(&gate.toctoc_at(&gate.net.client, "+2d", &words));
    over.expect(2, "fail", "enrolment", &["ended", "import FILE --name anna --replace"]);
    over.expect(2, "ok", "route", &[]);
    over.expect_nothing_about("gateway");
}
