//! The firewall: our table, its guard, the elements that grants are, and the connections that came
//! in under them. Which grants there are is left to `core::grants`.

mod adopt;
pub mod advice;
mod conntrack;
mod elements;
mod live;
mod loaded_ruleset;
mod netlink;
mod nft;
pub mod packet_trace;
pub mod ruleset;
pub mod ruleset_snapshot;
mod table_claim;
mod tracked;
mod watch;

pub use adopt::adopt;
pub use live::{GuardState, NftFirewall, look_at, print_ruleset, unload};
pub use tracked::Connection;
pub use watch::TableChange;

use crate::core::grants::{Change, Element, Flow};
use crate::core::service::GrantKind;
use crate::core::types::Fault;

/// What the gatekeeper asks of a firewall. After a fault of a change, what was asked for may or may
/// not hold: `restore` settles it.
pub trait Firewall {
    /// Makes `changes` hold, in order: `Set` replaces whatever time the element had and arms a
    /// one-connection element anew; `Remove` of a missing element is no fault. Up to 100 changes
    /// succeed or fail together. 0 milliseconds removes. Cuts come last, and are made whatever
    /// became of the rest.
    fn apply(&mut self, changes: &[Change]) -> Result<(), Fault>;

    /// What is live in the kernel with the milliseconds it has left. A spent one-connection element
    /// is not.
    fn list(&mut self) -> Result<Vec<(Element, u64)>, Fault>;

    /// The milliseconds that one element has left; `None` if it is not live.
    fn remaining(&mut self, element: &Element) -> Result<Option<u64>, Fault>;

    /// The connections that the guard let in and that stand.
    fn flows(&mut self) -> Result<Vec<Flow>, Fault>;

    /// Whether the guard stands exactly as we loaded it: table, chains, sets, rules.
    fn guard_is_up(&mut self) -> Result<bool, Fault>;

    /// Loads the guard if it is not up, and makes the kernel hold the `Set`s of `live` and nothing
    /// else. For a start, a reload, and after somebody else's change. A one-connection element that
    /// is missing stays missing: it may have been spent.
    fn restore(&mut self, live: &[Change]) -> Result<Repair, Fault>;
}

/// What a restore had to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repair {
    /// The guard was not up and was loaded again.
    pub reloaded: bool,
    /// Grants that were missing and are back.
    pub put_back: usize,
    /// Elements that no grant stood for, taken out.
    pub removed: usize,
}

/// A firewall for tests: it remembers what it was told.
#[derive(Debug, Default)]
pub struct Recording {
    /// Every change that was applied, oldest first.
    pub changes: Vec<Change>,
    /// What is live, as (element, milliseconds as last set): time stands still here.
    pub live: Vec<(Element, u64)>,
    /// The connections that stand.
    pub flows: Vec<Flow>,
    /// Whether the guard was taken away.
    pub down: bool,
    /// Given to every call while it is there.
    pub fault: Option<Fault>,
}

impl Recording {
    fn check(&self) -> Result<(), Fault> {
        self.fault.clone().map_or(Ok(()), Err)
    }

    fn take(&mut self, change: &Change) {
        let (element, millis) = match change {
            Change::Set { element, millis } => (*element, *millis),
            Change::Shorten { element, millis }
                if self.live.iter().any(|(other, _)| other == element) =>
            {
                (*element, *millis)
            }
            Change::Remove { element } => (*element, 0),
            Change::Cut { element } => return self.flows.retain(|flow| !element.lets_in(flow)),
            Change::Shorten { .. } => return,
        };
        self.live.retain(|(other, _)| *other != element);
        if millis > 0 {
            self.live.push((element, millis));
        }
    }
}

impl Firewall for Recording {
    fn apply(&mut self, changes: &[Change]) -> Result<(), Fault> {
        self.check()?;
        for change in changes {
            self.take(change);
        }
        self.changes.extend(changes.iter().copied());
        Ok(())
    }

    fn list(&mut self) -> Result<Vec<(Element, u64)>, Fault> {
        self.check()?;
        Ok(self.live.clone())
    }

    fn remaining(&mut self, element: &Element) -> Result<Option<u64>, Fault> {
        self.check()?;
        Ok(self.live.iter().find(|(other, _)| other == element).map(|(_, millis)| *millis))
    }

    fn flows(&mut self) -> Result<Vec<Flow>, Fault> {
        self.check()?;
        Ok(self.flows.clone())
    }

    fn guard_is_up(&mut self) -> Result<bool, Fault> {
        self.check()?;
        Ok(!self.down)
    }

    fn restore(&mut self, live: &[Change]) -> Result<Repair, Fault> {
        self.check()?;
        let (before, reloaded) = (std::mem::take(&mut self.live), std::mem::take(&mut self.down));
        let missing =
            |list: &[(Element, u64)], element| !list.iter().any(|(other, _)| *other == element);
        for change in live {
            let stays_missing = |e: &Element| e.form == GrantKind::Once && missing(&before, *e);
            if !matches!(change, Change::Set { element, .. } if stays_missing(element)) {
                self.take(change);
            }
        }
        Ok(Repair {
            reloaded,
            put_back: self.live.iter().filter(|(element, _)| missing(&before, *element)).count(),
            removed: before.iter().filter(|(element, _)| missing(&self.live, *element)).count(),
        })
    }
}
