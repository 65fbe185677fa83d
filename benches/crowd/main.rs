//! A gateway with many clients: how long a start, a reload, an enrolment and a revocation take, how
//! long knocks wait meanwhile, and the memory of both processes. Prints one line for each.
//!
//! usage: cargo bench --bench crowd [-- CLIENTS] [midnight]   (as root, or inside
//! tools/in-namespaces; 100,000 without an argument, 3 at least). With `midnight` it measures only
//! how long knocks wait while the listener gets the keys of a new day.

#[path = "../../tests/harness/mod.rs"]
#[allow(dead_code)] // a part of it is enough here
mod harness;

use std::fs;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use harness::gate::{Gate, Knocker, Sealed, ok};
use harness::process::resident_kib;
use toctoc::core::knock::{KnockKind, Request};
use toctoc::core::public_key::PublicKey;
use toctoc::core::types::{ClientId, SECOND, ServiceName};
use toctoc::edge::clock;

/// The most clients that knock while something happens.
const KNOCKING: usize = 16;
/// Between two knocks of one client: within its rate.
const PAUSE: Duration = Duration::from_millis(320);
const RELOADS: usize = 20;

/// What the knocks met since the last look.
#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    answered: Mutex<Vec<Duration>>,
    lost: Mutex<usize>,
}

fn main() {
    let clients = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(100_000);
    let mut gate = Gate::new(|config| config);
    let knocking: Vec<Knocker> = (0..KNOCKING.min(clients))
        .map(|number| gate.enrol(&format!("knocking{number}"), "ssh"))
        .collect();
    enrol_a_crowd(&gate, clients - knocking.len());
    ok(&gate.toctoc(&gate.net.client, &["keygen", "--no-passphrase", "--out", &gate.path("new")]));

    let begin = Instant::now();
    gate.start();
    knocking[0].must_open(&gate.net.client, "ssh", 0);
    println!("{clients} clients: start until a knock opens: {:.0} ms", millis(begin.elapsed()));
    footprint(&mut gate, "after the start");

    let tally = Arc::new(Tally::default());
    let ([from, ..], [to, ..]) = (gate.net.client.ips(), gate.net.client.gateway_ips());
    let knocks = {
        let tally = Arc::clone(&tally);
        let space = gate.net.client.space.clone();
        gate.net.client.space.thread(move || knock(&knocking, &space, from, to, &tally))
    };
    let at_midnight = std::env::args().any(|word| word == "midnight");
    if at_midnight {
        midnight(&mut gate, &tally);
        tally.stop.store(true, Ordering::Relaxed);
        return knocks.join().expect("no panic");
    }
    let key = format!("@{}.pub", gate.path("new"));
    let add = ["client", "add", "new", "--key", &key, "--services", "ssh"];
    for _ in 0..3 {
        measure(&mut gate, &tally, "reload, nothing changed", &["reload"]);
        measure(&mut gate, &tally, "client add", &add);
        measure(&mut gate, &tally, "client revoke", &["client", "revoke", "new"]);
        exchange(&gate, "max_age = 30", "max_age = 31");
        measure(&mut gate, &tally, "reload with new rules", &["reload"]);
        exchange(&gate, "burst = 64", "burst = 65");
        measure(&mut gate, &tally, "reload with a new listener", &["reload"]);
    }
    footprint(&mut gate, "after that");
    for number in 0..RELOADS {
        let words: &[&str] = if number % 2 == 0 { &add } else { &["client", "revoke", "new"] };
        ok(&gate.toctocd(words));
    }
    footprint(&mut gate, &format!("after {RELOADS} reloads more"));
    tally.stop.store(true, Ordering::Relaxed);
    knocks.join().expect("no panic");
}

/// Starts a gateway whose clock shows midnight 20 seconds later, and tells what the knocks met in
/// the seconds before and after: the listener gets the keys of the next day.
fn midnight(gate: &mut Gate, tally: &Tally) {
    const DAY: u64 = 86_400 * SECOND;
    let left = (DAY - clock::now().wall.0 % DAY) / SECOND;
    gate.stop();
    gate.start_at(&format!("+{}s", left - 20));
    let ready = Instant::now();
    for (what, second) in [("before midnight", 17), ("at midnight", 32), ("after midnight", 42)] {
        tally.answered.lock().expect("no panic").clear();
        *tally.lost.lock().expect("no panic") = 0;
        thread::sleep((ready + Duration::from_secs(second)).duration_since(Instant::now()));
        let mut answered = tally.answered.lock().expect("no panic").clone();
        answered.sort_unstable();
        let part = |of: usize| answered.get(answered.len() * of / 100).map_or(0.0, |t| millis(*t));
        let slowest = answered.last().map_or(0.0, |time| millis(*time));
        println!(
            "{what}: {} knocks answered, half within {:.1} ms, 99 of 100 within {:.1} ms, all within {slowest:.1} ms, {} lost",
            answered.len(),
            part(50),
            part(99),
            tally.lost.lock().expect("no panic"),
        );
    }
}

