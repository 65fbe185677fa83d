//! Watches changes of nf_tables, and tells our own changes of our table from foreign ones.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use socket2::{SockFilter, SockRef};

use super::attributes::{attributes, split};
use super::netlink::{INET, NF_TABLES, receive};
use crate::core::types::Fault;

/// The multicast group for nf_tables changes.
const GROUP: u32 = 7;
/// The message that ends a transaction and names its author.
const NEW_GENERATION: u16 = 15;
/// Bytes of announcements that may wait for us: a program may load a large set.
const ROOM: usize = 2 * 1024 * 1024;
/// The most foreign changes kept at a time; further ones are dropped.
const MOST: usize = 16;

/// A change of our table by another program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableChange {
    /// The program's name from the kernel, graphic ASCII only.
    pub program: String,
    pub pid: u32,
}

/// What a watch has heard since the last call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    pub changes: Vec<TableChange>,
    /// True if announcements were lost. That says nothing about our table: look at it.
    pub lost: bool,
}

impl Heard {
    pub fn is_nothing(&self) -> bool {
        *self == Heard::default()
    }

    fn note(&mut self, one: TableChange) {
        if self.changes.len() < MOST && !self.changes.contains(&one) {
            self.changes.push(one);
        }
    }
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

pub struct TableWatch {
    socket: Socket,
    table: String,
    authors: Authors,
    /// The author of a change of our table in a transaction that has not ended yet.
    open: Option<u32>,
}

impl TableWatch {
    /// Starts watching this thread's network namespace. Announcements of the netlink port `deaf_to`
    /// are not even received: thousands of our own elements would fill the socket.
    pub(super) fn open(
        table: &str, authors: &Authors, deaf_to: Option<u32>,
    ) -> Result<TableWatch, Fault> {
        let socket = listen(deaf_to).map_err(|error| {
            let what = format!("watch of nf_tables: {error}");
            Fault::new(what, "run toctocd as root or with CAP_NET_ADMIN")
        })?;
        let table = table.to_owned();
        Ok(TableWatch { socket, table, authors: authors.clone(), open: None })
    }

    /// The foreign changes since the last call. Never waits. Only for the poll loop, after each
    /// task and when the socket is readable: it forgets the authors that have ended.
    pub fn foreign_changes(&mut self) -> Heard {
        let gone = self.authors.gone();
        let heard = self.look();
        self.authors.forget(&gone);
        heard
    }

    /// The foreign changes, for an additional watch: forgets no authors.
    pub(super) fn look(&mut self) -> Heard {
        let mut heard = Heard::default();
        loop {
            match receive(&self.socket) {
                Ok(Some(datagram)) => self.hear(&datagram, &mut heard),
                Ok(None) => return heard,
                // More messages came than the socket could hold. Keep reading.
                Err(Errno::ENOBUFS) => heard.lost = true,
                Err(_) => {
                    heard.lost = true;
                    return heard;
                }
            }
        }
    }

    fn hear(&mut self, datagram: &[u8], heard: &mut Heard) {
        for message in split(datagram) {
            let kind = message.kind;
            let author = message.port;
            if kind >> 8 != NF_TABLES || self.authors.are(author) {
                continue;
            }
            if kind & 0xff != NEW_GENERATION {
                if message.family() == INET && touches(message.body(), &self.table) {
                    self.open = Some(author);
                }
            } else if self.open == Some(author) {
                self.open = None;
                heard.note(generation(message.body()));
            }
        }
    }
}

impl AsFd for TableWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn listen(deaf_to: Option<u32>) -> std::io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    socket.set_non_blocking(true)?;
    // Without CAP_NET_ADMIN this fails, and so does everything that we could watch.
    let _ = setsockopt(&socket.as_fd(), RcvBufForce, &ROOM);
    if let Some(port) = deaf_to {
        SockRef::from(&socket).attach_filter(&not_from(port))?;
    }
    socket.add_membership(GROUP)?;
    Ok(socket)
}

/// A filter that drops what this netlink port did. All messages of a datagram have one author; its
/// port is the fourth word of the header.
fn not_from(port: u32) -> [SockFilter; 4] {
    // A filter loads words as big endian, the header is the machine's.
    let word = u32::from_be_bytes(port.to_ne_bytes());
    [
        SockFilter::new(0x20, 0, 0, 12),
        SockFilter::new(0x15, 0, 1, word),
        SockFilter::new(0x06, 0, 0, 0),
        SockFilter::new(0x06, 0, 0, u32::MAX),
    ]
}

/// True if the object is in `table`: attribute 1 of every nf_tables object is its table's name.
fn touches(body: &[u8], table: &str) -> bool {
    attributes(body).any(|one| one.kind == 1 && one.text() == table)
}

fn generation(body: &[u8]) -> TableChange {
    let mut noticed = TableChange { program: String::new(), pid: 0 };
    for one in attributes(body) {
        match one.kind {
            2 => noticed.pid = one.u32().unwrap_or_default(),
            // Any local process can choose its own name: drop unprintable characters.
            3 => {
                let name = one.value.split(|byte| *byte == 0).next().unwrap_or_default();
                let printable = name.iter().filter(|byte| byte.is_ascii_graphic());
                noticed.program = printable.map(|byte| char::from(*byte)).collect();
            }
            _ => {}
        }
    }
    noticed
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
