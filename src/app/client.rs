//! `toctoc`: open, knock, keygen, import; what is said to people and which exit code.
//! Bytes are left to `core`, sockets to `edge`.
