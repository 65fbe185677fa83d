//! Every day at the client: plain `ssh` that knocks first, and `toctoc connect` without ssh.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;

use crate::harness::gate::{Gate, RDP, SSH, ok, stderr};
use crate::harness::ssh::{as_person, is_real_root, make_person, start_sshd};
use crate::harness::{LONG, Running};

/// The client's person, with a home directory that ssh takes for theirs too.
struct Laptop {
    gate: Gate,
}

/// The files of the person's own that must not change.
const CONFIG: &str =
    "Host bert\n    HostName bert.example.org\n\nHost *\n    ServerAliveInterval 30\n";

impl Laptop {
    /// A person with the profiles `anna` and `bert`, and the key of `anna`.
    fn new(services: &str) -> Laptop {
        Laptop::with(services, |config| config)
    }

    fn with(services: &str, edit: impl FnOnce(String) -> String) -> Laptop {
        let gate = Gate::running(edit);
        gate.enrol("anna", services);
        gate.enrol("bert", services);
        fs::copy(gate.path("anna.key"), gate.path("home/toctoc/id_ed25519")).unwrap();
        make_person(&gate);
        Laptop { gate }
    }

    fn command(&self, words: &[&str]) -> Command {
        as_person(&self.gate, words)
    }

    fn run(&self, words: &[&str]) -> Output {
        self.gate.net.client.space.run(&mut self.command(words))
    }

    fn toctoc(&self, words: &str) -> Output {
        let words: Vec<&str> = words.split(' ').collect();
        self.run(&[&[env!("CARGO_BIN_EXE_toctoc")], words.as_slice()].concat())
    }

    /// Starts `toctoc WORDS` with both ends of its standard input and output.
    fn start(&self, words: &str) -> Running {
        let words: Vec<&str> = words.split(' ').collect();
        let mut command =
            self.command(&[&[env!("CARGO_BIN_EXE_toctoc")], words.as_slice()].concat());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        self.gate.net.client.space.spawn(&mut command)
    }

    /// Runs plain `ssh HOST echo logged in` with the person's key.
    fn ssh(&self, host: &str) -> Output {
        let key = self.gate.path("anna.key");
        self.run(&[
            "ssh",
            "-i",
            &key,
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=accept-new",
            "-o",
            "IdentityAgent=none",
            "-o",
            "HashKnownHosts=no",
            host,
            "echo logged in",
        ])
    }

    /// A file below the person's `.ssh`; none if there is no such file.
    fn file(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.gate.path(&format!("person/.ssh/{name}"))).ok()
    }
}

#[test]
fn plain_ssh_knocks_first_once_the_lines_are_installed_and_they_leave_no_trace() {
    let laptop = Laptop::new("ssh");
    let _sshd = start_sshd(&laptop.gate, &laptop.gate.path("anna.key.pub"));
    // The person keeps the file elsewhere, as many do, and its mode is their own choice.
    let kept = laptop.gate.path("person/dotfiles");
    fs::write(&kept, CONFIG).unwrap();
    fs::set_permissions(&kept, Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink(&kept, laptop.gate.path("person/.ssh/config")).unwrap();

    let shown = ok(&laptop.toctoc("ssh-config anna"));
    assert!(shown.starts_with("Host anna\n    HostName 10.90.0.1\n    ProxyCommand "), "{shown}");
    assert_eq!(laptop.file("config").unwrap(), CONFIG, "it was only shown");
    let installed = ok(&laptop.toctoc("ssh-config anna --install"));
    assert!(installed.contains("toctoc.conf: ssh anna"), "{installed}");
    let config = laptop.file("config").unwrap();
    assert!(config.contains("\nInclude toctoc.conf\n\n") && config.ends_with(CONFIG), "{config}");
    assert!(laptop.file("toctoc.conf").unwrap().contains(&shown));

    let output = laptop.ssh("anna");
    let known = laptop.file("known_hosts").unwrap_or_default();
    let log = fs::read_to_string(laptop.gate.path("sshd-log")).unwrap();
    assert!(known.starts_with("10.90.0.1 ssh-ed25519 "), "{known}\n{}\n{log}", stderr(&output));
    if is_real_root() {
        assert_eq!(ok(&output), "logged in\n");
    }
    let grants = laptop.gate.grants();
    assert!(grants.contains("@10.90.0.2,"), "bound to the port of the connection: {grants}");

    let again = ok(&laptop.toctoc("ssh-config anna --install"));
    assert!(again.contains("installed already"), "{again}");
    assert_eq!(laptop.file("config").unwrap(), config, "installed once");
    let foreign = laptop.toctoc("ssh-config bert --install");
    let words = "`ssh bert` already leads elsewhere: to bert.example.org; nothing was changed";
    assert!(!foreign.status.success() && stderr(&foreign).contains(words), "{foreign:?}");
    assert_eq!(laptop.file("config").unwrap(), config);

    ok(&laptop.toctoc("ssh-config anna --remove"));
    assert_eq!(
        (laptop.file("config").as_deref(), laptop.file("toctoc.conf")),
        (Some(CONFIG), None)
    );
    assert!(Path::new(&laptop.gate.path("person/.ssh/config")).is_symlink());
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o640);
    ok(&laptop.toctoc("ssh-config anna --remove"));
}

