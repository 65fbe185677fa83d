//! A client's Ed25519 key in OpenSSH form, and what it signs.
//! Asking for a passphrase is left to `app`.
