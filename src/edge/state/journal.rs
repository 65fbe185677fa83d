//! The journal's bytes: a page with two commit marks, then batches, each chained to the one before
//! by a checksum. See `core::ledger` for the meaning of the records.
//!
//! The checksum is BLAKE2s without a key, against faulty disks, crashes and restored backups. Only
//! root can write this file, and root could read a key beside it. The chain detects a batch that is
//! missing, doubled or from an older file.

use blake2::{Blake2s256, Digest};

use crate::core::bytes::saturated_u64;
use crate::core::bytes::{Reader, Writer};
use crate::core::record::Record;
use crate::core::types::Fault;

/// Bytes before the first batch.
pub(super) const PAGE: usize = 4096;
/// The offsets of the two commit marks, in separate sectors: one torn write damages only one.
pub(super) const MARKS: [usize; 2] = [512, 1024];
pub(super) const MARK: usize = 40;
const MAGIC: &[u8; 12] = b"toctoc-state";
const VERSION: u32 = 1;
const HEADER: usize = 48;
const BATCH: &[u8; 4] = b"ttcb";
const BATCH_HEADER: usize = 48;

type Sum = [u8; 16];

/// The end of the journal: the place of the next batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tail {
    /// This file's own 16 bytes: no batch of another file fits here.
    salt: Sum,
    last: Sum,
    /// The number of the last batch, counted from 1.
    pub(super) number: u64,
    /// The offset of the first byte after it.
    pub(super) at: u64,
}

#[derive(Debug, PartialEq)]
pub(super) struct JournalContents {
    /// All readable records, including those after damage.
    pub(super) records: Vec<Record>,
    /// The damage before the last commit mark; `None` if every commit is there.
    pub(super) damage: Option<&'static str>,
    /// The bytes of a batch that was never committed: nothing was done because of it.
    pub(super) torn: usize,
}

/// A whole new file with `records` as its first batch and both commit marks. `salt` must be unique.
pub(super) fn fresh(salt: Sum, records: &[Record]) -> Result<(Vec<u8>, Tail), Fault> {
    let mut file = vec![0; PAGE];
    let header = Writer::<32>::new().put(MAGIC).u32(VERSION).put(&salt).done();
    put(&mut file, 0, &header);
    put(&mut file, 32, &sum(&[b"header", &header]));
    let empty = Tail { salt, last: salt, number: 0, at: PAGE as u64 };
    let (batch, tail) = empty.batch(records)?;
    for place in MARKS {
        put(&mut file, place, &tail.mark());
    }
    file.extend(batch);
    Ok((file, tail))
}

impl Tail {
    /// The bytes of the next batch, for the offset `self.at`, and the tail after it.
    pub(super) fn batch(&self, records: &[Record]) -> Result<(Vec<u8>, Tail), Fault> {
        let mut payload = Vec::new();
        for record in records {
            record.encode(&mut payload)?;
        }
        let too_long = |_| Fault::new("the state is larger than 4 GiB", "enrol fewer clients");
        let length = u32::try_from(payload.len()).map_err(too_long)?;
        let number = self.number + 1;
        let head = Writer::<32>::new().put(BATCH).u32(length).u64(number).put(&self.last).done();
        let last = batch_sum(&self.salt, &head, &payload);
        let bytes = [&head[..], &last, &payload].concat();
        let at = self.at + saturated_u64(bytes.len());
        Ok((bytes, Tail { salt: self.salt, last, number, at }))
    }

    /// The commit mark for every batch up to this one.
    pub(super) fn mark(&self) -> [u8; MARK] {
        let said = Writer::<24>::new().put(&self.salt).u64(self.number).done();
        Writer::new().put(&said).put(&sum(&[b"mark", &said])).done()
    }

    /// The offset of that mark: alternating, so that the other one is intact during the write.
    pub(super) fn mark_place(&self) -> usize {
        MARKS[usize::from(!self.number.is_multiple_of(2))]
    }
}

/// Parses a whole file.
///
/// A commit mark is written after its batch was synced, and the next batch syncs the mark. So after
/// a crash everything reported as durable is there in one of two forms. Either both marks are
/// whole, and so is every batch up to the higher one. Or one mark was torn during its write, and
/// every batch up to the one after the whole mark is there. Anything less is damage. Deferred
/// batches have no marks of their own: the next commit's mark covers them.
pub(super) fn read(file: &[u8]) -> JournalContents {
    let marks = MARKS.map(|place| read_mark(file, place));
    let header = read_header(file);
    let marked_salt = marks.iter().flatten().map(|(salt, _)| *salt).next();
    let Some(salt) = header.or(marked_salt) else {
        let damage = Some("its first page is not a journal's");
        return JournalContents { records: Vec::new(), damage, torn: 0 };
    };
    let numbers = marks.map(|mark| match mark {
        Some((other, number)) if other == salt => Some(number),
        _ => None,
    });
    let promised = match numbers {
        [Some(a), Some(b)] => Some(a.max(b)),
        [Some(a), None] | [None, Some(a)] => a.checked_add(1),
        [None, None] => None,
    };
    let mut tail = Tail { salt, last: salt, number: 0, at: PAGE as u64 };
    let mut rest = file.get(PAGE..).unwrap_or_default();
    let mut records = Vec::new();
    while let Some(batch) = read_batch(rest, &tail) {
        records.extend(batch.records);
        tail = batch.tail;
        rest = rest.get(batch.length..).unwrap_or_default();
    }
    let strays = salvage(rest, &salt, &mut records);
    let damage = match promised {
        _ if header.is_none() => Some("its header is damaged"),
        None => Some("both commit marks are damaged"),
        Some(promised) if tail.number < promised => Some("a committed batch is damaged or missing"),
        Some(_) if strays > 0 => Some("a batch in its middle is damaged"),
        Some(_) => None,
    };
    JournalContents { records, damage, torn: if damage.is_none() { rest.len() } else { 0 } }
}

