//! The list of live grants, and the kernel elements that it amounts to.
//! Who may have one is left to `policy`, putting elements into the kernel to `edge::firewall`.

use super::service::Form;
use super::types::{Port, Source};

/// One element of a kernel set: who may reach what, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Element {
    /// Who.
    pub source: Source,
    /// What.
    pub port: Port,
    /// Any number of connections, or one.
    pub form: Form,
}

/// What is to be done to the kernel's sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The element is there for this long from now on, whatever it had before.
    Set {
        /// Which.
        element: Element,
        /// For how long.
        millis: u64,
    },
    /// The element is gone.
    Remove {
        /// Which.
        element: Element,
    },
}
