//! Settings -> classic BPF program for the capture socket, with an interpreter in its tests.
//! Sockets are left to `capture`.
