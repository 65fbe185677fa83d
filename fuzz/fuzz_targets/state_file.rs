//! A journal with any damage: no panic, every record that is read was written, a torn tail is cut
//! off, damage is reported and the damaged file kept, and the rewritten journal has the same
//! content.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use toctoc::core::bytes::Reader;
use toctoc::core::ledger::Ledger;
use toctoc::core::record::{RECORD, Record};
use toctoc::core::types::Wall;
use toctoc::edge::state::{Disk, Recovered, State};

const NOW: Wall = Wall(1_772_366_400_000_000_000);

/// Files by name, and the name of the open one. Clones are the same disk.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<BTreeMap<String, Vec<u8>>>>, String);

impl Memory {
    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.0.lock().expect("no other thread")
    }

    fn file(&self, name: &str) -> Option<Vec<u8>> {
        self.files().get(name).cloned()
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        self.files().insert(name.to_owned(), bytes.to_vec());
    }
}

impl Disk for Memory {
    fn duplicate(&self) -> Box<dyn Disk> {
        Box::new(self.clone())
    }

    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.file(name))
    }

    fn write_new(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.put(name, bytes);
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let moved = self.files().remove(from).ok_or(io::ErrorKind::NotFound)?;
        self.put(to, &moved);
        Ok(())
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn open(&mut self, name: &str) -> io::Result<()> {
        self.1 = name.to_owned();
        Ok(())
    }

    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut files = self.files();
        let file = files.get_mut(&self.1).ok_or(io::ErrorKind::NotFound)?;
        let at = usize::try_from(at).map_err(io::Error::other)?;
        file.resize(file.len().max(at + bytes.len()), 0);
        file[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn open(disk: &Memory) -> (State, Recovered) {
    State::on_disk(Box::new(disk.clone()), NOW, false).expect("a disk that works")
}

fuzz_target!(|input: &[u8]| match input.split_first() {
    Some((0..128, rest)) => anything(rest),
    Some((_, rest)) => damaged(rest),
    None => {}
});

/// Any bytes instead of the journal.
fn anything(bytes: &[u8]) {
    let disk = Memory::default();
    disk.put("journal", bytes);
    disk.put("used", b"");
    let (state, found) = open(&disk);
    drop(state);
    assert_eq!(found.intact, found.why.is_none());
    if !found.intact && found.ledger.lost() == Some(NOW) {
        assert_eq!(
            disk.file("journal.damaged").as_deref(),
            Some(bytes),
            "the damaged file is not kept"
        );
    }
    // The rewritten journal has the same content and is intact. A loss stays until an admin accepts
    // it.
    let (mut state, again) = open(&disk);
    assert_eq!(again.ledger.records(), found.ledger.records());
    assert_eq!(again.intact, found.intact);
    state.commit(&[Record::Reinitialised { at: NOW }]).expect("a disk that works");
    drop(state);
    assert!(open(&disk).1.intact);
}

/// Commits records from the input, then changes a part of the file, or shortens or extends it.
fn damaged(input: &[u8]) {
    let Some((&[kind, a, b, c], rest)) = input.split_first_chunk::<4>() else { return };
    let disk = Memory::default();
    let (mut state, first) = open(&disk);
    assert!(first.intact);
    let mut records = Vec::new();
    let mut reader = Reader::new(rest);
    while let Some(record) = Record::decode(&mut reader) {
        // A recorded loss is not damage of this file, and would hide it.
        let batch = if matches!(record, Record::Lost { .. }) { vec![] } else { vec![record] };
        state.commit(&batch).expect("a disk that works");
        records.extend(batch);
        if records.len() > 40 {
            break;
        }
    }
    drop(state);
    let whole = Ledger::of(&records);
    let good = disk.file("journal").expect("it was written");
    let place = usize::from(u16::from_be_bytes([a, b])) % good.len();
    let mut file = good.clone();
    match kind % 4 {
        0 => {}
        1 => file.truncate(place),
        2 => file[place..].iter_mut().take(usize::from(c % 8) + 1).for_each(|byte| *byte ^= c | 1),
        _ => file.extend(rest.iter().take(RECORD)),
    }
    disk.put("journal", &file);
    let (state, found) = open(&disk);
    drop(state);
    if found.intact {
        // The bytes may differ, the content may not.
        assert_eq!(
            found.ledger.records(),
            whole.records(),
            "reported as intact, but the content differs"
        );
    } else {
        assert_ne!(file, good, "an undamaged file was reported as damaged");
        assert_eq!(disk.file("journal.damaged"), Some(file));
        assert_eq!(found.ledger.lost(), Some(NOW));
    }
    assert!(
        kind % 4 == 1 || kind % 4 == 2 || found.intact,
        "an uncommitted tail was reported as damage"
    );
    assert_eq!(open(&disk).1.ledger.records(), found.ledger.records());
}
