//! Probes: packets of made-up senders, put onto the cables around the twin, and what comes of each.
//!
//! The senders have no network stack. A SYN is answered by the twin's kernel, its last ACK is made
//! here, and the twin's socket says that the handshake is whole. See `responder` for that side.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use super::responder::{Arrived, Responder};
use super::sys;
use super::twin::{Twin, Way};
use crate::core::types::{Fault, Port, Proto};
use frames::{ACK, Heard, RST, SYN, Segment, frame};
use marks::{Marks, OneProcessor};

mod frames;
mod marks;

/// How long nothing must come before a run is over, if the marks that end it do not come back.
const QUIET: Duration = Duration::from_millis(120);
/// The longest run after its last probe.
const LONGEST: Duration = Duration::from_secs(10);
/// Probes between two looks at what has come.
const BURST: usize = 64;
/// Bytes that the kernel may queue for one cable.
const RECEIVE_BUFFER: usize = 16 << 20;
/// Bytes of a frame that are read.
const FRAME: usize = 2048;
/// Source ports: below those that the twin's kernel takes for itself.
const FIRST_PORT: u16 = 10_000;
const LAST_PORT: u16 = 32_000;
/// Begins the payload of a datagram; a number follows.
const TOKEN: [u8; 8] = *b"toctoc-a";

/// One packet of somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The interface that it comes in by: its place in [`Twin::ways`].
    pub way: usize,
    pub from: std::net::IpAddr,
    /// `None`: any.
    pub from_port: Option<u16>,
    pub to: SocketAddr,
    pub proto: Proto,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    /// Nothing at all.
    Silent,
    /// A reset, or "unreachable": it is closed, and somebody is there.
    Refused,
    /// The first packet was answered, and the connection did not come about.
    Answered,
    /// Its first packet went on to another machine, and the connection did not come about.
    Passed(SocketAddr),
    /// It went on to another machine, in TCP a whole handshake.
    Forwarded(SocketAddr),
    /// A socket of this port got it.
    Reached(Port),
}

impl Seen {
    /// True if there is a way to a program.
    pub fn is_open(self) -> bool {
        self > Seen::Refused
    }
}

pub struct Prober<'a> {
    ways: &'a [Way],
    cables: Vec<OwnedFd>,
    marks: Marks,
    responder: &'a Responder,
    runs: u32,
    next_port: u16,
}

/// What a frame is answered with.
enum Reply {
    Nothing,
    /// This packet, by this way.
    Send(usize, Segment<'static>),
}

/// A run of many probes.
struct Run<'a> {
    probes: &'a [Probe],
    by_sender: HashMap<(Proto, SocketAddr), usize>,
    /// The same with the port that it is for: one sender may try several from one port.
    by_flow: HashMap<(Port, SocketAddr), usize>,
    /// The first sequence number of TCP; a probe's own adds its place.
    base: u32,
    seen: Vec<Seen>,
    /// The marks of the round, and how many are back.
    mark: u32,
    marks_back: usize,
}