/// The records of the batches up to `tail` in a file that may have grown; `None` if one is damaged.
pub(super) fn read_up_to(file: &[u8], tail: &Tail) -> Option<Vec<Record>> {
    let mut at = Tail { salt: tail.salt, last: tail.salt, number: 0, at: PAGE as u64 };
    let mut rest = file.get(PAGE..)?;
    let mut records = Vec::new();
    while at.number < tail.number {
        let batch = read_batch(rest, &at)?;
        records.extend(batch.records);
        at = batch.tail;
        rest = rest.get(batch.length..)?;
    }
    if at == *tail && read_header(file)? == tail.salt { Some(records) } else { None }
}

fn read_header(file: &[u8]) -> Option<Sum> {
    let header = file.get(..HEADER)?;
    let (said, check) = header.split_at_checked(32)?;
    let mut reader = Reader::new(said);
    if reader.take(MAGIC.len())? != MAGIC || reader.u32()? != VERSION {
        return None;
    }
    let salt = reader.array()?;
    if sum(&[b"header", said]) == check { Some(salt) } else { None }
}

fn read_mark(file: &[u8], place: usize) -> Option<(Sum, u64)> {
    let (said, check) = file.get(place..place + MARK)?.split_at_checked(24)?;
    let mut reader = Reader::new(said);
    let mark = (reader.array()?, reader.u64()?);
    if sum(&[b"mark", said]) == check { Some(mark) } else { None }
}

struct Batch {
    number: u64,
    before: Sum,
    records: Vec<Record>,
    /// The tail after this batch, if it follows the one that the reader expected.
    tail: Tail,
    length: usize,
}

/// The batch at the front of `bytes`, if it follows `tail`.
fn read_batch(bytes: &[u8], tail: &Tail) -> Option<Batch> {
    let mut batch = read_any_batch(bytes, &tail.salt)?;
    if batch.number != tail.number.checked_add(1)? || batch.before != tail.last {
        return None;
    }
    batch.tail.at = tail.at.checked_add(u64::try_from(batch.length).ok()?)?;
    Some(batch)
}

fn read_any_batch(bytes: &[u8], salt: &Sum) -> Option<Batch> {
    let head = bytes.get(..32)?;
    let mut reader = Reader::new(bytes);
    if reader.take(4)? != BATCH {
        return None;
    }
    let length = reader.u32()?;
    let number = reader.u64()?;
    let before = reader.array()?;
    let last: Sum = reader.array()?;
    let payload = reader.take(usize::try_from(length).ok()?)?;
    if batch_sum(salt, head, payload) != last {
        return None;
    }
    let mut records = Vec::new();
    let mut reader = Reader::new(payload);
    while !reader.rest().is_empty() {
        records.push(Record::decode(&mut reader)?);
    }
    let tail = Tail { salt: *salt, last, number, at: 0 };
    Some(Batch { number, before, records, tail, length: BATCH_HEADER + payload.len() })
}

/// Collects whole batches of this file after damage: their used-knock marks count. Returns their
/// number.
fn salvage(mut rest: &[u8], salt: &Sum, records: &mut Vec<Record>) -> usize {
    let mut found = 0;
    while let Some(place) = rest.windows(BATCH.len()).position(|four| four == BATCH) {
        rest = rest.get(place..).unwrap_or_default();
        let mut step = 1;
        if let Some(batch) = read_any_batch(rest, salt) {
            records.extend(batch.records);
            step = batch.length;
            found += 1;
        }
        rest = rest.get(step..).unwrap_or_default();
    }
    found
}

fn batch_sum(salt: &Sum, head: &[u8], payload: &[u8]) -> Sum {
    sum(&[b"batch", salt, head, payload])
}

pub(super) fn sum(parts: &[&[u8]]) -> Sum {
    let mut hash = Blake2s256::new();
    for part in parts {
        hash.update(part);
    }
    let mut sum = [0; 16];
    sum.copy_from_slice(&hash.finalize()[..16]);
    sum
}

fn put(file: &mut [u8], place: usize, bytes: &[u8]) {
    if let Some(slot) = file.get_mut(place..place + bytes.len()) {
        slot.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests;
