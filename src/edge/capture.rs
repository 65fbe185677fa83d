//! The AF_PACKET sockets: our filter attached and locked before they are bound, then handed to
//! pnet. Which filter is left to `bpf`, parsing to `core::packet`.
//!
//! A socket of protocol 0 receives nothing until it is bound, so no packet ever gets past the
//! filter. The privileged process makes it with [`open`]; the listener, which has no right to,
//! binds and reads it with [`Capture`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use nix::sys::socket::{setsockopt, sockopt};
use pnet::datalink::{self, Channel, ChannelType, DataLinkReceiver, NetworkInterface};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::bpf::Instruction;
use super::sys;
use crate::core::types::Fault;

/// The name that stands for every interface.
pub const ANY: &str = "any";

/// What the kernel may keep for us while we are busy: some 10,000 junk packets.
const RECEIVE_BUFFER: usize = 8 << 20;

/// More than the filter ever lets through of one packet.
const PACKET: usize = 2048;

/// A capture socket, filtered and locked, deaf until it is bound.
pub struct UnboundCapture {
    /// The socket.
    pub socket: OwnedFd,
    /// What to bind it to.
    pub interface: Interface,
}

/// An interface as a capture needs to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's number for it; 0 = all interfaces.
    pub index: u32,
    /// Whether it is a loopback device: only there may our own addresses knock.
    pub loopback: bool,
}

/// Finds `name`, or all interfaces for [`ANY`].
///
/// # Errors
/// There is no such interface, or it is down.
pub fn interface(name: &str) -> Result<Interface, Fault> {
    if name == ANY {
        return Ok(Interface { index: 0, loopback: false });
    }
    let index = if_nametoindex(name).map_err(|_| {
        Fault::new(
            format!("interface {name}: there is none of this name"),
            "`ip link` lists what there is; or use `any`",
        )
    })?;
    let flags = getifaddrs()
        .ok()
        .and_then(|mut all| all.find(|one| one.interface_name == name))
        .map_or(InterfaceFlags::empty(), |one| one.flags);
    if !flags.contains(InterfaceFlags::IFF_UP) {
        return Err(Fault::new(
            format!("interface {name}: it is down"),
            format!(
                "`ip link set {name} up`, or let the gateway start after the network; or use `any`"
            ),
        ));
    }
    Ok(Interface { index, loopback: flags.contains(InterfaceFlags::IFF_LOOPBACK) })
}

/// A capture socket for the interface `name` that will let through what `program` does, and never
/// anything else.
///
/// # Errors
/// As [`interface`]; no right to capture; or the kernel refuses the program.
pub fn open(name: &str, program: &[Instruction]) -> Result<UnboundCapture, Fault> {
    let interface = interface(name)?;
    // Cooked: offset 0 is the IP header on every kind of link.
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(0)))
        .map_err(|e| refused(name, &e))?;
    let filter: Vec<_> = program
        .iter()
        .map(|one| SockFilter::new(one.code, one.jump_true, one.jump_false, one.operand))
        .collect();
    socket.attach_filter(&filter).and_then(|()| sys::lock_filter(socket.as_fd())).map_err(|e| {
        Fault::new(
            format!("interface {name}: the kernel refuses the capture filter of {} instructions: {e}", filter.len()),
            "nothing is captured without it; use fewer doors, or report this with the kernel's version",
        )
    })?;
    // Beyond the system's limit only with CAP_NET_ADMIN; the limit itself is the next best.
    if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER)
            .map_err(|e| refused(name, &e.into()))?;
    }
    Ok(UnboundCapture { socket: socket.into(), interface })
}

fn refused(name: &str, error: &io::Error) -> Fault {
    let remedy = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "capturing needs CAP_NET_RAW: start the gateway as root or by its systemd unit"
        }
        Some(libc::EAFNOSUPPORT) => "the kernel lacks packet sockets: `modprobe af_packet`",
        _ => "the kernel says why",
    };
    Fault::new(format!("interface {name}: no capture socket: {error}"), remedy)
}

/// What a capture socket has for us.
pub enum CaptureResult<'a> {
    /// A packet from its IP header on, cut off after what the filter lets through.
    Packet(&'a [u8]),
    /// Nothing more for now.
    Dry,
    /// The interface went down or away. It may come back by itself.
    Down,
}

/// A bound capture socket.
pub struct Capture {
    receiver: Box<dyn DataLinkReceiver>,
    /// The same socket, for poll and its errors: pnet gives away neither.
    socket: Socket,
}

impl Capture {
    /// Binds `deaf`: from here on packets arrive. No right is needed for that.
    ///
    /// # Errors
    /// The kernel's, if the interface has gone since.
    pub fn bind(deaf: UnboundCapture) -> io::Result<Self> {
        let socket = Socket::from(deaf.socket.try_clone()?);
        let interface = NetworkInterface {
            name: String::new(),
            description: String::new(),
            index: deaf.interface.index,
            mac: None,
            ips: Vec::new(),
            flags: 0,
        };
        let config = datalink::Config {
            write_buffer_size: 0,
            read_buffer_size: PACKET,
            read_timeout: Some(Duration::ZERO),
            write_timeout: Some(Duration::ZERO),
            channel_type: ChannelType::Layer2,
            bpf_fd_attempts: 0,
            linux_fanout: None,
            // What is not for us is none of our business; and with index 0 it would be an error.
            promiscuous: false,
            // pnet owns it from here on and closes it, also if it fails.
            socket_fd: Some(deaf.socket.into_raw_fd()),
        };
        match datalink::channel(&interface, config)? {
            Channel::Ethernet(_, receiver) => Ok(Self { receiver, socket }),
            _ => Err(io::Error::from(io::ErrorKind::Unsupported)),
        }
    }

    /// The next packet that waits, without waiting for one.
    pub fn take(&mut self) -> CaptureResult<'_> {
        match self.receiver.next() {
            Ok(packet) => CaptureResult::Packet(packet),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) =>
            {
                CaptureResult::Dry
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => CaptureResult::Dry,
            Err(_) => {
                // An error that waits on the socket stays there, and poll returns at once for ever,
                // until it is taken.
                let _ = self.socket.take_error();
                CaptureResult::Down
            }
        }
    }

    /// Packets that the kernel threw away for want of room since this was last asked.
    pub fn lost(&self) -> u64 {
        sys::lost_packets(self.socket.as_fd()).map_or(0, u64::from)
    }
}

impl AsFd for Capture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
