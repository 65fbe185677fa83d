use std::collections::BTreeSet;

use super::*;
use crate::core::types::ClientId;

mod faults;
mod real;

const NOW: Wall = Wall(1_772_366_400_000_000_000);

/// A mark that can be told from every other.
fn seen(n: u64) -> Record {
    // A client each: a client's older marks would grow together.
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(n / 40).to_be_bytes());
    Record::Seen { client: ClientId(id), timestamp: Wall(NOW.0 + n) }
}

/// Which of the marks of `seen` the ledger covers.
fn held(ledger: &Ledger) -> BTreeSet<u64> {
    let marks: Vec<_> = ledger.marks().collect();
    let has = |n: &u64| {
        let Record::Seen { client, timestamp } = seen(*n) else { return false };
        marks.iter().any(|(id, marks)| *id == client && marks.used(timestamp))
    };
    (0..400).filter(has).collect()
}
