//! The command line of `toctoc`, as data: what is typed, what is said, how it exits.

mod client_user;

use client_user::{Gateway, User, identity, profile};
use toctoc::core::knock::Status;

#[test]
fn what_was_granted_is_said_with_address_port_and_end() {
    let gateway = Gateway::start(Some(Status::Granted));
    let user = User::new().with_profile(gateway.port);
    user.run("open gate ssh").expect(0, &["granted: 127.0.0.1 may reach 22/tcp at 127.0.0.1 for 30 s, until "], &[]);
    user.run("open gate").expect(0, &["22/tcp"], &[]);
    user.run("open gate web --seconds 600").expect(
        0,
        &["22/tcp at 127.0.0.1 with one connection for 10 min, until "],
        &[],
    );
    user.run("open gate --seconds 77").expect(0, &["granted"], &["this machine's clock is 2 h behind the gateway's"]);
    user.run("open gate --ask-source").expect(0, &["what the gateway saw of you"], &[]);
    user.run("probe gate").expect(0, &["127.0.0.1 answers; it sees you as 127.0.0.1"], &[]);
    let path = user.home.path().join(".config/toctoc/profiles/gate.toml");
    user.run(&format!("open {}", path.display())).expect(0, &["granted"], &[]);
}

#[test]
fn a_refusal_says_why_and_what_to_do() {
    for (status, said) in [
        (Status::Denied, ["does not let this key open ssh", "ask its admin"]),
        (Status::Full, ["as many grants as the gateway allows", "toctoc close gate ssh"]),
        (Status::Trouble, ["trouble of its own", "tell its admin"]),
        (Status::Clock, ["clock is too far off", "set the clock"]),
        (Status::Challenge, ["wants its challenge back", "try again"]),
        (Status::Address, ["reached the gateway from 203.0.113.66", "toctoc open gate ssh --source 203.0.113.66"]),
    ] {
        let gateway = Gateway::start(Some(status));
        let user = User::new().with_profile(gateway.port);
        user.run("open gate ssh").expect(1, &[], &said);
    }
}

#[test]
fn closing_is_said() {
    let gateway = Gateway::start(Some(Status::Closed));
    User::new().with_profile(gateway.port).run("close gate ssh").expect(0, &["closed: your grants for ssh"], &[]);
}

#[test]
fn silence_says_what_to_check_and_that_nothing_is_known() {
    let gateway = Gateway::start(None);
    let user = User::new().with_profile(gateway.port);
    let said = user.run("open gate --timeout 1 --attempts 2");
    said.expect(3, &[], &["no answer from 127.0.0.1 to 2 knocks", "let through", "`laptop` (SHA256:", "may be open"]);
    user.run("open gate --timeout 1 --attempts 1 --json").expect(3, &["\"result\": \"no-answer\""], &[]);
}

#[test]
fn a_network_without_a_way_there_is_another_exit_code() {
    let user = User::new().with_profile(9);
    user.run("open gate -6").expect(4, &[], &["127.0.0.1 has no address of that family"]);
}

#[test]
fn json_says_the_same_in_one_object() {
    let gateway = Gateway::start(Some(Status::Granted));
    let user = User::new().with_profile(gateway.port);
    let said = user.run("open gate ssh --json");
    said.expect(0, &[], &[]);
    let value: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(value["result"], "granted");
    assert_eq!(value["service"], "ssh");
    let answer = &value["answers"][0];
    assert_eq!(answer["address"], "127.0.0.1");
    assert_eq!(answer["ports"], serde_json::json!(["22/tcp"]));
    assert_eq!(answer["seconds"], 30);
    assert_eq!(answer["found"], "local");
    assert!(answer["until"].as_str().is_some_and(|until| until.ends_with('Z')), "{value:#}");
    let fault = user.run("open nobody --json");
    fault.expect(2, &["\"result\": \"fault\"", "no profile `nobody`"], &[]);
}

#[test]
fn wrong_usage_exits_with_2_and_sends_nothing() {
    let user = User::new().with_profile(9);
    for (words, said) in [
        ("", "Usage"),
        ("opne gate", "unrecognized subcommand"),
        ("open", "<PROFILE>"),
        ("open nobody", "no profile `nobody`"),
        ("open ../x/y", "../x/y"),
        ("open a:b", "cannot be a profile's name"),
        ("open gate SSH", "is no service name"),
        ("open gate --seconds 0", "--seconds"),
        ("open gate --source here", "--source"),
        ("open gate --timeout 0", "--timeout"),
        ("open gate -4 -6", "cannot be used with"),
        ("open gate -6 --source 192.0.2.1", "other family"),
        ("open gate --identity nothing", "nothing: no such file"),
        ("import nothing.toml", "nothing.toml: no such file"),
        ("knock host 7000:icmp", "icmp"),
    ] {
        let run = user.run(words);
        run.expect(2, &[], &[]);
        let all = format!("{}{}", run.out, run.err);
        assert!(all.contains(said), "toctoc {words}: no {said:?} in\n{all}");
    }
}

