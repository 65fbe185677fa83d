//! Hours of everyday work in one run: grants that come and go, a reload and a damaged guard every
//! minute, and a flood of junk. Prints one line a minute. Fails if a knock was not granted, if a
//! granted address could not connect, or if memory or descriptors grew.
//!
//! usage: cargo bench --bench soak [-- MINUTES [JUNK_PER_SECOND]]   (as root, or inside
//! tools/in-namespaces; `make soak` runs one hour)

#[path = "../../tests/harness/mod.rs"]
#[allow(dead_code)] // a part of it is enough here
mod harness;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use harness::gate::{Gate, KNOCK, Knocker, SSH, section};
use harness::process::{cpu_time, resident_kib};
use harness::raw::{Forger, stranger};
use harness::{LONG, Space, eventually};
use socket2::{Domain, Socket, Type};
use toctoc::core::knock::{Receipt, Request, Status};
use toctoc::edge::entropy;

const CLIENTS: u8 = 65;
/// Each client's addresses, and so its live grants at most.
const ADDRESSES: u8 = 64;
/// Seconds from one knock for an address to the next. A grant lasts a little less, so that grants
/// end all the time and about 4,000 are live.
const ROUND: u64 = 64;
const GRANT_SECONDS: u64 = 62;
const THREADS: u8 = 5;
/// A client program sends as often before it gives up.
const ATTEMPTS: u32 = 3;
/// Minutes until memory is compared: the allocator settles, and tables fill. The slowest is the
/// list of each client's last 1,024 packets.
const WARM_UP: u64 = 20;

/// Shared by all threads.
#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    junk: AtomicU64,
    knocks: AtomicU64,
    sent_again: AtomicU64,
    failures: Mutex<Vec<String>>,
    /// Microseconds from sending a knock to the open connection, of this minute.
    times: Mutex<Vec<u64>>,
}

/// Resident KiB and open descriptors of gatekeeper and listener.
#[derive(Clone, Copy)]
struct Footprint {
    kib: [u64; 2],
    descriptors: [usize; 2],
}

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).filter_map(|word| word.parse::<u64>().ok());
    let minutes = numbers.next().unwrap_or(60);
    let junk_per_second = numbers.next().unwrap_or(50_000);
    let mut gate = Gate::new(|config| {
        let seconds = format!("seconds = {GRANT_SECONDS}");
        let config = section(&config, "service.ssh", "seconds = 30", &seconds);
        let config = section(&config, "knock", "max_grants = 16", "max_grants = 64");
        section(&config, "service.ssh", "max_grants = 4096", "max_grants = 8192")
    });
    gate.net.client.space.sh("ip route add local 10.91.0.0/16 dev lo");
    gate.net.gateway.sh("ip route add 10.91.0.0/16 via 10.90.0.2");
    let clients: Vec<Knocker> =
        (0..CLIENTS).map(|number| gate.enrol(&format!("client{number}"), "ssh")).collect();
    gate.start();
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let tally = Arc::new(Tally::default());
    let to = gate.net.client.gateway_ipv4();
    let mut threads = Vec::new();
    let mut clients = clients.into_iter();
    for thread in 0..THREADS {
        let mut own = Vec::new();
        for number in 0..CLIENTS / THREADS {
            let client = clients.next().expect("as many as were enrolled");
            own.push((thread * (CLIENTS / THREADS) + number, client));
        }
        let tally = Arc::clone(&tally);
        threads.push(gate.net.client.space.thread(move || knock_in_turn(&own, to, &tally)));
    }
    let flooder = gate.net.host(7);
    let space = flooder.space.clone();
    let junk_to = SocketAddrV4::new(flooder.gateway_ipv4(), KNOCK);
    let junk = Arc::clone(&tally);
    threads.push(thread::spawn(move || flood(&space, junk_to, junk_per_second, &junk)));

    let begin = Instant::now();
    let mut settled = None;
    let mut last = footprint(&mut gate);
    for minute in 1..=minutes {
        damage_and_wait(&gate, &tally);
        change_and_reload(&gate, minute);
        thread::sleep((begin + Duration::from_secs(60 * minute)).duration_since(Instant::now()));
        last = footprint(&mut gate);
        report(&mut gate, minute, &tally, last);
        if minute == WARM_UP.min(minutes) {
            settled = Some(last);
        }
    }
    tally.stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().expect("no panic");
    }
    judge(&tally, settled.unwrap_or(last), last)
}

/// Knocks for each client's addresses in turn, evenly over a round.
fn knock_in_turn(clients: &[(u8, Knocker)], to: Ipv4Addr, tally: &Tally) {
    let turns = u64::from(ADDRESSES) * clients.len() as u64;
    let pause = Duration::from_secs(ROUND) / u32::try_from(turns).expect("few");
    let begin = Instant::now();
    for turn in 0.. {
        let due = begin + pause * turn;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if tally.stop.load(Ordering::Relaxed) {
            return;
        }
        let (number, client) = &clients[turn as usize % clients.len()];
        let address = turn as usize / clients.len() % usize::from(ADDRESSES);
        let from = Ipv4Addr::new(10, 91, *number, u8::try_from(address + 1).expect("few"));
        tally.knocks.fetch_add(1, Ordering::Relaxed);
        let start = Instant::now();
        let failure = match open(client, from, to, tally) {
            Some(receipt) if receipt.status == Status::Granted => {
                let connected = connects(from, SocketAddr::new(to.into(), SSH));
                let taken = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
                tally.times.lock().expect("no panic").push(taken);
                connected.err().map(|error| format!("granted, but {error}"))
            }
            Some(receipt) => Some(format!("answered {:?}", receipt.status)),
            None => Some("no answer".to_owned()),
        };
        if let Some(failure) = failure {
            tally.failures.lock().expect("no panic").push(format!("{from}: {failure}"));
        }
    }
}

