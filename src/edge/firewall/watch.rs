//! Hears who changes nf_tables, and tells our own changes of our table from everybody else's.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use netlink_packet_core::{NlaBuffer, NlasIterator};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;

use super::netlink::{receive, split};
use crate::core::types::Fault;

/// The multicast group in which the kernel announces changes of nf_tables.
const GROUP: u32 = 7;
/// The subsystem, high byte of a message's type.
const NF_TABLES: u16 = 10;
/// The message that ends a transaction and names its author.
const NEW_GENERATION: u16 = 15;
/// The family of our table.
const INET: u8 = 1;
/// Changes by others remembered at a time; beyond it the guard is only known to have been changed.
const MOST: usize = 16;

/// Somebody else changed our table, or may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableChange {
    /// The program's name as the kernel knows it, printable; empty if announcements were lost.
    pub program: String,
    /// Its process id, 0 if unknown.
    pub pid: u32,
}

/// The netlink ports under which our own changes are announced: an nft program's is its pid.
#[derive(Clone, Default)]
pub(super) struct Authors {
    list: Arc<Mutex<Vec<Author>>>,
    /// Watches beside the loop's: until they have heard, no author is forgotten.
    watches: Arc<AtomicUsize>,
}

/// A watch beside the loop's hears the authors until this is dropped.
pub(super) struct Remembered(Arc<AtomicUsize>);

impl Drop for Remembered {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Author {
    port: u32,
    /// It changes nothing any more; what it changed may not have been heard yet.
    has_ended: bool,
}

impl Authors {
    /// To be called before it changes anything.
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

    /// Keeps all authors until the answer is dropped.
    pub(super) fn remember(&self) -> Remembered {
        self.watches.fetch_add(1, Ordering::SeqCst);
        Remembered(Arc::clone(&self.watches))
    }

    /// Those of whom nothing new will be announced, unless another watch has yet to hear them.
    pub(super) fn gone(&self) -> Vec<u32> {
        if self.watches.load(Ordering::SeqCst) > 0 {
            return Vec::new();
        }
        let authors = self.lock();
        authors.iter().filter(|author| author.has_ended).map(|author| author.port).collect()
    }

    /// Their numbers may be another program's next.
    fn forget(&self, gone: &[u32]) {
        self.lock().retain(|author| !(author.has_ended && gone.contains(&author.port)));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Author>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The socket that hears. Poll it for reading.
pub struct TableWatch {
    socket: Socket,
    table: String,
    authors: Authors,
    /// The author of a change of our table whose transaction has not been seen to end.
    open: Option<u32>,
}

impl TableWatch {
    /// Begins to listen in this thread's network namespace.
    pub(super) fn open(table: &str, authors: &Authors) -> Result<TableWatch, Fault> {
        let socket = listen().map_err(|error| {
            let what = format!("watch of nf_tables: {error}");
            Fault::new(what, "run toctocd as root or with CAP_NET_ADMIN")
        })?;
        let table = table.to_owned();
        Ok(TableWatch { socket, table, authors: authors.clone(), open: None })
    }

    /// Who else changed our table since this was last asked. Never waits. For the poll loop alone,
    /// after every task and when the socket is readable: ended authors are strangers from here on.
    pub fn foreign_changes(&mut self) -> Vec<TableChange> {
        let gone = self.authors.gone();
        let noticed = self.look();
        self.authors.forget(&gone);
        noticed
    }

    /// The same for a watch beside the loop's.
    pub(super) fn look(&mut self) -> Vec<TableChange> {
        let mut noticed = Vec::new();
        let lost = TableChange { program: String::new(), pid: 0 };
        loop {
            match receive(&self.socket) {
                Ok(Some(datagram)) => self.hear(&datagram, &mut noticed),
                Ok(None) => return noticed,
                // More happened than the socket could hold. Reading goes on.
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

/// Attribute 1 of every nf_tables object is its table's name.
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
            // Any local process chooses its own name: what would not print is not printed.
            3 => {
                let printable = text(&value).iter().filter(|byte| byte.is_ascii_graphic());
                noticed.program = printable.map(|byte| char::from(*byte)).collect();
            }
            _ => {}
        }
    }
    noticed
}

/// (kind, value) of each attribute behind the four bytes of netfilter's header.
fn attributes(payload: &[u8]) -> impl Iterator<Item = (u16, Vec<u8>)> {
    let behind = payload.get(4..).unwrap_or_default();
    let attributes = NlasIterator::new(behind).map_while(Result::ok);
    attributes.map(|nla: NlaBuffer<&[u8]>| (nla.kind(), nla.value().to_vec()))
}

/// Up to the NUL.
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
