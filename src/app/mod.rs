//! The processes and the command lines.
//! Per-packet policy is left to `core`.

#[cfg(unix)]
pub mod admin;
pub mod args;
pub mod client;
pub mod compat;
#[cfg(target_os = "linux")]
pub mod daemon;
#[cfg(target_os = "linux")]
pub mod gatekeeper;
#[cfg(target_os = "linux")]
pub mod guard;
#[cfg(target_os = "linux")]
mod interfaces;
pub mod knock;
#[cfg(target_os = "linux")]
pub mod listener;
#[cfg(target_os = "linux")]
mod listener_process;
#[cfg(target_os = "linux")]
mod listener_user;
#[cfg(unix)]
pub mod load;
pub mod paths;
#[cfg(target_os = "linux")]
mod prepare;
#[cfg(unix)]
pub mod provision;
#[cfg(unix)]
pub mod warnings;
