//! The guard. Grants reach the kernel at once; everything that runs nft or lists tables happens
//! outside the loop. See `edge::firewall` for the kernel side and `app::guard` for the admin's
//! command.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::Gatekeeper;
use super::events::{Lane, Task};
use super::in_force::guard_rules;
use crate::app::prepare::Prepared;
use crate::core::grants::{ActiveGrant, Change, Element};
use crate::core::service::GrantKind;
use crate::core::types::{Boot, Fault, Now};
use crate::edge::control::SessionId;
use crate::edge::firewall::{Firewall, GuardReport, GuardRules, GuardTask, is_right, reconcile};

/// Seconds between two comparisons of every rule. Each one runs a process.
const FULL_CHECK: u32 = 600;
/// Seconds between two attempts to repair the guard, and between two looks at all of its elements
/// that nobody's change has caused.
const RETRY: u32 = 1;
/// The most one-connection elements that the periodic check asks the kernel for.
const ONCE: usize = 64;
/// The most wrong elements that a repair asks the kernel for again.
const FEW: usize = 64;

pub(super) struct Guard {
    firewall: Box<dyn Firewall>,
    /// True after an admin turned the guard off: nothing is loaded, repaired or granted.
    off: bool,
    /// The earliest time of the next repair; `None` if none is needed.
    repair_at: Option<Boot>,
    /// The earliest time of a repair on mere suspicion.
    next_doubt: Boot,
    /// Tables with a guard that no gateway keeps.
    others: Vec<String>,
    next_full_check: Boot,
    /// Connections to cut again after a repair: an element that was still there may have let a
    /// connection continue.
    uncut: Vec<Element>,
    wanted: VecDeque<GuardWork>,
    running: Option<GuardWork>,
}

/// The purpose of a guard task.
pub(super) enum GuardWork {
    /// Repair the guard where it differs from what was loaded.
    Repair,
    /// Check that every rule is as we loaded it.
    Check,
    /// Forget those of these ended grants that have no connections.
    Standing(Vec<ActiveGrant>),
    /// Load the rules of a new configuration.
    Reload(Arc<Prepared>),
    /// Load the rules in force again: other rules may have been loaded.
    Restore,
    /// Turn the guard on. The session is the admin who asked, if one did.
    TurnOn(Option<SessionId>),
    /// Turn the guard off.
    TurnOff(SessionId),
}

impl Guard {
    pub(super) fn new(now: Now, firewall: Box<dyn Firewall>) -> Guard {
        Guard {
            firewall,
            off: false,
            repair_at: None,
            next_doubt: now.boot,
            others: Vec::new(),
            next_full_check: now.boot.plus(FULL_CHECK),
            uncut: Vec::new(),
            wanted: VecDeque::new(),
            running: None,
        }
    }

    /// True if an admin turned the guard off.
    pub(super) fn is_off(&self) -> bool {
        self.off
    }

