//! The figures of one contestant: the time and CPU time of a knock, and the CPU time and lost
//! knocks of floods.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Socket, Type};

use crate::contestant::{Contestant, Kind, OPEN_FOR, OPENS, SAYS};
use crate::harness::raw::{Forger, stranger};

/// The pause between the steps of one knock, as `knock -d 10` waits.
const BETWEEN: Duration = Duration::from_millis(10);
/// The time after which a knock counts as lost.
const LOST: Duration = Duration::from_secs(3);
/// The packets per second of a flood, and their number.
const RATE: u32 = 50_000;
const FLOOD: u32 = 500_000;
/// Pending attempts to connect; an older one will not be answered.
const TRIES: usize = 256;
/// The number of knocks during a flood.
const MEANWHILE: usize = 40;
/// The number of sources that send half a knock.
const HALF: u32 = 10_000;

/// The figures of one flood.
pub(crate) struct Flood {
    /// CPU seconds per million packets.
    pub(crate) cpu: f64,
    /// Packets per second that were really sent.
    pub(crate) rate: f64,
    /// Knocks that were received, of [`MEANWHILE`].
    pub(crate) through: usize,
}

/// All figures. Times are in milliseconds and sorted.
#[derive(Default)]
pub(crate) struct Figures {
    pub(crate) to_command: Vec<f64>,
    pub(crate) to_connect: Vec<f64>,
    /// CPU milliseconds of one knock at the door that opens, closing included.
    pub(crate) cpu_per_knock: Option<f64>,
    /// Floods to ports of no door, and to the ports of doors.
    pub(crate) unrelated: Option<Flood>,
    pub(crate) junk: Option<Flood>,
    /// Resident KiB before and after [`HALF`] half-knocks.
    pub(crate) memory: Option<(u64, u64)>,
}

impl Figures {
    pub(crate) fn of(contestant: &mut Contestant, knocks: usize) -> Figures {
        let mut figures = Figures::default();
        if contestant.kind != Kind::Sets {
            let before = contestant.memory();
            half_knock(contestant);
            figures.memory = Some((before, contestant.memory()));
        }
        if contestant.kind.has_commands() {
            figures.to_command =
                sorted(contestant.clients(knocks).filter_map(|ip| to_command(contestant, ip)));
        }
        let cpu = contestant.cpu();
        figures.to_connect =
            sorted(contestant.clients(knocks).filter_map(|ip| to_connect(contestant, ip)));
        if contestant.kind != Kind::Sets {
            // Until all grants and openings have ended.
            thread::sleep(Duration::from_secs(OPEN_FOR + 2));
            figures.cpu_per_knock = Some(millis(contestant.cpu() - cpu) / knocks as f64);
        }
        if contestant.kind.has_commands() {
            figures.unrelated =
                Some(flood(contestant, |n| 10_000 + u16::try_from(n % 50_000).unwrap_or(0)));
            let ports = [SAYS, OPENS].concat();
            figures.junk = Some(flood(contestant, move |n| ports[n as usize % ports.len()]));
        }
        figures
    }
}

/// Milliseconds from the last hit to the line that the start command writes.
fn to_command(contestant: &Contestant, ip: Ipv4Addr) -> Option<f64> {
    while contestant.output.try_recv().is_ok() {}
    pause(ip);
    let (begun, _hits) = contestant.gate.net.client.space.inside(|| knock(ip, SAYS));
    let (said, _) = contestant.output.recv_timeout(LOST).ok()?;
    Some(millis(said.saturating_duration_since(begun)))
}

/// Milliseconds from the last hit to the first connection that is there.
fn to_connect(contestant: &Contestant, ip: Ipv4Addr) -> Option<f64> {
    pause(ip);
    let to = SocketAddr::from(([10, 90, 0, 1], contestant.behind()));
    // One thread for both: starting another takes longer than the fastest door.
    contestant.gate.net.client.space.inside(|| {
        let (begun, _hits) = knock(ip, OPENS);
        first_connection(ip, to, begun).map(|at| millis(at.saturating_duration_since(begun)))
    })
}

