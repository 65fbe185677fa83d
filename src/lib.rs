//! toctoc hides network services until somebody who may enter knocks.
//!
//! The house on one page. Floors, arrows only down:
//!
//! - [`core`]: pure functions and the chain of proofs (`Sealed` -> `Authentic` -> `Fresh` ->
//!   `Admission` -> `Grant`)
//! - [`keys`], [`config`]: the texts of keys and settings
//! - [`edge`]: sockets, files, the kernel's firewall, confinement
//! - [`app`]: the two processes of `toctocd`, the client `toctoc`, the admin's commands
//!
//! `ARCHITECTURE.md` says why; `tests/parts/house.rs` holds the arrows.

// No fuzz target looks at the command lines and processes, and half of the time to build one would
// go into them.
#[cfg(not(fuzzing))]
pub mod app;
pub mod config;
pub mod core;
pub mod edge;
pub mod keys;
