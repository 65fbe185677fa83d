//! A reload, step by step beside the loop: everything is read and checked, a new listener listens,
//! the guard has its new rules, and only then anything changes. A bad file leaves everything as it
//! was.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Gatekeeper;
use super::events::{Output, Task};
use super::guard::GuardWork;
use crate::app::interfaces;
use crate::app::output::count;
use crate::app::prepare::Prepared;
use crate::config::Settings;
use crate::core::grants::{ActiveGrant, Change, GrantEnd, GrantKey, Grants};
use crate::core::types::{ClientId, Fault, Now, ServiceName};
use crate::edge::control::SessionId;
use crate::edge::firewall::GuardReport;

/// A reload under way, and who asked for it.
#[derive(Default)]
pub(super) struct Reload {
    step: ReloadStep,
    /// Who is told how it ends: admins, or the log alone.
    asked: Vec<Option<SessionId>>,
    /// Who asked while it was under way: the files may have changed since it read them, so they get
    /// the next one.
    next: Vec<Option<SessionId>>,
}

/// What a reload waits for.
#[derive(Default)]
enum ReloadStep {
    #[default]
    Idle,
    Clients,
    Config,
    Listener(Arc<Prepared>),
    Guard(Arc<Prepared>),
}

impl Gatekeeper {
    /// Somebody asks for a reload: an admin, or a signal.
    pub(super) fn reload_asked(&mut self, session: Option<SessionId>) {
        self.reload.next.push(session);
    }

    /// Begins the next reload, if one was asked for and none is under way.
    ///
    /// Whoever has no line in the clients file any more is revoked first, whatever else may be
    /// wrong with the new configuration: a door that cannot be read must not keep a thief's key
    /// alive.
    pub(super) fn start_reload(&mut self, now: Now) {
        if !matches!(self.reload.step, ReloadStep::Idle) || self.reload.next.is_empty() {
            return;
        }
        self.reload.asked = std::mem::take(&mut self.reload.next);
        let path = self.in_force.settings().gateway.clients_file.clone();
        self.reload.step = ReloadStep::Clients;
        self.start_reload_task(now, Task::ReadClients(path));
    }

    fn start_reload_task(&mut self, now: Now, task: Task) {
        if self.tasks.is_free(task.lane()) {
            self.tasks.start(now, task, &mut self.out);
        } else {
            self.reload_failed(&task.lane().late());
        }
    }

    /// The clients file was read. A late result counts too: nothing newer was read since.
    pub(super) fn clients_read(&mut self, now: Now, result: Result<BTreeSet<ClientId>, Fault>) {
        match result {
            Ok(enrolled) => {
                self.policy.keep_clients(|id| enrolled.contains(&id));
                self.end_what_is_not_allowed(now);
                if matches!(self.reload.step, ReloadStep::Clients) {
                    self.reload.step = ReloadStep::Config;
                    self.start_reload_task(now, Task::Load(self.in_force.path().to_owned()));
                }
            }
            Err(fault) => self.reload_failed(&fault),
        }
    }

    /// The new configuration was read and checked.
    pub(super) fn config_loaded(&mut self, now: Now, result: Result<Box<Prepared>, Fault>) {
        if !matches!(self.reload.step, ReloadStep::Config) {
            return;
        }
        let checked = result.and_then(|prepared| {
            self.in_force.check_can_follow(&prepared.config.settings)?;
            Ok(Arc::new(*prepared))
        });
        match checked {
            Ok(prepared) => {
                self.start_reload_listener(now, &prepared);
                self.reload.step = ReloadStep::Listener(prepared);
            }
            Err(fault) => self.reload_failed(&fault),
        }
    }

    /// The listener of the new configuration is ready.
    pub(super) fn reload_listener_ready(&mut self) {
        if let ReloadStep::Listener(prepared) = std::mem::take(&mut self.reload.step) {
            self.guard.want(GuardWork::Reload(Arc::clone(&prepared)));
            self.reload.step = ReloadStep::Guard(prepared);
        }
    }

    /// The guard has its new rules, or refused them.
    pub(super) fn rules_loaded(
        &mut self,
        now: Now,
        rules: &Arc<Prepared>,
        result: Result<GuardReport, Fault>,
    ) {
        let waits = matches!(&self.reload.step, ReloadStep::Guard(prepared) if Arc::ptr_eq(prepared, rules));
        match result {
            Ok(report) if waits => self.switch(now, Arc::clone(rules), report),
            Err(fault) if waits => self.reload_failed(&fault),
            // The reload was given up in the meantime.
            _ => self.guard.restore_rules(),
        }
    }

