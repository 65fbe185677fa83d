//! The floor of pure functions: (state, now, event) in, what to do out.
//! No socket, file, clock, randomness, thread, environment or log is left to be found here.

pub mod address;
pub mod authentic;
pub mod bytes;
pub mod diagnostic;
pub mod door;
pub mod engine;
pub mod grants;
pub mod keyring;
pub mod knock;
pub mod ledger;
pub mod noise;
#[cfg(test)]
mod op_counter;
pub mod openings;
pub mod packet;
pub mod policy;
pub mod prefix;
pub mod quota;
pub mod record;
pub mod replay;
pub mod reply;
pub mod sequence;
pub mod service;
pub mod test_vectors;
pub mod types;
pub mod wire;
