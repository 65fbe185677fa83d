//! All contact with the kernel and the disk. See `core` and `app` for the decisions.

// Modules that no fuzz target reaches are left out of the fuzz build, with the crates they need.

#[cfg(all(target_os = "linux", not(fuzzing)))]
pub mod addresses;
#[cfg(target_os = "linux")]
pub mod bpf;
#[cfg(target_os = "linux")]
pub mod capture;
#[cfg(target_os = "linux")]
pub mod classic_log;
pub mod clock;
#[cfg(target_os = "linux")]
pub mod command;
#[cfg(all(target_os = "linux", not(fuzzing)))]
pub mod confine;
#[cfg(target_os = "linux")]
pub mod control;
pub mod entropy;
pub mod files;
#[cfg(all(target_os = "linux", not(fuzzing)))]
pub mod firewall;
#[cfg(target_os = "linux")]
pub mod gatekeeper_pipe;
pub mod knock_packet;
#[cfg(target_os = "linux")]
pub mod link;
#[cfg(all(target_os = "linux", not(fuzzing)))]
pub mod log;
pub mod names;
#[cfg(target_os = "linux")]
pub mod one_time;
#[cfg(target_os = "linux")]
pub mod proc_net;
#[cfg(target_os = "linux")]
pub mod raw;
#[cfg(target_os = "linux")]
pub mod runner_pipe;
pub mod send;
#[cfg(target_os = "linux")]
pub mod service_manager;
#[cfg(target_os = "linux")]
pub mod state;
#[cfg(target_os = "linux")]
pub mod sys;
pub mod terminal;
#[cfg(all(target_os = "linux", not(fuzzing)))]
pub mod worker;
