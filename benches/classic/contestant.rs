//! Whoever opens the door: knockd, our programs, or a few nftables rules, each alone on a gateway
//! of its own. What is measured is left to `measure`.

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
use crate::harness::{Echo, LONG, Running, eventually};
use crate::processors::theirs;

/// The first client address that knocks; as many follow as there are knocks.
const FIRST_CLIENT: u8 = 10;
/// The port behind the door that iptables opens.
const BEHIND: u16 = 2222;
/// Seconds from opening to closing.
pub(crate) const OPEN_FOR: u64 = 10;
/// The door whose command only says that it runs.
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

    /// Whether its doors run commands.
    pub(crate) fn has_commands(self) -> bool {
        matches!(self, Kind::Knockd | Kind::OursAsKnockd | Kind::Run)
    }
}

/// A gateway whose doors can be knocked at.
pub(crate) struct Contestant {
    pub(crate) kind: Kind,
    pub(crate) gate: Gate,
    /// Who ran a command, and when it was heard of.
    pub(crate) said: Receiver<(Instant, Ipv4Addr)>,
    process: Option<Running>,
    _behind: Echo,
}

impl Contestant {
    pub(crate) fn start(kind: Kind) -> Contestant {
        let gate = Gate::new(|config| config);
        let clients =
            (FIRST_CLIENT..=250).map(|last| format!("ip addr add 10.90.0.{last}/24 dev eth0"));
        gate.net.client.space.sh(&clients.collect::<Vec<_>>().join("\n"));
        let said = hear(Path::new(&gate.path("said")));
        let behind = gate.net.gateway.tcp_echo(if kind == Kind::Grant { SSH } else { BEHIND });
        let mut contestant = Contestant { kind, gate, said, process: None, _behind: behind };
        contestant.configure();
        match kind {
            Kind::Knockd => contestant.start_knockd(&program("knockd").expect("looked for before")),
            Kind::OursAsKnockd => {
                let link = contestant.gate.path("knockd");
                symlink(env!("CARGO_BIN_EXE_toctocd"), &link).expect("our own directory");
                contestant.start_knockd(Path::new(&link));
            }
            Kind::Run | Kind::Grant => contestant.gate.start(),
            Kind::Sets => contestant.load_sets(),
        }
        contestant.processes().into_iter().for_each(|pid| theirs().take(pid));
        contestant
    }

    /// Where to connect once the door is open.
    pub(crate) fn behind(&self) -> u16 {
        if self.kind == Kind::Grant { SSH } else { BEHIND }
    }

    /// The addresses that knock, one for each knock.
    pub(crate) fn clients(&self, knocks: usize) -> impl Iterator<Item = Ipv4Addr> {
        (FIRST_CLIENT..=250).cycle().take(knocks).map(|last| Ipv4Addr::new(10, 90, 0, last))
    }

    fn configure(&self) {
        let rule = format!("-s %IP% -p tcp --dport {BEHIND} -j ACCEPT");
        let said = self.gate.path("said");
        let list = |ports: [u16; 3]| ports.map(|port| port.to_string()).join(",");
        let doors = format!(
            "[options]\n[says]\n sequence = {}\n tcpflags = syn\n start_command = echo %IP% >{said}\n\
             [opens]\n sequence = {}\n tcpflags = syn\n start_command = iptables -w -I INPUT {rule}\n \
             cmd_timeout = {OPEN_FOR}\n stop_command = iptables -w -D INPUT {rule}\n",
            list(SAYS),
            list(OPENS),
        );
        // With a grant, the second door is one of our own form.
        let (kept, native) = match self.kind {
            Kind::Grant => {
                let kept = doors.split("[opens]").next().unwrap_or_default().to_owned();
                let steps = OPENS.map(|port| format!("\"{port}/tcp\"")).join(", ");
                (kept, format!("[door.opens]\nsequence = [{steps}]\nservice = \"ssh\"\n"))
            }
            _ => (doors, String::new()),
        };
        fs::write(self.gate.path("doors.conf"), kept).expect("our own file");
        let config = fs::read_to_string(self.gate.config()).expect("init wrote it");
        let path = self.gate.path("doors.conf");
        let config = config
            .replace("# knockd_conf = \"/etc/knockd.conf\"", &format!("knockd_conf = \"{path}\""));
        fs::write(self.gate.config(), config + &native).expect("our own file");
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

    /// The floor: what the kernel alone needs.
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

    /// Every process of it.
    fn processes(&mut self) -> Vec<u32> {
        let mut all: Vec<u32> = self.root().into_iter().collect();
        let mut at = 0;
        while let Some(pid) = all.get(at).copied() {
            let path = format!("/proc/{pid}/task/{pid}/children");
            let text = fs::read_to_string(path).unwrap_or_default();
            all.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            at += 1;
        }
        all
    }

    /// CPU time so far, of all its processes and of the commands that have ended. To 10 ms.
    pub(crate) fn cpu(&mut self) -> Duration {
        let ticks = |pid: u32| -> u64 {
            let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let after = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
            after.split(' ').skip(11).take(4).filter_map(|word| word.parse::<u64>().ok()).sum()
        };
        Duration::from_millis(self.processes().into_iter().map(ticks).sum::<u64>() * 10)
    }

    /// Resident memory of all its processes, KiB; pages that they share count once.
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

/// A FIFO at `path`; what commands write there is told with the time at which it came.
fn hear(path: &Path) -> Receiver<(Instant, Ipv4Addr)> {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).expect("our own directory");
    // Also open for writing, so that it never ends.
    let fifo: File = OpenOptions::new().read(true).write(true).open(path).expect("a FIFO");
    let (tell, told) = channel();
    thread::spawn(move || {
        let lines = BufReader::new(fifo).lines().map_while(Result::ok);
        lines
            .filter_map(|line| line.parse().ok())
            .try_for_each(|ip| tell.send((Instant::now(), ip)))
    });
    told
}
