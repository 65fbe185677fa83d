//! What the state file holds: 128 bytes a record; behind a door's opening its stop command, behind
//! a client's marks the marks. Checksums, files and syncs are left to `edge::state`, what the
//! records amount to to `ledger`.

use super::bytes::Reader;
use super::grants::{ActiveGrant, GrantKey, Holder};
use super::openings::{CommandLine, OpeningEntry};
use super::prefix::Span;
use super::replay::UsedMarks;
use super::service::{AddressProof, DisconnectPolicy, GrantKind};
use super::types::{
    Boot, ClientId, Fault, Now, Port, Proto, SERVICE_PORTS, ServiceName, Source, Wall,
};

/// Bytes of a record without its text.
pub const RECORD: usize = 128;
/// The most bytes of text behind a record: a door's name and a stop command of
/// [`super::leases::COMMAND`] bytes.
pub const TEXT: usize = 8 * 1024;

/// One thing that a restart must not forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A timestamp of this client was accepted.
    Seen {
        /// Whose.
        client: ClientId,
        /// Which.
        timestamp: Wall,
    },
    /// A timestamp of this client was refused and answered, or needed a challenge.
    Burned {
        /// Whose.
        client: ClientId,
        /// Which.
        timestamp: Wall,
    },
    /// All marks of this client so far, and nothing else. Written by compaction only.
    Marks {
        /// Whose.
        client: ClientId,
        /// They.
        marks: UsedMarks,
    },
    /// The wall clock showed this while it was trusted.
    Newest {
        /// What it showed.
        wall: Wall,
    },
    /// Records before this one may be missing: only challenges count until `Reinitialised`.
    Lost {
        /// When it was found.
        at: Wall,
    },
    /// An admin accepted the loss.
    Reinitialised {
        /// When.
        at: Wall,
    },
    /// A grant began.
    Granted(ActiveGrant),
    /// A grant ended before its time.
    Ended(GrantKey),
    /// A door or a service's commands are about to open: its stop command must run, whatever comes.
    Opened(OpeningEntry),
    /// The stop command of this opening has ended.
    Stopped {
        /// The opening's id.
        id: u64,
    },
}

impl Record {
    /// Appends this record's bytes to `out`.
    ///
    /// # Errors
    /// When a text is longer than [`TEXT`] allows; `out` is then as before.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), Fault> {
        let mut head = vec![self.kind(), 0];
        let mut text = Vec::new();
        match self {
            Record::Seen { client, timestamp } | Record::Burned { client, timestamp } => {
                put_all(&mut head, &[&[0; 2], &client.0, &timestamp.0.to_be_bytes()]);
            }
            Record::Marks { client, marks } => {
                marks.encode(&mut text);
                let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
                put_all(&mut head, &[&length.to_be_bytes(), &client.0]);
            }
            Record::Newest { wall }
            | Record::Lost { at: wall }
            | Record::Reinitialised { at: wall } => {
                put_all(&mut head, &[&[0; 2], &wall.0.to_be_bytes()]);
            }
            Record::Granted(live) => put_live(&mut head, live),
            Record::Ended(key) => {
                head.extend([0; 2]);
                put_key(&mut head, key);
            }
            Record::Opened(opened) => put_opened(&mut head, &mut text, opened)?,
            Record::Stopped { id } => put_all(&mut head, &[&[0; 2], &id.to_be_bytes()]),
        }
        // The layouts are ours and at most 112 bytes long; `every_record_comes_back` holds that.
        debug_assert!(head.len() <= RECORD);
        head.resize(RECORD, 0);
        out.extend_from_slice(&head);
        out.extend_from_slice(&text);
        Ok(())
    }

    /// Reads the next record; `None` if the bytes are none.
    pub fn decode(reader: &mut Reader<'_>) -> Option<Record> {
        let mut head = Reader::new(reader.take(RECORD)?);
        let kind = head.u8()?;
        head.zeros(1)?;
        let length = head.u16()?;
        let text = reader.take(usize::from(length))?;
        let record = decode_kind(kind, &mut head, text)?;
        head.rest().iter().all(|byte| *byte == 0).then_some(record)
    }

    fn kind(&self) -> u8 {
        match self {
            Record::Seen { .. } => 1,
            Record::Burned { .. } => 2,
            Record::Marks { .. } => 3,
            Record::Newest { .. } => 4,
            Record::Lost { .. } => 5,
            Record::Reinitialised { .. } => 6,
            Record::Granted(_) => 7,
            Record::Ended(_) => 8,
            Record::Opened(OpeningEntry { stop: CommandLine::Shell(_), .. }) => 9,
            Record::Stopped { .. } => 10,
            Record::Opened(OpeningEntry { stop: CommandLine::Argv(_), .. }) => 11,
        }
    }
}

fn decode_kind(kind: u8, head: &mut Reader<'_>, text: &[u8]) -> Option<Record> {
    (matches!(kind, 3 | 9 | 11) || text.is_empty()).then_some(())?;
    Some(match kind {
        1 => Record::Seen { client: client(head)?, timestamp: wall(head)? },
        2 => Record::Burned { client: client(head)?, timestamp: wall(head)? },
        3 => Record::Marks { client: client(head)?, marks: UsedMarks::decode(text)? },
        4 => Record::Newest { wall: wall(head)? },
        5 => Record::Lost { at: wall(head)? },
        6 => Record::Reinitialised { at: wall(head)? },
        7 => Record::Granted(take_live(head)?),
        8 => Record::Ended(take_key(head)?),
        9 | 11 => Record::Opened(take_opened(kind, head, text)?),
        10 => Record::Stopped { id: head.u64()? },
        _ => return None,
    })
}

