//! IP bytes -> `ParsedPacket`, with an explicit list of what is rejected and no allocation.
//!
//! A capture socket also sees packets that the IP stack would reject, so there are two readings of
//! one packet. A door's reading ([`parse`]) is as lenient as knockd's. A sealed knock's reading
//! ([`ParsedPacket::strict`]) is at least as strict as a stack's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::bytes::Reader;
use super::door::Step;
use super::types::{Port, Proto, Reject, Source};
use super::wire::DATAGRAM;
use crate::core::bytes::{saturated_u16, saturated_u32};

#[cfg(test)]
mod tests;

/// The fields of one captured packet, as it claims them. Borrows from the capture buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParsedPacket<'a> {
    pub source: Source,
    /// The address in the header, for doors: it may be an IPv4-mapped one.
    pub raw_source: IpAddr,
    pub destination: Source,
    /// The destination port, or the size of an echo request.
    pub step: Step,
    /// The claimed source port; 0 for an echo request.
    pub source_port: u16,
    /// The six TCP flags, FIN in the lowest bit. `None` if not TCP, or cut off before them.
    pub flags: Option<u8>,
    /// The captured bytes after the UDP header; empty for all others.
    pub payload: &'a [u8],
    /// The packet's length, from its IP header.
    pub length: u16,
    /// Why the packet cannot be a sealed knock, if so.
    flaw: Option<Reject>,
}

/// Our own addresses. Asked for each packet, so the answer must be cheap.
pub trait LocalAddresses {
    /// True if `address` is a unicast address of this machine.
    fn has(&self, address: Source) -> bool;
}

/// The device that a packet came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// True for a loopback device: only there may our own addresses be the source, and loopback
    /// addresses the destination.
    pub loopback: bool,
}

/// The lenient reading. Rejects only: protocols other than TCP, UDP and echo requests, later
/// fragments, IPv6 extension headers, ports that were not captured, and IPv6 packets to mapped
/// IPv4 addresses.
pub fn parse(packet: &[u8]) -> Result<ParsedPacket<'_>, Reject> {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => parse_v4(packet),
        Some(6) => parse_v6(packet),
        _ => Err(Reject::Malformed),
    }
}

impl<'a> ParsedPacket<'a> {
    /// The payload, if the packet can be a sealed knock to us. Rejects, in addition to [`parse`]:
    /// IP options, fragments, lengths that disagree, wrong checksums, port 0, destinations that are
    /// not ours, and sources that no peer can have (docs/protocol.md).
    pub fn strict(&self, ours: &impl LocalAddresses, arrival: Arrival) -> Result<&'a [u8], Reject> {
        if let Some(reject) = self.flaw {
            return Err(reject);
        }
        let possible = match self.source.ip() {
            IpAddr::V4(v4) => possible_v4(v4),
            IpAddr::V6(v6) => possible_v6(v6),
        };
        if self.is_martian(arrival)
            || !possible
            || !ours.has(self.destination)
            || (ours.has(self.source) && !arrival.loopback)
        {
            return Err(Reject::NotForUs);
        }
        Ok(self.payload)
    }

    /// True for a packet to or from a loopback address that came in by another device. A stack
    /// drops it, but a capture socket sees it: a neighbour on the link can send one.
    pub fn is_martian(&self, arrival: Arrival) -> bool {
        let addresses = [self.source.ip(), self.destination.ip()];
        !arrival.loopback && addresses.iter().any(IpAddr::is_loopback)
    }
}

fn possible_v4(source: Ipv4Addr) -> bool {
    !matches!(source.octets(), [0, ..] | [224..=255, ..])
}

/// Refuses link-local sources too: they can never be granted, and a receipt would need a zone.
fn possible_v6(source: Ipv6Addr) -> bool {
    match source.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => true,
        // Unspecified or IPv4-compatible. Mapped ones never get here.
        [0, 0, 0, 0, 0, 0, _, _] => false,
        [first, ..] => first & 0xff00 != 0xff00 && first & 0xffc0 != 0xfe80,
    }
}

/// The fields of an IP header that the transport layer needs.
struct IpHeader {
    raw_source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    /// Length of the whole packet, from the IP header.
    total: u16,
    /// Length of the transport part, from the IP header.
    length: usize,
    /// Sum of the pseudo header's addresses.
    sum: u32,
    flaw: Option<Reject>,
}

