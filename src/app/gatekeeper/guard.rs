//! The guard. Grants reach the kernel at once; everything that runs nft or lists tables happens
//! outside the loop. See `edge::firewall` for the kernel side and `app::guard` for the admin's
//! command.

use crate::core::event::{EventKind, Level};
use crate::edge::log::LogEvent;
use std::collections::VecDeque;
use std::sync::Arc;

use super::Gatekeeper;
use super::events::{Lane, Task};
use super::trial::{Trial, TrialChange, TrialGrant, on_trial};
use crate::app::admin::TrialState;
use crate::app::prepare::Prepared;
use crate::core::grants::element::is_right;
use crate::core::grants::{Change, Element};
use crate::core::service::GrantKind;
use crate::core::types::{Boot, Fault, Now};
use crate::edge::control::SessionId;
use crate::edge::firewall::{Firewall, GuardReport, GuardRules, GuardTask};

mod comparison;

pub(super) use comparison::Comparison;

/// Seconds between two comparisons of every rule. Each one runs a process.
const FULL_CHECK: u32 = 600;
/// Seconds between two attempts to repair the guard, and between two looks at all of its elements
/// that nobody's change has caused.
const RETRY: u32 = 1;

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
    /// False if the last look at the guard found that it is not as it should be.
    sound: bool,
    wanted: VecDeque<GuardWork>,
    running: Option<GuardWork>,
    /// The kernel's elements are being compared. Nothing else starts meanwhile.
    pub(super) comparison: Option<Comparison>,
}

