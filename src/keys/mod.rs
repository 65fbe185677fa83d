//! The text formats of keys: files and lines that people keep.
//! See `edge::files` for opening files.

pub mod authorized;
pub mod authorized_keys;
mod encoded;
pub mod gateway;
// The client library signs by a callback, and needs no key file nor what decrypts one.
#[cfg(feature = "programs")]
pub mod identity;
pub mod invitation;
pub mod profile;
pub mod public;
pub mod signature;
pub mod ssh_config;
