//! The contestants: knockd, our programs, or a few nftables rules, each on a separate gateway.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::gate::{Gate, SSH};
use crate::harness::process::{children, cpu_time};
use crate::harness::{Echo, LONG, Running, eventually};
use crate::processors::of_contestant;

/// The last byte of the first client address that knocks.
const FIRST_CLIENT: u8 = 10;
/// The port behind the door that iptables opens.
const BEHIND: u16 = 2222;
/// Seconds from opening to closing.
pub(crate) const OPEN_FOR: u64 = 10;
/// The door whose command only reports that it runs.
pub(crate) const SAYS: [u16; 3] = [7001, 7002, 7003];
/// The door that opens.
pub(crate) const OPENS: [u16; 3] = [7011, 7012, 7013];

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Knockd,
    OursAsKnockd,
    Run,
    Grant,
    Sets,
}

impl Kind {
    pub(crate) const ALL: [Kind; 5] =
        [Kind::Knockd, Kind::OursAsKnockd, Kind::Run, Kind::Grant, Kind::Sets];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Kind::Knockd => "knockd 0.8",
            Kind::OursAsKnockd => "ours as knockd",
            Kind::Run => "toctocd run",
            Kind::Grant => "native grant",
            Kind::Sets => "nft sets",
        }
    }

    pub(crate) fn is_installed(self) -> bool {
        self != Kind::Knockd || program("knockd").is_some()
    }

    /// True if its doors run commands.
    pub(crate) fn has_commands(self) -> bool {
        matches!(self, Kind::Knockd | Kind::OursAsKnockd | Kind::Run)
    }
}

/// A gateway with doors.
pub(crate) struct Contestant {
    pub(crate) kind: Kind,
    pub(crate) gate: Gate,
    /// The time and source of each command that ran.
    pub(crate) output: Receiver<(Instant, Ipv4Addr)>,
    process: Option<Running>,
    _behind: Echo,
}

impl Contestant {
    pub(crate) fn start(kind: Kind) -> Contestant {
        let gate = Gate::new(|config| config);
        let clients =
            (FIRST_CLIENT..=250).map(|last| format!("ip addr add 10.90.0.{last}/24 dev eth0"));
        gate.net.client.space.sh(&clients.collect::<Vec<_>>().join("\n"));
        let output = read_fifo(Path::new(&gate.path("output")));
        let behind = gate.net.gateway.tcp_echo(if kind == Kind::Grant { SSH } else { BEHIND });
        let mut contestant = Contestant { kind, gate, output, process: None, _behind: behind };
        contestant.configure();
        match kind {
            Kind::Knockd => {
                contestant.start_knockd(&program("knockd").expect("is_installed() was true"))
            }
            Kind::OursAsKnockd => {
                let link = contestant.gate.path("knockd");
                symlink(env!("CARGO_BIN_EXE_toctocd"), &link).expect("our own directory");
                contestant.start_knockd(Path::new(&link));
            }
            Kind::Run | Kind::Grant => contestant.gate.start(),
            Kind::Sets => contestant.load_sets(),
        }
        for pid in contestant.processes() {
            of_contestant().assign(pid);
        }
        contestant
    }

    /// The port to connect to once the door is open.
    pub(crate) fn behind(&self) -> u16 {
        if self.kind == Kind::Grant { SSH } else { BEHIND }
    }

    /// The addresses that knock, one for each knock.
    pub(crate) fn clients(&self, knocks: usize) -> impl Iterator<Item = Ipv4Addr> {
        (FIRST_CLIENT..=250).cycle().take(knocks).map(|last| Ipv4Addr::new(10, 90, 0, last))
    }

