//! The firewall: our table, grants as its elements, and their connections. See `core::grants` for
//! the grants.

mod adopt;
pub mod advice;
pub(super) mod attributes;
mod conntrack;
mod elements;
pub mod kernel_trace;
mod live;
mod loaded_ruleset;
mod netlink;
mod nft;
pub mod packet_trace;
pub mod rule_place;
pub mod ruleset;
pub mod ruleset_copy;
pub mod ruleset_snapshot;
mod table_claim;
mod tables;
mod tracked;
pub mod translations;
mod watch;

pub use adopt::adopt;
pub use live::{
    GuardState, NftGuard, NftLink, Started, change_without_gateway, is_there, keeper, look_at,
    print_ruleset, start, trial_under_way, unload,
};
pub use tracked::Connection;
pub use watch::{Heard, TableChange, TableWatch};

use std::collections::{BTreeMap, BTreeSet};

use crate::config::{self, KnockSettings, Settings};
use crate::core::grants::{Change, Element};
use crate::core::service::Service;
use crate::core::types::{Boot, Fault};

/// The half of a firewall that the poll loop calls; it never waits for another process. After a
/// failed change the outcome is unknown: run [`GuardTask::Repair`].
pub trait Firewall {
    /// Applies `changes` in order. `Set` replaces the remaining time and rearms a one-connection
    /// element; `Remove` of a missing element succeeds. 0 milliseconds removes. Up to 100 changes
    /// succeed or fail together. Ignores cuts, see [`GuardTask::Cut`].
    fn apply(&mut self, changes: &[Change]) -> Result<(), Fault>;
    /// The milliseconds that one element has left; `None` if it is not live.
    fn remaining(&mut self, element: &Element) -> Result<Option<u64>, Fault>;
    /// True if our table exists, whatever it contains.
    fn is_there(&mut self) -> Result<bool, Fault>;
    /// Follows the rules that [`GuardTask::Load`] has put into force: their sets.
    fn use_rules(&mut self, rules: &GuardRules);
}

#[derive(Clone, Debug, PartialEq)]
pub struct GuardRules {
    /// Table, marks, and the path of the nft program.
    pub firewall: config::FirewallSettings,
    pub services: Vec<Service>,
    /// The knock settings; the guard may keep the knock port silent.
    pub knock: KnockSettings,
    /// The end of the guard's trial: from then on it lets everything through. `None`: it stays.
    pub trial: Option<Boot>,
}

impl GuardRules {
    pub fn of(settings: &Settings) -> GuardRules {
        GuardRules {
            firewall: settings.firewall.clone(),
            services: settings.services.clone(),
            knock: settings.knock.clone(),
            trial: None,
        }
    }

    fn plan(&self) -> Result<ruleset::GuardPlan, Fault> {
        ruleset::GuardPlan::new(self)
    }
}

/// A task for another thread, because it runs the nft program or makes a long list.
#[derive(Clone, Debug, PartialEq)]
pub enum GuardTask {
    /// Load these rules in one transaction; elements stay. After a fault the old rules hold.
    Load(GuardRules),
    /// Fail if `Load` would refuse these rules before any change.
    Verify(GuardRules),
    /// Load the rules again if the kernel's differ from the last loaded ones. List the elements.
    Repair,
    /// Compare all rules with what was loaded last. Lists no element and runs no program.
    Check,
    Unload,
    /// Which of these elements let in a connection that is still open?
    Standing(BTreeSet<Element>),
    /// End the connections that these elements could have let in. Comes after the changes of
    /// elements: a live element may let them go on.
    Cut(BTreeSet<Element>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuardReport {
    /// The result of `Load` and `Repair`.
    Loaded {
        /// False if all rules were as loaded, so nothing was done.
        reloaded: bool,
        /// The live elements afterwards with the milliseconds left; a spent element is not live.
        elements: BTreeMap<Element, u64>,
    },
    Checked {
        /// True if the guard is exactly as loaded.
        sound: bool,
        /// Tables with a guard that no gateway keeps.
        others: Vec<String>,
    },
    Verified,
    Unloaded,
    /// Those of the elements asked for.
    Standing(BTreeSet<Element>),
    Cut,
}
