//! A disk in memory: it fails or hangs when it is told to, and forgets what was not synced when the
//! power fails.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::core::ledger::Ledger;
use crate::core::types::Wall;
use crate::edge::state::{Disk, State};

/// A handle on the disk.
#[derive(Clone, Default)]
pub(super) struct MemoryDisk {
    platter: Arc<Mutex<Platter>>,
    open: Option<usize>,
}

#[derive(Default)]
struct Platter {
    files: Vec<FileContent>,
    names: BTreeMap<String, usize>,
    /// Every write and sync fails.
    broken: bool,
    /// The next sync fails, and what was written stays to be read.
    sync_fails: bool,
    /// Syncs so far.
    syncs: usize,
    /// What was durable after so many syncs: reading it takes time.
    ledger: Option<(usize, Arc<Ledger>)>,
}

#[derive(Clone, Default)]
struct FileContent {
    /// As it is read.
    written: Vec<u8>,
    /// As it is after the power has failed.
    durable: Vec<u8>,
}

impl MemoryDisk {
    fn lock(&self) -> MutexGuard<'_, Platter> {
        self.platter.lock().unwrap()
    }

    /// From now on writes fail, or work again.
    pub(super) fn set_broken(&self, broken: bool) {
        self.lock().broken = broken;
    }

    /// The next sync fails; what was written before it can be read.
    pub(super) fn fail_next_sync(&self) {
        self.lock().sync_fails = true;
    }

    /// How often something was synced.
    pub(super) fn syncs(&self) -> usize {
        self.lock().syncs
    }

    /// A copy as a start after a power failure would find it, or after SIGKILL if `written`.
    pub(super) fn copy(&self, written: bool) -> MemoryDisk {
        let platter = self.lock();
        let mut files = platter.files.clone();
        for file in &mut files {
            if written {
                file.durable = file.written.clone();
            } else {
                file.written = file.durable.clone();
            }
        }
        let copy = Platter { files, names: platter.names.clone(), ..Platter::default() };
        MemoryDisk { platter: Arc::new(Mutex::new(copy)), open: None }
    }

    /// Removes a file.
    pub(super) fn remove(&self, name: &str) {
        let mut platter = self.lock();
        platter.names.remove(name);
        platter.ledger = None;
    }

    /// All that a start after a power failure would know.
    pub(super) fn durable_ledger(&self, now: Wall) -> Arc<Ledger> {
        let syncs = self.syncs();
        if let Some((at, ledger)) = &self.lock().ledger
            && *at == syncs
        {
            return Arc::clone(ledger);
        }
        let (_, recovered) = State::on_disk(Box::new(self.copy(false)), now, false).unwrap();
        let ledger = Arc::new(recovered.ledger);
        self.lock().ledger = Some((syncs, Arc::clone(&ledger)));
        ledger
    }
}

impl Platter {
    fn write(&mut self, file: usize, at: usize, bytes: &[u8]) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::from_raw_os_error(28));
        }
        let content = &mut self.files[file].written;
        content.resize(content.len().max(at + bytes.len()), 0);
        content[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self, file: usize) -> io::Result<()> {
        if self.broken || std::mem::take(&mut self.sync_fails) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.syncs += 1;
        let file = &mut self.files[file];
        file.durable.clone_from(&file.written);
        Ok(())
    }
}

impl Disk for MemoryDisk {
    fn duplicate(&self) -> Box<dyn Disk> {
        Box::new(self.clone())
    }

    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let platter = self.lock();
        Ok(platter.names.get(name).map(|file| platter.files[*file].written.clone()))
    }

    fn write_new(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut platter = self.lock();
        if platter.broken {
            return Err(io::Error::from_raw_os_error(28));
        }
        platter.files.push(FileContent::default());
        let file = platter.files.len() - 1;
        platter.names.insert(name.to_owned(), file);
        platter.write(file, 0, bytes)?;
        platter.sync(file)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut platter = self.lock();
        if platter.broken {
            return Err(io::Error::from_raw_os_error(5));
        }
        let file = platter.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        platter.names.insert(to.to_owned(), file);
        Ok(())
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        if self.lock().broken { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }

    fn open(&mut self, name: &str) -> io::Result<()> {
        let file = self.lock().names.get(name).copied();
        self.open = file;
        if self.open.is_none() { Err(io::ErrorKind::NotFound.into()) } else { Ok(()) }
    }

    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let file = self.open.ok_or(io::ErrorKind::NotFound)?;
        self.lock().write(file, usize::try_from(at).unwrap(), bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        let file = self.open.ok_or(io::ErrorKind::NotFound)?;
        self.lock().sync(file)
    }
}
