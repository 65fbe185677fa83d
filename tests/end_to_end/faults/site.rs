//! A machine with a classic door under one of the two programs that serve it, which can be frozen,
//! killed and started again. What is expected of it is left to the tests.

#![allow(unreachable_pub)] // the test program is its own crate

use std::fmt::{self, Debug, Formatter};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::{SocketAddrV4, UdpSocket};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use toctoc::edge::clock;
use toctoc::edge::state::State;

use crate::harness::gate::Gate;
use crate::harness::{LONG, Net, Running, eventually};

pub fn until(what: &str, happened: impl FnMut() -> bool) {
    assert!(eventually(2 * LONG, happened), "{what}: not in time");
}

/// Kilobytes of the small disk.
const DISK: u32 = 128;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Program {
    Knockd,
    Run,
}

pub struct Site {
    program: Program,
    gate: Gate,
    daemon: Option<Running>,
    /// A process that does nothing but hold the mount namespace with the small disk.
    disk: Option<Running>,
    boot_clock_ahead: u32,
    deaf_terminal: Option<File>,
}

impl Debug for Site {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?}, did {:?}, said {}",
            self.program,
            self.did(),
            self.log().lines().take(30).collect::<String>()
        )
    }
}

impl Site {
    /// The same doors under both programs. `@` in `doors` stands for the site's directory.
    pub fn both(doors: &str) -> [Site; 2] {
        [Site::knockd(doors), Site::run(doors)]
    }

    /// Under the name knockd.
    pub fn knockd(doors: &str) -> Site {
        Site::new(Program::Knockd, doors)
    }

    /// By `toctocd run`.
    pub fn run(doors: &str) -> Site {
        Site::new(Program::Run, doors)
    }

    fn new(program: Program, doors: &str) -> Site {
        let gate = Gate::new(|config| config);
        let site = Site {
            program,
            gate,
            daemon: None,
            disk: None,
            boot_clock_ahead: 0,
            deaf_terminal: None,
        };
        let here = site.gate.path("");
        site.write("doors.conf", &format!("[options]\n{doors}").replace("@/", &here));
        let config = fs::read_to_string(site.gate.config()).unwrap();
        let line = format!("knockd_conf = \"{}\"", site.path("doors.conf"));
        fs::write(
            site.gate.config(),
            config.replace("# knockd_conf = \"/etc/knockd.conf\"", &line),
        )
        .unwrap();
        symlink(env!("CARGO_BIN_EXE_toctocd"), site.path("knockd")).unwrap();
        fs::create_dir(site.path("journals")).unwrap();
        nix::unistd::mkfifo(Path::new(&site.path("fifo")), nix::sys::stat::Mode::S_IRWXU).unwrap();
        site
    }

    pub fn is_knockd(&self) -> bool {
        self.program == Program::Knockd
    }

    pub fn net(&self) -> &Net {
        &self.gate.net
    }

