//! Hears who changes nf_tables, and tells our own changes of our table from everybody else's.
//! Putting right what was changed is left to `live`.

use std::os::fd::{AsFd, BorrowedFd};

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
/// Authors remembered per look; beyond it the guard is only known to have been changed.
pub(super) const MOST: usize = 16;

/// Somebody else changed our table, or may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableChange {
    /// The program's name as the kernel knows it, printable; empty if announcements were lost.
    pub program: String,
    /// Its process id, 0 if unknown.
    pub pid: u32,
}

/// The socket that hears.
pub(super) struct TableWatch {
    socket: Socket,
    table: String,
    ours: Vec<u32>,
    /// The author (netlink port) of a change of our table whose transaction has not been seen to
    /// end.
    open: Option<u32>,
}

impl TableWatch {
    /// Begins to listen in this thread's network namespace.
    pub(super) fn open(table: &str, port: u32) -> Result<TableWatch, Fault> {
        let listen = || {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            socket.set_non_blocking(true)?;
            socket.add_membership(GROUP)?;
            Ok(socket)
        };
        let trouble = |error: std::io::Error| {
            Fault::new(
                format!("watch of nf_tables: {error}"),
                "run toctocd as root or with CAP_NET_ADMIN",
            )
        };
        let socket = listen().map_err(trouble)?;
        Ok(TableWatch { socket, table: table.to_owned(), ours: vec![port], open: None })
    }

    /// What `poll` may wait for: readable when something in nf_tables changed.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Takes the changes announced by `port` (a netlink port; an nft program's is its pid) for our
    /// own, until the next look.
    pub(super) fn expect(&mut self, port: u32) {
        self.ours.push(port);
    }

    /// Who else changed our table since the last look; empties the socket, never waits.
    pub(super) fn look(&mut self) -> Vec<TableChange> {
        let mut noticed = Vec::new();
        loop {
            match receive(&self.socket) {
                Ok(Some(datagram)) => self.hear(&datagram, &mut noticed),
                Ok(None) => break,
                // ENOBUFS: more happened than the socket could hold. The error is reported once,
                // then reading goes on.
                Err(Errno::ENOBUFS) => {
                    note(&mut noticed, TableChange { program: String::new(), pid: 0 })
                }
                Err(_) => {
                    note(&mut noticed, TableChange { program: String::new(), pid: 0 });
                    break;
                }
            }
        }
        self.ours.truncate(1);
        noticed
    }

    fn hear(&mut self, datagram: &[u8], noticed: &mut Vec<TableChange>) {
        for message in split(datagram) {
            let (kind, author) = (message.message_type(), message.port_number());
            if kind >> 8 != NF_TABLES || self.ours.contains(&author) {
                continue;
            }
            let payload = message.payload();
            if kind & 0xff != NEW_GENERATION {
                if touches(payload, &self.table) {
                    self.open = Some(author);
                }
            } else if self.open.take_if(|open| *open == author).is_some() {
                note(noticed, generation(payload));
            }
        }
    }
}

fn note(noticed: &mut Vec<TableChange>, one: TableChange) {
    if noticed.len() < MOST && !noticed.contains(&one) {
        noticed.push(one);
    }
}

/// Attribute 1 of every nf_tables object is its table's name.
fn touches(payload: &[u8], table: &str) -> bool {
    payload.first() == Some(&INET)
        && attributes(payload).any(|(kind, value)| kind == 1 && text(&value) == table.as_bytes())
}

fn generation(payload: &[u8]) -> TableChange {
    let mut noticed = TableChange { program: String::new(), pid: 0 };
    for (kind, value) in attributes(payload) {
        match kind {
            2 => noticed.pid = <[u8; 4]>::try_from(value.as_slice()).map_or(0, u32::from_be_bytes),
            // Any local process chooses its own name: what would not print is not printed.
            3 => {
                noticed.program = text(&value)
                    .iter()
                    .filter(|b| b.is_ascii_graphic())
                    .map(|b| char::from(*b))
                    .collect()
            }
            _ => {}
        }
    }
    noticed
}

/// (kind, value) of each attribute behind the four bytes of netfilter's header.
fn attributes(payload: &[u8]) -> impl Iterator<Item = (u16, Vec<u8>)> {
    let behind = payload.get(4..).unwrap_or_default();
    NlasIterator::new(behind)
        .map_while(Result::ok)
        .map(|nla: NlaBuffer<&[u8]>| (nla.kind(), nla.value().to_vec()))
}

/// Up to the NUL.
fn text(value: &[u8]) -> &[u8] {
    value.split(|b| *b == 0).next().unwrap_or_default()
}
