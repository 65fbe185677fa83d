//! Marks: frames that follow the probes into the copy and come back. The kernel handles the frames
//! of one processor in their order, answers included, so when a mark is back, all that was sent
//! before it is through, and nobody has to wait for silence.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::net::if_::if_nametoindex;
use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::unistd::Pid;
use socket2::{SockFilter, SockRef};

use super::frames::OURS;
use super::open_packet_socket;
use crate::edge::sys;
use crate::edge::twin::Way;

/// The Ethernet type for experiments: no protocol of the copy takes it.
const KIND: u16 = 0x88b5;
const NUMBER: usize = 14;
/// Bytes of the smallest frame without its checksum.
const FRAME: usize = 60;

/// The sockets at the copy's ends of the cables, where marks turn back.
pub(super) struct Marks {
    near: Vec<OwnedFd>,
    number: u32,
}

impl Marks {
    /// In the thread's network namespace, which is the copy.
    pub(super) fn open(ways: &[Way]) -> io::Result<Marks> {
        let near: io::Result<Vec<OwnedFd>> = ways.iter().map(|way| near_end(&way.name)).collect();
        Ok(Marks { near: near?, number: 0 })
    }

    /// Begins a round: the number of its marks.
    pub(super) fn next(&mut self) -> u32 {
        self.number += 1;
        self.number
    }

    pub(super) fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.near.iter().map(AsFd::as_fd)
    }

    /// Sends those back that have come through. One that cannot go is lost.
    pub(super) fn turn(&self) {
        let mut buffer = [0; FRAME];
        for near in &self.near {
            while let Ok(length) = recv(near.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                let Some(number) = read(&buffer[..length]) else { continue };
                let _ = send(near.as_raw_fd(), &frame(OURS, number), MsgFlags::empty());
            }
        }
    }
}

/// The mark with this number.
pub(super) fn frame(hardware: [u8; 6], number: u32) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[..6].copy_from_slice(&hardware);
    frame[6..12].copy_from_slice(&OURS);
    frame[12..14].copy_from_slice(&KIND.to_be_bytes());
    frame[NUMBER..NUMBER + 4].copy_from_slice(&number.to_be_bytes());
    frame
}

/// The number of a mark; `None` if the frame is none.
pub(super) fn read(frame: &[u8]) -> Option<u32> {
    if frame.get(12..14)? != KIND.to_be_bytes() {
        return None;
    }
    frame.get(NUMBER..)?.first_chunk().map(|number| u32::from_be_bytes(*number))
}

/// A socket that gets the marks alone: the kernel's filter drops everything else.
fn near_end(name: &str) -> io::Result<OwnedFd> {
    const LOAD_HALF: u16 = 0x28;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let socket = open_packet_socket()?;
    SockRef::from(&socket).attach_filter(&[
        SockFilter::new(LOAD_HALF, 0, 0, 12),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, KIND.into()),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ])?;
    sys::bind_packet(socket.as_fd(), if_nametoindex(name)?)?;
    Ok(socket)
}

/// Keeps this thread on one processor while it lives, so that its frames stay in order.
pub(super) struct OneProcessor(CpuSet);

impl OneProcessor {
    /// `None`: the system does not allow it, so marks prove nothing.
    pub(super) fn stay() -> Option<OneProcessor> {
        let this_thread = Pid::from_raw(0);
        let before = sched_getaffinity(this_thread).ok()?;
        let mut one = CpuSet::new();
        one.set(sched_getcpu().ok()?).ok()?;
        sched_setaffinity(this_thread, &one).ok()?;
        Some(OneProcessor(before))
    }
}

impl Drop for OneProcessor {
    fn drop(&mut self) {
        // It was allowed before.
        let _ = sched_setaffinity(Pid::from_raw(0), &self.0);
    }
}