    /// Everything changes at once.
    fn switch(&mut self, now: Now, prepared: Arc<Prepared>, report: GuardReport) {
        self.reload.step = ReloadStep::Idle;
        let old = self.in_force.replace(prepared);
        let settings = self.in_force.settings();
        self.out.push(Output::FollowRoutes(interfaces::follows_default_route(settings)));
        self.guard.use_settings(&settings.firewall);
        self.policy = self.in_force.policy();
        let new = Arc::clone(self.in_force.prepared());
        for warning in new.warnings.iter().filter(|warning| !old.warnings.contains(warning)) {
            // Each enrolment is a reload: only what was not said before is news.
            self.out.log(format!("warning: {warning}"));
        }
        let enrolled: BTreeSet<ClientId> =
            new.config.clients.iter().map(|client| client.id).collect();
        self.replay.reload(self.in_force.window(), |id| enrolled.contains(&id));
        self.end_what_is_not_allowed(now);
        self.end_what_led_elsewhere(
            now,
            &moved_services(&old.config.settings, &new.config.settings),
        );
        if !self.guard.is_off()
            && let Err(fault) = self.guard_loaded(now, report)
        {
            self.out.log_at_most("firewall", 10, format!("THE GUARD MAY BE DOWN: {fault}"));
            self.guard.doubt(now);
        }
        self.exchange_listener(now);
        self.reload_succeeded();
    }

    fn reload_succeeded(&mut self) {
        let config = self.in_force.config();
        let said = format!(
            "reloaded: {}, {}, {}",
            count(config.settings.services.len(), "service"),
            count(config.clients.len(), "client"),
            count(config.settings.doors.len(), "door"),
        );
        self.out.log(said.clone());
        for session in std::mem::take(&mut self.reload.asked).into_iter().flatten() {
            // What ended must not come back at the next start.
            self.reply_when_stored(session, said.clone(), false);
        }
    }

    /// The reload has come to nothing: everything is as it was, but for who was revoked.
    pub(super) fn reload_failed(&mut self, fault: &Fault) {
        if !matches!(std::mem::take(&mut self.reload.step), ReloadStep::Idle) {
            self.listeners.give_up_reload(&mut self.out);
            self.guard.forget_reload();
            self.out.log(format!("not reloaded: {fault}"));
            for session in std::mem::take(&mut self.reload.asked).into_iter().flatten() {
                self.out.push(Output::Reply(session, fault.clone().into()));
            }
        }
    }

    /// At a start and after a reload: no grant outlives the rules that allowed it.
    pub(super) fn end_what_is_not_allowed(&mut self, now: Now) {
        for how in [GrantEnd::Revoked, GrantEnd::Changed] {
            let ends = |grant: &&ActiveGrant| self.policy.must_end(now, grant) == Some(how);
            let active: Vec<GrantKey> =
                self.grants.list().filter(ends).map(|grant| grant.key).collect();
            // Of what is over only the connections are left: they go with the right to them, and
            // not because ports have changed.
            let past: Vec<GrantKey> = match how {
                GrantEnd::Revoked => {
                    self.grants.past().filter(ends).map(|grant| grant.key).collect()
                }
                _ => Vec::new(),
            };
            self.end_at_once(now, &active, &past, how);
        }
    }

    /// After a reload: no grant leads to an inner host, or is kept open by commands, that it was
    /// not made for.
    fn end_what_led_elsewhere(&mut self, now: Now, moved: &[ServiceName]) {
        let keys = self.grants.list().map(|grant| grant.key);
        let keys: Vec<GrantKey> = keys.filter(|key| moved.contains(&key.service)).collect();
        self.end_at_once(now, &keys, &[], GrantEnd::Changed);
    }

    /// First the firewall, then the disk: a crash in between finds them in the journal and ends
    /// them again.
    fn end_at_once(&mut self, now: Now, active: &[GrantKey], past: &[GrantKey], how: GrantEnd) {
        let all = [active, past].concat();
        if all.is_empty() {
            return;
        }
        let changes = self.grants.end(now, &all, how);
        self.change_firewall(now, &changes);
        // Stored or not, they have ended: this is the safe side.
        self.journal.defer(&Grants::endings(&all));
        for key in active {
            let holder = self.in_force.holder(key.holder);
            self.out.log(format!(
                "{holder}: {} of {} ended: it is no longer allowed",
                key.service,
                key.who()
            ));
        }
        self.log_cuts(&changes);
    }

    /// One line for each address whose connections were cut.
    pub(super) fn log_cuts(&mut self, changes: &[Change]) {
        for change in changes {
            if let Change::Cut { element } = change {
                self.out
                    .log(format!("connections of {} to {} were cut", element.source, element.port));
            }
        }
    }
}

/// Services that lead to another inner host than before, or to this machine instead of one, or that
/// are opened otherwise: what was granted was the old way.
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