/// The purpose of a guard task.
pub(super) enum GuardWork {
    /// Repair the guard where it differs from what was loaded.
    Repair,
    /// Check that every rule is as we loaded it.
    Check,
    /// Load the rules of a new configuration.
    Reload(Arc<Prepared>),
    /// Load the rules in force again: other rules may have been loaded.
    Restore,
    /// Turn the guard on. The session is the admin who asked, if one did.
    TurnOn(Option<SessionId>, TrialChange),
    /// Look whether this grant can confirm the trial.
    Look(TrialGrant),
    /// Load the rules without the trial's end: this grant has confirmed it.
    Confirm(String),
    /// Load the end of the trial.
    EndTrial,
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
            sound: true,
            wanted: VecDeque::new(),
            running: None,
            comparison: None,
        }
    }

    /// True if an admin turned the guard off.
    pub(super) fn is_off(&self) -> bool {
        self.off
    }

    /// True if the guard was as loaded at the last look, and nothing since then says otherwise.
    pub(super) fn seems_sound(&self) -> bool {
        self.sound && self.repair_at.is_none()
    }

    /// Takes note of a look at the guard.
    pub(super) fn looked_at(&mut self, sound: bool) {
        self.sound = sound || self.off;
    }

    /// Applies `changes` of elements. After a fault the guard is repaired.
    fn apply(&mut self, now: Now, changes: &[Change]) -> Result<(), Fault> {
        if changes.is_empty() {
            return Ok(());
        }
        if self.off {
            // After a trial the table is there: what ends now must not be back with the guard.
            let is_end = |change: &&Change| !matches!(change, Change::Set { .. });
            let _ =
                self.firewall.apply(&changes.iter().filter(is_end).copied().collect::<Vec<_>>());
            return nothing_to_grant(changes);
        }
        let outcome = self.firewall.apply(changes);
        if outcome.is_err() {
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
    pub(super) fn is_needed(&mut self, change: &Change) -> bool {
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
        self.want(match self.off {
            true => GuardWork::TurnOn(None, TrialChange::End),
            false => GuardWork::Restore,
        });
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
            matches!(work, GuardWork::Repair | GuardWork::Check | GuardWork::TurnOn(..))
        };
        self.work().any(tells)
    }

    pub(super) fn want_end_of_trial(&mut self) {
        self.want(GuardWork::EndTrial);
    }

    /// Requests a look at a grant that may confirm the trial. One at a time is enough.
    pub(super) fn want_look(&mut self, grant: TrialGrant) {
        if !self.work().any(|work| matches!(work, GuardWork::Look(_) | GuardWork::Confirm(_))) {
            self.want(GuardWork::Look(grant));
        }
    }

    /// Requests that the trial ends because of the grant `by`, before its time is over.
    pub(super) fn want_confirmation(&mut self, by: String) {
        self.wanted.push_front(GuardWork::Confirm(by));
    }

    /// The grant that was being looked at.
    pub(super) fn take_looked_at(&mut self) -> Option<TrialGrant> {
        match self.running.take() {
            Some(GuardWork::Look(grant)) => Some(grant),
            other => {
                self.running = other;
                None
            }
        }
    }

    /// All work, queued or under way.
    fn work(&self) -> impl Iterator<Item = &GuardWork> {
        let compared = self.comparison.as_ref().map(|comparison| &comparison.work);
        self.wanted.iter().chain(&self.running).chain(compared)
    }

    /// Takes note that the guard lets everything through: nothing is repaired or granted.
    pub(super) fn turned_off(&mut self) {
        self.off = true;
    }

    /// Requests a comparison of every rule with what was loaded.
    pub(super) fn want_check(&mut self) {
        if !self.will_tell() {
            self.want(GuardWork::Check);
        }
    }

    /// The next moment at which [`Gatekeeper::start_guard_work`] can start a repair.
    pub(super) fn deadline(&self) -> Option<Boot> {
        let idle = self.running.is_none() && self.comparison.is_none() && !self.off;
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

    /// Applies the changes of a comparison.
    pub(super) fn set_right(&mut self, changes: &[Change]) -> Result<(), Fault> {
        if changes.is_empty() { Ok(()) } else { self.firewall.apply(changes) }
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

impl Gatekeeper {
    /// Applies `changes` of elements, then has connections cut even if that failed. After a fault
    /// the guard is repaired from the list of grants, and the connections are cut once more.
    pub(super) fn apply(&mut self, now: Now, changes: &[Change]) -> Result<(), Fault> {
        let outcome = self.guard.apply(now, changes);
        self.connections.cut(changes, outcome.is_err() && !self.guard.off);
        outcome
    }

    /// The same for changes that nobody waits for.
    pub(super) fn change_firewall(&mut self, now: Now, changes: &[Change]) {
        if let Err(fault) = self.apply(now, changes) {
            let text = format!("the firewall refused a change: {fault}");
            self.out.tell(LogEvent::new(EventKind::Guard, text).failed());
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
        if self.guard.comparison.is_some() {
            return;
        }
        let Some(work) = self.guard.next_work(now) else { return };
        if matches!(work, GuardWork::EndTrial) && !self.trial.is_due(now) {
            // A grant came in the last moment, or an admin has begun another trial.
            return self.start_guard_work(now);
        }
        let task = match &work {
            GuardWork::Look(grant) => return self.start_look(now, grant.clone()),
            GuardWork::Repair => GuardTask::Repair,
            GuardWork::Check => GuardTask::Check,
            // While the guard is off nothing is loaded, but new rules must still be valid.
            GuardWork::Reload(new) if self.guard.off => {
                GuardTask::Verify(GuardRules::of(&new.config.settings))
            }
            GuardWork::Reload(new) => GuardTask::Load(GuardRules {
                trial: self.trial.until(),
                ..GuardRules::of(&new.config.settings)
            }),
            GuardWork::TurnOn(_, TrialChange::Keep) if !self.guard.off => GuardTask::Repair,
            GuardWork::TurnOn(_, change) => self.load_in_force(self.trial.changed(*change)),
            GuardWork::Restore => self.load_in_force(self.trial.until()),
            GuardWork::Confirm(_) => self.load_in_force(None),
            GuardWork::EndTrial => self.load_in_force(Some(now.boot)),
            GuardWork::TurnOff(_) => GuardTask::Unload,
        };
        self.guard.running = Some(work);
        self.tasks.start(now, Task::Guard(task), &mut self.out);
    }

    fn start_look(&mut self, now: Now, grant: TrialGrant) {
        let prepared = Arc::clone(self.in_force.prepared());
        let task = Task::LookAtFirewall { prepared, service: grant.service, v6: grant.v6 };
        self.guard.running = Some(GuardWork::Look(grant));
        self.tasks.start(now, task, &mut self.out);
    }

    fn load_in_force(&self, trial: Option<Boot>) -> GuardTask {
        GuardTask::Load(GuardRules { trial, ..self.in_force.guard_rules() })
    }

    /// Handles the end of a guard task, or a missed deadline.
    pub(super) fn guard_work_done(&mut self, now: Now, result: Result<GuardReport, Fault>) {
        if let Some(work) = self.guard.running.take() {
            self.guard_work_ended(now, work, result);
        }
    }

    fn guard_work_ended(&mut self, now: Now, work: GuardWork, result: Result<GuardReport, Fault>) {
        match (work, result) {
            (GuardWork::Check, result) => self.checked(now, result),
            // What cannot be looked at is no reason to doubt the grant.
            (GuardWork::Look(grant), _) => self.guard.want_confirmation(grant.by),
            (GuardWork::Reload(new), result) => self.rules_loaded(now, new, result),
            (GuardWork::TurnOff(session), result) => self.turned_off(session, result),
            (GuardWork::EndTrial, result) => self.trial_over(now, &result),
            (work, Ok(GuardReport::Loaded { reloaded, elements })) => {
                match &work {
                    GuardWork::TurnOn(_, change) => {
                        self.guard.off = false;
                        self.trial = Trial::of(now, self.trial.changed(*change));
                    }
                    GuardWork::Confirm(by) => self.trial_confirmed(by.clone()),
                    _ => {}
                }
                self.compare_all(now, Comparison::new(elements, work, reloaded));
            }
            (work, Err(fault)) => self.guard_work_over(now, work, false, Err(fault)),
            // No task gives another report for this work.
            (..) => {}
        }
    }

    /// Handles the end of work that loads or repairs the guard, the comparison of its elements
    /// included.
    pub(super) fn guard_work_over(
        &mut self, now: Now, work: GuardWork, reloaded: bool, outcome: Result<(), Fault>,
    ) {
        match work {
            GuardWork::TurnOn(session, _) => self.turned_on(now, session, reloaded, outcome),
            GuardWork::Reload(_) => self.elements_follow_rules(now, outcome),
            GuardWork::Confirm(_) => self.repaired(now, false, outcome),
            _ => self.repaired(now, reloaded, outcome),
        }
    }

    fn repaired(&mut self, now: Now, reloaded: bool, outcome: Result<(), Fault>) {
        self.answer_status(now, outcome.is_ok());
        match outcome {
            Ok(()) if reloaded => self.out.log(EventKind::Guard, "the guard was loaded again"),
            Ok(()) => {}
            Err(fault) => {
                self.guard.repair_at = Some(now.boot.plus(RETRY));
                self.out.tell_at_most("firewall", 10, may_be_down(&fault));
            }
        }
    }

    fn elements_follow_rules(&mut self, now: Now, outcome: Result<(), Fault>) {
        if let Err(fault) = outcome {
            self.out.tell_at_most("firewall", 10, may_be_down(&fault));
            self.guard.doubt(now);
        }
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
                self.out.log(EventKind::Warning, format!("degraded: {limitation}"));
            }
        }
    }

    fn turned_on(
        &mut self, now: Now, session: Option<SessionId>, reloaded: bool, outcome: Result<(), Fault>,
    ) {
        if outcome.is_err() && !self.guard.off {
            self.guard.repair_at = Some(now.boot.plus(RETRY));
        }
        self.answer_status(now, outcome.is_ok());
        match (session, outcome) {
            (Some(session), outcome) => {
                let said = self.up_text(now, reloaded);
                self.reply(session, outcome.map(|()| said), "the guard is not up");
            }
            (None, Ok(())) => self
                .out
                .log(EventKind::Guard, "that put the guard up again, so it is no longer off"),
            (None, Err(fault)) => self.out.tell(may_be_down(&fault)),
        }
    }

    fn up_text(&self, now: Now, reloaded: bool) -> String {
        match (self.trial.state(now), reloaded) {
            (TrialState::Running { seconds_left, .. }, _) => {
                format!("the guard is up, {}", on_trial(seconds_left))
            }
            (_, true) => "the guard is up".to_owned(),
            (_, false) => "the guard is up, as it was before: nothing has changed".to_owned(),
        }
    }

    /// Handles the result of turning the guard off. Active grants are kept: they return with the
    /// guard for the time they have left.
    fn turned_off(&mut self, session: SessionId, result: Result<GuardReport, Fault>) {
        if result.is_ok() {
            self.guard.turned_off();
            self.trial = Trial::default();
        }
        let said = result
            .map(|_| "the guard is OFF until `toctocd guard on` or the next start".to_owned());
        self.reply(session, said, "the guard was left as it is");
    }

    /// Handles a change to our table by another program. If the guard was off, that program has
    /// loaded it (from nftables.conf, say). A loaded guard without the gatekeeper would lock
    /// everyone out, so it is turned on.
    pub(super) fn guard_was_changed(&mut self, now: Now, who: &str) {
        let text = format!("our firewall table was changed by {who}");
        self.out.tell(LogEvent { level: Level::Warning, ..LogEvent::new(EventKind::Guard, text) });
        if self.guard.off {
            self.guard.want(GuardWork::TurnOn(None, TrialChange::End));
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

fn may_be_down(fault: &Fault) -> LogEvent {
    LogEvent::new(EventKind::Guard, format!("THE GUARD MAY BE DOWN: {fault}")).failed()
}
