//! The journal's bytes: a page with two commit marks, then batches, each chained to the one before
//! by a checksum. Files and syncs are left to `state`, what the records mean to `core::ledger`.
//!
//! The checksum is BLAKE2s without a key: it is against disks, crashes and restored backups.
//! Whoever can write this file is root and could read a key beside it. Chained, so that a batch
//! that is missing, doubled or of an older file is noticed.

use blake2::{Blake2s256, Digest};

use crate::core::bytes::{Reader, Writer};
use crate::core::record::Record;
use crate::core::types::Fault;

/// Bytes before the first batch.
pub(super) const PAGE: usize = 4096;
/// Where the two commit marks lie: in sectors of their own, so that one torn write harms one.
pub(super) const MARKS: [usize; 2] = [512, 1024];
/// Bytes of a commit mark.
pub(super) const MARK: usize = 40;

const MAGIC: &[u8; 12] = b"toctoc-state";
const VERSION: u32 = 1;
const HEADER: usize = 48;
const BATCH: &[u8; 4] = b"ttcb";
const BATCH_HEADER: usize = 48;

type Sum = [u8; 16];

/// Where the next batch goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tail {
    /// This file's own 16 bytes: no batch of another file fits here.
    salt: Sum,
    /// The checksum of the last batch.
    last: Sum,
    /// Its number, from 1.
    pub(super) number: u64,
    /// The first byte after it.
    pub(super) at: u64,
}

/// What a file amounts to.
#[derive(Debug, PartialEq)]
pub(super) struct JournalContents {
    /// All records that could be read, those after damage included.
    pub(super) records: Vec<Record>,
    /// What is damaged before the last commit mark; `None` if every commit is there.
    pub(super) damage: Option<&'static str>,
    /// Bytes of a batch that was never committed: nothing followed from it.
    pub(super) torn: usize,
}

/// A whole new file that holds `records` as its first batch, both marks set. `salt` must differ
/// from the one of every other file.
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
    /// The bytes of the next batch, to be written at `self.at`, and the tail after it.
    pub(super) fn batch(&self, records: &[Record]) -> Result<(Vec<u8>, Tail), Fault> {
        let mut payload = Vec::new();
        records.iter().try_for_each(|record| record.encode(&mut payload))?;
        let too_long = |_| Fault::new("the state is larger than 4 GiB", "enrol fewer clients");
        let length = u32::try_from(payload.len()).map_err(too_long)?;
        let number = self.number + 1;
        let head = Writer::<32>::new().put(BATCH).u32(length).u64(number).put(&self.last).done();
        let last = batch_sum(&self.salt, &head, &payload);
        let bytes = [&head[..], &last, &payload].concat();
        let at = self.at + u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok((bytes, Tail { salt: self.salt, last, number, at }))
    }

    /// The commit mark that says: every batch up to this one was given out as durable.
    pub(super) fn mark(&self) -> [u8; MARK] {
        let said = Writer::<24>::new().put(&self.salt).u64(self.number).done();
        Writer::new().put(&said).put(&sum(&[b"mark", &said])).done()
    }

    /// Where that mark goes: in turn, so that the other one is whole while this one is written.
    pub(super) fn mark_place(&self) -> usize {
        MARKS[usize::from(!self.number.is_multiple_of(2))]
    }
}

