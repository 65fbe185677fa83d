//! AF_PACKET sockets. Our filter is attached and locked before they are bound; then pnet reads.
//!
//! A socket of protocol 0 receives nothing until it is bound, so no packet ever gets past the
//! filter. The privileged process makes it with [`open`]; the listener binds and reads it.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use nix::sys::socket::{setsockopt, sockopt};
use pnet::datalink::{self, Channel, DataLinkReceiver, NetworkInterface};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::bpf::Instruction;
use super::sys;
use crate::core::types::Fault;

pub const ANY: &str = "any";
/// Bytes that the kernel may queue for us: about 10,000 junk packets.
const RECEIVE_BUFFER: usize = 8 << 20;
/// More bytes than the filter ever accepts of one packet.
const PACKET: usize = 2048;

/// A capture socket, filtered and locked, that receives nothing until it is bound.
pub struct UnboundCapture {
    pub socket: OwnedFd,
    pub interface: Interface,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's number for it; 0 = all interfaces.
    pub index: u32,
    /// True for a loopback device. Only there are knocks from our own addresses accepted.
    pub loopback: bool,
}

/// Finds `name`, or all interfaces for [`ANY`]. Fails if there is none, or it is down.
pub fn interface(name: &str) -> Result<Interface, Fault> {
    if name == ANY {
        return Ok(Interface { index: 0, loopback: false });
    }
    let Ok(index) = if_nametoindex(name) else {
        let what = format!("interface {name}: no such interface");
        return Err(Fault::new(what, "`ip link` lists the interfaces; or use `any`"));
    };
    let mut flags = InterfaceFlags::empty();
    if let Ok(mut all) = getifaddrs()
        && let Some(entry) = all.find(|entry| entry.interface_name == name)
    {
        flags = entry.flags;
    }
    if !flags.contains(InterfaceFlags::IFF_UP) {
        let up = format!("`ip link set {name} up`, or start the gateway after the network");
        let what = format!("interface {name}: it is down");
        return Err(Fault::new(what, format!("{up}; or use `any`")));
    }
    Ok(Interface { index, loopback: flags.contains(InterfaceFlags::IFF_LOOPBACK) })
}

/// Opens a capture socket for the interface `name` that accepts only what `program` does.
pub fn open(name: &str, program: &[Instruction]) -> Result<UnboundCapture, Fault> {
    let interface = interface(name)?;
    // Cooked: offset 0 is the IP header on every kind of link.
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(0)))
        .map_err(|error| no_socket(name, &error))?;
    lock_filter(&socket, program).map_err(|error| {
        let count = program.len();
        Fault::new(
            format!(
                "interface {name}: the kernel refuses a filter of {count} instructions: {error}"
            ),
            "use fewer doors, or report this with the kernel's version",
        )
    })?;
    // Going above the system's limit takes CAP_NET_ADMIN; the limit itself is the next best.
    if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER)
            .map_err(|errno| no_socket(name, &errno.into()))?;
    }
    Ok(UnboundCapture { socket: socket.into(), interface })
}

fn lock_filter(socket: &Socket, program: &[Instruction]) -> io::Result<()> {
    let filter: Vec<_> = program
        .iter()
        .map(|i| SockFilter::new(i.code, i.jump_true, i.jump_false, i.operand))
        .collect();
    socket.attach_filter(&filter)?;
    sys::lock_filter(socket.as_fd())
}

fn no_socket(name: &str, error: &io::Error) -> Fault {
    let remedy = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "capturing needs CAP_NET_RAW: start the gateway as root or by its systemd unit"
        }
        Some(libc::EAFNOSUPPORT) => "the kernel lacks packet sockets: `modprobe af_packet`",
        _ => "see the kernel's reason",
    };
    Fault::new(format!("interface {name}: no capture socket: {error}"), remedy)
}

pub enum CaptureResult<'a> {
    /// A packet from its IP header on, cut off after what the filter accepts.
    Packet(&'a [u8]),
    Empty,
    /// The interface went down or disappeared. It may come back.
    Down,
}

pub struct Capture {
    receiver: Box<dyn DataLinkReceiver>,
    /// The same socket, for poll and its errors: pnet exposes neither.
    socket: Socket,
}

impl Capture {
    /// Binds the socket: from here on packets arrive. Unprivileged. Fails if the interface is gone.
    pub fn bind(unbound: UnboundCapture) -> io::Result<Self> {
        let socket = Socket::from(unbound.socket.try_clone()?);
        let interface = NetworkInterface {
            name: String::new(),
            description: String::new(),
            index: unbound.interface.index,
            mac: None,
            ips: Vec::new(),
            flags: 0,
        };
        let config = datalink::Config {
            write_buffer_size: 0,
            read_buffer_size: PACKET,
            read_timeout: Some(Duration::ZERO),
            write_timeout: Some(Duration::ZERO),
            // We only want packets for this host; and with index 0 it would be an error.
            promiscuous: false,
            // pnet owns the socket from here on and closes it, also if it fails.
            socket_fd: Some(unbound.socket.into_raw_fd()),
            ..datalink::Config::default()
        };
        match datalink::channel(&interface, config)? {
            Channel::Ethernet(_, receiver) => Ok(Self { receiver, socket }),
            _ => Err(ErrorKind::Unsupported.into()),
        }
    }

    /// The next queued packet. Never waits.
    pub fn take(&mut self) -> CaptureResult<'_> {
        match self.receiver.next().map_err(|error| error.kind()) {
            Ok(packet) => CaptureResult::Packet(packet),
            Err(ErrorKind::TimedOut | ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                CaptureResult::Empty
            }
            Err(_) => {
                // Poll returns at once for ever until a pending error is taken.
                let _ = self.socket.take_error();
                CaptureResult::Down
            }
        }
    }

    /// Packets that the kernel dropped for lack of room since the last call.
    pub fn lost(&self) -> u64 {
        sys::lost_packets(self.socket.as_fd()).map_or(0, u64::from)
    }
}

impl AsFd for Capture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
