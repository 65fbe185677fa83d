//! The guard: grants put into the kernel at once, everything that runs nft or lists tables done
//! beside the loop. See `edge::firewall` for the kernel's side, `app::guard` for the admin's
//! command.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Gatekeeper;
use super::events::{Lane, Task};
use super::in_force::guard_rules;
use crate::app::prepare::Prepared;
use crate::config::FirewallSettings;
use crate::core::grants::{ActiveGrant, Change, Element};
use crate::core::types::{Boot, Fault, Now};
use crate::edge::control::SessionId;
use crate::edge::firewall::{Firewall, GuardReport, GuardTask, reconcile};

/// Seconds between two comparisons of every rule, which take a process.
const FULL_CHECK: u32 = 600;
/// Seconds between two attempts to repair the guard.
const RETRY: u32 = 1;

/// Our table in the kernel.
pub(super) struct Guard {
    firewall: Box<dyn Firewall>,
    /// An admin has taken the guard away: nothing is loaded, put back or granted.
    off: bool,
    /// From when on the guard is to be repaired; `None` if nothing speaks against it.
    repair_at: Option<Boot>,
    next_full_check: Boot,
    /// Cuts to be made once more after a repair: an element that stood until then may have let a
    /// connection go on.
    uncut: Vec<Element>,
    wanted: VecDeque<GuardWork>,
    running: Option<GuardWork>,
}

/// What a task of the guard is for.
pub(super) enum GuardWork {
    /// Put right what may be wrong.
    Repair,
    /// Look whether every rule is as we loaded it.
    Check,
    /// Forget grants that are over and have no connection left: those that were over when the task
    /// began.
    Flows(Vec<ActiveGrant>),
    /// Take over the rules of a new configuration.
    Reload(Arc<Prepared>),
    /// Take the rules in force again: others may have been loaded.
    Restore,
    /// Put the guard up, for this admin if one asked for it.
    TurnOn(Option<SessionId>),
    /// Take the guard away.
    TurnOff(SessionId),
}

impl Guard {
    pub(super) fn new(now: Now, firewall: Box<dyn Firewall>) -> Guard {
        Guard {
            firewall,
            off: false,
            repair_at: None,
            next_full_check: now.boot.plus(FULL_CHECK),
            uncut: Vec::new(),
            wanted: VecDeque::new(),
            running: None,
        }
    }

    /// True if an admin has taken the guard away.
    pub(super) fn is_off(&self) -> bool {
        self.off
    }

    /// Makes `changes` hold, cuts last, whatever became of the rest. After a fault the guard is
    /// repaired, and what was to be cut is cut once more.
    pub(super) fn apply(&mut self, now: Now, changes: &[Change]) -> Result<(), Fault> {
        if changes.is_empty() {
            return Ok(());
        }
        let applied =
            if self.off { nothing_to_grant(changes) } else { self.firewall.apply(changes) };
        let cuts = cuts_of(changes);
        let cut = if cuts.is_empty() { Ok(()) } else { self.firewall.cut(&cuts) };
        let outcome = applied.and(cut);
        if outcome.is_err() && !self.off {
            self.uncut.extend(cuts);
            self.repair_at = Some(now.boot);
        }
        outcome
    }

    /// True if the kernel holds all of `elements`.
    pub(super) fn holds(&mut self, elements: &[Element]) -> bool {
        let live = |element: &Element| matches!(self.firewall.remaining(element), Ok(Some(_)));
        !elements.is_empty() && elements.iter().all(live)
    }

    /// Something may be wrong with the guard.
    pub(super) fn doubt(&mut self, now: Now) {
        self.repair_at.get_or_insert(now.boot);
    }

    pub(super) fn want(&mut self, work: GuardWork) {
        self.wanted.push_back(work);
    }

    /// Nobody knows which rules stand: loads those in force. A guard that was off is up then, and
    /// must not be without us.
    pub(super) fn restore_rules(&mut self) {
        self.want(if self.off { GuardWork::TurnOn(None) } else { GuardWork::Restore });
    }

    /// A reload has failed before its turn came.
    pub(super) fn forget_reload(&mut self) {
        self.wanted.retain(|work| !matches!(work, GuardWork::Reload(_)));
    }

    /// Other settings are in force.
    pub(super) fn use_settings(&mut self, settings: &FirewallSettings) {
        self.firewall.use_settings(settings);
    }

    /// True if the work that is wanted or under way tells whether the guard stands.
    fn will_tell(&self) -> bool {
        let tells = |work: &GuardWork| {
            matches!(work, GuardWork::Repair | GuardWork::Check | GuardWork::TurnOn(_))
        };
        self.wanted.iter().chain(&self.running).any(tells)
    }

