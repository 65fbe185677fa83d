//! Whole commands of `toctoc`: a temporary home, a gateway on loopback, and what the user sees.

use clap::Parser;
use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::ask::tests as gateway;
use super::*;
use crate::core::door::Step;
use crate::core::knock::Status;
use crate::core::types::SECOND;
use crate::edge::clock;
use crate::keys::profile::{Fallback, Profile};

/// A user's home, and the answer that the user gives to a question.
struct User {
    home: tempfile::TempDir,
    says_yes: bool,
    /// The socket of the user's ssh-agent.
    agent: Option<PathBuf>,
}

/// What a command printed, and its exit code.
#[derive(Debug)]
struct Run {
    code: u8,
    out: String,
    err: String,
}

fn parse(words: &str) -> ToctocCommand {
    let words = [vec!["toctoc"], words.split_whitespace().collect()].concat();
    ToctocCommand::try_parse_from(words).expect("the command line is right")
}

impl User {
    /// A user with the private key that [`gateway::profile`] names.
    fn new() -> Self {
        let user = Self { home: tempfile::tempdir().unwrap(), says_yes: false, agent: None };
        fs::create_dir_all(user.path(".config/toctoc/profiles")).unwrap();
        let key = gateway::identity().print("c", None).unwrap();
        user.write(".config/toctoc/id_ed25519", &key, 0o600);
        user
    }

