//! The records of the state file: 128 bytes each; an opening is followed by its name and stop
//! command, a client's marks by the marks. See `edge::state` for checksums, files and syncs.

use super::bytes::Reader;
use super::grant::{ActiveGrant, GrantKey, Holder};
use super::marks::UsedMarks;
use super::openings::{CommandLine, OpeningEntry};
use super::prefix::Span;
use super::service::{AddressProof, DisconnectPolicy, GrantKind};
use super::types::{Boot, ClientId, Fault, Now, ServiceName, Source, Wall};
use crate::core::bytes::saturated_u16;

/// Bytes of a record without its text.
pub const RECORD: usize = 128;
/// The most bytes of text after a record: a door's name and its stop command.
pub const TEXT: usize = 8 * 1024;

/// One fact that a restart must not forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Seen {
        client: ClientId,
        timestamp: Wall,
    },
    /// Timestamps of this client that count no more: one that was refused and answered or needed a
    /// challenge, or all up to one that was ahead.
    Burned {
        client: ClientId,
        first: Wall,
        last: Wall,
    },
    /// All marks of this client so far, and nothing else. Written by compaction only.
    Marks {
        client: ClientId,
        marks: UsedMarks,
    },
    /// The wall clock showed this while it was trusted.
    Newest {
        wall: Wall,
    },
    /// At this time it was found that records before this one may be missing. Only challenges
    /// count until `Reinitialised`.
    Lost {
        at: Wall,
    },
    /// An admin accepted the loss at this time.
    Reinitialised {
        at: Wall,
    },
    Granted(ActiveGrant),
    /// A grant ended before its time.
    Ended(GrantKey),
    /// A door or a command service is about to open: its stop command must run, whatever happens.
    Opened(OpeningEntry),
    /// The stop command of the opening with this id has ended.
    Stopped {
        id: u64,
    },
    /// This client is no longer enrolled, and its marks are of no use.
    Forgotten {
        client: ClientId,
    },
}

impl Record {
    /// Appends this record's bytes to `out`.
    /// Error: a text is longer than [`TEXT`]; `out` is then as before.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), Fault> {
        let mut body = Vec::new();
        let mut text = Vec::new();
        match self {
            Record::Seen { client, timestamp } => {
                body.extend(client.0);
                body.extend(timestamp.0.to_be_bytes());
            }
            Record::Burned { client, first, last } => {
                body.extend(client.0);
                body.extend(first.0.to_be_bytes());
                body.extend(last.0.to_be_bytes());
            }
            Record::Marks { client, marks } => {
                body.extend(client.0);
                marks.encode(&mut text);
            }
            Record::Newest { wall: at } | Record::Lost { at } | Record::Reinitialised { at } => {
                body.extend(at.0.to_be_bytes());
            }
            Record::Granted(grant) => put_grant(&mut body, grant),
            Record::Ended(key) => put_key(&mut body, key),
            Record::Opened(entry) => put_entry(&mut body, &mut text, entry)?,
            Record::Stopped { id } => body.extend(id.to_be_bytes()),
            Record::Forgotten { client } => body.extend(client.0),
        }
        // The layouts are ours and at most 112 bytes long; `every_record_comes_back` proves it.
        // Texts are checked, and marks are at most 1546 bytes.
        debug_assert!(body.len() <= RECORD - 4 && text.len() <= TEXT);
        body.resize(RECORD - 4, 0);
        out.extend([self.kind(), 0]);
        out.extend(saturated_u16(text.len()).to_be_bytes());
        out.extend(body);
        out.extend(text);
        Ok(())
    }

    /// Reads the next record; `None` if the bytes are not one.
    pub fn decode(reader: &mut Reader<'_>) -> Option<Record> {
        let mut head = Reader::new(reader.take(RECORD)?);
        let kind = head.u8()?;
        head.zeros(1)?;
        let length = head.u16()?;
        let text = reader.take(usize::from(length))?;
        if !text.is_empty() && !matches!(kind, 3 | 9 | 11) {
            return None;
        }
        let record = match kind {
            1 => Record::Seen { client: client(&mut head)?, timestamp: wall(&mut head)? },
            2 => {
                let client = client(&mut head)?;
                let (first, last) = (wall(&mut head)?, wall(&mut head)?);
                if first > last {
                    return None;
                }
                Record::Burned { client, first, last }
            }
            3 => Record::Marks { client: client(&mut head)?, marks: UsedMarks::decode(text)? },
            4 => Record::Newest { wall: wall(&mut head)? },
            5 => Record::Lost { at: wall(&mut head)? },
            6 => Record::Reinitialised { at: wall(&mut head)? },
            7 => Record::Granted(take_grant(&mut head)?),
            8 => Record::Ended(take_key(&mut head)?),
            9 | 11 => Record::Opened(take_entry(kind, &mut head, text)?),
            10 => Record::Stopped { id: head.u64()? },
            12 => Record::Forgotten { client: client(&mut head)? },
            _ => return None,
        };
        if head.rest().iter().all(|byte| *byte == 0) { Some(record) } else { None }
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
            Record::Forgotten { .. } => 12,
        }
    }
}