/// Appends lines for so many clients with keys of their own.
fn enrol_a_crowd(gate: &Gate, count: usize) {
    let path = gate.path("etc/clients");
    let mut text = fs::read_to_string(&path).expect("init wrote it");
    for number in 0..count {
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&number.to_be_bytes());
        let key = SigningKey::from_bytes(&seed).verifying_key().to_bytes();
        // Ids are random: here the first half of another key.
        let id = ClientId(*key.first_chunk().expect("32 bytes"));
        let key = PublicKey::plain(key).line();
        text += &format!("id={id},services=\"ssh\" {key} client{number}\n");
    }
    fs::write(path, text).expect("our own file");
}

/// Writes one for the other, whichever is there.
fn exchange(gate: &Gate, one: &str, other: &str) {
    gate.edit_config(|config| match config.contains(one) {
        true => config.replace(one, other),
        false => config.replace(other, one),
    });
}

/// Knocks without an effect until it is told to stop.
fn knock(clients: &[Knocker], space: &harness::Space, from: IpAddr, to: IpAddr, tally: &Tally) {
    let mut waiting: Vec<(Instant, Sealed, std::net::UdpSocket)> = Vec::new();
    for client in clients.iter().cycle() {
        if tally.stop.load(Ordering::Relaxed) {
            return;
        }
        let (kind, service) = (KnockKind::Probe, ServiceName::NONE);
        let request = Request { kind, service, address: None, ..client.request("ssh", from) };
        let sealed = client.seal(&request);
        let socket = space.udp((to, harness::gate::KNOCK).into());
        socket.set_nonblocking(true).expect("a socket");
        socket.send(&sealed.bytes).expect("a route");
        waiting.push((Instant::now(), sealed, socket));
        let next = Instant::now() + PAUSE / u32::try_from(clients.len()).expect("a few");
        while Instant::now() < next {
            waiting.retain(|(sent, sealed, socket)| {
                let mut buffer = [0; 1500];
                let receipt = socket.recv(&mut buffer).ok();
                let came = receipt.and_then(|length| sealed.awaiting.open(&buffer[..length]));
                if came.is_some() {
                    tally.answered.lock().expect("no panic").push(sent.elapsed());
                }
                let is_lost = came.is_none() && sent.elapsed() > Duration::from_secs(2);
                *tally.lost.lock().expect("no panic") += usize::from(is_lost);
                came.is_none() && !is_lost
            });
            thread::sleep(Duration::from_micros(500));
        }
    }
}

/// Runs a command of toctocd, and tells how long it took and what the knocks met meanwhile.
fn measure(gate: &mut Gate, tally: &Tally, what: &str, words: &[&str]) {
    tally.answered.lock().expect("no panic").clear();
    *tally.lost.lock().expect("no panic") = 0;
    let begin = Instant::now();
    ok(&gate.toctocd(words));
    let taken = millis(begin.elapsed());
    let done = Instant::now();
    // Waits for the end of one that was replaced.
    gate.daemon().listener();
    let handed_over = millis(done.elapsed());
    // A knock that was lost is known after two seconds.
    thread::sleep(Duration::from_secs(3));
    let answered = tally.answered.lock().expect("no panic");
    let slowest = answered.iter().max().map_or(0.0, |time| millis(*time));
    let lost = *tally.lost.lock().expect("no panic");
    println!(
        "{what}: {taken:.0} ms, one listener {handed_over:.0} ms later; {} knocks answered within {slowest:.1} ms, {lost} lost",
        answered.len()
    );
}

fn footprint(gate: &mut Gate, when: &str) {
    let daemon = gate.daemon();
    let listener = u32::try_from(daemon.listener().as_raw()).expect("a pid");
    let [gatekeeper, listener] = [daemon.process.0.id(), listener].map(resident_kib);
    println!("resident {when}: gatekeeper {gatekeeper} KiB, listener {listener} KiB");
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
