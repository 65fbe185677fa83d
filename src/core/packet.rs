//! IP bytes -> `ParsedPacket`, by an explicit refusal list; no allocation.
//! What the payload means is left to `wire` and `sequence`.
//!
//! A capture socket sees what the IP stack would refuse, so there are two readings of one packet. A
//! door's reading is as lenient as knockd's ([`glance`]); a sealed knock's is as strict as a
//! stack's and stricter ([`ParsedPacket::strict`]).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::bytes::Reader;
use super::door::Step;
use super::types::{Port, Proto, Reject, Source};

#[cfg(test)]
mod tests;

/// What one captured packet says of itself. Borrowed from the capture buffer; nothing of it is
/// proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParsedPacket<'a> {
    /// Where it claims to come from.
    pub source: Source,
    /// The same as it stands in the header, for doors: a mapped IPv4 address in an IPv6 header is
    /// not that IPv4 address.
    pub knocker: IpAddr,
    /// Where it is addressed to.
    pub destination: Source,
    /// The port there, or the size of an echo request.
    pub step: Step,
    /// The port it claims to come from; 0 for an echo request.
    pub source_port: u16,
    /// The six TCP flags, FIN in the lowest bit; `None` if it is not TCP or a first fragment ends
    /// before them.
    pub flags: Option<u8>,
    /// What follows the UDP header, as far as it was captured; empty for all others.
    pub payload: &'a [u8],
    /// The packet's length as its IP header gives it.
    pub length: u16,
    /// What a stack, or we, hold against it as a sealed knock.
    flaw: Option<Reject>,
}

/// Which addresses are ours. Asked for each packet, so it must be cheap.
pub trait LocalAddresses {
    /// Whether `address` is a unicast address of this machine.
    fn has(&self, address: Source) -> bool;
}

/// How the packet came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Which capture socket, in the order they were handed over.
    pub capture: u8,
    /// Whether that socket listens on a loopback device alone: only there may our own addresses be
    /// the source.
    pub loopback: bool,
}

/// The lenient reading. Refused are only: what is not TCP, UDP or an echo request over IP, later
/// fragments, IPv6 extension headers, ports that were not captured, and IPv6 packets to mapped IPv4
/// addresses.
pub fn parse(packet: &[u8]) -> Result<ParsedPacket<'_>, Reject> {
    match packet.first().map(|b| b >> 4) {
        Some(4) => glance_v4(packet),
        Some(6) => glance_v6(packet),
        _ => Err(Reject::Malformed),
    }
}

impl<'a> ParsedPacket<'a> {
    /// The payload, if nothing speaks against the packet as a sealed knock that was sent to us.
    ///
    /// Refused on top of [`glance`]: IP options, fragments, lengths that disagree, wrong checksums,
    /// port 0, destinations that are not ours, and sources that no peer can have
    /// (docs/protocol.md).
    pub fn strict(&self, ours: &impl LocalAddresses, arrival: Arrival) -> Result<&'a [u8], Reject> {
        if let Some(reject) = self.flaw {
            return Err(reject);
        }
        let possible = match self.source.ip() {
            IpAddr::V4(v4) => possible_v4(v4, arrival.loopback),
            IpAddr::V6(v6) => possible_v6(v6, arrival.loopback),
        };
        if !possible || !ours.has(self.destination) || (ours.has(self.source) && !arrival.loopback)
        {
            return Err(Reject::NotForUs);
        }
        Ok(self.payload)
    }
}

fn possible_v4(source: Ipv4Addr, loopback: bool) -> bool {
    match source.octets() {
        [0, ..] | [224..=255, ..] => false,
        [127, ..] => loopback,
        _ => true,
    }
}

/// Link-local sources are refused too: they can never be granted, and an answer would need a zone.
fn possible_v6(source: Ipv6Addr, loopback: bool) -> bool {
    match source.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => loopback,
        // Unspecified, IPv4-compatible; mapped ones never get here.
        [0, 0, 0, 0, 0, 0, _, _] => false,
        [first, ..] => first & 0xff00 != 0xff00 && first & 0xffc0 != 0xfe80,
    }
}

