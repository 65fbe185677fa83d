//! Noise_NKpsk0_25519_ChaChaPoly_BLAKE2s (revision 34), both messages.
//! What they carry is left to `knock`, how they look on the wire to `wire`.
