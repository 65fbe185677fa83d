//! The trial of the guard: it stays only if somebody gets in from another machine in time.
//!
//! The kernel has the deadline too (`edge::firewall::trial`): the guard opens even if this process
//! does not live to see it. A process that starts during the trial, or after one that nobody
//! confirmed, goes on with what it finds in the kernel. A reboot ends every trial.

use super::Gatekeeper;
use crate::app::admin::TrialState;
use crate::core::event::EventKind;
use crate::core::types::{Boot, Fault, Now, SECOND, ServiceName};
use crate::edge::firewall::GuardReport;
use crate::edge::log::LogEvent;

#[derive(Default)]
pub(super) struct Trial {
    /// The end of the trial, as the guard in the kernel has it.
    until: Option<Boot>,
    /// True while the work that ends it is queued or runs.
    is_ending: bool,
    /// The reason why the last grant has not confirmed it.
    useless: Option<String>,
    /// The end of the last one.
    outcome: Option<TrialOutcome>,
}

/// A grant to another machine.
#[derive(Clone)]
pub(super) struct TrialGrant {
    /// Client, service and address, as text for people.
    pub(super) by: String,
    pub(super) service: ServiceName,
    pub(super) v6: bool,
}

enum TrialOutcome {
    /// The grant that has shown that remote access works, as text for people.
    Confirmed(String),
    Over,
}

/// What turning the guard on does to the trial.
#[derive(Clone, Copy)]
pub(super) enum TrialChange {
    /// A trial that is under way goes on.
    Keep,
    /// The guard stays, whoever gets in.
    End,
    Until(Boot),
}

impl TrialChange {
    /// The change that an admin asks for with `--confirm SECONDS`.
    pub(super) fn asked(now: Now, confirm: Option<u32>) -> TrialChange {
        match confirm {
            None => TrialChange::Keep,
            Some(0) => TrialChange::End,
            Some(seconds) => TrialChange::Until(now.boot.plus(seconds)),
        }
    }
}

impl Trial {
    /// The trial of a guard that was loaded with this end of one; a past end means that its time is
    /// over.
    pub(super) fn of(now: Now, until: Option<Boot>) -> Trial {
        match until {
            Some(until) if until <= now.boot => {
                Trial { outcome: Some(TrialOutcome::Over), ..Trial::default() }
            }
            until => Trial { until, ..Trial::default() },
        }
    }

    /// The end of the trial under way.
    pub(super) fn until(&self) -> Option<Boot> {
        self.until
    }

    /// The end of the trial after this change.
    pub(super) fn changed(&self, change: TrialChange) -> Option<Boot> {
        match change {
            TrialChange::Keep => self.until,
            TrialChange::End => None,
            TrialChange::Until(until) => Some(until),
        }
    }

    pub(super) fn deadline(&self) -> Option<Boot> {
        self.until.filter(|_| !self.is_ending)
    }

    /// True if its time is over and nobody got in.
    pub(super) fn is_due(&self, now: Now) -> bool {
        self.until.is_some_and(|until| until <= now.boot)
    }

    /// True if nobody got in during the last trial, and the guard has been off since.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.outcome, Some(TrialOutcome::Over))
    }

    pub(super) fn state(&self, now: Now) -> TrialState {
        match (&self.outcome, self.until) {
            (_, Some(until)) => {
                let left = until.0.saturating_sub(now.boot.0).div_ceil(SECOND);
                TrialState::Running { seconds_left: left, useless: self.useless.clone() }
            }
            (Some(TrialOutcome::Confirmed(by)), None) => TrialState::Confirmed { by: by.clone() },
            (Some(TrialOutcome::Over), None) => TrialState::Over,
            (None, None) => TrialState::None,
        }
    }
}

impl Gatekeeper {
    /// Ends the trial once its time is over.
    pub(super) fn end_due_trial(&mut self, now: Now) {
        if !self.trial.is_ending && self.trial.is_due(now) {
            self.trial.is_ending = true;
            self.guard.want_end_of_trial();
        }
    }

    /// Has a grant looked at that may confirm the trial under way.
    pub(super) fn confirm_trial(&mut self, grant: TrialGrant) {
        if self.trial.deadline().is_some() {
            self.guard.want_look(grant);
        }
    }

    /// Handles what was found about a grant: one that this machine's own firewall makes useless
    /// shows no way in.
    pub(super) fn grant_looked_at(&mut self, found: Result<Option<String>, Fault>) {
        let Some(grant) = self.guard.take_looked_at() else { return };
        let Ok(Some(why)) = found else { return self.guard.want_confirmation(grant.by) };
        self.out.log(
            EventKind::Guard,
            format!("the trial goes on: {} got a grant, but {why}", grant.by),
        );
        self.trial.useless = Some(why);
    }

    /// Takes note that the guard in the kernel has no deadline any more.
    pub(super) fn trial_confirmed(&mut self, by: String) {
        self.out.log(EventKind::Guard, format!("the guard stays: its trial is confirmed by {by}"));
        self.trial = Trial { outcome: Some(TrialOutcome::Confirmed(by)), ..Trial::default() };
    }

    /// Handles the end of the trial's time. The kernel lets everything through by now, also if that
    /// could not be loaded.
    pub(super) fn trial_over(&mut self, now: Now, result: &Result<GuardReport, Fault>) {
        if !self.trial.is_due(now) {
            return;
        }
        if let Err(fault) = result {
            let text = format!(
                "the end of the trial could not be loaded, so the guard closes again in an hour: \
                 {fault}"
            );
            self.out.tell(LogEvent::new(EventKind::Guard, text).failed());
        }
        self.trial = Trial { outcome: Some(TrialOutcome::Over), ..Trial::default() };
        self.guard.turned_off();
        self.out.tell(nobody_got_in());
        self.answer_status(now, false);
    }

    /// The line of the log about a trial that the gateway starts with.
    pub(super) fn announce_trial(&mut self, now: Now) {
        match self.trial.state(now) {
            TrialState::Running { seconds_left, .. } => {
                self.out.log(EventKind::Guard, format!("the guard is {}", on_trial(seconds_left)));
            }
            TrialState::Over => self.out.tell(nobody_got_in()),
            TrialState::None | TrialState::Confirmed { .. } => {}
        }
    }
}

fn nobody_got_in() -> LogEvent {
    LogEvent::new(EventKind::Guard, NOBODY_GOT_IN).failed()
}

/// What follows from a trial under way.
pub(super) fn on_trial(seconds: u64) -> String {
    format!(
        "on trial for {seconds} s: it turns itself off unless another machine gets a grant by then"
    )
}

const NOBODY_GOT_IN: &str = "THE GUARD IS OFF: nobody got in from another machine during its \
    trial; what it guards is OPEN until `toctocd guard on`";