fn parse_v4(packet: &[u8]) -> Result<ParsedPacket<'_>, Reject> {
    const MORE_FRAGMENTS: u16 = 0x2000;
    const OFFSET: u16 = 0x1fff;
    let first = *packet.first().ok_or(Reject::Malformed)?;
    let header_length = usize::from(first & 0x0f) * 4;
    let (header, body) = packet.split_at_checked(header_length).ok_or(Reject::Malformed)?;
    let (fixed, options) = header.split_at_checked(20).ok_or(Reject::Malformed)?;
    let (mut ip, fragment) = read_v4(fixed).ok_or(Reject::Malformed)?;
    if fragment & OFFSET != 0 {
        return Err(Reject::Headers);
    }
    ip.length = usize::from(ip.total).checked_sub(header_length).ok_or(Reject::Malformed)?;
    if fragment & MORE_FRAGMENTS != 0 || !options.is_empty() {
        ip.flaw = Some(Reject::Headers);
    } else if fold(sum(0, header)) != 0xffff {
        ip.flaw = Some(Reject::Checksum);
    }
    transport(&ip, body)
}

/// The fields of the fixed part but `length` and `flaw`, and the fragment field.
fn read_v4(fixed: &[u8]) -> Option<(IpHeader, u16)> {
    let mut reader = Reader::new(fixed);
    reader.take(2)?;
    let total = reader.u16()?;
    reader.take(2)?;
    let fragment = reader.u16()?;
    reader.take(1)?;
    let protocol = reader.u8()?;
    reader.take(2)?;
    let source: [u8; 4] = reader.array()?;
    let destination: [u8; 4] = reader.array()?;
    let ip = IpHeader {
        raw_source: Ipv4Addr::from(source).into(),
        destination: Ipv4Addr::from(destination).into(),
        protocol,
        total,
        length: 0,
        sum: sum(sum(0, &source), &destination),
        flaw: None,
    };
    Some((ip, fragment))
}

fn parse_v6(packet: &[u8]) -> Result<ParsedPacket<'_>, Reject> {
    let (header, body) = packet.split_at_checked(40).ok_or(Reject::Malformed)?;
    let (length, protocol, source, destination) = read_v6(header).ok_or(Reject::Malformed)?;
    let [source_ip, destination_ip] = [source, destination].map(Ipv6Addr::from);
    if destination_ip.to_ipv4_mapped().is_some() {
        return Err(Reject::NotForUs);
    }
    let ip = IpHeader {
        raw_source: source_ip.into(),
        destination: destination_ip.into(),
        protocol,
        total: length.saturating_add(40),
        length: usize::from(length),
        sum: sum(sum(0, &source), &destination),
        // COMPAT: a door counts such a source as the IPv6 address that it is.
        flaw: source_ip.to_ipv4_mapped().map(|_| Reject::NotForUs),
    };
    transport(&ip, body)
}

/// Payload length, next header, source, destination.
fn read_v6(header: &[u8]) -> Option<(u16, u8, [u8; 16], [u8; 16])> {
    let mut reader = Reader::new(header);
    reader.take(4)?;
    let length = reader.u16()?;
    let next = reader.u8()?;
    reader.take(1)?;
    Some((length, next, reader.array()?, reader.array()?))
}

/// `body` is all that was captured after the IP header: longer than the packet if the link padded
/// it, shorter if it was cut off.
fn transport<'a>(ip: &IpHeader, body: &'a [u8]) -> Result<ParsedPacket<'a>, Reject> {
    let segment = body.get(..ip.length).unwrap_or(body);
    let proto = Proto::from_number(ip.protocol);
    let (step, source_port) = match proto {
        Some(proto) => ports(proto, segment).ok_or(Reject::Malformed)?,
        None => (echo(ip, segment).ok_or(Reject::Headers)?, 0),
    };
    let mut parsed = ParsedPacket {
        source: Source::new(ip.raw_source),
        raw_source: ip.raw_source,
        destination: Source::new(ip.destination),
        step,
        source_port,
        flags: None,
        payload: &[],
        length: ip.total,
        flaw: Some(Reject::Headers),
    };
    match proto {
        Some(Proto::Tcp) => parsed.flags = segment.get(13).map(|flags| flags & 0x3f),
        Some(Proto::Udp) => {
            parsed.payload = segment.get(8..).unwrap_or_default();
            parsed.flaw = ip.flaw.or_else(|| udp_flaw(ip, body, segment));
        }
        None => {}
    }
    Ok(parsed)
}

