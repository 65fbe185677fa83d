//! What the state file holds, one fixed-size record each.
//! Checksums, files and syncs are left to `edge::state`.
