//! The privileged process: one poll loop around proofs, state, firewall, doors and control socket.
//! Packets are left to `listener`; what a knock, a door or an admin leads to stands in the files
//! below.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;

pub use crate::app::listener_process::ROLE;
use crate::app::listener_process::{ListenerProcess, MissingInterface};
use crate::app::load::{self, GatewayConfig};
use crate::app::warnings::warnings_here;
use crate::config::Settings;
use crate::core::grants::Grants;
use crate::core::openings::Openings;
use crate::core::policy::Policy;
use crate::core::quota::Bucket;
use crate::core::replay::{Replay, Window};
use crate::core::types::{Boot, Counters, Fault, Now, Source};
use crate::edge::addresses::{self, LocalAddress};
use crate::edge::clock;
use crate::edge::command::Runner;
use crate::edge::control::Control;
use crate::edge::firewall::TableChange;
use crate::edge::gatekeeper_pipe::ToListener;
use crate::edge::log::Log;
use crate::edge::service_manager;
use crate::edge::state::State;

mod answers;
mod blocking_guard;
mod commands;
mod doors;
mod guard;
mod knocks;
mod listeners;
mod process;
mod reload;
mod rights;
mod upkeep;

use listeners::{ListenerCounters, Restart};

/// What status says of a state from which no mark is missing.
const INTACT: &str = "intact";
/// How often we look whether all is as it should be, without being told.
const LOOK: u32 = 10;
/// Seconds between two looks at every rule of the guard, which takes a process.
const WHOLE_LOOK: u32 = 600;
/// All that the privileged process holds.
pub struct Gatekeeper {
    config: PathBuf,
    loaded: GatewayConfig,
    started: Now,
    log: Log,
    signals: SignalFd,
    addresses: addresses::AddressWatch,
    own: Vec<LocalAddress>,
    state: State,
    /// How the state was found: `intact`, or what happened.
    found: String,
    /// After a commit that failed, until the state was read again: nothing opens.
    broken: bool,
    replay: Replay,
    policy: Policy,
    grants: Grants,
    firewall: blocking_guard::BlockingGuard,
    leases: Openings,
    runner: Runner,
    /// Answers that depend on start commands.
    waiting: Vec<commands::WaitingReply>,
    /// Lent out while it is served.
    control: Option<Control>,
    child: Option<ListenerProcess>,
    /// Nothing was given up: see `rights`.
    all_rights: bool,
    /// A listener that a reload replaced: it sends what it still has, then ends.
    retiring: Option<(ListenerProcess, Boot)>,
    restart: Restart,
    counters: Counters,
    heard: ListenerCounters,
    /// Grants to sealed knocks that came from elsewhere: what tells an admin that there is a way
    /// in.
    outside: guard::RemoteGrants,
    next_look: Boot,
    ending: bool,
    /// A repair of the guard failed, or is under way.
    guard_in_doubt: bool,
    /// When the guard is compared rule by rule again.
    next_whole_look: Boot,
    /// What doors may open.
    openings: Bucket,
    /// Lines about doors come from packets that anybody can send: so many, and no more.
    door_lines: Bucket,
    /// How many of them were not written.
    unsaid: u64,
    /// When what kind of line was last said, of those that could come often.
    said: BTreeMap<&'static str, Boot>,
}

impl Gatekeeper {
    /// Reads and validates everything, starts the listener, puts the guard up.
    ///
    /// # Errors
    /// Whatever keeps it from starting. The firewall is as it was then.
    pub fn start(config: &Path) -> Result<Gatekeeper, Fault> {
        let umask = process::keep_secrets()?;
        let loaded = load::load_all(config)?;
        let settings = &loaded.settings;
        let log = Log::stderr();
        let signals = process::signals()?;
        let (addresses, own) = (watch(settings)?, addresses::own()?);
        // First what can fail without having changed anything: whoever lacks a right or an
        // interface is not locked out.
        let child = ListenerProcess::start(&loaded, &own, MissingInterface::Refuse)?;
        let started = clock::now();
        let (state, recovered) = State::open(
            &settings.gateway.state_dir,
            started.wall,
            settings.gateway.state_on_tmpfs,
        )?;
        let control = Control::bind(&settings.gateway.control_socket)?;
        let replay =
            Replay::restore(window(&loaded), started, &recovered.ledger, recovered.standing);
        let policy = policy(&loaded, &own);
        let grants = Grants::restore(started, &recovered.ledger);
        let leases = Openings::restore(started, recovered.ledger.openings().cloned());
        let all_rights = rights::settle(&loaded, &leases)?;
        let firewall = blocking_guard::BlockingGuard::start(
            &settings.firewall,
            &settings.services,
            &settings.knock,
        )?;
        let mut gatekeeper = Gatekeeper {
            config: config.to_owned(),
            started,
            log,
            signals,
            addresses,
            state,
            found: recovered.why.map_or_else(|| INTACT.to_owned(), |fault| fault.to_string()),
            broken: false,
            replay,
            policy,
            grants,
            firewall,
            leases,
            runner: Runner::with_umask(umask),
            waiting: Vec::new(),
            control: Some(control),
            said: BTreeMap::new(),
            guard_in_doubt: true,
            next_whole_look: started.boot.plus(WHOLE_LOOK),
            openings: Bucket::new(),
            door_lines: Bucket::new(),
            unsaid: 0,
            child: Some(child),
            all_rights,
            retiring: None,
            restart: Restart::default(),
            counters: Counters::default(),
            heard: ListenerCounters::default(),
            outside: guard::RemoteGrants::default(),
            next_look: started.boot,
            ending: false,
            loaded,
            own,
        };
        gatekeeper.end_what_is_not_allowed(started);
        gatekeeper.restore_firewall().map_err(|fault| Fault {
            what: format!("{}; the guard is up and nobody runs", fault.what),
            remedy: format!(
                "{}; `nft delete table inet {}` opens",
                fault.remedy, gatekeeper.loaded.settings.firewall.table
            ),
        })?;
        Ok(gatekeeper)
    }

