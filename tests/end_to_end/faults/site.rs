//! A machine with classic doors, served by one of two programs, which can be stopped, killed and
//! started again.

#![allow(unreachable_pub)] // the test program is its own crate

use std::fmt::{self, Debug, Formatter};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::{SocketAddrV4, UdpSocket};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use toctoc::edge::clock;
use toctoc::edge::state::State;

use crate::harness::gate::Gate;
use crate::harness::process::{self, children, command_line_contains, has_ended, signal};
use crate::harness::{LONG, Net, Running, eventually, until};

/// The size of the small disk in kilobytes.
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
    /// A process that keeps the mount namespace with the small disk.
    disk: Option<Running>,
    boot_clock_ahead: u32,
    unread_pipe: Option<File>,
}

impl Debug for Site {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?}, did {:?}, logged {}",
            self.program,
            self.did(),
            self.log().lines().take(30).collect::<String>()
        )
    }
}

impl Site {
    /// The same doors with both programs. `@` in `doors` stands for the site's directory.
    pub fn both(doors: &str) -> [Site; 2] {
        [Site::knockd(doors), Site::run(doors)]
    }

    /// Doors that the name knockd serves.
    pub fn knockd(doors: &str) -> Site {
        Site::new(Program::Knockd, doors)
    }

    /// Doors that `toctocd run` serves.
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
            unread_pipe: None,
        };
        let here = site.gate.path("");
        site.write("doors.conf", &format!("[options]\n{doors}").replace("@/", &here));
        site.gate.use_knockd_conf(&site.path("doors.conf"));
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

    /// Its log since the test began.
    pub fn log(&self) -> String {
        self.read("log")
    }

    /// The words that the commands have written.
    pub fn did(&self) -> String {
        self.read("did").split_whitespace().collect::<Vec<_>>().join(" ")
    }

    pub fn count(&self, word: &str) -> usize {
        self.did().split(' ').filter(|did| *did == word).count()
    }

    /// Waits until the commands have written exactly `did`.
    pub fn wait_for(&self, did: &str) {
        let done = eventually(2 * LONG, || self.did() == did);
        assert!(done, "not {did:?} in time: {self:?}");
    }

    /// The directory of the journal, for use before the start.
    pub fn state(&self) -> PathBuf {
        match self.program {
            Program::Knockd => PathBuf::from(self.path("journals/knockd/0")),
            Program::Run => PathBuf::from(self.path("etc/state")),
        }
    }

    fn disk_path(&self) -> String {
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
            Program::Run => {
                command.args(["run", "-c"]).arg(self.gate.config());
            }
        }
        command.stderr(match &self.unread_pipe {
            Some(pipe) => pipe.try_clone().unwrap(),
            None => OpenOptions::new().append(true).create(true).open(self.path("log")).unwrap(),
        });
        self.daemon = Some(self.gate.net.gateway.spawn(command.stdin(Stdio::null())));
        if self.unread_pipe.is_some() && self.program == Program::Run {
            until("toctocd serves", || self.gate.toctocd(&["status"]).status.success());
        } else {
            until("the program listens", || self.log().matches(ready).count() > before);
        }
    }

    /// The program, with the disk or clock that the test asked for.
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

    /// Sets the boot clock this many seconds ahead from the next start on.
    pub fn boot_clock_ahead(&mut self, seconds: u32) {
        self.boot_clock_ahead = seconds;
    }

    /// Sends standard error to a pipe that nobody reads.
    pub fn stderr_to_unread_pipe(&mut self) {
        nix::unistd::mkfifo(Path::new(&self.path("unread")), nix::sys::stat::Mode::S_IRWXU)
            .unwrap();
        self.unread_pipe =
            Some(OpenOptions::new().read(true).write(true).open(self.path("unread")).unwrap());
    }

    fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("it runs").0.id()
    }

    fn children(&self) -> Vec<u32> {
        children(self.pid())
    }

    /// The process that keeps the journal and runs the commands.
    fn executor(&self) -> u32 {
        match self.program {
            Program::Knockd => {
                let mut runners = Vec::new();
                until("there is a runner", || {
                    runners = self.children();
                    runners.retain(|pid| command_line_contains(*pid, "--runner"));
                    !runners.is_empty()
                });
                runners[0]
            }
            Program::Run => self.pid(),
        }
    }

    /// The number of commands that run.
    pub fn commands(&self) -> usize {
        let children = children(self.executor());
        children.iter().filter(|pid| command_line_contains(**pid, "sh\0-c")).count()
    }

    /// Ends the commands that still run.
    pub fn end_commands(&self) {
        for pid in children(self.executor()) {
            if command_line_contains(pid, "sh\0-c") || command_line_contains(pid, "yes") {
                signal(pid, Signal::SIGKILL);
            }
        }
    }

    /// Stops the process that runs commands.
    pub fn freeze(&self) {
        let executor = self.executor();
        signal(executor, Signal::SIGSTOP);
        until("the process is stopped", || process::state(executor) == Some('T'));
    }

    /// Kills all of its processes at once, as far as possible.
    pub fn die(&mut self) {
        let executor = self.executor();
        // The daemon first: it would start another runner.
        drop(self.daemon.take());
        if self.program == Program::Knockd {
            signal(executor, Signal::SIGKILL);
        }
        until("its processes end", || has_ended(executor));
    }

    /// Kills and starts it again. After that a knock works, and no command runs again.
    pub fn dies_and_runs_nothing_again(&mut self) {
        until("the journal has no openings", || self.journal_has(0));
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

    /// Tells it to end, lets its commands continue, and waits until it has ended.
    pub fn ends_once_released(&mut self) {
        let mut daemon = self.daemon.take().expect("it runs");
        daemon.signal(Signal::SIGTERM);
        // The command continues only after the program has the signal, so that it cannot end first.
        until("the program takes the signal", || {
            let pending = process::status(daemon.0.id(), "ShdPnd").expect("it runs");
            let pending = u64::from_str_radix(&pending, 16).expect("a mask");
            pending >> (Signal::SIGTERM as i32 - 1) & 1 == 0
        });
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
        self.gate.net.client.space.udp(self.gateway(port).into())
    }

    /// Lets all commands continue that wait at the FIFO.
    pub fn release(&self) {
        drop(self.write_to_fifo());
    }

    /// True if a command waits at the FIFO.
    pub fn commands_wait(&self) -> bool {
        self.fifo().is_some()
    }

    /// The FIFO for writing, if a command reads it.
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

    /// True if a start now would find this many stop commands to run.
    pub fn journal_has(&self, openings: usize) -> bool {
        let copy = tempfile::tempdir().unwrap();
        fs::write(copy.path().join("journal"), self.journal()).unwrap();
        let (_, recovered) = State::open(copy.path(), clock::now().wall, true, false).unwrap();
        recovered.intact && recovered.ledger.openings().count() == openings
    }

    /// Puts the journal on a separate small disk, which outlives the program.
    pub fn on_small_disk(&mut self) {
        let path = self.disk_path();
        fs::create_dir_all(&path).unwrap();
        let mounted = self.path("mounted");
        let line = format!(
            "mount -t tmpfs -o mode=700,size={DISK}k tmpfs {path} && touch {mounted} && exec sleep 1000"
        );
        let mut command = Command::new("unshare");
        self.disk = Some(self.gate.net.gateway.spawn(command.args(["--mount", "sh", "-c", &line])));
        until("the disk is mounted", || Path::new(&mounted).exists());
    }

    fn fill_file(&self) -> PathBuf {
        let disk = self.disk.as_ref().expect("a small disk").0.id();
        PathBuf::from(format!("/proc/{disk}/root{}/fill", self.disk_path()))
    }

    /// Fills the disk.
    pub fn fill(&self) {
        let _ = fs::write(self.fill_file(), vec![0; 2 * 1024 * DISK as usize]);
    }

    pub fn make_room(&self) {
        fs::remove_file(self.fill_file()).unwrap();
    }

    /// True if it has logged that it opens nothing because the journal cannot be written.
    pub fn refused(&self) -> bool {
        self.log().contains(match self.program {
            Program::Knockd => "stop command not journalled",
            Program::Run => "NOTHING OPENS",
        })
    }

    /// Resident KiB of all its processes.
    pub fn memory(&self) -> u64 {
        let mut memory = process::resident_kib(self.pid());
        for pid in self.children() {
            // Listener and runner; not a command.
            if command_line_contains(pid, "--") {
                memory += process::resident_kib(pid);
            }
        }
        memory
    }
}