fn put_all(out: &mut Vec<u8>, fields: &[&[u8]]) {
    for field in fields {
        out.extend_from_slice(field);
    }
}

fn client(head: &mut Reader<'_>) -> Option<ClientId> {
    head.array().map(ClientId)
}

fn wall(head: &mut Reader<'_>) -> Option<Wall> {
    head.u64().map(Wall)
}

fn put_key(out: &mut Vec<u8>, key: &GrantKey) {
    let (kind, holder) = match &key.holder {
        Holder::Client(client) => (1, client.0),
        Holder::Door(door) => (2, *door),
    };
    put_all(out, &[&[kind], &holder, &key.service.to_bytes(), &key.source.to_bytes()]);
    out.extend_from_slice(&key.source_port.to_be_bytes());
    out.push(match key.span {
        Span::Host => 0,
        Span::Net64 => 1,
    });
}

fn take_key(head: &mut Reader<'_>) -> Option<GrantKey> {
    let holder = match (head.u8()?, head.array()?) {
        (1, id) => Holder::Client(ClientId(id)),
        (2, id) => Holder::Door(id),
        _ => return None,
    };
    let (service, source) =
        (ServiceName::from_bytes(head.array()?)?, Source::from_bytes(head.array()?));
    let source_port = head.u16()?;
    let span = match head.u8()? {
        0 => Span::Host,
        1 => Span::Net64,
        _ => return None,
    };
    Some(GrantKey { holder, service, source, source_port, span })
}

fn put_live(out: &mut Vec<u8>, live: &ActiveGrant) {
    out.extend([0; 2]);
    put_key(out, &live.key);
    out.push(match live.form {
        GrantKind::Time => 1,
        GrantKind::Once => 2,
    });
    for port in live.ports {
        out.push(port.map_or(0, |p| p.proto.number()));
        out.extend_from_slice(&port.map_or(0, |p| p.number).to_be_bytes());
    }
    put_all(
        out,
        &[
            &live.opened.wall.0.to_be_bytes(),
            &live.opened.boot.0.to_be_bytes(),
            &live.seconds.to_be_bytes(),
        ],
    );
    out.push(match live.cut {
        DisconnectPolicy::Never => 0,
        DisconnectPolicy::Revoked => 1,
        DisconnectPolicy::Closed => 2,
    });
    out.push(match live.basis {
        AddressProof::Both => 0,
        AddressProof::Seen => 1,
        AddressProof::Signed => 2,
    });
}

fn take_live(head: &mut Reader<'_>) -> Option<ActiveGrant> {
    let key = take_key(head)?;
    let form = match head.u8()? {
        1 => GrantKind::Time,
        2 => GrantKind::Once,
        _ => return None,
    };
    let mut ports = [None; SERVICE_PORTS];
    for slot in &mut ports {
        *slot = match (head.u8()?, head.u16()?) {
            (0, 0) => None,
            (proto, number) => Some(Port { proto: Proto::from_number(proto)?, number }),
        };
    }
    let opened = Now { wall: wall(head)?, boot: Boot(head.u64()?) };
    let seconds = head.u32()?;
    let cut = match head.u8()? {
        0 => DisconnectPolicy::Never,
        1 => DisconnectPolicy::Revoked,
        2 => DisconnectPolicy::Closed,
        _ => return None,
    };
    let basis = match head.u8()? {
        0 => AddressProof::Both,
        1 => AddressProof::Seen,
        2 => AddressProof::Signed,
        _ => return None,
    };
    Some(ActiveGrant { key, form, ports, opened, seconds, cut, basis })
}

fn put_opened(head: &mut Vec<u8>, text: &mut Vec<u8>, opened: &OpeningEntry) -> Result<(), Fault> {
    text.extend_from_slice(opened.door.as_bytes());
    match &opened.stop {
        CommandLine::Shell(line) => text.extend_from_slice(line.as_bytes()),
        // Each with a NUL behind it, which no argument can have in it.
        CommandLine::Argv(argv) => {
            argv.iter().for_each(|argument| put_all(text, &[argument.as_bytes(), &[0]]))
        }
    }
    let too_long = || {
        let what = format!(
            "{}: the door's name and stop command are longer than {TEXT} bytes",
            opened.door
        );
        Fault::new(what, "put the command into a script and name that")
    };
    let length =
        u16::try_from(text.len()).ok().filter(|n| usize::from(*n) <= TEXT).ok_or_else(too_long)?;
    let door = u16::try_from(opened.door.len()).map_err(|_| too_long())?;
    put_all(
        head,
        &[&length.to_be_bytes(), &opened.id.to_be_bytes(), &Source::new(opened.source).to_bytes()],
    );
    put_all(
        head,
        &[&opened.opened.0.to_be_bytes(), &opened.timeout.to_be_bytes(), &door.to_be_bytes()],
    );
    Ok(())
}

fn take_opened(kind: u8, head: &mut Reader<'_>, text: &[u8]) -> Option<OpeningEntry> {
    (text.len() <= TEXT).then_some(())?;
    let (id, source) = (head.u64()?, Source::from_bytes(head.array()?).ip());
    let (opened, timeout, door) = (wall(head)?, head.u32()?, head.u16()?);
    let (door, stop) = text.split_at_checked(usize::from(door))?;
    let (door, stop) =
        (String::from_utf8(door.to_vec()).ok()?, String::from_utf8(stop.to_vec()).ok()?);
    let stop = match kind {
        9 => CommandLine::Shell(stop),
        _ => CommandLine::Argv(stop.strip_suffix('\0')?.split('\0').map(str::to_owned).collect()),
    };
    Some(OpeningEntry { id, door, source, stop, opened, timeout })
}

#[cfg(test)]
mod tests;
