//! The program `knockd`: start order, one poll loop, signals, reload, end, as knockd 0.8's users
//! know them. Packets are left to the listener, commands and their timers to the runner, what a
//! line looks like to `edge::classic_log`.
//!
//! COMPAT: the order in which things are looked at, and so which complaint comes first, is
//! knockd's; so are the exit statuses.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_name;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::background::{self, Terminal};
use super::options::{self, Asked, KnockdOptions, USAGE};
use super::runner;
use crate::app::listener_process::{ListenerProcess, ListenerSpec, address_list};
use crate::app::listener_user::doors_user;
use crate::config::knockd::KnockdConf;
use crate::core::sequence::DoorSpec;
use crate::core::types::{Boot, Fault};
use crate::edge::classic_log::{ClassicLine, ClassicLog, Facility, Sinks};
use crate::edge::gatekeeper_pipe::ToListener;
use crate::edge::link::Link;
use crate::edge::{clock, one_time};
use commands::RunnerHandle;
use interface::{capture, doors_of, open};
use lookup::Names;
use settings::{BasePaths, read};

mod commands;
mod interface;
mod knocks;
mod lookup;
mod reload;
mod settings;

/// An orderly end before anything was served.
const REFUSED: u8 = 1;
/// Messages of the listener that are taken in one turn, so that signals get theirs.
const TURN: usize = 256;
/// Seconds between two attempts to listen again.
const PAUSE: u32 = 1;

/// Runs knockd with this process's arguments.
pub fn main() -> ExitCode {
    let mut words: Vec<String> =
        std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let background = background::is_asked(&mut words);
    let program = if words.is_empty() { "knockd".into() } else { words.remove(0) };
    match options::read(&program, words.iter().cloned()) {
        Asked::Say { out, err } => {
            eprint!("{err}");
            print!("{out}");
            ExitCode::SUCCESS
        }
        Asked::Serve(options) if options.daemon && !background => {
            background::start(&OsString::from(program), &words)
        }
        Asked::Serve(options) => {
            let terminal = if background { Terminal::waiting() } else { Terminal::ours() };
            if background {
                // It was started by a link called `exe`. Admins signal it by its name.
                let _ = set_name(c"knockd");
            }
            ExitCode::from(
                Knockd::start(options, terminal).map_or_else(|status| status, Knockd::serve),
            )
        }
    }
}

/// All that the daemon holds.
struct Knockd {
    options: KnockdOptions,
    places: BasePaths,
    conf: KnockdConf,
    interface: String,
    link: Link,
    log: ClassicLog,
    /// The log file's name, as it was given.
    log_name: String,
    sinks: Sinks,
    signals: SignalFd,
    /// `None` while there is nothing to listen to.
    listener: Option<ListenerProcess>,
    listen_again: Option<Boot>,
    commands: RunnerHandle,
    names: Names,
    pid_file: Option<PathBuf>,
    /// Lines that packets cause.
    throttle: lookup::Throttle,
    openings: lookup::Throttle,
}

impl Knockd {
    /// Everything up to the first packet. The status to leave with, if it does not get there;
    /// whoever started us has been told.
    fn start(options: KnockdOptions, mut terminal: Terminal) -> Result<Self, u8> {
        let places = BasePaths::here();
        let conf =
            read(&places, &options, options.interface.is_some(), &mut |_| {}).map_err(|text| {
                eprintln!("{text}");
                print!("{USAGE}");
                REFUSED
            })?;
        let interface =
            options.interface.clone().or(conf.interface.clone()).unwrap_or_else(|| "eth0".into());
        let log_name = conf.log_file.clone().or(options.log_file.clone()).unwrap_or_default();
        let sinks = Sinks {
            file: places.file(&log_name),
            syslog: conf.use_syslog.then_some(Facility::Daemon),
            verbose: options.verbose,
        };
        let (mut log, failed) = ClassicLog::open(&sinks);
        if let Some(reason) = failed {
            eprintln!("warning: cannot open logfile: {reason}");
        }
        let (link, sockets) = open(&conf, &interface).map_err(|text| {
            eprintln!("{text}");
            REFUSED
        })?;
        let ready = interface::check(&options, &conf, &link).and_then(|()| {
            settings::warn_of_shipped(&conf, &[], &mut log);
            terminal.leave().map_err(|error| format!("error: {error}"))?;
            let commands = RunnerHandle::start(&sinks)
                .map_err(|error| format!("error: no process for commands: {error}"))?;
            Ok((signals().map_err(|error| format!("error: {error}"))?, commands))
        });
        let (signals, commands) = ready.map_err(|text| refuse(&mut log, &text))?;
        let names = Names::new(options.lookup);
        let (throttle, openings) = (lookup::Throttle::default(), lookup::Throttle::default());
        let (listener, listen_again, pid_file) = (None, None, None);
        let mut knockd = Self {
            places,
            conf,
            interface,
            link,
            log,
            log_name,
            sinks,
            signals,
            listener,
            listen_again,
            commands,
            names,
            pid_file,
            throttle,
            openings,
            options,
        };
        knockd.begin(sockets)?;
        terminal.release();
        Ok(knockd)
    }

