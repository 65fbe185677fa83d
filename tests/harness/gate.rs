//! A whole gateway for a test: `toctocd` in the gateway's namespace, provisioned by its own
//! commands, and its clients.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use toctoc::core::authentic::Message;
use toctoc::core::keyring::Day;
use toctoc::core::knock::{KnockKind, Receipt, Request, Signature, Status, timestamp};
use toctoc::core::ledger::Ledger;
use toctoc::core::types::{ServiceName, Source, Wall};
use toctoc::core::wire::{self, AwaitingReceipt};
use toctoc::edge::state::State;
use toctoc::edge::{clock, entropy};
use toctoc::keys::identity::{Identity, KeyFile};
use toctoc::keys::profile::Profile;

use super::process::{children, command_line_contains};
use super::schema;
use super::steps::Steps;
use super::{Host, LONG, Net, Running, SHORT, Space, eventually};

/// The UDP port of sealed knocks.
pub const KNOCK: u16 = 62201;
/// The ports of the services that every gate has: `ssh` for a time, `rdp` for one connection, and
/// `dns` over UDP.
pub const SSH: u16 = 22;
pub const RDP: u16 = 3389;
pub const DNS: u16 = 5353;

/// The start of a command line without the rights to load a program into the kernel.
pub const WITHOUT_BPF: [&str; 2] = ["setpriv", "--bounding-set=-bpf,-sys_admin"];

/// A gateway's files and, while it runs, its process.
pub struct Gate {
    pub net: Net,
    dir: tempfile::TempDir,
    daemon: Option<Daemon>,
}

/// A running toctocd. It is killed when dropped.
pub struct Daemon {
    pub process: Running,
    lines: Receiver<String>,
    log: Vec<String>,
}

/// A client with a profile and a key that knocks by calling the library, so that a test sees every
/// byte.
pub struct Knocker {
    pub profile: Profile,
    signer: Identity,
}

/// A sealed knock, and the state that opens its receipt.
pub struct Sealed {
    pub bytes: Vec<u8>,
    pub awaiting: AwaitingReceipt,
}

/// Holds the answer of a command with `--json` against its schema.
fn check_json(program: &str, words: &[&str], output: &Output) {
    let is_asked = words.iter().take_while(|word| **word != "--").any(|word| *word == "--json");
    // A program that was killed has answered nothing.
    if is_asked && output.status.code().is_some() {
        schema::check(program, words, &String::from_utf8_lossy(&output.stdout));
    }
}

impl Gate {
    /// Provisions a gateway and does not start it; `edit` may change its configuration.
    pub fn new(edit: impl FnOnce(String) -> String) -> Gate {
        let net = Net::new();
        let dir = tempfile::tempdir().expect("a directory");
        let gate = Gate { net, dir, daemon: None };
        let mut init = vec!["init".to_owned(), "--dir".to_owned(), gate.path("etc")];
        for ip in gate.net.gateway_ips() {
            init.extend(["--address".to_owned(), ip.to_string()]);
        }
        for service in
            [format!("ssh={SSH}/tcp"), format!("rdp={RDP}/tcp"), format!("dns={DNS}/udp")]
        {
            init.extend(["--service".to_owned(), service]);
        }
        ok(&gate.net.gateway.run(Command::new(env!("CARGO_BIN_EXE_toctocd")).args(&init)));
        gate.edit_config(|config| {
            let config = section(&config, "service.rdp", "form = \"time\"", "form = \"once\"");
            edit(config.replace("state_on_tmpfs = false", "state_on_tmpfs = true"))
        });
        gate
    }

    /// Provisions a gateway and starts it.
    pub fn running(edit: impl FnOnce(String) -> String) -> Gate {
        let mut gate = Gate::new(edit);
        gate.start();
        gate
    }

