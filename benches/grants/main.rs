//! Gateways with few and many live grants: what they cost at rest, and how long commands, knocks,
//! renewals, reloads and restarts take. Prints one table.
//!
//! All gateways run at once, and their turns are interleaved: whatever else the machine does meets
//! them all. The figures say little on a busy machine: look at the load.
//!
//! usage: cargo bench --bench grants [-- ROUNDS]   (as root, or inside tools/in-namespaces)

#[path = "../../tests/harness/mod.rs"]
#[allow(dead_code)] // a part of it is enough here
mod harness;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use harness::crowd::crowded;
use harness::gate::{Gate, KNOCK, Knocker, SSH, Sealed, ok};
use harness::process::time_on_processor;
use harness::{Echo, LONG};
use socket2::{Domain, Socket, Type};
use toctoc::core::knock::{KnockKind, Receipt, Request, Status};
use toctoc::core::types::ServiceName;

/// Live grants of the gateways.
const CROWDS: [u32; 3] = [0, 4096, 50_000];
/// Clients that knock in turn, each within its rate.
const KNOCKING: usize = 32;
/// Seconds over which the processor time at rest is taken.
const REST: u64 = 20;
const RELOADS: usize = 20;
/// Knocks during the reloads.
const KNOCKS: usize = 1000;

/// One gateway, and what was measured there.
struct Contestant {
    gate: Gate,
    knocking: Vec<Knocker>,
    _ssh: Echo,
    /// The rows of its column.
    column: Vec<String>,
    times: [Vec<Duration>; ROWS.len()],
    knocks: usize,
}

/// What is measured in each round.
const ROWS: [&str; 8] = [
    "toctocd status, ms",
    "toctocd grants, ms",
    "first grant, receipt, ms",
    "first grant, connected, ms",
    "renewal, receipt, ms",
    "reload, nothing changed, ms",
    "reload, new rules, ms",
    "reload, new listener, ms",
];

fn main() {
    let rounds = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(50);
    println!("load {}", load());
    let mut all: Vec<Contestant> = CROWDS.into_iter().map(contestant).collect();
    println!("at rest for {REST} s");
    for one in &mut all {
        one.rest();
    }
    for round in 0..rounds {
        // Another one comes first each time.
        all.rotate_left(round % CROWDS.len());
        for one in &mut all {
            one.measure_commands();
            one.measure_knocks();
        }
        if round % 5 == 0 {
            for one in &mut all {
                one.measure_reloads();
            }
        }
    }
    all.sort_by_key(|one| one.gate.status_json()["grants"].as_u64());
    for one in &mut all {
        one.knock_during_reloads();
        one.measure_restarts();
    }
    print_table(&all);
    println!("load {}", load());
}

fn contestant(number: u32) -> Contestant {
    let (gate, _, _) = crowded(number);
    let knocking =
        (0..KNOCKING).map(|number| gate.enrol(&format!("knocking{number}"), "ssh")).collect();
    gate.net.client.space.sh("ip route add local 10.91.0.0/16 dev lo");
    gate.net.gateway.sh("ip route add 10.91.0.0/16 via 10.90.0.2");
    let ssh = gate.net.gateway.tcp_echo(SSH);
    Contestant {
        gate,
        knocking,
        _ssh: ssh,
        column: vec![number.to_string()],
        times: Default::default(),
        knocks: 0,
    }
}

impl Contestant {
    /// The processor time of both processes while nothing happens.
    fn rest(&mut self) {
        let daemon = self.gate.daemon();
        let listener = u32::try_from(daemon.listener().as_raw()).expect("a pid");
        let pids = [daemon.process.0.id(), listener];
        let taken = || pids.into_iter().map(time_of_threads).sum::<Duration>();
        let before = taken();
        thread::sleep(Duration::from_secs(REST));
        let part = (taken() - before).as_secs_f64() / REST as f64;
        self.column.push(format!("{:.2} %", part * 100.0));
    }

    fn measure_commands(&mut self) {
        for (row, word) in ["status", "grants"].into_iter().enumerate() {
            let begin = Instant::now();
            ok(&self.gate.toctocd(&[word]));
            self.times[row].push(begin.elapsed());
        }
    }

    /// A first grant for an address, its connection, and a renewal.
    fn measure_knocks(&mut self) {
        let number = u16::try_from(self.knocks).expect("few");
        let [high, low] = (number + 256).to_be_bytes();
        let from = Ipv4Addr::new(10, 91, high, low);
        let to = self.gate.net.client.gateway_ipv4();
        let client = &self.knocking[self.knocks % KNOCKING];
        self.knocks += 1;
        let space = self.gate.net.client.space.clone();
        let [first, connected, renewed] = space.inside(|| {
            let begin = Instant::now();
            open(client, from, to);
            let first = begin.elapsed();
            connect(from, SocketAddr::new(to.into(), SSH));
            let connected = begin.elapsed();
            let begin = Instant::now();
            open(client, from, to);
            [first, connected, begin.elapsed()]
        });
        for (row, time) in [(2, first), (3, connected), (4, renewed)] {
            self.times[row].push(time);
        }
    }

    fn measure_reloads(&mut self) {
        let changes = [("", ""), ("max_age = 30", "max_age = 31"), ("burst = 64", "burst = 65")];
        for (index, (one, other)) in changes.into_iter().enumerate() {
            if !one.is_empty() {
                self.exchange(one, other);
            }
            let begin = Instant::now();
            self.gate.reload();
            self.times[5 + index].push(begin.elapsed());
        }
    }

    /// Writes one for the other, whichever is there.
    fn exchange(&self, one: &str, other: &str) {
        self.gate.edit_config(|config| match config.contains(one) {
            true => config.replace(one, other),
            false => config.replace(other, one),
        });
    }