    /// Has the guard compared with what was loaded, rule by rule.
    pub(super) fn want_check(&mut self) {
        if !self.will_tell() {
            self.want(GuardWork::Check);
        }
    }

    /// When [`Gatekeeper::start_guard_work`] has something to do that it has not now.
    pub(super) fn deadline(&self) -> Option<Boot> {
        let idle = self.running.is_none() && !self.off;
        self.repair_at.filter(|_| idle)
    }

    fn next_work(&mut self, now: Now) -> Option<GuardWork> {
        while let Some(work) = self.wanted.pop_front() {
            // A guard that was taken away in the meantime has no rules.
            if !(self.off && matches!(work, GuardWork::Restore)) {
                return Some(work);
            }
        }
        let due = self.repair_at.is_some_and(|at| at <= now.boot) && !self.off;
        if !due {
            return None;
        }
        // What others do while the repair runs makes another one necessary.
        self.repair_at = None;
        Some(GuardWork::Repair)
    }

    /// Puts the kernel's elements right. What is cut then, is cut for good.
    fn settle(&mut self, changes: &[Change]) -> Result<(), Fault> {
        self.firewall.apply(changes)?;
        let uncut = std::mem::take(&mut self.uncut);
        if uncut.is_empty() { Ok(()) } else { self.firewall.cut(&uncut) }
    }
}

/// While the guard is off: what is taken away is gone already, and what is granted would be a lie.
fn nothing_to_grant(changes: &[Change]) -> Result<(), Fault> {
    if changes.iter().any(|change| matches!(change, Change::Set { .. })) {
        return Err(Fault::new(
            "the guard is off: there is nothing to grant",
            "`toctocd guard on` puts it up",
        ));
    }
    Ok(())
}

fn cuts_of(changes: &[Change]) -> Vec<Element> {
    let cuts = changes.iter().filter(|change| matches!(change, Change::Cut { .. }));
    cuts.map(|change| *change.element()).collect()
}

impl Gatekeeper {
    /// Tells the kernel; if it refuses, everything is put right from the list.
    pub(super) fn change_firewall(&mut self, now: Now, changes: &[Change]) {
        if let Err(fault) = self.guard.apply(now, changes) {
            self.out.log(format!("the firewall refused a change: {fault}"));
        }
    }

    /// By one small question to the kernel: a table that is gone. Rarely rule by rule: rules can go
    /// while the table stays. The watch tells of both; this is for what it may have missed.
    pub(super) fn look_after_guard(&mut self, now: Now) {
        if self.guard.off {
            return;
        }
        if !self.guard.firewall.is_there().unwrap_or(false) {
            self.guard.doubt(now);
        }
        if self.guard.next_full_check <= now.boot {
            self.guard.next_full_check = now.boot.plus(FULL_CHECK);
            self.guard.want_check();
        }
        if self.grants.past().next().is_some() {
            let over = self.grants.past().copied().collect();
            self.guard.want(GuardWork::Flows(over));
        }
    }

    /// Starts the next task of the guard, if one is due and none runs. While one hangs, what is
    /// wanted fails at once.
    pub(super) fn start_guard_work(&mut self, now: Now) {
        if !self.tasks.is_free(Lane::Guard) {
            if self.tasks.is_late(Lane::Guard)
                && let Some(work) = self.guard.wanted.pop_front()
            {
                self.guard_work_ended(now, work, Err(Lane::Guard.late()));
                self.start_guard_work(now);
            }
            return;
        }
        let Some(work) = self.guard.next_work(now) else { return };
        let task = match &work {
            GuardWork::Repair => GuardTask::Repair,
            GuardWork::Check => GuardTask::Check,
            GuardWork::Flows(_) => GuardTask::Flows,
            // While the guard is off nothing is loaded; new rules must be good all the same.
            GuardWork::Reload(new) if self.guard.off => {
                GuardTask::Verify(guard_rules(&new.config.settings))
            }
            GuardWork::Reload(new) => GuardTask::Load(guard_rules(&new.config.settings)),
            GuardWork::TurnOn(_) if !self.guard.off => GuardTask::Repair,
            GuardWork::Restore | GuardWork::TurnOn(_) => {
                GuardTask::Load(self.in_force.guard_rules())
            }
            GuardWork::TurnOff(_) => GuardTask::Unload,
        };
        self.guard.running = Some(work);
        self.tasks.start(now, Task::Guard(task), &mut self.out);
    }

    /// A task of the guard has ended, or takes too long.
    pub(super) fn guard_work_done(&mut self, now: Now, result: Result<GuardReport, Fault>) {
        if let Some(work) = self.guard.running.take() {
            self.guard_work_ended(now, work, result);
        }
    }

