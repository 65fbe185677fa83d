//! The command line of `toctocd`, without a network: files and arguments in, output and exit code
//! out.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::schema;

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINH5PeLDmbvvLZw8PEYRtbFFyLldbnPkCPAkIMDtUKAy me";

/// The directory of a gateway, made by `init`.
struct Gateway {
    folder: tempfile::TempDir,
}

struct Run {
    code: i32,
    out: String,
    err: String,
}

impl Gateway {
    fn new() -> Self {
        let gateway = Self { folder: tempfile::tempdir().unwrap() };
        let expected = gateway.run(&[
            "init",
            "--dir",
            gateway.folder.path().to_str().unwrap(),
            "--address",
            "gate.example.org",
        ]);
        assert_eq!(expected.code, 0, "{}", expected.err);
        gateway
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, words: &[&str]) -> Run {
        let output = Command::new(env!("CARGO_BIN_EXE_toctocd"))
            .args(words)
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        Run {
            code: output.status.code().expect("not killed by a signal"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs a command with this gateway's configuration.
    fn with_config(&self, words: &[&str]) -> Run {
        self.run(&[words, &["-c", self.path("toctocd.toml").to_str().unwrap()]].concat())
    }

    fn edit(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(from), "{from}");
        fs::write(self.path(name), text.replace(from, to)).unwrap();
    }

    /// The paths and contents of all files in the directory, but for locks.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file() && !path.ends_with("clients.lock"))
            .map(|path| (path.clone(), fs::read(&path).unwrap()))
            .collect();
        files.sort();
        files
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn init_and_client_add_make_a_profile() {
    let gateway = Gateway::new();
    let added =
        gateway.with_config(&["client", "add", "laptop", "--key", KEY, "--services", "ssh"]);
    assert_eq!(added.code, 0, "{}", added.err);
    assert!(added.out.starts_with("# toctoc profile of `laptop`."), "{}", added.out);
    assert!(
        added.err.contains("`laptop` is enrolled; no gateway is running here"),
        "{}",
        added.err
    );
    assert!(added.err.contains("over a private channel"), "{}", added.err);
    let listed = gateway.with_config(&["client", "list"]);
    assert!(
        listed.out.contains(
            "laptop  ssh       never    SHA256:951OBp4BMmuD3VVyyNsL77r9RL+6MKh8lI3dxdtWRjM"
        ),
        "{}",
        listed.out
    );
    let checked = gateway.with_config(&["check"]);
    assert!(checked.out.contains("sound; 1 service, 1 client, 0 doors"), "{}", checked.out);
    assert_eq!(gateway.with_config(&["client", "revoke", "laptop"]).code, 0);
    assert_eq!(gateway.with_config(&["client", "list"]).out, "no client is enrolled\n");
}

#[test]
fn check_prints_the_whole_configuration() {
    let gateway = Gateway::new();
    let printed = gateway.with_config(&["check", "--print"]);
    fs::write(gateway.path("toctocd.toml"), &printed.out).unwrap();
    assert_eq!(gateway.with_config(&["check", "--print"]).out, printed.out);
}

#[test]
fn bad_files_are_named_with_line_and_column_and_nothing_is_changed() {
    type Damage = fn(&Gateway);
    let cases: &[(&str, Damage, &[&str])] = &[
        (
            "unknown key",
            |p| p.edit("toctocd.toml", "max_age = 30", "max_aeg = 30"),
            &["toctocd.toml:", "unknown key `max_aeg`", "did you mean `max_age`?"],
        ),
        (
            "wrong type",
            |p| p.edit("toctocd.toml", "port = 62201", "port = \"62201\""),
            &["a number in quotes"],
        ),
        (
            "bad range",
            |p| p.edit("toctocd.toml", "port = 62201", "port = 0"),
            &["port = 0 is out of range", "from 1 to"],
        ),
        (
            "no TOML",
            |p| fs::write(p.path("toctocd.toml"), "[knock\n").unwrap(),
            &["toctocd.toml:1:"],
        ),
        (
            "no config",
            |p| fs::remove_file(p.path("toctocd.toml")).unwrap(),
            &["no such file", "toctocd init"],
        ),
        (
            "open key",
            |p| mode(&p.path("gateway.key"), 0o640),
            &["gateway.key: holds secrets", "chmod 600 "],
        ),
        (
            "open config",
            |p| mode(&p.path("toctocd.toml"), 0o666),
            &["others may write it", "chmod go-w "],
        ),
        (
            "no key",
            |p| fs::remove_file(p.path("gateway.key")).unwrap(),
            &["gateway.key: no such file"],
        ),
        (
            "broken key",
            |p| p.edit("gateway.key", "mask = \"", "mask = \"x"),
            &["gateway.key:9:8: not a key"],
        ),
        (
            "broken client",
            |p| fs::write(p.path("clients"), "\nid=1 x\n").unwrap(),
            &["clients:2:4: not an id"],
        ),
        (
            "no knockd.conf",
            |p| {
                p.edit(
                    "toctocd.toml",
                    "# knockd_conf = \"/etc/knockd.conf\"",
                    "knockd_conf = \"/nonexistent/knockd.conf\"",
                )
            },
            &["/nonexistent", "no such file"],
        ),
    ];
    for (name, damage, expected) in cases {
        let gateway = Gateway::new();
        damage(&gateway);
        let before = gateway.files();
        let check = gateway.with_config(&["check"]);
        assert_eq!(check.code, 2, "{name}: {}", check.err);
        for part in *expected {
            assert!(check.err.contains(part), "{name}: no {part:?} in {}", check.err);
        }
        // `run` must say the same before it changes anything.
        let run = gateway.with_config(&["run"]);
        assert_eq!((run.code, &run.err), (2, &check.err), "{name}");
        assert!(before == gateway.files(), "{name}: something was changed");
    }
}

#[test]
fn several_mistakes_of_a_file_are_told_in_one_go_each_with_its_line_marked() {
    let gateway = Gateway::new();
    gateway.edit("toctocd.toml", "port = 62201", "port = 0");
    gateway.edit("toctocd.toml", "burst =", "bursd =");
    let check = gateway.with_config(&["check"]);
    assert_eq!(check.code, 2, "{}", check.err);
    for part in ["| port = 0\n", "|        ^\n", "| bursd = 64\n", "| ^^^^^\n"] {
        assert!(check.err.contains(part), "no {part:?} in {}", check.err);
    }
    let check = gateway.with_config(&["check", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&check.out).unwrap();
    assert!(json["more"].as_str().is_some_and(|more| more.contains("toctocd.toml:")), "{json}");

    let conf =
        "[options]\nnonsense\n[door]\nsequence = 7,8:tpc\ntcpflags = syn, akc\n\tseq_tim = 5\n";
    fs::write(gateway.path("knockd.conf"), conf).unwrap();
    let shown = gateway.path("knockd.conf").display().to_string();
    let main = format!("[classic]\nknockd_conf = \"{shown}\"\n");
    fs::write(gateway.path("toctocd.toml"), main).unwrap();
    let check = gateway.with_config(&["check"]);
    assert_eq!(check.code, 2, "{}", check.err);
    for place in ["2:1", "4:14", "5:17", "6:2"] {
        assert!(check.err.contains(&format!("{shown}:{place}: ")), "{place}: {}", check.err);
    }
    let marked = check.err.lines().filter(|line| line.contains("| ^"));
    assert_eq!(marked.count(), 1, "at the beginning: {}", check.err);
}

#[test]
fn wrong_usage_and_unusable_names_have_their_exit_codes_and_change_nothing() {
    let gateway = Gateway::new();
    let dir = gateway.folder.path().to_str().unwrap();
    let before = gateway.files();
    let cases: &[(&[&str], &str)] = &[
        (&[], "Usage"),
        (&["strat"], "unrecognized subcommand"),
        (&["init", "--dir", dir], "exists already; nothing was changed"),
        (&["init", "--dir", "x"], "init would write x/toctocd.toml instead"),
        (&["init", "--dir", "x", "--service", "ssh"], "NAME=PORT/PROTO"),
        (&["init", "--dir", "x", "--port", "0"], "--port"),
        (&["init", "--dir", "x", "--address", "a b"], "host name"),
        (&["init", "--dir", "x", "--service", "a=1/tcp", "--service", "b=1/tcp"], "already taken"),
        (&["client", "add", "a", "--key", KEY], "--services"),
        (&["client", "add", "a b", "--key", KEY, "--services", "ssh"], "one word"),
        (
            &["client", "add", "a", "--key", "ssh-rsa AAAA", "--services", "ssh"],
            "an RSA signature does not fit",
        ),
        (&["client", "add", "a", "--key", KEY, "--services", "shs"], "did you mean `ssh`?"),
        (
            &["client", "add", "a", "--key", KEY, "--services", "ssh", "--expires", "soon"],
            "2027-01-31",
        ),
        (
            &["client", "add", "a", "--key", KEY, "--services", "ssh", "--expires", "2020-01-01"],
            "that time is over",
        ),
        (
            &["client", "add", "a", "--key", KEY, "--services", "ssh", "--max-seconds", "0"],
            "--max-seconds",
        ),
        (
            &["client", "add", "a", "--key", "@missing.pub", "--services", "ssh"],
            "missing.pub: no such file",
        ),
        (
            &["client", "add", "a", "--key", "/missing/key", "--services", "ssh"],
            "/missing/key: no such file",
        ),
        (&["client", "add", "--authorized-keys", "/dev/null", "--services", "ssh"], "--out"),
        (&["client", "revoke", "nobody"], "no client is called `nobody`"),
    ];
    for (words, expected) in cases {
        let run = if words.is_empty() { gateway.run(&[]) } else { gateway.with_config(words) };
        let is_name = expected.contains("exists already") || expected.contains("no client is");
        let code = if is_name { 5 } else { 2 };
        assert_eq!(run.code, code, "{words:?}: {}{}", run.out, run.err);
        assert!(run.err.contains(expected), "{words:?}: no {expected:?} in {}", run.err);
        assert!(before == gateway.files(), "{words:?}: something was changed");
    }
}

/// A gateway whose configuration ends with `doors`.
fn with_doors(doors: &str) -> Gateway {
    let gateway = Gateway::new();
    let text = fs::read_to_string(gateway.path("toctocd.toml")).unwrap();
    fs::write(gateway.path("toctocd.toml"), text + doors).unwrap();
    gateway
}

#[test]
fn the_sequence_of_a_door_goes_into_a_profile_only_if_it_can_be_used_from_there() {
    let steps = "sequence = [\"7411/tcp\", \"icmp:64\", \"2833/udp\"]\nservice = \"ssh\"\n";
    let doors = format!(
        "[door.side]\n{steps}[door.far]\ntarget = \"192.0.2.1\"\n{steps}[door.odd]\ntcpflags = [\"fin\"]\n{steps}\
         [door.once]\none_time_sequences = \"OTS\"\nservice = \"ssh\"\n"
    );
    let ots = tempfile::NamedTempFile::new().unwrap();
    fs::write(ots.path(), "7411:tcp,2833:udp,9412:tcp\n").unwrap();
    let gateway = with_doors(&doors.replace("OTS", ots.path().to_str().unwrap()));
    let before = gateway.files();
    let add = |door: &str| {
        let words = ["client", "add", "a", "--key", KEY, "--services", "ssh", "--door", door];
        gateway.with_config(&words)
    };
    for (door, expected) in [
        ("sid", "did you mean `side`?"),
        ("far", "only packets to 192.0.2.1 count"),
        ("odd", "more than a plain SYN"),
        ("once", "each of its sequences can be used only once"),
    ] {
        let added = add(door);
        assert_eq!(added.code, 2, "{}", added.err);
        assert!(added.err.contains(expected), "{door}: {}", added.err);
        assert!(before == gateway.files(), "{door}: something was changed");
    }
    let added = add("side");
    assert_eq!(added.code, 0, "{}", added.err);
    assert!(
        added.out.contains("sequence = [\"7411/tcp\", \"icmp:64\", \"2833/udp\"]\n"),
        "{}",
        added.out
    );
    assert!(added.out.contains("classic = \"never\"\n"), "{}", added.out);
    assert!(added.err.contains("the classic sequence of door [side]"), "{}", added.err);
}

/// A gateway whose configuration includes a directory with a door, a service, and files that must
/// not be read.
fn including() -> (Gateway, PathBuf) {
    let gateway = Gateway::new();
    let directory = gateway.path("conf.d");
    fs::create_dir(&directory).unwrap();
    mode(&directory, 0o755);
    let text = fs::read_to_string(gateway.path("toctocd.toml")).unwrap();
    fs::write(gateway.path("toctocd.toml"), format!("include = {directory:?}\n{text}")).unwrap();
    for (name, text) in [
        (
            "10-door.toml",
            "[door.side]\nsequence = [\"7411/tcp\", \"2833/udp\", \"9412/tcp\"]\nservice = \"web\"\n",
        ),
        ("20-web.toml", "[service.web]\nports = [\"80/tcp\"]\n"),
        (".hidden.toml", "nonsense"),
        ("old.toml~", "nonsense"),
        ("README", "nonsense"),
    ] {
        fs::write(directory.join(name), text).unwrap();
    }
    (gateway, directory)
}

#[test]
fn the_files_of_an_include_directory_are_part_of_the_configuration() {
    let (gateway, _) = including();
    let checked = gateway.with_config(&["check"]);
    assert!(
        checked.out.contains("sound; 2 services, 0 clients, 1 door"),
        "{}{}",
        checked.out,
        checked.err
    );
    let printed = gateway.with_config(&["check", "--print"]).out;
    assert!(printed.contains("[door.\"side\"]") && !printed.contains("include"), "{printed}");
}

#[test]
fn an_included_file_is_checked_like_the_configuration_itself() {
    type Damage = fn(&Path);
    let cases: &[(Damage, &[&str])] = &[
        (
            |d| mode(&d.join("20-web.toml"), 0o666),
            &["20-web.toml: others may write it", "chmod go-w"],
        ),
        (|d| mode(d, 0o775), &["conf.d: others may write into it (mode 0775)"]),
        (
            |d| fs::write(d.join("30.toml"), "[service.web]\nports = [\"81/tcp\"]").unwrap(),
            &["30.toml:1:10: service `web` is already in ", "20-web.toml"],
        ),
        (
            |d| fs::write(d.join("20-web.toml"), "\n[knock]\n").unwrap(),
            &["20-web.toml:2:2: unknown key `knock`"],
        ),
        (|d| fs::create_dir(d.join("x.toml")).unwrap(), &["x.toml: is a directory"]),
        (|d| fs::rename(d, d.with_extension("gone")).unwrap(), &["conf.d: no such file"]),
    ];
    for (damage, expected) in cases {
        let (gateway, directory) = including();
        damage(&directory);
        for command in ["check", "run"] {
            let run = gateway.with_config(&[command]);
            assert_eq!(run.code, 2, "{}{}", run.out, run.err);
            for part in *expected {
                assert!(run.err.contains(part), "no {part:?} in {}", run.err);
            }
        }
    }
}

#[test]
fn check_warns_of_every_door_that_is_weak_and_says_what_to_do() {
    let server = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let live = server.local_addr().unwrap().port();
    let gateway = with_doors(&format!(
        "[door.short]\nsequence = [\"7411/tcp\", \"2833/tcp\"]\nservice = \"ssh\"\n\
         [door.long]\nsequence = [\"7411/tcp\", \"2833/tcp\", \"22/tcp\", \"{live}/tcp\"]\nstart_command = \"true\"\n\
         [door.rising]\nsequence = [\"11/udp\", \"12/udp\", \"13/udp\"]\nstart_command = \"true\"\n"
    ));
    let file = gateway.path("toctocd.toml").display().to_string();
    let without_place = |warning: &str| {
        let (door, rest) = warning.split_once(" at ").expect("a place");
        let (place, rest) = rest.split_once(": ").expect("a sentence");
        assert!(place.starts_with(&file), "{warning}");
        format!("{door}: {rest}")
    };
    let warnings = || {
        let checked = gateway.with_config(&["check"]);
        assert_eq!(checked.code, 0, "{}", checked.err);
        let warnings = checked.out.lines().filter_map(|line| line.strip_prefix("warning: "));
        warnings.map(without_place).collect::<Vec<_>>()
    };
    let found = warnings();
    let expected = [
        "door [short]: a sequence of 2 steps is hit by a scan by chance; use at least three".to_owned(),
        "door [long]: its sequence begins with that of door [short], so it opens that door too; choose \
         another beginning"
            .to_owned(),
        "door [rising]: a UDP scan that counts up or down opens it; mix the order, or tcp with udp".to_owned(),
        "door [long]: its step 22/tcp is a port of service ssh: other traffic to it starts and breaks \
         attempts; choose an unused port"
            .to_owned(),
        format!(
            "door [long]: its step {live}/tcp is a port that a program here listens on: other traffic to \
             it starts and breaks attempts; choose an unused port"
        ),
    ];
    assert_eq!(found, expected);
    assert_eq!(
        gateway.with_config(&["client", "add", "a", "--key", KEY, "--services", "ssh"]).code,
        0
    );
    let clear = "door [short]: it opens ssh by a sequence in cleartext, although clients have sealed \
                 knocks for it: anybody who sees the sequence can repeat it. Keep it only if you need the \
                 fallback";
    assert!(warnings().iter().any(|warning| warning == clear), "{:#?}", warnings());
}

#[test]
fn the_sequence_that_knockd_ships_is_refused_in_every_file() {
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other");
    let shown = other.to_str().unwrap();
    let native = |keys: &str| format!("[door.d]\nservice = \"ssh\"\n{keys}\n");
    let remedy = "sequence = [\"NUMBER/tcp\", \"NUMBER/udp\", \"NUMBER/tcp\"]";
    for (doors, text, expected) in [
        (
            native("sequence = [\"7000/tcp\", \"8000/tcp\", \"9000/tcp\"]"),
            "",
            ["the sequence that knockd ships", remedy],
        ),
        (
            native("sequence = [\"9000/udp\", \"8000/tcp\", \"7000/udp\"]"),
            "",
            ["the sequence that knockd ships", remedy],
        ),
        (
            String::new(),
            "[options]\n[open]\n  sequence = 7000,8000,9000\n  start_command = true\n",
            ["other:2: door [open] has the sequence that knockd ships", remedy],
        ),
    ] {
        fs::write(&other, text).unwrap();
        let gateway = with_doors(&doors);
        if doors.is_empty() {
            let to = format!("knockd_conf = \"{shown}\"");
            gateway.edit("toctocd.toml", "# knockd_conf = \"/etc/knockd.conf\"", &to);
        }
        for command in ["check", "run"] {
            let run = gateway.with_config(&[command]);
            assert_eq!(run.code, 2, "{}", run.out);
            for part in expected {
                assert!(run.err.contains(part), "no {part:?} in {}", run.err);
            }
        }
    }
}

#[test]
fn check_names_the_door_that_stays_shut_because_its_next_one_time_sequence_is_public() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("once");
    fs::write(&file, "#1,2,3\n9000:udp,8000,7000\n1,3,2\n").unwrap();
    let shown = file.to_str().unwrap();
    let gateway =
        with_doors(&format!("[door.d]\nservice = \"ssh\"\none_time_sequences = \"{shown}\"\n"));
    let run = gateway.with_config(&["check"]);
    assert_eq!(run.code, 0, "{} {}", run.out, run.err);
    let expected = format!(
        "door [d] stays shut: the sequence that knockd ships, which every scanner knows, is the next one in {shown}; \
         put a # before that line, then `toctocd reload`"
    );
    assert!(run.out.contains(&expected) || run.err.contains(&expected), "{} {}", run.out, run.err);
}

/// The directory of a gateway below another one, which is the place of the damage.
fn nested(middle: u32, own: u32) -> (Gateway, PathBuf) {
    let outer = Gateway::new();
    let middle_path = outer.path("middle");
    let own_path = middle_path.join("etc");
    let made = outer.run(&["init", "--dir", own_path.to_str().unwrap()]);
    assert_eq!(made.code, 0, "{}", made.err);
    mode(&middle_path, middle);
    mode(&own_path, own);
    (outer, own_path)
}

#[test]
fn a_configuration_that_another_user_could_replace_is_refused_by_every_command() {
    for (middle, own, place) in
        [(0o755, 0o775, "etc"), (0o755, 0o1777, "etc"), (0o777, 0o755, "middle")]
    {
        let (gateway, directory) = nested(middle, own);
        let config = directory.join("toctocd.toml");
        for words in
            [&["check"][..], &["run"], &["client", "add", "a", "--key", KEY, "--services", "ssh"]]
        {
            let run = gateway.run(&[words, &["-c", config.to_str().unwrap()]].concat());
            assert_eq!(run.code, 2, "{words:?}: {}{}", run.out, run.err);
            let expected = format!("{place}: others may write into it");
            assert!(run.err.contains(&expected), "{words:?}: no {expected:?} in {}", run.err);
        }
    }
}

#[test]
fn another_users_lock_delays_no_command() {
    use nix::fcntl::{Flock, FlockArg};
    let gateway = Gateway::new();
    // What any local user can open, and so lock: the directory.
    let directory = fs::File::open(gateway.folder.path()).unwrap();
    let _shared = Flock::lock(directory, FlockArg::LockShared).unwrap();
    let add = ["client", "add", "a", "--key", KEY, "--services", "ssh"];
    assert_eq!(gateway.with_config(&add).code, 0);
    let clients = gateway.path("clients");
    assert_eq!(fs::metadata(&clients).unwrap().permissions().mode() & 0o777, 0o600);
    // What was open to others for a moment, and is locked by somebody who opened it then.
    mode(&clients, 0o644);
    let _shared = Flock::lock(fs::File::open(&clients).unwrap(), FlockArg::LockShared).unwrap();
    let list = gateway.path("clients.lock");
    fs::write(&list, "").unwrap();
    mode(&list, 0o644);
    let _kept = Flock::lock(fs::File::open(&list).unwrap(), FlockArg::LockShared).unwrap();
    assert_eq!(gateway.with_config(&["client", "revoke", "a"]).code, 0);
    for path in [&clients, &list] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(gateway.with_config(&add).code, 0);
    // Root's own lock is waited for, with an end, and the holder is named.
    let _own = Flock::lock(fs::File::open(&list).unwrap(), FlockArg::LockExclusive).unwrap();
    let revoked = gateway.with_config(&["client", "revoke", "a"]);
    let expected = format!("nothing was changed: pid {} (", std::process::id());
    assert!(revoked.err.contains(&expected), "{}", revoked.err);
    assert_eq!(revoked.code, 4, "{}", revoked.err);
}

#[test]
fn an_init_beside_enrolled_clients_hides_no_lost_state() {
    let gateway = Gateway::new();
    let again = || {
        fs::remove_file(gateway.path("toctocd.toml")).unwrap();
        fs::remove_dir_all(gateway.path("state")).unwrap();
        gateway.run(&["init", "--dir", gateway.folder.path().to_str().unwrap()])
    };
    assert!(!again().out.contains("challenge"), "nobody is enrolled yet");
    assert!(gateway.path("state/journal").exists());
    let add = ["client", "add", "a", "--key", KEY, "--services", "ssh"];
    gateway.edit("toctocd.toml", "addresses = []", "addresses = [\"gate.example.org\"]");
    assert_eq!(gateway.with_config(&add).code, 0);
    let made = again();
    assert!(made.out.contains("every knock costs a challenge"), "{}{}", made.out, made.err);
    assert!(!gateway.path("state/journal").exists(), "the start would take it for intact");
}

#[test]
fn a_clients_file_that_could_not_be_read_back_is_not_written() {
    let gateway = Gateway::new();
    let clients = gateway.path("clients");
    let remark = format!("#{}\n", " ".repeat(1022));
    fs::write(&clients, remark.repeat(64 << 10)).unwrap();
    assert_eq!(gateway.with_config(&["client", "list"]).code, 0);
    let added = gateway.with_config(&["client", "add", "a", "--key", KEY, "--services", "ssh"]);
    assert!(added.err.contains("it would be longer than 64 MiB"), "{}", added.err);
    assert_eq!((added.code, fs::metadata(&clients).unwrap().len()), (2, 64 << 20));
}

type Breakage = fn(&Gateway);
/// Damage to a configuration that has a client `a`, and a word of the fault.
const BROKEN: &[(Breakage, &str)] = &[
    (|g| g.edit("toctocd.toml", "[knock]", "[knock"), "toctocd.toml:"),
    (|g| g.edit("toctocd.toml", "max_age = 30", "max_aeg = 30"), "did you mean `max_age`?"),
    (|g| mode(&g.path("toctocd.toml"), 0o666), "others may write it"),
    (|g| mode(g.folder.path(), 0o1777), "others may write into it"),
    (|g| g.edit("toctocd.toml", "[gateway]", "include = \"/no/such\"\n[gateway]"), "/no/such"),
    (|g| fs::remove_file(g.path("toctocd.toml")).unwrap(), "no such file"),
    (|g| fs::write(g.path("toctocd.toml"), b"[gateway]\nx = \xff").unwrap(), "not UTF-8"),
    (|g| fs::write(g.path("toctocd.toml"), "[gateway]\nclients_f").unwrap(), "toctocd.toml:2"),
    // Cut off after a comment it is sound, and names nothing.
    (|g| fs::write(g.path("toctocd.toml"), "# toctocd").unwrap(), ""),
    (|g| g.edit("toctocd.toml", "clients_file = ", "[\n# clients_file ="), "toctocd.toml:"),
    (
        |g| {
            let text = fs::read_to_string(g.path("toctocd.toml")).unwrap();
            let door = "[door.d]\nsequence = [\"7000/tcp\", \"8000/tcp\", \"9000/tcp\"]\nservice = \"ssh\"\n";
            fs::write(g.path("toctocd.toml"), text + door).unwrap();
        },
        "the sequence that knockd ships",
    ),
];

#[test]
fn a_client_is_revoked_and_clients_are_listed_whatever_is_wrong_with_the_configuration() {
    for (damage, fault) in BROKEN {
        let gateway = Gateway::new();
        let add = ["client", "add", "a", "--key", KEY, "--services", "ssh"];
        assert_eq!(gateway.with_config(&add).code, 0);
        damage(&gateway);
        let listed = gateway.with_config(&["client", "list"]);
        if fs::metadata(gateway.folder.path()).unwrap().permissions().mode() & 0o022 != 0 {
            // The clients file itself could be anybody's: that must be told, and nothing changed.
            assert_eq!(gateway.with_config(&["client", "revoke", "a"]).code, 2, "{fault}");
            continue;
        }
        assert!(listed.out.contains("a     ssh"), "{fault}: {}", listed.err);
        assert!(listed.err.contains(fault), "{fault}: {}", listed.err);
        let revoked = gateway.with_config(&["client", "revoke", "a"]);
        assert_eq!(revoked.code, 0, "{fault}: {}", revoked.err);
        let file = gateway.path("clients").display().to_string();
        assert!(revoked.err.contains(&format!("`a` is revoked in {file}\nno gateway")), "{fault}");
        assert!(revoked.err.contains(fault), "{fault}: {}", revoked.err);
        assert!(!fs::read_to_string(file).unwrap().contains(" a\n"));
    }
}

#[test]
fn without_a_gateway_a_request_has_its_exit_code_and_names_what_may_be_wrong() {
    let gateway = Gateway::new();
    let socket = gateway.path("control").display().to_string();
    for words in
        [&["status"][..], &["grants"], &["close", "--client", "a"], &["reload"], &["reinitialise"]]
    {
        let run = gateway.with_config(words);
        assert_eq!(run.code, 3, "{words:?}: {}", run.err);
        assert!(run.err.contains(&socket), "{words:?}: {}", run.err);
    }
    gateway.edit("toctocd.toml", "max_age = 30", "max_aeg = 30");
    let run = gateway.with_config(&["status"]);
    assert_eq!(run.code, 3, "{}", run.err);
    assert!(run.err.contains("`max_aeg`") && run.err.contains(&socket), "{}", run.err);
}

#[test]
fn with_json_every_answer_and_every_fault_of_every_command_is_json() {
    let gateway = Gateway::new();
    let json = |words: &[&str]| -> (i32, serde_json::Value) {
        let run = gateway.with_config(&[words, &["--json"]].concat());
        schema::check("toctocd", words, &run.out);
        let value = serde_json::from_str(&run.out);
        (run.code, value.unwrap_or_else(|error| panic!("{words:?}: {error}: {}", run.out)))
    };
    let dir = gateway.folder.path().to_str().unwrap();
    let add = ["client", "add", "a", "--key", KEY, "--services", "ssh"];
    for (words, code, key, part) in [
        (&add[..], 0, "out", "# toctoc profile of `a`."),
        (&add, 5, "what", "client `a` has this name already"),
        (&["check"], 0, "out", "sound; 1 service, 1 client"),
        (&["check", "--print"], 0, "out", "[gateway]"),
        (&["guard", "print"], 0, "out", "# The guard of toctoc"),
        (&["status"], 3, "what", "no toctocd is running here"),
        (&["grants"], 3, "what", "no toctocd is running here"),
        (&["close", "a/ssh@192.0.2.7"], 3, "what", "no toctocd is running here"),
        (&["close", "a"], 2, "what", "CLIENT/SERVICE@ADDRESS"),
        (&["reload"], 3, "what", "no toctocd is running here"),
        (&["reinitialise"], 3, "what", "no toctocd is running here"),
        (&["init", "--dir", dir], 5, "what", "exists already"),
        (&["convert", "/no/such"], 2, "what", "/no/such"),
        (&["client", "revoke", "b"], 5, "what", "no client is called `b`"),
        (&["client", "forgive", "b"], 5, "what", "no client is called `b`"),
        (&["client", "rotate", "b"], 5, "what", "no client is called `b`"),
        (&["client", "show", "b"], 5, "what", "no client is called `b`"),
        (&["client", "disable", "b"], 5, "what", "no client is called `b`"),
        (&["client", "enable", "b"], 5, "what", "no client is called `b`"),
        (&["client", "add", "b", "--hours", "Mon 8-18"], 2, "what", "invalid value"),
        (&["strat"], 2, "what", "unrecognized subcommand"),
        (&["client", "add", "a b"], 2, "what", "one word"),
        (&["guard", "on", "--confirm", "86401"], 2, "what", "invalid value"),
    ] {
        let (got, value) = json(words);
        assert_eq!(got, code, "{words:?}: {value}");
        let text = value[key].as_str().unwrap_or_else(|| panic!("{words:?}: {value}"));
        let whole = format!("{text} {}", value["remedy"]);
        assert!(whole.contains(part), "{words:?}: {value}");
        let result = if key == "what" { "fault" } else { "done" };
        assert_eq!(value["result"], result, "{words:?}");
    }
    let (_, clients) = json(&["client", "list"]);
    assert_eq!((&clients[0]["name"], &clients[0]["disabled"]), (&"a".into(), &false.into()));
    let (_, shown) = json(&["client", "show", "a"]);
    assert_eq!((&shown["name"], &shown["last_knock"]), (&"a".into(), &serde_json::Value::Null));
    let (code, revoked) = json(&["client", "revoke", "a"]);
    assert_eq!((code, &revoked["result"]), (0, &"done".into()));
    assert!(revoked["notes"][0].as_str().unwrap().contains("`a` is revoked"));
    gateway.edit("toctocd.toml", "max_age = 30", "max_aeg = 30");
    for words in [&["check"][..], &["run"], &add, &["guard", "adopt"], &["guard", "print"]] {
        let (_, value) = json(words);
        assert!(value["what"].as_str().unwrap().contains("`max_aeg`"), "{words:?}: {value}");
    }
}

#[test]
fn a_service_that_is_removed_is_ignored_for_the_clients_that_still_name_it() {
    let gateway = Gateway::new();
    let add = ["client", "add", "a", "--key", KEY, "--services", "ssh"];
    assert_eq!(gateway.with_config(&add).code, 0);
    gateway.edit("toctocd.toml", "[service.ssh]", "[service.shell]");
    let checked = gateway.with_config(&["check"]);
    assert_eq!(checked.code, 0, "{}", checked.err);
    let expected = "warning: service ssh is not configured, but the clients file names it for a: they \
                    cannot open it. Configure it, or remove it there";
    assert!(checked.out.contains(expected), "{}", checked.out);
}

#[test]
fn check_refuses_a_state_in_memory_before_its_directory_is_there() {
    use nix::sys::statfs::{TMPFS_MAGIC, statfs};
    if statfs("/dev/shm").map(|found| found.filesystem_type()) != Ok(TMPFS_MAGIC) {
        eprintln!("skipped: no tmpfs at /dev/shm");
        return;
    }
    let gateway = Gateway::new();
    let state = gateway.path("state").display().to_string();
    gateway.edit("toctocd.toml", &state, "/dev/shm/no such directory/state");
    let checked = gateway.with_config(&["check"]);
    assert_eq!(checked.code, 2, "{}{}", checked.out, checked.err);
    assert!(checked.err.contains("lies in memory"), "{}", checked.err);
    assert!(!Path::new("/dev/shm/no such directory").exists());
}

#[test]
fn check_print_and_init_show_keys_that_have_no_value() {
    let gateway = Gateway::new();
    let printed = gateway.with_config(&["check", "--print"]).out;
    let written = fs::read_to_string(gateway.path("toctocd.toml")).unwrap();
    for text in [printed, written] {
        for key in ["include", "user", "forward", "mode", "knockd_conf", "start_command_6", "stop"]
        {
            let line = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} = "));
            assert!(text.lines().any(line), "no {key} in {text}");
        }
    }
}

#[test]
fn forgiving_keeps_the_sequence_of_the_door_and_says_if_that_is_gone() {
    let steps = "sequence = [\"7411/tcp\", \"2833/udp\", \"9412/tcp\"]\nservice = \"ssh\"\n";
    let gateway =
        with_doors(&format!("[door.side]\n{steps}[door.other]\n{}", steps.replace("7411", "7412")));
    let add = ["client", "add", "a", "--key", KEY, "--services", "ssh", "--door", "side"];
    assert_eq!(gateway.with_config(&add).code, 0);
    for (more, port) in [(&[][..], "7411"), (&["--door", "other"], "7412"), (&[], "7412")] {
        let forgiven = gateway.with_config(&[&["client", "forgive", "a"], more].concat());
        assert_eq!(forgiven.code, 0, "{}", forgiven.err);
        assert!(forgiven.out.contains(&format!("sequence = [\"{port}/tcp\"")), "{}", forgiven.out);
    }
    gateway.edit("toctocd.toml", "[door.other]", "[door.another]");
    let forgiven = gateway.with_config(&["client", "forgive", "a"]);
    assert_eq!(forgiven.code, 0, "{}", forgiven.err);
    assert!(!forgiven.out.contains("sequence = "), "{}", forgiven.out);
    assert!(forgiven.err.contains("without the sequence of door [other]"), "{}", forgiven.err);
}