    /// A path below the test's directory.
    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// The path of the configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.path().join("etc/toctocd.toml")
    }

    /// Rewrites the configuration file.
    pub fn edit_config(&self, edit: impl FnOnce(String) -> String) {
        let config = fs::read_to_string(self.config()).expect("init wrote it");
        fs::write(self.config(), edit(config)).expect("our own file");
    }

    /// Makes `path` the file of the classic doors.
    pub fn use_knockd_conf(&self, path: &str) {
        let default = "# knockd_conf = \"/etc/knockd.conf\"";
        self.edit_config(|config| {
            assert!(config.contains(default), "the commented configuration shows the key");
            config.replace(default, &format!("knockd_conf = \"{path}\""))
        });
    }

    /// A port of the gateway, as the first host sees it; family 0 is IPv4 and 1 is IPv6.
    pub fn port(&self, family: usize, port: u16) -> SocketAddr {
        self.net.client.gateway(family, port)
    }

    /// Starts toctocd and waits until it is ready.
    pub fn start(&mut self) {
        self.start_by(&mut self.run_command());
    }

    /// Starts `prefix... toctocd run -c CONFIG`.
    pub fn start_under(&mut self, prefix: &[&str]) {
        let mut command = Command::new(prefix[0]);
        command.args(&prefix[1..]).args([env!("CARGO_BIN_EXE_toctocd"), "run", "-c"]);
        self.start_by(command.arg(self.config()));
    }

    /// Starts `prefix... toctocd run` with its listeners by the socket at `socket`.
    pub fn start_apart(&mut self, prefix: &[&str], socket: &Path) {
        let run = format!("exec \"$@\" --listener-socket {}", socket.display());
        self.start_under(&[prefix, &["sh", "-c", &run, "sh"]].concat());
    }

    /// Starts it where it may not load the filter that knows tags.
    pub fn start_without_kernel_filter(&mut self) {
        self.start_under(&WITHOUT_BPF);
    }

    /// True if the kernel drops unknown tags.
    pub fn filters_in_kernel(&self) -> bool {
        !self.status_json()["degraded"].to_string().contains("the filter that knows tags")
    }

    /// Packets that the kernel's filter dropped.
    pub fn filtered(&self) -> u64 {
        let packets = &self.status_json()["packets"];
        let pairs = packets["filtered"].as_array().expect("a list");
        pairs.iter().map(|pair| pair[1].as_u64().expect("a number")).sum()
    }

    /// Starts it with a clock that is wrong by `wrong`, for example `+10y` or `-1d`. The listener's
    /// clock is right.
    pub fn start_at(&mut self, wrong: &str) {
        // Only faketime's library: the program of that name would stand between us and toctocd.
        let mut faketime = Command::new("faketime");
        faketime.args(["-m", "-f", "+0", "printenv", "LD_PRELOAD"]);
        let library = ok(&faketime.output().expect("faketime is installed"));
        let mut command = self.run_command();
        command
            .env("LD_PRELOAD", library.trim())
            .env("FAKETIME", wrong)
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        self.start_by(&mut command);
    }

    /// Starts it with its steps counted, those of its listener left out.
    pub fn start_counted(&mut self, steps: &Steps) {
        self.start_by(steps.count(&mut self.run_command()));
    }

    /// Starts it with its state on a separate disk of `kilobytes`, which only this toctocd sees and
    /// which goes away with it. Returns a path to that directory.
    pub fn start_on_small_disk(&mut self, kilobytes: u32) -> PathBuf {
        let state = self.path("etc/state");
        let line =
            format!("mount -t tmpfs -o mode=700,size={kilobytes}k tmpfs {state} && exec \"$@\"");
        self.start_under(&["unshare", "--mount", "sh", "-c", &line, "sh"]);
        let pid = self.daemon().process.0.id();
        PathBuf::from(format!("/proc/{pid}/root{state}"))
    }

    fn run_command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_toctocd"));
        command.args(["run", "-c"]).arg(self.config());
        command
    }

    fn start_by(&mut self, command: &mut Command) {
        command.stderr(Stdio::piped()).stdin(Stdio::null());
        let mut process = self.net.gateway.spawn(command);
        let errors = process.0.stderr.take().expect("piped");
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(errors).lines() {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut daemon = Daemon { process, lines, log: Vec::new() };
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
        daemon.process.signal(Signal::SIGTERM);
        let status = daemon.process.wait(LONG).expect("toctocd ends in time");
        assert!(status.success(), "{status}: {}", daemon.log());
    }

    /// Ends it by SIGKILL.
    pub fn kill(&mut self) {
        drop(self.daemon.take().expect("it runs"));
    }

    /// Runs `toctocd ... -c CONFIG` in the gateway.
    pub fn toctocd(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_toctocd"));
        let output = self.net.gateway.run(command.args(arguments).arg("-c").arg(self.config()));
        check_json("toctocd", arguments, &output);
        output
    }

    /// Runs `toctocd check`, which must succeed, and returns its output.
    pub fn check(&self) -> String {
        ok(&self.toctocd(&["check"]))
    }

    /// Runs `toctocd grants` and returns its output.
    pub fn grants(&self) -> String {
        ok(&self.toctocd(&["grants"]))
    }

    /// True if no grant exists.
    pub fn nothing_is_open(&self) -> bool {
        self.grants() == "nothing is open\n"
    }

    /// Runs `toctocd reload`, which must succeed, and returns its output.
    pub fn reload(&self) -> String {
        ok(&self.toctocd(&["reload"]))
    }

    /// Runs `toctocd client revoke NAME`, which must succeed.
    pub fn revoke(&self, name: &str) {
        ok(&self.toctocd(&["client", "revoke", name]));
    }

    /// Runs `toctoc WORDS -i KEY` on the first host, with the key of an enrolled client.
    pub fn toctoc_as(&self, name: &str, words: &str) -> Output {
        let key = self.path(&format!("{name}.key"));
        let words: Vec<&str> = words.split_whitespace().chain(["-i", &key]).collect();
        self.toctoc(&self.net.client, &words)
    }

    /// Runs `toctoc` on a host, with a separate configuration directory.
    pub fn toctoc(&self, host: &Host, arguments: &[&str]) -> Output {
        self.toctoc_in(&host.space, arguments)
    }

    /// Runs `toctoc` in any namespace, for example behind a NAT.
    pub fn toctoc_in(&self, space: &Space, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_toctoc"));
        let output = space.run(
            command.args(arguments).env("XDG_CONFIG_HOME", self.path("home")).stdin(Stdio::null()),
        );
        check_json("toctoc", arguments, &output);
        output
    }

    /// Runs `toctocd status` and returns its output.
    pub fn status(&self) -> String {
        ok(&self.toctocd(&["status"]))
    }

    /// Runs `toctocd status --json` and returns its output.
    pub fn status_json(&self) -> serde_json::Value {
        let status: serde_json::Value =
            serde_json::from_str(&ok(&self.toctocd(&["status", "--json"]))).expect("JSON");
        let packets = &status["packets"];
        let mut sum = 0;
        for (name, number) in packets.as_object().expect("counters") {
            if name != "received" {
                sum += number.as_u64().unwrap_or(0);
            }
        }
        for reason in packets["rejected"].as_array().expect("a list") {
            sum += reason[1].as_u64().expect("a number");
        }
        assert_eq!(packets["received"], sum, "the counters add up: {packets}");
        status
    }

    /// The number of packets that the gateway has rejected for this reason.
    pub fn rejected(&self, reason: &str) -> u64 {
        for count in self.status_json()["packets"]["rejected"].as_array().expect("a list") {
            if count[0] == reason {
                return count[1].as_u64().expect("a number");
            }
        }
        0
    }

    /// The grants and openings in a copy of the journal at `path`, as the next start would find
    /// them.
    pub fn journal(path: &Path) -> Ledger {
        let copy = tempfile::tempdir().expect("a directory");
        fs::copy(path, copy.path().join("journal")).expect("the journal exists");
        State::open(copy.path(), clock::now().wall, true, false).expect("a journal").1.ledger
    }

    /// Runs `toctoc` on a host whose clock is wrong by `wrong`, for example `+10y` or `-1d`. Only
    /// that process sees the wrong clock.
    pub fn toctoc_at(&self, host: &Host, wrong: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new("faketime");
        command
            .args(["-m", "--exclude-monotonic", "-f", wrong, env!("CARGO_BIN_EXE_toctoc")])
            .args(arguments);
        host.space.run(command.env("XDG_CONFIG_HOME", self.path("home")).stdin(Stdio::null()))
    }

    /// Makes a key and enrols it with the usual commands. Afterwards [`Gate::toctoc`] can use the
    /// profile `name`.
    pub fn enrol(&self, name: &str, services: &str) -> Knocker {
        self.enrol_with(name, services, &[])
    }

    /// Makes a key and enrols it with `more` options of `client add`.
    pub fn enrol_with(&self, name: &str, services: &str, more: &[&str]) -> Knocker {
        let key = self.path(&format!("{name}.key"));
        ok(&self.toctoc(&self.net.client, &["keygen", "--no-passphrase", "--out", &key]));
        let public = format!("@{key}.pub");
        let words = ["client", "add", name, "--key", &public, "--services", services];
        let profile = ok(&self.toctocd(&[&words, more].concat()));
        let file = self.path(&format!("{name}.toml"));
        fs::write(&file, &profile).expect("our own file");
        ok(&self.toctoc(&self.net.client, &["import", "--name", name, &file]));
        Knocker::new(&profile, Path::new(&key))
    }
}