impl<'a> Prober<'a> {
    pub fn new(twin: &'a Twin, responder: &'a Responder) -> Result<Prober<'a>, Fault> {
        let failed = |error: io::Error| {
            let what = format!("no packet socket in the copy: {error}");
            Fault::new(what, "run it as root; the kernel needs packet sockets (af_packet)")
        };
        let ways = &twin.ways;
        let open = || ways.iter().map(|way| cable(&way.far_end)).collect();
        let cables: io::Result<Vec<OwnedFd>> = twin.outside.inside(open).and_then(|made| made);
        let marks = twin.space.inside(|| Marks::open(ways)).and_then(|made| made);
        let (cables, marks) = (cables.map_err(failed)?, marks.map_err(failed)?);
        Ok(Prober { ways, cables, marks, responder, runs: 0, next_port: FIRST_PORT })
    }

    /// Sends all of them, and waits until nothing more comes.
    pub fn run(&mut self, probes: &[Probe]) -> Result<Vec<Seen>, Fault> {
        let stays = OneProcessor::stay();
        self.runs += 1;
        let mut run = Run {
            probes,
            by_sender: HashMap::with_capacity(probes.len()),
            by_flow: HashMap::with_capacity(probes.len()),
            base: self.runs << 24,
            seen: vec![Seen::Silent; probes.len()],
            mark: 0,
            marks_back: 0,
        };
        for (index, probe) in probes.iter().enumerate() {
            let port = probe.from_port.unwrap_or_else(|| self.take_port());
            let from = SocketAddr::new(probe.from, port);
            run.by_sender.insert((probe.proto, from), index);
            let at = Port { proto: probe.proto, number: probe.to.port() };
            run.by_flow.insert((at, from), index);
            let token = token(run.base, index);
            let payload: &[u8] = if probe.proto == Proto::Udp { &token } else { &[] };
            let sequence = run.sequence(index);
            let (proto, to) = (probe.proto, probe.to);
            let first = Segment { proto, from, to, flags: SYN, sequence, acknowledged: 0, payload };
            self.send(probe.way, &first)?;
            if index % BURST == BURST - 1 {
                self.take(&mut run)?;
            }
        }
        let end = Instant::now() + LONGEST;
        // Of a handshake the answer comes in the first round, and the connection in the second.
        while self.round(&mut run, stays.is_some())? && Instant::now() < end {}
        Ok(run.seen)
    }

    fn take_port(&mut self) -> u16 {
        let port = self.next_port;
        self.next_port = if port == LAST_PORT { FIRST_PORT } else { port + 1 };
        port
    }

    fn send(&self, way: usize, segment: &Segment<'_>) -> Result<(), Fault> {
        let (Some(cable), Some(to)) = (self.cables.get(way), self.ways.get(way)) else {
            return Ok(());
        };
        let bytes = frame(to.hardware, segment);
        send(cable.as_raw_fd(), &bytes, MsgFlags::empty()).map(drop).map_err(|errno| {
            let what = format!("cannot send into the copy of {}: {}", to.name, errno.desc());
            Fault::new(what, "try again; report it if it stays so")
        })
    }

    /// Takes all that comes of what was sent so far; true if there was something. `in_order`: the
    /// frames stay in their order, so the marks' return is the end.
    fn round(&mut self, run: &mut Run<'_>, in_order: bool) -> Result<bool, Fault> {
        (run.mark, run.marks_back) = (self.marks.next(), 0);
        for (cable, way) in self.cables.iter().zip(self.ways) {
            let mark = marks::frame(way.hardware, run.mark);
            // One that is lost costs time only.
            let _ = send(cable.as_raw_fd(), &mark, MsgFlags::empty());
        }
        let mut any = false;
        let mut quiet_at = Instant::now() + QUIET;
        while !(in_order && run.marks_back == self.cables.len()) {
            let left = quiet_at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let cables = self.cables.iter().map(AsFd::as_fd);
            let all = cables.chain(self.marks.sockets()).chain(self.responder.sockets());
            let mut fds: Vec<PollFd<'_>> =
                all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            // An interrupted wait is only shorter.
            let _ = poll(&mut fds, timeout);
            self.marks.turn();
            if self.take(run)? {
                any = true;
                quiet_at = Instant::now() + QUIET;
            }
        }
        Ok(any)
    }

    /// Takes what has come; true if there was something about this run.
    fn take(&self, run: &mut Run<'_>) -> Result<bool, Fault> {
        let mut any = false;
        let mut buffer = [0; FRAME];
        for (way, cable) in self.cables.iter().enumerate() {
            while let Ok(length) = recv(cable.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                let bytes = &buffer[..length];
                if let Some(number) = marks::read(bytes) {
                    run.marks_back += usize::from(number == run.mark);
                    continue;
                }
                let Some(heard) = frames::read(bytes) else { continue };
                let Some(reply) = run.hear(&heard, way) else { continue };
                any = true;
                if let Reply::Send(way, segment) = reply {
                    self.send(way, &segment)?;
                }
            }
        }
        for (port, arrived) in self.responder.take() {
            any |= run.arrived(port, &arrived);
        }
        Ok(any)
    }
}

