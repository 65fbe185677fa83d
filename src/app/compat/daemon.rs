//! The program `knockd`: start, poll loop, signals and end, as users of knockd 0.8 know them. The
//! runner executes the commands.
//!
//! COMPAT: the order of the checks, and so which error comes first, is knockd's; so are the exit
//! statuses.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use nix::sys::prctl::set_name;
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;

use super::background::{self, Terminal};
use super::options::{self, KnockdOptions, USAGE};
use super::runner;
use crate::app::listener_process::{ListenerProcess, ListenerReady, ListenerSpec, steps};
use crate::app::listener_user::doors_user;
use crate::config::knockd::KnockdConf;
use crate::core::door::first_steps::{HeldSteps, held_steps};
use crate::core::sequence::DoorSpec;
use crate::core::types::{Boot, Fault};
use crate::edge::bpf::FilterSpec;
use crate::edge::classic_log::{ClassicLine, ClassicLog, Facility, Sinks};
use crate::edge::event_loop::{PollSet, next_signal, signals};
use crate::edge::gatekeeper_pipe::OwnAddress;
use crate::edge::link::Link;
use crate::edge::{capture, clock, first_process, one_time};
use commands::RunnerHandle;
use lookup::Names;
use settings::BasePaths;
use throttle::Throttle;

mod commands;
mod interface;
mod knocks;
mod lookup;
mod reload;
mod settings;
mod throttle;

/// Exit status of a daemon that could not start.
const REFUSED: u8 = 1;
/// Seconds between two attempts to listen again.
const PAUSE: u32 = 1;

pub fn main() -> ExitCode {
    let mut words: Vec<String> =
        std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let in_background = background::take_mark(&mut words);
    let program = if words.is_empty() { "knockd".into() } else { words.remove(0) };
    let options = match options::read(&program, words.iter().cloned()) {
        Ok(options) => options,
        Err(output) => {
            eprint!("{}", output.err);
            print!("{}", output.out.as_str());
            return ExitCode::SUCCESS;
        }
    };
    if options.daemon && !in_background {
        return background::start(&OsString::from(program), &words);
    }
    let terminal = if in_background { Terminal::background() } else { Terminal::foreground() };
    if !in_background {
        match first_process::run_below() {
            Ok(Some(status)) => return ExitCode::from(status),
            Ok(None) => {}
            Err(error) => {
                eprintln!("error: {error}");
                return ExitCode::from(REFUSED);
            }
        }
    }
    // It may have been started through a link called `exe`. Admins signal it by its name.
    let _ = set_name(c"knockd");
    ExitCode::from(match Knockd::start(options, terminal) {
        Ok(knockd) => knockd.serve(),
        Err(status) => status,
    })
}

struct Knockd {
    options: KnockdOptions,
    paths: BasePaths,
    conf: KnockdConf,
    interface: String,
    link: Link,
    log: ClassicLog,
    /// The log file's name, as it was given.
    log_name: String,
    sinks: Sinks,
    signals: SignalFd,
    /// `None` while there is no interface to listen on.
    listener: Option<ListenerProcess>,
    /// The time of the next attempt to listen again.
    listen_again: Option<Boot>,
    commands: RunnerHandle,
    names: Names,
    pid_file: Option<PathBuf>,
    /// Limits log lines that packets cause.
    line_throttle: Throttle,
    opening_throttle: Throttle,
    /// True while the kernel holds first steps, because of a flood of them.
    holds: bool,
}

impl Knockd {
    /// Does everything up to the first packet.
    /// Error: the exit status; the reason was printed.
    fn start(options: KnockdOptions, mut terminal: Terminal) -> Result<Self, u8> {
        let paths = BasePaths::here();
        let has_interface = options.interface.is_some();
        let conf = match settings::read(&paths, &options, has_interface, &mut |_| {}) {
            Ok(conf) => conf,
            Err(text) => {
                eprintln!("{text}");
                print!("{USAGE}");
                return Err(REFUSED);
            }
        };
        let interface = options.interface.clone().or(conf.interface.clone());
        let interface = interface.unwrap_or("eth0".into());
        let log_name = conf.log_file.clone().or(options.log_file.clone()).unwrap_or_default();
        let sinks = Sinks {
            file: paths.file(&log_name),
            syslog: if conf.use_syslog { Some(Facility::Daemon) } else { None },
            verbose: options.verbose,
        };
        let (mut log, failed) = ClassicLog::open(&sinks);
        if let Some(reason) = failed {
            eprintln!("warning: cannot open logfile: {reason}");
        }
        let link = match interface::open(&interface) {
            Ok(link) => link,
            Err(text) => {
                eprintln!("{text}");
                return Err(REFUSED);
            }
        };
        let ready = interface::check(&options, &conf, &link).and_then(|()| {
            settings::warn(&options, &conf, &[], &mut log);
            prepare(&mut terminal, &sinks)
        });
        let (signals, commands) = match ready {
            Ok(ready) => ready,
            Err(text) => return Err(refuse(&mut log, &text)),
        };
        let mut knockd = Self {
            names: Names::new(options.lookup),
            options,
            paths,
            conf,
            interface,
            link,
            log,
            log_name,
            sinks,
            signals,
            listener: None,
            listen_again: None,
            commands,
            pid_file: None,
            line_throttle: Throttle::default(),
            opening_throttle: Throttle::default(),
            holds: false,
        };
        knockd.begin()?;
        terminal.report_ready();
        Ok(knockd)
    }

