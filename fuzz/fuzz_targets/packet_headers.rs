//! Any bytes from the link: no panic, and a packet that the strict parser accepts is a complete,
//! plain UDP packet to us, in which a second, independent parser finds the same.

#![no_main]

use std::net::IpAddr;

#[path = "../parts/checksums.rs"]
mod checksums;

use checksums::set_checksums;
use libfuzzer_sys::fuzz_target;
use toctoc::core::door::Step;
use toctoc::core::packet::{Arrival, LocalAddresses, parse};
use toctoc::core::types::Source;

/// Addresses with an odd last byte are ours, so that inputs easily hit both cases.
struct Odd;

impl LocalAddresses for Odd {
    fn has(&self, address: Source) -> bool {
        address.to_bytes()[15] % 2 == 1
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((mode, bytes)) = input.split_first() else { return };
    let mut packet = bytes.to_vec();
    if mode & 1 != 0 {
        set_checksums(&mut packet);
    }
    let arrival = Arrival { loopback: mode & 2 != 0 };
    let Ok(parsed) = parse(&packet) else { return };
    let Ok(payload) = parsed.strict(&Odd, arrival) else { return };
    let (start, protocol, length) = match packet[0] >> 4 {
        4 => (20, packet[9], usize::from(u16::from_be_bytes([packet[2], packet[3]])) - 20),
        _ => (40, packet[6], usize::from(u16::from_be_bytes([packet[4], packet[5]]))),
    };
    assert_eq!(protocol, 17);
    if start == 20 {
        assert_eq!(packet[0], 0x45, "a packet with options was accepted");
        assert_eq!(
            u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff,
            0,
            "a fragment was accepted"
        );
    }
    let segment = &packet[start..start + length];
    assert_eq!(payload, &segment[8..]);
    assert_eq!(usize::from(u16::from_be_bytes([segment[4], segment[5]])), length);
    assert_eq!(parsed.step, Step::udp(u16::from_be_bytes([segment[2], segment[3]])));
    assert!(Odd.has(parsed.destination));
    assert!(arrival.loopback || !Odd.has(parsed.source));
    let odd = match parsed.source.ip() {
        IpAddr::V4(ip) => ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local(),
    };
    assert!(!odd && (arrival.loopback || !parsed.source.ip().is_loopback()));
});