    /// Serves until it is told to end.
    ///
    /// # Errors
    /// The kernel refuses what it never refuses.
    pub fn serve(mut self) -> Result<(), Fault> {
        self.say_ready();
        while !self.ending {
            self.turn()?;
        }
        self.end();
        Ok(())
    }

    fn say_ready(&mut self) {
        let settings = &self.loaded.settings;
        let text = format!(
            "ready: sealed knocks on udp/{} of {}; {}, {}, {}",
            settings.knock.port,
            self.child
                .iter()
                .flat_map(|child| child.interfaces.clone())
                .collect::<Vec<_>>()
                .join(", "),
            super::output::count(settings.services.len(), "service"),
            super::output::count(self.loaded.clients.len(), "client"),
            super::output::count(settings.doors.len(), "door"),
        );
        if self.found != INTACT {
            self.say(&format!("state: {}", self.found));
        }
        self.degraded().iter().for_each(|line| self.say(&format!("degraded: {line}")));
        warnings_here(&self.loaded).iter().for_each(|line| self.say(&format!("warning: {line}")));
        self.say(&text);
        if let Err(error) = service_manager::ready() {
            self.say(&format!(
                "the service manager cannot be told: {error}; it may end us when its patience does"
            ));
        }
    }

    /// Waits for something to do and does it.
    fn turn(&mut self) -> Result<(), Fault> {
        let signalled = self.wait()?;
        let now = clock::now();
        if signalled {
            self.take_signals(now);
        }
        self.hear(now);
        self.look();
        self.meet_deadlines(now);
        self.serve_control(now);
        self.settle_commands(clock::now());
        if let Err(fault) = self.state.maintain_now() {
            self.say(&format!("the state cannot be maintained: {fault}"));
            self.broken = self.state.is_poisoned();
        }
        Ok(())
    }

    /// Whether a signal has come.
    fn wait(&self) -> Result<bool, Fault> {
        let timeout = self.timeout(clock::now());
        let readable = [self.signals.as_fd(), self.addresses.as_fd(), self.firewall.watch_fd()];
        let mut fds: Vec<PollFd<'_>> =
            readable.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        for child in self.child.iter().chain(self.retiring.iter().map(|(child, _)| child)) {
            fds.push(interest(child.pipe.as_fd(), child.pipe.waiting() > 0));
        }
        fds.extend(
            self.control
                .iter()
                .flat_map(Control::interests)
                .map(|(fd, flags)| PollFd::new(fd, flags)),
        );
        match poll(&mut fds, timeout) {
            Ok(_) => Ok(fds.first().and_then(PollFd::any).unwrap_or(true)),
            Err(nix::Error::EINTR) => Ok(true),
            Err(error) => Err(Fault::new(format!("poll: {error}"), "the kernel is out of memory")),
        }
    }

    fn timeout(&self, now: Now) -> PollTimeout {
        let retiring = self.retiring.as_ref().map(|(_, until)| *until);
        let deadlines = [
            self.grants.deadline(),
            self.leases.deadline(),
            self.restart.at,
            retiring,
            Some(self.next_look),
        ];
        let next = deadlines
            .into_iter()
            .chain([self.answer_deadline()])
            .flatten()
            .min()
            .unwrap_or(self.next_look);
        // Rounded up: waking a moment too early would spin.
        let millis = next.0.saturating_sub(now.boot.0).div_ceil(1_000_000);
        PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
    }

    fn take_signals(&mut self, now: Now) {
        // Many that came since the last turn are one.
        let mut hangup = false;
        while let Ok(Some(info)) = self.signals.read_signal() {
            match i32::try_from(info.ssi_signo)
                .ok()
                .and_then(|number| Signal::try_from(number).ok())
            {
                Some(Signal::SIGTERM | Signal::SIGINT) => self.ending = true,
                Some(Signal::SIGHUP) => hangup = true,
                Some(Signal::SIGCHLD) => self.reap(now),
                _ => {}
            }
        }
        if hangup && !self.ending {
            match self.reload(now) {
                Ok(said) => self.say(&said),
                Err(fault) => self.say(&format!("not reloaded: {fault}")),
            }
        }
    }

