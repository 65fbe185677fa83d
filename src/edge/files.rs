//! Opening files checked (owner, mode, parent, no link) and writing them atomically.
//! Formats are left to `keys` and `config`.
