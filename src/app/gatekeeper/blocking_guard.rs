//! Both halves of the firewall, one after the other: every task is done in the loop, which waits.

use std::os::fd::{AsFd, BorrowedFd};

use crate::config::{FirewallSettings, KnockSettings};
use crate::core::grants::{Change, Element, Flow};
use crate::core::service::Service;
use crate::core::types::Fault;
use crate::edge::firewall::{
    Firewall, GuardReport, GuardRules, GuardTask, Started, TableChange, reconcile, start,
};

/// What a repair had to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Repair {
    pub(super) reloaded: bool,
    pub(super) put_back: usize,
    pub(super) removed: usize,
}

pub(super) struct BlockingGuard {
    started: Started,
    rules: GuardRules,
    disabled: bool,
}

impl BlockingGuard {
    pub(super) fn start(
        settings: &FirewallSettings,
        services: &[Service],
        knock: &KnockSettings,
    ) -> Result<BlockingGuard, Fault> {
        let (firewall, services) = (settings.clone(), services.to_vec());
        let rules = GuardRules { firewall, services, knock: knock.clone() };
        Ok(BlockingGuard { started: start(&rules)?, rules, disabled: false })
    }

    pub(super) fn reload(
        &mut self,
        settings: &FirewallSettings,
        services: &[Service],
        knock: &KnockSettings,
    ) -> Result<(), Fault> {
        let (firewall, services) = (settings.clone(), services.to_vec());
        let rules = GuardRules { firewall, services, knock: knock.clone() };
        match self.disabled {
            true => self.started.guard.run(GuardTask::Verify(rules.clone()))?,
            false => self.started.guard.run(GuardTask::Load(rules.clone()))?,
        };
        self.rules = rules;
        self.started.link.use_settings(settings);
        Ok(())
    }

    pub(super) fn disable(&mut self) -> Result<(), Fault> {
        self.started.guard.run(GuardTask::Unload)?;
        self.disabled = true;
        Ok(())
    }

    pub(super) fn enable(&mut self) -> Result<(), Fault> {
        self.started.guard.run(GuardTask::Load(self.rules.clone()))?;
        self.disabled = false;
        Ok(())
    }

    pub(super) fn is_disabled(&self) -> bool {
        self.disabled
    }

    pub(super) fn watch_fd(&self) -> BorrowedFd<'_> {
        self.started.watch.as_fd()
    }

    pub(super) fn take_changes(&mut self) -> Vec<TableChange> {
        self.started.watch.foreign_changes()
    }

    pub(super) fn apply(&mut self, changes: &[Change]) -> Result<(), Fault> {
        let mut cuts = Vec::new();
        for change in changes {
            match change {
                Change::Set { .. } if self.disabled => {
                    let what = "the guard is off: there is nothing to grant";
                    return Err(Fault::new(what, "`toctocd guard on` puts it up"));
                }
                Change::Cut { element } => cuts.push(*element),
                _ => {}
            }
        }
        let applied = match self.disabled {
            true => Ok(()),
            false => self.started.link.apply(changes),
        };
        if !cuts.is_empty() {
            let cut = self.started.link.cut(&cuts);
            return applied.and(cut);
        }
        applied
    }

    pub(super) fn remaining(&mut self, element: &Element) -> Result<Option<u64>, Fault> {
        self.started.link.remaining(element)
    }

    pub(super) fn is_there(&mut self) -> bool {
        self.disabled || self.started.link.is_there().unwrap_or(false)
    }

    pub(super) fn flows(&mut self) -> Result<Vec<Flow>, Fault> {
        match self.started.guard.run(GuardTask::Flows)? {
            GuardReport::Flows(flows) => Ok(flows),
            _ => Ok(Vec::new()),
        }
    }

    pub(super) fn guard_is_up(&mut self) -> Result<bool, Fault> {
        let report = self.started.guard.run(GuardTask::Check)?;
        Ok(report == GuardReport::Checked { sound: true })
    }

    pub(super) fn restore(&mut self, expected: &[Change]) -> Result<Repair, Fault> {
        if self.disabled {
            return Ok(Repair::default());
        }
        let report = self.started.guard.run(GuardTask::Repair)?;
        let GuardReport::Loaded { reloaded, elements } = report else {
            return Ok(Repair::default());
        };
        let changes = reconcile(&elements, expected);
        self.apply(&changes)?;
        let is_found = |wanted: &Element| elements.iter().any(|(element, _)| element == wanted);
        let is_back = |c: &&Change| matches!(c, Change::Set { element, .. } if !is_found(element));
        let is_gone = |c: &&Change| matches!(c, Change::Remove { .. });
        let put_back = changes.iter().filter(is_back).count();
        Ok(Repair { reloaded, put_back, removed: changes.iter().filter(is_gone).count() })
    }
}