/// The destination port as a step, and the source port.
fn ports(proto: Proto, segment: &[u8]) -> Option<(Step, u16)> {
    let mut reader = Reader::new(segment);
    let source_port = reader.u16()?;
    Some((Step::Port(Port { proto, number: reader.u16()? }), source_port))
}

/// The size of an echo request (ICMP type 8, ICMPv6 type 128): its bytes after the header of eight.
fn echo(ip: &IpHeader, segment: &[u8]) -> Option<Step> {
    let (protocol, kind) = if ip.raw_source.is_ipv4() { (1, 8) } else { (58, 128) };
    if ip.protocol != protocol || segment.get(..2) != Some(&[kind, 0]) {
        return None;
    }
    Some(Step::Echo { size: u16::try_from(ip.length.checked_sub(8)?).ok()? })
}

fn udp_flaw(ip: &IpHeader, body: &[u8], segment: &[u8]) -> Option<Reject> {
    let mut reader = Reader::new(segment);
    let (Some(source_port), Some(number), Some(length), Some(check)) =
        (reader.u16(), reader.u16(), reader.u16(), reader.u16())
    else {
        return Some(Reject::Malformed);
    };
    let whole = usize::from(length) == ip.length && body.len() >= ip.length;
    if !whole || source_port == 0 || number == 0 {
        return Some(Reject::Malformed);
    }
    let pseudo = ip.sum + u32::from(ip.protocol) + u32::from(length);
    // A packet from this machine or a container on it carries only the sum of its pseudo header
    // until a network card would complete it. The client MAC protects the payload in each case.
    let fits = match check {
        0 => ip.raw_source.is_ipv4(),
        check => {
            fold(sum(pseudo, segment)) == 0xffff
                || check == fold(pseudo)
                || first_of_merged_fits(ip, segment, length)
        }
    };
    if fits { None } else { Some(Reject::Checksum) }
}

/// A network card may merge datagrams of one length and leave the checksum of the first: it was
/// computed while the length in both headers was still that of one datagram.
fn first_of_merged_fits(ip: &IpHeader, segment: &[u8], length: u16) -> bool {
    const ONE: u16 = 8 + DATAGRAM as u16;
    let Some(first) = segment.get(..usize::from(ONE)) else { return false };
    let pseudo = ip.sum + u32::from(ip.protocol) + u32::from(ONE);
    length > ONE && fold(sum(pseudo + u32::from(!length) + u32::from(ONE), first)) == 0xffff
}

/// The checksum of a UDP segment whose checksum field is zero, as it must be written there.
pub fn udp_checksum(source: IpAddr, destination: IpAddr, segment: &[u8]) -> u16 {
    let length = saturated_u32(segment.len()) & 0xffff;
    let addresses = sum_address(source) + sum_address(destination);
    let pseudo = addresses + u32::from(Proto::Udp.number()) + length;
    match !fold(sum(pseudo, segment)) {
        0 => 0xffff,
        check => check,
    }
}

/// The checksum of an ICMP message over IPv4, whose own field is zero.
pub fn internet_checksum(message: &[u8]) -> u16 {
    !fold(sum(0, message))
}

fn sum_address(ip: IpAddr) -> u32 {
    match ip {
        IpAddr::V4(v4) => sum(0, &v4.octets()),
        IpAddr::V6(v6) => sum(0, &v6.octets()),
    }
}

/// Adds the big-endian 16-bit words of `bytes` to `start`. 32 bits suffice for 64 KiB.
fn sum(start: u32, bytes: &[u8]) -> u32 {
    let mut total = start;
    let (words, odd) = bytes.as_chunks::<2>();
    for word in words {
        total += u32::from(u16::from_be_bytes(*word));
    }
    if let [last] = odd {
        total += u32::from(*last) << 8;
    }
    total
}

fn fold(total: u32) -> u16 {
    let once = (total >> 16) + (total & 0xffff);
    let twice = (once >> 16) + (once & 0xffff);
    saturated_u16(twice)
}
