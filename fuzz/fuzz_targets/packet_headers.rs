//! Whatever bytes a link delivers: no panic, and what the strict reading accepts is a whole, plain
//! UDP packet to us that says the same when read by a second, independent and slower reader.

#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use toctoc::core::door::Step;
use toctoc::core::packet::{Arrival, LocalAddresses, parse};
use toctoc::core::types::Source;

/// Addresses with an odd last byte are ours, so that both answers are easily found.
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
        mend(&mut packet);
    }
    let arrival = Arrival { capture: 0, loopback: mode & 2 != 0 };
    let Ok(sighting) = parse(&packet) else { return };
    let Ok(payload) = sighting.strict(&Odd, arrival) else { return };
    let (start, protocol, length) = match packet[0] >> 4 {
        4 => (20, packet[9], usize::from(u16::from_be_bytes([packet[2], packet[3]])) - 20),
        _ => (40, packet[6], usize::from(u16::from_be_bytes([packet[4], packet[5]]))),
    };
    assert_eq!(protocol, 17);
    if start == 20 {
        assert_eq!(packet[0], 0x45, "no options");
        assert_eq!(u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff, 0, "no fragment");
    }
    let segment = &packet[start..start + length];
    assert_eq!(payload, &segment[8..]);
    assert_eq!(usize::from(u16::from_be_bytes([segment[4], segment[5]])), length);
    assert_eq!(sighting.step, Step::udp(u16::from_be_bytes([segment[2], segment[3]])));
    assert!(Odd.has(sighting.destination));
    assert!(arrival.loopback || !Odd.has(sighting.source));
    let odd = match sighting.source.ip() {
        IpAddr::V4(ip) => ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local(),
    };
    assert!(!odd && (arrival.loopback || !sighting.source.ip().is_loopback()));
});

/// Makes lengths and checksums right, so that the fuzzer gets past them.
fn mend(packet: &mut [u8]) {
    let total = packet.len();
    let Some(first) = packet.first().copied() else { return };
    let start = if first >> 4 == 4 { 20 } else { 40 };
    if total < start + 8 {
        return;
    }
    let length = u16::try_from(total - start).unwrap_or(u16::MAX);
    if start == 20 {
        packet[2..4].copy_from_slice(&(length + 20).to_be_bytes());
        packet[10..12].fill(0);
        let check = !sum(0, &packet[..20]);
        packet[10..12].copy_from_slice(&check.to_be_bytes());
    } else {
        packet[4..6].copy_from_slice(&length.to_be_bytes());
    }
    packet[start + 4..start + 6].copy_from_slice(&length.to_be_bytes());
    packet[start + 6..start + 8].fill(0);
    let addresses = if start == 20 { 12..20 } else { 8..40 };
    let pseudo = sum(sum(17, &length.to_be_bytes()), &packet[addresses]);
    let check = match !sum(pseudo, &packet[start..]) {
        0 => 0xffff,
        check => check,
    };
    packet[start + 6..start + 8].copy_from_slice(&check.to_be_bytes());
}

fn sum(from: u16, bytes: &[u8]) -> u16 {
    bytes.chunks(2).fold(from, |total, pair| {
        let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        let (sum, carry) = total.overflowing_add(word);
        sum + u16::from(carry)
    })
}
