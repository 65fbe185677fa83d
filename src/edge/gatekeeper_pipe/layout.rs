//! The bytes of each message: its number in one byte, then fixed fields, big-endian. Bytes that do
//! not fill a layout exactly are no message. See `messages` for the meaning.

use std::net::{IpAddr, Ipv6Addr};

use super::fields::{Fields, client, day, flag, ip, optional, secret, source, step, steps};
use super::{
    ADDRESSES, CLIENTS, EncodedMessage, FILTER_STEPS, LONGEST, Message, OwnAddress, SHORT, Tally,
    ToGatekeeper, ToListener,
};
use crate::core::bytes::Reader;
use crate::core::door::TcpFlags;
use crate::core::door::first_steps::{FirstStep, HELD, HeldSteps};
use crate::core::engine::KnownClient;
use crate::core::keyring::{FilterDrops, Secret};
use crate::core::knock::{HandedKnock, RECEIPT_BODY};
use crate::core::sequence::{DoorSpec, Ipv6, Target};
use crate::core::types::{ClientId, Counters, GatewayId, RealmId, Reject};
use crate::edge::bpf::FilterSpec;

impl Message for ToListener {
    const LONGEST: usize = LONGEST;

    fn encode(self) -> EncodedMessage {
        let fields = match self {
            Self::Gateway {
                realm,
                gateway,
                mask,
                current,
                other,
                port,
                burst,
                per_second,
                clients,
            } => Fields::of(1)
                .put(&realm.0)
                .put(&gateway.0)
                .put(mask.expose())
                .put(current.expose())
                .optional(other.as_ref().map(Secret::expose))
                .u16(port)
                .u32(burst)
                .u32(per_second)
                .u32(clients),
            Self::Clients(clients) => encode_clients(&clients),
            Self::Doors { ipv6, debug } => Fields::of(3).u8(encode_ipv6(ipv6)).bool(debug),
            Self::Door { index, spec } => encode_door(index, &spec),
            Self::Sequence { door, steps } => Fields::of(5).u16(door).steps(&steps),
            Self::Addresses { is_first, part } => encode_addresses(is_first, &part),
            Self::AddressesDone => Fields::of(7),
            Self::Capture { interface } => Fields::of(8).u32(interface),
            Self::Filter(part) => encode_filter(&part),
            Self::Go { user } => {
                let (uid, gid) = user.unwrap_or_default();
                Fields::of(11).bool(user.is_some()).u32(uid).u32(gid)
            }
            Self::Verdict { ticket, spent, receipt } => {
                Fields::of(12).u64(ticket).bool(spent).optional(receipt.as_ref())
            }
            Self::AskCounters => Fields::of(13),
            Self::Stop => Fields::of(14),
            Self::Release { capture } => Fields::of(15).u16(capture),
            Self::Forget { tag } => Fields::of(16).put(&tag),
            Self::MakeXdp => Fields::of(17),
            Self::FirstSteps(steps) => encode_first_steps(&steps),
        };
        fields.finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let r = &mut reader;
        let message = match r.u8()? {
            1 => Self::Gateway {
                realm: RealmId(r.array()?),
                gateway: GatewayId(r.array()?),
                mask: secret(r)?,
                current: secret(r)?,
                other: match optional(r, 32)? {
                    Some(bytes) => Some(secret(&mut Reader::new(bytes))?),
                    None => None,
                },
                port: r.u16()?,
                burst: r.u32()?,
                per_second: r.u32()?,
                clients: r.u32()?,
            },
            2 => Self::Clients(decode_clients(r)?),
            3 => Self::Doors { ipv6: decode_ipv6(r.u8()?)?, debug: flag(r)? },
            4 => Self::Door { index: r.u16()?, spec: decode_door(r)? },
            5 => Self::Sequence { door: r.u16()?, steps: steps(r)? },
            6 => Self::Addresses { is_first: flag(r)?, part: addresses(r)? },
            7 => Self::AddressesDone,
            8 => Self::Capture { interface: r.u32()? },
            9 => Self::Filter(decode_filter(r)?),
            11 => {
                let user = match flag(r)? {
                    true => Some((r.u32()?, r.u32()?)),
                    false => r.zeros(8).map(|_| None)?,
                };
                Self::Go { user }
            }
            12 => Self::Verdict {
                ticket: r.u64()?,
                spent: flag(r)?,
                receipt: match optional(r, RECEIPT_BODY)? {
                    Some(bytes) => Some(bytes.try_into().ok()?),
                    None => None,
                },
            },
            13 => Self::AskCounters,
            14 => Self::Stop,
            15 => Self::Release { capture: r.u16()? },
            16 => Self::Forget { tag: r.array()? },
            17 => Self::MakeXdp,
            18 => Self::FirstSteps(decode_first_steps(r)?),
            _ => return None,
        };
        reader.finish().map(|()| message)
    }
}

fn encode_clients(clients: &[KnownClient]) -> Fields {
    let count = clients.len().min(CLIENTS);
    let mut fields = Fields::with_room(2, LONGEST).u8(count as u8);
    for one in &clients[..count] {
        fields = fields.client(one);
    }
    fields
}