#[test]
fn lines_that_ssh_does_not_read_are_taken_back() {
    let laptop = Laptop::new("ssh");
    fs::write(laptop.gate.path("person/.ssh/config"), CONFIG).unwrap();
    // Another home than the one in the password file: ssh looks elsewhere.
    fs::create_dir_all(laptop.gate.path("other/.ssh")).unwrap();
    let passwd = format!("root:x:0:0:root:{}:/bin/sh\n", laptop.gate.path("other"));
    fs::write(laptop.gate.path("passwd"), passwd).unwrap();
    let output = laptop.toctoc("ssh-config anna --install");
    let words = "ssh does not use the lines that were written, so they were removed again";
    assert!(!output.status.success() && stderr(&output).contains(words), "{output:?}");
    assert_eq!(
        (laptop.file("config").as_deref(), laptop.file("toctoc.conf")),
        (Some(CONFIG), None)
    );
}

#[test]
fn lines_that_were_damaged_are_written_again_and_those_that_ssh_does_not_read_are_told() {
    let laptop = Laptop::new("ssh");
    let path = |name: &str| laptop.gate.path(&format!("person/.ssh/{name}"));
    // The person's own line counts only for bert.
    let config = "Host bert\n    Include toctoc.conf\n";
    fs::write(path("config"), config).unwrap();
    ok(&laptop.toctoc("ssh-config anna --install"));
    assert!(
        laptop.file("config").unwrap().ends_with(&format!("\nInclude toctoc.conf\n\n{config}"))
    );
    let good = laptop.file("toctoc.conf").unwrap();
    // ssh takes the first value: another block behind this one would be of no use.
    fs::write(path("toctoc.conf"), good.replace("# end\n", "").replace("10.90.0.1", "10.90.0.9"))
        .unwrap();
    let again = ok(&laptop.toctoc("ssh-config anna --install"));
    assert!(again.starts_with("installed in "), "{again}");
    assert_eq!(laptop.file("toctoc.conf").unwrap(), good);
    // Somebody else's file comes first.
    fs::write(path("other.conf"), "Host anna\n    ProxyCommand nc %h %p\n").unwrap();
    fs::write(path("config"), "Include other.conf\nInclude toctoc.conf\n").unwrap();
    let hidden = laptop.toctoc("ssh-config anna --install");
    let words = "toctoc.conf, but ssh does not use them\n";
    assert!(!hidden.status.success() && stderr(&hidden).contains(words), "{hidden:?}");
    // A file that only our line has made goes with it.
    ok(&laptop.toctoc("ssh-config anna --remove"));
    fs::remove_file(path("config")).unwrap();
    ok(&laptop.toctoc("ssh-config anna --install"));
    ok(&laptop.toctoc("ssh-config anna --remove"));
    assert_eq!((laptop.file("config"), laptop.file("toctoc.conf")), (None, None));
}

#[test]
fn the_default_is_a_profile_and_a_service_if_one_is_named() {
    let laptop = Laptop::new("ssh,rdp");
    assert_eq!(
        ok(&laptop.toctoc("default anna:rdp")),
        "commands without a profile now use \
        `anna`, and without a service `rdp`\n"
    );
    assert_eq!(ok(&laptop.toctoc("default")), "anna:rdp\n");
    let list = ok(&laptop.toctoc("list"));
    assert!(list.contains("anna (default): opens ssh, rdp (default) at "), "{list}");
    assert!(ok(&laptop.toctoc("open -4")).contains("3389/tcp"));
    let shown = laptop.toctoc("ssh-config anna:rdp --ask-source");
    let words = "to install it: toctoc ssh-config anna:rdp --install --ask-source\n";
    assert_eq!(stderr(&shown), words);
    let unlisted = laptop.toctoc("default anna:web");
    assert!(unlisted.status.success(), "the gateway may have it since");
    assert_eq!(stderr(&unlisted), "note: the profile does not list `web`, but: ssh, rdp\n");
    ok(&laptop.toctoc("default anna"));
    assert_eq!(ok(&laptop.toctoc("default")), "anna:ssh\n", "the gateway's own choice again");
}

/// Accepts one connection at a port of the gateway and serves it.
fn serve<T: Send + 'static>(
    gate: &Gate, port: u16, serve: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> JoinHandle<T> {
    let listener = gate.net.gateway.inside(|| TcpListener::bind(("0.0.0.0", port)).unwrap());
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        serve(stream)
    })
}

