//! The AF_PACKET sockets: our filter attached and locked before they are bound, then handed to pnet.
//! Parsing is left to `core::packet`.