    fn begin(&mut self, sockets: Vec<ToListener>) -> Result<(), u8> {
        let listener = self
            .listen(sockets)
            .map_err(|fault| refuse(&mut self.log, &format!("error: {fault}")))?;
        self.listener = Some(listener);
        self.write_pid_file();
        self.log.show(&format!("listening on {}...", self.interface));
        let text = format!("starting up, listening on {}", self.interface);
        self.line(ClassicLine::quiet(&text));
        Ok(())
    }

    /// Serves until a signal ends it; the status to leave with.
    fn serve(mut self) -> u8 {
        loop {
            self.wait();
            if let Some(signal) = self.take_signals() {
                return self.end(signal);
            }
            self.hear();
            self.commands.hear(&self.sinks);
            if self.listen_again.is_some_and(|at| at <= clock::now().boot) {
                self.try_to_listen();
            }
        }
    }

    fn wait(&self) {
        let again = self
            .listen_again
            .map(|at| at.0.saturating_sub(clock::now().boot.0).div_ceil(1_000_000));
        let timeout = again.map_or(PollTimeout::NONE, |millis| {
            PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
        });
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if let Some(listener) = &self.listener {
            let writes =
                if listener.pipe.waiting() > 0 { PollFlags::POLLOUT } else { PollFlags::empty() };
            fds.push(PollFd::new(listener.pipe.as_fd(), PollFlags::POLLIN | writes));
        }
        fds.extend(self.commands.interest());
        // An interrupted wait is only a shorter one.
        let _ = poll(&mut fds, timeout);
    }

    /// The signal that ends us, if it has come.
    fn take_signals(&mut self) -> Option<Signal> {
        while let Ok(Some(info)) = self.signals.read_signal() {
            match i32::try_from(info.ssi_signo)
                .ok()
                .and_then(|number| Signal::try_from(number).ok())
            {
                Some(signal @ (Signal::SIGTERM | Signal::SIGINT)) => return Some(signal),
                Some(Signal::SIGHUP) => self.reload(),
                _ => {}
            }
        }
        None
    }

    /// COMPAT: waits for the first opening that ends, if any is under way; the others go on with
    /// the runner.
    fn end(&mut self, signal: Signal) -> u8 {
        self.log.show("waiting for child processes...");
        self.commands.wait_for_one();
        self.log.show("closing...");
        self.line(ClassicLine::quiet("shutting down"));
        if let Some(path) = &self.pid_file {
            // Somebody else may have removed it; there is nothing to do about it.
            let _ = std::fs::remove_file(path);
        }
        u8::try_from(signal as i32).unwrap_or(REFUSED)
    }

    fn line(&mut self, line: ClassicLine<'_>) {
        self.log.line(clock::now().wall, line);
    }

    /// A listener over `sockets`, confined and at work.
    fn listen(&self, sockets: Vec<ToListener>) -> Result<ListenerProcess, Fault> {
        let (ipv6, own) = doors_of(&self.options, &self.link);
        let spec = ListenerSpec {
            name: "knockd: listener",
            sealed: None,
            doors: self.conf.doors.iter().map(DoorSpec::from).collect(),
            ipv6,
            debug: self.options.debug,
            addresses: address_list(own.map(|address| (address, false, true))),
            sockets,
            user: doors_user(),
        };
        let mut listener = ListenerProcess::spawn(spec)?;
        listener.wait_until_ready()?;
        Ok(listener)
    }

    /// The listener or its interface went away: tries until both are back. knockd ends here, with
    /// status 0.
    fn try_to_listen(&mut self) {
        self.listen_again = Some(clock::now().boot.plus(PAUSE));
        let Ok((link, sockets)) = open(&self.conf, &self.interface) else { return };
        self.link = link;
        if let Ok(listener) = self.listen(sockets) {
            self.listener = Some(listener);
            self.listen_again = None;
            let text = format!("listening on {} again", self.interface);
            self.line(ClassicLine::shown(&text));
        }
    }

    fn lose_listener(&mut self, why: &str) {
        self.listener = None;
        self.listen_again = Some(clock::now().boot.plus(PAUSE));
        let text = format!("not listening on {}: {why}; waiting until it is back", self.interface);
        eprintln!("{text}");
        self.line(ClassicLine::quiet(&text));
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
}

/// An end that the log hears of.
fn refuse(log: &mut ClassicLog, text: &str) -> u8 {
    eprintln!("{text}");
    log.line(clock::now().wall, ClassicLine::quiet("shutting down"));
    REFUSED
}

/// COMPAT: USR1, QUIT and the like keep their deadly default.
fn signals() -> nix::Result<SignalFd> {
    let set = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}
