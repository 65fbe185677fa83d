//! The start of the gatekeeper: reads and checks everything, starts the listener, loads the guard.
//! Blocking is allowed here.

use crate::core::event::EventKind;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::events::Network;
use super::guard::{Comparison, GuardWork};
use super::process::ThisHost;
use super::rights::Rights;
use super::serve::{Server, Sources};
use super::{
    CHECK, Commands, Gatekeeper, Guard, Host, InForce, Journal, Listeners, Trial, Xdp, process,
    rights,
};
use crate::app::listener_process::{ListenerProcess, ListenerReady, ListenerStart};
use crate::app::metrics::service::MetricsThread;
use crate::app::output::print_error;
use crate::app::prepare::{self, Prepared};
use crate::app::{guard, own_firewall};
use crate::config::Settings;
use crate::core::grants::{Element, Grants};
use crate::core::openings::Openings;
use crate::core::replay::Replay;
use crate::core::types::{Boot, Fault, Now};
use crate::edge::control::Control;
use crate::edge::firewall::{self, Firewall, GuardRules, Started};
use crate::edge::log::Log;
use crate::edge::network_watch::NetworkWatch;
use crate::edge::state::{Recovered, State};
use crate::edge::{clock, sys, terminal};

/// Everything that a gatekeeper starts with.
pub(super) struct Beginning<'a> {
    /// The path of the configuration file.
    pub(super) path: &'a Path,
    pub(super) prepared: Arc<Prepared>,
    pub(super) network: Network,
    pub(super) host: Box<dyn Host>,
    pub(super) state: State,
    pub(super) recovered: Recovered,
    pub(super) openings: Openings,
    pub(super) firewall: Box<dyn Firewall>,
    /// The elements in the guard's sets, and the milliseconds each has left.
    pub(super) elements: BTreeMap<Element, u64>,
    /// Tables with a guard that no gateway keeps.
    pub(super) others: Vec<String>,
    /// The end of the guard's trial, if it was loaded with one.
    pub(super) trial: Option<Boot>,
    pub(super) listener: ListenerReady,
    /// The day whose keys the listener has.
    pub(super) day: u32,
    pub(super) rights: Rights,
    pub(super) started: Now,
}

/// Seconds of the trial that the first start at a terminal begins with.
const FIRST_TRIAL: u32 = 300;

impl Gatekeeper {
    /// Continues from the stored state and makes the kernel's elements match it.
    ///
    /// # Errors
    /// The firewall refuses.
    pub(super) fn begin_with(beginning: Beginning<'_>) -> Result<Gatekeeper, Fault> {
        let Beginning { started, recovered, prepared, .. } = beginning;
        let in_force = InForce::new(
            beginning.path,
            Arc::clone(&prepared),
            beginning.network,
            started,
            beginning.rights,
        );
        let mut gatekeeper = Gatekeeper {
            policy: in_force.policy(),
            replay: Replay::restore(
                in_force.window(),
                started,
                &recovered.ledger,
                recovered.standing,
            ),
            grants: Grants::restore(started, &recovered.ledger),
            journal: Journal::new(beginning.state, &recovered),
            guard: Guard::new(started, beginning.firewall),
            trial: Trial::of(started, beginning.trial),
            connections: Default::default(),
            review: Default::default(),
            closing: Default::default(),
            commands: Commands::new(beginning.openings),
            listeners: Listeners::with_first(beginning.day, &prepared, beginning.listener),
            xdp: Xdp::default(),
            host: beginning.host,
            in_force,
            doors: Default::default(),
            joining: Default::default(),
            reload: Default::default(),
            requests: Default::default(),
            tasks: Default::default(),
            out: Default::default(),
            ends: Default::default(),
            activity: Default::default(),
            next_check: started.boot.plus(CHECK),
            last: started,
            ending: None,
        };
        gatekeeper.other_guards_found(beginning.others);
        for (client, _) in recovered.ledger.marks() {
            if gatekeeper.in_force.clients().get(client).is_none() {
                gatekeeper.replay.leave(started, client);
            }
        }
        gatekeeper.review_rules(started, &[]);
        while gatekeeper.review.is_under_way() {
            gatekeeper.review_some(started);
        }
        let now = gatekeeper.host.now();
        let mut comparison = Comparison::new(beginning.elements, GuardWork::Restore, false);
        while !gatekeeper.compare_some(now, &mut comparison)? {}
        gatekeeper.compared(now, comparison, Ok(()));
        if gatekeeper.trial.is_over() {
            gatekeeper.guard.turned_off();
        }
        Ok(gatekeeper)
    }
}

/// The options of a start.
pub struct StartOptions {
    /// The seconds of a trial, if the guard is not on one already.
    pub confirm: Option<u32>,
    /// The socket by which systemd starts listeners. `None`: they are our children.
    pub listener_socket: Option<PathBuf>,
}

