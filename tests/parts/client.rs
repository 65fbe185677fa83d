//! The command line of `toctoc`: arguments and files in, output and exit code out.

use std::fs::File;
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::client_user::{Gateway, User, identity, profile};
use crate::schema;
use nix::poll::{PollFd, PollFlags, poll};
use toctoc::core::door::Step;
use toctoc::core::knock::Status;
use toctoc::keys::profile::{Fallback, Profile};

#[test]
fn the_client_prints_address_port_and_end_of_a_grant() {
    let gateway = Gateway::start(Some(Status::Granted));
    let user = User::new().with_profile(gateway.port);
    user.run("open gate ssh").expect(
        0,
        &["granted: 127.0.0.1 may reach 22/tcp at 127.0.0.1 for 30 s, until "],
        &[],
    );
    user.run("open gate").expect(0, &["22/tcp"], &[]);
    user.run("open gate web --seconds 600").expect(
        0,
        &["22/tcp at 127.0.0.1 with one connection for 10 min, until "],
        &[],
    );
    user.run("open gate --seconds 77").expect(
        0,
        &["granted"],
        &["this machine's clock is 2 h behind the gateway's"],
    );
    user.run("open gate --ask-source").expect(0, &["what the gateway saw of you"], &[]);
    user.run("probe gate").expect(0, &["127.0.0.1 answered: it sees you as 127.0.0.1"], &[]);
    let path = user.home.path().join(".config/toctoc/profiles/gate.toml");
    user.run(&format!("open {}", path.display())).expect(0, &["granted"], &[]);
}

#[test]
fn a_refusal_says_why_and_what_to_do() {
    for (status, expected) in [
        (Status::Denied, ["does not let this key open ssh", "`toctoc list`"]),
        (Status::Full, ["the limit of grants is reached", "toctoc close gate ssh"]),
        (Status::Trouble, ["its guard is off, or its disk", "tell its admin"]),
        (Status::Clock, ["clock is too far off", "set the clock"]),
        (Status::Challenge, ["sent a challenge", "try again"]),
        (
            Status::Address,
            ["reached the gateway from 203.0.113.66", "toctoc open gate ssh --source 203.0.113.66"],
        ),
    ] {
        let gateway = Gateway::start(Some(status));
        let user = User::new().with_profile(gateway.port);
        user.run("open gate ssh").expect(1, &[], &expected);
    }
}

#[test]
fn the_client_prints_that_a_grant_was_closed() {
    let gateway = Gateway::start(Some(Status::Closed));
    User::new().with_profile(gateway.port).run("close gate ssh").expect(
        0,
        &["closed: you have no grant for ssh"],
        &[],
    );
}

#[test]
fn without_a_receipt_the_client_says_what_to_check_and_that_the_result_is_unknown() {
    let gateway = Gateway::start(None);
    let user = User::new().with_profile(gateway.port);
    let expected = user.run("open gate --timeout 1 --attempts 2");
    expected.expect(
        3,
        &[],
        &[
            "no answer from 127.0.0.1 to 2 knocks",
            "ssh may be open all the same",
            "`laptop` still enrolled",
        ],
    );
    user.run("open gate --timeout 1 --attempts 1 --json").expect(
        3,
        &["\"result\": \"no-answer\""],
        &[],
    );
}

#[test]
fn an_unreachable_gateway_has_its_own_exit_code() {
    let user = User::new().with_profile(9);
    user.run("open gate -6").expect(4, &[], &["127.0.0.1 has no address of that family"]);
}

#[test]
fn json_says_the_same_in_one_object() {
    let gateway = Gateway::start(Some(Status::Granted));
    let user = User::new().with_profile(gateway.port);
    let expected = user.run("open gate ssh --json");
    expected.expect(0, &[], &[]);
    let value: serde_json::Value = serde_json::from_str(&expected.out).unwrap();
    assert_eq!(value["result"], "granted");
    assert_eq!(value["service"], "ssh");
    let answer = &value["answers"][0];
    assert_eq!(answer["address"], "127.0.0.1");
    assert_eq!(answer["ports"], serde_json::json!(["22/tcp"]));
    assert_eq!(answer["seconds"], 30);
    assert_eq!(answer["found"], "local");
    assert!(answer["until"].as_str().is_some_and(|until| until.ends_with('Z')), "{value:#}");
    for (words, expected) in [
        ("open nobody --json", "no profile `nobody`"),
        ("close gate --json --timeout 0", "--timeout"),
        ("probe --json --attempts 0", "--attempts"),
        ("open gate --json --nonsense", "--nonsense"),
    ] {
        let fault = user.run(words);
        fault.expect(2, &[expected], &[]);
        let value: serde_json::Value = serde_json::from_str(&fault.out).unwrap();
        assert!(value["result"] == "fault" && value["what"] != "" && fault.err.is_empty());
    }
    let help = user.run("open --json --help");
    help.expect(0, &["Usage: toctoc open"], &[]);
}