/// Connects repeatedly, without waiting for the answers to earlier attempts. It yields and does not
/// sleep: waking up a halted processor takes longer than the fastest door.
fn first_connection(from: Ipv4Addr, to: SocketAddr, begun: Instant) -> Option<Instant> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll");
    let mut tries = Vec::new();
    let mut events = [EpollEvent::empty(); 64];
    while begun.elapsed() < LOST {
        let socket = bound(from);
        let _ = socket.connect(&to.into());
        let event = EpollEvent::new(EpollFlags::EPOLLOUT, tries.len() as u64);
        epoll.add(&socket, event).expect("an epoll");
        tries.push(Some(socket));
        if let Some(oldest) = tries.len().checked_sub(TRIES) {
            tries[oldest] = None;
        }
        let ready = epoll.wait(&mut events, EpollTimeout::ZERO).expect("an epoll");
        for event in &events[..ready] {
            // Dropping the socket removes it from the epoll.
            let Some(socket) = tries[event.data() as usize].take() else { continue };
            if matches!(socket.take_error(), Ok(None)) {
                return Some(Instant::now());
            }
        }
        thread::yield_now();
    }
    None
}

/// A TCP socket bound to `from`.
fn bound(from: Ipv4Addr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).expect("a socket");
    socket.bind(&SocketAddr::from((from, 0)).into()).expect("an address of the client");
    socket
}

/// Waits some 100 ms, depending on the address, so that knocks do not follow the rhythm of a timer.
fn pause(ip: Ipv4Addr) {
    thread::sleep(Duration::from_micros(80_000 + u64::from(ip.octets()[3]) * 7_919 % 50_000));
}

/// Knocks from `ip` with one SYN for each port, in the namespace of this thread. Returns the time
/// of the last one, and the sockets.
fn knock(ip: Ipv4Addr, ports: [u16; 3]) -> (Instant, Vec<Socket>) {
    let mut hits = Vec::new();
    let mut last = Instant::now();
    for port in ports {
        if !hits.is_empty() {
            thread::sleep(BETWEEN);
        }
        let socket = bound(ip);
        last = Instant::now();
        let _ = socket.connect(&SocketAddr::from(([10, 90, 0, 1], port)).into());
        hits.push(socket);
    }
    (last, hits)
}

/// Sends the first step from [`HALF`] sources, slowly enough for every contestant.
fn half_knock(contestant: &Contestant) {
    let forger = Forger::new(&contestant.gate.net.client.space);
    for n in 0..HALF {
        forger.syn(stranger(n), gateway(SAYS[0]));
        if n % 10 == 9 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    thread::sleep(Duration::from_secs(1));
}

/// Sends SYNs to `port(n)`, each from another source, while clients knock.
fn flood(contestant: &mut Contestant, port: impl Fn(u32) -> u16 + Send + 'static) -> Flood {
    while contestant.output.try_recv().is_ok() {}
    let forger = Forger::new(&contestant.gate.net.client.space);
    let cpu = contestant.cpu();
    let sender = thread::spawn(move || {
        let begun = Instant::now();
        for n in 0..FLOOD {
            forger.syn(stranger(n.wrapping_mul(2_654_435_761) >> 4), gateway(port(n)));
            if n % 50 == 49 {
                let due = Duration::from_secs(1) * (n + 1) / RATE;
                thread::sleep(due.saturating_sub(begun.elapsed()));
            }
        }
        f64::from(FLOOD) / begun.elapsed().as_secs_f64()
    });
    let clients: Vec<_> = contestant.clients(MEANWHILE).collect();
    for ip in clients {
        pause(ip);
        drop(contestant.gate.net.client.space.inside(|| knock(ip, SAYS)));
    }
    let rate = sender.join().expect("the flood does not panic");
    thread::sleep(LOST);
    let cpu = (contestant.cpu() - cpu).as_secs_f64() * 1e6 / f64::from(FLOOD);
    let mut received: Vec<_> = contestant.output.try_iter().map(|(_, ip)| ip).collect();
    received.sort_unstable();
    received.dedup();
    Flood { cpu, rate, through: received.len() }
}

fn gateway(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 90, 0, 1), port)
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
