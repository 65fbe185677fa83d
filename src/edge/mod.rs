//! All contact with the kernel and the disk. See `core` and `app` for the decisions.

// Modules that no fuzz target reaches are left out of the fuzz build, with the crates they need.

#[cfg(all(target_os = "linux", feature = "gateway", not(fuzzing)))]
pub mod addresses;
#[cfg(feature = "client")]
pub mod agent;
#[cfg(all(target_os = "linux", feature = "gateway", not(fuzzing)))]
pub mod background;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod bpf;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod capture;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod classic_log;
pub mod clock;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod command;
#[cfg(all(target_os = "linux", feature = "gateway", not(fuzzing)))]
pub mod confine;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod control;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod ebpf;
pub mod entropy;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod event_loop;
pub mod files;
#[cfg(all(target_os = "linux", feature = "gateway", not(fuzzing)))]
pub mod firewall;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod first_process;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod gatekeeper_pipe;
#[cfg(all(target_os = "linux", feature = "gateway", not(fuzzing)))]
pub mod hooks;
pub mod interrupt;
pub mod knock_packet;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod link;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod listening;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod log;
pub mod names;
#[cfg(all(target_os = "linux", feature = "gateway", not(fuzzing)))]
pub mod neighbours;
#[cfg(all(target_os = "linux", feature = "gateway", not(fuzzing)))]
pub mod netspace;
#[cfg(all(target_os = "linux", feature = "gateway", not(fuzzing)))]
pub mod network_watch;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod one_time;
#[cfg(all(target_os = "linux", feature = "gateway", not(fuzzing)))]
pub mod pidfd;
#[cfg(all(target_os = "linux", feature = "gateway", not(fuzzing)))]
pub mod probe;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod proc_net;
pub mod program;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod raw;
#[cfg(all(target_os = "linux", feature = "gateway", not(fuzzing)))]
pub mod responder;
#[cfg(all(target_os = "linux", feature = "gateway", not(fuzzing)))]
pub mod routes;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod runner_pipe;
#[cfg(feature = "client")]
pub mod scan;
#[cfg(all(target_os = "linux", feature = "gateway", not(fuzzing)))]
pub mod scrapes;
#[cfg(all(target_os = "linux", feature = "gateway", not(fuzzing)))]
pub mod screen;
pub mod send;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod service_manager;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod service_talk;
#[cfg(feature = "client")]
pub mod signs_of_life;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod socket_failure;
#[cfg(feature = "client")]
pub mod ssh_keygen;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod state;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod sys;
#[cfg(windows)]
#[path = "sys/windows.rs"]
pub mod sys;
pub mod tcp;
pub mod terminal;
#[cfg(all(target_os = "linux", feature = "gateway", not(fuzzing)))]
pub mod twin;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod worker;
#[cfg(all(target_os = "linux", feature = "gateway", not(fuzzing)))]
pub mod xdp;
pub mod zones;
