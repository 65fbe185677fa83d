//! Tests that need no network namespace: files, command lines, formats, and the rules of this
//! repository.
//!
//! One program, because each test program links the whole crate.

mod admin;
mod agent;
mod client;
mod client_mac;
mod client_user;
#[cfg(target_os = "linux")]
mod completion;
mod fido;
mod house;
#[cfg(target_os = "linux")]
mod man;
mod noise_oracle;
mod openssh;
#[path = "../harness/schema.rs"]
mod schema;
#[path = "../harness/ssh_keys.rs"]
mod ssh_keys;
#[cfg(target_os = "linux")]
mod tour;
mod vectors;
mod wire_properties;