#[test]
fn a_profile_or_key_that_others_may_read_is_refused_with_the_remedy() {
    let user = User::new();
    let path = user.write(".config/toctoc/profiles/gate.toml", &profile(9).print(), 0o644);
    let remedy = format!("chmod 600 {}", path.display());
    user.run("open gate").expect(2, &[], &["others may use it (mode 0644)", &remedy]);
    let user = User::new().with_profile(9);
    let path = user.write("key", &identity().print("c", None).unwrap(), 0o640);
    let remedy = format!("chmod 600 {}", path.display());
    user.run("open gate --identity key").expect(2, &[], &["mode 0640", "chmod 600 key"]);
    user.run(&format!("open gate --identity {}", path.display())).expect(2, &[], &[&remedy]);
}

#[test]
fn a_broken_profile_is_named_with_line_and_column() {
    let user = User::new();
    let text = profile(9).print().replace("port = 9", "prot = 9");
    let path = user.write(".config/toctoc/profiles/gate.toml", &text, 0o600);
    user.run("open gate").expect(
        2,
        &[],
        &[&format!("{}:8:1: unknown key `prot`", path.display()), "did you mean `port`?"],
    );
}

#[test]
fn another_key_than_the_enrolled_one_is_refused_before_anything_is_sent() {
    let user = User::new().with_profile(9);
    user.run("keygen --no-passphrase --out other").expect(0, &["made other and other.pub", "ssh-ed25519 AAAA"], &[]);
    user.run("open gate --identity other").expect(2, &[], &["but `laptop` is enrolled with SHA256:"]);
    std::fs::rename(user.home.path().join("other"), user.home.path().join(".config/toctoc/id_ed25519")).unwrap();
    user.run("open gate").expect(2, &[], &["no private key for SHA256:", "is another key", "--identity"]);
    user.run("open gate --identity other.pub").expect(2, &[], &["other.pub: holds secrets"]);
}

#[test]
fn keygen_never_overwrites_and_never_asks_nobody() {
    let user = User::new();
    let before = std::fs::read(user.home.path().join(".config/toctoc/id_ed25519")).unwrap();
    user.run("keygen --no-passphrase").expect(2, &[], &["exists already; nothing was changed"]);
    assert_eq!(std::fs::read(user.home.path().join(".config/toctoc/id_ed25519")).unwrap(), before);
}

#[test]
fn a_usual_key_that_others_can_read_is_mended_by_the_command_that_is_told() {
    let user = User::new().with_profile(9);
    let path = user.write(".config/toctoc/id_ed25519", "never read", 0o644);
    user.run("open gate").expect(2, &[], &["no private key for SHA256:", &format!("chmod 600 {}", path.display())]);
}

#[test]
fn a_profile_is_imported_once_and_kept_private() {
    use std::os::unix::fs::PermissionsExt;
    let user = User::new();
    let text = profile(9).print();
    user.write("laptop.toml", &text, 0o644);
    user.run("import laptop.toml --name gate").expect(
        0,
        &["imported as gate: opens ssh, web", "toctoc open gate ssh"],
        &["remove it", "others could read its secrets (mode 0644): chmod 600 laptop.toml"],
    );
    let path = user.home.path().join(".config/toctoc/profiles/gate.toml");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), *text);
    user.run("import laptop.toml --name gate").expect(2, &[], &["exists already", "--replace"]);
    user.run("import laptop.toml --name gate --replace").expect(0, &["imported as gate"], &[]);
    user.run_with("import -", &text).expect(0, &["imported as 127.0.0.1"], &[]);
    user.run_with("import", "hello").expect(2, &[], &["standard input:1:"]);
    user.run("profiles").expect(0, &["gate: opens ssh, web at 127.0.0.1, as `laptop`"], &[]);
    let list: serde_json::Value = serde_json::from_str(&user.run("profiles --json").out).unwrap();
    assert_eq!(list.as_array().map(Vec::len), Some(2));
}
