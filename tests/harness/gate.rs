//! A whole gateway for a test: `toctocd` in the gateway's namespace, provisioned by its own
//! commands, and clients of it. What is tried against it is left to the tests.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use nix::unistd::Pid;
use toctoc::core::keyring::Day;
use toctoc::core::knock::{KnockKind, Receipt, Request, Status};
use toctoc::core::types::{ServiceName, Source, Wall};
use toctoc::core::wire::{self, AwaitingReceipt};
use toctoc::edge::{clock, entropy};
use toctoc::keys::identity::{KeyFile, Signer};
use toctoc::keys::profile::Profile;

use super::{Host, LONG, Net, Running, Space, eventually};

/// The UDP port of sealed knocks.
pub const KNOCK: u16 = 62201;
/// Services that every gate has: `ssh` by time, `rdp` for one connection, `dns` over UDP, each on
/// these ports.
pub const SSH: u16 = 22;
pub const RDP: u16 = 3389;
pub const DNS: u16 = 5353;

/// A gateway's files and, while it runs, its process.
pub struct Gate {
    pub net: Net,
    dir: tempfile::TempDir,
    daemon: Option<Daemon>,
}

/// A running toctocd: killed when dropped.
pub struct Daemon {
    pub process: Running,
    lines: Receiver<String>,
    pub said: Vec<String>,
}

/// Somebody who holds a profile and a key, and knocks by the library: so a test sees every byte.
pub struct Knocker {
    pub profile: Profile,
    signer: Signer,
}

/// A sealed knock, and what opens its receipt.
pub struct Sealed {
    pub bytes: Vec<u8>,
    pub awaiting: AwaitingReceipt,
}

impl Gate {
    /// Provisions a gateway; `edit` may change its configuration. It does not run yet.
    pub fn new(edit: impl FnOnce(String) -> String) -> Gate {
        let net = Net::new();
        let dir = tempfile::tempdir().expect("a directory");
        let gate = Gate { net, dir, daemon: None };
        let address = gate.net.gateway_ips();
        let services =
            [format!("ssh={SSH}/tcp"), format!("rdp={RDP}/tcp"), format!("dns={DNS}/udp")];
        let mut init = vec!["init".to_owned(), "--dir".to_owned(), gate.path("etc")];
        address.iter().for_each(|ip| init.extend(["--address".to_owned(), ip.to_string()]));
        services.iter().for_each(|service| init.extend(["--service".to_owned(), service.clone()]));
        let init: Vec<&str> = init.iter().map(String::as_str).collect();
        ok(&gate.toctocd_plain(&init));
        let config = fs::read_to_string(gate.config()).expect("init wrote it");
        let once = section(&config, "service.rdp", "form = \"time\"", "form = \"once\"");
        let memory = once.replace("state_on_tmpfs = false", "state_on_tmpfs = true");
        fs::write(gate.config(), edit(memory)).expect("our own file");
        gate
    }

    /// The same, running.
    pub fn running(edit: impl FnOnce(String) -> String) -> Gate {
        let mut gate = Gate::new(edit);
        gate.start();
        gate
    }