impl Daemon {
    /// Waits for a log line that contains `words`, and returns it.
    #[track_caller]
    pub fn wait_for(&mut self, words: &str) -> String {
        let end = Instant::now() + LONG;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("toctocd did not log {words:?}; it logged {:#?}", self.log);
            };
            self.log.push(line.clone());
            if line.contains(words) {
                return line;
            }
        }
    }

    /// The process id of its listener. Other children, such as an `nft` that checks the guard, come
    /// and go.
    pub fn listener(&self) -> Pid {
        let mut listeners = Vec::new();
        // Right after a reload the previous one may still be ending.
        let one = eventually(LONG, || {
            listeners = children(self.process.0.id());
            listeners.retain(|pid| command_line_contains(*pid, "--listener"));
            listeners.len() == 1
        });
        assert!(one, "toctocd must have one listener, it has {listeners:?}");
        Pid::from_raw(i32::try_from(listeners[0]).expect("a pid"))
    }

    /// Ends its listener by SIGKILL.
    pub fn kill_listener(&self) {
        kill(self.listener(), Signal::SIGKILL).expect("the listener runs");
    }

    /// Its log up to now.
    pub fn log(&mut self) -> String {
        self.log.extend(self.lines.try_iter());
        self.log.join("\n")
    }
}

impl Knocker {
    /// From the profile that `client add` printed and the file that `keygen` wrote.
    pub fn new(profile: &str, key: &Path) -> Knocker {
        let text = fs::read_to_string(key).expect("the key file");
        let KeyFile::Open(identity) = KeyFile::parse("key", &text).expect("a key") else {
            panic!("the key has a passphrase")
        };
        Knocker {
            profile: Profile::parse("profile", profile).expect("a profile"),
            signer: identity,
        }
    }

