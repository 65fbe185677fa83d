//! The figures of one contestant: how long a knock takes, what it costs, and what floods cost and
//! spoil. Who is measured is left to `contestant`.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Socket, Type};

use crate::contestant::{Contestant, Kind, OPEN_FOR, OPENS, SAYS};
use crate::harness::raw::{Forger, stranger};

/// Between the hits of one knock, as `knock -d 10` waits.
const BETWEEN: Duration = Duration::from_millis(10);
/// When a knock counts as lost.
const LOST: Duration = Duration::from_secs(3);
/// Packets a second of a flood, and how many.
const RATE: u32 = 50_000;
const FLOOD: u32 = 500_000;
/// Attempts to connect that are waited for; an older one has no answer any more.
const TRIES: usize = 256;
/// Knocks during a flood.
const MEANWHILE: usize = 40;
/// Sources that knock half.
const HALF: u32 = 10_000;

/// What a flood cost and spoiled.
pub(crate) struct Flooded {
    /// CPU seconds per million packets.
    pub(crate) cpu: f64,
    /// Packets a second that were really sent.
    pub(crate) rate: f64,
    /// Of [`MEANWHILE`] knocks.
    pub(crate) through: usize,
}

/// All figures; times in milliseconds, sorted.
#[derive(Default)]
pub(crate) struct Figures {
    pub(crate) to_command: Vec<f64>,
    pub(crate) to_connect: Vec<f64>,
    /// CPU milliseconds of one knock at the door that opens, closing included.
    pub(crate) cpu_per_knock: Option<f64>,
    /// Packets that no door can use; packets to the ports of doors.
    pub(crate) unrelated: Option<Flooded>,
    pub(crate) junk: Option<Flooded>,
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
            // Until all has been closed again.
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
    while contestant.said.try_recv().is_ok() {}
    pause(ip);
    let (begun, _hits) = contestant.gate.net.client.space.inside(|| knock(ip, SAYS));
    let (said, _) = contestant.said.recv_timeout(LOST).ok()?;
    Some(millis(said.saturating_duration_since(begun)))
}

/// Milliseconds from the last hit to the first connection that is there.
fn to_connect(contestant: &Contestant, ip: Ipv4Addr) -> Option<f64> {
    pause(ip);
    let to = SocketAddr::from(([10, 90, 0, 1], contestant.behind()));
    // One thread for both: to start another takes longer than the fastest door.
    contestant.gate.net.client.space.inside(|| {
        let (begun, _hits) = knock(ip, OPENS);
        first_connection(ip, to, begun).map(|at| millis(at.saturating_duration_since(begun)))
    })
}

/// Tries again and again, without waiting for the answers of earlier tries. It yields and does not
/// sleep: to wake up a halted processor takes longer than the fastest door.
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
            // Dropped, it leaves the epoll too.
            let socket: Option<Socket> = tries[event.data() as usize].take();
            if socket.is_some_and(|socket| socket.take_error().is_ok_and(|error| error.is_none())) {
                return Some(Instant::now());
            }
        }
        thread::yield_now();
    }
    None
}

/// A socket that is about to connect.
fn bound(from: Ipv4Addr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).expect("a socket");
    socket.bind(&SocketAddr::from((from, 0)).into()).expect("our own address");
    socket
}

/// Not in step with anybody's timers: some 100 ms, differing by the address.
fn pause(ip: Ipv4Addr) {
    thread::sleep(Duration::from_micros(80_000 + u64::from(ip.octets()[3]) * 7_919 % 50_000));
}

/// Knocks from `ip`, one SYN a port, in the namespace that this thread is in; when the last one
/// went out.
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

/// [`HALF`] strangers hit the first port, no faster than anybody can take them.
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

/// SYNs from a stranger each to `port(n)`, while honest people knock.
fn flood(contestant: &mut Contestant, port: impl Fn(u32) -> u16 + Send + 'static) -> Flooded {
    while contestant.said.try_recv().is_ok() {}
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
    let rate = sender.join().expect("it only sends");
    thread::sleep(LOST);
    let cpu = (contestant.cpu() - cpu).as_secs_f64() * 1e6 / f64::from(FLOOD);
    let mut heard: Vec<_> = contestant.said.try_iter().map(|(_, ip)| ip).collect();
    heard.sort_unstable();
    heard.dedup();
    Flooded { cpu, rate, through: heard.len() }
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
