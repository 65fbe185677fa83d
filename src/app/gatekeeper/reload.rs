//! A reload, step by step outside the loop. The clients are read first, and take effect at once.
//! Then the configuration is read and checked. If it has changed, a new listener captures, and the
//! guard loads its new rules; only then does anything else change. A bad configuration changes
//! nothing. With a bad clients file no client changes, except that one that it no longer names is
//! revoked.

use crate::core::event::EventKind;
use crate::edge::log::LogEvent;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::Gatekeeper;
use super::events::{Output, Task};
use super::guard::{Comparison, GuardWork};
use super::requests::said_value;
use crate::app::joined::ClientFiles;
use crate::app::load::ClientsRead;
use crate::app::output::count;
use crate::app::prepare::{KnownClients, Prepared};
use crate::config::Settings;
use crate::core::clients::ClientTable;
use crate::core::types::{ClientId, Fault, Now, ServiceName};
use crate::edge::control::{FixedSettings, SessionId};
use crate::edge::firewall::{GuardReport, GuardRules};

/// The reload in progress, and the requests for one.
#[derive(Default)]
pub(super) struct Reload {
    step: ReloadStep,
    /// The requests that this reload serves; `None` is a signal, answered in the log only.
    asked: Vec<Option<SessionId>>,
    /// Requests made during this reload. They get the next one, because the files may have changed
    /// since they were read.
    next: Vec<Option<SessionId>>,
    /// Clients that an admin has revoked and that the clients file goes on to name, because it
    /// could not be changed. They are forgotten with the first sound file without them.
    barred: BTreeSet<ClientId>,
}

/// The step that a reload waits for.
#[derive(Default)]
enum ReloadStep {
    #[default]
    Idle,
    Clients,
    Config,
    Listener(Arc<Prepared>),
    Guard(Arc<Prepared>),
}

impl Reload {
    /// True if no reload is in progress: the clients in force are then changed by nothing else.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.step, ReloadStep::Idle)
    }
}

impl Gatekeeper {
    /// Requests a reload, for an admin or (`None`) for a signal.
    pub(super) fn reload_asked(&mut self, session: Option<SessionId>) {
        // logrotate asks after it has renamed the file, whatever the configuration is like.
        self.open_log();
        self.reload.next.push(session);
    }

    /// Begins the next reload, if one was requested and none is in progress.
    ///
    /// The clients come first, even if the new configuration is bad: an error about a door must not
    /// keep a stolen key valid.
    pub(super) fn start_reload(&mut self, now: Now) {
        let waits = !self.reload.is_idle() || self.joining.is_writing();
        if waits || self.reload.next.is_empty() {
            return;
        }
        self.reload.asked = std::mem::take(&mut self.reload.next);
        self.reload.step = ReloadStep::Clients;
        self.start_reload_task(now, Task::ReadClients(self.known_clients()));
    }

    fn known_clients(&self) -> KnownClients {
        let files = ClientFiles::of(self.in_force.settings());
        KnownClients { files, clients: self.in_force.clients().clone() }
    }

    fn start_reload_task(&mut self, now: Now, task: Task) {
        if self.tasks.is_free(task.lane()) {
            self.tasks.start(now, task, &mut self.out);
        } else {
            self.reload_failed(&task.lane().late());
        }
    }

    /// Handles the clients read from their file. They take effect at once, whatever is wrong with
    /// the configuration. A late result counts too, because nothing newer was read since.
    pub(super) fn clients_read(&mut self, now: Now, result: Result<ClientsRead, Fault>) {
        match result {
            Ok(ClientsRead { clients, mistake }) => {
                if mistake.is_none() {
                    self.reload.barred.retain(|id| clients.get(*id).is_some());
                }
                self.set_clients(now, clients);
                match mistake {
                    Some(fault) => self.reload_failed(&fault),
                    None if matches!(self.reload.step, ReloadStep::Clients) => {
                        self.reload.step = ReloadStep::Config;
                        let path = self.in_force.path().to_owned();
                        self.start_reload_task(now, Task::Load(path, self.known_clients()));
                    }
                    None => {}
                }
            }
            Err(fault) => self.reload_failed(&fault),
        }
    }

    /// Revokes a client at once, whatever the clients file says.
    pub(super) fn revoke_asked(&mut self, now: Now, session: SessionId, id: ClientId) {
        let name = self.in_force.client_name(id);
        if self.in_force.clients().get(id).is_some() {
            self.reload.barred.insert(id);
        }
        self.set_clients(now, self.in_force.clients().clone());
        let said = format!("{name} is revoked, also if the clients file still names it");
        self.out.tell(LogEvent::new(EventKind::Admin, said.clone()).client(name));
        // An admin is told when the grants have ended, as after a reload.
        self.reply_when_stored(session, said_value(&said), false);
    }

    /// The number of revoked clients that the clients file still names.
    pub(super) fn barred(&self) -> usize {
        self.reload.barred.len()
    }

    /// Puts these clients in force, but for those that an admin has revoked. The listener is told
    /// of the differences, and only grants of clients that are gone or different are looked at:
    /// there may be 100,000 of both.
    pub(super) fn set_clients(&mut self, now: Now, clients: ClientTable) {
        let clients = clients.without(&self.reload.barred);
        let before = self.in_force.clients().clone();
        let changes = before.changes(&clients);
        let mut changed: BTreeSet<ClientId> = changes.new.iter().map(|client| client.id).collect();
        changed.extend(&changes.gone);
        self.policy.set_clients(clients.clone());
        if !changed.is_empty() {
            self.review_clients(now, &changed, &before);
        }
        for id in changes.gone {
            self.replay.leave(now, id);
        }
        self.in_force.set_clients(clients);
        self.listeners.tell_clients(self.in_force.clients(), &mut self.out);
    }

