//! The firewall: our table, its guard, and the elements that grants are.
//! Which grants there are is left to `core::grants`.