/// Reads a whole file.
///
/// A commit mark is written after its batch was synced, and is itself synced by the next batch. So
/// whatever was given out as durable is there whenever: both marks are whole, and every batch up to
/// the higher one is; or one mark was torn while it was written, and every batch up to the one
/// after the whole mark is. Anything less is damage.
pub(super) fn read(file: &[u8]) -> JournalContents {
    let marks = MARKS.map(|place| file.get(place..place + MARK).and_then(read_mark));
    let header = read_header(file);
    let salt = header.or_else(|| marks.into_iter().flatten().map(|(salt, _)| salt).next());
    let Some(salt) = salt else {
        return JournalContents {
            records: Vec::new(),
            damage: Some("its first page is not a journal's"),
            torn: 0,
        };
    };
    let marks =
        marks.map(|mark| mark.filter(|(other, _)| *other == salt).map(|(_, number)| number));
    let promised = match marks {
        [Some(a), Some(b)] => Some(a.max(b)),
        [Some(a), None] | [None, Some(a)] => a.checked_add(1),
        [None, None] => None,
    };
    let mut tail = Tail { salt, last: salt, number: 0, at: PAGE as u64 };
    let mut rest = file.get(PAGE..).unwrap_or_default();
    let mut records = Vec::new();
    while let Some((mine, after, length)) = read_batch(rest, &tail) {
        records.extend(mine);
        tail = after;
        rest = rest.get(length..).unwrap_or_default();
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

fn read_header(file: &[u8]) -> Option<Sum> {
    let header = file.get(..HEADER)?;
    let (said, check) = header.split_at_checked(32)?;
    let mut reader = Reader::new(said);
    let right = reader.take(MAGIC.len())? == MAGIC
        && reader.u32()? == VERSION
        && sum(&[b"header", said]) == check;
    right.then(|| reader.array())?
}

fn read_mark(bytes: &[u8]) -> Option<(Sum, u64)> {
    let (said, check) = bytes.split_at_checked(24)?;
    let mut reader = Reader::new(said);
    (sum(&[b"mark", said]) == check).then_some((reader.array()?, reader.u64()?))
}

/// The batch at the front of `bytes` if it is the one that follows `tail`: its records, the tail
/// after it, its length.
fn read_batch(bytes: &[u8], tail: &Tail) -> Option<(Vec<Record>, Tail, usize)> {
    let (number, before, last, records, length) = read_any_batch(bytes, &tail.salt)?;
    let follows = number == tail.number.checked_add(1)? && before == tail.last;
    let at = tail.at.checked_add(u64::try_from(length).ok()?)?;
    follows.then_some((records, Tail { salt: tail.salt, last, number, at }, length))
}

fn read_any_batch(bytes: &[u8], salt: &Sum) -> Option<(u64, Sum, Sum, Vec<Record>, usize)> {
    let head = bytes.get(..32)?;
    let mut reader = Reader::new(bytes);
    (reader.take(4)? == BATCH).then_some(())?;
    let (length, number, before) = (reader.u32()?, reader.u64()?, reader.array()?);
    let (last, payload): (Sum, _) = (reader.array()?, reader.take(usize::try_from(length).ok()?)?);
    (batch_sum(salt, head, payload) == last).then_some(())?;
    let mut records = Vec::new();
    let mut reader = Reader::new(payload);
    while !reader.rest().is_empty() {
        records.push(Record::decode(&mut reader)?);
    }
    Some((number, before, last, records, BATCH_HEADER + payload.len()))
}

/// Whole batches of this file that lie behind damage: their marks count all the same. How many
/// there were.
fn salvage(mut rest: &[u8], salt: &Sum, records: &mut Vec<Record>) -> usize {
    let mut found = 0;
    while let Some(place) = rest.windows(BATCH.len()).position(|four| four == BATCH) {
        rest = rest.get(place..).unwrap_or_default();
        let step = read_any_batch(rest, salt).map_or(1, |(_, _, _, mine, length)| {
            records.extend(mine);
            found += 1;
            length
        });
        rest = rest.get(step..).unwrap_or_default();
    }
    found
}

fn batch_sum(salt: &Sum, head: &[u8], payload: &[u8]) -> Sum {
    sum(&[b"batch", salt, head, payload])
}

fn sum(parts: &[&[u8]]) -> Sum {
    let mut hash = Blake2s256::new();
    parts.iter().for_each(|part| hash.update(part));
    let mut sum = [0; 16];
    sum.iter_mut().zip(hash.finalize()).for_each(|(to, from)| *to = from);
    sum
}

fn put(file: &mut [u8], place: usize, bytes: &[u8]) {
    if let Some(slot) = file.get_mut(place..place + bytes.len()) {
        slot.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests;
