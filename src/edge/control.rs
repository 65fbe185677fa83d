//! The local socket for status and admin commands; the peer is checked by SO_PEERCRED.
//! What the commands do is left to `app::gatekeeper`.