    /// Handles the new configuration, read and checked.
    pub(super) fn config_loaded(&mut self, now: Now, result: Result<Box<Prepared>, Fault>) {
        if !matches!(self.reload.step, ReloadStep::Config) {
            return;
        }
        let checked = result.and_then(|prepared| {
            self.in_force.check_can_follow(&FixedSettings::of(&prepared.config.settings))?;
            Ok(Arc::new(*prepared))
        });
        match checked {
            Ok(prepared) => self.follow(now, prepared),
            Err(fault) => self.reload_failed(&fault),
        }
    }

    /// Takes the steps that the new configuration needs. The listener stays if it need not differ.
    fn follow(&mut self, now: Now, prepared: Arc<Prepared>) {
        let config = &prepared.config;
        let stays = self.in_force.suits_listener(&prepared)
            && self.listeners.know(&config.clients, &config.settings.doors);
        if !stays {
            self.start_reload_listener(now, &prepared);
            self.reload.step = ReloadStep::Listener(prepared);
        } else if !self.in_force.is_same(&prepared) {
            self.load_rules(prepared);
        } else {
            // At most clients have changed.
            self.reload.step = ReloadStep::Idle;
            let old = self.in_force.replace(prepared);
            self.log_new_warnings(&old);
            self.reload_succeeded();
        }
    }

    fn load_rules(&mut self, prepared: Arc<Prepared>) {
        self.guard.want(GuardWork::Reload(Arc::clone(&prepared)));
        self.reload.step = ReloadStep::Guard(prepared);
    }

    /// Continues after the listener of the new configuration got ready.
    pub(super) fn reload_listener_ready(&mut self) {
        if let ReloadStep::Listener(prepared) = std::mem::take(&mut self.reload.step) {
            self.load_rules(prepared);
        }
    }

    /// Handles the result of loading the new rules into the guard.
    pub(super) fn rules_loaded(
        &mut self, now: Now, rules: Arc<Prepared>, result: Result<GuardReport, Fault>,
    ) {
        let waits = matches!(&self.reload.step, ReloadStep::Guard(prepared) if Arc::ptr_eq(prepared, &rules));
        match result {
            Ok(report) if waits => self.switch(now, rules, report),
            Err(fault) if waits => self.reload_failed(&fault),
            // The reload failed in the meantime.
            _ => self.guard.restore_rules(),
        }
    }

    /// Puts the new configuration in force, all parts at once.
    fn switch(&mut self, now: Now, prepared: Arc<Prepared>, report: GuardReport) {
        self.reload.step = ReloadStep::Idle;
        let old = self.in_force.replace(prepared);
        let settings = self.in_force.settings();
        self.guard.use_rules(&GuardRules::of(settings));
        self.policy = self.in_force.policy();
        let new = Arc::clone(self.in_force.prepared());
        self.log_new_warnings(&old);
        self.replay.set_window(self.in_force.window());
        self.set_clients(now, new.config.clients.clone());
        self.review_rules(now, &moved_services(&old.config.settings, &new.config.settings));
        // While the guard is off its rules were only verified.
        if let GuardReport::Loaded { reloaded, elements } = report {
            let work = GuardWork::Reload(new);
            self.compare_all(now, Comparison::new(elements, work, reloaded));
        }
        self.exchange_listener(now);
        self.reload_succeeded();
    }

    /// Each enrolment causes a reload, so only new warnings are logged.
    fn log_new_warnings(&mut self, old: &Prepared) {
        let new = Arc::clone(self.in_force.prepared());
        for warning in new.warnings.iter().filter(|warning| !old.warnings.contains(warning)) {
            self.out.log(EventKind::Warning, format!("warning: {warning}"));
        }
    }

    fn open_log(&mut self) {
        self.out.push(Output::OpenLog(self.in_force.settings().log.clone()));
    }

    fn reload_succeeded(&mut self) {
        self.open_log();
        let config = self.in_force.config();
        self.out.push(Output::SetHooks(config.settings.hooks.clone()));
        self.out.push(Output::SetMetrics(config.settings.metrics.clone()));
        let said = format!(
            "reloaded: {}, {}, {}",
            count(config.settings.services.len(), "service"),
            count(self.in_force.clients().len(), "client"),
            count(config.settings.doors.len(), "door"),
        );
        self.out.log(EventKind::Reload, said.clone());
        for session in std::mem::take(&mut self.reload.asked).into_iter().flatten() {
            // Wait for the disk: grants that ended must not return at the next start.
            self.reply_when_stored(session, said_value(&said), false);
        }
    }

    /// Ends a failed reload. Nothing changes but the clients.
    pub(super) fn reload_failed(&mut self, fault: &Fault) {
        if !matches!(std::mem::take(&mut self.reload.step), ReloadStep::Idle) {
            self.listeners.give_up_reload(&mut self.out);
            self.guard.forget_reload();
            let event = LogEvent::new(EventKind::Reload, format!("not reloaded: {fault}"));
            self.out.tell(event.failed());
            for session in std::mem::take(&mut self.reload.asked).into_iter().flatten() {
                self.out.push(Output::Reply(session, fault.clone().into()));
            }
        }
    }
}

/// The services that now lead to another inner host, to this machine instead of one, or have other
/// commands. Their grants were made for the old configuration.
fn moved_services(old: &Settings, new: &Settings) -> Vec<ServiceName> {
    let mut moved = Vec::new();
    for service in &new.services {
        let before = old.services.iter().find(|before| before.name == service.name);
        if let Some(before) = before
            && (before.forward != service.forward || before.commands != service.commands)
        {
            moved.push(service.name);
        }
    }
    moved
}
