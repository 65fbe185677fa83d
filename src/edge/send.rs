//! Resolving, sending a sealed knock and waiting for its receipt, hitting a port.
//! Payloads are left to `core::wire`.