    /// Applies `changes`, then cuts connections even if the changes failed. After a fault the guard
    /// is repaired, and the connections are cut again.
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
            self.doubt(now);
        }
        outcome
    }

    /// True if the kernel took `element`, which these changes set just now: it holds it, or a
    /// connection that waited for an element for one connection has used it up already.
    pub(super) fn took(&mut self, element: &Element, changes: &[Change]) -> bool {
        match self.firewall.remaining(element) {
            Ok(Some(_)) => true,
            Ok(None) => {
                let is_removed = changes.contains(&Change::Remove { element: *element });
                element.form == GrantKind::Once && !is_removed
            }
            Err(_) => false,
        }
    }

    /// False for an element that is missing and should be, or is there and should be.
    fn is_needed(&mut self, change: &Change) -> bool {
        match (change, self.firewall.remaining(change.element())) {
            (Change::Remove { .. }, Ok(None)) => false,
            (Change::Set { millis, .. }, Ok(Some(left))) => !is_right(left, *millis),
            _ => true,
        }
    }

    /// True if the kernel does not hold `element`; false if it does not say.
    pub(super) fn has_lost(&mut self, element: &Element) -> bool {
        matches!(self.firewall.remaining(element), Ok(None))
    }

    /// Schedules a repair: the guard may be damaged. Not more often than every [`RETRY`] seconds:
    /// a repair lists all elements.
    pub(super) fn doubt(&mut self, now: Now) {
        let at = self.next_doubt.max(now.boot);
        self.repair_at.get_or_insert(at);
    }

    pub(super) fn want(&mut self, work: GuardWork) {
        self.wanted.push_back(work);
    }

    /// Loads the rules in force again, because the loaded rules are unknown. A guard that was off
    /// may now be loaded, so it is turned on: a loaded guard needs the gatekeeper.
    pub(super) fn restore_rules(&mut self) {
        self.want(if self.off { GuardWork::TurnOn(None) } else { GuardWork::Restore });
    }

    /// Removes the guard work of a reload that failed before that work began.
    pub(super) fn forget_reload(&mut self) {
        self.wanted.retain(|work| !matches!(work, GuardWork::Reload(_)));
    }

    pub(super) fn use_rules(&mut self, rules: &GuardRules) {
        self.firewall.use_rules(rules);
    }

    /// What the admin should know about other tables.
    pub(super) fn limitations(&self) -> impl Iterator<Item = String> {
        self.others.iter().map(|table| {
            format!(
                "the table inet {table} is a guard of toctoc that no gateway keeps, and drops \
                 packets too; `nft delete table inet {table}` removes it"
            )
        })
    }

    /// True if queued or running work will report whether the guard is in place.
    fn will_tell(&self) -> bool {
        let tells = |work: &GuardWork| {
            matches!(work, GuardWork::Repair | GuardWork::Check | GuardWork::TurnOn(_))
        };
        self.wanted.iter().chain(&self.running).any(tells)
    }

    /// Requests a comparison of every rule with what was loaded.
    pub(super) fn want_check(&mut self) {
        if !self.will_tell() {
            self.want(GuardWork::Check);
        }
    }

    /// The next moment at which [`Gatekeeper::start_guard_work`] can start a repair.
    pub(super) fn deadline(&self) -> Option<Boot> {
        let idle = self.running.is_none() && !self.off;
        self.repair_at.filter(|_| idle)
    }

    fn next_work(&mut self, now: Now) -> Option<GuardWork> {
        while let Some(work) = self.wanted.pop_front() {
            // A guard that was turned off in the meantime has no rules to restore.
            if !(self.off && matches!(work, GuardWork::Restore)) {
                return Some(work);
            }
        }
        let due = self.repair_at.is_some_and(|at| at <= now.boot) && !self.off;
        if !due {
            return None;
        }
        // Clear it now: changes made while the repair runs need another repair.
        self.repair_at = None;
        self.next_doubt = now.boot.plus(RETRY);
        Some(GuardWork::Repair)
    }

    /// Applies `changes` to the kernel's elements. Then makes the pending cuts; with the right
    /// elements they are final.
    fn settle(&mut self, changes: &[Change]) -> Result<(), Fault> {
        self.firewall.apply(changes)?;
        let uncut = std::mem::take(&mut self.uncut);
        if uncut.is_empty() { Ok(()) } else { self.firewall.cut(&uncut) }
    }
}