    /// A path below the test's directory.
    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.path().join("etc/toctocd.toml")
    }

    /// Starts toctocd and waits until it is ready.
    pub fn start(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_toctocd"));
        self.start_by(command.args(["run", "-c"]).arg(self.config()));
    }

    /// The same by a command line that ends in ours: `prefix... toctocd run -c CONFIG`.
    pub fn start_under(&mut self, prefix: &[&str]) {
        let mut command = Command::new(prefix[0]);
        command.args(&prefix[1..]).args([env!("CARGO_BIN_EXE_toctocd"), "run", "-c"]);
        self.start_by(command.arg(self.config()));
    }

    /// The same with a clock that is wrong, by `+10y` or `-1d`; its listener's is right.
    pub fn start_at(&mut self, wrong: &str) {
        // By faketime's library alone: the program of that name would stand between us and toctocd.
        let library = ok(&Command::new("faketime")
            .args(["-m", "-f", "+0", "printenv", "LD_PRELOAD"])
            .output()
            .expect("faketime"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_toctocd"));
        command
            .env("LD_PRELOAD", library.trim())
            .env("FAKETIME", wrong)
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        self.start_by(command.args(["run", "-c"]).arg(self.config()));
    }

    /// The same with a state directory on a disk of its own, of `kilobytes`, that only this toctocd
    /// sees. It is gone with it. Answers a path by which others reach that directory.
    pub fn start_on_small_disk(&mut self, kilobytes: u32) -> PathBuf {
        let state = self.path("etc/state");
        let line =
            format!("mount -t tmpfs -o mode=700,size={kilobytes}k tmpfs {state} && exec \"$@\"");
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "sh",
            "-c",
            &line,
            "sh",
            env!("CARGO_BIN_EXE_toctocd"),
            "run",
            "-c",
        ]);
        self.start_by(command.arg(self.config()));
        let pid = self.daemon().process.0.id();
        PathBuf::from(format!("/proc/{pid}/root{state}"))
    }

    fn start_by(&mut self, command: &mut Command) {
        let mut process =
            self.net.gateway.spawn(command.stderr(Stdio::piped()).stdin(Stdio::null()));
        let errors = process.0.stderr.take().expect("piped");
        let (sender, lines) = channel();
        thread::spawn(move || {
            BufReader::new(errors)
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        let mut daemon = Daemon { process, lines, said: Vec::new() };
        daemon.wait_for("ready:");
        self.daemon = Some(daemon);
    }

    /// The running toctocd.
    pub fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("it runs")
    }

    /// Ends it by SIGTERM and waits.
    pub fn stop(&mut self) {
        let mut daemon = self.daemon.take().expect("it runs");
        daemon.process.signal(nix::sys::signal::Signal::SIGTERM);
        let status = daemon.process.wait(LONG).expect("it ends");
        assert!(status.success(), "{status}: {:?}", daemon.said);
    }

    /// Ends it by SIGKILL.
    pub fn kill(&mut self) {
        drop(self.daemon.take().expect("it runs"));
    }

    /// Runs `toctocd ... -c CONFIG` in the gateway.
    pub fn toctocd(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_toctocd"));
        self.net.gateway.run(command.args(arguments).arg("-c").arg(self.config()))
    }

    fn toctocd_plain(&self, arguments: &[&str]) -> Output {
        self.net.gateway.run(Command::new(env!("CARGO_BIN_EXE_toctocd")).args(arguments))
    }

    /// Runs `toctoc` on a host, with a configuration directory of its own.
    pub fn toctoc(&self, host: &Host, arguments: &[&str]) -> Output {
        self.toctoc_in(&host.space, arguments)
    }

    /// The same in a namespace that is no host of the gateway's: behind a NAT, say.
    pub fn toctoc_in(&self, space: &Space, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_toctoc"));
        space.run(
            command.args(arguments).env("XDG_CONFIG_HOME", self.path("home")).stdin(Stdio::null()),
        )
    }

    /// What `toctocd status --json` says.
    pub fn status(&self) -> serde_json::Value {
        serde_json::from_str(&ok(&self.toctocd(&["status", "--json"]))).expect("JSON")
    }

    /// How often the gateway has refused a packet for this reason.
    pub fn refused(&self, reason: &str) -> u64 {
        let status = self.status();
        let counts = status["rejected"].as_array().expect("a list").clone();
        counts.iter().find(|one| one[0] == reason).and_then(|one| one[1].as_u64()).unwrap_or(0)
    }

    /// The same on a host whose clock is wrong: by `+10y`, `-1d`, as faketime says it. Only that
    /// process sees it.
    pub fn toctoc_at(&self, host: &Host, wrong: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new("faketime");
        command
            .args(["-m", "--exclude-monotonic", "-f", wrong, env!("CARGO_BIN_EXE_toctoc")])
            .args(arguments);
        host.space.run(command.env("XDG_CONFIG_HOME", self.path("home")).stdin(Stdio::null()))
    }

    /// Makes a key and enrols it by the commands that people use; the profile `name` can then be
    /// opened by [`Gate::toctoc`].
    pub fn enrol(&self, name: &str, services: &str) -> Knocker {
        self.enrol_with(name, services, &[])
    }

    /// The same with more words behind `client add`.
    pub fn enrol_with(&self, name: &str, services: &str, more: &[&str]) -> Knocker {
        let key = self.path(&format!("{name}.key"));
        ok(&self.toctoc(&self.net.client, &["keygen", "--no-passphrase", "--out", &key]));
        let public = format!("@{key}.pub");
        let words = ["client", "add", name, "--key", &public, "--services", services];
        let added = self.toctocd(&[&words, more].concat());
        let profile = ok(&added);
        let file = self.path(&format!("{name}.toml"));
        fs::write(&file, &profile).expect("our own file");
        ok(&self.toctoc(&self.net.client, &["import", "--name", name, &file]));
        Knocker::new(&profile, Path::new(&key))
    }
}

impl Daemon {
    /// Waits for a line that contains `words`, and answers it.
    pub fn wait_for(&mut self, words: &str) -> String {
        let end = std::time::Instant::now() + LONG;
        loop {
            let left = end.saturating_duration_since(std::time::Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.said.push(line.clone());
                    if line.contains(words) {
                        return line;
                    }
                }
                Err(_) => panic!("toctocd did not say {words:?}; it said {:#?}", self.said),
            }
        }
    }

    /// The pid of its listener. Its other children, such as the `nft` of a look at the guard, come
    /// and go.
    pub fn listener(&self) -> Pid {
        let parent = self.process.0.id();
        let listeners = || {
            let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))
                .expect("it runs");
            let listens = |pid: &&str| {
                fs::read(format!("/proc/{pid}/cmdline"))
                    .is_ok_and(|line| line.windows(10).any(|w| w == b"--listener"))
            };
            children
                .split_whitespace()
                .filter(listens)
                .map(|pid| pid.parse().expect("a pid"))
                .collect::<Vec<i32>>()
        };
        // Right after a reload the old one may still be about to end.
        assert!(
            super::eventually(LONG, || listeners().len() == 1),
            "one listener: {:?}",
            listeners()
        );
        Pid::from_raw(listeners()[0])
    }

    /// Ends its listener by SIGKILL.
    pub fn kill_listener(&self) {
        nix::sys::signal::kill(self.listener(), nix::sys::signal::Signal::SIGKILL)
            .expect("it lives");
    }

    /// What it said, up to now.
    pub fn said(&mut self) -> String {
        self.said.extend(self.lines.try_iter());
        self.said.join("\n")
    }
}