    /// Knocks while it reloads, half of the time with new rules and half with a new listener.
    fn knock_during_reloads(&mut self) {
        let clients = std::mem::take(&mut self.knocking);
        let space = self.gate.net.client.space.clone();
        let ([from, ..], [to, ..]) =
            (self.gate.net.client.ips(), self.gate.net.client.gateway_ips());
        let inside = space.clone();
        let knocks = space.thread(move || knock_steadily(&clients, &inside, from, to));
        let begin = Instant::now();
        for number in 0..RELOADS {
            match number % 2 {
                0 => self.exchange("max_age = 30", "max_age = 31"),
                _ => self.exchange("burst = 64", "burst = 65"),
            }
            self.gate.reload();
            let next = begin + Duration::from_millis(500) * u32::try_from(number).expect("few");
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        let mut times = knocks.join().expect("no panic");
        let lost = KNOCKS - times.len();
        times.sort_unstable();
        let at = |part: usize| {
            let place = (times.len() * part / 100).min(times.len().saturating_sub(1));
            millis(times.get(place).copied().unwrap_or_default())
        };
        self.column.push(format!("{lost} of {KNOCKS}"));
        self.column.push(format!("{:.1}, {:.1}, {:.1}", at(50), at(99), at(100)));
    }

    /// Ends it without a word, starts it, and knocks.
    fn measure_restarts(&mut self) {
        let client = self.gate.enrol("again", "ssh");
        let mut times = Vec::new();
        for _ in 0..5 {
            self.gate.kill();
            let begin = Instant::now();
            self.gate.start();
            client.must_open(&self.gate.net.client, "ssh", 0);
            times.push(begin.elapsed());
        }
        self.column.push(spread(&mut times));
    }
}

/// Opens ssh for `from`, and knocks once more if it is asked for a challenge.
fn open(client: &Knocker, from: Ipv4Addr, to: Ipv4Addr) {
    let socket = UdpSocket::bind((from, 0)).expect("a local address");
    socket.connect((to, KNOCK)).expect("a route");
    socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
    let mut challenge = None;
    for _ in 0..3 {
        let request = Request { challenge, ..client.request("ssh", IpAddr::V4(from)) };
        let sealed = client.seal(&request);
        socket.send(&sealed.bytes).expect("a route");
        match sealed.receipt(&socket, Duration::from_secs(1)) {
            Some(Receipt { status: Status::Granted, .. }) => return,
            Some(receipt) => challenge = receipt.challenge,
            None => {}
        }
    }
    panic!("{from} was not granted");
}

fn connect(from: Ipv4Addr, to: SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((from, 0)).into()).expect("a local address");
    socket.connect_timeout(&to.into(), LONG).expect("granted");
}

/// Knocks without an effect, one each ten milliseconds. The times of those that were answered.
fn knock_steadily(
    clients: &[Knocker], space: &harness::Space, from: IpAddr, to: IpAddr,
) -> Vec<Duration> {
    let mut answered = Vec::new();
    let mut waiting: Vec<(Instant, Sealed, UdpSocket)> = Vec::new();
    let begin = Instant::now();
    for (number, client) in clients.iter().cycle().enumerate() {
        if number < KNOCKS {
            let (kind, service) = (KnockKind::Probe, ServiceName::NONE);
            let request = Request { kind, service, address: None, ..client.request("ssh", from) };
            let sealed = client.seal(&request);
            let socket = space.udp((to, KNOCK).into());
            socket.set_nonblocking(true).expect("a socket");
            let sent = Instant::now();
            socket.send(&sealed.bytes).expect("a route");
            waiting.push((sent, sealed, socket));
        } else if waiting.is_empty() {
            break;
        }
        let next = begin + Duration::from_millis(10) * u32::try_from(number + 1).expect("few");
        loop {
            waiting.retain(|(sent, sealed, socket)| {
                let mut buffer = [0; 1500];
                let receipt = socket.recv(&mut buffer).ok();
                let came = receipt.and_then(|length| sealed.awaiting.open(&buffer[..length]));
                answered.extend(came.as_ref().map(|_| sent.elapsed()));
                came.is_none() && sent.elapsed() < Duration::from_secs(3)
            });
            if Instant::now() >= next {
                break;
            }
            thread::sleep(Duration::from_micros(300));
        }
    }
    answered
}

/// The time of all threads of `pid` on a processor.
fn time_of_threads(pid: u32) -> Duration {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Duration::ZERO };
    let ids = threads.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    ids.map(time_on_processor).sum()
}

fn print_table(all: &[Contestant]) {
    let head = ["live grants", "at rest"];
    let tail = [
        "knocks lost in 20 reloads",
        "median, p99, slowest, ms",
        "killed, until a knock opens, ms",
    ];
    let line = |name: &str, cells: Vec<String>| {
        let cells: Vec<String> = cells.iter().map(|cell| format!("{cell:>24}")).collect();
        println!("{name:<32}{}", cells.join(""));
    };
    for (row, name) in head.into_iter().enumerate() {
        line(name, all.iter().map(|one| one.column[row].clone()).collect());
    }
    for (row, name) in ROWS.into_iter().enumerate() {
        line(name, all.iter().map(|one| spread(&mut one.times[row].clone())).collect());
    }
    for (row, name) in tail.into_iter().enumerate() {
        line(name, all.iter().map(|one| one.column[head.len() + row].clone()).collect());
    }
}

/// The median, and the quartiles.
fn spread(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |part: usize| times.get(times.len() * part / 4).map_or(0.0, |time| millis(*time));
    format!("{:.2} ({:.2}-{:.2})", at(2), at(1), at(3))
}

fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