    pub fn path(&self, name: &str) -> String {
        self.gate.path(name)
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// What it has said since the test began.
    pub fn log(&self) -> String {
        self.read("log")
    }

    /// What the commands have written.
    pub fn did(&self) -> String {
        self.read("did").split_whitespace().collect::<Vec<_>>().join(" ")
    }

    pub fn count(&self, word: &str) -> usize {
        self.did().split(' ').filter(|did| *did == word).count()
    }

    pub fn wait_for(&self, did: &str) {
        let begun = Instant::now();
        let there = eventually(2 * LONG, || self.did() == did);
        assert!(there, "{did:?} not within {:?}: {self:?}", begun.elapsed());
    }

    /// The directory with the journal, seen from outside; to be used before the start.
    pub fn state(&self) -> PathBuf {
        match self.program {
            Program::Knockd => PathBuf::from(self.path("journals/knockd/0")),
            Program::Run => PathBuf::from(self.path("etc/state")),
        }
    }

    fn disk_place(&self) -> String {
        match self.program {
            Program::Knockd => self.path("journals"),
            Program::Run => self.path("etc/state"),
        }
    }

    /// Starts it and waits until it listens.
    pub fn start(&mut self) {
        let ready = match self.program {
            Program::Knockd => "starting up",
            Program::Run => "ready:",
        };
        let before = self.log().matches(ready).count();
        let mut command = self.wrapped();
        match self.program {
            Program::Knockd => {
                command.args([
                    "-i",
                    "gw0",
                    "-g",
                    &self.path("log"),
                    "-c",
                    &self.path("doors.conf"),
                ]);
                command.env("STATE_DIRECTORY", self.path("journals")).stdout(Stdio::null());
            }
            Program::Run => drop(command.args(["run", "-c"]).arg(self.gate.config())),
        }
        let log = OpenOptions::new().append(true).create(true).open(self.path("log")).unwrap();
        let errors = self.deaf_terminal.as_ref().map_or(log, |file| file.try_clone().unwrap());
        command.stderr(errors);
        self.daemon = Some(self.gate.net.gateway.spawn(command.stdin(Stdio::null())));
        if self.deaf_terminal.is_some() && self.program == Program::Run {
            until("it serves", || self.gate.toctocd(&["status"]).status.success());
        } else {
            until("it listens", || self.log().matches(ready).count() > before);
        }
    }

    /// The program, in whatever surroundings were asked for.
    fn wrapped(&self) -> Command {
        let program = match self.program {
            Program::Knockd => self.path("knockd"),
            Program::Run => env!("CARGO_BIN_EXE_toctocd").to_owned(),
        };
        if let Some(disk) = &self.disk {
            let mut command = Command::new("nsenter");
            command.args(["-t", &disk.0.id().to_string(), "--mount", "--", &program]);
            return command;
        }
        if self.boot_clock_ahead > 0 {
            let mut command = Command::new("unshare");
            command.args([
                "--time",
                "--boottime",
                &self.boot_clock_ahead.to_string(),
                "--",
                &program,
            ]);
            return command;
        }
        Command::new(program)
    }

    /// At the next start the clock since boot is so many seconds ahead.
    pub fn boot_clock_ahead(&mut self, seconds: u32) {
        self.boot_clock_ahead = seconds;
    }

    /// Standard error goes into a pipe that nobody reads.
    pub fn deaf_terminal(&mut self) {
        nix::unistd::mkfifo(Path::new(&self.path("deaf")), nix::sys::stat::Mode::S_IRWXU).unwrap();
        self.deaf_terminal =
            Some(OpenOptions::new().read(true).write(true).open(self.path("deaf")).unwrap());
    }

    fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("it runs").0.id()
    }

    fn children(&self) -> Vec<u32> {
        children(self.pid())
    }

    /// Who holds the journal and runs the commands.
    fn holder(&self) -> u32 {
        match self.program {
            Program::Knockd => {
                let mut found = None;
                until("there is a runner", || {
                    found = self.children().into_iter().find(|pid| is(*pid, "--runner"));
                    found.is_some()
                });
                found.unwrap()
            }
            Program::Run => self.pid(),
        }
    }

    /// How many commands run.
    pub fn commands(&self) -> usize {
        children(self.holder()).into_iter().filter(|pid| is(*pid, "sh\0-c")).count()
    }

    /// Ends the commands that still run.
    pub fn end_commands(&self) {
        let commands =
            children(self.holder()).into_iter().filter(|pid| is(*pid, "sh\0-c") || is(*pid, "yes"));
        commands.for_each(|pid| signal(pid, Signal::SIGKILL));
    }

    /// Whoever runs commands does nothing from now on.
    pub fn freeze(&self) {
        let holder = self.holder();
        signal(holder, Signal::SIGSTOP);
        until("it stands still", || state(holder) == Some('T'));
    }

    /// SIGKILL to all of it at once, as far as that is possible.
    pub fn die(&mut self) {
        let holder = self.holder();
        // The daemon first: it would start another runner.
        drop(self.daemon.take());
        if self.program == Program::Knockd {
            signal(holder, Signal::SIGKILL);
        }
        until("it is dead", || matches!(state(holder), None | Some('Z')));
    }

    /// After one more start a whole knock happens, and nothing else that had not happened before.
    pub fn dies_and_runs_nothing_again(&mut self) {
        until("the journal forgets", || self.journal_has(0));
        let before = self.did();
        self.die();
        self.start();
        let waits = self.read("doors.conf").contains("read x");
        self.knock("7001:udp 7002:udp");
        if waits {
            self.wait_for(&format!("{before} open closing"));
            self.release();
            self.wait_for(&format!("{before} open closing close"));
        } else {
            self.wait_for(&format!("{before} open close"));
        }
    }