/// Runs a gateway with this configuration until it is told to end.
///
/// # Errors
/// [`RunFault::Start`]: the gateway cannot start; the firewall is unchanged unless the fault says
/// that the guard is up.
/// [`RunFault::Serve`]: the kernel refuses a call that should not fail.
pub fn run(config: &Path, options: &StartOptions) -> Result<(), RunFault> {
    let server = start(config, options).map_err(RunFault::Start)?;
    server.serve().map_err(RunFault::Serve)
}

/// The reason why a gateway stopped or did not start.
pub enum RunFault {
    /// It could not start.
    Start(Fault),
    /// It failed while serving.
    Serve(Fault),
}

/// Reads and checks everything, starts the listener, loads the guard.
///
/// # Errors
/// The gateway cannot start. The firewall is unchanged, unless the fault says that the guard is up.
fn start(path: &Path, options: &StartOptions) -> Result<Server, Fault> {
    let umask = process::keep_secrets()?;
    sys::give_back_memory();
    let prepared = Arc::new(prepare::prepare(path, None)?);
    // What the clients file took.
    sys::give_back_memory();
    let settings = &prepared.config.settings;
    let is_asked = terminal::is_interactive() && is_first_guard(settings)?;
    let adopts = is_asked && guard::offer_adoption();
    let signals = super::serve::signals()?;
    let watch = NetworkWatch::start()?;
    let network = super::serve::network()?;
    // First do what can fail without changing anything: a missing right must not lock
    // anyone out.
    let day = clock::now().wall.day();
    let listener = ListenerStart {
        prepared: Arc::clone(&prepared),
        clients: prepared.config.clients.clone(),
        day,
        doors: settings.doors.clone(),
        addresses: network.addresses.clone(),
    };
    let mut listener = ListenerProcess::start(listener, options.listener_socket.as_deref())?;
    let ready = listener.wait_until_ready()?;
    let started = clock::now();
    let (state, recovered) = State::open(
        &settings.gateway.state_dir,
        started.wall,
        settings.gateway.state_on_tmpfs,
        !prepared.config.clients.is_empty(),
    )?;
    let log = Log::open(&settings.log)?;
    let metrics = MetricsThread::prepare(settings)?;
    let control = Control::bind(&settings.gateway.control_socket)?;
    let openings = Openings::restore(started, recovered.ledger.openings().cloned());
    let rights = rights::settle(settings, &openings, options.listener_socket.is_some())?;
    let is_unproven = recovered.ledger.marks().next().is_none();
    let confirm = match options.confirm {
        // Nobody has ever got in: somebody who tries it out at a terminal must not lock himself
        // out.
        None if is_asked && is_unproven => Some(FIRST_TRIAL),
        confirm => confirm.filter(|seconds| *seconds > 0),
    };
    let rules = rules_at_start(settings, confirm)?;
    let Started { link, guard: nft_guard, watch: changes, elements, others } =
        firewall::start(&rules)?;
    if adopts {
        print_error(&guard::adopt(settings)?);
    }
    let beginning = Beginning {
        path,
        prepared: Arc::clone(&prepared),
        network,
        host: Box::new(ThisHost),
        state,
        recovered,
        openings,
        firewall: Box::new(link),
        elements,
        others,
        trial: rules.trial,
        listener: ready,
        day,
        rights,
        started,
    };
    let mut gatekeeper = Gatekeeper::begin_with(beginning).map_err(|fault| Fault {
        what: format!("{}; the guard is up and no gateway is running", fault.what),
        remedy: format!(
            "{}; `nft delete table inet {}` opens",
            fault.remedy, settings.firewall.table
        ),
        ..fault
    })?;
    // It runs `nft`, which gets no more rights than it needs.
    for warning in own_firewall::warnings(settings) {
        gatekeeper.out.log(EventKind::Warning, format!("warning: {warning}"));
    }
    Server::new(
        gatekeeper,
        Sources {
            signals,
            watch,
            changes,
            guard: nft_guard,
            control,
            listener,
            listener_socket: options.listener_socket.clone(),
            umask,
            log,
            hooks: settings.hooks.clone(),
            metrics,
        },
    )
}

/// True if no guard is in the kernel yet, so that one that is loaded now may surprise somebody.
fn is_first_guard(settings: &Settings) -> Result<bool, Fault> {
    firewall::is_there(&GuardRules::of(settings)).map(|is_there| !is_there)
}

/// The rules to start with. A trial that is under way in the kernel goes on, and one that nobody
/// confirmed stays over: a restart must not lock out whom the trial protects.
fn rules_at_start(settings: &Settings, confirm: Option<u32>) -> Result<GuardRules, Fault> {
    let rules = GuardRules::of(settings);
    let now = clock::now().boot;
    let asked = confirm.map(|seconds| now.plus(seconds));
    let trial = match firewall::trial_under_way(&rules)? {
        Some(until) if until <= now => asked.or(Some(until)),
        Some(until) => Some(until),
        None => asked,
    };
    Ok(GuardRules { trial, ..rules })
}