    fn configure(&self) {
        let rule = format!("-s %IP% -p tcp --dport {BEHIND} -j ACCEPT");
        let output = self.gate.path("output");
        let list = |ports: [u16; 3]| ports.map(|port| port.to_string()).join(",");
        let doors = format!(
            "[options]\n[says]\n sequence = {}\n tcpflags = syn\n start_command = echo %IP% >{output}\n\
             [opens]\n sequence = {}\n tcpflags = syn\n start_command = iptables -w -I INPUT {rule}\n \
             cmd_timeout = {OPEN_FOR}\n stop_command = iptables -w -D INPUT {rule}\n",
            list(SAYS),
            list(OPENS),
        );
        let path = self.gate.path("doors.conf");
        self.gate.use_knockd_conf(&path);
        if self.kind == Kind::Grant {
            // The second door is one in toctocd.toml, which grants a service.
            let first = doors.split("[opens]").next().unwrap_or_default();
            fs::write(path, first).expect("our own file");
            let steps = OPENS.map(|port| format!("\"{port}/tcp\"")).join(", ");
            let door = format!("[door.opens]\nsequence = [{steps}]\nservice = \"ssh\"\n");
            self.gate.edit_config(|config| config + &door);
        } else {
            fs::write(path, doors).expect("our own file");
        }
        self.gate.net.gateway.sh(&format!(
            "iptables -A INPUT -p tcp --dport {BEHIND} -j REJECT --reject-with tcp-reset"
        ));
    }

    fn start_knockd(&mut self, program: &Path) {
        let log = self.gate.path("log");
        let mut command = Command::new(program);
        command.args(["-i", "gw0", "-g", &log, "-c", &self.gate.path("doors.conf")]);
        command
            .env("STATE_DIRECTORY", self.gate.path("journals"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        fs::create_dir(self.gate.path("journals")).expect("our own directory");
        self.process = Some(self.gate.net.gateway.spawn(&mut command));
        let listens = || fs::read_to_string(&log).is_ok_and(|text| text.contains("starting up"));
        assert!(eventually(LONG, listens), "{} does not start", program.display());
    }

    /// The lower bound: the kernel alone.
    fn load_sets(&self) {
        let [a, b, c] = OPENS;
        let syn = "tcp flags & (syn | ack) == syn";
        self.gate.net.gateway.sh(&format!(
            "nft -f - <<'END'
            table inet floor {{
                set one {{ type ipv4_addr; flags dynamic, timeout; timeout 5s; }}
                set two {{ type ipv4_addr; flags dynamic, timeout; timeout 5s; }}
                set open {{ type ipv4_addr; flags dynamic, timeout; timeout {OPEN_FOR}s; }}
                chain input {{
                    type filter hook input priority -10; policy accept;
                    tcp dport {c} {syn} ip saddr @two add @open {{ ip saddr }}
                    tcp dport {b} {syn} ip saddr @one add @two {{ ip saddr }}
                    tcp dport {a} {syn} add @one {{ ip saddr }}
                }}
            }}
END
            iptables -F INPUT
            nft add rule inet floor input tcp dport {BEHIND} ip saddr @open accept
            nft add rule inet floor input tcp dport {BEHIND} reject with tcp reset"
        ));
    }

    fn root(&mut self) -> Option<u32> {
        match (&self.process, self.kind) {
            (Some(process), _) => Some(process.0.id()),
            (None, Kind::Sets) => None,
            (None, _) => Some(self.gate.daemon().process.0.id()),
        }
    }

    /// All of its processes.
    fn processes(&mut self) -> Vec<u32> {
        let mut all: Vec<u32> = self.root().into_iter().collect();
        let mut at = 0;
        while let Some(pid) = all.get(at).copied() {
            all.extend(children(pid));
            at += 1;
        }
        all
    }

    /// CPU time so far of all its processes and of the commands that have ended, to 10 ms.
    pub(crate) fn cpu(&mut self) -> Duration {
        self.processes().into_iter().map(cpu_time).sum()
    }

    /// Resident KiB of all its processes. Shared pages count once.
    pub(crate) fn memory(&mut self) -> u64 {
        let pss = |pid: u32| -> u64 {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or_default();
            line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        self.processes().into_iter().map(pss).sum()
    }
}

fn program(name: &str) -> Option<PathBuf> {
    let paths = ["/usr/sbin", "/usr/local/sbin", "/usr/bin"].map(|dir| Path::new(dir).join(name));
    paths.into_iter().find(|path| path.exists())
}

/// Makes a FIFO at `path`, and returns what commands write there with the time of each line.
fn read_fifo(path: &Path) -> Receiver<(Instant, Ipv4Addr)> {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).expect("our own directory");
    // Also open for writing, so that reading never ends.
    let fifo: File = OpenOptions::new().read(true).write(true).open(path).expect("a FIFO");
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(fifo).lines().map_while(Result::ok) {
            let Ok(ip) = line.parse() else { continue };
            if sender.send((Instant::now(), ip)).is_err() {
                return;
            }
        }
    });
    lines
}
