//! Packets whose copies can only be rejected, in memory that the kernel's filter reads while the
//! listener writes it. See `engine::clients` for which packets these are.
//!
//! Only what a client has made gets here: who has no client's keys cannot choose a place, and so
//! cannot push others out.

use std::sync::atomic::Ordering;

use super::shared_line::{Line, value};
use crate::core::types::Source;

/// Lines of eight packets: 512 KiB. With fewer, somebody who recorded a thousand packets of a
/// client would have nine of one line, and could push them out again and again.
pub const COPY_LINES: usize = 8192;

/// A line is chosen by one part of the client MAC. A word of it has another part, and the address
/// from which a copy may still be good: 0 = none.
#[derive(Clone, Copy)]
pub(super) struct UselessCopies(pub(super) &'static [Line]);

impl UselessCopies {
    /// Lets the filter drop copies of a packet, known by the first half of its client MAC, unless
    /// they come from `except`.
    pub(super) fn add(self, packet: u64, except: Option<Source>) {
        let (id, line) = id_and_line(packet);
        let address = except.map_or(0, fold_address);
        // That would be "from nowhere".
        if address == 0 && except.is_some() {
            return;
        }
        let word = u64::from(id) << 32 | u64::from(address);
        let Some(line) = self.0.get(line % self.0.len().max(1)) else { return };
        match line.iter().find(|known| (value(known) >> 32) as u32 == id) {
            Some(known) => known.store(word, Ordering::Relaxed),
            None => push(line, word),
        }
    }
}

/// Puts a word in front. The oldest one falls out at the end. A filter that looks meanwhile may
/// miss one of them: then a copy passes.
fn push(line: &Line, word: u64) {
    for at in (1..line.len()).rev() {
        line[at].store(value(&line[at - 1]), Ordering::Relaxed);
    }
    line[0].store(word, Ordering::Relaxed);
}

fn id_and_line(packet: u64) -> (u32, usize) {
    let [a, b, c, d, e, f, g, h] = packet.to_be_bytes();
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]) as usize)
}

/// An address in 32 bits, as the filter computes it. Another address of IPv6 may have the same:
/// then its copies pass.
fn fold_address(source: Source) -> u32 {
    let xor = |folded, word: &[u8; 4]| folded ^ u32::from_le_bytes(*word);
    match source.ip() {
        std::net::IpAddr::V4(v4) => u32::from_le_bytes(v4.octets()),
        std::net::IpAddr::V6(v6) => v6.octets().as_chunks::<4>().0.iter().fold(0, xor),
    }
}