    fn begin(&mut self) -> Result<(), u8> {
        match self.listen() {
            Ok(listener) => self.listener = Some(listener),
            Err(fault) => return Err(refuse(&mut self.log, &format!("error: {fault}"))),
        }
        self.write_pid_file();
        self.log.show(&format!("listening on {}...", self.interface));
        let text = format!("starting up, listening on {}", self.interface);
        self.line(ClassicLine::quiet(&text));
        Ok(())
    }

    /// Serves until a signal ends it; returns the exit status.
    fn serve(mut self) -> u8 {
        loop {
            self.wait();
            while let Some(signal) = next_signal(&self.signals) {
                match signal {
                    Signal::SIGHUP => self.reload(),
                    signal => return self.end(signal),
                }
            }
            self.receive();
            self.commands.receive(&self.sinks);
            if let Some(at) = self.listen_again
                && at <= clock::now().boot
            {
                self.try_to_listen();
            }
        }
    }

    fn wait(&self) {
        let mut set = PollSet::default();
        set.read(self.signals.as_fd());
        if let Some(listener) = &self.listener {
            set.read_and_write(listener.as_fd(), listener.wants_to_write());
        }
        self.commands.add_to(&mut set);
        // Without memory for the wait, the loop goes on at once.
        let heartbeat = self.listener.as_ref().map(ListenerProcess::deadline);
        let deadline = self.listen_again.into_iter().chain(heartbeat).min();
        let _ = set.wait_until(deadline, clock::now().boot);
    }

    /// COMPAT: waits for the first opening that ends, if there is one; the runner takes care of the
    /// others.
    fn end(&mut self, signal: Signal) -> u8 {
        self.log.show("waiting for child processes...");
        self.commands.wait_for_one();
        self.log.show("closing...");
        self.line(ClassicLine::quiet("shutting down"));
        if let Some(path) = &self.pid_file {
            // It may be gone already.
            let _ = std::fs::remove_file(path);
        }
        u8::try_from(signal as i32).unwrap_or(REFUSED)
    }

    fn line(&mut self, line: ClassicLine<'_>) {
        self.log.line(clock::now().wall, line);
    }

    /// Starts a confined listener on the interface.
    fn listen(&self) -> Result<ListenerProcess, Fault> {
        let index = capture::interface(&self.interface)?;
        let (ipv6, own) = interface::doors_of(&self.options, &self.link);
        let doors = &self.conf.doors;
        let spec = ListenerSpec {
            name: "knockd: listener",
            sealed: None,
            clients: Default::default(),
            day: 0,
            doors: doors.iter().map(DoorSpec::from).collect(),
            ipv6,
            debug: self.options.debug,
            addresses: own
                .map(|address| OwnAddress { address, knock: false, door: true })
                .collect(),
            filter: FilterSpec {
                knock_port: None,
                steps: steps(doors),
                // COMPAT: a `Target` may be another machine, to which this one sends.
                outgoing: doors.iter().any(|door| door.target.is_some()),
            },
            // With `-D` every packet is printed.
            first_steps: match self.options.debug {
                true => HeldSteps::default(),
                false => held_steps(doors, None),
            },
            makes_xdp: false,
            ready: ListenerReady {
                interfaces: vec![self.interface.clone()],
                indexes: vec![index],
                ..ListenerReady::default()
            },
            user: doors_user(),
        };
        let mut listener = ListenerProcess::spawn(spec)?;
        listener.wait_until_ready()?;
        Ok(listener)
    }

    /// Tries to listen again after the listener or its interface was lost. knockd would exit with
    /// status 0.
    fn try_to_listen(&mut self) {
        self.listen_again = Some(clock::now().boot.plus(PAUSE));
        let Ok(link) = interface::open(&self.interface) else { return };
        self.link = link;
        if let Ok(listener) = self.listen() {
            self.listener = Some(listener);
            self.listen_again = None;
            let text = format!("listening on {} again", self.interface);
            self.line(ClassicLine::shown(&text));
        }
    }

    fn on_listener_lost(&mut self, why: &str) {
        self.listener = None;
        self.listen_again = Some(clock::now().boot.plus(PAUSE));
        let text = format!("not listening on {}: {why}; waiting until it is back", self.interface);
        self.complain(&text);
    }

    fn write_pid_file(&mut self) {
        if !self.options.daemon {
            return;
        }
        let path = PathBuf::from(self.conf.pid_file.as_ref().unwrap_or(&self.options.pid_file));
        match std::fs::write(&path, format!("{}\n", std::process::id())) {
            Ok(()) => self.pid_file = Some(path),
            Err(error) => {
                let text = format!(
                    "could not create pid file {}: {}",
                    path.display(),
                    one_time::reason(&error)
                );
                self.line(ClassicLine::quiet(&text));
            }
        }
    }

    /// Writes a line to the log and to standard error.
    fn complain(&mut self, text: &str) {
        eprintln!("{text}");
        self.line(ClassicLine::quiet(text));
    }
}

/// Leaves the terminal, starts the runner and blocks the signals. COMPAT: USR1, QUIT and the like
/// keep their deadly default.
fn prepare(terminal: &mut Terminal, sinks: &Sinks) -> Result<(SignalFd, RunnerHandle), String> {
    terminal.detach().map_err(|error| format!("error: {error}"))?;
    let commands = RunnerHandle::start(sinks)
        .map_err(|error| format!("error: no process for commands: {error}"))?;
    let signals = signals(&[Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP])
        .map_err(|error| format!("error: {error}"))?;
    Ok((signals, commands))
}

/// Prints and logs the end of a daemon that could not start.
fn refuse(log: &mut ClassicLog, text: &str) -> u8 {
    eprintln!("{text}");
    log.line(clock::now().wall, ClassicLine::quiet("shutting down"));
    REFUSED
}
