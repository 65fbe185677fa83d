//! Makes lengths and checksums of a UDP packet right.

/// Corrects lengths and checksums, so that the fuzzer gets past them.
pub fn set_checksums(packet: &mut [u8]) {
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
