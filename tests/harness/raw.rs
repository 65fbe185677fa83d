//! Single packets, as an attacker or an unusual stack would send them, written and read below the
//! kernel's TCP. With [`Raw`] the kernel builds the IP header, so the source is an address of the
//! namespace; [`Forger`] takes any source.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use nix::libc;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::Space;

pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// A raw TCP socket between two addresses.
pub struct Raw {
    socket: Socket,
    from: SocketAddr,
    to: SocketAddr,
}

/// A segment that was received.
#[derive(Debug)]
pub struct Answer {
    pub flags: u8,
    pub sequence: u32,
    pub acknowledged: u32,
}

impl Raw {
    pub fn new(space: &Space, from: SocketAddr, to: SocketAddr) -> Raw {
        let socket = raw_socket(space, Domain::for_address(from), Protocol::TCP);
        socket.bind(&SocketAddr::new(from.ip(), 0).into()).expect("an address of the namespace");
        Raw { socket, from, to }
    }

    /// Sends one segment; `options` is padded to a multiple of four.
    pub fn send(
        &self, flags: u8, sequence: u32, acknowledged: u32, options: &[u8],
    ) -> io::Result<()> {
        let mut segment = self.header(flags, sequence, acknowledged, options);
        let sum =
            checksum(&pseudo_header(self.from.ip(), self.to.ip(), 6, segment.len()), &segment);
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        self.socket.send_to(&segment, &SocketAddr::new(self.to.ip(), 0).into()).map(drop)
    }

    fn header(&self, flags: u8, sequence: u32, acknowledged: u32, options: &[u8]) -> Vec<u8> {
        let mut options = options.to_vec();
        options.resize(options.len().next_multiple_of(4), 1);
        let words = u8::try_from(5 + options.len() / 4).expect("short options");
        let mut segment = Vec::new();
        segment.extend(self.from.port().to_be_bytes());
        segment.extend(self.to.port().to_be_bytes());
        segment.extend(sequence.to_be_bytes());
        segment.extend(acknowledged.to_be_bytes());
        segment.extend([words << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        segment.extend(options);
        segment
    }

    /// The next segment of this pair of ports; none if none comes in time.
    pub fn answer(&self, timeout: Duration) -> Option<Answer> {
        let end = Instant::now() + timeout;
        let mut buffer = [0; 2048];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.socket.set_read_timeout(Some(left)).expect("a timeout");
            let read = (&self.socket).read(&mut buffer).ok()?;
            if let Some(answer) = self.parse(&buffer[..read]) {
                return Some(answer);
            }
        }
    }

    /// Parses what the socket returned: for IPv4 that includes the IP header.
    fn parse(&self, bytes: &[u8]) -> Option<Answer> {
        let header = if self.from.is_ipv4() { usize::from(bytes.first()? & 15) * 4 } else { 0 };
        let segment = bytes.get(header..)?;
        let word = |at: usize| Some(u32::from_be_bytes(segment.get(at..at + 4)?.try_into().ok()?));
        let ports = (u32::from(self.to.port()) << 16) | u32::from(self.from.port());
        if word(0)? != ports {
            return None;
        }
        Some(Answer { flags: *segment.get(13)?, sequence: word(4)?, acknowledged: word(8)? })
    }
}

/// Sends IPv4 packets with any source address.
pub struct Forger {
    socket: Socket,
}

impl Forger {
    pub fn new(space: &Space) -> Forger {
        // IPPROTO_RAW: the sender writes the IP header; the kernel fills in lengths and checksum.
        Forger { socket: raw_socket(space, Domain::IPV4, Protocol::from(255)) }
    }

    /// Sends one datagram without a checksum, which IPv4 allows.
    pub fn datagram(&self, from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) {
        let length = u16::try_from(payload.len() + 8).expect("a short payload");
        let mut segment = [from.port(), to.port(), length, 0].map(u16::to_be_bytes).concat();
        segment.extend(payload);
        self.send(from, to, 17, &segment);
    }

    /// Sends one SYN.
    #[allow(dead_code)] // the benchmark does not use it
    pub fn syn(&self, from: SocketAddrV4, to: SocketAddrV4) {
        let mut segment = [from.port(), to.port()].map(u16::to_be_bytes).concat();
        segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, SYN, 0xff, 0xff, 0, 0, 0, 0]);
        let [source, destination] = [*from.ip(), *to.ip()].map(IpAddr::V4);
        let sum = checksum(&pseudo_header(source, destination, 6, segment.len()), &segment);
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        self.send(from, to, 6, &segment);
    }

    /// A packet that finds no room on the way is lost, as on any wire.
    fn send(&self, from: SocketAddrV4, to: SocketAddrV4, protocol: u8, segment: &[u8]) {
        let fixed = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
        let packet = [&fixed, &from.ip().octets()[..], &to.ip().octets(), segment].concat();
        let _ = self.socket.send_to(&packet, &SocketAddr::from(to).into());
    }
}

/// Puts packets onto `lo` as a program does that holds a packet socket: past the output hooks, and
/// with any source.
#[allow(dead_code)] // the benchmark does not use it
pub struct OnLo(Socket);

