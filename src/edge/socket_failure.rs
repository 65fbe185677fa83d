//! Why the listener has no socket to capture or to send receipts with, as numbers that fit the pipe.

use std::io;

use crate::core::types::Fault;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SocketStep {
    Capture = 1,
    Filter,
    Bind,
    Receipts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketFailure {
    pub step: SocketStep,
    /// The kernel's error number.
    pub errno: i32,
}

impl SocketFailure {
    /// Turns an error into the failure of `step`, for `map_err`.
    pub(super) fn at<E: Into<io::Error>>(step: SocketStep) -> impl Fn(E) -> Self {
        move |error| Self { step, errno: error.into().raw_os_error().unwrap_or(0) }
    }

    /// From the numbers in a message; `None` if no step has this number.
    pub fn from_pipe(step: u8, errno: i32) -> Option<Self> {
        use SocketStep::*;
        let step = [Capture, Filter, Bind, Receipts].into_iter().find(|one| *one as u8 == step)?;
        Some(Self { step, errno })
    }

    /// `interface`: the name of the interface to capture on.
    pub fn fault(self, interface: &str) -> Fault {
        let error = io::Error::from_raw_os_error(self.errno);
        let denied = matches!(self.errno, libc::EPERM | libc::EACCES);
        let (what, remedy) = match self.step {
            SocketStep::Capture => (
                format!("interface {interface}: no capture socket"),
                match self.errno {
                    _ if denied => {
                        "capturing needs CAP_NET_RAW: start the gateway as root or by its systemd \
                         unit"
                    }
                    libc::EAFNOSUPPORT => "the kernel lacks packet sockets: `modprobe af_packet`",
                    _ => "see the kernel's reason",
                },
            ),
            SocketStep::Filter => (
                format!("interface {interface}: the kernel refuses the packet filter"),
                "use fewer doors, or report this with the kernel's version",
            ),
            SocketStep::Bind => (
                format!("interface {interface}: the capture socket cannot be bound"),
                "has the interface just disappeared? see `ip link`",
            ),
            SocketStep::Receipts => (
                "no raw socket for receipts".to_owned(),
                match denied {
                    true => {
                        "receipts need CAP_NET_RAW: start the gateway as root or by its systemd unit"
                    }
                    false => "see the kernel's reason",
                },
            ),
        };
        Fault::new(format!("{what}: {error}"), remedy)
    }
}
