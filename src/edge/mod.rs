//! Where the house meets the kernel and the disk.
//! What should be done there is left to `core` and `app`.

#[cfg(target_os = "linux")]
pub mod addresses;
#[cfg(target_os = "linux")]
pub mod bpf;
#[cfg(target_os = "linux")]
pub mod capture;
pub mod clock;
#[cfg(target_os = "linux")]
pub mod command;
#[cfg(target_os = "linux")]
pub mod confine;
#[cfg(target_os = "linux")]
pub mod control;
pub mod entropy;
pub mod files;
#[cfg(target_os = "linux")]
pub mod firewall;
#[cfg(target_os = "linux")]
pub mod gatekeeper_pipe;
pub mod hit;
pub mod log;
pub mod names;
#[cfg(target_os = "linux")]
pub mod one_time;
#[cfg(target_os = "linux")]
pub mod raw;
pub mod send;
#[cfg(target_os = "linux")]
pub mod state;
#[cfg(target_os = "linux")]
pub mod sys;
pub mod terminal;
