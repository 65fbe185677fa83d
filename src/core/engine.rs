//! The listener as a function: a packet or a verdict in, actions out.
//! Sockets, pipes and clocks are left to `app::listener`.
