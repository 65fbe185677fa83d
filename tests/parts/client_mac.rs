//! The client MAC, computed without our own code: what an insider with the client's MAC key, but
//! not its psk, can send.

use blake2::Blake2sMac;
use blake2::digest::consts::U16;
use blake2::digest::{KeyInit, Mac};
use toctoc::core::keyring::Day;
use toctoc::core::test_vectors::{self, CLIENT, NOON};
use toctoc::core::wire::DATAGRAM;

/// Replaces the client MAC of `datagram` by a valid one of noon's day.
pub(crate) fn set_client_mac(datagram: &mut [u8]) {
    set_mac_of_day(datagram, NOON.day());
}

/// The same with the MAC key of `day`.
pub(crate) fn set_mac_of_day(datagram: &mut [u8], day: u32) {
    let (covered, mac) = datagram.split_at_mut(DATAGRAM - 16);
    let key = test_vectors::secrets(CLIENT).wire(Day::Number(day)).unwrap().mac_key();
    let mut computed = Blake2sMac::<U16>::new_from_slice(key.expose()).unwrap();
    Mac::update(&mut computed, b"toctoc v1 mac of a knock\0");
    Mac::update(&mut computed, covered);
    mac.copy_from_slice(&computed.finalize().into_bytes());
}
