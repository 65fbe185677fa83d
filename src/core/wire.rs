//! The datagram: mask, tag, client MAC, and the seal around both Noise messages.
//! Clocks, randomness and signatures are passed in.