impl Knocker {
    /// Out of the texts that the commands printed.
    pub fn new(profile: &str, key: &Path) -> Knocker {
        let text = fs::read_to_string(key).expect("the key file");
        let KeyFile::Open(identity) = KeyFile::parse("key", &text).expect("a key") else {
            panic!("no passphrase")
        };
        Knocker {
            profile: Profile::parse("profile", profile).expect("a profile"),
            signer: Signer::Key(identity),
        }
    }

    /// This profile with another's key.
    pub fn with_signer_of(self, other: Knocker) -> Knocker {
        Knocker { profile: self.profile, signer: other.signer }
    }

    /// A request to open `service` for `address`, made now.
    pub fn request(&self, service: &str, address: IpAddr) -> Request {
        Request {
            kind: KnockKind::Open,
            receipt_wanted: true,
            timestamp: stamp(),
            challenge: None,
            address: Some(Source::new(address)),
            source_port: 0,
            seconds: 0,
            service: ServiceName::new(service).expect("a name"),
            fingerprint: self.profile.key.fingerprint(),
        }
    }

    /// Seals `request` with today's tag.
    pub fn seal(&self, request: &Request) -> Sealed {
        let day = Day::Number(clock::now().wall.day());
        let ephemeral = entropy::secret().expect("entropy");
        let sealed = wire::seal(&self.profile.side, request, day, ephemeral, |message| {
            self.signer.sign(message)
        });
        let (bytes, awaiting) = sealed.expect("it can be sealed");
        Sealed { bytes: bytes.to_vec(), awaiting }
    }

    /// Knocks from `host` at its own gateway address and waits for the receipt. Where a challenge
    /// is asked for, as right after a restart, it knocks once more with that, as the client does.
    pub fn open(&self, host: &Host, service: &str, family: usize) -> Option<Receipt> {
        let (from, to) = (host.ips()[family], host.gateway_ips()[family]);
        let receipt = self.seal(&self.request(service, from)).send(host, to)?;
        if !matches!(receipt.status, Status::Clock | Status::Challenge) {
            return Some(receipt);
        }
        let retry = Request { challenge: receipt.challenge, ..self.request(service, from) };
        self.seal(&retry).send(host, to)
    }
}

impl Sealed {
    /// Sends it from `host` and waits for its receipt.
    pub fn send(&self, host: &Host, to: IpAddr) -> Option<Receipt> {
        self.send_waiting(host, to, LONG)
    }

    /// The same, not waiting so long.
    pub fn send_waiting(&self, host: &Host, to: IpAddr, patience: Duration) -> Option<Receipt> {
        let socket = send(host, to, &self.bytes);
        self.receipt(&socket, patience)
    }

    /// Sends it where no receipt must come: none does within a short time that a receipt would
    /// take.
    pub fn send_in_vain(&self, host: &Host, to: IpAddr) {
        let socket = send(host, to, &self.bytes);
        let receipt = self.receipt(&socket, super::SHORT);
        assert!(receipt.is_none(), "an answer came: {receipt:?}");
    }

    /// The receipt that comes to the socket that it was sent from.
    pub fn receipt(&self, socket: &UdpSocket, patience: Duration) -> Option<Receipt> {
        let mut found = None;
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        eventually(patience, || {
            let mut buffer = [0; 1500];
            found = socket.recv(&mut buffer).ok().and_then(|n| self.awaiting.open(&buffer[..n]));
            found.is_some()
        });
        found
    }
}

/// Sends raw bytes to the knock port.
pub fn send(host: &Host, to: IpAddr, bytes: &[u8]) -> UdpSocket {
    let socket = host.space.udp(SocketAddr::new(to, KNOCK));
    socket.send(bytes).expect("a route");
    socket
}

/// Now, with its lowest bits random.
pub fn stamp() -> Wall {
    let noise = u32::from_be_bytes(entropy::bytes().expect("entropy"));
    Wall(clock::now().wall.0 & !0xf_ffff | u64::from(noise & 0xf_ffff))
}

/// The standard output of a command that must have succeeded.
pub fn ok(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// `text` with `from` replaced by `to` in one section.
pub fn section(text: &str, name: &str, from: &str, to: &str) -> String {
    let start = text.find(&format!("[{name}]")).expect("the section");
    let end = text[start + 1..].find("\n[").map_or(text.len(), |end| start + 1 + end);
    assert!(text[start..end].contains(from), "{from} in [{name}]");
    format!("{}{}{}", &text[..start], text[start..end].replace(from, to), &text[end..])
}
