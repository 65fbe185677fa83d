//! toctoc hides network services until an authorized client knocks.
//!
//! The layers. Each may use only those above it in this list:
//!
//! - [`core`]: pure functions and the chain of proofs (`Decrypted` -> `Authentic` -> `Fresh` ->
//!   `Admission` -> `Grant`)
//! - [`keys`], [`config`]: the text formats of keys and settings
//! - [`edge`]: sockets, files, the kernel's firewall, confinement
//! - [`app`]: the two processes of `toctocd`, the client `toctoc`, the admin's commands
//!
//! Without a feature there are only `core` and `keys`. See `ARCHITECTURE.md` for the reasons.
//! `tests/parts/house.rs` enforces the layers.

// No fuzz target uses the command lines and processes: leaving them out halves its build time.
#[cfg(all(feature = "programs", not(fuzzing)))]
pub mod app;
#[cfg(feature = "programs")]
pub mod config;
pub mod core;
#[cfg(feature = "programs")]
pub mod edge;
pub mod keys;
