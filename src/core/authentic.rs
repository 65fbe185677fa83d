//! `Claim` -> `Authentic`: the Ed25519 signature over the SSHSIG blob, verified where the privilege is.
//! Time and replay are left to `replay`, permission to `policy`.
