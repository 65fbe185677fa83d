//! `Fresh` -> `Admission` -> `Grant`: who may have what, and that nothing opens before its mark is durable.
//! The list of live grants is left to `grants`.
