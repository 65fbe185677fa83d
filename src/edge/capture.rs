//! AF_PACKET sockets. Our filter is attached and locked before they are bound: the one in eBPF if
//! there is one, else the classic one.
//!
//! A socket of protocol 0 receives nothing until it is bound, so no packet ever gets past the
//! filter.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessageOwned, LinkAddr, MsgFlags, RecvMsg, recvmsg, setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;
use pnet::datalink;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::bpf::Instruction;
use super::socket_failure::{SocketFailure, SocketStep};
use super::{clock, sys};
use crate::core::packet::Arrival;
use crate::core::types::{Fault, Wall};

pub const ANY: &str = "any";
/// Bytes that the kernel may queue for us: about 10,000 junk packets.
const RECEIVE_BUFFER: usize = 8 << 20;
/// More bytes than the filter ever accepts of one packet.
pub const LONGEST: usize = 18 << 10;

/// Finds the kernel's number for the interface `name`, which is 0 for [`ANY`]. Fails if there is
/// no such interface, or it is down.
pub fn interface(name: &str) -> Result<u32, Fault> {
    if name == ANY {
        return Ok(0);
    }
    let Some(found) = datalink::interfaces().into_iter().find(|one| one.name == name) else {
        let what = format!("interface {name}: no such interface");
        return Err(Fault::new(what, "`ip link` lists the interfaces; or use `any`"));
    };
    if !found.is_up() {
        let up = format!("`ip link set {name} up`, or start the gateway after the network");
        let what = format!("interface {name}: it is down");
        return Err(Fault::new(what, format!("{up}; or use `any`")));
    }
    Ok(found.index)
}

/// The filters of a socket.
pub struct Filters<'a> {
    pub classic: &'a [Instruction],
    /// The program in eBPF, if the kernel has it.
    pub ebpf: Option<BorrowedFd<'a>>,
    /// True if they want to see the packets that this machine sends. Otherwise the kernel makes no
    /// copies of those, which would cost each packet as much as all the rest.
    pub outgoing: bool,
}

impl Filters<'_> {
    /// Attaches one of them, for good. True if it is the one in eBPF.
    fn lock(&self, socket: &Socket) -> io::Result<bool> {
        let mut has_ebpf = false;
        if let Some(program) = self.ebpf {
            // A long program may be more than a socket's memory for options.
            has_ebpf = sys::attach_program(socket.as_fd(), program).is_ok();
        }
        if !has_ebpf {
            let filter: Vec<_> = self
                .classic
                .iter()
                .map(|i| SockFilter::new(i.code, i.jump_true, i.jump_false, i.operand))
                .collect();
            socket.attach_filter(&filter)?;
        }
        sys::lock_filter(socket.as_fd())?;
        Ok(has_ebpf)
    }
}

pub enum CaptureResult<'a> {
    Packet {
        arrival: Arrival,
        /// The wall clock when the kernel received it.
        at: Wall,
        /// From its IP header on, cut off after what the filter accepts.
        bytes: &'a [u8],
    },
    Empty,
    /// The interface went down or disappeared. It may come back.
    Down,
}

pub struct Capture {
    socket: OwnedFd,
    /// Room for what the kernel says about a packet: its time.
    control: Vec<u8>,
    /// True if its filter is the one in eBPF.
    pub has_ebpf: bool,
}

impl Capture {
    /// Opens a socket for the interface of this number, 0 for all, that accepts only what a filter
    /// does. Fails without CAP_NET_RAW, or if the interface is gone.
    pub fn open(interface: u32, filters: &Filters<'_>) -> Result<Self, SocketFailure> {
        // Cooked: offset 0 is the IP header on every kind of link.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(0)))
            .map_err(SocketFailure::at(SocketStep::Capture))?;
        let has_ebpf = filters.lock(&socket).map_err(SocketFailure::at(SocketStep::Filter))?;
        // Going above the system's limit takes CAP_NET_ADMIN; the limit itself is the next best.
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER)
                .map_err(SocketFailure::at(SocketStep::Capture))?;
        }
        // A packet counts when it came, not when we read it. Without the option, reading is the
        // time.
        let _ = setsockopt(&socket, sockopt::ReceiveTimestampns, &true);
        if !filters.outgoing {
            // An older kernel shows them to the filter, which drops them.
            let _ = sys::ignore_outgoing(socket.as_fd());
        }
        socket.set_nonblocking(true).map_err(SocketFailure::at(SocketStep::Capture))?;
        // From here on packets arrive.
        sys::bind_packet(socket.as_fd(), interface).map_err(SocketFailure::at(SocketStep::Bind))?;
        Ok(Self { socket: socket.into(), control: cmsg_space!(TimeSpec), has_ebpf })
    }

    /// The next queued packet, in `buffer`. Never waits.
    pub fn take<'b>(&mut self, buffer: &'b mut [u8; LONGEST]) -> CaptureResult<'b> {
        let mut parts = [IoSliceMut::new(buffer)];
        let control = Some(self.control.as_mut_slice());
        let received =
            recvmsg::<LinkAddr>(self.socket.as_raw_fd(), &mut parts, control, MsgFlags::empty());
        let (length, arrival, at) = match received {
            Ok(message) => {
                // The packet's own device: a socket for all interfaces receives from each.
                let from = message.address;
                let loopback = from.is_some_and(|from| from.hatype() == libc::ARPHRD_LOOPBACK);
                (message.bytes, Arrival { loopback }, received_at(&message))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => return CaptureResult::Empty,
            // Reading the error has cleared it: otherwise poll would return at once for ever.
            Err(_) => return CaptureResult::Down,
        };
        let at = at.unwrap_or_else(|| clock::now().wall);
        CaptureResult::Packet { arrival, at, bytes: &buffer[..length.min(LONGEST)] }
    }

    /// Packets that the kernel dropped for lack of room since the last call.
    pub fn lost(&self) -> u64 {
        sys::lost_packets(self.socket.as_fd()).map_or(0, u64::from)
    }
}

fn received_at(message: &RecvMsg<'_, '_, LinkAddr>) -> Option<Wall> {
    for control in message.cmsgs().ok()? {
        if let ControlMessageOwned::ScmTimestampns(time) = control {
            return u64::try_from(Duration::from(time).as_nanos()).ok().map(Wall);
        }
    }
    None
}

impl AsFd for Capture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
