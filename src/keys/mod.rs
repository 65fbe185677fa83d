//! The texts of keys: files and lines that people hold.
//! Opening files is left to `edge::files`.

pub mod authorized;
mod encoded;
pub mod gateway;
pub mod identity;
pub mod profile;
pub mod public;
