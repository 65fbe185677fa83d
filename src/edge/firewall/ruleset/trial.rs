//! The guard's trial, as the kernel keeps it: a set whose elements end with the trial, and a rule
//! that lets everything through without them. So nobody is locked out, whatever happens to the
//! gateway and to the admin's terminal. See `app::gatekeeper::trial` for what ends a trial earlier.

use crate::core::types::Boot;

/// The set of the protocols that the guard looks at. No service's set has a name without `/`.
pub(in crate::edge::firewall) const TRIAL: &str = "trial";

const MILLISECOND: u64 = 1_000_000;

pub(super) fn set() -> String {
    format!("set {TRIAL} {{ type inet_proto; flags timeout; }}")
}

/// The first rule of each look. An ended trial leaves the set empty.
pub(super) fn rule() -> String {
    format!("meta l4proto != @{TRIAL} accept comment \"the trial is over\"")
}

/// The elements for the rest of a trial until `until`, in the same transaction as the rules; none
/// after its end. They are flushed first: an element that exists may keep its old time.
pub(super) fn elements(table: &str, until: Boot, now: Boot) -> String {
    let set = format!("inet {table} {TRIAL}");
    let flush = format!("flush set {set}\n");
    match until.0.saturating_sub(now.0) / MILLISECOND {
        // To nft a timeout of 0 means forever.
        0 => flush,
        left => {
            format!("{flush}add element {set} {{ tcp timeout {left}ms, udp timeout {left}ms }}\n")
        }
    }
}