fn decode_clients(r: &mut Reader<'_>) -> Option<Vec<KnownClient>> {
    let count = usize::from(r.u8()?);
    if count > CLIENTS {
        return None;
    }
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        clients.push(client(r)?);
    }
    Some(clients)
}

fn encode_addresses(is_first: bool, part: &[OwnAddress]) -> Fields {
    let count = part.len().min(ADDRESSES);
    let mut fields = Fields::of(6).bool(is_first).u8(count as u8);
    for one in &part[..count] {
        fields = fields.ip(one.address).bool(one.knock).bool(one.door);
    }
    fields
}

fn addresses(r: &mut Reader<'_>) -> Option<Vec<OwnAddress>> {
    let count = usize::from(r.u8()?);
    if count > ADDRESSES {
        return None;
    }
    let mut part = Vec::with_capacity(count);
    for _ in 0..count {
        part.push(OwnAddress { address: ip(r)?, knock: flag(r)?, door: flag(r)? });
    }
    Some(part)
}

fn encode_filter(part: &FilterSpec) -> Fields {
    let count = part.steps.len().min(FILTER_STEPS);
    let mut fields = Fields::with_room(9, LONGEST)
        .bool(part.knock_port.is_some())
        .u16(part.knock_port.unwrap_or(0))
        .bool(part.outgoing)
        .u16(count as u16);
    for (one, flags) in &part.steps[..count] {
        fields = fields.step(*one).u8(flags.set).u8(flags.unset);
    }
    fields
}

fn encode_first_steps(steps: &HeldSteps) -> Fields {
    let [first, before] = [steps.first.len(), steps.before.len()].map(|count| count.min(HELD));
    let mut fields = Fields::with_room(18, LONGEST).u32(steps.seconds).u8(first as u8);
    for FirstStep { step, flags, after } in &steps.first[..first] {
        fields = fields.step(*step).u8(flags.set).u8(flags.unset).u64(*after);
    }
    fields = fields.u8(before as u8);
    for step in &steps.before[..before] {
        fields = fields.step(*step);
    }
    fields
}

fn decode_first_steps(r: &mut Reader<'_>) -> Option<HeldSteps> {
    let mut steps = HeldSteps { seconds: r.u32()?, ..HeldSteps::default() };
    for _ in 0..count_of_steps(r)? {
        let (step, flags) = (step(r)?, TcpFlags { set: r.u8()?, unset: r.u8()? });
        steps.first.push(FirstStep { step, flags, after: r.u64()? });
    }
    for _ in 0..count_of_steps(r)? {
        steps.before.push(step(r)?);
    }
    Some(steps)
}

fn count_of_steps(r: &mut Reader<'_>) -> Option<u8> {
    r.u8().filter(|count| usize::from(*count) <= HELD)
}

fn decode_filter(r: &mut Reader<'_>) -> Option<FilterSpec> {
    let knock_port = match (flag(r)?, r.u16()?) {
        (true, port) => Some(port),
        (false, 0) => None,
        (false, _) => return None,
    };
    let outgoing = flag(r)?;
    let count = usize::from(r.u16()?);
    if count > FILTER_STEPS {
        return None;
    }
    let mut steps = Vec::with_capacity(count);
    for _ in 0..count {
        steps.push((step(r)?, TcpFlags { set: r.u8()?, unset: r.u8()? }));
    }
    Some(FilterSpec { knock_port, steps, outgoing })
}

fn encode_ipv6(ipv6: Ipv6) -> u8 {
    match ipv6 {
        Ipv6::Counts => 0,
        Ipv6::Refused => 1,
        Ipv6::Ignored => 2,
    }
}

fn decode_ipv6(number: u8) -> Option<Ipv6> {
    let all = [Ipv6::Counts, Ipv6::Refused, Ipv6::Ignored];
    all.into_iter().find(|ipv6| encode_ipv6(*ipv6) == number)
}

/// The address field of a target without an address.
const NOWHERE: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

fn encode_door(index: u16, spec: &DoorSpec) -> Fields {
    let (kind, only) = match spec.target {
        Target::Own => (0, None),
        Target::Only(ip) => (1, Some(ip)),
        Target::Never => (2, None),
    };
    Fields::of(4)
        .u16(index)
        .steps(&spec.sequence)
        .u64(spec.seq_timeout.cast_unsigned())
        .u8(spec.flags.set)
        .u8(spec.flags.unset)
        .u8(kind)
        .ip(only.unwrap_or(NOWHERE))
        .bool(spec.one_time)
        .bool(spec.tolerate_duplicates)
        .bool(spec.own)
        .u32(spec.pause_after)
}

fn decode_door(r: &mut Reader<'_>) -> Option<DoorSpec> {
    let sequence = steps(r)?;
    let seq_timeout = r.u64()?.cast_signed();
    let flags = TcpFlags { set: r.u8()?, unset: r.u8()? };
    let kind = r.u8()?;
    let only = ip(r)?;
    let target = match (kind, only == NOWHERE) {
        (0, true) => Target::Own,
        (1, _) => Target::Only(only),
        (2, true) => Target::Never,
        _ => return None,
    };
    let one_time = flag(r)?;
    let tolerate_duplicates = flag(r)?;
    let own = flag(r)?;
    let pause_after = r.u32()?;
    Some(DoorSpec {
        sequence,
        seq_timeout,
        flags,
        target,
        one_time,
        tolerate_duplicates,
        own,
        pause_after,
    })
}