impl Run<'_> {
    fn sequence(&self, index: usize) -> u32 {
        self.base.wrapping_add(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// The probe with this sequence number.
    fn with_sequence(&self, sequence: u32) -> Option<usize> {
        let index = usize::try_from(sequence.wrapping_sub(self.base)).ok()?;
        if self.probes.get(index)?.proto == Proto::Tcp { Some(index) } else { None }
    }

    /// Notes what a frame, heard on this way, means for a probe; `None`: it is about none.
    fn hear(&mut self, heard: &Heard<'_>, way: usize) -> Option<Reply> {
        let (index, seen, reply) = match heard {
            Heard::Unreachable(quoted) => {
                let index = match quoted.proto {
                    Proto::Tcp => self.with_sequence(quoted.sequence)?,
                    Proto::Udp => self.of_flow(quoted.to.port(), Proto::Udp, quoted.from)?,
                };
                (index, Seen::Refused, Reply::Nothing)
            }
            Heard::Segment(segment) if segment.proto == Proto::Udp => {
                (self.with_token(segment.payload)?, Seen::Forwarded(segment.to), Reply::Nothing)
            }
            Heard::Segment(segment) if segment.flags & (SYN | ACK) == SYN => {
                let index = self.with_sequence(segment.sequence)?;
                // The other machine takes the connection.
                (index, Seen::Passed(segment.to), Reply::Send(way, taken(segment)))
            }
            Heard::Segment(segment) => match self.carried(segment) {
                Some(index) => (index, Seen::Forwarded(segment.to), Reply::Nothing),
                None => {
                    let index = self.with_sequence(segment.acknowledged.wrapping_sub(1))?;
                    match segment.flags & (SYN | RST) {
                        SYN => {
                            let way = self.probes.get(index)?.way;
                            (index, Seen::Answered, Reply::Send(way, self.last_ack(index, segment)))
                        }
                        0 => return None,
                        _ => (index, Seen::Refused, Reply::Nothing),
                    }
                }
            },
        };
        self.note(index, seen);
        Some(reply)
    }

    /// The probe whose handshake this packet ends at another machine.
    fn carried(&self, segment: &Segment<'_>) -> Option<usize> {
        let index = self.with_sequence(segment.sequence.wrapping_sub(1))?;
        let is_whole = segment.flags & (SYN | RST | ACK) == ACK;
        let has_passed = self.seen.get(index) >= Some(&Seen::Passed(segment.to));
        if is_whole && has_passed { Some(index) } else { None }
    }

    /// The end of the handshake that `answer` goes on with.
    fn last_ack(&self, index: usize, answer: &Segment<'_>) -> Segment<'static> {
        Segment {
            proto: Proto::Tcp,
            from: answer.to,
            to: answer.from,
            flags: ACK,
            sequence: self.sequence(index).wrapping_add(1),
            acknowledged: answer.sequence.wrapping_add(1),
            payload: &[],
        }
    }

    /// Notes what a socket got; false if it is not of this run.
    fn arrived(&mut self, port: Port, arrived: &Arrived) -> bool {
        let index = match arrived {
            Arrived::Connection { from } => self.of_flow(port.number, Proto::Tcp, *from),
            Arrived::Datagram(bytes) => self.with_token(bytes),
        };
        if let Some(index) = index {
            self.note(index, Seen::Reached(port));
        }
        index.is_some()
    }

    /// The probe from here to this port; if a translation has changed the port, the last from here.
    fn of_flow(&self, number: u16, proto: Proto, from: SocketAddr) -> Option<usize> {
        let exact = self.by_flow.get(&(Port { proto, number }, from));
        exact.or_else(|| self.by_sender.get(&(proto, from))).copied()
    }

    fn with_token(&self, payload: &[u8]) -> Option<usize> {
        let number = payload.strip_prefix(&TOKEN)?.first_chunk()?;
        let index = usize::try_from(u32::from_be_bytes(*number).wrapping_sub(self.base)).ok()?;
        if index < self.probes.len() { Some(index) } else { None }
    }

    /// Keeps the most that was seen: a connection is reset in the end.
    fn note(&mut self, index: usize, seen: Seen) {
        if let Some(most) = self.seen.get_mut(index) {
            *most = seen.max(*most);
        }
    }
}

/// The second packet of a handshake, from the machine that this first one is for.
fn taken(first: &Segment<'_>) -> Segment<'static> {
    Segment {
        proto: Proto::Tcp,
        from: first.to,
        to: first.from,
        flags: SYN | ACK,
        sequence: 0,
        acknowledged: first.sequence.wrapping_add(1),
        payload: &[],
    }
}

fn token(base: u32, index: usize) -> [u8; 12] {
    let number = base.wrapping_add(u32::try_from(index).unwrap_or(u32::MAX));
    let mut token = [0; 12];
    token[..8].copy_from_slice(&TOKEN);
    token[8..].copy_from_slice(&number.to_be_bytes());
    token
}

/// A packet socket at the far end of a cable, in this thread's network namespace.
fn cable(name: &str) -> io::Result<OwnedFd> {
    let socket = open_packet_socket()?;
    // Without the right to more, the system's own limit does.
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER);
    sys::bind_packet(socket.as_fd(), if_nametoindex(name)?)?;
    Ok(socket)
}

/// It gets nothing until it is bound.
fn open_packet_socket() -> io::Result<OwnedFd> {
    Ok(Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A segment of TCP that arrives somewhere.
    fn segment(flags: u8, sequence: u32, acknowledged: u32) -> Segment<'static> {
        let (from, to) = ("192.0.2.7:10000".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        Segment { proto: Proto::Tcp, from, to, flags, sequence, acknowledged, payload: &[] }
    }

    #[test]
    fn a_packet_that_goes_on_is_a_connection_once_the_handshake_is_whole() {
        let from = "192.0.2.7".parse().unwrap();
        let to = "203.0.113.1:80".parse().unwrap();
        let probes = [Probe { way: 0, from, from_port: None, to, proto: Proto::Tcp }];
        let mut run = Run {
            probes: &probes,
            by_sender: HashMap::new(),
            by_flow: HashMap::new(),
            base: 1 << 24,
            seen: vec![Seen::Silent],
            mark: 0,
            marks_back: 0,
        };
        // The end of a handshake that nobody has begun.
        assert!(run.hear(&Heard::Segment(segment(ACK, run.base + 1, 1)), 1).is_none());
        let first = segment(SYN, run.base, 0);
        let Some(Reply::Send(1, answer)) = run.hear(&Heard::Segment(first), 1) else {
            panic!("the other machine takes the connection, by the way that leads to it")
        };
        let expected = (first.to, first.from, SYN | ACK, run.base + 1);
        assert_eq!((answer.from, answer.to, answer.flags, answer.acknowledged), expected);
        assert_eq!(run.seen, [Seen::Passed(first.to)]);
        let whole = run.hear(&Heard::Segment(segment(ACK, run.base + 1, 1)), 1);
        assert!(matches!(whole, Some(Reply::Nothing)));
        assert_eq!(run.seen, [Seen::Forwarded(first.to)]);
    }
}