    /// This profile with another client's private key.
    pub fn with_signer_of(self, other: Knocker) -> Knocker {
        Knocker { profile: self.profile, signer: other.signer }
    }

    /// Signs as the client's key does.
    pub fn sign(&self, message: &Message) -> Signature {
        self.signer.sign(message)
    }

    /// A request to open `service` for `address`, made now.
    pub fn request(&self, service: &str, address: IpAddr) -> Request {
        Request {
            receipt_wanted: true,
            timestamp: stamp(),
            address: Some(Source::new(address)),
            service: ServiceName::new(service).expect("a name"),
            ..Request::bare(KnockKind::Open)
        }
    }

    /// Knocks as [`Knocker::open`] does. The gateway must grant it.
    #[track_caller]
    pub fn must_open(&self, host: &Host, service: &str, family: usize) {
        let status = self.open(host, service, family).map(|receipt| receipt.status);
        assert_eq!(status, Some(Status::Granted), "{service} for {}", host.ips()[family]);
    }

    /// Seals `request` with today's tag.
    pub fn seal(&self, request: &Request) -> Sealed {
        self.seal_on(Day::Number(clock::now().wall.day()), request)
    }

    /// Seals `request` with the keys of `day`.
    pub fn seal_on(&self, day: Day, request: &Request) -> Sealed {
        let ephemeral = entropy::secret().expect("entropy");
        let signed = request.encode();
        let sealed = wire::seal(&self.profile.side, &signed, day, ephemeral, |message| {
            Ok(self.signer.sign(message))
        });
        let (bytes, awaiting) = sealed.expect("it can be sealed");
        Sealed { bytes: bytes.to_vec(), awaiting }
    }