    fn guard_work_ended(&mut self, now: Now, work: GuardWork, result: Result<GuardReport, Fault>) {
        match work {
            GuardWork::Repair | GuardWork::Restore => self.repaired(now, result),
            GuardWork::Check => self.checked(now, result),
            GuardWork::Flows(over) => self.flows_listed(over, result),
            GuardWork::Reload(new) => self.rules_loaded(now, &new, result),
            GuardWork::TurnOn(session) => self.turned_on(now, session, result),
            GuardWork::TurnOff(session) => self.turned_off(session, result),
        }
    }

    fn repaired(&mut self, now: Now, result: Result<GuardReport, Fault>) {
        let was_wrong = matches!(result, Ok(GuardReport::Loaded { reloaded: true, .. }));
        let repaired = result.and_then(|report| self.guard_loaded(now, report));
        if was_wrong && repaired.is_ok() {
            self.out.log("the guard was loaded again");
        }
        self.answer_status(now, repaired.is_ok());
        if let Err(fault) = repaired {
            self.guard.repair_at = Some(now.boot.plus(RETRY));
            self.out.log_at_most("firewall", 10, format!("THE GUARD MAY BE DOWN: {fault}"));
        }
    }

    /// The guard stands as it was loaded; its elements are made to fit the grants of this moment.
    pub(super) fn guard_loaded(&mut self, now: Now, report: GuardReport) -> Result<(), Fault> {
        let GuardReport::Loaded { elements, .. } = report else {
            return Err(Fault::new(
                "the guard was not loaded",
                "this is a bug in toctocd: report it",
            ));
        };
        let changes = reconcile(&elements, &self.grants.expected_elements(now));
        self.guard.settle(&changes)?;
        let found = |element: &Element| elements.iter().any(|(other, _)| other == element);
        let is_new =
            |change: &&Change| matches!(change, Change::Set { element, .. } if !found(element));
        let put_back = changes.iter().filter(is_new).count();
        let removed =
            changes.iter().filter(|change| matches!(change, Change::Remove { .. })).count();
        if put_back + removed > 0 {
            self.out
                .log(format!("{put_back} grants put back, {removed} orphaned elements removed"));
        }
        Ok(())
    }

    fn checked(&mut self, now: Now, result: Result<GuardReport, Fault>) {
        let sound = matches!(result, Ok(GuardReport::Checked { sound: true }));
        if !sound {
            self.guard.doubt(now);
        }
        self.answer_status(now, sound);
    }

    /// Forgets grants that are over and have no connection left. Those that ended while the
    /// connections were listed are looked at the next time.
    fn flows_listed(&mut self, over: Vec<ActiveGrant>, result: Result<GuardReport, Fault>) {
        match result {
            Ok(GuardReport::Flows(flows))
                if self.grants.past().all(|grant| over.contains(grant)) =>
            {
                let records = self.grants.forget_past(&flows);
                self.journal.defer(&records);
            }
            Ok(_) => {}
            Err(fault) => self.out.log_at_most("connections", 600, fault.to_string()),
        }
    }

    fn turned_on(
        &mut self,
        now: Now,
        session: Option<SessionId>,
        result: Result<GuardReport, Fault>,
    ) {
        let was_off = self.guard.off;
        self.guard.off &= result.is_err();
        let loaded = result.and_then(|report| self.guard_loaded(now, report));
        if loaded.is_err() && !self.guard.off {
            self.guard.repair_at = Some(now.boot.plus(RETRY));
        }
        self.answer_status(now, loaded.is_ok());
        match (session, loaded) {
            (Some(session), loaded) => {
                let said = if was_off { "the guard is up" } else { "the guard was up already" };
                self.reply(session, loaded.map(|()| said.to_owned()), "the guard is not up");
            }
            (None, Ok(())) => self.out.log("that put the guard up again, so it is no longer off"),
            (None, Err(fault)) => self.out.log(format!("THE GUARD MAY BE DOWN: {fault}")),
        }
    }

    /// Active grants are kept in mind: they come back with the guard, for the time that they have
    /// left.
    fn turned_off(&mut self, session: SessionId, result: Result<GuardReport, Fault>) {
        self.guard.off |= result.is_ok();
        let said = result
            .map(|_| "the guard is OFF until `toctocd guard on` or the next start".to_owned());
        self.reply(session, said, "the guard was left as it is");
    }

    /// Somebody else has changed our table. If it was away by command, they have loaded it
    /// (nftables.conf includes it, say): then it must not stand there without us, for nobody could
    /// be granted anything.
    pub(super) fn guard_was_changed(&mut self, now: Now, who: &str) {
        self.out.log(format!("our firewall table was changed by {who}"));
        if self.guard.off {
            self.guard.want(GuardWork::TurnOn(None));
        } else {
            self.guard.repair_at = Some(now.boot);
        }
    }
}
