//! The privileged process: one poll loop around proofs, state, firewall and control socket.
//! Packets are left to `listener`.