#[test]
fn wrong_usage_exits_with_2_and_sends_nothing() {
    let (user, gateway) = with_silent_gateway();
    for (words, expected) in [
        ("", "Usage"),
        ("opne gate", "'open'"),
        ("zzz", "Commands: open close connect ssh-config probe"),
        ("open nobody", "no profile `nobody`"),
        ("open ../x/y", "../x/y"),
        ("open a:B", "is not a service name"),
        ("open gate SSH", "is not a service name"),
        ("open gate --seconds 0", "--seconds"),
        ("open gate --source here", "--source"),
        ("open gate --timeout 0", "--timeout"),
        ("open gate -4 -6", "cannot be used with"),
        ("open gate --source-port 0", "--source-port"),
        ("open gate --identity nothing", "nothing: no such file"),
        ("import nothing.toml", "nothing.toml: no such file"),
        ("knock host 7000:icmp", "icmp"),
    ] {
        let run = user.run(words);
        run.expect(2, &[], &[]);
        let all = format!("{}{}", run.out, run.err);
        assert!(all.contains(expected), "toctoc {words}: no {expected:?} in\n{all}");
    }
    assert!(gateway.recv(&mut [0; 9]).is_err(), "a knock was sent");
}

/// A user with a profile, and the socket that receives their knocks.
fn with_silent_gateway() -> (User, UdpSocket) {
    let gateway = UdpSocket::bind("127.0.0.1:0").unwrap();
    gateway.set_nonblocking(true).unwrap();
    let port = gateway.local_addr().unwrap().port();
    (User::new().with_profile(port), gateway)
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
fn a_key_that_is_not_the_enrolled_one_is_refused_before_anything_is_sent() {
    let (user, gateway) = with_silent_gateway();
    user.run("keygen --no-passphrase --out other").expect(
        0,
        &["made other and other.pub", "ssh-ed25519 AAAA"],
        &[],
    );
    user.run("open gate --identity other").expect(
        2,
        &[],
        &["but `laptop` is enrolled with SHA256:"],
    );
    std::fs::rename(
        user.home.path().join("other"),
        user.home.path().join(".config/toctoc/id_ed25519"),
    )
    .unwrap();
    user.run("open gate").expect(
        2,
        &[],
        &["the private key of `laptop`, SHA256:", "another key, SHA256:", "--identity"],
    );
    user.run("open gate --identity other.pub").expect(
        2,
        &[],
        &["other.pub: SHA256:", "but `laptop` is enrolled with SHA256:"],
    );
    assert!(gateway.recv(&mut [0; 9]).is_err(), "a knock was sent");
}

#[test]
fn keygen_never_overwrites_a_key_and_never_asks_without_a_terminal() {
    let user = User::new();
    let before = std::fs::read(user.home.path().join(".config/toctoc/id_ed25519")).unwrap();
    user.run("keygen --no-passphrase").expect(2, &[], &["exists already; nothing was changed"]);
    assert_eq!(std::fs::read(user.home.path().join(".config/toctoc/id_ed25519")).unwrap(), before);
    // setsid takes the terminal away, if the tests run in one.
    let output = Command::new("setsid")
        .args(["--wait", env!("CARGO_BIN_EXE_toctoc"), "keygen", "--out", "new"])
        .env("HOME", user.home.path())
        .current_dir(user.home.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("--no-passphrase"), "{output:?}");
    assert!(!user.home.path().join("new").exists(), "a key was made without a passphrase");
}

#[test]
fn a_default_key_that_others_can_read_is_reported_with_the_command_that_fixes_it() {
    let user = User::new().with_profile(9);
    let path = user.write(".config/toctoc/id_ed25519", "never read", 0o644);
    user.run("open gate").expect(
        2,
        &[],
        &["the private key of `laptop`, SHA256:", &format!("chmod 600 {}", path.display())],
    );
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
    let listed =
        "gate: opens ssh (default), web at 127.0.0.1, as `laptop`\n  enrolled without an end\n";
    user.run("list").expect(0, &[listed], &[]);
    let list: serde_json::Value = serde_json::from_str(&user.run("profiles --json").out).unwrap();
    assert_eq!(list.as_array().map(Vec::len), Some(2));
}

#[test]
fn a_command_runs_after_the_grant_and_only_then_and_its_exit_code_is_returned() {
    let gateway = Gateway::start(Some(Status::Granted));
    let user = User::new().with_profile(gateway.port);
    user.write("seven", "#!/bin/sh\necho \"$@\"\nexit 7\n", 0o755);
    let run = user.run("open gate ssh -- ./seven --json -x");
    run.expect(7, &[], &["granted: 127.0.0.1 may reach"]);
    assert_eq!(run.out, "--json -x\n", "standard output is the command's alone");
    user.run("open -- ./seven").expect(7, &[], &[]);
    user.run("open gate ssh -- ./eight").expect(127, &[], &["toctoc: ./eight: No such file"]);
    let refusing = Gateway::start(Some(Status::Denied));
    let run = user.with_profile(refusing.port).run("open gate ssh -- /bin/echo here");
    run.expect(1, &[], &["refused: "]);
    assert_eq!(run.out, "");
}

#[test]
fn a_wait_is_shown_after_a_second_and_an_interrupt_says_where_things_stand() {
    let (user, _gateway) = with_silent_gateway();
    let pty = nix::pty::openpty(None, None).unwrap();
    let mut terminal = File::from(pty.master);
    let mut command = Command::new(env!("CARGO_BIN_EXE_toctoc"));
    command.args(["open", "gate", "ssh", "--timeout", "60"]).env_clear();
    command.env("HOME", user.home.path()).stdout(Stdio::null()).stderr(pty.slave);
    let mut child = command.stdin(Stdio::null()).spawn().unwrap();
    drop(command);
    let mut shown = String::new();
    let mut interrupted = false;
    let mut buffer = [0; 1024];
    // EIO when the other end is closed.
    while let Ok(read @ 1..) = terminal.read(&mut buffer) {
        shown.push_str(&String::from_utf8_lossy(&buffer[..read]));
        if !interrupted && shown.contains("\rwaiting for 127.0.0.1, 1 s") {
            interrupted = true;
            let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
        }
    }
    assert_eq!(child.wait().unwrap().code(), Some(130), "{shown}");
    let words = "\ntoctoc: interrupted: the knock may have been granted\n";
    assert!(interrupted && shown.replace('\r', "").contains(words), "{shown}");
    assert!(shown.contains("toctoc close gate ssh"), "{shown}");
}

#[test]
fn colours_are_for_terminals_and_for_people_who_want_them() {
    let shown = |on_terminal: bool, environment: &[(&str, &str)]| {
        let pty = nix::pty::openpty(None, None).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_toctoc"));
        command.arg("zzz").env_clear().env("TERM", "xterm").envs(environment.iter().copied());
        if !on_terminal {
            let output = command.output().unwrap();
            return String::from_utf8(output.stderr).unwrap();
        }
        let mut child = command.stderr(pty.slave).spawn().unwrap();
        drop(command);
        let mut text = String::new();
        // EIO when the other end is closed.
        let _ = File::from(pty.master).read_to_string(&mut text);
        child.wait().unwrap();
        text
    };
    assert!(shown(true, &[]).contains("\x1b["), "{:?}", shown(true, &[]));
    for text in [shown(true, &[("NO_COLOR", "1")]), shown(false, &[])] {
        assert!(text.contains("unrecognized subcommand") && !text.contains('\x1b'), "{text:?}");
    }
}

/// A user whose profile has the sequence of a door with two ports, and these ports.
fn with_fallback(gateway: &Gateway, offer: bool) -> (User, [UdpSocket; 2]) {
    let door = [0; 2].map(|_| UdpSocket::bind("127.0.0.1:0").unwrap());
    for port in &door {
        port.set_nonblocking(true).unwrap();
    }
    let step = |port: &UdpSocket| Step::udp(port.local_addr().unwrap().port());
    let fallback = Some(Fallback { sequence: door.iter().map(step).collect(), offer });
    let user = User::new();
    let text = Profile { fallback, ..profile(gateway.port) }.print();
    user.write(".config/toctoc/profiles/gate.toml", &text, 0o600);
    (user, door)
}

/// Takes the datagrams that each port of the door has received, and returns their numbers.
fn take_hits(door: &[UdpSocket; 2]) -> [usize; 2] {
    [0, 1].map(|port| std::iter::from_fn(|| door[port].recv(&mut [0; 9]).ok()).count())
}

#[test]
fn a_classic_sequence_is_suggested_when_no_receipt_comes_and_sent_only_with_its_own_option() {
    let gateway = Gateway::start(None);
    let (user, door) = with_fallback(&gateway, true);
    let silent = "open gate --timeout 1 --attempts 1";
    let named = "toctoc open --classic gate\n  sends it in cleartext";
    user.run(silent).expect(3, &[], &["no answer from 127.0.0.1", named]);
    let json = user.run(&format!("{silent} --json"));
    json.expect(3, &["\"result\": \"no-answer\""], &[]);
    assert_eq!(json.err, "");
    let other = user.run("probe gate --timeout 1 --attempts 1");
    assert!(!other.err.contains("--classic"), "{}", other.err);
    assert_eq!(take_hits(&door), [0, 0], "the sequence was sent without being asked for");
    user.run("open gate --classic").expect(
        0,
        &["sent in cleartext: 2 packets to 127.0.0.1", "no answer that says whether"],
        &[],
    );
    user.run("open --classic gate ssh --source 127.0.0.3").expect(0, &["2 packets"], &[]);
    assert_eq!(take_hits(&door), [2, 2]);
    for words in ["open gate --classic --seconds 9", "open gate --classic --ask-source"] {
        user.run(words).expect(2, &[], &["cannot be used with"]);
    }
    user.run("open gate --classic --json").expect(2, &["cannot be used with"], &[]);
    user.run("open gate --classic -6").expect(4, &[], &["no address of that family"]);
    assert_eq!(take_hits(&door), [0, 0]);
}

#[test]
fn profiles_says_that_there_is_a_sequence_and_never_prints_it() {
    let gateway = Gateway::start(Some(Status::Granted));
    for (offer, expected, word) in [
        (true, "offered after a knock without an answer", "ask"),
        (false, "never offered", "never"),
    ] {
        let (user, door) = with_fallback(&gateway, offer);
        let shown = user.run("profiles");
        shown.expect(
            0,
            &["has a door's classic sequence", expected, "toctoc open --classic gate"],
            &[],
        );
        let json = user.run("profiles --json");
        let list: serde_json::Value = serde_json::from_str(&json.out).unwrap();
        assert_eq!(list[0]["classic"], word);
        let port = door[0].local_addr().unwrap().port().to_string();
        assert!(!shown.out.contains(&port) && !json.out.contains(&format!("{port}/udp")));
        // A knock with a receipt needs no fallback.
        user.run("open gate ssh").expect(0, &["granted"], &[]);
        assert_eq!(take_hits(&door), [0, 0]);
    }
    let user = User::new().with_profile(gateway.port);
    assert!(!user.run("profiles").out.contains("classic"));
    user.run("open gate --classic").expect(
        2,
        &[],
        &["`gate` has no classic sequence", "--door NAME"],
    );
}

#[test]
fn a_passphrase_is_asked_for_by_file_and_a_wrong_one_is_said_to_be_wrong() {
    let gateway = Gateway::start(Some(Status::Granted));
    let user = User::new().with_profile(gateway.port);
    let path = user.home.path().join(".config/toctoc/id_ed25519");
    let locked = identity().print("c", Some(("sesame", [7; 20]))).unwrap();
    std::fs::write(&path, locked.as_bytes()).unwrap();
    let asked = format!("Passphrase of {}: ", path.display());
    let (code, shown) = at_a_terminal(&user, "open gate", "", "sesame\n");
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains(&asked) && !shown.contains("Wrong"), "{shown}");

    let (code, shown) = at_a_terminal(&user, "open gate", "", "barley\nbarley\nsesame\n");
    assert_eq!((code, shown.matches("Wrong passphrase. Try again").count()), (0, 1), "{shown}");
    assert_eq!(shown.matches("Wrong passphrase. Try once more").count(), 1, "{shown}");
    let (code, shown) = at_a_terminal(&user, "open gate", "", "a\nb\nc\n");
    assert_eq!(code, 2, "{shown}");
    assert!(shown.contains("id_ed25519: wrong passphrase, 3 times"), "{shown}");
}