    fn paths(&self) -> UserPaths {
        let home = Some(self.home.path().to_owned());
        UserPaths { home, agent: self.agent.clone(), ..UserPaths::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// Adds the profile `gate`.
    fn with(self, profile: &Profile) -> Self {
        self.write(".config/toctoc/profiles/gate.toml", &profile.print(), 0o600);
        self
    }

    fn run(&self, words: &str) -> Run {
        self.run_command(&parse(words))
    }

    /// Runs a sealed command with one knock and no time for an answer.
    fn run_without_answer(&self, words: &str) -> Run {
        let mut command = parse(&format!("{words} --attempts 1"));
        match &mut command {
            ToctocCommand::Open(args) => args.common.timeout = 0,
            ToctocCommand::Probe(args) => args.common.timeout = 0,
            other => panic!("{other:?}"),
        }
        self.run_command(&command)
    }

    fn run_command(&self, command: &ToctocCommand) -> Run {
        let mut out = Vec::new();
        let mut err = Vec::new();
        let code = Console {
            paths: self.paths(),
            out: &mut out,
            err: &mut err,
            fits_out: false,
            fits_err: false,
            confirm: &|question| {
                let known = ["whoever sees it can repeat it", "Remove the profile `gate`?"];
                assert!(known.iter().any(|part| question.contains(part)), "{question}");
                self.says_yes
            },
        }
        .run(command);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Run { code, out: text(out), err: text(err) }
    }
}

impl Run {
    /// Checks the exit code, and parts of both outputs.
    fn expect(&self, code: u8, out: &[&str], err: &[&str]) {
        assert_eq!(self.code, code, "{self:#?}");
        for part in out {
            assert!(self.out.contains(part), "no {part:?} in {self:#?}");
        }
        for part in err {
            assert!(self.err.contains(part), "no {part:?} in {self:#?}");
        }
    }
}

/// A gateway that answers every knock with `status`, or none.
fn answering(status: Option<Status>) -> gateway::Gateway {
    gateway::Gateway::start(
        gateway::today(),
        Box::new(move |knocked| {
            let status = match knocked.request.kind {
                KnockKind::Probe => status.map(|_| Status::Observed),
                _ => status,
            };
            (vec![], status.map(|status| gateway::receipt(status, knocked.source)))
        }),
    )
}

fn user_of(gateway: &gateway::Gateway) -> User {
    User::new().with(&gateway::profile(gateway.address.port()))
}

#[test]
fn an_open_sends_what_the_options_say() {
    let gateway = answering(Some(Status::Granted));
    let user = user_of(&gateway);
    user.run("open gate ssh").expect(DONE, &["granted: 127.0.0.1 may reach"], &[]);
    let path = user.path(".config/toctoc/profiles/gate.toml");
    user.run(&format!("open {} web --seconds 77", path.display())).expect(DONE, &["granted"], &[]);
    user.run("open gate ssh --source 198.51.100.4 --source-port 4711").expect(DONE, &[], &[]);
    user.run("open gate ssh --ask-source").expect(DONE, &["what the gateway saw of you"], &[]);
    let [plain, long, source, probe, probed] = gateway.requests().try_into().unwrap();
    assert_eq!((plain.service.as_str(), plain.seconds, plain.source_port), ("ssh", 0, 0));
    assert_eq!((long.service.as_str(), long.seconds), ("web", 77));
    let given = source.address.unwrap().to_string();
    assert_eq!((given.as_str(), source.source_port), ("198.51.100.4", 4711));
    assert_eq!((probe.kind, probed.kind), (KnockKind::Probe, KnockKind::Open));
}

#[test]
fn close_and_probe_send_their_own_kind() {
    let gateway = answering(Some(Status::Closed));
    let user = user_of(&gateway);
    user.run("close gate ssh").expect(DONE, &["closed: you have no grant for ssh"], &[]);
    user.run("probe gate").expect(DONE, &["127.0.0.1 answered: it sees you as"], &[]);
    let kinds: Vec<KnockKind> = gateway.requests().iter().map(|request| request.kind).collect();
    assert_eq!(kinds, [KnockKind::Close, KnockKind::Probe]);
}

#[test]
fn a_default_service_is_used_and_without_one_the_profiles_services_are_listed() {
    let gateway = answering(Some(Status::Granted));
    let mut profile = gateway::profile(gateway.address.port());
    profile.services.push(ServiceName::new("web").unwrap());
    let user = User::new().with(&profile);
    user.run("open gate").expect(USAGE, &[], &["no service given", "toctoc open gate SERVICE"]);
    user.run("close gate").expect(USAGE, &[], &["toctoc close gate SERVICE, one of: ssh, web"]);
    user.run("open gate:ssh web").expect(USAGE, &[], &["two services are named: ssh and web"]);
    profile.default_service = Some(gateway::ssh());
    let user = user.with(&profile);
    user.run("open gate").expect(DONE, &["granted"], &[]);
    user.run("open gate:web").expect(DONE, &["granted"], &[]);
    user.run("open gate:web web").expect(DONE, &["granted"], &[]);
    profile.default_service = None;
    profile.services.pop();
    user.with(&profile).run("open gate").expect(DONE, &["granted"], &[]);
    let names = gateway.requests().into_iter().map(|request| request.service.to_string());
    assert_eq!(names.collect::<Vec<_>>(), ["ssh", "web", "web", "ssh"]);
}

#[test]
fn a_refusal_is_exit_code_1_and_silence_is_3() {
    let refusing = answering(Some(Status::Denied));
    user_of(&refusing).run("open gate ssh").expect(REFUSED, &[], &["refused: "]);
    let silent = answering(None);
    let user = user_of(&silent);
    let no_answer = "no answer from 127.0.0.1 to 1 knock; ssh may be open";
    user.run_without_answer("open gate ssh").expect(NO_ANSWER, &[], &[no_answer]);
    let json = user.run_without_answer("open gate ssh --json");
    json.expect(NO_ANSWER, &["\"result\": \"no-answer\""], &[]);
}

#[test]
fn each_address_of_the_gateway_is_tried_until_one_answers() {
    let gateway = answering(Some(Status::Granted));
    let mut profile = gateway::profile(gateway.address.port());
    // Nothing answers at the first one. On loopback each is an address of this machine.
    profile.addresses = ["127.0.0.9", "127.0.0.1", "127.0.0.8"].map(String::from).into();
    let user = User::new().with(&profile);
    let run = user.run("open gate ssh --timeout 1 --attempts 3");
    run.expect(DONE, &["may reach"], &["no answer from 127.0.0.9; another address answered"]);
    assert!(!run.err.contains("127.0.0.8"), "{run:#?}");
    let open = gateway.requests();
    assert_eq!(open.len(), 1, "{open:?}");

    profile.addresses = (1..=6).map(|last| format!("127.0.7.{last}")).collect();
    let run = User::new().with(&profile).run_without_answer("open gate ssh");
    let tried = "no answer from 127.0.7.1 to 1 knock, from 127.0.7.2 to 1 knock, \
                 from 127.0.7.3 to 1 knock, from 127.0.7.4 to 1 knock; ";
    let not_tried = "not tried, too many addresses: 127.0.7.5, 127.0.7.6\n";
    run.expect(NO_ANSWER, &[], &[tried, not_tried]);
}

#[test]
fn without_an_address_of_the_family_nothing_is_sent_and_the_code_is_4() {
    let user = User::new().with(&gateway::profile(9));
    user.run("open gate ssh -6").expect(UNREACHABLE, &[], &["no address of that family"]);
    let json = user.run("probe gate -6 --json");
    json.expect(UNREACHABLE, &["\"result\": \"fault\"", "\"remedy\""], &[]);
    assert_eq!(json.err, "");
}

#[test]
fn json_goes_to_standard_output_alone() {
    let gateway = answering(Some(Status::Granted));
    let user = user_of(&gateway);
    let run = user.run("open gate ssh --json");
    let value: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!((run.code, run.err.as_str(), &value["result"]), (DONE, "", &"granted".into()));
    let missing = user.run("open nobody ssh --json");
    missing.expect(USAGE, &["\"result\": \"fault\"", "no profile `nobody`"], &[]);
}

#[test]
fn a_missing_profile_names_those_that_there_are() {
    User::new().run("open gate ssh").expect(USAGE, &[], &["no profile `gate`", "toctoc join"]);
    let user = User::new().with(&gateway::profile(9));
    user.run("open gte ssh").expect(USAGE, &[], &["no profile `gte`", "you have: gate"]);
    let advice = ["`ssh` is a service and not a profile", "name the profile first: gate ssh,"];
    user.run("open ssh").expect(USAGE, &[], &advice);
    user.run("open a,b ssh").expect(USAGE, &[], &["`a,b` cannot be the name of a profile"]);
}

#[test]
fn a_file_with_secrets_that_others_may_read_is_refused_with_the_command_to_run() {
    let user = User::new();
    let text = gateway::profile(9).print();
    let profile = user.write(".config/toctoc/profiles/gate.toml", &text, 0o644);
    let remedy = format!("chmod 600 {}", profile.display());
    user.run("open gate ssh").expect(USAGE, &[], &["others may use it (mode 0644)", &remedy]);
    let user = User::new().with(&gateway::profile(9));
    let key = user.write(".config/toctoc/id_ed25519", "never read", 0o640);
    let remedy = format!("chmod 600 {}", key.display());
    user.run("open gate ssh").expect(
        USAGE,
        &[],
        &["the private key of `laptop`, SHA256:", &remedy],
    );
}

#[test]
fn the_private_key_must_be_the_enrolled_one() {
    let user = User::new().with(&gateway::profile(9));
    let other = user.path("other");
    user.run(&format!("keygen --no-passphrase --out {}", other.display())).expect(
        DONE,
        &["give this line to the gateway's admin:\nssh-ed25519 AAAA"],
        &[],
    );
    let run = user.run(&format!("open gate ssh --identity {}", other.display()));
    run.expect(USAGE, &[], &["but `laptop` is enrolled with SHA256:"]);
    fs::rename(&other, user.path(".config/toctoc/id_ed25519")).unwrap();
    user.run("open gate ssh").expect(
        USAGE,
        &[],
        &["id_ed25519: another key, SHA256:", "--identity"],
    );
    fs::remove_file(user.path(".config/toctoc/id_ed25519")).unwrap();
    user.run("open gate ssh").expect(
        USAGE,
        &[],
        &["/.ssh/id_ed25519: no such file", "SSH_AUTH_SOCK is not set"],
    );
}

#[test]
fn a_key_that_the_profile_names_is_found_beside_the_profile_or_in_the_home() {
    let gateway = answering(Some(Status::Granted));
    let user = User::new();
    let profiles = user.path(".config/toctoc/profiles");
    fs::rename(user.path(".config/toctoc/id_ed25519"), profiles.join("key")).unwrap();
    let mut profile = gateway::profile(gateway.address.port());
    profile.identity = Some("key".into());
    let user = user.with(&profile);
    user.run("open gate ssh").expect(DONE, &["granted"], &[]);
    fs::rename(profiles.join("key"), user.path("key")).unwrap();
    user.run("open gate ssh").expect(USAGE, &[], &["profiles/key: no such file"]);
    profile.identity = Some("~/key".into());
    user.with(&profile).run("open gate ssh").expect(DONE, &["granted"], &[]);
}

#[test]
fn keygen_makes_a_private_file_and_never_overwrites() {
    let user = User::new();
    let key = user.path(".config/toctoc/id_ed25519");
    let before = fs::read(&key).unwrap();
    user.run("keygen --no-passphrase").expect(USAGE, &[], &["exists already; nothing was changed"]);
    assert_eq!(fs::read(&key).unwrap(), before);
    fs::remove_file(&key).unwrap();
    user.run("keygen --no-passphrase --comment me@here").expect(DONE, &[" me@here\n"], &[]);
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    fs::remove_file(&key).unwrap();
    let public = "id_ed25519.pub: exists already";
    user.run("keygen --no-passphrase").expect(USAGE, &[], &[public]);
    assert!(!key.exists());
}

#[test]
fn an_import_is_private_and_replaces_only_when_asked() {
    let user = User::new();
    let text = gateway::profile(9).print();
    let file = user.write("laptop.toml", &text, 0o644);
    let import = format!("import {} --name gate", file.display());
    let warning = format!("(mode 0644): chmod 600 {}", file.display());
    user.run(&import).expect(
        DONE,
        &["imported as gate: opens ssh\n  toctoc open gate"],
        &["contains the same secrets: remove it", &warning],
    );
    let path = user.path(".config/toctoc/profiles/gate.toml");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_to_string(&path).unwrap(), *text);
    user.run(&import).expect(USAGE, &[], &["exists already", "--replace"]);
    user.run(&format!("{import} --replace")).expect(DONE, &["imported as gate"], &[]);
    let bad = user.run(&format!("import {} --name ..", file.display()));
    bad.expect(USAGE, &[], &["`..` cannot be the name of a profile"]);
}

#[test]
fn an_import_without_its_private_key_says_how_to_name_it() {
    let user = User::new();
    fs::remove_file(user.path(".config/toctoc/id_ed25519")).unwrap();
    let file = user.write("laptop.toml", &gateway::profile(9).print(), 0o600);
    let run = user.run(&format!("import {}", file.display()));
    run.expect(DONE, &["imported as 127.0.0.1"], &["its private key (SHA256:", "--identity"]);
    assert!(!run.err.contains("chmod"), "{run:#?}");
}

#[test]
fn an_import_from_standard_input_leaves_no_file_to_remove() {
    let user = User::new();
    let paths = user.paths();
    let ToctocCommand::Import(args) = parse("import") else { unreachable!("parsed as import") };
    let text = gateway::profile(9).print();
    let output = import::import(&paths, &args, &mut text.as_bytes()).unwrap();
    assert!(output.out.starts_with("imported as 127.0.0.1"), "{}", *output.out);
    assert_eq!(output.err, "");
    let fault = import::import(&paths, &args, &mut b"hello".as_slice()).err().unwrap();
    assert!(fault.what.starts_with("standard input:1:"), "{fault}");
}

/// A user whose profile has the sequence of a door of two UDP ports, and those ports.
fn with_fallback(gateway: &gateway::Gateway, offer: bool) -> (User, [UdpSocket; 2]) {
    let door = [0; 2].map(|_| UdpSocket::bind("127.0.0.1:0").unwrap());
    let mut sequence = Vec::new();
    for port in &door {
        port.set_nonblocking(true).unwrap();
        sequence.push(Step::udp(port.local_addr().unwrap().port()));
    }
    let mut profile = gateway::profile(gateway.address.port());
    profile.fallback = Some(Fallback { sequence, offer });
    (User::new().with(&profile), door)
}

/// The number of packets to each port of the door since the last call.
fn hits(door: &[UdpSocket; 2]) -> [usize; 2] {
    [0, 1].map(|port| std::iter::from_fn(|| door[port].recv(&mut [0; 9]).ok()).count())
}

#[test]
fn a_classic_sequence_is_sent_only_by_its_option() {
    let gateway = answering(None);
    let (user, door) = with_fallback(&gateway, false);
    user.run_without_answer("open gate ssh").expect(
        NO_ANSWER,
        &[],
        &["toctoc open --classic gate"],
    );
    assert_eq!(hits(&door), [0, 0]);
    let sent = ["sent in cleartext: 2 packets to 127.0.0.1"];
    user.run("open gate --classic").expect(DONE, &sent, &[]);
    user.run("open --classic gate ssh --source 127.0.0.3").expect(DONE, &sent, &[]);
    assert_eq!(hits(&door), [2, 2]);
    user.run("open gate --classic -6").expect(UNREACHABLE, &[], &["no address of that family"]);
    let mixed = user.run("open gate --classic -4 --source ::1");
    mixed.expect(USAGE, &[], &["--source is not an address of the family"]);
    assert_eq!(hits(&door), [0, 0]);
    let user = user_of(&gateway);
    let none = ["`gate` has no classic sequence", "--door NAME"];
    user.run("open gate --classic").expect(USAGE, &[], &none);
}

#[test]
fn an_offered_sequence_is_sent_only_after_silence_and_a_yes() {
    let silent = answering(None);
    for (offer, says_yes, code, sent) in
        [(true, false, NO_ANSWER, 0), (true, true, DONE, 1), (false, true, NO_ANSWER, 0)]
    {
        let (mut user, door) = with_fallback(&silent, offer);
        user.says_yes = says_yes;
        user.run_without_answer("open gate ssh").expect(code, &[], &["no answer from"]);
        assert_eq!(hits(&door), [sent, sent], "{offer} {says_yes}");
        user.run_without_answer("open gate ssh --json").expect(NO_ANSWER, &[], &[]);
        user.run_without_answer("probe gate").expect(NO_ANSWER, &[], &[]);
        assert_eq!(hits(&door), [0, 0], "never with --json, never for a probe");
    }
    let granting = answering(Some(Status::Granted));
    let (mut user, door) = with_fallback(&granting, true);
    user.says_yes = true;
    user.run("open gate ssh").expect(DONE, &["granted"], &[]);
    assert_eq!(hits(&door), [0, 0], "an answered knock needs no fallback");
}

#[test]
fn profiles_are_listed_without_their_sequences_and_a_broken_one_is_reported() {
    let gateway = answering(None);
    let (user, door) = with_fallback(&gateway, true);
    let port = door[0].local_addr().unwrap().port().to_string();
    let text = user.run("profiles");
    text.expect(DONE, &["gate: opens ssh at 127.0.0.1, as `laptop`\n", "offered after"], &[]);
    let json = user.run("profiles --json");
    let list: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((&list[0]["classic"], &list[0]["client"]), (&"ask".into(), &"laptop".into()));
    assert!(!text.out.contains(&port) && !json.out.contains(&format!("{port}/udp")));
    user.write(".config/toctoc/profiles/broken.toml", "x", 0o600);
    user.run("profiles").expect(DONE, &["gate: "], &["broken.toml:1:"]);
    let json = user.run("profiles --json");
    let list: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    let named = |index: usize| list[index]["profile"].as_str();
    assert_eq!((named(0), named(1)), (Some("broken"), Some("gate")));
    assert!(list[0]["what"].as_str().is_some_and(|what| what.contains("broken.toml:1:")));
    User::new().run("profiles").expect(DONE, &["no profiles; ask a gateway's admin"], &[]);
}

#[test]
fn commands_without_a_profile_take_the_only_one_or_the_chosen_one() {
    let gateway = answering(Some(Status::Granted));
    User::new().run("open").expect(USAGE, &[], &["you have no profile yet", "toctoc join"]);
    let user = user_of(&gateway);
    user.run("open").expect(DONE, &["granted"], &[]);
    user.run("default").expect(DONE, &["gate:ssh\n"], &[]);
    let text = gateway::profile(9).print();
    user.write(".config/toctoc/profiles/work.toml", &text, 0o600);
    let several = ["you have several: gate, work", "toctoc default gate"];
    user.run("open").expect(USAGE, &[], &several);
    user.run("default").expect(USAGE, &[], &several);
    user.run("default nobody").expect(USAGE, &[], &["no profile `nobody`"]);
    user.run("default gate").expect(DONE, &["now use `gate`"], &[]);
    user.run("open").expect(DONE, &["granted"], &[]);
    user.run("list").expect(DONE, &["gate (default): opens ssh", "work: opens ssh"], &[]);
    assert_eq!(gateway.requests().len(), 2, "nothing was sent otherwise");
}

#[test]
fn an_expired_enrolment_is_told_without_a_packet() {
    let gateway = answering(Some(Status::Granted));
    let mut profile = gateway::profile(gateway.address.port());
    let now = clock::now().wall.0 / SECOND;
    profile.expires = Some(now - 7 * 86_400);
    let user = User::new().with(&profile);
    let told =
        ["the enrolment of `laptop` at 127.0.0.1 ended ", ", 7 d ago, by this machine's clock"];
    for words in ["open gate ssh", "close gate ssh", "probe gate", "connect gate:ssh"] {
        user.run(words).expect(USAGE, &[], &told);
    }
    user.run("list").expect(DONE, &["  EXPIRED ", ", 7 d ago\n"], &[]);
    profile.expires = Some(now + 30 * 86_400 + 600);
    let user = user.with(&profile);
    user.run("list").expect(DONE, &["  enrolled until ", ", in 30 d"], &[]);
    user.run("open gate ssh").expect(DONE, &["granted"], &[]);
    assert_eq!(gateway.requests().len(), 1, "nothing was sent before");
}

#[test]
fn a_profile_is_removed_after_a_yes_and_with_it_its_mark_as_the_default() {
    let mut user = User::new().with(&gateway::profile(9));
    let path = user.path(".config/toctoc/profiles/gate.toml");
    user.run("default gate").expect(DONE, &[], &[]);
    user.run("remove gate").expect(
        USAGE,
        &[],
        &["nothing was removed", "toctoc remove gate --yes"],
    );
    user.run("remove nobody").expect(USAGE, &[], &["no profile `nobody`", "you have: gate"]);
    user.run("remove ../profiles/gate").expect(USAGE, &[], &["nothing was removed"]);
    assert!(path.exists());
    user.says_yes = true;
    let revoke = "toctocd client revoke laptop\n";
    user.run("remove gate").expect(DONE, &["removed ", "gate.toml\n"], &[revoke]);
    assert!(!path.exists() && !user.path(".config/toctoc/default").exists());
    assert!(user.path(".config/toctoc/id_ed25519").exists());
    user.write(".config/toctoc/profiles/gate.toml", "broken", 0o600);
    user.run("remove gate --yes").expect(DONE, &["removed "], &["revoke NAME"]);
    assert!(!path.exists());
}

#[test]
fn hitting_ports_needs_no_profile() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let run = User::new().run(&format!("knock -v 127.0.0.1 {port}:udp"));
    run.expect(DONE, &[&format!("hitting udp 127.0.0.1:{port}\n")], &[]);
    let wrong = User::new().run(&format!("knock 127.0.0.1 {port}:udp 7:icmp"));
    wrong.expect(USAGE, &[], &["toctoc: 7:icmp: "]);
}

#[test]
fn the_family_is_the_options_or_that_of_the_named_source() {
    let family_of = |words: &str| {
        let ToctocCommand::Open(args) = parse(&format!("open gate ssh {words}")) else {
            unreachable!("parsed as open")
        };
        family(&args.common, args.source)
    };
    assert_eq!(family_of(""), None);
    assert_eq!(family_of("-4"), Some(AddressFamily::V4));
    assert_eq!(family_of("--source 2001:db8::1"), Some(AddressFamily::V6));
    assert_eq!(family_of("--source 192.0.2.1 -6"), Some(AddressFamily::V6), "knock by the other");
}