/// What the transport layer needs to know of the IP header.
struct IpHeader {
    source: Source,
    knocker: IpAddr,
    /// Length of the whole packet as the IP header gives it.
    total: u16,
    destination: Source,
    protocol: u8,
    /// Length of the transport part as the IP header gives it.
    length: usize,
    /// Sum of the pseudo header, without protocol and length.
    sum: u32,
    flaw: Option<Reject>,
}

fn glance_v4(packet: &[u8]) -> Result<ParsedPacket<'_>, Reject> {
    const MORE_FRAGMENTS: u16 = 0x2000;
    const OFFSET: u16 = 0x1fff;
    let first = *packet.first().ok_or(Reject::Malformed)?;
    let header_length = usize::from(first & 0x0f) * 4;
    let header = packet.get(..header_length).ok_or(Reject::Malformed)?;
    let (fixed, options) = header.split_at_checked(20).ok_or(Reject::Malformed)?;
    let mut reader = Reader::new(fixed);
    let read = |reader: &mut Reader<'_>| {
        reader.take(2)?;
        let total = reader.u16()?;
        reader.take(2)?;
        let fragment = reader.u16()?;
        reader.take(1)?;
        let protocol = reader.u8()?;
        reader.take(2)?;
        Some((total, fragment, protocol, reader.array::<4>()?, reader.array::<4>()?))
    };
    let (total, fragment, protocol, source, destination) =
        read(&mut reader).ok_or(Reject::Malformed)?;
    if fragment & OFFSET != 0 {
        return Err(Reject::Headers);
    }
    let length = usize::from(total).checked_sub(header_length).ok_or(Reject::Malformed)?;
    let body = packet.get(header_length..).ok_or(Reject::Malformed)?;
    let flaw = if fragment & MORE_FRAGMENTS != 0 || !options.is_empty() {
        Some(Reject::Headers)
    } else if fold(sum(0, header)) != 0xffff {
        Some(Reject::Checksum)
    } else {
        None
    };
    let carrier = IpHeader {
        source: Source::new(Ipv4Addr::from(source).into()),
        knocker: Ipv4Addr::from(source).into(),
        total,
        destination: Source::new(Ipv4Addr::from(destination).into()),
        protocol,
        length,
        sum: sum(sum(0, &source), &destination),
        flaw,
    };
    transport(carrier, body, true)
}

fn glance_v6(packet: &[u8]) -> Result<ParsedPacket<'_>, Reject> {
    let mut reader = Reader::new(packet);
    let read = |reader: &mut Reader<'_>| {
        reader.take(4)?;
        let length = reader.u16()?;
        let next = reader.u8()?;
        reader.take(1)?;
        Some((length, next, reader.array::<16>()?, reader.array::<16>()?))
    };
    let (length, protocol, source, destination) = read(&mut reader).ok_or(Reject::Malformed)?;
    let [source_ip, destination_ip] = [source, destination].map(Ipv6Addr::from);
    if destination_ip.to_ipv4_mapped().is_some() {
        return Err(Reject::NotForUs);
    }
    // COMPAT: a door takes such a source for what it is, an IPv6 address.
    let flaw = source_ip.to_ipv4_mapped().map(|_| Reject::NotForUs);
    let carrier = IpHeader {
        source: Source::new(source_ip.into()),
        knocker: source_ip.into(),
        total: length.saturating_add(40),
        destination: Source::new(destination_ip.into()),
        protocol,
        length: usize::from(length),
        sum: sum(sum(0, &source), &destination),
        flaw,
    };
    transport(carrier, reader.rest(), false)
}

