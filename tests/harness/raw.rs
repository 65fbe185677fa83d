//! Single packets, as an attacker or an odd stack would send them: written and read below the
//! kernel's own TCP. With [`Raw`] the kernel builds the IP header, so the source is the namespace's
//! own address; [`Forger`] takes any.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

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

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub flags: u8,
    pub sequence: u32,
    pub acknowledged: u32,
}

impl Raw {
    pub fn new(space: &Space, from: SocketAddr, to: SocketAddr) -> Raw {
        let domain = if from.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket =
            space.inside(|| Socket::new(domain, Type::RAW, Some(Protocol::TCP))).expect("root");
        socket.bind(&SocketAddr::new(from.ip(), 0).into()).expect("our own address");
        Raw { socket, from, to }
    }

    /// Sends one segment; `options` is padded to a multiple of four.
    pub fn send(
        &self,
        flags: u8,
        sequence: u32,
        acknowledged: u32,
        options: &[u8],
    ) -> io::Result<()> {
        let mut segment = self.header(flags, sequence, acknowledged, options);
        let sum = checksum(&self.pseudo(segment.len()), &segment);
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

    fn pseudo(&self, length: usize) -> Vec<u8> {
        let mut bytes = octets(self.from.ip());
        bytes.extend(octets(self.to.ip()));
        bytes.extend([0, 6]);
        bytes.extend(u16::try_from(length).expect("short").to_be_bytes());
        bytes
    }

    /// The next segment of this pair of ports that comes back in time.
    pub fn answer(&self, timeout: Duration) -> Option<Answer> {
        let end = Instant::now() + timeout;
        let mut buffer = [0; 2048];
        while let Some(left) =
            end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            self.socket.set_read_timeout(Some(left)).expect("a timeout");
            let read = (&self.socket).read(&mut buffer).ok()?;
            if let Some(answer) = self.read(&buffer[..read]) {
                return Some(answer);
            }
        }
        None
    }

    /// IPv4 raw sockets give the IP header as well.
    fn read(&self, bytes: &[u8]) -> Option<Answer> {
        let segment = if self.from.is_ipv4() {
            bytes.get(usize::from(bytes.first()? & 15) * 4..)?
        } else {
            bytes
        };
        let word = |at: usize| Some(u32::from_be_bytes(segment.get(at..at + 4)?.try_into().ok()?));
        let ports = (u32::from(self.to.port()) << 16) | u32::from(self.from.port());
        (word(0)? == ports).then_some(())?;
        Some(Answer { flags: *segment.get(13)?, sequence: word(4)?, acknowledged: word(8)? })
    }
}

/// Sends IPv4 packets from whatever source it likes.
pub struct Forger {
    socket: Socket,
}

impl Forger {
    pub fn new(space: &Space) -> Forger {
        let raw = Protocol::from(255); // IPPROTO_RAW: the IP header is ours, but for its lengths and checksum
        let socket =
            space.inside(|| Socket::new(Domain::IPV4, Type::RAW, Some(raw))).expect("root");
        Forger { socket }
    }

    /// One SYN.
    #[allow(dead_code)] // the benchmark uses it
    pub fn syn(&self, from: SocketAddrV4, to: SocketAddrV4) {
        let mut packet = ip_header(from, to, 6);
        packet.extend([from.port().to_be_bytes(), to.port().to_be_bytes()].concat());
        packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, SYN, 0xff, 0xff, 0, 0, 0, 0]);
        let pseudo = [&from.ip().octets()[..], &to.ip().octets(), &[0, 6, 0, 20]].concat();
        let sum = checksum(&pseudo, &packet[20..]);
        packet[36..38].copy_from_slice(&sum.to_be_bytes());
        self.send(&packet, to);
    }

    /// One datagram of a single byte.
    pub fn datagram(&self, from: SocketAddrV4, to: SocketAddrV4) {
        self.datagram_of(from, to, &[0]);
    }

    /// One datagram, without a checksum: IPv4 allows that.
    pub fn datagram_of(&self, from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) {
        let length = u16::try_from(payload.len() + 8).expect("short");
        let mut packet = ip_header(from, to, 17);
        packet.extend(
            [from.port().to_be_bytes(), to.port().to_be_bytes(), length.to_be_bytes(), [0, 0]]
                .concat(),
        );
        packet.extend(payload);
        self.send(&packet, to);
    }

    /// What finds no room on the way is lost, as on any wire.
    fn send(&self, packet: &[u8], to: SocketAddrV4) {
        let _ = self.socket.send_to(packet, &SocketAddr::from(to).into());
    }
}

fn ip_header(from: SocketAddrV4, to: SocketAddrV4, protocol: u8) -> Vec<u8> {
    let fixed = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
    [&fixed[..], &from.ip().octets(), &to.ip().octets()].concat()
}

/// The source number `n` of a flood: an address that is nobody's here.
pub fn stranger(n: u32) -> SocketAddrV4 {
    let port = u16::try_from(1024 + n % 60_000).expect("a port");
    SocketAddrV4::new(Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 16, 0, 0)) + n % (1 << 20)), port)
}

/// Whether `to` answers an ICMP echo request in time.
pub fn pings(space: &Space, to: IpAddr, timeout: Duration) -> bool {
    let (domain, protocol, request, reply) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    let socket = space.inside(|| Socket::new(domain, Type::RAW, Some(protocol))).expect("root");
    let mut message = [request, 0, 0, 0, 0x12, 0x34, 0, 1];
    let sum = checksum(&[], &message); // the kernel writes its own over it for IPv6
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    socket.send_to(&message, &SocketAddr::new(to, 0).into()).expect("a route");
    socket.set_read_timeout(Some(timeout)).expect("a timeout");
    let mut buffer = [0; 256];
    while let Ok(read) = (&socket).read(&mut buffer) {
        let skip = if to.is_ipv4() { 20 } else { 0 };
        if buffer[..read]
            .get(skip..)
            .is_some_and(|b| b.first() == Some(&reply) && b.get(4..8) == Some(&message[4..8]))
        {
            return true;
        }
    }
    false
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The Internet checksum over both, each of even length.
pub fn checksum(pseudo: &[u8], segment: &[u8]) -> u16 {
    let words = pseudo.chunks(2).chain(segment.chunks(2));
    let mut sum: u32 =
        words.map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0))).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}