impl Message for ToGatekeeper {
    const LONGEST: usize = SHORT;

    fn encode(self) -> EncodedMessage {
        let fields = match self {
            Self::Hello => Fields::of(0),
            Self::Ready { degraded } => Fields::of(1).u32(degraded),
            Self::Failed { step, errno } => Fields::of(2).u8(step).u32(errno.cast_unsigned()),
            Self::NoSocket { capture, step, errno } => {
                Fields::of(14).u16(capture).u8(step).u32(errno.cast_unsigned())
            }
            Self::Knock(knock) => Fields::of(3)
                .u64(knock.ticket)
                .put(&knock.client.0)
                .day(knock.day)
                .put(&knock.h)
                .put(&knock.body)
                .source(knock.source)
                .u16(knock.source_port),
            Self::Completed { door, source } => Fields::of(4).u16(door).ip(source),
            Self::Stage { door, source, stage } => Fields::of(5).u16(door).ip(source).u8(stage),
            Self::TimedOut { door, source, stage } => Fields::of(6).u16(door).ip(source).u8(stage),
            Self::Seen { source, source_port, destination, step, length } => {
                Fields::of(7).ip(source).u16(source_port).ip(destination).step(step).u16(length)
            }
            Self::Removed { source, success } => Fields::of(8).ip(source).bool(success),
            Self::Ignored { flag, wanted } => Fields::of(9).u8(flag).bool(wanted),
            Self::Alarm { client, first, again } => {
                Fields::of(10).put(&client.0).source(first).source(again)
            }
            Self::Counters(tally) => {
                let Tally { rejected, filtered, holds, xdp, read, lost, doors, waiting } = tally;
                let mut fields = Fields::of(11);
                for count in rejected.0 {
                    fields = fields.u64(count);
                }
                let FilterDrops { unknown_tag, length, client_mac, copies, quota, first_step } =
                    filtered;
                for number in [unknown_tag, length, client_mac, copies, quota, first_step] {
                    fields = fields.u64(number);
                }
                fields = fields.bool(holds);
                fields.u64(xdp).u64(read).u64(lost).u64(doors).u64(waiting)
            }
            Self::Down { capture } => Fields::of(12).u16(capture),
            Self::Suppressed { count } => Fields::of(15).u64(count),
            Self::Refused { source } => Fields::of(13).ip(source),
            Self::Xdp => Fields::of(16),
        };
        fields.finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let r = &mut reader;
        let message = match r.u8()? {
            0 => Self::Hello,
            1 => Self::Ready { degraded: r.u32()? },
            2 => Self::Failed { step: r.u8()?, errno: r.u32()?.cast_signed() },
            3 => Self::Knock(HandedKnock {
                ticket: r.u64()?,
                client: ClientId(r.array()?),
                day: day(r)?,
                h: r.array()?,
                body: r.array()?,
                source: source(r)?,
                source_port: r.u16()?,
            }),
            4 => Self::Completed { door: r.u16()?, source: ip(r)? },
            5 => Self::Stage { door: r.u16()?, source: ip(r)?, stage: r.u8()? },
            6 => Self::TimedOut { door: r.u16()?, source: ip(r)?, stage: r.u8()? },
            7 => Self::Seen {
                source: ip(r)?,
                source_port: r.u16()?,
                destination: ip(r)?,
                step: step(r)?,
                length: r.u16()?,
            },
            8 => Self::Removed { source: ip(r)?, success: flag(r)? },
            9 => Self::Ignored { flag: r.u8()?, wanted: flag(r)? },
            10 => {
                Self::Alarm { client: ClientId(r.array()?), first: source(r)?, again: source(r)? }
            }
            11 => {
                let mut counters = [0; Reject::ALL.len()];
                for count in &mut counters {
                    *count = r.u64()?;
                }
                Self::Counters(Tally {
                    rejected: Counters(counters),
                    filtered: FilterDrops {
                        unknown_tag: r.u64()?,
                        length: r.u64()?,
                        client_mac: r.u64()?,
                        copies: r.u64()?,
                        quota: r.u64()?,
                        first_step: r.u64()?,
                    },
                    holds: flag(r)?,
                    xdp: r.u64()?,
                    read: r.u64()?,
                    lost: r.u64()?,
                    doors: r.u64()?,
                    waiting: r.u64()?,
                })
            }
            12 => Self::Down { capture: r.u16()? },
            13 => Self::Refused { source: ip(r)? },
            15 => Self::Suppressed { count: r.u64()? },
            16 => Self::Xdp,
            14 => {
                let capture = r.u16()?;
                Self::NoSocket { capture, step: r.u8()?, errno: r.u32()?.cast_signed() }
            }
            _ => return None,
        };
        reader.finish().map(|()| message)
    }
}
