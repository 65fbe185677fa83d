//! The frames of probes: written, and read as far as an answer to a probe goes.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use pnet::packet::Packet;
use pnet::packet::ethernet::{EtherTypes, EthernetPacket, MutableEthernetPacket};
use pnet::packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols};
use pnet::packet::ipv4::{self, Ipv4Packet, MutableIpv4Packet};
use pnet::packet::ipv6::{Ipv6Packet, MutableIpv6Packet};
use pnet::packet::tcp::{self, MutableTcpPacket, TcpPacket};
use pnet::packet::udp::{self, MutableUdpPacket, UdpPacket};
use pnet::util::MacAddr;

use crate::core::bytes::saturated_u16;
use crate::core::types::Proto;

pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const ACK: u8 = 0x10;
/// Our own address on each frame, by which our frames are told from the twin's.
pub(super) const OURS: [u8; 6] = [0x02, 0x74, 0x6f, 0x63, 0x74, 0x6f];
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const TCP: usize = 20;
const UDP: usize = 8;
const HOPS: u8 = 64;
/// ICMP "unreachable" of both families.
const UNREACHABLE: [u8; 2] = [3, 1];

/// A packet of TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment<'a> {
    pub(super) proto: Proto,
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    /// Of TCP.
    pub(super) flags: u8,
    pub(super) sequence: u32,
    pub(super) acknowledged: u32,
    pub(super) payload: &'a [u8],
}

/// A frame of the twin.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard<'a> {
    Segment(Segment<'a>),
    /// This packet of ours cannot be delivered. TCP: its sequence number counts, and its flags do
    /// not.
    Unreachable(Segment<'a>),
}

/// The frame with this packet for the interface with the address `hardware`.
pub(super) fn frame(hardware: [u8; 6], segment: &Segment<'_>) -> Vec<u8> {
    let inner = transport(segment);
    let packet = match (segment.from.ip(), segment.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut bytes = vec![0; IPV4 + inner.len()];
            if let Some(mut ip) = MutableIpv4Packet::new(&mut bytes) {
                ip.set_version(4);
                ip.set_header_length(5);
                ip.set_total_length(saturated_u16(IPV4 + inner.len()));
                ip.set_ttl(HOPS);
                ip.set_next_level_protocol(IpNextHeaderProtocol(segment.proto.number()));
                ip.set_source(from);
                ip.set_destination(to);
                ip.set_payload(&inner);
                ip.set_checksum(ipv4::checksum(&ip.to_immutable()));
            }
            bytes
        }
        (from, to) => {
            let mut bytes = vec![0; IPV6 + inner.len()];
            if let Some(mut ip) = MutableIpv6Packet::new(&mut bytes) {
                ip.set_version(6);
                ip.set_payload_length(saturated_u16(inner.len()));
                ip.set_next_header(IpNextHeaderProtocol(segment.proto.number()));
                ip.set_hop_limit(HOPS);
                ip.set_source(as_v6(from));
                ip.set_destination(as_v6(to));
                ip.set_payload(&inner);
            }
            bytes
        }
    };
    let mut bytes = vec![0; ETHERNET + packet.len()];
    if let Some(mut frame) = MutableEthernetPacket::new(&mut bytes) {
        frame.set_destination(MacAddr::from(hardware));
        frame.set_source(MacAddr::from(OURS));
        let is_v4 = segment.to.is_ipv4();
        frame.set_ethertype(if is_v4 { EtherTypes::Ipv4 } else { EtherTypes::Ipv6 });
        frame.set_payload(&packet);
    }
    bytes
}

fn transport(segment: &Segment<'_>) -> Vec<u8> {
    let head = if segment.proto == Proto::Tcp { TCP } else { UDP };
    let mut bytes = vec![0; head + segment.payload.len()];
    let ends = (segment.from.ip(), segment.to.ip());
    if segment.proto == Proto::Tcp {
        let Some(mut packet) = MutableTcpPacket::new(&mut bytes) else { return Vec::new() };
        packet.set_source(segment.from.port());
        packet.set_destination(segment.to.port());
        packet.set_sequence(segment.sequence);
        packet.set_acknowledgement(segment.acknowledged);
        packet.set_data_offset(5);
        packet.set_flags(segment.flags);
        packet.set_window(8192);
        let whole = packet.to_immutable();
        let checksum = match ends {
            (IpAddr::V4(from), IpAddr::V4(to)) => tcp::ipv4_checksum(&whole, &from, &to),
            (from, to) => tcp::ipv6_checksum(&whole, &as_v6(from), &as_v6(to)),
        };
        packet.set_checksum(checksum);
        return bytes;
    }
    let length = saturated_u16(bytes.len());
    let Some(mut packet) = MutableUdpPacket::new(&mut bytes) else { return Vec::new() };
    packet.set_source(segment.from.port());
    packet.set_destination(segment.to.port());
    packet.set_length(length);
    packet.set_payload(segment.payload);
    let whole = packet.to_immutable();
    let checksum = match ends {
        (IpAddr::V4(from), IpAddr::V4(to)) => udp::ipv4_checksum(&whole, &from, &to),
        (from, to) => udp::ipv6_checksum(&whole, &as_v6(from), &as_v6(to)),
    };
    packet.set_checksum(checksum);
    bytes
}