/// The result of `changes` while the guard is off: removals succeed, because the table is gone;
/// grants fail, because nothing would enforce them.
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
    /// Applies `changes`. If the kernel refuses, a repair from the list of grants follows.
    pub(super) fn change_firewall(&mut self, now: Now, changes: &[Change]) {
        if let Err(fault) = self.guard.apply(now, changes) {
            self.out.log(format!("the firewall refused a change: {fault}"));
        }
    }

    /// The periodic check. Each time, asks the kernel if the table is there; every [`FULL_CHECK`]
    /// seconds, compares every rule, because rules can go while the table stays. The watch reports
    /// both; this finds what it missed.
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
        let over: Vec<ActiveGrant> = self.grants.past().copied().collect();
        if !over.is_empty() {
            self.guard.want(GuardWork::Standing(over));
        }
        self.end_spent_grants(now);
    }

    /// Ends grants of one connection that the kernel does not hold any more.
    fn end_spent_grants(&mut self, now: Now) {
        for element in self.grants.once_to_check(ONCE) {
            if matches!(self.guard.firewall.remaining(&element), Ok(None)) {
                let (changes, records) = self.grants.spent(now, &element);
                self.change_firewall(now, &changes);
                self.journal.defer(&records);
            }
        }
    }

    /// Starts the next guard task if one is due and none is running. While a task hangs, queued
    /// work fails at once.
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
            GuardWork::Standing(over) => {
                GuardTask::Standing(over.iter().filter_map(ActiveGrant::element).collect())
            }
            // While the guard is off nothing is loaded, but new rules must still be valid.
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

    /// Handles the end of a guard task, or a missed deadline.
    pub(super) fn guard_work_done(&mut self, now: Now, result: Result<GuardReport, Fault>) {
        if let Some(work) = self.guard.running.take() {
            self.guard_work_ended(now, work, result);
        }
    }

    fn guard_work_ended(&mut self, now: Now, work: GuardWork, result: Result<GuardReport, Fault>) {
        match work {
            GuardWork::Repair | GuardWork::Restore => self.repaired(now, result),
            GuardWork::Check => self.checked(now, result),
            GuardWork::Standing(over) => self.connections_listed(&over, result),
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

    /// Makes the elements of the loaded guard match the current grants.
    pub(super) fn guard_loaded(&mut self, now: Now, report: GuardReport) -> Result<(), Fault> {
        let GuardReport::Loaded { elements, .. } = report else {
            return Err(Fault::new(
                "the guard was not loaded",
                "this is a bug in toctocd: report it",
            ));
        };
        let mut changes = reconcile(&elements, &self.grants.expected_elements(now));
        if changes.len() <= FEW {
            // What has changed since the kernel listed them is no damage.
            changes.retain(|change| self.guard.is_needed(change));
        }
        self.guard.settle(&changes)?;
        let found: HashSet<&Element> = elements.iter().map(|(element, _)| element).collect();
        let mut put_back = 0;
        let mut removed = 0;
        for change in &changes {
            match change {
                Change::Set { element, .. } if !found.contains(element) => put_back += 1,
                Change::Remove { .. } => removed += 1,
                _ => {}
            }
        }
        if put_back + removed > 0 {
            self.out
                .log(format!("{put_back} grants put back, {removed} orphaned elements removed"));
        }
        Ok(())
    }

    fn checked(&mut self, now: Now, result: Result<GuardReport, Fault>) {
        let sound = matches!(result, Ok(GuardReport::Checked { sound: true, .. }));
        if !sound {
            self.guard.repair_at = Some(now.boot);
        }
        if let Ok(GuardReport::Checked { others, .. }) = result {
            self.other_guards_found(others);
        }
        self.answer_status(now, sound);
    }

    /// Takes note of other guards, and logs what is new about them.
    pub(super) fn other_guards_found(&mut self, others: Vec<String>) {
        if self.guard.others != others {
            self.guard.others = others;
            for limitation in self.guard.limitations() {
                self.out.log(format!("degraded: {limitation}"));
            }
        }
    }

    /// Forgets ended grants without connections.
    fn connections_listed(&mut self, over: &[ActiveGrant], result: Result<GuardReport, Fault>) {
        match result {
            Ok(GuardReport::Standing(standing)) => {
                let records = self.grants.forget_past(over, &standing);
                self.journal.defer(&records);
            }
            Ok(_) => {}
            Err(fault) => self.out.log_at_most("connections", 600, fault.to_string()),
        }
    }

    fn turned_on(
        &mut self, now: Now, session: Option<SessionId>, result: Result<GuardReport, Fault>,
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

    /// Handles the result of turning the guard off. Active grants are kept: they return with the
    /// guard for the time they have left.
    fn turned_off(&mut self, session: SessionId, result: Result<GuardReport, Fault>) {
        self.guard.off |= result.is_ok();
        let said = result
            .map(|_| "the guard is OFF until `toctocd guard on` or the next start".to_owned());
        self.reply(session, said, "the guard was left as it is");
    }

    /// Handles a change to our table by another program. If the guard was off, that program has
    /// loaded it (from nftables.conf, say). A loaded guard without the gatekeeper would lock
    /// everyone out, so it is turned on.
    pub(super) fn guard_was_changed(&mut self, now: Now, who: &str) {
        self.out.log(format!("our firewall table was changed by {who}"));
        if self.guard.off {
            self.guard.want(GuardWork::TurnOn(None));
        } else {
            self.guard.repair_at = Some(now.boot);
        }
    }

    /// Handles the loss of announcements: nobody knows whether our table was changed. The rules are
    /// compared at once, and the elements as soon as it is their turn.
    pub(super) fn guard_is_unsure(&mut self, now: Now) {
        if !self.guard.off {
            self.guard.want_check();
            self.guard.doubt(now);
        }
    }
}