#[allow(dead_code)]
impl OnLo {
    pub fn new(space: &Space) -> OnLo {
        OnLo(raw_socket(space, Domain::PACKET, Protocol::from(0)))
    }

    /// Puts a SYN there.
    pub fn syn(&mut self, from: SocketAddr, to: SocketAddr) {
        let mut segment = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
        segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, SYN, 0xff, 0xff, 0, 0, 0, 0]);
        self.put(from.ip(), to.ip(), 6, segment, 16);
    }

    /// Puts a datagram there.
    pub fn datagram(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let length = u16::try_from(payload.len() + 8).expect("a short payload");
        let mut segment = [from.port(), to.port(), length, 0].map(u16::to_be_bytes).concat();
        segment.extend(payload);
        self.put(from.ip(), to.ip(), 17, segment, 6);
    }

    fn put(&mut self, from: IpAddr, to: IpAddr, protocol: u8, mut segment: Vec<u8>, sum_at: usize) {
        let sum = checksum(&pseudo_header(from, to, protocol, segment.len()), &segment);
        segment[sum_at..sum_at + 2].copy_from_slice(&sum.to_be_bytes());
        let mut frame = vec![0; 12];
        let length = u16::try_from(segment.len()).expect("a short segment");
        if from.is_ipv4() {
            let [high, low] = (length + 20).to_be_bytes();
            let mut header = vec![0x45, 0, high, low, 0, 1, 0x40, 0, 64, protocol, 0, 0];
            header.extend([octets(from), octets(to)].concat());
            let sum = checksum(&[], &header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend([8, 0]);
            frame.extend(header);
        } else {
            let [high, low] = length.to_be_bytes();
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, high, low, protocol, 64]);
            frame.extend([octets(from), octets(to)].concat());
        }
        frame.extend(segment);
        self.0.send_to(&frame, &lo()).expect("it is sent");
    }
}

/// The address of `lo` for a packet socket: it is interface 1 in every namespace.
#[allow(dead_code, unsafe_code)]
fn lo() -> SockAddr {
    // SAFETY: the storage is zeroed and larger than this structure, whose length is given.
    let built = unsafe {
        SockAddr::try_init(|storage, length| {
            let link = storage.cast::<libc::sockaddr_ll>();
            (*link).sll_family = 17;
            (*link).sll_ifindex = 1;
            *length = 20;
            Ok(())
        })
    };
    built.expect("nothing fails").1
}

/// Source number `n` of a flood: an address that no host of a test has.
pub fn stranger(n: u32) -> SocketAddrV4 {
    let port = u16::try_from(1024 + n % 60_000).expect("a port");
    SocketAddrV4::new(Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 16, 0, 0)) + n % (1 << 20)), port)
}

/// Sends one ICMP echo request from `space`, as `ping` does.
pub fn send_echo_request(space: &Space, to: IpAddr, payload: &[u8]) {
    send_echo(space, to, payload);
}

/// True if `to` answers an ICMP echo request in time.
pub fn pings(space: &Space, to: IpAddr, timeout: Duration) -> bool {
    let socket = send_echo(space, to, &[]);
    socket.set_read_timeout(Some(timeout)).expect("a timeout");
    // A raw IPv4 socket returns the IP header too.
    let (reply, header) = if to.is_ipv4() { (0, 20) } else { (129, 0) };
    let mut buffer = [0; 256];
    while let Ok(read) = (&socket).read(&mut buffer) {
        let message = buffer[..read].get(header..).unwrap_or_default();
        if message.first() == Some(&reply) && message.get(4..8) == Some(&ECHO_ID) {
            return true;
        }
    }
    false
}

/// Identifier and sequence number of echo requests.
const ECHO_ID: [u8; 4] = [0x12, 0x34, 0, 1];

fn send_echo(space: &Space, to: IpAddr, payload: &[u8]) -> Socket {
    let (domain, protocol, kind) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128),
    };
    let mut message = [&[kind, 0, 0, 0], &ECHO_ID[..], payload].concat();
    // For IPv6 the kernel replaces it, because it covers the addresses too.
    let sum = checksum(&[], &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let socket = raw_socket(space, domain, protocol);
    socket.send_to(&message, &SocketAddr::new(to, 0).into()).expect("a route");
    socket
}

fn raw_socket(space: &Space, domain: Domain, protocol: Protocol) -> Socket {
    let socket = space.inside(|| Socket::new(domain, Type::RAW, Some(protocol)));
    socket.expect("root has raw sockets")
}

fn pseudo_header(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let length = u16::try_from(length).expect("a short segment").to_be_bytes();
    [&octets(from), &octets(to), &[0, protocol][..], &length].concat()
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The Internet checksum over both; `pseudo` has an even length. Independent of our own code, which
/// these packets test.
fn checksum(pseudo: &[u8], segment: &[u8]) -> u16 {
    let mut sum = 0;
    for word in pseudo.chunks(2).chain(segment.chunks(2)) {
        sum += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}