// By their discriminants, which are their bytes in the journal.
const FORMS: [GrantKind; 2] = [GrantKind::Time, GrantKind::Once];
const CUTS: [DisconnectPolicy; 3] =
    [DisconnectPolicy::Never, DisconnectPolicy::Revoked, DisconnectPolicy::Closed];
const PROOFS: [AddressProof; 3] = [AddressProof::Both, AddressProof::Seen, AddressProof::Signed];

fn client(head: &mut Reader<'_>) -> Option<ClientId> {
    head.array().map(ClientId)
}

fn wall(head: &mut Reader<'_>) -> Option<Wall> {
    head.u64().map(Wall)
}

fn put_key(out: &mut Vec<u8>, key: &GrantKey) {
    let (kind, holder) = match key.holder {
        Holder::Client(client) => (1, client.0),
        Holder::Door(door) => (2, door),
    };
    out.push(kind);
    out.extend(holder);
    out.extend(key.service.to_bytes());
    out.extend(key.source.to_bytes());
    out.extend(key.source_port.to_be_bytes());
    out.push(key.span.ignored());
}

fn take_key(head: &mut Reader<'_>) -> Option<GrantKey> {
    let holder = match (head.u8()?, head.array()?) {
        (1, id) => Holder::Client(ClientId(id)),
        (2, id) => Holder::Door(id),
        _ => return None,
    };
    let service = ServiceName::from_bytes(head.array()?)?;
    let source = Source::from_bytes(head.array()?);
    let source_port = head.u16()?;
    let span = Span::from_byte(head.u8()?, source)?;
    let sound = span.of(source) == source && (source_port == 0 || span == Span::HOST);
    sound.then_some(GrantKey { holder, service, source, source_port, span })
}

impl GrantKey {
    /// Its bytes in a record, in hex: for lists of grants that are read in parts.
    pub fn to_text(&self) -> String {
        let mut bytes = Vec::new();
        put_key(&mut bytes, self);
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Reads [`GrantKey::to_text`]; `None` if it is another text.
    pub fn from_text(text: &str) -> Option<GrantKey> {
        let mut bytes = Vec::new();
        for pair in text.as_bytes().chunks(2) {
            bytes.push(u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?);
        }
        let mut reader = Reader::new(&bytes);
        let key = take_key(&mut reader)?;
        reader.finish().map(|()| key)
    }
}

fn put_grant(out: &mut Vec<u8>, grant: &ActiveGrant) {
    put_key(out, &grant.key);
    out.push(grant.form as u8);
    out.extend(grant.ports.to_be_bytes());
    out.extend(grant.opened.wall.0.to_be_bytes());
    out.extend(grant.opened.boot.0.to_be_bytes());
    out.extend(grant.seconds.to_be_bytes());
    out.push(grant.cut as u8);
    out.push(grant.proof as u8);
}

fn take_grant(head: &mut Reader<'_>) -> Option<ActiveGrant> {
    let key = take_key(head)?;
    let form = *FORMS.get(usize::from(head.u8()?.checked_sub(1)?))?;
    let ports = head.u64()?;
    let opened = Now { wall: wall(head)?, boot: Boot(head.u64()?) };
    let seconds = head.u32()?;
    let cut = *CUTS.get(usize::from(head.u8()?))?;
    let proof = *PROOFS.get(usize::from(head.u8()?))?;
    Some(ActiveGrant { key, form, ports, opened, seconds, cut, proof })
}

fn put_entry(out: &mut Vec<u8>, text: &mut Vec<u8>, entry: &OpeningEntry) -> Result<(), Fault> {
    text.extend(entry.door.as_bytes());
    match &entry.stop {
        CommandLine::Shell(line) => text.extend(line.as_bytes()),
        CommandLine::Argv(argv) => {
            for argument in argv {
                text.extend(argument.as_bytes());
                // No argument can contain a NUL.
                text.push(0);
            }
        }
    }
    let door = match u16::try_from(entry.door.len()) {
        Ok(length) if text.len() <= TEXT => length,
        _ => {
            let door = &entry.door;
            let what = format!("{door}: its name and stop command are longer than {TEXT} bytes");
            let remedy = "put the command into a script and name that";
            return Err(Fault::new(what, remedy));
        }
    };
    out.extend(entry.id.to_be_bytes());
    out.extend(Source::new(entry.source).to_bytes());
    out.extend(entry.opened.0.to_be_bytes());
    out.extend(entry.timeout.to_be_bytes());
    out.extend(door.to_be_bytes());
    Ok(())
}

fn take_entry(kind: u8, head: &mut Reader<'_>, text: &[u8]) -> Option<OpeningEntry> {
    if text.len() > TEXT {
        return None;
    }
    let id = head.u64()?;
    let source = Source::from_bytes(head.array()?).ip();
    let opened = wall(head)?;
    let timeout = head.u32()?;
    let (door, stop) = text.split_at_checked(usize::from(head.u16()?))?;
    let door = String::from_utf8(door.to_vec()).ok()?;
    let stop = String::from_utf8(stop.to_vec()).ok()?;
    let stop = match kind {
        9 => CommandLine::Shell(stop),
        _ => CommandLine::Argv(stop.strip_suffix('\0')?.split('\0').map(str::to_owned).collect()),
    };
    Some(OpeningEntry { id, door, source, stop, opened, timeout })
}

#[cfg(test)]
mod tests;
