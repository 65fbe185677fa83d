//! The client MAC, computed without our own code: what an insider with the client's MAC key, but
//! not its psk, can send.

use blake2::Blake2sMac;
use blake2::digest::consts::U16;
use blake2::digest::{KeyInit, Mac};
use toctoc::core::test_vectors::{self, CLIENT};
use toctoc::core::wire::DATAGRAM;

/// Replaces the client MAC of `datagram` by a valid one.
pub(crate) fn set_client_mac(datagram: &mut [u8]) {
    let (covered, mac) = datagram.split_at_mut(DATAGRAM - 16);
    let keys = test_vectors::master().client_keys(CLIENT);
    let mut computed = Blake2sMac::<U16>::new_from_slice(keys.mac.expose()).unwrap();
    Mac::update(&mut computed, b"toctoc v1 mac of a knock\0");
    Mac::update(&mut computed, covered);
    mac.copy_from_slice(&computed.finalize().into_bytes());
}