#[test]
fn connect_passes_the_end_of_each_direction_on_and_leaves_the_other_open() {
    let laptop = Laptop::new("rdp");
    // The client ends first.
    let server = serve(&laptop.gate, RDP, |mut stream| {
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        stream.write_all(got.len().to_string().as_bytes()).unwrap();
    });
    let mut connect = laptop.start("connect anna -4");
    let mut input = connect.0.stdin.take().unwrap();
    input.write_all(&vec![b'x'; 3_000_000]).unwrap();
    drop(input);
    let mut answer = String::new();
    connect.0.stdout.take().unwrap().read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "3000000");
    assert!(connect.wait(LONG).expect("it ends").success());
    server.join().unwrap();

    // The server ends first.
    let server = serve(&laptop.gate, RDP, |mut stream| {
        stream.write_all(b"bye").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut got = String::new();
        stream.read_to_string(&mut got).unwrap();
        got
    });
    let mut connect = laptop.start("connect anna:rdp 3389 -4");
    let mut input = connect.0.stdin.take().unwrap();
    let mut answer = String::new();
    connect.0.stdout.take().unwrap().read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "bye");
    input.write_all(b"still here").unwrap();
    drop(input);
    assert!(connect.wait(LONG).expect("it ends").success());
    assert_eq!(server.join().unwrap(), "still here");
}

#[test]
fn connect_passes_each_word_on_at_once() {
    let laptop = Laptop::new("rdp");
    let server = serve(&laptop.gate, RDP, |mut stream| {
        let mut got = [0; 4];
        stream.write_all(b"hello").unwrap();
        for _ in 0..3 {
            stream.read_exact(&mut got).unwrap();
            stream.write_all(&got).unwrap();
        }
    });
    let mut connect = laptop.start("connect anna -4");
    let (mut input, mut output) =
        (connect.0.stdin.take().unwrap(), connect.0.stdout.take().unwrap());
    let mut got = [0; 5];
    output.read_exact(&mut got).unwrap();
    for word in [b"ping", b"pong", b"pang"] {
        input.write_all(word).unwrap();
        let mut back = [0; 4];
        output.read_exact(&mut back).unwrap();
        assert_eq!(&back, word);
    }
    drop(input);
    assert!(connect.wait(LONG).expect("it ends").success());
    server.join().unwrap();
}

#[test]
fn a_connection_beyond_the_limit_of_grants_waits_for_the_end_of_an_earlier_one() {
    let laptop = Laptop::with("ssh", |config| {
        assert!(config.contains("max_grants = 16"), "{config}");
        config.replace("max_grants = 16", "max_grants = 1")
    });
    for _ in 0..2 {
        let server = serve(&laptop.gate, SSH, |mut stream| stream.write_all(b"hello").unwrap());
        let output = laptop.toctoc("connect anna:ssh -4 --seconds 3s");
        assert_eq!(ok(&output), "hello");
        server.join().unwrap();
    }
}

#[test]
fn behind_a_nat_connect_uses_the_observed_address_only_when_told_to() {
    let laptop = Laptop::new("ssh");
    let inner = laptop.gate.net.client.space.behind_nat();
    let toctoc = env!("CARGO_BIN_EXE_toctoc");
    let refused = inner.run(&mut laptop.command(&[toctoc, "connect", "anna:ssh", "-4"]));
    let said = stderr(&refused);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("the knock named 192.168.7.2, but it reached"), "{said}");
    assert!(said.contains("toctoc ssh-config anna --install --ask-source\n"), "{said}");
    let server = serve(&laptop.gate, SSH, |mut stream| stream.write_all(b"hello").unwrap());
    let words = [toctoc, "connect", "anna:ssh", "-4", "--ask-source"];
    assert_eq!(ok(&inner.run(&mut laptop.command(&words))), "hello");
    server.join().unwrap();
    assert!(!laptop.gate.grants().contains("@10.90.0.2,"), "a NAT changes ports");
}

#[test]
fn connect_reaches_what_a_command_opens_at_the_named_port() {
    let commands = "\n[service.vpn]\nstart = [\"/bin/true\"]\nstop = [\"/bin/true\"]\n";
    let laptop = Laptop::with("vpn", |config| config + commands);
    let unnamed = laptop.toctoc("connect anna:vpn -4");
    let words = "vpn is a service of commands, which names no port\n  name the TCP port: toctoc";
    assert!(stderr(&unnamed).contains(words), "{}", stderr(&unnamed));
    let server = serve(&laptop.gate, 7777, |mut stream| stream.write_all(b"hello").unwrap());
    assert_eq!(ok(&laptop.toctoc("connect anna:vpn 7777 -4")), "hello");
    server.join().unwrap();
}

#[test]
fn connect_says_why_it_does_not_connect() {
    let laptop = Laptop::new("ssh,rdp,dns");
    for (words, code, expected) in [
        (
            "connect anna:ssh -4",
            4,
            "ssh is granted, but 10.90.0.1:22 cannot be reached: Connection refused",
        ),
        ("connect anna:ssh 2222 -4", 2, "ssh opens 22/tcp, and not port 2222/tcp"),
        ("connect anna:dns -4", 2, "dns opens 5353/udp, and no TCP port"),
        ("connect anna:other -4", 1, "does not let this key open other"),
    ] {
        let output = laptop.toctoc(words);
        let said = stderr(&output);
        assert_eq!((output.status.code(), said.contains(expected)), (Some(code), true), "{said}");
        assert!(output.stdout.is_empty(), "standard output belongs to the service");
        assert_eq!(said.contains("nothing listens there"), code == 4, "{said}");
    }
}