    /// Knocks from `host` at its gateway address and waits for the receipt. If the gateway asks for
    /// a challenge, as right after a restart, it knocks once more with that, as the client program
    /// does.
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

    /// Sends it from `host` and waits for the status in its receipt.
    pub fn send_for_status(&self, host: &Host, to: IpAddr) -> Option<Status> {
        Some(self.send(host, to)?.status)
    }

    /// Sends it from `host` and waits for its receipt, at most for `timeout`.
    pub fn send_waiting(&self, host: &Host, to: IpAddr, timeout: Duration) -> Option<Receipt> {
        let socket = send(host, to, &self.bytes);
        self.receipt(&socket, timeout)
    }

    /// Sends it from `host`. No receipt must come, within a short time that a receipt would take.
    #[track_caller]
    pub fn send_in_vain(&self, host: &Host, to: IpAddr) {
        let receipt = self.send_waiting(host, to, SHORT);
        assert!(receipt.is_none(), "a receipt came: {receipt:?}");
    }

    /// Waits for its receipt at the socket that it was sent from.
    pub fn receipt(&self, socket: &UdpSocket, timeout: Duration) -> Option<Receipt> {
        let mut found = None;
        let mut buffer = [0; 1500];
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        eventually(timeout, || {
            if let Ok(length) = socket.recv(&mut buffer) {
                found = self.awaiting.open(&buffer[..length]);
            }
            found.is_some()
        });
        found
    }
}

/// Sends one datagram to the knock port.
pub fn send(host: &Host, to: IpAddr, bytes: &[u8]) -> UdpSocket {
    let socket = host.space.udp(SocketAddr::new(to, KNOCK));
    socket.send(bytes).expect("a route");
    socket
}

/// A timestamp of now, as the client program makes it.
pub fn stamp() -> Wall {
    timestamp(clock::now().wall, u32::from_be_bytes(entropy::bytes().expect("entropy")))
}

/// The standard output of a command that must have succeeded.
#[track_caller]
pub fn ok(output: &Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, stderr(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The standard error of a command.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// `text` with `from` replaced by `to` in one section.
pub fn section(text: &str, name: &str, from: &str, to: &str) -> String {
    let start = text.find(&format!("[{name}]")).expect("the section");
    let (before, rest) = text.split_at(start);
    let end = rest.find("\n[").unwrap_or(rest.len());
    let (section, after) = rest.split_at(end);
    assert!(section.contains(from), "[{name}] does not contain {from}");
    format!("{before}{}{after}", section.replace(from, to))
}
