//! The guard's trial, as the kernel keeps it: a set whose elements end with the trial, and a rule
//! that lets everything through without them. So nobody is locked out, whatever happens to the
//! gateway and to the admin's terminal. See `app::gatekeeper::trial` for what ends a trial earlier.
//!
//! A ruleset that is saved during a trial and loaded at another boot must open nothing. The kernel
//! counts the time of its elements anew, and no rule can know the boot. So the set has the time of
//! its boot in its name: toctocd knows none but its own, and removes others. And the rule opens for
//! an hour only, by the wall clock: that is for a boot at which toctocd does not start.

use crate::core::types::{Boot, Now, SECOND};
use crate::edge::clock;

/// Seconds for which a guard opens after its trial if no gateway lives that could turn it off.
const LEFT_OPEN: u64 = 3600;
/// Seconds by which the time of a boot may move, as the wall clock is adjusted. A container may
/// start again within a few more. If the clock is set during a trial, a gateway that starts takes
/// it for none, and the guard stays.
const SLACK: u64 = 2;

const MILLISECOND: u64 = 1_000_000;

/// No service's set has a name without `/`.
const PREFIX: &str = "trial-";

/// True if a trial of this boot has this set. The boot id would not do: within a container a unit
/// may see another one than the admin.
pub(in crate::edge::firewall) fn is_set_of_this_boot(name: &str) -> bool {
    match name.strip_prefix(PREFIX).and_then(|start| start.parse::<u64>().ok()) {
        Some(start) => start.abs_diff(clock::start_of_machine(clock::now())) <= SLACK,
        None => false,
    }
}

/// A trial in the text of the guard.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TrialText {
    /// The set of the protocols that the guard looks at.
    pub(super) set: String,
    until: Boot,
    /// The wall clock in seconds at which the guard closes again; `None` if the trial is over, and
    /// a gateway lives that leaves the guard off.
    closes: Option<u64>,
}

impl TrialText {
    pub(super) fn new(until: Boot, now: Now) -> TrialText {
        let left = until.0.saturating_sub(now.boot.0);
        let closes = (now.wall.0.saturating_add(left) / SECOND).saturating_add(LEFT_OPEN);
        let set = format!("{PREFIX}{}", clock::start_of_machine(now));
        TrialText { set, until, closes: (left > 0).then_some(closes) }
    }

    pub(super) fn set(&self) -> String {
        format!("set {} {{ type inet_proto; flags timeout; }}", self.set)
    }

    /// The first rule of each look. An ended trial leaves the set empty.
    pub(super) fn rule(&self) -> String {
        let while_open =
            self.closes.map(|closes| format!("meta time < {closes} ")).unwrap_or_default();
        format!("meta l4proto != @{} {while_open}accept comment \"the trial is over\"", self.set)
    }

    /// The elements for the rest of the trial, in the same transaction as the rules; none after its
    /// end. They are flushed first: an element that exists may keep its old time.
    pub(super) fn elements(&self, table: &str, now: Boot) -> String {
        let set = format!("inet {table} {}", self.set);
        let flush = format!("flush set {set}\n");
        match self.until.0.saturating_sub(now.0) / MILLISECOND {
            // To nft a timeout of 0 means forever.
            0 => flush,
            left => {
                let timeout = format!("timeout {left}ms");
                format!("{flush}add element {set} {{ tcp {timeout}, udp {timeout} }}\n")
            }
        }
    }
}
