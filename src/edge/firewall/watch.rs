//! Watches changes of nf_tables, and tells our own changes of our table from foreign ones.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use netlink_packet_core::{NlaBuffer, NlasIterator};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;

use super::netlink::{receive, split};
use crate::core::types::Fault;

/// The multicast group for nf_tables changes.
const GROUP: u32 = 7;
/// The subsystem: the high byte of a message's type.
const NF_TABLES: u16 = 10;
/// The message that ends a transaction and names its author.
const NEW_GENERATION: u16 = 15;
/// The family of our table.
const INET: u8 = 1;
/// The most foreign changes kept at a time; further ones are dropped.
const MOST: usize = 16;

/// A change, or possible change, of our table by another program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableChange {
    /// The program's name from the kernel, graphic ASCII only; empty if announcements were lost.
    pub program: String,
    /// The process id; 0 if unknown.
    pub pid: u32,
}

/// The netlink ports under which the kernel announces our own changes. For an nft process it is its
/// pid.
#[derive(Clone, Default)]
pub(super) struct Authors {
    list: Arc<Mutex<Vec<Author>>>,
    /// The number of additional watches. No author is forgotten while there are any.
    watches: Arc<AtomicUsize>,
}

/// Keeps all authors for an additional watch until dropped.
pub(super) struct Remembered(Arc<AtomicUsize>);

impl Drop for Remembered {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Author {
    port: u32,
    /// It makes no more changes, but a watch may not have read the last ones yet.
    has_ended: bool,
}

impl Authors {
    /// Registers an author. Call it before its first change.
    pub(super) fn add(&self, port: u32) {
        self.lock().push(Author { port, has_ended: false });
    }

    pub(super) fn ended(&self, port: u32) {
        for author in self.lock().iter_mut().filter(|author| author.port == port) {
            author.has_ended = true;
        }
    }

    fn are(&self, port: u32) -> bool {
        self.lock().iter().any(|author| author.port == port)
    }

    /// Keeps all authors until the returned value is dropped.
    pub(super) fn remember(&self) -> Remembered {
        self.watches.fetch_add(1, Ordering::SeqCst);
        Remembered(Arc::clone(&self.watches))
    }

    /// The authors that have ended and can be forgotten after the next read; none while there are
    /// additional watches, which may not have read everything.
    pub(super) fn gone(&self) -> Vec<u32> {
        if self.watches.load(Ordering::SeqCst) > 0 {
            return Vec::new();
        }
        let authors = self.lock();
        authors.iter().filter(|author| author.has_ended).map(|author| author.port).collect()
    }

    /// Forgets ended authors: other processes may get their pids.
    fn forget(&self, gone: &[u32]) {
        self.lock().retain(|author| !(author.has_ended && gone.contains(&author.port)));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Author>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The watching socket. Poll it for reading.
pub struct TableWatch {
    socket: Socket,
    table: String,
    authors: Authors,
    /// The author of a change of our table in a transaction that has not ended yet.
    open: Option<u32>,
}

impl TableWatch {
    /// Starts watching this thread's network namespace.
    pub(super) fn open(table: &str, authors: &Authors) -> Result<TableWatch, Fault> {
        let socket = listen().map_err(|error| {
            let what = format!("watch of nf_tables: {error}");
            Fault::new(what, "run toctocd as root or with CAP_NET_ADMIN")
        })?;
        let table = table.to_owned();
        Ok(TableWatch { socket, table, authors: authors.clone(), open: None })
    }

    /// The foreign changes since the last call. Never waits. Only for the poll loop, after each
    /// task and when the socket is readable: it forgets the authors that have ended.
    pub fn foreign_changes(&mut self) -> Vec<TableChange> {
        let gone = self.authors.gone();
        let noticed = self.look();
        self.authors.forget(&gone);
        noticed
    }

    /// The foreign changes, for an additional watch: forgets no authors.
    pub(super) fn look(&mut self) -> Vec<TableChange> {
        let mut noticed = Vec::new();
        let lost = TableChange { program: String::new(), pid: 0 };
        loop {
            match receive(&self.socket) {
                Ok(Some(datagram)) => self.hear(&datagram, &mut noticed),
                Ok(None) => return noticed,
                // More messages came than the socket could hold. Keep reading.
                Err(Errno::ENOBUFS) => note(&mut noticed, lost.clone()),
                Err(_) => {
                    note(&mut noticed, lost);
                    return noticed;
                }
            }
        }
    }

    fn hear(&mut self, datagram: &[u8], noticed: &mut Vec<TableChange>) {
        for message in split(datagram) {
            let kind = message.message_type();
            let author = message.port_number();
            if kind >> 8 != NF_TABLES || self.authors.are(author) {
                continue;
            }
            let payload = message.payload();
            if kind & 0xff != NEW_GENERATION {
                if touches(payload, &self.table) {
                    self.open = Some(author);
                }
            } else if self.open == Some(author) {
                self.open = None;
                note(noticed, generation(payload));
            }
        }
    }
}

impl AsFd for TableWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn listen() -> std::io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    socket.set_non_blocking(true)?;
    socket.add_membership(GROUP)?;
    Ok(socket)
}

fn note(noticed: &mut Vec<TableChange>, one: TableChange) {
    if noticed.len() < MOST && !noticed.contains(&one) {
        noticed.push(one);
    }
}

/// True if the object is in `table`: attribute 1 of every nf_tables object is its table's name.
fn touches(payload: &[u8], table: &str) -> bool {
    let mut attributes = attributes(payload);
    payload.first() == Some(&INET)
        && attributes.any(|(kind, value)| kind == 1 && text(&value) == table.as_bytes())
}

fn generation(payload: &[u8]) -> TableChange {
    let mut noticed = TableChange { program: String::new(), pid: 0 };
    for (kind, value) in attributes(payload) {
        match kind {
            2 => noticed.pid = <[u8; 4]>::try_from(value.as_slice()).map_or(0, u32::from_be_bytes),
            // Any local process can choose its own name: drop unprintable characters.
            3 => {
                let printable = text(&value).iter().filter(|byte| byte.is_ascii_graphic());
                noticed.program = printable.map(|byte| char::from(*byte)).collect();
            }
            _ => {}
        }
    }
    noticed
}

/// The kind and value of each attribute after the four bytes of netfilter's header.
fn attributes(payload: &[u8]) -> impl Iterator<Item = (u16, Vec<u8>)> {
    let behind = payload.get(4..).unwrap_or_default();
    let attributes = NlasIterator::new(behind).map_while(Result::ok);
    attributes.map(|nla: NlaBuffer<&[u8]>| (nla.kind(), nla.value().to_vec()))
}

/// The bytes up to the first NUL.
fn text(value: &[u8]) -> &[u8] {
    value.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_author_is_ours_until_the_loop_has_heard_all_that_it_did() {
        let authors = Authors::default();
        authors.add(7);
        assert!(authors.are(7) && authors.gone().is_empty());
        authors.ended(7);
        assert!(authors.are(7), "what it did may not have been heard");
        let gone = authors.gone();
        authors.add(8);
        authors.add(7);
        authors.forget(&gone);
        assert!(authors.are(8) && authors.are(7), "another program of the same number");
        authors.ended(7);
        authors.forget(&authors.gone());
        assert!(!authors.are(7));
    }
}
