//! knockd.conf, read as knockd 0.8 reads it, with line numbers on every complaint.
//! What doors do is left to `core::sequence`.