/// Knocks as the client program does: again after a second of silence, and with the challenge that
/// the gateway asks for.
fn open(client: &Knocker, from: Ipv4Addr, to: Ipv4Addr, tally: &Tally) -> Option<Receipt> {
    let socket = UdpSocket::bind((from, 0)).expect("a local address");
    socket.connect((to, KNOCK)).expect("a route");
    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
    let mut challenge = None;
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            tally.sent_again.fetch_add(1, Ordering::Relaxed);
        }
        let request = Request { challenge, ..client.request("ssh", IpAddr::V4(from)) };
        let sealed = client.seal(&request);
        socket.send(&sealed.bytes).expect("a route");
        match sealed.receipt(&socket, Duration::from_secs(1)) {
            Some(receipt) if matches!(receipt.status, Status::Clock | Status::Challenge) => {
                challenge = receipt.challenge;
            }
            None => {}
            answer => return answer,
        }
    }
    None
}

fn connects(from: Ipv4Addr, to: SocketAddr) -> std::io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    // The connection leaves no trace in conntrack that a later one could profit from.
    socket.set_linger(Some(Duration::ZERO))?;
    socket.connect_timeout(&to.into(), LONG)
}

/// Junk of the right length from forged sources, evenly over each second.
fn flood(space: &Space, to: SocketAddrV4, per_second: u64, tally: &Tally) {
    let forger = Forger::new(space);
    let mut payload: [u8; 272] = entropy::bytes().expect("entropy");
    let begin = Instant::now();
    let mut sent = 0_u32;
    while !tally.stop.load(Ordering::Relaxed) {
        let due = begin.elapsed().as_millis() as u64 * per_second / 1000;
        while u64::from(sent) < due {
            payload[..4].copy_from_slice(&sent.to_be_bytes());
            forger.datagram(stranger(sent), to, &payload);
            sent = sent.wrapping_add(1);
        }
        tally.junk.store(u64::from(sent), Ordering::Relaxed);
        thread::sleep(Duration::from_millis(1));
    }
}

/// Reloads with other rules, or with something that only a new listener can follow.
fn change_and_reload(gate: &Gate, minute: u64) {
    let (one, other) = match minute % 2 {
        0 => ("max_age = 30", "max_age = 31"),
        _ => ("burst = 64", "burst = 65"),
    };
    gate.edit_config(|config| match config.contains(one) {
        true => config.replace(one, other),
        false => config.replace(other, one),
    });
    gate.reload();
}

/// Empties a chain of the guard, as a foreign program might, and waits for the repair.
fn damage_and_wait(gate: &Gate, tally: &Tally) {
    gate.net.gateway.sh("nft flush chain inet toctoc guard");
    let repaired = eventually(LONG, || {
        gate.net.gateway.sh("nft list chain inet toctoc guard").contains("goto")
    });
    if !repaired {
        tally.failures.lock().expect("no panic").push("the guard was not repaired".to_owned());
    }
}

fn footprint(gate: &mut Gate) -> Footprint {
    let pids = pids(gate);
    Footprint { kib: pids.map(resident_kib), descriptors: pids.map(descriptors) }
}

fn pids(gate: &mut Gate) -> [u32; 2] {
    let daemon = gate.daemon();
    let listener = u32::try_from(daemon.listener().as_raw()).expect("a pid");
    [daemon.process.0.id(), listener]
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

fn report(gate: &mut Gate, minute: u64, tally: &Tally, now: Footprint) {
    let mut times = std::mem::take(&mut *tally.times.lock().expect("no panic"));
    times.sort_unstable();
    let at = |part: usize| times.get(times.len() * part / 100).map_or(0.0, |us| *us as f64 / 1e3);
    let live = gate.status_json()["grants"].clone();
    println!(
        "minute {minute}: {} knocks, {} sent again, {} failed; open after {:.1} ms, p99 {:.1} ms; \
         grants {live}; junk {}; KiB {:?}; descriptors {:?}; CPU {:?}",
        tally.knocks.load(Ordering::Relaxed),
        tally.sent_again.load(Ordering::Relaxed),
        tally.failures.lock().expect("no panic").len(),
        at(50),
        at(99),
        tally.junk.load(Ordering::Relaxed),
        now.kib,
        now.descriptors,
        pids(gate).map(cpu_time),
    );
}

fn judge(tally: &Tally, settled: Footprint, last: Footprint) -> ExitCode {
    let mut complaints = tally.failures.lock().expect("no panic").clone();
    for (index, name) in ["gatekeeper", "listener"].into_iter().enumerate() {
        let (before, after) = (settled.kib[index], last.kib[index]);
        if after > before + before / 10 + 512 {
            complaints.push(format!("{name}: memory grew from {before} to {after} KiB"));
        }
        let (before, after) = (settled.descriptors[index], last.descriptors[index]);
        if after > before {
            complaints.push(format!("{name}: descriptors grew from {before} to {after}"));
        }
    }
    for complaint in complaints.iter().take(20) {
        eprintln!("{complaint}");
    }
    match complaints.len() {
        0 => ExitCode::SUCCESS,
        count => {
            eprintln!("{count} in all");
            ExitCode::FAILURE
        }
    }
}
