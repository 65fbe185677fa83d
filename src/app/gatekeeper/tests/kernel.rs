//! A kernel with one firewall table: it keeps elements until their time is over, refuses when it is
//! told to, and loses the table when somebody deletes it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;

use crate::core::grants::{Change, Element, Flow};
use crate::core::service::GrantKind;
use crate::core::types::{Boot, Fault, Now, SECOND};
use crate::edge::firewall::{Firewall, GuardReport, GuardRules, GuardTask};

/// How a batch of changes goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Refusal {
    /// Nothing of it is done.
    Whole,
    /// Half of it is done.
    Half,
}

/// The kernel's side.
pub(super) struct Kernel {
    clock: Rc<Cell<Now>>,
    /// The nanoseconds that the machine slept: timeouts do not count them.
    slept: u64,
    elements: BTreeMap<Element, Boot>,
    /// Our table is there.
    pub(super) table: bool,
    /// Its rules are as they were loaded.
    pub(super) sound: bool,
    /// Connections that were let in.
    pub(super) flows: Vec<Flow>,
    /// Elements whose connections were cut, in order.
    pub(super) cut: Vec<Element>,
    /// How the next batch is refused.
    pub(super) refuses: Option<Refusal>,
    /// Connections wait for elements for one connection, and use each up as soon as it is set.
    pub(super) wins_at_once: bool,
    /// Tables with a guard that no gateway keeps.
    pub(super) others: Vec<String>,
    /// How often all elements were listed for a repair.
    pub(super) repairs: usize,
    /// How often the rules were loaded.
    pub(super) loads: usize,
    /// The end of the trial that the rules were loaded with.
    pub(super) trial: Option<Boot>,
}

/// What the gatekeeper holds of the kernel.
pub(super) struct Link(pub(super) Rc<RefCell<Kernel>>);

impl Kernel {
    pub(super) fn new(clock: &Rc<Cell<Now>>) -> Kernel {
        Kernel {
            clock: Rc::clone(clock),
            slept: 0,
            elements: BTreeMap::new(),
            table: true,
            sound: true,
            flows: Vec::new(),
            cut: Vec::new(),
            refuses: None,
            wins_at_once: false,
            others: Vec::new(),
            repairs: 0,
            loads: 0,
            trial: None,
        }
    }

    /// The time of its timeouts.
    fn now(&self) -> Boot {
        Boot(self.clock.get().boot.0.saturating_sub(self.slept))
    }

    /// The machine sleeps for the seconds that pass next.
    pub(super) fn sleep(&mut self, seconds: u64) {
        self.slept += seconds * SECOND;
    }

    /// The one connection of a grant for this address comes.
    pub(super) fn win(&mut self, address: IpAddr) {
        let is_his =
            |element: &Element| element.form == GrantKind::Once && element.source.ip() == address;
        self.elements.retain(|element, _| !is_his(element));
    }

    /// The elements whose time is not over, with what they have left.
    pub(super) fn live(&self) -> Vec<(Element, u64)> {
        let left = |until: &Boot| until.0.saturating_sub(self.now().0) / 1_000_000;
        let all = self.elements.iter().map(|(element, until)| (*element, left(until)));
        all.filter(|(_, left)| *left > 0).collect()
    }

    pub(super) fn has(&self, element: &Element) -> bool {
        self.live().iter().any(|(other, _)| other == element)
    }

    /// Somebody deletes our table.
    pub(super) fn delete(&mut self) {
        self.table = false;
        self.trial = None;
        self.elements.clear();
    }

    /// Whoever has no grant gets in.
    pub(super) fn is_open(&self) -> bool {
        !self.table || self.trial.is_some_and(|until| until <= self.clock.get().boot)
    }

    /// Somebody flushes the elements and leaves the rules.
    pub(super) fn flush(&mut self) {
        self.elements.clear();
    }

    /// An element that no grant of ours stands for.
    pub(super) fn intrude(&mut self, element: Element) {
        self.elements.insert(element, self.now().plus(1000));
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::Set { element, millis } => {
                let until = self.now().plus_nanos(millis * 1_000_000);
                if !(self.wins_at_once && element.form == GrantKind::Once) {
                    self.elements.insert(*element, until);
                }
            }
            Change::Shorten { element, millis } => {
                let until = self.now().plus_nanos(millis * 1_000_000);
                if self.has(element) {
                    self.elements.insert(*element, until);
                }
            }
            Change::Remove { element } => {
                self.elements.remove(element);
            }
            Change::Cut { .. } => {}
        }
    }

    /// Does a task of the guard as nft would.
    pub(super) fn run(&mut self, task: &GuardTask) -> Result<GuardReport, Fault> {
        Ok(match task {
            GuardTask::Load(rules) => {
                self.trial = rules.trial;
                self.load(true)
            }
            GuardTask::Repair => {
                self.repairs += 1;
                self.load(!self.table || !self.sound)
            }
            GuardTask::Check => GuardReport::Checked {
                sound: self.table && self.sound,
                others: self.others.clone(),
            },
            GuardTask::Unload => {
                self.delete();
                GuardReport::Unloaded
            }
            GuardTask::Standing(elements) => {
                let stands =
                    |element: &&Element| self.flows.iter().any(|flow| element.lets_in(flow));
                GuardReport::Standing(elements.iter().filter(stands).copied().collect())
            }
            GuardTask::Cut(elements) => {
                self.cut.extend(elements);
                self.flows.retain(|flow| !elements.iter().any(|element| element.lets_in(flow)));
                GuardReport::Cut
            }
            GuardTask::Verify(_) => GuardReport::Verified,
        })
    }

    fn load(&mut self, needed: bool) -> GuardReport {
        self.loads += usize::from(needed);
        self.table = true;
        self.sound = true;
        GuardReport::Loaded { reloaded: needed, elements: self.live().into_iter().collect() }
    }
}

fn no_table() -> Fault {
    Fault::new("there is no such table", "load it")
}

impl Firewall for Link {
    fn apply(&mut self, changes: &[Change]) -> Result<(), Fault> {
        let mut kernel = self.0.borrow_mut();
        let done = match kernel.refuses.take() {
            _ if !kernel.table => 0,
            Some(Refusal::Whole) => 0,
            Some(Refusal::Half) => changes.len() / 2,
            None => changes.len(),
        };
        for change in &changes[..done] {
            kernel.change(change);
        }
        if done < changes.len() { Err(no_table()) } else { Ok(()) }
    }

    fn remaining(&mut self, element: &Element) -> Result<Option<u64>, Fault> {
        let kernel = self.0.borrow();
        let live = kernel.live().into_iter().find(|(other, _)| other == element);
        if kernel.table { Ok(live.map(|(_, left)| left)) } else { Err(no_table()) }
    }

    fn is_there(&mut self) -> Result<bool, Fault> {
        Ok(self.0.borrow().table)
    }

    fn use_rules(&mut self, _: &GuardRules) {}
}
