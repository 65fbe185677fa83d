//! The links that hold our XDP program at interfaces. Each stays while its descriptor is open, so
//! the kernel removes the program however this process ends. See `ebpf` for the program.
//!
//! The calls wait for the kernel's lock of all interfaces: only for a thread beside a loop.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::firewall::attributes::attribute;
use super::routes;
use super::sys::{self, XdpMode};

/// What stands at an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum XdpState {
    On(XdpMode),
    Off(XdpFault),
}

/// Why our program is not at an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum XdpFault {
    /// There is no such interface.
    Missing,
    /// It has no Ethernet frames.
    NotEthernet,
    /// It belongs to another interface, a bridge for example.
    Port,
    /// Another program is there.
    Taken,
    /// The kernel, a list of system calls or a container does not allow it.
    Forbidden,
    /// The kernel's error number.
    Kernel(i32),
    /// There is no program: the kernel has not taken it from the listener.
    NoProgram,
    /// The kernel has not answered in time.
    Late,
}

impl XdpFault {
    /// The reason, and what to do.
    pub fn text(&self) -> String {
        match self {
            XdpFault::Missing => "there is none of that name now; it is waited for".to_owned(),
            XdpFault::NotEthernet => "it has no Ethernet frames, which XDP needs here".to_owned(),
            XdpFault::Port => {
                "it is a port of another interface: name that one in `xdp`".to_owned()
            }
            XdpFault::Taken => {
                "another XDP program is there, and stays (`ip link` and `bpftool net` show it)"
                    .to_owned()
            }
            XdpFault::Forbidden => {
                "the gatekeeper may not call bpf(2): the kernel is older than 5.19, or its unit or \
                 container forbids it"
                    .to_owned()
            }
            XdpFault::Kernel(number) => io::Error::from_raw_os_error(*number).to_string(),
            XdpFault::NoProgram => {
                "the kernel does not take the program: that needs CAP_BPF and CAP_NET_ADMIN in the \
                 listener, and Linux 5.18"
                    .to_owned()
            }
            XdpFault::Late => "the kernel does not answer in time".to_owned(),
        }
    }
}

/// Our links. Dropping them takes the program away.
#[derive(Default)]
pub struct XdpLinks(Vec<XdpLink>);

struct XdpLink {
    interface: String,
    /// The kernel's number of the interface.
    index: u32,
    mode: XdpMode,
    link: OwnedFd,
}

/// An interface as far as XDP is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Device {
    name: String,
    index: u32,
    is_ethernet: bool,
    /// True if it belongs to another interface.
    is_port: bool,
    has_program: bool,
}

impl XdpLinks {
    /// Puts `program` at these interfaces and nowhere else: natively where the driver can. Never
    /// replaces the program of anybody else. Returns what stands at each.
    pub fn bring(
        &mut self, interfaces: &[String], program: Option<BorrowedFd<'_>>,
    ) -> Vec<XdpState> {
        let devices = match devices() {
            Ok(devices) => devices,
            Err(error) => {
                let fault = XdpFault::Kernel(error.raw_os_error().unwrap_or(0));
                return vec![XdpState::Off(fault); interfaces.len()];
            }
        };
        // Taken away first: an interface may have another name now.
        self.0.retain(|one| {
            let is_same = |device: &Device| {
                device.name == one.interface && device.index == one.index && !device.is_port
            };
            // An error says that the interface is gone, or that somebody took the program away.
            interfaces.contains(&one.interface)
                && devices.iter().any(is_same)
                && program.is_some_and(|new| sys::exchange_xdp(one.link.as_fd(), new).is_ok())
        });
        interfaces.iter().map(|name| self.state_of(name, &devices, program)).collect()
    }

    fn state_of(
        &mut self, name: &str, devices: &[Device], program: Option<BorrowedFd<'_>>,
    ) -> XdpState {
        if let Some(one) = self.0.iter().find(|one| one.interface == name) {
            return XdpState::On(one.mode);
        }
        match attach(devices.iter().find(|device| device.name == name), program) {
            Ok(one) => {
                let mode = one.mode;
                self.0.push(one);
                XdpState::On(mode)
            }
            Err(fault) => XdpState::Off(fault),
        }
    }
}

fn attach(device: Option<&Device>, program: Option<BorrowedFd<'_>>) -> Result<XdpLink, XdpFault> {
    let device = device.ok_or(XdpFault::Missing)?;
    let program = program.ok_or(XdpFault::NoProgram)?;
    match device {
        Device { is_ethernet: false, .. } => return Err(XdpFault::NotEthernet),
        Device { is_port: true, .. } => return Err(XdpFault::Port),
        _ => {}
    }
    let index = device.index;
    let with = |mode| sys::attach_xdp(program, index, mode).map(|link| (mode, link));
    // What is refused for another reason than the driver is refused again, for the same reason.
    match with(XdpMode::Native).or_else(|_| with(XdpMode::Generic)) {
        Ok((mode, link)) => Ok(XdpLink { interface: device.name.clone(), index, mode, link }),
        Err(error) => Err(match error.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => XdpFault::Taken,
            Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => XdpFault::Forbidden,
            Some(libc::ENODEV) => XdpFault::Missing,
            number => XdpFault::Kernel(number.unwrap_or(0)),
        }),
    }
}

/// What would keep our program from an interface, before there is one of ours.
pub fn obstacle(name: &str) -> Option<XdpFault> {
    let devices = devices().ok()?;
    let Some(device) = devices.into_iter().find(|device| device.name == name) else {
        return Some(XdpFault::Missing);
    };
    match device {
        Device { is_ethernet: false, .. } => Some(XdpFault::NotEthernet),
        Device { is_port: true, .. } => Some(XdpFault::Port),
        Device { has_program: true, .. } => Some(XdpFault::Taken),
        _ => None,
    }
}

/// Numbers of linux/rtnetlink.h and linux/if_link.h.
const GET_LINK: u16 = 18;
const NAME: u16 = 3;
const MASTER: u16 = 10;
const XDP: u16 = 43;
const XDP_ATTACHED: u16 = 2;
/// Bytes of struct ifinfomsg.
const LINK: usize = 16;

/// The interfaces of this thread's network namespace.
fn devices() -> io::Result<Vec<Device>> {
    routes::dump(GET_LINK, libc::AF_UNSPEC, LINK, |payload, devices| {
        devices.extend(read(payload));
    })
}

/// Reads one message: struct ifinfomsg, then attributes.
fn read(payload: &[u8]) -> Option<Device> {
    let (head, body) = payload.split_at_checked(LINK)?;
    let kind = u16::from_ne_bytes(*head[2..].first_chunk()?);
    let index = u32::from_ne_bytes(*head[4..].first_chunk()?);
    let attached = attribute(body, XDP).and_then(|xdp| attribute(xdp.value, XDP_ATTACHED));
    Some(Device {
        name: attribute(body, NAME)?.text().to_owned(),
        index,
        is_ethernet: kind == libc::ARPHRD_ETHER,
        is_port: routes::number(body, MASTER).is_some(),
        has_program: attached.is_some_and(|attached| attached.value != [0]),
    })
}
