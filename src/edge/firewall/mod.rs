//! The firewall: our table, the grants as its elements, and their connections. See `core::grants`.

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
pub use live::{
    GuardState, NftGuard, NftLink, Started, look_at, print_ruleset, reconcile, start, unload,
};
pub use tracked::Connection;
pub use watch::{TableChange, TableWatch};

use crate::config::{self, KnockSettings};
use crate::core::grants::{Change, Element, Flow};
use crate::core::service::Service;
use crate::core::types::Fault;

/// The half of a firewall that the poll loop calls: none of it waits for another process. After a
/// fault of a change, what was asked for may or may not hold: a [`GuardTask::Repair`] tells.
pub trait Firewall {
    /// Makes `changes` hold, in order: `Set` replaces whatever time the element had and arms a
    /// one-connection element anew; `Remove` of a missing element is no fault. Up to 100 changes
    /// succeed or fail together. 0 milliseconds removes. Cuts are left out, see [`Firewall::cut`].
    fn apply(&mut self, changes: &[Change]) -> Result<(), Fault>;
    /// The milliseconds that one element has left; `None` if it is not live.
    fn remaining(&mut self, element: &Element) -> Result<Option<u64>, Fault>;

    /// Ends the connections that these elements could have let in. After the changes of elements,
    /// because a live element may let them go on.
    fn cut(&mut self, elements: &[Element]) -> Result<(), Fault>;
    /// True if our table is there, whatever is in it.
    fn is_there(&mut self) -> Result<bool, Fault>;
    /// Takes over the marks of settings that a [`GuardTask::Load`] has put in force.
    fn use_settings(&mut self, settings: &config::FirewallSettings);
}

#[derive(Clone, Debug, PartialEq)]
pub struct GuardRules {
    /// Table, marks, the nft program.
    pub firewall: config::FirewallSettings,
    /// Their ports are guarded.
    pub services: Vec<Service>,
    /// Its port is silent.
    pub knock: KnockSettings,
}

impl GuardRules {
    fn plan(&self) -> Result<ruleset::GuardPlan, Fault> {
        ruleset::GuardPlan::new(&self.firewall, &self.services, &self.knock)
    }
}

/// What is done beside the poll loop, because it runs the nft program or makes a long list.
#[derive(Clone, Debug, PartialEq)]
pub enum GuardTask {
    /// Load these rules in one transaction; elements stay. After a fault the old rules hold.
    Load(GuardRules),
    /// Refuse these rules if `Load` would refuse them before it changes anything.
    Verify(GuardRules),
    /// Load the rules again if the kernel has others than the last loaded; list the elements.
    Repair,
    /// Compare all rules with what was loaded last.
    Check,
    /// Take the guard away, with all elements.
    Unload,
    /// List the connections that the guard let in and that stand.
    Flows,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuardReport {
    /// Of `Load` and `Repair`.
    Loaded {
        /// False if all rules stood as they were loaded, so that nothing was done.
        reloaded: bool,
        /// The live elements afterwards with the milliseconds left; a spent one is not live.
        elements: Vec<(Element, u64)>,
    },
    Checked {
        /// True if the guard stands exactly as it was loaded.
        sound: bool,
    },
    Verified,
    Unloaded,
    Flows(Vec<Flow>),
}