    /// Looks at what others may have changed: our addresses, our table.
    fn look(&mut self) {
        if self.addresses.changed() {
            self.learn_addresses();
        }
        let noticed = self.firewall.take_changes();
        if !noticed.is_empty() {
            let who = |one: &TableChange| match one.pid {
                0 => "somebody".to_owned(),
                pid => format!("{} (pid {pid})", one.program),
            };
            let who: Vec<String> = noticed.iter().map(who).collect();
            self.say(&format!("our firewall table was changed by {}", who.join(", ")));
            self.guard_was_changed();
        }
    }

    fn learn_addresses(&mut self) {
        match addresses::own() {
            Ok(own) => self.own = own,
            Err(fault) => return self.say_at_most("addresses", 10, &fault.to_string()),
        }
        self.policy.set_own(self.own.iter().map(|own| Source::new(own.address)));
        if let Some(child) = &mut self.child {
            // A pipe that is of no use is noticed when it is read.
            let _ = child.tell_addresses(&self.own);
        }
        self.find_interfaces();
    }

    fn meet_deadlines(&mut self, now: Now) {
        let changes = self.grants.expire(now);
        self.change_firewall(&changes);
        let mut work = Vec::new();
        self.leases.due(now, &mut work);
        self.carry_out(now, work);
        if self.restart.at.is_some_and(|at| at <= now.boot) {
            self.start_listener_again(now);
        }
        if self.next_look <= now.boot {
            self.next_look = now.boot.plus(LOOK);
            self.look_around(now);
        }
    }

    /// What nobody would tell us of.
    fn look_around(&mut self, now: Now) {
        let suspect = self.replay.challenge_reason(now);
        if let Some(record) = self.replay.heartbeat(now, 60) {
            self.store(&[record]);
        }
        if let Some(suspect) = suspect {
            self.say_suspect(suspect);
        }
        self.find_interfaces();
        self.look_at_guard(now);
        self.look_at_connections();
        if let Some(child) = &mut self.child {
            let _ = child.pipe.send(ToListener::AskCounters);
            // It has lived through a whole look: the next end is not part of a row of failures.
            self.restart.pause = 0;
        }
        if self.broken {
            self.reopen_state();
        }
        if self.unsaid > 0 {
            let unsaid = std::mem::take(&mut self.unsaid);
            self.say(&format!(
                "{unsaid} lines about doors were left out: somebody knocks faster than people do"
            ));
        }
    }

    /// By netlink, without starting a program: a table that is gone has no elements to list. Rarely
    /// by the program too: rules can go while sets stay. The watch tells of both; this is for what
    /// it may have missed.
    fn look_at_guard(&mut self, now: Now) {
        let whole = now.boot >= self.next_whole_look;
        if whole {
            self.next_whole_look = now.boot.plus(WHOLE_LOOK);
        }
        let sound =
            self.firewall.is_there() && (!whole || self.firewall.guard_is_up().unwrap_or(false));
        if self.guard_in_doubt || !sound {
            self.try_restore_firewall();
        }
    }

    fn end(&mut self) {
        self.run_all_stop_commands();
        self.wait_for_commands();
        self.say(match self.firewall.is_disabled() {
            true => "ends; the guard stays OFF until the next start",
            false => "ends; the guard stays up, grants end on time",
        });
        self.log.flush(std::time::Duration::from_secs(1));
    }

    fn say(&mut self, text: &str) {
        self.log.line(clock::now().wall, text);
    }
}

fn interest(fd: BorrowedFd<'_>, writes: bool) -> PollFd<'_> {
    PollFd::new(fd, if writes { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN })
}

/// Tells of what decides where knocks are heard: our addresses, and the routes where the
/// configuration follows them.
fn watch(settings: &Settings) -> Result<addresses::AddressWatch, Fault> {
    addresses::AddressWatch::start(super::interfaces::follows_default_route(settings))
}

fn window(loaded: &GatewayConfig) -> Window {
    Window { max_age: loaded.settings.knock.max_age, max_ahead: loaded.settings.knock.max_ahead }
}

fn policy(loaded: &GatewayConfig, own: &[LocalAddress]) -> Policy {
    let own = own.iter().map(|own| Source::new(own.address));
    let settings = &loaded.settings;
    Policy::new(settings.services.clone(), loaded.clients.clone(), settings.knock.max_grants, own)
        .with_doors(&settings.doors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_with_something_left_to_send_is_waited_for_both_ways() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let events = |writes| interest(file.as_fd(), writes).events();
        assert_eq!(
            (events(false), events(true)),
            (PollFlags::POLLIN, PollFlags::POLLIN | PollFlags::POLLOUT)
        );
    }
}