/// `body` is all that was captured behind the IP header: more than the packet if the link padded
/// it, less if it was cut.
fn transport(carrier: IpHeader, body: &[u8], v4: bool) -> Result<ParsedPacket<'_>, Reject> {
    let segment = body.get(..carrier.length).unwrap_or(body);
    let IpHeader { source, knocker, total: length, destination, .. } = carrier;
    let (step, source_port) = match Proto::from_number(carrier.protocol) {
        Some(proto) => hit(proto, segment).ok_or(Reject::Malformed)?,
        None => (echo(&carrier, segment, v4).ok_or(Reject::Headers)?, 0),
    };
    let tcp = step.is_tcp();
    let flags = segment.get(13).filter(|_| tcp).map(|b| b & 0x3f);
    let sighting = ParsedPacket {
        source,
        knocker,
        destination,
        step,
        source_port,
        flags,
        payload: &[],
        length,
        flaw: Some(Reject::Headers),
    };
    let Step::Port(Port { proto: Proto::Udp, .. }) = step else { return Ok(sighting) };
    let flaw = carrier.flaw.or_else(|| udp_flaw(&carrier, body, segment, v4));
    Ok(ParsedPacket { payload: segment.get(8..).unwrap_or_default(), flaw, ..sighting })
}

fn hit(proto: Proto, segment: &[u8]) -> Option<(Step, u16)> {
    let mut reader = Reader::new(segment);
    let source_port = reader.u16()?;
    Some((Step::Port(Port { proto, number: reader.u16()? }), source_port))
}

/// An echo request, ICMP type 8 or ICMPv6 type 128: what it carries behind its header of eight
/// bytes.
fn echo(carrier: &IpHeader, segment: &[u8], v4: bool) -> Option<Step> {
    let (protocol, kind) = if v4 { (1, 8) } else { (58, 128) };
    let request = carrier.protocol == protocol && segment.get(..2) == Some(&[kind, 0]);
    let size = carrier.length.checked_sub(8).and_then(|size| u16::try_from(size).ok())?;
    request.then_some(Step::Echo { size })
}

fn udp_flaw(carrier: &IpHeader, body: &[u8], segment: &[u8], v4: bool) -> Option<Reject> {
    let mut reader = Reader::new(segment);
    let (Some(source_port), Some(number), Some(length), Some(check)) =
        (reader.u16(), reader.u16(), reader.u16(), reader.u16())
    else {
        return Some(Reject::Malformed);
    };
    let whole = usize::from(length) == carrier.length && body.len() >= carrier.length;
    if !whole || source_port == 0 || number == 0 {
        return Some(Reject::Malformed);
    }
    let pseudo = carrier.sum + u32::from(carrier.protocol) + u32::from(length);
    (!checksum_fits(pseudo, segment, check, v4)).then_some(Reject::Checksum)
}

/// Right, or absent (IPv4 only), or not filled in yet: a packet from this machine or a container on
/// it carries the bare sum of its pseudo header until a network card would complete it. The client
/// MAC protects the payload in each case.
fn checksum_fits(pseudo: u32, segment: &[u8], check: u16, v4: bool) -> bool {
    match check {
        0 => v4,
        check => fold(sum(pseudo, segment)) == 0xffff || check == fold(pseudo),
    }
}

/// The ones' complement checksum of a UDP segment whose checksum field holds zero, ready to be
/// written there.
pub fn udp_checksum(source: IpAddr, destination: IpAddr, segment: &[u8]) -> u16 {
    let add = |total: u32, ip: IpAddr| match ip {
        IpAddr::V4(v4) => sum(total, &v4.octets()),
        IpAddr::V6(v6) => sum(total, &v6.octets()),
    };
    let length = u32::try_from(segment.len()).unwrap_or(u32::MAX) & 0xffff;
    let pseudo = add(add(0, source), destination) + u32::from(Proto::Udp.number()) + length;
    match !fold(sum(pseudo, segment)) {
        0 => 0xffff,
        check => check,
    }
}

/// Adds the big-endian 16-bit words of `bytes`. At most 64 KiB are ever summed, so 32 bits do not
/// overflow.
fn sum(start: u32, bytes: &[u8]) -> u32 {
    let mut words = bytes.chunks_exact(2);
    let mut total = start;
    for word in words.by_ref() {
        if let [high, low] = word {
            total += u32::from(u16::from_be_bytes([*high, *low]));
        }
    }
    total + words.remainder().first().map_or(0, |last| u32::from(*last) << 8)
}

fn fold(total: u32) -> u16 {
    let once = (total >> 16) + (total & 0xffff);
    let twice = (once >> 16) + (once & 0xffff);
    u16::try_from(twice).unwrap_or(u16::MAX)
}