/// Runs toctoc at a terminal of its own. `early` is typed before it starts, and `answer` when it
/// asks. Returns the exit code and the text on the terminal.
fn at_a_terminal(user: &User, words: &str, early: &str, answer: &str) -> (i32, String) {
    let pty = nix::pty::openpty(None, None).unwrap();
    let mut user_end = File::from(pty.master);
    let terminal = pty.slave;
    user_end.write_all(early.as_bytes()).unwrap();
    let mut command = Command::new("setsid");
    command.args(["--ctty", "--wait", env!("CARGO_BIN_EXE_toctoc")]);
    command.args(words.split_whitespace()).env_clear().env("HOME", user.home.path());
    command.stdin(terminal.try_clone().unwrap()).stderr(terminal).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    // The command keeps our copies of the terminal: without them it closes when the child ends.
    drop(command);
    let mut shown = String::new();
    let mut answers = answer.split_inclusive('\n');
    let mut answered = 0;
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut buffer = [0; 1024];
    loop {
        assert!(Instant::now() < deadline, "toctoc neither asks nor ends: {shown}");
        let mut fds = [PollFd::new(user_end.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, 1000_u16).unwrap() == 0 {
            continue;
        }
        // EIO when the other end is closed.
        let Ok(read @ 1..) = user_end.read(&mut buffer) else { break };
        shown.push_str(&String::from_utf8_lossy(&buffer[..read]));
        let asked = shown.matches("[y/N] ").count() + shown.matches("assphrase of ").count();
        if asked > answered {
            answered = asked;
            user_end.write_all(answers.next().unwrap_or("").as_bytes()).unwrap();
        }
    }
    (child.wait().unwrap().code().unwrap(), shown)
}

#[test]
fn a_user_at_a_terminal_is_asked_if_the_profile_says_so_and_only_yes_sends() {
    let gateway = Gateway::start(None);
    let (user, door) = with_fallback(&gateway, true);
    let silent = "open gate --timeout 1 --attempts 1";
    for (early, answer, code, sent) in [
        ("", "\n", 3, [0, 0]),
        ("", "no\n", 3, [0, 0]),
        ("y\n", "\n", 3, [0, 0]),
        ("", "y\n", 0, [1, 1]),
    ] {
        let (ended, shown) = at_a_terminal(&user, silent, early, answer);
        assert!(
            shown.contains("whoever sees it can repeat it") && shown.contains("[y/N]"),
            "{shown}"
        );
        assert_eq!((ended, take_hits(&door)), (code, sent), "{early:?} {answer:?}: {shown}");
    }
    let (ended, shown) = at_a_terminal(&user, &format!("{silent} --json"), "", "y\n");
    assert_eq!((ended, take_hits(&door)), (3, [0, 0]), "{shown}");
    let (user, door) = with_fallback(&gateway, false);
    let (ended, shown) = at_a_terminal(&user, silent, "", "y\n");
    assert!(!shown.contains("[y/N]"), "{shown}");
    assert_eq!((ended, take_hits(&door)), (3, [0, 0]));
}

#[test]
fn with_json_every_command_about_the_users_own_files_prints_its_answer_alone() {
    let gateway = Gateway::start(Some(Status::Granted));
    let user = User::new();
    user.write("laptop.toml", &profile(gateway.port).print(), 0o600);
    let answer = |words: &str, code: i32| -> serde_json::Value {
        let run = user.run(&format!("{words} --json"));
        let shown = format!("{words}: {}", run.out);
        schema::check("toctoc", &Vec::from_iter(words.split(' ')), &run.out);
        assert_eq!(run.code, code, "{shown}");
        serde_json::from_str(&run.out).expect("JSON")
    };
    let made = answer("keygen --no-passphrase --out other", 0);
    assert_eq!((&made["file"], &made["public_file"]), (&"other".into(), &"other.pub".into()));
    let public = std::fs::read_to_string(user.home.path().join("other.pub")).unwrap();
    assert_eq!(made["line"], public.trim_end());
    let again = answer("keygen --no-passphrase --out other", 2);
    assert!(again["what"].as_str().unwrap().contains("exists already"), "{again}");
    let imported = answer("import laptop.toml --name gate", 0);
    assert_eq!((&imported[0]["profile"], imported.as_array().unwrap().len()), (&"gate".into(), 1));
    assert_eq!(imported, answer("list", 0));
    answer("import laptop.toml --name office", 0);
    assert!(answer("default", 2)["what"].as_str().unwrap().contains("you have several"));
    for words in ["default gate:web", "default"] {
        let chosen = answer(words, 0);
        let whole = serde_json::json!({ "profile": "gate", "service": "web" });
        assert_eq!(chosen, whole, "{words}");
    }
    assert_eq!(answer("import laptop.toml --name gate --replace", 0)[0]["default"], true);
    let lines = answer("ssh-config gate", 0);
    assert!(lines["out"].as_str().unwrap().contains("ProxyCommand"), "{lines}");
    assert!(lines["notes"][0].as_str().unwrap().contains("--install"), "{lines}");
    assert_eq!(answer("remove office", 2)["remedy"], "toctoc remove office --yes");
    let removed = answer("remove office --yes", 0);
    assert!(removed["out"].as_str().unwrap().starts_with("removed "), "{removed}");
    assert!(answer("remove office --yes", 2)["what"].as_str().unwrap().contains("office"));
    assert_eq!(answer("probe gate", 0)["result"], "observed");
}