fn as_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// Reads a frame of the twin; `None` for our own, and for anything else.
pub(super) fn read(bytes: &[u8]) -> Option<Heard<'_>> {
    let frame = EthernetPacket::new(bytes)?;
    if frame.get_source() == MacAddr::from(OURS) {
        return None;
    }
    let (ends, protocol, inner) =
        ip(frame.get_ethertype() == EtherTypes::Ipv4, &bytes[ETHERNET..])?;
    match protocol {
        IpNextHeaderProtocols::Icmp | IpNextHeaderProtocols::Icmpv6 => {
            let is_v4 = protocol == IpNextHeaderProtocols::Icmp;
            if *inner.first()? != UNREACHABLE[usize::from(!is_v4)] {
                return None;
            }
            let (ends, protocol, quoted) = ip(is_v4, inner.get(8..)?)?;
            self::quoted(ends, protocol, quoted).map(Heard::Unreachable)
        }
        _ => segment(ends, protocol, inner).map(Heard::Segment),
    }
}

type Ends = [IpAddr; 2];

/// The ends of an IP packet, its protocol, and what is in it. Link-layer padding is left out.
fn ip(is_v4: bool, bytes: &[u8]) -> Option<(Ends, IpNextHeaderProtocol, &[u8])> {
    if is_v4 {
        let packet = Ipv4Packet::new(bytes)?;
        let start = usize::from(packet.get_header_length()) * 4;
        let end = usize::from(packet.get_total_length()).min(bytes.len());
        let ends = [packet.get_source().into(), packet.get_destination().into()];
        return Some((ends, packet.get_next_level_protocol(), bytes.get(start..end)?));
    }
    let packet = Ipv6Packet::new(bytes)?;
    let end = (IPV6 + usize::from(packet.get_payload_length())).min(bytes.len());
    let ends = [packet.get_source().into(), packet.get_destination().into()];
    Some((ends, packet.get_next_header(), bytes.get(IPV6..end)?))
}

fn segment(ends: Ends, protocol: IpNextHeaderProtocol, inner: &[u8]) -> Option<Segment<'_>> {
    let proto = Proto::from_number(protocol.0)?;
    let mut segment = quoted(ends, protocol, inner)?;
    match proto {
        Proto::Tcp => {
            let packet = TcpPacket::new(inner)?;
            segment.flags = packet.get_flags();
            segment.acknowledged = packet.get_acknowledgement();
        }
        Proto::Udp => segment.payload = inner.get(UDP..)?,
    }
    Some(segment)
}

/// The first eight bytes, which is what an error quotes at least.
fn quoted(ends: Ends, protocol: IpNextHeaderProtocol, inner: &[u8]) -> Option<Segment<'_>> {
    let proto = Proto::from_number(protocol.0)?;
    let head = UdpPacket::new(inner.get(..UDP)?)?;
    let [from, to] = ends;
    Some(Segment {
        proto,
        from: SocketAddr::new(from, head.get_source()),
        to: SocketAddr::new(to, head.get_destination()),
        flags: 0,
        sequence: u32::from_be_bytes(*head.packet().get(4..)?.first_chunk()?),
        acknowledged: 0,
        payload: &[],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment<'a>(proto: Proto, from: &str, to: &str, payload: &'a [u8]) -> Segment<'a> {
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        let (flags, sequence) = if proto == Proto::Tcp { (SYN, 77) } else { (0, 0) };
        Segment { proto, from, to, flags, sequence, acknowledged: 0, payload }
    }

    /// As the twin would send it.
    fn theirs(segment: &Segment<'_>) -> Vec<u8> {
        let mut bytes = frame([2, 0, 0, 0, 0, 1], segment);
        bytes[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        bytes
    }

    #[test]
    fn a_frame_is_read_as_it_was_written_and_our_own_is_not_heard() {
        for (from, to) in
            [("192.0.2.7:4000", "192.0.2.1:22"), ("[2001:db8::7]:4000", "[2001:db8::1]:22")]
        {
            let syn = segment(Proto::Tcp, from, to, &[]);
            assert_eq!(read(&theirs(&syn)), Some(Heard::Segment(syn)));
            assert_eq!(read(&frame([2; 6], &syn)), None);
            let datagram = segment(Proto::Udp, from, to, b"token");
            let bytes = theirs(&datagram);
            let Some(Heard::Segment(heard)) = read(&bytes) else { panic!("{from}") };
            assert_eq!((heard.payload, heard.from), (&b"token"[..], datagram.from));
        }
    }

    #[test]
    fn an_error_quotes_the_packet_that_was_refused() {
        let datagram = segment(Proto::Udp, "192.0.2.7:4000", "192.0.2.1:53", b"token");
        let ours = frame([2; 6], &datagram);
        let mut icmp = vec![0; ETHERNET + IPV4 + 8];
        icmp[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        icmp[12..14].copy_from_slice(&[8, 0]);
        icmp.extend(&ours[ETHERNET..]);
        let total = saturated_u16(icmp.len() - ETHERNET).to_be_bytes();
        icmp[ETHERNET] = 0x45;
        icmp[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&total);
        icmp[ETHERNET + 9] = 1;
        icmp[ETHERNET + IPV4] = 3;
        let Some(Heard::Unreachable(quoted)) = read(&icmp) else { panic!("not heard") };
        assert_eq!((quoted.from, quoted.to), (datagram.from, datagram.to));
        // An echo reply is none.
        icmp[ETHERNET + IPV4] = 0;
        assert_eq!(read(&icmp), None);
    }

    #[test]
    fn cut_off_frames_are_not_heard() {
        let bytes = theirs(&segment(Proto::Tcp, "192.0.2.7:4000", "192.0.2.1:22", &[]));
        for length in 0..bytes.len() {
            assert_eq!(read(&bytes[..length]), None, "{length}");
        }
    }
}
