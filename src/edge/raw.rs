//! Raw UDP sockets: receipts leave from the knock port although no socket is bound to it.
//!
//! The kernel makes the IP header and accepts only an address of this machine as source. So a
//! taken-over listener cannot forge addresses. Nothing is ever received: a locked filter drops all.
//! The sockets belong to a group of their own, by which the guard knows what they send
//! (`RECEIPT_GROUP`): who holds one cannot change it.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, SockaddrIn6, sendmsg};
use nix::unistd::{Gid, setfsgid};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::socket_failure::{SocketFailure, SocketStep};
use super::sys;
use crate::core::bytes::Writer;
use crate::core::packet::udp_checksum;
use crate::core::wire::RECEIPT;

/// The group of the sockets that send receipts, and of nothing else on the machine: the guard
/// knows their packets by it. No account has it; systemd leaves this range unused.
pub const RECEIPT_GROUP: u32 = 61_137;

const SEGMENT: usize = 8 + RECEIPT;

/// True if sockets can belong to [`RECEIPT_GROUP`]: a user namespace may not know it.
pub fn group_is_known() -> bool {
    // The kernel reports no error, but the group before the call.
    let before = setfsgid(Gid::from_raw(RECEIPT_GROUP));
    setfsgid(before).as_raw() == RECEIPT_GROUP
}

fn open(domain: Domain) -> io::Result<OwnedFd> {
    // A socket belongs to the file system group of its opener. Where a user namespace does not know
    // that group, nothing changes, and the guard does not see these packets: `group_is_known`.
    let before = setfsgid(Gid::from_raw(RECEIPT_GROUP));
    // Protocol UDP and not RAW: with RAW the sender would make the IP header.
    let opened = Socket::new(domain, Type::RAW, Some(Protocol::UDP));
    setfsgid(before);
    let socket = opened?;
    const RETURN_NOTHING: SockFilter = SockFilter::new(0x06, 0, 0, 0);
    socket.attach_filter(&[RETURN_NOTHING])?;
    sys::lock_filter(socket.as_fd())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// The sockets, of each family that this machine has.
#[derive(Default)]
pub struct Sender {
    v4: Option<OwnedFd>,
    v6: Option<OwnedFd>,
}

impl Sender {
    /// Opens sockets that can send UDP from any port. Fails without CAP_NET_RAW.
    pub fn open() -> Result<Self, SocketFailure> {
        let v4 = open(Domain::IPV4).map_err(SocketFailure::at(SocketStep::Receipts))?;
        let v6 = match open(Domain::IPV6) {
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            opened => Some(opened.map_err(SocketFailure::at(SocketStep::Receipts))?),
        };
        Ok(Self { v4: Some(v4), v6 })
    }

    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.v4.iter().chain(&self.v6).map(AsFd::as_fd)
    }

    /// Sends `receipt` from an address of ours. Never waits. After an error the receipt is lost.
    pub fn send(
        &self, from: SocketAddr, to: SocketAddr, receipt: &[u8; RECEIPT],
    ) -> io::Result<()> {
        let segment = segment(from, to, receipt);
        let parts = [IoSlice::new(&segment)];
        match (from.ip(), to.ip(), &self.v4, &self.v6) {
            (IpAddr::V4(from), IpAddr::V4(to), Some(socket), _) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(from.octets()) },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                let control = [ControlMessage::Ipv4PacketInfo(&info)];
                let to = SockaddrIn::from(SocketAddrV4::new(to, 0));
                sendmsg(socket.as_raw_fd(), &parts, &control, MsgFlags::MSG_DONTWAIT, Some(&to))?;
            }
            (IpAddr::V6(from), IpAddr::V6(to), _, Some(socket)) => {
                let source = libc::in6_addr { s6_addr: from.octets() };
                let info = libc::in6_pktinfo { ipi6_addr: source, ipi6_ifindex: 0 };
                let control = [ControlMessage::Ipv6PacketInfo(&info)];
                let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, 0));
                sendmsg(socket.as_raw_fd(), &parts, &control, MsgFlags::MSG_DONTWAIT, Some(&to))?;
            }
            _ => return Err(io::ErrorKind::AddrNotAvailable.into()),
        }
        Ok(())
    }
}

fn segment(from: SocketAddr, to: SocketAddr, receipt: &[u8; RECEIPT]) -> [u8; SEGMENT] {
    const LENGTH: u16 = SEGMENT as u16;
    let mut writer = Writer::<SEGMENT>::new();
    let mut segment = writer.u16(from.port()).u16(to.port()).u16(LENGTH).u16(0).put(receipt).done();
    let checksum = udp_checksum(from.ip(), to.ip(), &segment);
    segment[6..8].copy_from_slice(&checksum.to_be_bytes());
    segment
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::packet::{Arrival, LocalAddresses, parse};
    use crate::core::types::Source;

    struct AnyAddress;

    impl LocalAddresses for AnyAddress {
        fn has(&self, _: Source) -> bool {
            true
        }
    }

    #[test]
    fn the_segment_has_a_checksum_that_our_strict_parser_accepts() {
        let from: SocketAddr = "192.0.2.1:62201".parse().unwrap();
        let to: SocketAddr = "198.51.100.9:4000".parse().unwrap();
        let segment = segment(from, to, &[0xa5; RECEIPT]);
        let mut packet =
            vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 198, 51, 100, 9];
        let total = u16::try_from(20 + SEGMENT).unwrap();
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        let sum: u32 = packet.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
        let check = !u16::try_from((sum >> 16) + (sum & 0xffff)).unwrap();
        packet[10..12].copy_from_slice(&check.to_be_bytes());
        packet.extend(segment);
        let payload = parse(&packet).unwrap().strict(&AnyAddress, Arrival { loopback: true });
        assert_eq!(payload, Ok(&[0xa5; RECEIPT][..]));
        packet[26..28].copy_from_slice(&0x1234u16.to_be_bytes());
        assert!(parse(&packet).unwrap().strict(&AnyAddress, Arrival { loopback: true }).is_err());
    }

    #[test]
    fn without_a_socket_of_the_family_nothing_is_sent() {
        let [v4, v6] = ["192.0.2.1:1", "[2001:db8::1]:1"].map(|text| text.parse().unwrap());
        for (from, to) in [(v4, v4), (v6, v6), (v4, v6), (v6, v4)] {
            assert!(Sender::default().send(from, to, &[0; RECEIPT]).is_err());
        }
    }
}
