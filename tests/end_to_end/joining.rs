//! Joining by an invitation, with the real programs: one line from the gateway to the laptop, one
//! knock back, and the service opens.

mod disks;
mod killed;

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use serde_json::Value;
use toctoc::keys::invitation::Invitation;

use crate::harness::gate::{Gate, SSH, ok, stderr};
use crate::harness::{LONG, schema};

/// A gateway that serves ssh, and people who are invited to it.
struct Party {
    gate: Gate,
    _ssh: crate::harness::Echo,
}

impl Party {
    fn new() -> Party {
        let gate = Gate::running(|config| config);
        let ssh = gate.net.gateway.tcp_echo(SSH);
        Party { gate, _ssh: ssh }
    }

    /// Makes a key; its fingerprint, as OpenSSH shows it.
    fn key(&self, name: &str) -> String {
        let file = self.gate.path(&format!("{name}.key"));
        ok(&self
            .gate
            .toctoc(&self.gate.net.client, &["keygen", "--no-passphrase", "--out", &file]));
        self.fingerprint(name)
    }

    /// The fingerprint of a key that was made before.
    fn fingerprint(&self, name: &str) -> String {
        let file = self.gate.path(&format!("{name}.key"));
        let shown = Command::new("ssh-keygen").args(["-l", "-f", &file]).output();
        let shown = ok(&shown.expect("ssh-keygen is there"));
        shown.split(' ').nth(1).expect("a fingerprint").to_owned()
    }

    /// The file with the line.
    fn invite(&self, name: &str, more: &[&str]) -> String {
        let file = self.gate.path(&format!("{name}.line"));
        let words = ["invite", name, "--services", "ssh", "--gateway-name", name, "-o", &file];
        ok(&self.gate.toctocd(&[&words, more].concat()));
        file
    }

    /// `toctoc join - < FILE`, from a person without a key of their own but this one.
    fn join(&self, line: &str, key: &str) -> Output {
        self.gate.net.client.space.run(&mut self.join_command(line, key))
    }