    /// Tells it to end, lets its commands go on, and waits until it has ended.
    pub fn ends_once_released(&mut self) {
        let mut daemon = self.daemon.take().expect("it runs");
        daemon.signal(Signal::SIGTERM);
        // Not before it knows, or the command may have ended first.
        let pending = || {
            let status = fs::read_to_string(format!("/proc/{}/status", daemon.0.id())).unwrap();
            let mask = status.lines().find_map(|line| line.strip_prefix("ShdPnd:\t")).unwrap();
            u64::from_str_radix(mask, 16).unwrap() >> (Signal::SIGTERM as i32 - 1) & 1 == 1
        };
        until("it takes the signal", || !pending());
        let fifo = self.write_to_fifo();
        assert!(daemon.wait(2 * LONG).is_some(), "{self:?}");
        drop(fifo);
    }

    pub fn knock(&self, ports: &str) {
        let to = self.gate.net.gateway_ips()[0].to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_toctoc"));
        let output =
            self.gate.net.client.space.run(command.args(["knock", &to]).args(ports.split(' ')));
        assert!(output.status.success(), "{output:?}");
    }

    pub fn gateway(&self, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new([10, 90, 0, 1].into(), port)
    }

    pub fn udp(&self, port: u16) -> UdpSocket {
        // Not connected: what comes back of a closed port is no concern of a knocker.
        self.gate.net.client.space.udp(self.gateway(port).into())
    }

    /// Lets all commands go on that wait at the FIFO.
    pub fn release(&self) {
        drop(self.write_to_fifo());
    }

    /// Whether any command waits at the FIFO.
    pub fn commands_wait(&self) -> bool {
        self.fifo().is_some()
    }

    /// The FIFO for writing, if somebody reads it.
    fn fifo(&self) -> Option<File> {
        OpenOptions::new()
            .write(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(self.path("fifo"))
            .ok()
    }

    fn write_to_fifo(&self) -> File {
        let mut opened = None;
        until("a command waits", || {
            opened = self.fifo();
            opened.is_some()
        });
        let mut fifo = opened.unwrap();
        let _ = fifo.write_all(b"go\n");
        fifo
    }

    fn journal(&self) -> Vec<u8> {
        let state = self.state().display().to_string();
        let root =
            self.disk.as_ref().map_or(String::new(), |disk| format!("/proc/{}/root", disk.0.id()));
        fs::read(format!("{root}{state}/journal")).unwrap_or_default()
    }

    pub fn journal_holds(&self, text: &str) -> bool {
        self.journal().windows(text.len()).any(|window| window == text.as_bytes())
    }

    /// Whether a start now would find so many stop commands to run.
    pub fn journal_has(&self, openings: usize) -> bool {
        let copy = tempfile::tempdir().unwrap();
        fs::write(copy.path().join("journal"), self.journal()).unwrap();
        let (_, recovered) = State::open(copy.path(), clock::now().wall, true).unwrap();
        recovered.intact && recovered.ledger.openings().count() == openings
    }

    /// The journal lies on a small disk of its own, which outlives the program.
    pub fn on_small_disk(&mut self) {
        let place = self.disk_place();
        fs::create_dir_all(&place).unwrap();
        let mounted = self.path("mounted");
        let line = format!(
            "mount -t tmpfs -o mode=700,size={DISK}k tmpfs {place} && touch {mounted} && exec sleep 1000"
        );
        let mut command = Command::new("unshare");
        self.disk = Some(self.gate.net.gateway.spawn(command.args(["--mount", "sh", "-c", &line])));
        until("the disk is there", || Path::new(&mounted).exists());
    }

    fn filling(&self) -> PathBuf {
        let disk = self.disk.as_ref().expect("a small disk").0.id();
        PathBuf::from(format!("/proc/{disk}/root{}/fill", self.disk_place()))
    }

    /// The disk is full from here on.
    pub fn fill(&self) {
        let _ = fs::write(self.filling(), vec![0; 2 * 1024 * DISK as usize]);
    }

    pub fn make_room(&self) {
        fs::remove_file(self.filling()).unwrap();
    }

    /// Whether it has said that it does not open for want of a journal.
    pub fn refused(&self) -> bool {
        self.log().contains(match self.program {
            Program::Knockd => "stop command not journalled",
            Program::Run => "NOTHING OPENS",
        })
    }

    /// Resident KiB of all its processes.
    pub fn memory(&self) -> u64 {
        let all = self.children().into_iter().chain([self.pid()]);
        let resident = |pid: u32| -> u64 {
            let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line =
                text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
            line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        all.filter(|pid| is(*pid, "--") || *pid == self.pid()).map(resident).sum()
    }
}

fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Whether the command line of `pid` holds `text`; its words end with NUL.
fn is(pid: u32, text: &str) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.windows(text.len()).any(|window| window == text.as_bytes())
}

fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}
