//! The gateway's key file: identity, X25519 secret, master and mask key.
//! Opening it is left to `edge::files`.
