//! The floor of pure functions: (state, now, event) in, what to do out.
//! No socket, file, clock, randomness, thread, environment or log is left to be found here.

pub mod address;
pub mod answer;
pub mod authentic;
pub mod bytes;
pub mod complaint;
pub mod door;
pub mod engine;
pub mod golden;
pub mod grants;
pub mod keyring;
pub mod knock;
pub mod leases;
pub mod ledger;
pub mod noise;
pub mod packet;
pub mod policy;
pub mod prefix;
pub mod quota;
pub mod record;
pub mod replay;
pub mod sequence;
pub mod service;
pub mod types;
pub mod wire;
#[cfg(test)]
mod work;
