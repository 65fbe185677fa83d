//! toctocd.toml, with file:line:column on every complaint.
//! serde's types never leave this file.
