//! The processes and the command lines.

#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod admin;
pub mod args;
pub mod audit;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod check;
pub mod client;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod close;
pub mod compat;
pub mod complete;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod daemon;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod event_log;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod explain;
#[cfg(all(target_os = "linux", feature = "gateway"))]
mod finding;
#[cfg(all(target_os = "linux", feature = "gateway"))]
mod foreseen;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod gatekeeper;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod guard;
#[cfg(all(target_os = "linux", feature = "gateway"))]
mod interfaces;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod joined;
pub mod knock;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod listener;
#[cfg(all(target_os = "linux", feature = "gateway"))]
mod listener_process;
#[cfg(all(target_os = "linux", feature = "gateway"))]
mod listener_user;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod load;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod metrics;
pub mod output;
#[cfg(all(target_os = "linux", feature = "gateway"))]
mod own_firewall;
pub mod paths;
#[cfg(all(target_os = "linux", feature = "gateway"))]
mod prepare;
#[cfg(all(target_os = "linux", feature = "gateway"))]
mod printed_guard;
#[cfg(all(target_os = "linux", feature = "gateway"))]
mod programs;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod provision;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod top;
#[cfg(all(target_os = "linux", feature = "gateway"))]
mod traced;
#[cfg(all(target_os = "linux", feature = "gateway"))]
mod unit;
mod waiting;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod warnings;
