//! The layer of pure functions: state, time and event in, decisions out.
//! It has no socket, file, clock, random numbers, thread, environment variable or log.

pub mod address;
pub mod attempt;
pub mod authentic;
pub mod bytes;
pub mod client_name;
pub mod clients;
pub mod columns;
pub mod diagnostic;
pub mod door;
pub mod engine;
pub mod event;
pub mod exchange;
pub mod grant;
pub mod grants;
pub mod hours;
pub mod joining;
pub mod keyring;
pub mod knock;
pub mod ledger;
pub mod limits;
pub mod marks;
pub mod noise;
#[cfg(test)]
mod op_counter;
pub mod openings;
pub mod packet;
pub mod policy;
pub mod prefix;
pub mod public_key;
pub mod quota;
pub mod record;
pub mod replay;
pub mod reply;
pub mod sequence;
pub mod service;
pub mod test_vectors;
pub mod types;
pub mod wire;