    fn join_command(&self, line: &str, key: &str) -> Command {
        let key = self.gate.path(&format!("{key}.key"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_toctoc"));
        command
            .args(["join", "-", "--no-wait", "-i", &key])
            .env("XDG_CONFIG_HOME", self.gate.path("home"))
            .env("HOME", self.gate.path("person"))
            .stdin(File::open(line).expect("an invitation"));
        command
    }

    /// `toctoc WORDS -i KEY`.
    fn toctoc(&self, key: &str, words: &str) -> Output {
        self.gate.toctoc_as(key, words)
    }

    /// The profile and the file of an invitation that waits.
    fn has(&self, name: &str) -> [bool; 2] {
        ["toml", "pending"].map(|ending| {
            let file = self.gate.path(&format!("home/toctoc/profiles/{name}.{ending}"));
            fs::metadata(file).is_ok_and(|file| file.permissions().mode() & 0o077 == 0)
        })
    }

    /// The words that a shell offers behind this line of `toctocd`. `@` is the configuration.
    fn completed(&self, line: &str) -> Vec<String> {
        let line = line.replace('@', &self.gate.config().display().to_string());
        let mut command = Command::new(env!("CARGO_BIN_EXE_toctocd"));
        let run = command.arg("--complete").args(line.split(' ')).output().expect("it runs");
        let shown = ok(&run);
        shown.lines().filter_map(|line| line.split('\t').next()).map(str::to_owned).collect()
    }

    fn lets_in(&self) -> bool {
        self.gate.net.client.tcp_reaches(self.gate.port(0, SSH), LONG)
    }
}

#[test]
fn a_known_key_or_the_first_one_joins_with_one_knock_and_opens_the_service() {
    let mut party = Party::new();
    let fingerprint = party.key("dora");
    party.key("emil");
    for (name, more) in [("dora", ["--key", &fingerprint].as_slice()), ("emil", &["--auto"])] {
        let line = party.invite(name, &[more, &["--expires", "30d"]].concat());
        let joined = party.join(&line, name);
        let said = ok(&joined);
        assert!(said.contains(&format!("joined: `{name}` opens ssh until ")), "{said}");
        assert!(said.contains(", in 30 d") || said.contains(", in 29 d"), "{said}");
        assert!(said.contains(&format!("toctoc ssh-config {name} --install")), "{said}");
        assert_eq!(party.has(name), [true, false]);
        ok(&party.toctoc(name, &format!("open {name} -4")));
        assert!(party.lets_in(), "{name}");
        ok(&party.toctoc(name, &format!("close {name} -4")));
        let list = ok(&party.gate.toctoc(&party.gate.net.client, &["list"]));
        assert!(!list.contains("enrolled without an end"), "{list}");
        // A second time: the profile is not touched.
        let again = party.join(&line, name);
        assert!(stderr(&again).contains("you have a profile"), "{}", stderr(&again));
        // The answer was lost: the same key is told the same again.
        fs::remove_file(party.gate.path(&format!("home/toctoc/profiles/{name}.toml"))).unwrap();
        ok(&party.join(&line, name));
        ok(&party.toctoc(name, &format!("open {name} -4")));
    }
    let list = ok(&party.gate.toctocd(&["client", "list"]));
    assert!(list.contains(&fingerprint) && !list.contains("invited"), "{list}");
    party.gate.daemon().wait_for("emil: joined with SHA256:");
    // Killed, not stopped: whoever has joined is a client of the next one.
    party.gate.kill();
    party.gate.start();
    ok(&party.toctoc("emil", "open emil -4"));
}

#[test]
fn with_json_a_join_is_the_profile_or_who_waits_or_why_not() {
    let party = Party::new();
    let fingerprint = party.key("dora");
    party.key("emil");
    let line = party.invite("dora", &[]);
    let join = |key: &str| -> (Option<i32>, Value) {
        let mut command = party.join_command(&line, key);
        let run = party.gate.net.client.space.run(command.arg("--json"));
        let shown = String::from_utf8_lossy(&run.stdout);
        schema::check("toctoc", &["join"], &shown);
        (run.status.code(), serde_json::from_str(&shown).expect("JSON"))
    };
    let (code, waits) = join("dora");
    assert_eq!((code, &waits[0]["pending"]), (Some(1), &true.into()), "{waits}");
    assert_eq!(waits[0]["key"], fingerprint);
    let (code, refused) = join("emil");
    assert_eq!((code, &refused["result"]), (Some(1), &"fault".into()), "{refused}");
    assert!(refused["what"].as_str().unwrap().contains("another key has used"), "{refused}");
    ok(&party.gate.toctocd(&["client", "approve", "dora", &fingerprint]));
    let (code, joined) = join("dora");
    assert_eq!((code, &joined[0]["profile"]), (Some(0), &"dora".into()), "{joined}");
    let list = ok(&party.gate.toctoc(&party.gate.net.client, &["list", "--json"]));
    assert_eq!(joined, serde_json::from_str::<Value>(&list).expect("JSON"));
    party.gate.toctocd(&["client", "revoke", "dora"]);
    fs::remove_file(party.gate.path("home/toctoc/profiles/dora.toml")).unwrap();
    let (code, silent) = join("dora");
    assert_eq!((code, &silent["result"]), (Some(3), &"fault".into()), "{silent}");
}

#[test]
fn a_key_waits_for_approval_and_the_next_open_finds_out_by_itself() {
    let party = Party::new();
    let fingerprint = party.key("dora");
    let other = party.key("emil");
    let line = party.invite("dora", &[]);
    let waits = party.join(&line, "dora");
    assert_eq!(waits.status.code(), Some(1));
    let words = format!("toctocd client approve dora {fingerprint}");
    let said = String::from_utf8_lossy(&waits.stdout).into_owned();
    assert!(said.contains(&words), "{said}");
    assert_eq!(party.has("dora"), [false, true]);
    let early = party.toctoc("dora", "open dora -4");
    assert!(stderr(&early).contains(&words) && !early.status.success(), "{}", stderr(&early));
    // Both ends show that it waits.
    let list = ok(&party.gate.toctoc(&party.gate.net.client, &["list"]));
    assert!(list.contains("dora: waits for approval at 10.90.0.1, fd90::1, as `dora`"), "{list}");
    assert!(list.contains(&fingerprint) && !list.contains("no profiles"), "{list}");
    let json = ok(&party.gate.toctoc(&party.gate.net.client, &["list", "--json"]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json[0]["profile"], &json[0]["pending"]), (&"dora".into(), &true.into()));
    let status = party.gate.status();
    assert!(status.contains("waiting     a key asks to join as dora: toctocd client approve dora"));
    assert_eq!(party.gate.status_json()["waiting"], serde_json::json!(["dora"]));
    assert_eq!(party.completed("client approve -c @ "), ["dora"]);
    assert_eq!(party.completed("client forgive -c @ "), [] as [&str; 0]);
    assert_eq!(party.completed("client revoke -c @ "), ["dora"]);

    let wrong = party.gate.toctocd(&["client", "approve", "dora", &other]);
    assert!(stderr(&wrong).contains("nobody was let in"), "{}", stderr(&wrong));
    assert!(!party.toctoc("dora", "open dora -4").status.success());
    ok(&party.gate.toctocd(&words.split(' ').skip(1).collect::<Vec<_>>()));
    ok(&party.toctoc("dora", "open dora -4"));
    assert!(party.lets_in());
    assert_eq!(party.has("dora"), [true, false]);
    assert_eq!(party.gate.status_json()["waiting"], serde_json::json!([]));
    assert_eq!(party.completed("client approve -c @ "), [] as [&str; 0]);
    assert_eq!(party.completed("client forgive -c @ "), ["dora"]);

    // Somebody who has changed their mind.
    let line = party.invite("emil", &[]);
    assert_eq!(party.join(&line, "emil").status.code(), Some(1));
    let removed = party.gate.toctoc(&party.gate.net.client, &["remove", "emil", "--yes"]);
    ok(&removed);
    let said = stderr(&removed);
    assert!(said.contains("the invitation can still be used"), "{said}");
    assert!(said.contains("toctocd client revoke emil"), "{said}");
    assert_eq!(party.has("emil"), [false, false]);
}

#[test]
fn whoever_has_read_the_line_gets_nothing_once_it_is_used_or_revoked() {
    let mut party = Party::new();
    party.key("dora");
    party.key("mallory");
    let line = party.invite("dora", &["--auto"]);
    ok(&party.join(&line, "dora"));
    let taken = party.join(&line, "mallory");
    // Her own profile is there already: he is somebody else.
    assert!(stderr(&taken).contains("you have a profile"), "{}", stderr(&taken));
    fs::rename(
        party.gate.path("home/toctoc/profiles/dora.toml"),
        party.gate.path("home/toctoc/profiles/kept.toml"),
    )
    .unwrap();
    let taken = party.join(&line, "mallory");
    assert_eq!(taken.status.code(), Some(1));
    assert!(stderr(&taken).contains("another key has used this invitation"), "{}", stderr(&taken));
    party.gate.daemon().wait_for("ALARM: two keys had the invitation of dora");
    ok(&party.toctoc("dora", "open kept -4"));
    party.gate.revoke("dora");
    assert!(party.gate.nothing_is_open());
    assert_eq!(party.toctoc("dora", "open kept -4 --attempts 1").status.code(), Some(3));
    let silence = party.join(&line, "mallory");
    assert_eq!(silence.status.code(), Some(3), "{}", stderr(&silence));
    assert!(stderr(&silence).contains("may have been taken back"), "{}", stderr(&silence));
}

#[test]
fn a_key_that_is_enrolled_already_is_denied_and_a_forgiven_one_joins_again_under_its_newer_id() {
    let mut party = Party::new();
    party.gate.enrol("anna", "ssh");
    let line = party.invite("other", &["--auto"]);
    let denied = party.join(&line, "anna");
    assert_eq!(denied.status.code(), Some(1), "{denied:?}");
    assert!(stderr(&denied).contains("or that key is enrolled at 10.90.0.1"), "{denied:?}");
    party.gate.daemon().wait_for("this key is enrolled already");
    // Nobody has the place, and the next start can read both files.
    party.gate.stop();
    party.gate.start();
    party.key("dora");
    ok(&party.join(&line, "dora"));
    ok(&party.toctoc("dora", "open other -4"));
    let profile = party.gate.path("home/toctoc/profiles/other.toml");
    let first = fs::read_to_string(&profile).unwrap();
    ok(&party.gate.toctocd(&["client", "forgive", "other"]));
    assert_eq!(party.toctoc("dora", "open other -4 --attempts 1").status.code(), Some(3));
    fs::remove_file(&profile).unwrap();
    ok(&party.join(&line, "dora"));
    assert_ne!(fs::read_to_string(&profile).unwrap(), first, "another id and other secrets");
    ok(&party.toctoc("dora", "open other -4"));
}

#[test]
fn a_laptop_without_a_key_and_with_a_wrong_clock_joins_all_the_same() {
    let party = Party::new();
    let line = party.invite("dora", &["--auto"]);
    let words =
        format!("faketime -m --exclude-monotonic -f +3y \"$0\" join - --no-passphrase < '{line}'");
    let mut command = Command::new("sh");
    command.args(["-c", &words, env!("CARGO_BIN_EXE_toctoc")]);
    command
        .env("XDG_CONFIG_HOME", party.gate.path("home"))
        .env("HOME", party.gate.path("person"))
        .env_remove("SSH_AUTH_SOCK");
    let joined = party.gate.net.client.space.run(&mut command);
    ok(&joined);
    assert!(stderr(&joined).contains("home/toctoc/id_ed25519"), "{}", stderr(&joined));
    let open = ["open", "dora", "-4"];
    ok(&party.gate.toctoc(&party.gate.net.client, &open));
    assert!(party.lets_in());
}

#[test]
fn a_line_that_names_a_known_gateway_with_another_key_is_refused_before_anything_is_sent() {
    let party = Party::new();
    party.key("dora");
    party.gate.enrol("anna", "ssh");
    let line = party.invite("dora", &["--auto"]);
    let honest = Invitation::parse(&fs::read_to_string(&line).unwrap()).ok().unwrap();
    let hostile = Invitation { gateway_public: [9; 32], ..honest };
    fs::write(&line, hostile.print().as_bytes()).unwrap();
    let refused = party.join(&line, "dora");
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("the id of the gateway of your profile `anna`"));
    let list = ok(&party.gate.toctocd(&["client", "list"]));
    assert!(list.contains("dora") && list.contains("invited until"), "{list}");
}
